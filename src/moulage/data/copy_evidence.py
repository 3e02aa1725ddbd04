"""Whether two thumbnails show one photograph, once the one has been laid on the other.

1. *Alignment*: Gauss-Newton on an affine map (Lucas and Kanade 1981), from what the search found on
   (``thumbnails.align``). What shows the photograph larger is moved, so that neither is blurred.
2. *Evidence*, over the pixels that both show: ``detail``, the correlation of the signed square roots of the high-pass
   luminance. A blob on plain skin correlates with any other blob; hairs, texture and outline do not, and the square
   root lets faint texture speak beside the strong outline. Round cells and dark fish have little but an outline: they
   differ in the colours, each made brighter or darker to fit (archives hold copies with another white balance), and
   lie on each other only when the one is bent, which a cut, a frame or a turn does not do.

How much each of these says was fitted (logistic regression) to planted changes and to pairs that are not one photograph
of four real sets: docs/LOG.md (2026-11-29).
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from moulage.data.copy_candidates import Candidates
from moulage.data.thumbnails import INVERSE, SIDE, align, centred, correlated_detail, luminance, orient, warped

ACCEPTED = 0.75
"""``agreement`` from which a pair counts as one photograph."""
LISTED = 0.65
"""``agreement`` from which a pair is worth a look."""
OVERLAP, LITTLE = 0.25, 0.05
"""Share of the thumbnail that both show below which the agreement is taken for less: there a blob is nearly all."""
LEAST = 0.10
"""Least share of the thumbnail that both show."""
_BATCH = 512


@dataclass(frozen=True)
class Evidence:
    """What pairs of thumbnails have in common, M of them; float32 [M] each."""

    detail: np.ndarray  # correlation of fine structure, -1 to 1
    overlap: np.ndarray  # share of the thumbnail that both show, 0 to 1
    unexplained: np.ndarray  # root mean square difference of the fitted colours, over their standard deviation
    shear: np.ndarray  # logarithm of how much more one direction is stretched than the other

    @property
    def agreement(self) -> np.ndarray:
        """What all of it says: 1 for the same thumbnail, minus infinity where too little is seen; float32 [M]."""
        found = self.detail - self.unexplained / 2 - self.shear / 2 - LITTLE * (self.overlap < OVERLAP)
        return np.where(self.overlap >= LEAST, found, -np.inf)


def weigh(images: np.ndarray, inside: np.ndarray, frames: np.ndarray, pairs: Candidates) -> Evidence:
    """The evidence for pairs of thumbnails uint8 [N, 32, 32, 3]; ``frames`` are the maps of ``frames.find`` [N, 2, 3].

    ``inside`` bool [N, 32, 32] says what of them is looked at.
    """
    found = np.zeros((4, len(pairs.first)), np.float32)
    if not len(pairs.first):
        return Evidence(*found)
    start, larger = _starts(frames, pairs)
    turn = INVERSE[pairs.orientation]
    for begin in range(0, len(turn), _BATCH):
        part = slice(begin, begin + _BATCH)
        first = _shown(images, inside, pairs.first[part], turn[part])
        second = _shown(images, inside, pairs.second[part], np.zeros_like(turn[part]))
        swap = larger[part, None, None, None]
        found[:, part] = _laid_on(np.where(swap, second, first), np.where(swap, first, second), start[part])
    return Evidence(*found)


def _starts(frames: np.ndarray, pairs: Candidates) -> tuple[np.ndarray, np.ndarray]:
    """Maps [M, 2, 3] from the first images, turned back, to the second ones; inverted where the first is larger [M]."""
    turns = np.stack([_turn(index) for index in INVERSE[pairs.orientation]])
    first, second, move = (_square(maps) for maps in (frames[pairs.first], frames[pairs.second], pairs.move))
    maps = second @ move @ np.linalg.inv(turns.swapaxes(1, 2) @ first @ turns)
    larger = np.linalg.det(maps) < 1
    maps[larger] = np.linalg.inv(maps[larger])
    return maps[:, :2].astype(np.float32), larger


def _turn(index: int) -> np.ndarray:
    """The map [3, 3] by which ``thumbnails.orient`` looks up pixels."""
    flips = np.diag([-1.0 if index & 2 else 1.0, -1.0 if index & 1 else 1.0, 1.0])
    return flips[[1, 0, 2]] if index & 4 else flips


def _square(maps: np.ndarray) -> np.ndarray:
    """Maps [n, 2, 3] as matrices [n, 3, 3]."""
    last = np.broadcast_to(np.array([[[0.0, 0.0, 1.0]]]), (len(maps), 1, 3))
    return np.concatenate([maps, last], axis=1)


def _shown(images: np.ndarray, inside: np.ndarray, rows: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Red, green, blue and weight of these images, turned: float32 [n, 4, 32, 32]."""
    shown = np.concatenate([np.moveaxis(images[rows], 3, 1), inside[rows, None]], axis=1, dtype=np.float32)
    for index in np.unique(turn[turn > 0]):
        shown[turn == index] = orient(shown[turn == index], int(index))
    return shown


def _laid_on(first: np.ndarray, second: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Detail, overlap, what is unexplained and shear [4, n], once the second images lie on the first ones."""
    grey, other = (centred(luminance(np.moveaxis(shown[:, :3], 1, 3)), shown[:, 3]) for shown in (first, second))
    warp = align(grey, other, first[:, 3] * (warped(second[:, 3], start) > 0.5), start=start, num_steps=4)
    weight = first[:, 3] * (warped(second[:, 3], warp) > 0.99)
    detail = correlated_detail(grey, warped(other, warp), weight)
    stretch = np.linalg.svd(warp[:, :, :2], compute_uv=False)
    shear = np.log(stretch[:, 0] / np.maximum(stretch[:, 1], 1e-3))
    unexplained = np.full(len(first), np.inf, np.float32)
    rows = np.flatnonzero(detail >= LISTED)
    there = np.stack([warped(second[rows, channel], warp[rows]) for channel in range(3)], axis=1)
    unexplained[rows] = _unexplained(first[rows, :3], there, weight[rows, None])
    return np.stack([detail, weight.mean(axis=(1, 2)), unexplained, shear])


def _unexplained(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Root mean square difference of colours [n, 3, 32, 32] where the second ones are fitted (a gain and an offset for
    each), over the standard deviation of the first ones (of 3 levels or more); [n]."""
    blur = ndimage.gaussian_filter1d(np.eye(SIDE), 0.8, axis=0).astype(np.float32)
    total = np.maximum(weight.sum(axis=(2, 3), keepdims=True), 1)
    near = np.maximum(blur @ weight @ blur.T, 0.05)
    smooth = [blur @ (colours * weight) @ blur.T / near for colours in (first, second)]
    a, b = ((each - (each * weight).sum(axis=(2, 3), keepdims=True) / total) * weight for each in smooth)
    gain = (a * b).sum(axis=(2, 3), keepdims=True) / np.maximum((b * b).sum(axis=(2, 3), keepdims=True), 1e-3)
    left, own = (np.sqrt((each**2).sum(axis=(1, 2, 3)) / (3 * total[:, 0, 0, 0])) for each in (a - b * gain, a))
    return left / np.maximum(own, 3)
