"""Near-duplicates that do not lie on each other: photographs that were cut, framed, shifted or turned a little.

``duplicates`` looks at images as they lie. Here every thumbnail is moved in the ways of ``MOVES`` first: a zoom undoes
a crop of the other image (or a frame around it), a shift a shift, a turn a turn; what is left between two ways the
alignment makes up for.

1. *Candidates*: each image's ``NUM_CANDIDATES`` most similar ones over all moves, by low DCT coefficients.
2. *Alignment*: Gauss-Newton on an affine map, from the move on (``thumbnails.align``).
3. *Evidence*, over the pixels that both show: the correlation of *local contrast* (a band-pass divided by its local
   standard deviation, so that plain water or skin counts as much as an outline), and how much of the colours is left
   unexplained. Round cells and dark fish correlate by 0.95 and more with one another, but not in every colour.

Such a copy has the colours of its original, and lies as it does: re-coloured or mirrored *and* cut, it is not found.
Measured: docs/LOG.md (2026-11-29).
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from moulage.data import thumbnails
from moulage.data.thumbnails import SIDE

POWER = 1.0
"""Of the frequency, in the descriptors: lower than where images lie on each other, since these do so only roughly."""
NUM_CANDIDATES = 2
SIMILAR = 0.72
"""Cosine of two descriptors from which a pair is looked at closely."""
CONTRAST = 0.93
"""Correlation of local contrast from which a pair counts as one photograph."""
UNEXPLAINED = 0.17
"""Largest root mean square difference of the colours, as a share of their standard deviation."""
LYING_ALIKE = 0.06
"""The same where the images were not moved: two frames of a camera, or two like things in one place, lie alike too."""
OVERLAP = 0.50
"""Least share of the thumbnail that both show: less, in a small round vignette, is a blob and nothing else."""
UNEXPLAINED_AT_ALL = 0.12
"""``confirmed``: the same as ``UNEXPLAINED``, each colour made brighter or darker to fit."""
STILL = np.array([0.03, 0.6], np.float32)
"""What counts as not moved: differences from the identity of the map's linear part, and of its shift in pixels."""
SHEAR = 0.12
"""Largest logarithm of how much more one direction is stretched than the other: a cut, frame or turn does not bend."""
_BLOCK, _BATCH = 1024, 1024
_SHIFT = 0.09 * SIDE


def _move(zoom: float = 1.0, degrees: float = 0.0, down: float = 0.0, right: float = 0.0) -> np.ndarray:
    """The map [2, 3] that shows an image zoomed in, turned and shifted."""
    angle = np.deg2rad(degrees)
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    return np.concatenate([linear, [[down], [right]]], axis=1).astype(np.float32)


MOVES = np.stack(
    [
        _move(),
        *(_move(zoom=zoom) for zoom in (1.1, 1.2, 1.3, 1.55)),
        *(_move(degrees=degrees) for degrees in (-9, 9)),
        *(_move(down=d * _SHIFT, right=r * _SHIFT) for d in (-1, 0, 1) for r in (-1, 0, 1) if d or r),
    ]
)
"""Ways to move a thumbnail, float32 [M, 2, 3]; the first leaves it where it is."""


@dataclass(frozen=True)
class Moved:
    """Pairs that look like one photograph, moved; N of them."""

    rows: np.ndarray  # of both images, int64 [N, 2], the smaller first
    similarity: np.ndarray  # cosine of the descriptors, float32 [N]
    contrast: np.ndarray  # correlation of local contrast, float32 [N]
    overlap: np.ndarray  # share of the thumbnail that both show, float32 [N]
    is_complete: bool  # False where more pairs were similar than could be looked at


def search(images: np.ndarray, most: int) -> Moved:
    """All pairs of thumbnails uint8 [N, 32, 32, 3] that count as one photograph; ``most`` are looked at closely."""
    if len(images) < 2:
        none = np.zeros(0, np.float32)
        return Moved(np.zeros((0, 2), np.int64), none, none, none, is_complete=True)
    inside = thumbnails.inside(images).astype(np.float32)
    grey = thumbnails.centred(thumbnails.luminance(images), inside)
    first, second, move, similarity = _candidates(grey, inside)
    is_complete = len(first) <= most
    order = np.argsort(-similarity, kind="stable")[:most]
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        found.append(_evidence(images, grey, inside, first[rows], second[rows], MOVES[move[rows]]))
    if not found:
        none = np.zeros(0, np.float32)
        return Moved(np.zeros((0, 2), np.int64), none, none, none, is_complete)
    contrast, overlap, good = (np.concatenate(values) for values in zip(*found, strict=True))
    kept = order[good]
    rows = np.sort(np.stack([first[kept], second[kept]], axis=1), axis=1)
    _, place = np.unique(rows, axis=0, return_index=True)
    return Moved(rows[place], similarity[kept][place], contrast[good][place], overlap[good][place], is_complete)


def confirmed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether pairs of thumbnails uint8 [n, 32, 32, 3] that lie on each other are more than alike in outline; bool [n].

    Dark things before a plain ground have fine structure along their outline alone, and that correlates where the
    outlines do. One photograph agrees in the contrast everywhere, or in the colours, whatever their balance.
    """
    if not len(first):
        return np.zeros(0, bool)
    inside = [thumbnails.inside(images).astype(np.float32) for images in (first, second)]
    pairs = zip((first, second), inside, strict=True)
    grey = [thumbnails.centred(thumbnails.luminance(images), weight) for images, weight in pairs]
    warp = thumbnails.align(grey[0], grey[1], inside[0] * inside[1])
    weight = inside[0] * (thumbnails.warped(inside[1], warp) > 0.99)
    bands = [_local_contrast(values, weight) for values in (grey[0], thumbnails.warped(grey[1], warp))]
    colours = [np.moveaxis(images.astype(np.float32), 3, 0) for images in (first, second)]
    colours[1] = np.stack([thumbnails.warped(channel, warp) for channel in colours[1]])
    a, b = (np.stack([thumbnails.centred(channel, weight) for channel in of]) for of in colours)
    gain = (a * b).sum(axis=(2, 3), keepdims=True) / np.maximum((b * b).sum(axis=(2, 3), keepdims=True), 1e-3)
    return (_correlation(bands[0], bands[1], weight) >= CONTRAST) | (
        _unexplained(a, b * gain, weight) <= UNEXPLAINED_AT_ALL
    )


def _candidates(grey: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (row, row of what is moved, move, cosine), [n] each: the most similar ones of each image."""
    num = len(grey)
    still = thumbnails.descriptors(grey, POWER).reshape(num, -1)
    moved = [still, *(_described(grey, inside, move) for move in MOVES[1:])]
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for start in range(0, num, _BLOCK):
        block = still[start : start + _BLOCK]
        best = block @ moved[0].T
        for described in moved[1:]:
            np.maximum(best, block @ described.T, out=best)
        best[np.arange(len(block)), np.arange(start, start + len(block))] = -1  # no image is its own copy
        for _ in range(min(NUM_CANDIDATES, num - 1)):
            column = best.argmax(axis=1)
            value = best[np.arange(len(block)), column]
            rows = np.flatnonzero(value > SIMILAR)
            found.append((rows + start, column[rows], value[rows]))
            best[np.arange(len(block)), column] = -1
    none = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    first, second, similarity = (np.concatenate(values) for values in zip(*(found or [none]), strict=True))
    cosines = np.stack([np.einsum("nd,nd->n", still[first], described[second]) for described in moved])
    return first, second, cosines.argmax(axis=0), similarity


def _described(grey: np.ndarray, inside: np.ndarray, move: np.ndarray) -> np.ndarray:
    """Descriptors float32 [N, 81] of all images, moved."""
    shown, weight = _moved(grey, move), (_moved(inside, move) > 0.5).astype(np.float32)
    return thumbnails.descriptors(thumbnails.centred(shown, weight), POWER).reshape(len(grey), -1)


def _moved(images: np.ndarray, move: np.ndarray) -> np.ndarray:
    return thumbnails.warped(images, np.broadcast_to(move, (len(images), 2, 3)))


def _evidence(
    images: np.ndarray, grey: np.ndarray, inside: np.ndarray, first: np.ndarray, second: np.ndarray, move: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Contrast and overlap of pairs [n], and whether they count as one photograph, bool [n]."""
    both = inside[first] * (thumbnails.warped(inside[second], move) > 0.5)
    warp = thumbnails.align(grey[first], grey[second], both, start=move, num_steps=4)
    weight = inside[first] * (thumbnails.warped(inside[second], warp) > 0.99)
    overlap = weight.mean(axis=(1, 2))
    there = thumbnails.warped(grey[second], warp)
    contrast = _correlation(_local_contrast(grey[first], weight), _local_contrast(there, weight), weight)
    stretch = np.linalg.svd(warp[:, :, :2], compute_uv=False)
    bent = np.log(stretch[:, 0] / np.maximum(stretch[:, 1], 1e-3))
    likely = (contrast >= CONTRAST) & (overlap >= OVERLAP) & (bent <= SHEAR)
    rows = np.flatnonzero(likely)
    apart = np.abs(warp[rows] - np.eye(2, 3, dtype=np.float32))
    still = (apart[:, :, :2].max(axis=(1, 2)) < STILL[0]) & (apart[:, :, 2].max(axis=1) < STILL[1])
    colours = [np.moveaxis(images[of[rows]].astype(np.float32), 3, 0) for of in (first, second)]
    unexplained = _unexplained(
        colours[0], np.stack([thumbnails.warped(c, warp[rows]) for c in colours[1]]), weight[rows]
    )
    likely[rows] = unexplained <= np.where(still, LYING_ALIKE, UNEXPLAINED)
    return contrast, overlap, likely


def _blurred(images: np.ndarray, weight: np.ndarray, radius: float) -> np.ndarray:
    """A Gaussian blur over the weighted pixels of images [n, 32, 32] alone."""
    blurred = [ndimage.gaussian_filter(values, (0, radius, radius)) for values in (images * weight, weight)]
    return blurred[0] / np.maximum(blurred[1], 0.05)


def _local_contrast(grey: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """What lies between two blurs (0.6 and 2 px), divided by its local standard deviation (and 2 grey levels)."""
    band = (_blurred(grey, weight, 0.6) - _blurred(grey, weight, 2)) * weight
    return band / (np.sqrt(np.maximum(_blurred(band**2, weight, 2.4), 0)) + 2) * weight


def _correlation(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    a, b = (thumbnails.centred(values, weight) for values in (first, second))
    norms = (a**2).sum(axis=(1, 2)) * (b**2).sum(axis=(1, 2))
    return (a * b).sum(axis=(1, 2)) / np.sqrt(np.maximum(norms, 1e-6))


def _unexplained(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Root mean square difference of colours [3, n, 32, 32], over their standard deviation (at least 3 levels); [n]."""
    smooth = [np.stack([_blurred(channel, weight, 0.8) for channel in colours]) for colours in (first, second)]
    total = 3 * np.maximum(weight.sum(axis=(1, 2)), 1)
    spread = np.stack([thumbnails.centred(channel, weight) for channel in smooth[0]])
    difference, own = (((values**2) * weight).sum(axis=(0, 2, 3)) for values in (smooth[0] - smooth[1], spread))
    return np.sqrt(difference / total) / np.maximum(np.sqrt(own / total), 3)
