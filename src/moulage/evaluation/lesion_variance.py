"""The lesion part of a comparison's variance: how a measure changes with the lesions that happen to be in the part."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from moulage.evaluation import resampling
from moulage.evaluation.alignment import Fits
from moulage.evaluation.measure_names import Wanted
from moulage.evaluation.measures import ImageMean

FEW_LESIONS = 15
"""Below this many lesions in a class its measures use the lesion jackknife."""
Contrast = Mapping[str, float]
"""Arm -> its weight in a sum of the arms' scores; the weights add up to 0."""


def pair(arm: str, reference: str) -> dict[str, float]:
    """The contrast of two arms: the first less the second."""
    return {arm: 1.0, reference: -1.0}


def weighted_sum(contrast: Contrast, of_arms: Mapping[str, np.ndarray]) -> np.ndarray:
    """The sum over the arms of a contrast of what each of them has."""
    return sum((weight * of_arms[name] for name, weight in contrast.items()), start=np.zeros(()))


@dataclass(frozen=True)
class Lesions:
    """How each arm's values change with the lesions."""

    method: str  # ``closed form``, ``lesion jackknife`` or ``lesion bootstrap``
    values: dict[str, np.ndarray]  # arm -> [S]: the measure of each set of predictions
    # arm -> [L, S]: what each lesion adds to the measure of each set; sums to 0 in a class
    influences: dict[str, np.ndarray]
    draws: dict[str, np.ndarray]  # arm -> [S, B] bootstrap values; empty for the closed form and the jackknife

    @classmethod
    def of(cls, fits: Fits, wanted: Wanted, num_resamples: int | None = None, seed: int = 0) -> "Lesions":
        """For all arms; bootstrap in place of the jackknife where resamples are asked for, or the measure needs them.

        With few lesions only where the measure needs them: a bootstrap of few lesions is too short for others, and the
        jackknife then covers.

        Classes need two lesions each where the measure names or averages classes.
        """
        few = any(fits.sizes[k] < FEW_LESIONS for k in wanted.indices)
        if isinstance(wanted.measure, ImageMean) and not few:
            found = {name: _means(fits, name, wanted.measure, wanted.indices) for name in fits.logits}
            return cls("closed form", *_unzip(found), {})
        num_resamples = wanted.measure.resamples if num_resamples is None else num_resamples
        if few and not wanted.measure.resamples:
            num_resamples = 0
        found = {name: _jackknife(fits, name, wanted, exact=not num_resamples) for name in fits.logits}
        if not num_resamples:
            return cls("lesion jackknife", *_unzip(found), {})
        curves = [
            [wanted.measure.weighted(outputs, k, fits.lesions) for k in wanted.classes]
            for name in fits.logits
            for outputs in fits.outputs(name)
        ]
        draws = resampling.bootstrap(curves, fits.strata, num_resamples, seed).reshape(len(found), fits.num_sets, -1)
        return cls("lesion bootstrap", *_unzip(found), dict(zip(found, draws, strict=True)))

    def variances(self, fits: Fits, contrast: Contrast) -> tuple[np.ndarray, float]:
        """V_L by class, [K], and V_E, of a contrast of arms."""
        num_sets, factors = fits.num_sets, correction(fits.sizes)
        influence = weighted_sum(contrast, self.influences)
        mean = influence.mean(axis=1)
        by_class = by_stratum(fits, mean**2)
        pairs = max(1, num_sets * (num_sets - 1))
        if not self.draws:
            residual = ((influence - mean[:, None]) ** 2).sum(axis=1)
            return by_class, float(by_stratum(fits, residual).sum() / pairs)
        draws = weighted_sum(contrast, self.draws)
        shares = by_class / by_class.sum() if by_class.any() else fits.sizes / fits.sizes.sum()
        factor = float(shares @ factors)
        interaction = (draws - draws.mean(axis=0)).var(axis=1, ddof=1).sum() / pairs
        return shares * factor * draws.mean(axis=0).var(ddof=1), float(factor * interaction)


def correction(sizes: np.ndarray) -> np.ndarray:
    """m_k / (m_k - 1), [K]; of a class with one lesion nothing is known, and its influence is 0."""
    return sizes / np.maximum(sizes - 1, 1)


def by_stratum(fits: Fits, values: np.ndarray) -> np.ndarray:
    """Sum over the lesions of each class of values [L], times m_k / (m_k - 1): [K]."""
    return np.bincount(fits.strata, correction(fits.sizes)[fits.strata] * values, minlength=len(fits.classes))


def class_weights(fits: Fits, indices: tuple[int, ...]) -> np.ndarray:
    """w_k, [K]: a mean over images is the sum over classes of w_k times the mean of class k."""
    if not indices:
        return np.bincount(fits.labels, minlength=len(fits.classes)) / len(fits.labels)
    return np.isin(np.arange(len(fits.classes)), indices) / len(indices)


def _means(fits: Fits, name: str, measure: ImageMean, indices: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Values [S] and influences u_ls = w_k (c_ls - R_ks n_l) / N_k, [L, S], of a mean over images."""
    num_classes, num_lesions, num_sets = len(fits.classes), len(fits.strata), fits.num_sets
    weights = class_weights(fits, indices)
    num_images = np.maximum(np.bincount(fits.labels, minlength=num_classes), 1)
    size = np.bincount(fits.lesions, minlength=num_lesions)
    scores, influences = np.empty(num_sets), np.empty((num_lesions, num_sets))
    for s, outputs in enumerate(fits.outputs(name)):
        of_lesion = np.bincount(fits.lesions, measure.image_values(outputs), num_lesions)
        mean = np.bincount(fits.strata, of_lesion, num_classes) / num_images
        scores[s] = weights @ mean
        influences[:, s] = (weights / num_images)[fits.strata] * (of_lesion - mean[fits.strata] * size)
    return scores, influences


def _jackknife(fits: Fits, name: str, wanted: Wanted, exact: bool) -> tuple[np.ndarray, np.ndarray]:
    """Values [S] and influences [L, S] from values without each lesion; the mean over the measure's classes of each.

    The influence is (m_k - 1) / m_k (mean_l t_(-l) - t_(-l)). What was computed for a class serves the next measure.
    """
    parts, leave_out = [], wanted.measure.without_each if exact else wanted.measure.linearised
    for k in wanted.classes:
        if (key := (wanted.measure, k, name, exact)) not in fits.memo:
            pairs = [leave_out(outputs, k, fits.lesions) for outputs in fits.outputs(name)]
            without = np.stack([row for _, row in pairs], axis=1)
            fits.memo[key] = np.array([value for value, _ in pairs]), _pseudo_influences(fits, without)
        parts.append(fits.memo[key])
    return np.mean([part[0] for part in parts], axis=0), np.mean([part[1] for part in parts], axis=0)


def _pseudo_influences(fits: Fits, without: np.ndarray) -> np.ndarray:
    """Jackknife influences, [L, S], of values [L, S] with one lesion left out.

    A class with a single lesion is given none: without it the measure is of something else.
    """
    sizes = fits.sizes
    alone = sizes[fits.strata] < 2
    without = np.where(alone[:, None], 0.0, without)
    means = np.stack([np.bincount(fits.strata, column, len(sizes)) for column in without.T], axis=1)
    means /= np.maximum(sizes, 1)[:, None]
    return (means[fits.strata] - without) * ((sizes - 1) / np.maximum(sizes, 1))[fits.strata, None]


def _unzip(
    found: dict[str, tuple[np.ndarray, np.ndarray]],
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    return {name: pair[0] for name, pair in found.items()}, {name: pair[1] for name, pair in found.items()}
