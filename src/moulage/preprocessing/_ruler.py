"""Rulers: rows of dark, parallel ticks with equal gaps."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from moulage.preprocessing._tools import library

MOST_TICKS = 60
"""Candidates that are held against each other: those nearest to the border."""
NUM_TICKS = 5
"""Ticks that make a ruler."""
CONTRAST = 15
"""How much darker than the skin a tick is, of 255."""

Tick = tuple[int, np.ndarray, float, float]
"""Its part, centre (x, y), length and direction in radians."""


def ticks_of_rulers(image: np.ndarray) -> np.ndarray:
    """Pixels of a ruler's ticks in an image uint8 [H, W, 3]: bool [H, W].

    Ticks are small, dark and long; those of a ruler are parallel, their centres lie on a line that is not along them,
    and the gaps between them are alike.
    """
    cv2 = library()
    side = min(image.shape[:2])
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (max(5, round(0.04 * side) | 1),) * 2)
    dark = (cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, kernel) > CONTRAST).astype(np.uint8)
    number, parts, stats, centres = cv2.connectedComponentsWithStats(dark, connectivity=8)
    found = (_tick(part, parts, stats[part], centres[part], side) for part in range(1, number))
    ticks = [tick for tick in found if tick is not None]
    ticks = sorted(ticks, key=lambda tick: _from_border(tick[1], image.shape[:2]))[:MOST_TICKS]
    return np.isin(parts, _row(ticks, NUM_TICKS, 0.012 * side))


def _tick(part: int, parts: np.ndarray, stats: np.ndarray, centre: np.ndarray, side: int) -> Tick | None:
    """A part that is long, thin and small, else None."""
    left, top, width, height, area = (int(value) for value in stats[:5])
    if area < 4 or not 0.015 * side <= max(width, height) <= 0.15 * side:
        return None
    y, x = np.nonzero(parts[top : top + height, left : left + width] == part)
    values, vectors = np.linalg.eigh(np.cov(np.stack([x, y]).astype(np.float64)) + np.eye(2) / 12)
    if values[1] < 3 * values[0]:
        return None
    return part, centre, float(np.sqrt(12 * values[1])), float(np.arctan2(vectors[1, 1], vectors[0, 1]))


def _from_border(centre: np.ndarray, shape: tuple[int, int]) -> float:
    x, y = centre
    return min(x, y, shape[1] - x, shape[0] - y)


def _row(ticks: Sequence[Tick], least: int, tolerance: float) -> list[int]:
    """The parts of the longest row of parallel ticks with equal gaps; none where it has fewer than ``least``."""
    if len(ticks) < least:
        return []
    centres, angles = np.array([tick[1] for tick in ticks]), np.array([tick[3] for tick in ticks])
    best = np.zeros(0, int)
    for first, second in combinations(list(range(len(ticks))), 2):
        along = centres[second] - centres[first]
        gap = float(np.hypot(*along))
        if not _parallel(angles[first], angles[second], 0.25) or gap < 2:
            continue
        if _parallel(angles[first], np.arctan2(along[1], along[0]), 0.6):
            continue
        along = along / gap
        offset = centres - centres[first]
        off = np.abs(offset[:, 0] * along[1] - offset[:, 1] * along[0])
        on = np.flatnonzero((off < max(tolerance, 1.5)) & _parallel(angles, angles[first], 0.25))
        if len(on) > len(best) and len(on) >= least and _even(offset[on] @ along):
            best = on
    return [ticks[index][0] for index in best.tolist()]


def _parallel(a: np.ndarray | float, b: np.ndarray | float, within: float) -> np.ndarray:
    """Whether directions differ by less than an angle in radians; there and back is the same direction."""
    return np.abs((np.asarray(a) - b + np.pi / 2) % np.pi - np.pi / 2) < within


def _even(places: np.ndarray) -> bool:
    """Whether the gaps between places are alike; a tick may be missed here and there."""
    gaps = np.diff(np.sort(places))
    unit = float(np.median(gaps))
    times = np.maximum(np.round(gaps / unit), 1)
    return unit >= 2 and bool((np.abs(gaps / unit - times) < 0.25).mean() >= 0.8) and float(times.max()) <= 3
