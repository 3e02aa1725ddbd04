"""Draws images from a generator into a folder and a catalog; every file says what it is and where it is from."""

import json
import re
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from moulage import __version__
from moulage.data import generated, png
from moulage.data import pixels as pixel_cache
from moulage.data.catalog import REAL, Catalog
from moulage.errors import DataError, LeakError, RecipeError, RunError
from moulage.runs import Progress, cache_folder, digest, no_progress

BATCH = 64
DRAW_AGAIN = "Draw the images again, into a new folder."
DESCRIPTION = "Synthetic image, not a patient. Not for clinical use."
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC's term for an image made by a model trained on sampled content."""

_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    f'Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


class Drawer(Protocol):
    """What is asked of a generator here."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    def sample(self, label: int, seeds: np.ndarray, /) -> np.ndarray: ...


def draw(
    generator: Drawer,
    seeds: Mapping[str, Sequence[int] | np.ndarray],
    folder: Path,
    *,
    origin: str,
    split_digest: str,
    classes: tuple[str, ...],
    drawing: Mapping[str, Any] = types.MappingProxyType({}),
    series: str = "",
    batch_size: int = BATCH,
    progress: Progress = no_progress,
) -> Catalog:
    """Draw one image a seed into ``folder/<class>/<class>-<seed>.png`` and list them in ``folder/catalog.parquet``.

    The PNGs are lossless and carry their provenance; how they look is kept in the cache too (``generated``). Files that
    are already there are kept, so a second call draws what an interrupted one left open. Only this run, whose id is
    ``origin``, may draw into ``folder``; the generator was fitted on the split of ``split_digest``. ``seeds`` are those
    to draw of each class, in ``[0, 2**63)``, each once; ``classes`` those of the catalog that is returned (the data
    set's, in its order). ``drawing`` are the options that the generator draws by, for the provenance; ``series`` is
    what the images' names begin with, ``origin`` if left out. ``batch_size`` images are written at once.

    ``RecipeError``: a class that the generator or the data set does not know, a seed that is negative or given twice.
    ``RunError``: ``folder`` holds images of another run, or cannot be written.
    """
    _check(generator, seeds, classes)
    folders, wanted = safe_names(classes), {label: np.asarray(s, np.int64) for label, s in seeds.items()}
    rows, total = [], sum(map(len, wanted.values()))
    for label, numbers in wanted.items():
        paths = [folder / folders[label] / f"{folders[label]}-{seed}.png" for seed in numbers]
        facts = [{"origin": origin, "class": label, "seed": int(s), "split_digest": split_digest} for s in numbers]
        facts = [fact | {"drawing": dict(drawing)} for fact in facts]
        missing = [i for i, path in enumerate(paths) if not _finished(path, facts[i])]
        progress(len(rows) + len(paths) - len(missing), total, label)
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            images = generator.sample(generator.classes.index(label), numbers[batch])
            for i, image in zip(batch, images, strict=True):
                write(paths[i], image, facts[i])
            progress(len(rows) + len(paths) - len(missing) + start + len(batch), total, label)
        rows += [
            {"image": f"{series or origin}/{label}-{fact['seed']}", "label": label, "location": str(path.absolute())}
            | {"origin": origin, "split_digest": split_digest, "seed": fact["seed"]}
            for path, fact in zip(paths, facts, strict=True)
        ]
    catalog = Catalog.build(pd.DataFrame(rows), classes, f"drawn by {origin}", folder.absolute(), DESCRIPTION)
    catalog.save(folder / "catalog.parquet")
    pixel_cache.build(catalog, (), "squash", cache_folder() / generated.DRAWN)
    return catalog


def read_provenance(path: Path) -> dict[str, Any]:
    """What a drawn PNG says of itself: origin, class, seed, split_digest, drawing, software, description,
    digital_source_type; and ``pixels``, a digest of them.

    ``DataError`` where the file is no readable image, carries no provenance of moulage, or shows something else.
    """
    pixels, text = png.read(path)
    if "moulage:origin" not in text:
        raise DataError(f"{path} carries no provenance.", "It was not drawn by moulage, or was saved again by a tool.")
    if text.get("moulage:pixels") != _digest(pixels):
        raise DataError(f"{path} does not show what was drawn: its pixels were changed.", "Draw it again.")
    found = {key: text.get(f"moulage:{key}", "") for key in ("origin", "class", "seed", "split_digest", "pixels")}
    source = SOURCE_TYPE if SOURCE_TYPE in text.get(png.XMP, "") else ""
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
    text = {"Software": f"moulage {__version__}", "Description": DESCRIPTION}
    said = {key: json.dumps(value) if isinstance(value, dict) else str(value) for key, value in facts.items()}
    text |= {f"moulage:{key}": value for key, value in {**said, "pixels": _digest(pixels)}.items()}
    png.write(path, pixels, text, xmp=_XMP, compress_level=1)
