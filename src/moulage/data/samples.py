"""Draws images from a generator into a folder and a catalog; every file says what it is and where it is from."""

import json
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from moulage import __version__
from moulage.data import generated, png
from moulage.data.catalog import REAL, Catalog
from moulage.errors import DataError, LeakError, RecipeError, RunError
from moulage.runs import Progress, digest, no_progress

BATCH = 64
DRAW_AGAIN = "Draw the images again, into a new folder."
DESCRIPTION = "Synthetic image, not a patient. Not for clinical use."
EDITED = "Synthetic image, made of a photograph of a patient. Not for clinical use."
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for an image made by a model trained on sampled content."""
EDITED_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""The same for an image of which a part was."""

_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="{}"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


class Drawer(Protocol):
    """What is asked of a generator here."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    def sample(self, label: int, seeds: np.ndarray, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Parents:
    """The training images that images are made of, one each."""

    images: Catalog
    contents: Sequence[str]  # digest (SHA-256) of the file of each


def draw(
    generator: Drawer,
    seeds: Mapping[str, Sequence[int] | np.ndarray],
    folder: Path,
    *,
    origin: str,
    split_digest: str,
    classes: tuple[str, ...],
    drawing: Mapping[str, Any] = types.MappingProxyType({}),
    parents: Callable[[str, np.ndarray], Parents] | None = None,
    series: str = "",
    batch_size: int = BATCH,
    progress: Progress = no_progress,
) -> Catalog:
    """Draw one image a seed into ``folder/<class>/<class>-<seed>.png`` and list them in ``folder/catalog.parquet``.

    The PNGs are lossless and carry their provenance; how they look is kept in the cache too (``generated``). Files that
    are already there are kept, so a second call draws what an interrupted one left open. Only this run, whose id is
    ``origin``, may draw into ``folder``; the generator was fitted on the split of ``split_digest``. ``seeds`` are those
    to draw of each class, in ``[0, 2**63)``, each once; ``classes`` those of the catalog that is returned (the data
    set's, in its order). ``drawing`` are the options that the generator draws by, for the provenance; ``parents`` says,
    where it changes training images, which ones, for a class and seeds; ``series`` is what the images' names begin
    with, ``origin`` if left out. ``batch_size`` images are written at once.

    ``RecipeError``: a class that the generator or the data set does not know, a seed that is negative or given twice.
    ``RunError``: ``folder`` holds images of another run, or cannot be written.
    """
    _check(generator, seeds, classes)
    folders, wanted = safe_names(classes), {label: np.asarray(s, np.int64) for label, s in seeds.items()}
    rows, facts, total = list[dict[str, Any]](), list[dict[str, Any]](), sum(map(len, wanted.values()))
    for label, numbers in wanted.items():
        own = [{"origin": origin, "class": label, "seed": int(s), "split_digest": split_digest} for s in numbers]
        kin = parents(label, numbers) if parents else None
        own = [{**fact, "drawing": dict(drawing), **_of_parent(kin, i)} for i, fact in enumerate(own)]
        paths = [folder / folders[label] / f"{folders[label]}-{seed}.png" for seed in numbers]
        missing = [i for i, path in enumerate(paths) if not _finished(path, own[i])]
        progress(len(rows) + len(paths) - len(missing), total, label)
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            images = generator.sample(generator.classes.index(label), numbers[batch])
            for i, image in zip(batch, images, strict=True):
                write(paths[i], image, own[i])
            progress(len(rows) + len(paths) - len(missing) + start + len(batch), total, label)
        groups = kin.images.groups if kin else [""] * len(numbers)  # empty: each by itself
        rows += [
            {"image": f"{series or origin}/{label}-{fact['seed']}", "label": label, "location": str(path.absolute())}
            | {"origin": origin, "split_digest": split_digest, "seed": fact["seed"]}
            | {"parent": fact["parent"], "group": group}
            for path, fact, group in zip(paths, own, groups, strict=True)
        ]
        facts += own
    note = EDITED if parents else DESCRIPTION
    catalog = Catalog.build(pd.DataFrame(rows), classes, f"drawn by {origin}", folder.absolute(), note)
    catalog.save(folder / "catalog.parquet")
    generated.keep(catalog, [fact["parent_sha256"] for fact in facts])
    return catalog


def _of_parent(kin: Parents | None, row: int) -> dict[str, str]:
    """What the provenance of an image says of its parent."""
    name, content = (kin.images.images[row], kin.contents[row]) if kin else ("", "")
    return {"parent": str(name), "parent_sha256": str(content)}


def read_provenance(path: Path) -> dict[str, Any]:
    """What a drawn PNG says of itself: origin, class, seed, split_digest, drawing, software, description,
    digital_source_type; ``pixels``, a digest of them; and of the photograph that it was made of, if any, ``parent`` and
    ``parent_sha256``.

    ``DataError`` where the file is no readable image, carries no provenance of moulage, or shows something else.
    """
    pixels, text = png.read(path)
    if "moulage:origin" not in text:
        raise DataError(f"{path} carries no provenance.", "It was not drawn by moulage, or was saved again by a tool.")
    if text.get("moulage:pixels") != _digest(pixels):
        raise DataError(f"{path} does not show what was drawn: its pixels were changed.", "Draw it again.")
    known = ("origin", "class", "seed", "split_digest", "pixels", "parent", "parent_sha256")
    found = {key: text.get(f"moulage:{key}", "") for key in known}
    source = next((term for term in (SOURCE_TYPE, EDITED_TYPE) if term in text.get(png.XMP, "")), "")
    about = {"software": text["Software"], "description": text["Description"], "digital_source_type": source}
    try:
        drawing = json.loads(text.get("moulage:drawing", "{}"))
        return {**found, "seed": int(found["seed"]), "drawing": drawing, **about}
    except ValueError:
        raise DataError(f"{path}: its provenance is damaged.", "Draw it again.") from None


def prove_files(samples: Catalog) -> str:
    """Prove that every file of drawn images is the one that was drawn; a digest of what they all show.

    ``LeakError``: a file was exchanged, changed or saved again. Nobody knows then what it shows, or who has seen that.
    """
    found: dict[str, str] = {}
    for row in samples.table.itertuples():
        path = Path(samples.resolve(str(row.location)))
        try:
            said = read_provenance(path)
        except DataError as error:
            raise LeakError(f"{row.image} is not the image that was drawn: {error.message}", DRAW_AGAIN) from None
        expected = {"origin": row.origin, "class": row.label, "seed": row.seed, "split_digest": row.split_digest}
        expected["parent"] = row.parent
        for key, value in expected.items():
            if said[key] != value:
                raise LeakError(f"{path} is listed with the {key} {value}, and says {said[key]} itself.", DRAW_AGAIN)
        found[str(row.image)] = said["pixels"]
    return digest(found)


def _digest(pixels: np.ndarray) -> str:
    return digest(pixels.shape, pixels.tobytes())


def check_provenance(samples: Catalog, split_digest: str) -> None:
    """Raise ``LeakError`` if a synthetic row was drawn by a generator that saw another split than this one."""
    table = samples.table
    wrong = table[(table["origin"] != REAL) & (table["split_digest"] != split_digest)]
    if len(wrong):
        first = wrong.iloc[0]
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise LeakError(
            f"{first['image']}{more}: drawn by a generator that was fitted on the split "
            f'"{first["split_digest"] or "unknown"}", not on "{split_digest}". '
            "It may have seen images that score here.",
            "Fit the generator on the training part of this split, and draw again.",
        )


def check_parents(samples: Catalog, train: Catalog) -> None:
    """Raise ``LeakError`` if an edited image was made of one outside the training part, or is of another group."""
    edited = samples.take((samples.table["parent"] != "").to_numpy()).table
    groups = dict(zip(train.images, train.groups, strict=True))
    for row in edited.itertuples():
        if row.parent not in groups:
            raise LeakError(
                f"{row.image} was made of the image {row.parent}, which is not in the training part.", DRAW_AGAIN
            )
        if row.group != groups[row.parent]:
            raise LeakError(f"{row.image} is not listed with the group of {row.parent}, its parent.", DRAW_AGAIN)


def safe_names(classes: Sequence[str]) -> dict[str, str]:
    """A file name for each class: letters, digits, ``_``, ``-`` and inner dots; distinct even where case is ignored."""
    names: dict[str, str] = {}
    for label in classes:
        name = re.sub(r"[^\w.-]+", "_", label).strip("._")[:60] or "class"
        taken = {other.lower() for other in names.values()}
        numbered = (f"{name}_{number}" for number in range(2, 2 + len(classes)))
        names[label] = next(each for each in (name, *numbered) if each.lower() not in taken)
    return names


def _check(generator: Drawer, seeds: Mapping[str, Sequence[int] | np.ndarray], classes: tuple[str, ...]) -> None:
    for label, numbers in seeds.items():
        for known, owner in ((generator.classes, "the generator"), (classes, "the data set")):
            if label not in known:
                raise RecipeError(f'{owner} does not know the class "{label}".', f"It knows {', '.join(known)}.")
        values = np.asarray(numbers, np.int64)
        if (values < 0).any() or len(np.unique(values)) != len(values):
            raise RecipeError(f'The seeds of "{label}" must be distinct and not negative.')


def _finished(path: Path, facts: Mapping[str, Any]) -> bool:
    """Whether this very image is there already; one that cannot be read is drawn again."""
    if not path.exists():
        return False
    try:
        found = read_provenance(path)
    except DataError:
        return False
    if any(found[key] != value for key, value in facts.items()):
        how = f", drawing {json.dumps(found['drawing'])}" if found["drawing"] else ""
        raise RunError(
            f"{path} was drawn by another run or otherwise ({found['origin']} on split {found['split_digest']}{how}).",
            "Draw into another folder.",
        )
    return True


def write(path: Path, pixels: np.ndarray, facts: Mapping[str, Any]) -> None:
    """Write pixels uint8 [H, W, 3] as one PNG with its provenance: ``facts`` are those of ``read_provenance``."""
    is_edited = bool(facts.get("parent"))
    text = {"Software": f"moulage {__version__}", "Description": EDITED if is_edited else DESCRIPTION}
    said = {key: json.dumps(value) if isinstance(value, dict) else str(value) for key, value in facts.items()}
    text |= {f"moulage:{key}": value for key, value in {**said, "pixels": _digest(pixels)}.items() if value}
    xmp = _XMP.format(EDITED_TYPE if is_edited else SOURCE_TYPE)
    png.write(path, pixels, text, xmp=xmp, compress_level=1)
