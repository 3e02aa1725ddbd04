"""The lesion part of a comparison's variance: how a measure changes with the lesions that happen to be in the part."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moulage.evaluation import resampling
from moulage.evaluation.fits import Fits
from moulage.evaluation.predictions import log_softmax
from moulage.evaluation.scores import Measure

FEW_LESIONS = 15
"""Below this many lesions in a class its measures use the lesion jackknife."""

MEANS = ("accuracy", "recall", "log_loss")
"""Measures that are class-weighted means of a value of each image: they have a closed form."""


def image_values(fits: Fits, name: str, wanted: Measure) -> np.ndarray:
    """What a measure of ``MEANS`` averages, [S, N]: correctness or loss of each image."""
    if wanted.kind == "log_loss":
        rows = np.arange(len(fits.labels))
        return np.stack([-log_softmax(logits)[rows, fits.labels] for logits in fits.logits[name]])
    return (fits.logits[name].argmax(axis=2) == fits.labels).astype(np.float64)


def class_weights(fits: Fits, wanted: Measure) -> np.ndarray:
    """w_k, [K]: a measure of ``MEANS`` is the sum over classes of w_k times the mean of class k."""
    if not wanted.indices:
        return np.bincount(fits.labels, minlength=len(fits.classes)) / len(fits.labels)
    return np.isin(np.arange(len(fits.classes)), wanted.indices) / len(wanted.indices)


@dataclass(frozen=True)
class Lesions:
    """How each arm's values change with the lesions.

    Attributes:
        influences: arm -> [L, S]: what each lesion adds to the measure of each fit; sums to 0 in a class.
        draws: arm -> [S, B] bootstrap values; empty for the closed form and the jackknife.
    """

    method: str
    influences: dict[str, np.ndarray]
    draws: dict[str, np.ndarray]

    @classmethod
    def of(cls, fits: Fits, wanted: Measure, names: Sequence[str], num_resamples: int, seed: int) -> "Lesions":
        few = any(fits.sizes[k] < FEW_LESIONS for k in wanted.indices)
        if wanted.kind in MEANS and not few:
            return cls("closed form", {name: _influences(fits, name, wanted) for name in names}, {})
        curves = [
            [resampling.weighted(wanted.kind, k, fits.labels, p, fits.lesions) for k in wanted.indices or (0,)]
            for name in names
            for p in (np.exp(log_softmax(logits)) for logits in fits.logits[name])
        ]
        left_out = resampling.jackknife(curves, len(fits.strata)).reshape(len(names), fits.num_trials, -1)
        influences = {name: _pseudo_influences(fits, left_out[row]) for row, name in enumerate(names)}
        if few:
            return cls("lesion jackknife", influences, {})
        draws = resampling.bootstrap(curves, fits.strata, num_resamples, seed).reshape(len(names), fits.num_trials, -1)
        return cls("lesion bootstrap", influences, dict(zip(names, draws, strict=True)))

    def variances(self, fits: Fits, arm: str, reference: str) -> tuple[np.ndarray, float]:
        """V_L by class, [K], and V_E, of arm minus reference."""
        num_trials, sizes = fits.num_trials, fits.sizes
        factors = sizes / np.maximum(sizes - 1, 1)
        influence = self.influences[arm] - self.influences[reference]
        mean = influence.mean(axis=1)
        squares = factors[fits.strata] * mean**2
        by_class = np.bincount(fits.strata, squares, minlength=len(fits.classes))
        pairs = num_trials * (num_trials - 1)
        if not self.draws:
            residual = (influence - mean[:, None]) ** 2
            return by_class, float((factors[fits.strata] @ residual).sum() / pairs)
        draws = self.draws[arm] - self.draws[reference]
        shares = by_class / by_class.sum() if by_class.any() else by_class
        factor = float(shares @ factors)
        interaction = (draws - draws.mean(axis=0)).var(axis=1, ddof=1).sum() / pairs
        return shares * factor * draws.mean(axis=0).var(ddof=1), float(factor * interaction)


def _influences(fits: Fits, name: str, wanted: Measure) -> np.ndarray:
    """u_ls = w_k (c_ls - R_ks n_l) / N_k, [L, S], for a measure of ``MEANS``."""
    num_classes, num_lesions = len(fits.classes), len(fits.strata)
    values = image_values(fits, name, wanted)
    num_images = np.maximum(np.bincount(fits.labels, minlength=num_classes), 1)
    means = np.stack([np.bincount(fits.labels, row, num_classes) for row in values]) / num_images
    centred = values - means[:, fits.labels]
    weights = (class_weights(fits, wanted) / num_images)[fits.strata]
    return np.stack([np.bincount(fits.lesions, row, num_lesions) * weights for row in centred], axis=1)


def _pseudo_influences(fits: Fits, left_out: np.ndarray) -> np.ndarray:
    """Jackknife influences, [L, S], of values [S, L] with one lesion left out; used like ``_influences``."""
    sizes = fits.sizes
    means = np.stack([np.bincount(fits.strata, row, len(sizes)) for row in left_out]) / np.maximum(sizes, 1)
    return ((means[:, fits.strata] - left_out) * ((sizes - 1) / np.maximum(sizes, 1))[fits.strata]).T
