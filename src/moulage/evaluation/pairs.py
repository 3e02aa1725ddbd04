"""Tests of one pair of *fixed* models: no statement about the methods that made them.

A fit varies with its seed. Two methods that are equal give two models that differ, and a test that takes the models as
fixed then finds a difference (exact McNemar: in 9 to 42 % of simulated studies). So nothing here enters a verdict.
"""

import math
from dataclasses import dataclass

import numpy as np

from moulage.errors import DataError
from moulage.evaluation.alignment import Fits
from moulage.evaluation.compare import CONFIDENCE, NEGLIGIBLE, infer
from moulage.evaluation.lesion_variance import Lesions, pair
from moulage.evaluation.measure_names import Wanted


@dataclass(frozen=True)
class McNemar:
    """Images that only one of two models gets right, and the exact two-sided p of no difference."""

    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True)
class DeLong:
    """Two correlated AUCs: first minus second, its 95 % interval (normal) and two-sided p.

    ``standard_error``, interval and p are None where the scores vary in nothing, such as two equal models.
    """

    auc_first: float
    auc_second: float
    difference: float
    standard_error: float | None
    low: float | None
    high: float | None
    p_value: float | None


@dataclass(frozen=True)
class Fixed:
    """One fit minus another under a measure, with the lesions as the only chance: interval (t) and two-sided p."""

    difference: float
    standard_error: float
    degrees_of_freedom: float
    low: float
    high: float
    p_value: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """Exact McNemar test (McNemar 1947): of the images that one model alone gets right, half should be each one's.

    The arguments are whether each model is right, [N] bool. Images are taken as independent, which photographs of one
    lesion are not.
    """
    from scipy.stats import binomtest

    if first.shape != second.shape or first.ndim != 1:
        raise DataError(f"McNemar's test needs two lists of equal length, not {first.shape} and {second.shape}.")
    first, second = first.astype(bool), second.astype(bool)
    ours, theirs = int((first & ~second).sum()), int((second & ~first).sum())
    p = float(binomtest(ours, ours + theirs).pvalue) if ours + theirs else 1.0
    return McNemar(ours, theirs, p)


def delong(positive: np.ndarray, first: np.ndarray, second: np.ndarray) -> DeLong:
    """Compare the AUCs of two scores of the same images (DeLong, DeLong and Clarke-Pearson 1988).

    The placements of equation 3 come from midranks (Sun and Xu 2014, section III): among all images the midrank of a
    positive, less its midrank among positives, counts the negatives below it, a tie as half. Images are taken as
    independent. ``positive`` is [N] bool, at least two of each; scores are [N] float, more is more positive.
    """
    from scipy.special import ndtr, ndtri

    positive = positive.astype(bool)
    num_positive, num_negative = int(positive.sum()), int((~positive).sum())
    if positive.ndim != 1 or first.shape != positive.shape or second.shape != positive.shape:
        raise DataError("DeLong's test needs a label and two scores for each image.")
    if min(num_positive, num_negative) < 2:
        raise DataError(
            f"DeLong's test needs at least two images of the class and two others, not {num_positive} and "
            f"{num_negative}."
        )
    of_positives, of_negatives = zip(*(_placements(positive, score) for score in (first, second)), strict=True)
    ours, theirs = (float(placements.mean()) for placements in of_positives)
    # Equation 5: S = S10 / m + S01 / n; the contrast (1, -1) leaves the variance of the difference.
    variance = float(
        np.var(of_positives[0] - of_positives[1], ddof=1) / num_positive
        + np.var(of_negatives[0] - of_negatives[1], ddof=1) / num_negative
    )
    difference = ours - theirs
    if variance < NEGLIGIBLE:
        return DeLong(ours, theirs, difference, None, None, None, None)
    error = math.sqrt(variance)
    half = float(ndtri((1 + CONFIDENCE) / 2)) * error
    p = float(2 * ndtr(-abs(difference) / error))
    return DeLong(ours, theirs, difference, error, difference - half, difference + half, p)


def fixed(fits: Fits, wanted: Wanted, first: str, second: str) -> Fixed | None:
    """One fit minus another with the lesion part of the variance alone, of fits with one set of predictions an arm.

    None where nothing varies, or a class has one lesion.
    """
    if fits.num_sets != 1:
        raise DataError(f"A pair of fixed models has one fit each, not {fits.num_sets}.", "Compare all fits instead.")
    if any(fits.sizes[k] < 2 for k in wanted.indices):
        return None
    lesions = Lesions.of(fits, wanted)
    by_class, _ = lesions.variances(fits, pair(first, second))
    difference = float(lesions.values[first][0] - lesions.values[second][0])
    found = infer(difference, by_class, sizes=fits.sizes)
    names = ("standard_error", "degrees_of_freedom", "low", "high", "p_value")
    return Fixed(difference, *(found[name] for name in names)) if found else None


def _placements(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """V10 of each positive, the share of negatives below it; V01 of each negative, the share of positives above it."""
    from scipy.stats import rankdata

    ours, theirs = score[positive], score[~positive]
    together = rankdata(np.concatenate([ours, theirs]))  # midranks
    below = together[: len(ours)] - rankdata(ours)
    above = together[len(ours) :] - rankdata(theirs)
    return below / len(theirs), 1 - above / len(ours)
