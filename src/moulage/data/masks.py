"""Lesion masks: read as the images are, and new ones made of real ones.

A mask is uint8 [S, S]: 255 on the lesion, 0 on the skin around it.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator
from scipy import ndimage

from moulage import runs
from moulage.data import pixels
from moulage.data.catalog import Catalog
from moulage.data.filters import NO_FILTERS, Filters
from moulage.data.findings import finding
from moulage.data.pixel_writer import OK
from moulage.errors import DataError, RunError

LESION = 255
UNKNOWN = 128
"""All over a mask that stands for one that is not known."""
BEND = 0.03
"""How far the lines of a grid move when a mask is warped: a standard deviation, as a share of the side."""
NUM_KNOTS = 5
"""Points a side that are moved; a smooth surface runs through them."""
PREDICTED, TABLE = "predicted.json", "masks.csv"
"""In a folder of predicted masks: by what they were made, and which file is whose."""


def check(catalog: Catalog) -> None:
    """Raise ``DataError`` for the first image that has no mask."""
    missing = (catalog.table["mask"] == "").to_numpy()
    if missing.any():
        raise DataError(
            f'{catalog.name} has no lesion mask of image "{catalog.images[missing][0]}" '
            f"({missing.sum()} of {len(catalog)} images have none).",
            "Use data that come with masks, such as the source ham10000, or leave such images out.",
        )


def key(catalog: Catalog, framing: str) -> str:
    """Digest of the masks behind a catalog, of which images have one, and of ``framing``; no mask is read."""
    has = (catalog.table["mask"] != "").to_numpy()
    places = [catalog.resolve(place) for place in catalog.table["mask"][has]]
    return runs.digest(catalog.images[has].tolist(), pixels.key(places, framing))


def read(
    catalog: Catalog, size: int, framing: str, cache: Path | None = None, filters: Filters = NO_FILTERS
) -> np.ndarray:
    """The masks of all images of a catalog, cut into squares as they are: uint8 [N, size, size] in its order, 0 or 255.

    ``cache`` is the folder of the pixel cache, where masks are kept as images are (None: ``runs.cache_folder()``). With
    the images' ``filters`` a mask is cut where its image is. ``DataError`` names an image whose mask is missing or
    cannot be read; ``RunError``: the cache cannot be written.
    """
    return binary(build(catalog, size, framing, cache, filters).array(size)[..., 0] > LESION // 2)


def build(
    catalog: Catalog, size: int, framing: str, cache: Path | None = None, filters: Filters = NO_FILTERS, **work: Any
) -> pixels.Pixels:
    """Decode the masks that ``read`` reads into the cache, as RGB of 0 and 255; ``work``: how, as of ``pixels.build``.

    What counts as lesion in a file is for ``mask_files`` to say.
    """
    check(catalog)
    place = cache or runs.cache_folder()
    kept = pixels.build(catalog, (size,), framing, place, filters=filters, of_masks=True, **work)
    for row in np.flatnonzero(kept.scan["status"] != OK):
        raise DataError(
            f'The lesion mask of image "{catalog.images[row]}" cannot be used: {kept.scan["message"][row]}.',
            f"It should be at {catalog.resolve(catalog.table['mask'][row])}.",
        )
    return kept


def with_masks(catalog: Catalog) -> Catalog:
    """The images that have a mask."""
    return catalog.take((catalog.table["mask"] != "").to_numpy())


def with_predicted(catalog: Catalog, folder: Path) -> Catalog:
    """The catalog with the masks that ``moulage masks predict`` wrote to a folder in place of its own.

    Images that have none there get none. Read them with the framing "squash", as they were made. That the segmenter has
    seen some of these lesions is a finding. ``RunError`` where the folder holds no predicted masks.
    """
    if not (folder / PREDICTED).exists() or not (folder / TABLE).exists():
        raise RunError(f"{folder} holds no predicted masks.", "Make them with `moulage masks predict`.")
    table = pd.read_csv(folder / TABLE, dtype={"image": str, "path": str}, keep_default_na=False)
    paths = dict(zip(table["image"], table["path"], strict=True))
    base = folder.absolute()
    known = catalog.with_columns(mask=[str(base / paths[name]) if name in paths else "" for name in catalog.images])
    about: dict[str, Any] = runs.read_json(folder / PREDICTED)
    lesions = set(known.groups[np.isin(known.images, np.array(about.get("seen", []), object))])
    seen = known.images[(known.table["mask"] != "").to_numpy() & known.table["group"].isin(lesions).to_numpy()]
    say = (
        f"{len(seen):,} images with a predicted mask show lesions that the segmenter learned from or was chosen by. "
        "Where they are tested on, their masks are better than those of new lesions, and so may be the scores."
    )
    told = finding("segmenter saw these lesions", "warning", seen, say, "Predict with a segmenter of other lesions.")
    return replace(known, findings=(*known.findings, *told))


def unknown(number: int, size: int) -> np.ndarray:
    """Masks uint8 [number, size, size] of images whose masks are not known, such as drawn ones."""
    return np.full((number, size, size), UNKNOWN, np.uint8)


def read_known(kept: pixels.Pixels, size: int, images: Sequence[str] | np.ndarray) -> np.ndarray:
    """The masks of images by name: uint8 [n, size, size], 0 or 255, ``UNKNOWN`` for those without or with an empty one.

    ``kept`` is what ``build`` has decoded, of all images that have a mask; ``images`` are n names; repeats allowed.
    """
    known = {name: row for row, name in enumerate(kept.scan["image"])}
    found, array = unknown(len(images), size), kept.array(size)
    for place, name in enumerate(images):
        if name in known and (inside := array[known[name], ..., 0] > LESION // 2).any():
            found[place] = binary(inside)
    return found


def binary(inside: np.ndarray) -> np.ndarray:
    """A mask of what is true."""
    return inside.astype(np.uint8) * np.uint8(LESION)


def boundary(masks: np.ndarray) -> np.ndarray:
    """Pixels one of whose four neighbours is on the other side of the outline: uint8 [..., S, S], 0 or 255.

    The boundary map of Wang et al. 2018, arXiv:1711.11585, section 3.3. Where a lesion is cut by the edge of the image
    there is no boundary.
    """
    found = np.zeros(masks.shape, bool)
    across, down = masks[..., 1:] != masks[..., :-1], masks[..., 1:, :] != masks[..., :-1, :]
    found[..., 1:] |= across
    found[..., :-1] |= across
    found[..., 1:, :] |= down
    found[..., :-1, :] |= down
    return binary(found)


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance of each pixel to the outline in pixels, float64 [S, S]: positive on the lesion, negative outside.

    A mask without an outline is ``S`` pixels away from it everywhere.
    """
    inside = mask > LESION // 2
    if inside.all() or not inside.any():
        return np.full(mask.shape, mask.shape[0] if inside.all() else -mask.shape[0], np.float64)
    return np.asarray(ndimage.distance_transform_edt(inside)) - np.asarray(ndimage.distance_transform_edt(~inside))


def warped(mask: np.ndarray, rng: Generator) -> np.ndarray:
    """A mask uint8 [S, S] of the same kind of lesion: turned, scaled, sheared, moved and bent at random.

    A quarter turn and a flip, then an affine map and a smooth field of displacements (Simard et al. 2003, Best
    practices for convolutional neural networks, ICDAR, section 3). The signed distance is resampled, not the mask, so
    that outlines stay smooth; what lies outside the image goes on as at its edge. At least one pixel is lesion where
    ``mask`` has any.
    """
    size = mask.shape[0]
    mask = np.rot90(mask, int(rng.integers(4)))[:, :: 1 - 2 * int(rng.integers(2))]
    turn, shear = rng.uniform(-np.pi / 9, np.pi / 9), rng.normal(0, 0.08)
    cosine, sine = np.cos(turn), np.sin(turn)
    scales = np.exp(rng.normal(0, 0.08) + np.array([1, -1]) * rng.normal(0, 0.08))
    matrix = np.array([[cosine, -sine], [sine, cosine]]) @ np.array([[1, shear], [0, 1]]) @ np.diag(scales)
    grid = np.moveaxis(np.indices(mask.shape) - (size - 1) / 2, 0, -1)
    knots = rng.normal(0, BEND * size, (2, NUM_KNOTS, NUM_KNOTS))
    bend = ndimage.zoom(knots, (1, size / NUM_KNOTS, size / NUM_KNOTS), order=3, mode="nearest")
    places = grid @ matrix.T + np.moveaxis(np.asarray(bend), 0, -1) + rng.normal(0, 0.04 * size, 2) + (size - 1) / 2
    distance = ndimage.map_coordinates(signed_distance(mask), np.moveaxis(places, -1, 0), order=1, mode="nearest")
    return binary(distance > 0) if (distance > 0).any() else mask.copy()


def recombined(masks: Sequence[np.ndarray] | np.ndarray, rng: Generator) -> np.ndarray:
    """A mask uint8 [S, S] between two: their signed distances, laid centre on centre, are interpolated.

    Shape-based interpolation (Raya & Udupa 1990, IEEE Transactions on Medical Imaging 9, 32-42), at a random share of
    each. The new lesion lies where the first does, and has at least one pixel where that has any.
    """
    first, second = masks
    shift = np.round(_centre(first) - _centre(second)).astype(int)
    moved = ndimage.shift(signed_distance(second), shift, order=1, mode="nearest")
    share = rng.uniform(0.25, 0.75)
    between = (1 - share) * signed_distance(first) + share * moved
    return binary(between > 0) if (between > 0).any() else first.copy()


def _centre(mask: np.ndarray) -> np.ndarray:
    """Mean row and column of the lesion, float64 [2]; the middle of the image where there is none."""
    places = np.argwhere(mask)
    return places.mean(0) if len(places) else (np.array(mask.shape) - 1) / 2
