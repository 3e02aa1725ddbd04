"""Generated images among those that are called real: by what they say of themselves, else by how they look.

An image that moulage drew says so inside, and one of another tool may (``png.drawn_by``). Where a tool has saved it
again, that is gone; but thumbnails of all that was drawn on this machine are kept in the cache, and those of the data
are compared with them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from moulage import runs
from moulage.data import pixels as pixel_cache
from moulage.data.catalog import REAL, Catalog
from moulage.data.neighbours import nearest_rows
from moulage.data.pixel_writer import OK, THUMBNAILS
from moulage.data.pixels import SCAN, Pixels
from moulage.data.thumbnails import luminance
from moulage.errors import DataError

DRAWN = "drawn"
"""Folder in the cache that holds the thumbnails of drawn images."""
ALIKE = 3.0
"""Root mean square difference, in grey levels of 255, up to which two thumbnails are taken to show one image: saving it
again as JPEG makes 1 to 2."""
OF_CONTRAST = 0.15
"""The same as a share of the image's own standard deviation: dull images are all near each other."""
PERHAPS = "perhaps generated"
"""Kind of the finding of images that only look like drawn ones."""
PARENTS = "parents.json"
"""Beside the thumbnails of edited images: digests (SHA-256) of the files of the photographs that they were made of."""
_ADVICE = "Take them out of the data; an arm adds generated images by its `samples` or `generator`."


class Found(NamedTuple):
    """Generated images among those of a catalog."""

    marked: dict[str, str]  # image -> who drew it, by what the file says
    stripped: dict[str, str]  # image -> who drew these very pixels, on this machine
    alike: list[str]  # images that look like ones that were drawn on this machine


def find(catalog: Catalog, pixels: Pixels, known: Iterable[str] = ()) -> Found:
    """Look for generated images among a catalog's real ones, those whose names are ``known`` aside."""
    if "drawn" not in pixels.scan:
        return Found({}, {}, [])  # rows of arrays, which say nothing of themselves
    usable = (pixels.scan["status"] == OK).to_numpy() & (catalog.table["origin"] == REAL).to_numpy()
    rows = np.flatnonzero(usable & ~catalog.table["image"].isin(list(known)).to_numpy())
    says = pixels.scan["drawn"].to_numpy(object)[rows]
    marked = _named(catalog, rows, says)
    # A photograph that was edited may look like what was made of it, and is none the less real.
    rows = rows[(says == "") & ~np.isin(pixels.scan["sha256"].to_numpy(object)[rows], _edited())]
    same, alike = _stripped(pixels.thumbnails[rows])
    stripped = _named(catalog, rows, same)
    return Found(marked, stripped, [image for image in _named(catalog, rows, alike) if image not in stripped])


def check(
    catalog: Catalog, pixels: Pixels, known: Iterable[str], add: Callable[[str, Any, list[str], str, str], None]
) -> dict[str, str]:
    """Report the generated images among a catalog's real ones, those in ``known`` aside; those that nobody may use.

    Args:
        catalog: images of a data set.
        pixels: their scan and thumbnails.
        known: names of images that cannot be used anyhow.
        add: takes the kind, severity, images, sentence and advice of a finding.

    Returns:
        Image -> why it is not used.
    """
    marked, stripped, alike = find(catalog, pixels, known)
    makers = ", ".join(sorted(set(marked.values()))[:3])
    said = f"{_count(marked)} say themselves that they were generated ({makers}); none is used."
    add("generated image", "error", list(marked), said, _ADVICE)
    said = f"{_count(stripped)} have the pixels of images that moulage drew, without saying so; none is used."
    add("generated image, unmarked", "error", list(stripped), said, _ADVICE)
    said = f"{_count(alike)} look like images that moulage drew on this machine; they may be generated, and stay."
    add(PERHAPS, "warning", alike, said, "Look at them, and take out what was generated.")
    why = {image: f"generated image: drawn by {who}" for image, who in marked.items()}
    return why | {image: f"generated image: the pixels that {who} drew" for image, who in stripped.items()}


def refuse(catalog: Catalog, pixels: Pixels, called: str) -> list[str]:
    """Raise ``DataError`` where images that are ``called`` real were generated; a note where some may have been.

    For verbs that are given folders and have no audit.
    """
    marked, stripped, alike = find(catalog, pixels)
    if drawn := marked | stripped:
        image, who = next(iter(drawn.items()))
        said = f"drawn by {who}" if image in marked else f"the pixels that {who} drew"
        raise DataError(
            f"{_count(drawn)} of the {called} images in {catalog.root} were generated ({image} first: {said}).",
            "Generated images are no yardstick for generated images: take them out, or name them as GENERATED.",
        )
    if not alike:
        return []
    return [f"{_count(alike)} of the {called} images look like ones that moulage drew on this machine: {alike[0]}."]


def _named(catalog: Catalog, rows: np.ndarray, makers: np.ndarray) -> dict[str, str]:
    """Image -> its maker, of those that have one."""
    return {str(image): str(who) for image, who in zip(catalog.images[rows], makers, strict=True) if who}


def _count(images: Iterable[str]) -> str:
    number = len(list(images))
    return f"{number:,} image{'' if number == 1 else 's'}"


def _stripped(thumbnails: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Who drew the very pixels of each thumbnail uint8 [N, 32, 32, 3], and who drew nearly these; [N] of str each."""
    same, alike = np.full(len(thumbnails), "", object), np.full(len(thumbnails), "", object)
    for drawn, makers in _drawn() if len(thumbnails) else ():
        known = {image.tobytes(): who for image, who in zip(drawn, makers, strict=True)}
        same = np.array(
            [who or known.get(image.tobytes(), "") for who, image in zip(same, thumbnails, strict=True)], object
        )
        grey = [_small(images) for images in (thumbnails, drawn)]
        distance, row = nearest_rows(grey[0], grey[1])
        distance = distance[:, 0] / np.sqrt(grey[0].shape[1])
        near = distance <= np.minimum(ALIKE, OF_CONTRAST * grey[0].std(axis=1))
        alike[near] = makers[row[near, 0]]
    return same, alike


def keep(drawn: Catalog, parents: Sequence[str]) -> None:
    """Keep the thumbnails of drawn images; ``parents``: digests of the files that edited ones were made of."""
    folder = pixel_cache.build(drawn, (), "squash", runs.cache_folder() / DRAWN).folder
    if any(parents):
        runs.write_json(folder / PARENTS, sorted(set(parents)))


def _edited() -> list[str]:
    """Digests of the files of all photographs that were edited on this machine."""
    found = (runs.cache_folder() / DRAWN).glob(f"pixels-*/{PARENTS}")
    return sorted({name for path in found for name in runs.read_json(path)})


def _small(thumbnails: np.ndarray) -> np.ndarray:
    """Luminance of thumbnails at 16 px a side, float32 [N, 256]."""
    blocks = luminance(np.asarray(thumbnails)).reshape(-1, 16, 2, 16, 2).mean(axis=(2, 4))
    return blocks.reshape(len(blocks), -1)


def _drawn() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Thumbnails uint8 [N, 32, 32, 3] of each set of images that was drawn on this machine, and who drew them [N]."""
    for folder in sorted((runs.cache_folder() / DRAWN).glob("pixels-*")):
        if _whole(folder):
            scan = pd.read_parquet(folder / SCAN)
            good = (scan["status"] == OK).to_numpy()
            yield np.load(folder / THUMBNAILS, mmap_mode="r")[good], scan["drawn"].to_numpy(object)[good]


def _whole(folder: Path) -> bool:
    return all((folder / name).exists() for name in ("done.json", SCAN, THUMBNAILS))
