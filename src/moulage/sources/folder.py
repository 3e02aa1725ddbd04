"""One's own images: a sub-folder for each class, packed in one ZIP or not, and a table of lesions.

``PATH/AK/any/depth/001.jpg`` is an image of the class ``AK``. Images are called by their path below ``PATH``, so that
two classes may use the same file names. In a ZIP, outer folders that hold everything are passed over.

The table (``groups.csv`` beside the class folders, or the option ``table``) has the columns ``image`` and ``lesion``,
and where known ``source``, ``age``, ``sex``, ``site``, ``mask``; others are ignored. ``image`` is the path below
``PATH``, or the file name with or without suffix where only one image has it; ``mask`` is a path below ``PATH``. Images
that the table does not name have an unknown lesion. Name the lesion or the patient wherever several images show the
same one: what the table does not say, the split cannot keep together.
"""

import zipfile
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd
from pydantic import Field

from moulage import plugins
from moulage.data import table_values
from moulage.data.catalog import Catalog
from moulage.errors import DataError, nearest
from moulage.sources import _files

TABLE = "groups.csv"
COLUMNS = ("image", "lesion")
OPTIONAL_COLUMNS = ("source", "age", "sex", "site", "mask")


class Config(plugins.Options):
    """Options of the source ``folder``."""

    table: Path | None = Field(
        default=None,
        description="CSV of lesions and metadata, absolute or relative to the folder; default: its groups.csv",
    )
    classes: tuple[str, ...] = Field(
        default=(), description="sub-folders to use, in this order; others are left out; empty: all, sorted"
    )


class _Place(NamedTuple):
    """A folder or a ZIP: a file ``name`` of ``names`` has the location ``prefix + name``, relative to ``root``."""

    path: Path
    root: Path
    prefix: str
    names: list[str]
    folders: set[str]


def read(path: Path | None, config: Config) -> Catalog:
    """Read the list of images, and the table of lesions where there is one.

    ``DataError``: no path, nothing there, no image, no class folders, an empty class folder, a table that
    names what is not there or is ambiguous.
    """
    place = _place(_files.existing(path, "a folder, or a ZIP, with a sub-folder of images for each class"))
    known, where = _table(place, config)
    masks = set(known["mask"])
    images = [name for name in place.names if _files.is_image(name) and name not in masks]
    if not images:
        raise DataError(f"{place.path} holds no image.", f"Images end in {', '.join(sorted(_files.IMAGE_SUFFIXES))}.")
    known["image"] = _resolve(known["image"], images, where)
    _files.check_names(known["image"], where)
    labelled = [name for name in images if "/" in name]
    classes = _classes(place, config, labelled, masks)
    rows = pd.DataFrame({"image": [name for name in labelled if name.split("/")[0] in classes]})
    rows["label"] = rows["image"].str.split("/").str[0]
    rows["location"] = place.prefix + rows["image"]
    for column in ("lesion", *OPTIONAL_COLUMNS):
        values = dict(zip(known["image"], known[column], strict=True))
        rows[column] = [values.get(name, "") for name in rows["image"]]
    rows["mask"] = (place.prefix + rows["mask"]).where(rows["mask"] != "", "")
    left_out = sorted({name.split("/")[0] for name in labelled} - set(classes))
    note = f"Left out by the option classes: {', '.join(left_out)}." if left_out else ""
    unlabelled = [name for name in images if "/" not in name]
    return Catalog.build(rows, classes, place.path.name.removesuffix(".zip"), place.root, note, unlabelled)


def _place(path: Path) -> _Place:
    if path.is_dir():
        folders = {entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
        return _Place(path, path, "", _files.files(path), folders)
    names = _files.members(path)
    outer = _outer_folder(names)
    inner = [name.removeprefix(outer) for name in names if name.startswith(outer)]
    folders = {name.split("/")[0] for name in inner if "/" in name}
    return _Place(path, path.parent, f"{path.name}::{outer}", inner, folders)


def _outer_folder(names: list[str]) -> str:
    """The folder, '' or ending in '/', that holds all class folders and the table of a ZIP."""
    images = [name for name in names if _files.is_image(name)]
    tables = [name for name in names if PurePosixPath(name).name == TABLE]
    outer = ""
    while images:
        tops = {name.removeprefix(outer).split("/")[0] for name in images + tables}
        depth = min(name.removeprefix(outer).count("/") for name in images)
        if len(tops) > 1 or depth < 2:
            break
        outer += tops.pop() + "/"
    return outer


def _table(place: _Place, config: Config) -> tuple[pd.DataFrame, str]:
    """The table of lesions with all columns, its line numbers as index, and its name; empty if there is none."""
    where = str(place.root / (config.table or TABLE))
    if config.table is not None or (TABLE in place.names and place.path.is_dir()):
        table = _files.read_table(Path(where), COLUMNS)
    elif TABLE in place.names:
        where = f"{place.path.parent}/{place.prefix}{TABLE}"
        with zipfile.ZipFile(place.path) as archive:
            table = _files.parse_table(archive.read(where.partition("::")[2]), where, COLUMNS)
    else:
        table = pd.DataFrame(columns=list(COLUMNS), dtype=str)
    table = pd.DataFrame({column: _files.optional(table, column) for column in (*COLUMNS, *OPTIONAL_COLUMNS)})
    table["mask"] = [_posix(table_values.text(mask)) for mask in table["mask"]]
    for row in table.index[(table["mask"] != "") & ~table["mask"].isin(place.names)]:
        raise DataError(f'{where}, row {row}: there is no mask "{table.loc[row, "mask"]}".', "Correct the path.")
    return table, where


def _resolve(wanted: pd.Series, images: list[str], where: str) -> pd.Series:
    """The image that each row of the table means by its path, file name, or file name without suffix."""
    meanings: defaultdict[str, set[str]] = defaultdict(set)
    for name in images:
        for short in (name, PurePosixPath(name).name, _files.stem(name)):
            meanings[short].add(name)
    resolved = []
    for row, text in wanted.items():
        meant = sorted(meanings.get(_posix(text), ()))
        if not meant:
            raise DataError(f'{where}, row {row}: there is no image "{text}".', "Correct the name or remove the row.")
        if len(meant) > 1:
            raise DataError(
                f'{where}, row {row}: "{text}" may be {" or ".join(meant[:3])}.',
                "Write the path below the data folder.",
            )
        resolved += meant
    return pd.Series(resolved, index=wanted.index, dtype=str)


def _posix(text: str) -> str:
    """A relative path in one spelling: ``AK\\1.jpg`` and ``./AK/1.jpg`` are ``AK/1.jpg``."""
    return PurePosixPath(text.replace("\\", "/")).as_posix() if text else ""


def _classes(place: _Place, config: Config, labelled: list[str], masks: set[str]) -> tuple[str, ...]:
    """The class names in order, all with at least one image."""
    found = {name.split("/")[0] for name in labelled}
    if not found:
        raise DataError(
            f"{place.path} holds images but no class folders.",
            "Put the images of each class into a folder of its name.",
        )
    for name in config.classes:
        if name not in found:
            raise DataError(f'{place.path}: there is no image of the class "{name}".', nearest(name, found))
    empty = sorted(place.folders - found - {mask.split("/")[0] for mask in masks})
    if empty and not config.classes:
        raise DataError(
            f"{place.path}: the folder {', '.join(empty)} holds no image.",
            "Every sub-folder is a class; where it is not, name those that are with the source's option classes.",
        )
    return config.classes or tuple(sorted(found))
