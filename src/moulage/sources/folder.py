"""One's own images: a sub-folder for each class, or a table of labels; packed in one ZIP or not.

``PATH/AK/any/depth/001.jpg`` is an image of the class ``AK``. Images are called by their path below ``PATH``, so that
two classes may use the same file names. Folders around all classes are passed over. Folders named like parts of a split
(``train``, ``Validation``, ``test_images``), above or below those of the classes, become ``official_part``. Where the
folders are mere pieces of a set (``imgs_part_1``), or there are none, a table beside them must name the classes.

Masks beside the images are taken as masks (``_masks``), copies of the whole set inside it are passed over, files are
known by their content where their suffix is no image's, and all that is passed over is told in the audit.

The table of lesions (``groups.csv`` beside the class folders, or the option ``table``) has the columns ``image`` and
``lesion`` or ``patient``, and where known ``source``, ``age``, ``sex``, ``site``, ``mask``; others are ignored.
``image`` is the path below ``PATH``, or the file name with or without suffix where only one image has it; ``mask`` is
named alike. Images that the table does not name have an unknown lesion. Name the lesion or the patient wherever several
images show the same one: what the table does not say, the split cannot keep together.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from pydantic import Field

from moulage import plugins
from moulage.data import class_map, locations
from moulage.data.catalog import Catalog
from moulage.data.findings import Finding, finding
from moulage.data.reader import Reader
from moulage.errors import DataError
from moulage.sources import _files, _groups, _layout, _masks, _tables

TABLES = tuple(f"groups{suffix}" for suffix in _tables.SUFFIXES)


class Config(plugins.Options):
    """Options of the source ``folder``."""

    table: Path | None = Field(
        default=None,
        description="table of lesions, labels and metadata, absolute or relative to the folder; default: its "
        "groups.csv, or the one that names the classes where folders do not",
    )
    image_column: str = Field(default="", description="column of the table that names the image; empty: a usual name")
    lesion_column: str = Field(default="", description="column of the table that names the lesion or patient; as above")
    label_column: str = Field(
        default="", description="column of the table that names the class; empty: the folders do, else a usual name"
    )
    classes: tuple[str, ...] = Field(
        default=(), description="classes to use, in this order; others are left out; empty: all, sorted"
    )
    merge_spellings: bool = Field(
        default=False, description="take classes that differ by case, spaces or Unicode form alone as one"
    )


class _Table(NamedTuple):
    name: str  # in the listing; empty for one elsewhere
    where: str  # for messages
    table: pd.DataFrame


def read(path: Path | None, config: Config) -> Catalog:
    """Read the list of images, and the table where there is one.

    ``DataError``: no path, nothing there, no image, neither class folders nor labels, an empty class folder, spellings
    of one class, a table that names no image or is ambiguous, a file name that is no text.
    """
    held = _files.listing(_files.existing(path, "a folder, or a ZIP, with a sub-folder of images for each class"))
    names, other = _files.sort_out(held)
    names, copies = _without_copies(held, names)
    if not names:
        raise DataError(f"{held.path} holds no image.", _instead(other))
    table = _lesion_table(held, config)
    named = _named_masks(table, names)
    found = _masks.sort_out(held, [name for name in names if name not in named])
    found.beside |= named
    if not found.images:
        raise DataError(f"{held.path} holds masks but no image.", "Put the images beside them.")
    tables = [name for name in other if _files.suffix(name) in _tables.SUFFIXES]
    by_label = table if config.label_column else None
    layout = _layout.Layout(dict.fromkeys(found.images, ""))
    if not by_label:
        layout = _layout.read(found.images, config.classes, held.path, has_table=bool(table or tables))
        if not any(layout.labels.values()):
            by_label = _label_table(held, config, table, tables, found.images)
    table = table or by_label
    known = _groups.Known.nothing()
    if table:
        label = _groups.label_column(table.table, table.where, config.label_column) if by_label else ""
        columns = {"image": config.image_column, "label": label, "lesion": config.lesion_column}
        known = _groups.read(table.table, found.images, _groups.Names(names), table.where, **columns)
    labels = dict(known.table["label"]) if by_label else layout.labels
    findings = [*copies, *found.findings, *known.findings]
    used = table.name if table else ""
    findings += _files.passed_over(held, other, [used, *tables])
    findings += _tables.not_read(locations.shown(name) for name in tables if name != used)
    return _catalog(held, config, layout, labels, found, known, findings)


def _catalog(
    held: _files.Listing,
    config: Config,
    layout: _layout.Layout,
    labels: dict[str, str],
    found: _masks.Sorted,
    known: _groups.Known,
    findings: list[Finding],
) -> Catalog:
    """The images that have a class, with all that is known of them."""
    labelled = [name for name in found.images if labels.get(name, "")]
    places = {name: held.location(name) for name in labelled}
    counts = Counter(labels[name] for name in labelled)
    spelled, merged = class_map.spelled(counts, config.merge_spellings, held.path)
    classes = _classes(held, config, set(spelled.values()), layout, found, by_folder=labels is layout.labels)
    kept = [name for name in labelled if spelled[labels[name]] in classes]
    rows = pd.DataFrame({"image": [name.removeprefix(layout.outer) for name in kept]}, dtype=object)
    rows["label"] = [spelled[labels[name]] for name in kept]
    rows["location"] = [places[name] for name in kept]
    rows["official_part"] = [layout.parts.get(name, "") for name in kept]
    about = known.table.reindex(kept).fillna("")
    for column in _groups.COLUMNS:
        if column not in ("label", "mask"):
            rows[column] = about[column].to_numpy(object)
    masks = [mask or found.masks.get(name, "") for name, mask in zip(kept, about["mask"], strict=True)]
    rows["mask"] = [held.location(mask) if mask else "" for mask in masks]
    parts = dict(zip(rows["image"], rows["official_part"], strict=True))
    findings = [*findings, *merged, *_layout.remarks({k: v for k, v in parts.items() if v}, counts)]
    if layout.outer:
        say = f"All images lie in {layout.outer.rstrip('/')}; the folders inside it are the classes."
        findings += finding("folder around all classes", "note", [layout.outer], say)
    if len(classes) == 1:
        say = f"One class only, {classes[0]}: a classifier needs two or more."
        findings += finding("one class only", "warning", rows["image"], say, "Name the folder that holds all classes.")
    if labels is not layout.labels:
        say = f"The classes are those of {known.where}, not of folders{_pieces(layout)}."
        findings += finding("labels from a table", "note", labelled, say)
    left_out = sorted(set(spelled.values()) - set(classes))
    note = f"Left out by the option classes: {', '.join(left_out)}." if left_out else ""
    unlabelled = [locations.shown(name) for name in found.images if not labels.get(name, "")]
    name = held.path.name.removesuffix(".zip")
    return Catalog.build(rows, classes, name, held.root, note, unlabelled, findings)


def _pieces(layout: _layout.Layout) -> str:
    return f"; {', '.join(layout.shards[:5])} are pieces of the set" if layout.shards else ""


def _without_copies(held: _files.Listing, names: list[str]) -> tuple[list[str], list[Finding]]:
    """The names without those below a folder that holds nothing but files that lie beside it, too, byte for byte."""
    known, copied = set(names), list[str]()
    for top in sorted({name.split("/")[0] for name in names if "/" in name}):
        inside = [name for name in names if name.startswith(f"{top}/")]
        outside = {name: name.split("/", 1)[1] for name in inside}
        if not known.issuperset(outside.values()) or not set(inside).isdisjoint(outside.values()):
            continue
        if all(held.same(name, other) for name, other in outside.items()):
            copied += inside
    say = f"{len(copied):,} images are there twice, in a folder inside the data that holds copies; passed over."
    gone = set(copied)
    return [name for name in names if name not in gone], finding("files that are there twice", "note", copied, say)


def _lesion_table(held: _files.Listing, config: Config) -> _Table | None:
    """The table that was asked for, else ``groups.csv`` beside the folders or below those around all."""
    if config.table is not None:
        inside = _groups.table_inside(held, config.table)
        if held.path.is_dir() or not inside:
            where = held.root / config.table
            return _Table(inside, str(where), _tables.read_table(where, ()))
        return _opened(held, inside)
    found = [name for name in held.stored if name.split("/")[-1].lower() in TABLES]
    return _opened(held, min(found, key=lambda name: name.count("/"))) if found else None


def _label_table(
    held: _files.Listing, config: Config, table: _Table | None, beside: Sequence[str], images: Sequence[str]
) -> _Table:
    """The table that names the classes where folders do not; ``DataError`` where none does, or several do."""
    names, found = _groups.Names(images), list[_Table]()
    for candidate in [table] if table else [_opened(held, name) for name in beside]:
        has_images = _groups.image_column(candidate.table, names, candidate.where, config.image_column)
        if has_images and _groups.label_column(candidate.table, candidate.where, config.label_column):
            found.append(candidate)
    if len(found) == 1:
        return found[0]
    if len(found) > 1:
        listed = " or ".join(each.where for each in found)
        raise DataError(f"{held.path}: the classes may be in {listed}.", "Name one with --source-set table=NAME.")
    tables = ", ".join([table.where] if table else beside)
    read = f" In {tables} no column of images and classes was found: name them with --source-set." if tables else ""
    raise DataError(
        f"{held.path} holds images but no class folders.",
        f"Put the images of each class into a folder of its name, or add a table of labels.{read}",
    )


def _opened(held: _files.Listing, name: str) -> _Table:
    """A table of the listing."""
    place = held.location(name)
    if held.path.is_dir():
        return _Table(name, str(held.root / place), _tables.read_table(held.root / place, ()))
    with Reader() as reader:
        return _Table(name, place, _tables.parse_table(reader.bytes(str(held.root / place)), place, ()))


def _named_masks(table: _Table | None, names: Sequence[str]) -> set[str]:
    """The pictures that the table names as masks."""
    files = _groups.Names(names)
    columns = _tables.called(table.table, "mask")[:1] if table else []
    wanted = {text for column in columns for text in table.table[column] if text} if table else set[str]()
    return {name for text in wanted for name in files.meant(text)}


def _instead(other: dict[str, str]) -> str:
    """What to do about a folder without images, by what it holds."""
    kinds = Counter(kind for kind in other.values() if kind)
    if not kinds:
        return f"Images end in {', '.join(sorted(_files.IMAGE_SUFFIXES))}."
    [(kind, number)] = kinds.most_common(1)
    first = next(name for name in other if other[name] == kind)
    if kind == "DICOM":
        return f"It holds {number:,} DICOM files: read them with --source dicom."
    if "archive" not in kind:
        return f"It holds {number:,} files of {kind}, which is not read: convert them to PNG or JPEG."
    return f"It holds {first}: name it with --data." if "ZIP" in kind else f"It holds {first}, {kind}: unpack it."


def _classes(
    held: _files.Listing,
    config: Config,
    found: set[str],
    layout: _layout.Layout,
    sorted_out: _masks.Sorted,
    *,
    by_folder: bool,
) -> tuple[str, ...]:
    """The class names in order, all with at least one image."""
    classes = class_map.chosen(config.classes, found, held.path)
    if by_folder and not config.classes:
        explained = {class_map.key(name) for name in found}
        explained |= {class_map.key(part) for name in sorted_out.beside for part in name.split("/")[:-1]}
        beside = [name for name in held.folders if name.rpartition("/")[0] in layout.above]
        empty = sorted(name for name in beside if class_map.key(name.rpartition("/")[2]) not in explained)
        if empty:
            raise DataError(
                f"{held.path}: the folder {', '.join(map(locations.shown, empty))} holds no image.",
                "Every sub-folder is a class; where it is not, name those that are with the source's option classes.",
            )
    return classes
