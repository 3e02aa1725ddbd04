"""Which pairs of photographs are worth a close look as copies: cut, framed, shifted, turned, mirrored or re-coloured.

A *key* is a vector of low DCT coefficients of the colours, chosen so that a photograph and a copy of it have nearly the
same: from some images of the set and moved copies of them follow the scatter within a photograph and that between
photographs, and the generalised eigenvectors (Fisher 1936) that tell these apart best. Squared distances of keys are
then in units of what a copy changes.

1. *Nearest*: keys that hardly change where an image is cut or turned; each image's ``NUM_NEAREST`` in any of the eight
   orientations, by matrix products.
2. *Moves*: finer keys of these pairs, the one image moved in each way of ``MOVES``; what is nearest is a candidate.

Both are done twice: with the colours as they are, and relative to the image's own mean and spread of each channel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import fft, linalg

from moulage.data.thumbnails import INVERSE, ORIENTATIONS, SIDE, orient, warped
from moulage.runs import Progress

NUM_NEAREST = 20
SURE = 60.0
"""Squared distance up to which all pairs are candidates; beyond, only the nearest few of each image."""
_SMALL = SIDE // 2
_NUM_COPIES = 1600
_BLOCK = 256
_BATCH = 1 << 15


@dataclass(frozen=True)
class Candidates:
    """Pairs of images, M of them: the second, moved by its map and then turned, lies roughly on the first."""

    first: np.ndarray  # rows, int64 [M]
    second: np.ndarray
    orientation: np.ndarray  # indices into ``ORIENTATIONS``, int64 [M]
    move: np.ndarray  # maps of thumbnails, float32 [M, 2, 3]
    distance: np.ndarray  # squared, of the finer keys, float32 [M]


class View(NamedTuple):
    """How colours enter the keys, and which pairs become candidates."""

    relative: bool  # to the image's own mean and spread
    num_each: int  # nearest ones of each image that are candidates
    limit: float  # largest squared distance of a candidate


VIEWS = (View(relative=False, num_each=2, limit=450), View(relative=True, num_each=2, limit=400))


def _move(zoom: float = 1.0, degrees: float = 0.0, down: float = 0.0, right: float = 0.0) -> np.ndarray:
    """The map [2, 3] that shows a thumbnail zoomed in, turned and shifted (by shares of its side)."""
    angle = np.deg2rad(degrees)
    linear = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    return np.concatenate([linear, [[down * SIDE], [right * SIDE]]], axis=1).astype(np.float32)


_AROUND = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right]
MOVES = np.stack(
    [
        _move(),
        *(_move(zoom=zoom) for zoom in (1.09, 1.19, 1.3, 1.45)),
        *(_move(zoom=1.1, down=0.045 * down, right=0.045 * right) for down, right in _AROUND),
        *(_move(degrees=degrees) for degrees in (-9, 9)),
        *(_move(down=0.09 * down, right=0.09 * right) for down, right in _AROUND),
    ]
)
"""Ways to move a thumbnail, float32 [M, 2, 3]; the first leaves it where it is."""


def find(images: np.ndarray, inside: np.ndarray, apart: tuple[np.ndarray, ...], progress: Progress) -> Candidates:
    """Candidates among thumbnails uint8 [N, 32, 32, 3], N >= 1, of which ``inside`` bool [N, 32, 32] is looked at.

    No pair shares a value of one of ``apart``, [N] each.
    """
    channels = _channels(images, inside)
    done = 0

    def say(num: int) -> None:
        nonlocal done
        done += num
        progress(done // len(VIEWS), len(images), "near-duplicates")

    rng = np.random.default_rng(0)
    num = min(_NUM_COPIES, 8 * len(images))
    own = channels[rng.integers(len(images), size=num)]
    copies = [_warped(own, maps) for maps in (_large_moves(num, rng), _slight_moves(num, rng))]
    return _together([_seen(channels, own, copies, view, apart, say) for view in VIEWS], len(images))


def _seen(
    channels: np.ndarray,
    own: np.ndarray,
    copies: list[np.ndarray],
    view: View,
    apart: tuple[np.ndarray, ...],
    say: Callable[[int], None],
) -> Candidates:
    """The candidates in one view; keys are learned from images ``own`` and ``copies``, moved much and a little."""
    rng = np.random.default_rng(0)
    rough = _Keys.learn(own, copies[0], 6, 48, view.relative, rng)
    fine = _Keys.learn(own, copies[1], 8, 64, view.relative, rng)
    turned = [orient(channels, turn) for turn in range(len(ORIENTATIONS))]
    first, second, turn = _nearest(np.stack([rough.of(each) for each in turned]), apart, say)
    num = len(channels)
    # either image of a pair may be the one that was cut
    both = np.stack([np.r_[first, second], np.r_[second, first], np.r_[turn, INVERSE[turn]]])
    first, second, turn = np.unravel_index(np.unique(np.ravel_multi_index(tuple(both), (num, num, 8))), (num, num, 8))
    still = np.stack([fine.of(each) for each in turned])
    distance, move = _moved(channels, still, fine, first, second, turn)
    found = Candidates(first, second, turn, MOVES[move], distance)
    return _chosen(found, view, num)


def _channels(images: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Red, green and blue times the weight, and the weight, at 16 px: float32 [N, 4, 16, 16]."""
    weight = inside[..., None]
    shown = np.concatenate([images * weight, weight], axis=3, dtype=np.uint8)
    small = shown.reshape(len(shown), _SMALL, 2, _SMALL, 2, 4).mean(axis=(2, 4), dtype=np.float32)
    return np.ascontiguousarray(small.transpose(0, 3, 1, 2))


@dataclass(frozen=True)
class _Keys:
    """What keys are made of: DCT frequencies each way, their weights, and how colours enter."""

    frequencies: int
    relative: bool
    axes: np.ndarray  # float32 [features, D]

    @classmethod
    def learn(
        cls, own: np.ndarray, copies: np.ndarray, frequencies: int, size: int, relative: bool, rng: np.random.Generator
    ) -> "_Keys":
        """The ``size`` axes that tell images [n, 4, 16, 16] apart best, and hardly differ between them and copies."""
        if relative:  # half of the copies are re-coloured, too
            num = len(copies)
            gain = np.exp(rng.normal(0, 0.12, (num, 3, 1, 1)) + rng.normal(0, 0.2, (num, 1, 1, 1)))
            gain[rng.random(num) > 0.5] = 1
            copies = np.concatenate([np.minimum(copies[:, :3] * gain, 255), copies[:, 3:]], axis=1, dtype=np.float32)
        features = [_features(each, _operators(frequencies)[0], relative) for each in (own, copies)]
        change = features[0] - features[1]
        within = change.T @ change / (2 * len(change))
        within += np.eye(len(within)) * (0.01 * np.trace(within) / len(within) + 0.01)
        _, axes = linalg.eigh(np.cov(features[0].T), within)
        return cls(frequencies, relative, axes[:, ::-1][:, :size].astype(np.float32))

    def of(self, channels: np.ndarray, move: int = 0) -> np.ndarray:
        """The keys of images [N, 4, 16, 16], moved in one of ``MOVES``: float32 [N, D]."""
        return _features(channels, _operators(self.frequencies)[move], self.relative) @ self.axes


def _features(channels: np.ndarray, operator: np.ndarray, relative: bool) -> np.ndarray:
    """Coefficients of the three colours without their weighted means, and these; and their spread where relative."""
    num = len(channels)
    found = (channels.reshape(num * 4, -1) @ operator).reshape(num, 4, -1)
    colours, weight = found[:, :3], found[:, 3:]
    total = np.maximum(weight[:, :, :1], 0.05)
    mean = colours[:, :, :1] / total
    colours = colours - mean * weight
    if not relative:
        colours[:, :, :1] = 2 * mean
        return colours.reshape(num, -1)
    colours[:, :, :1] = 0
    spread = np.sqrt((colours**2).sum(axis=2, keepdims=True) / total + 1)
    colours *= 40 / spread
    colours[:, :, :1] = 20 * np.log(mean + 8)
    return np.concatenate([colours, 20 * np.log(spread + 2)], axis=2).reshape(num, -1)


@cache
def _operators(frequencies: int) -> np.ndarray:
    """Float32 [M, 256, F * F]: the low DCT coefficients of a 16 px image that is moved in each way of ``MOVES``."""
    basis = np.asarray(fft.dct(np.eye(_SMALL), axis=0, norm="ortho"), np.float32)[:frequencies] / 4
    pixels = np.eye(_SMALL**2, dtype=np.float32).reshape(1, -1, _SMALL, _SMALL)
    moved = np.concatenate([_warped(pixels, move[None]) for move in MOVES])
    return (basis @ moved @ basis.T).reshape(len(MOVES), _SMALL**2, -1)


def _warped(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Images [n, C, 16, 16] moved by the maps [n, 2, 3] of thumbnails."""
    small = maps * np.array([1, 1, 0.5], np.float32)
    maps = np.repeat(small, images.shape[1], axis=0)
    return warped(images.reshape(-1, _SMALL, _SMALL), maps).reshape(images.shape)


def _maps(zoom: np.ndarray, angle: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Maps float32 [n, 2, 3] of zooms [n], angles in degrees [n] and shifts in pixels [n, 2]."""
    cos, sin = np.cos(np.deg2rad(angle)) / zoom, np.sin(np.deg2rad(angle)) / zoom
    rows = np.stack([np.stack([cos, -sin], axis=1), np.stack([sin, cos], axis=1)], axis=1)
    return np.concatenate([rows, shift[:, :, None]], axis=2).astype(np.float32)


def _large_moves(num: int, rng: np.random.Generator) -> np.ndarray:
    """Cuts of up to 11 % of a side on each edge or on some, two in five of them turned by up to 11 degrees."""
    zoom = np.exp(rng.uniform(0, np.log(1.28), num))
    angle = rng.uniform(-11, 11, num) * (rng.random(num) < 0.4)
    room = (1 - 1 / zoom) * SIDE / 2
    return _maps(zoom, angle, rng.uniform(-1, 1, (num, 2)) * room[:, None])


def _slight_moves(num: int, rng: np.random.Generator) -> np.ndarray:
    """What is left between two of ``MOVES``."""
    zoom, angle = np.exp(rng.uniform(-0.05, 0.05, num)), rng.uniform(-5, 5, num)
    return _maps(zoom, angle, rng.uniform(-1.2, 1.2, (num, 2)))


def _nearest(
    keys: np.ndarray, apart: tuple[np.ndarray, ...], say: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (row, row of one of its nearest, how that is turned) of keys [8, N, D] of all orientations."""
    num = keys.shape[1]
    most = min(NUM_NEAREST, num)
    # the largest a.b - |b|^2 / 2 is the nearest b
    half = (keys**2).sum(axis=2) / 2
    against = [np.ascontiguousarray(np.c_[key, -norm].T) for key, norm in zip(keys, half, strict=True)]
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for start in range(0, num, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, num))
        block = np.c_[keys[0, rows], np.ones(len(rows), np.float32)]
        best = block @ against[0]
        for other in against[1:]:
            np.maximum(best, block @ other, out=best)
        for values in apart:
            best[values[rows, None] == values] = -np.inf
        least = np.partition(best, num - most, axis=1)[:, num - most, None]
        row, column = np.nonzero((best >= least) & (best > -np.inf))
        found.append((rows[row], column))
        say(len(rows))
    first, second = (np.concatenate(values) for values in zip(*found, strict=True))
    near = [
        np.einsum("nd,nd->n", keys[0, first], key[second]) - norm[second] for key, norm in zip(keys, half, strict=True)
    ]
    return first, second, np.argmax(near, axis=0)


def _moved(
    channels: np.ndarray, still: np.ndarray, fine: _Keys, first: np.ndarray, second: np.ndarray, turn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Smallest squared distance of each pair over ``MOVES`` of the second image, and that move; [n] each.

    ``still`` are the fine keys of all images in all orientations, [8, N, D].
    """
    moved = [fine.of(channels, move) for move in range(len(MOVES))]
    norms = [(keys**2).sum(axis=1) for keys in moved]
    distance, best = np.full(len(first), np.inf, np.float32), np.zeros(len(first), np.int64)
    for start in range(0, len(first), _BATCH):
        part = slice(start, start + _BATCH)
        own, rows = still[INVERSE[turn[part]], first[part]], second[part]
        length = (own**2).sum(axis=1)
        for index, (keys, norm) in enumerate(zip(moved, norms, strict=True)):
            apart = length + norm[rows] - 2 * np.einsum("nd,nd->n", own, keys[rows])
            nearer = apart < distance[part]
            distance[part][nearer], best[part][nearer] = apart[nearer], index
    return distance, best


def _chosen(found: Candidates, view: View, num: int) -> Candidates:
    """One candidate a pair, if it is among the nearest of one of its images, or nearer than ``SURE``."""
    found = _once(found, num)
    images, rows = np.r_[found.first, found.second], np.tile(np.arange(len(found.first)), 2)
    order = np.lexsort((found.distance[rows], images))
    starts = np.r_[True, np.diff(images[order]) != 0]
    place = np.arange(len(order))
    rank = place - np.maximum.accumulate(np.where(starts, place, 0))
    kept = found.distance < SURE
    kept[rows[order[rank < view.num_each]]] = True
    return take(found, kept & (found.distance < view.limit))


def _together(views: list[Candidates], num: int) -> Candidates:
    """All candidates, each pair once in each orientation, the nearest first."""
    columns = ("first", "second", "orientation", "move", "distance")
    found = Candidates(*(np.concatenate([getattr(view, name) for view in views]) for name in columns))
    found = _once(found, num)
    return take(found, np.argsort(found.distance, kind="stable"))


def _once(found: Candidates, num: int) -> Candidates:
    """The nearest of those that are of one pair."""
    low, high = np.minimum(found.first, found.second), np.maximum(found.first, found.second)
    order = np.lexsort((found.distance, low * num + high))
    pair = (low * num + high)[order]
    return take(found, order[np.r_[True, np.diff(pair) != 0][: len(pair)]])


def take(found: Candidates, rows: np.ndarray) -> Candidates:
    """The candidates at these positions, or where a mask is true."""
    return Candidates(
        found.first[rows], found.second[rows], found.orientation[rows], found.move[rows], found.distance[rows]
    )
