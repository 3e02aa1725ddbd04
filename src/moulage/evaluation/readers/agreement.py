"""Do readers agree with each other, and with themselves? Krippendorff's alpha, 1 for perfect and 0 for chance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from moulage.evaluation.compare import CONFIDENCE

Level = Literal["nominal", "ordinal"]
RESAMPLES = 2000
CHUNK = 200
"""Resamples at a time."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Krippendorff's alpha (Krippendorff 2019, chapter 12) with a percentile interval over lesions."""

    what: str
    level: Level
    alpha: float | None  # None where all answers are the same: nothing could have disagreed
    low: float | None
    high: float | None
    num_items: int  # with at least two answers
    num_readers: int


def alpha(values: np.ndarray, level: Level) -> float | None:
    """Krippendorff's alpha of values [I, R] float64, NaN where a reader said nothing; None where it is undefined.

    ``ordinal`` takes the values in their order, ``nominal`` as names. Items with fewer than two answers do not count.
    """
    found = _alphas(_coincidences(values).sum(axis=0)[None], level)[0]
    return None if np.isnan(found) else float(found)


def agreement(values: np.ndarray, lesions: np.ndarray, level: Level, what: str, rng: np.random.Generator) -> Agreement:
    """Alpha of values [I, R], with an interval from resamples of the lesions [I] that the items are of."""
    paired = (~np.isnan(values)).sum(axis=1) >= 2
    about = {"what": what, "level": level, "num_items": int(paired.sum())}
    about["num_readers"] = int((~np.isnan(values[paired])).any(axis=0).sum())
    found = alpha(values, level)
    if found is None:
        return Agreement(**about, alpha=None, low=None, high=None)
    names, codes = np.unique(lesions[paired], return_inverse=True)
    table = _coincidences(values)
    by_lesion = np.zeros((len(names), *table.shape[1:]))
    np.add.at(by_lesion, codes, table)
    drawn = list[np.ndarray]()
    for first in range(0, RESAMPLES, CHUNK):
        size = min(CHUNK, RESAMPLES - first)
        weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=size)
        drawn.append(_alphas(np.tensordot(weights, by_lesion, axes=1), level))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(np.concatenate(drawn), [tail, 1 - tail])
    return Agreement(**about, alpha=found, low=float(low), high=float(high))


def codes_of(names: Sequence[str]) -> np.ndarray:
    """Names as numbers, float64 [N]; NaN for an empty one."""
    known = {name: code for code, name in enumerate(sorted(set(names) - {""}))}
    return np.array([known.get(name, np.nan) for name in names], np.float64)


def _coincidences(values: np.ndarray) -> np.ndarray:
    """What each item with at least two answers adds to the coincidence matrix, [U, C, C]; values in rising order."""
    known = np.unique(values[~np.isnan(values)])
    counts = (values[:, :, None] == known).sum(axis=1).astype(np.float64)  # answers by item and value
    counts = counts[counts.sum(axis=1) >= 2]
    pairs = counts[:, :, None] * counts[:, None, :]
    pairs[:, np.arange(len(known)), np.arange(len(known))] -= counts  # no answer is paired with itself
    return pairs / (counts.sum(axis=1) - 1)[:, None, None]


def _alphas(coincidences: np.ndarray, level: Level) -> np.ndarray:
    """Alpha of coincidence matrices [B, C, C], NaN where all answers are the same."""
    margins = coincidences.sum(axis=2)
    number, size = margins.sum(axis=1), margins.shape[1]
    if level == "nominal":
        distances = np.broadcast_to(1 - np.eye(size), coincidences.shape)
    else:  # squared: all answers from one value to the other, the two ends as half
        middle = np.cumsum(margins, axis=1) - margins / 2
        distances = (middle[:, :, None] - middle[:, None, :]) ** 2
    observed = (coincidences * distances).sum(axis=(1, 2))
    expected = (margins[:, :, None] * margins[:, None, :] * distances).sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 0, 1 - (number - 1) * observed / expected, np.nan)
