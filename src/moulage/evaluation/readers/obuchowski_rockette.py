"""Means and differences over readers, with readers *and* lesions random.

The model of Obuchowski and Rockette (1995) with the degrees of freedom of Hillis (2007, Statistics in Medicine 26,
596-619): scores of readers vary because readers differ, and are correlated because all saw the same lesions. With one
reader the lesions alone are random, and nothing is said of other readers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr, stdtrit

from moulage.evaluation.compare import CONFIDENCE, NEGLIGIBLE
from moulage.evaluation.readers.estimates import Estimate, covariance_matrix


@dataclass(frozen=True, kw_only=True)
class Inferred:
    """A mean over readers, or a difference of two, with its 95 % interval."""

    value: float
    standard_error: float | None  # None: nothing varies, and there is no interval
    degrees_of_freedom: float | None  # None where the variance counts as known (normal), or there is no interval
    low: float | None
    high: float | None
    num_readers: int
    readers_random: bool  # False with one reader: it speaks of this reader only

    def p_value(self, null: float) -> float | None:
        """Two-sided p of this value; None where there is no interval."""
        if self.standard_error is None:
            return None
        return 2 * self._tail(abs(self.value - null) / self.standard_error)

    def p_equivalence(self, centre: float, margin: float) -> float | None:
        """Larger p of the two one-sided tests of being outside ``centre`` +- ``margin`` (Schuirmann 1987)."""
        if self.standard_error is None:
            return None
        distances = self.value - (centre - margin), (centre + margin) - self.value
        return max(self._tail(distance / self.standard_error) for distance in distances)

    def interval(self, level: float) -> tuple[float, float] | None:
        """Two-sided interval at another level, such as 0.9; None where there is none."""
        if self.standard_error is None:
            return None
        half = float(stdtrit(self._degrees, (1 + level) / 2)) * self.standard_error
        return self.value - half, self.value + half

    def clipped(self, low: float = 0.0, high: float = 1.0) -> "Inferred":
        """With no end of the interval beyond what the value can be."""
        if self.low is None or self.high is None:
            return self
        return replace(self, low=max(self.low, low), high=min(self.high, high))

    def _tail(self, distance: float) -> float:
        """Share of the law of the error, in standard errors, that lies beyond."""
        return float(stdtr(self._degrees, -distance))

    @property
    def _degrees(self) -> float:
        return np.inf if self.degrees_of_freedom is None else self.degrees_of_freedom


def infer(value: float, variance: float, degrees_of_freedom: float, num_readers: int) -> Inferred:
    """An interval from a variance and its degrees of freedom, infinite for a normal one."""
    about = {"value": value, "num_readers": num_readers, "readers_random": num_readers > 1}
    if not variance > NEGLIGIBLE or np.isnan(degrees_of_freedom):
        return Inferred(**about, standard_error=None, degrees_of_freedom=None, low=None, high=None)
    degrees = float(degrees_of_freedom) if np.isfinite(degrees_of_freedom) else None
    about |= {"standard_error": float(np.sqrt(variance)), "degrees_of_freedom": degrees}
    low, high = Inferred(**about, low=None, high=None).interval(CONFIDENCE) or (None, None)
    return Inferred(**about, low=low, high=high)


def of_mean(values: np.ndarray, covariance: np.ndarray) -> Inferred:
    """Mean of the scores [R] of at least two readers, with their covariance over lesions [R, R].

    Variance (MS(R) + R max(Cov2, 0)) / R, degrees of freedom (MS(R) + R max(Cov2, 0))^2 / (MS(R)^2 / (R - 1)).
    """
    number = len(values)
    between, shared = float(np.var(values, ddof=1)), _mean_off_diagonal(covariance)
    return _infer(float(values.mean()), between, number * max(shared, 0.0), number, 1 / number)


def of_difference(values: np.ndarray, covariance: np.ndarray) -> Inferred:
    """First minus second modality, scores [2, R] of at least two readers, covariance [2 R, 2 R] in the same order.

    Variance 2 / R (MS(TR) + R max(Cov2 - Cov3, 0)); degrees of freedom as for a mean, with MS(TR).
    """
    number = values.shape[1]
    first, second, crossed = covariance[:number, :number], covariance[number:, number:], covariance[:number, number:]
    within = (_mean_off_diagonal(first) + _mean_off_diagonal(second)) / 2  # Cov2
    shared = max(within - _mean_off_diagonal(crossed), 0.0)
    interaction = float(np.var(values[0] - values[1], ddof=1)) / 2  # MS(TR) of two modalities
    return _infer(float(np.mean(values[0] - values[1])), interaction, number * shared, number, 2 / number)


def mean(estimates: Sequence[Estimate]) -> Inferred:
    """Mean over readers; with one reader, that reader's own score with the lesions alone as chance."""
    if len(estimates) == 1:
        return infer(estimates[0].value, estimates[0].variance, estimates[0].degrees_of_freedom, 1)
    return of_mean(np.array([estimate.value for estimate in estimates]), covariance_matrix(estimates))


def difference(first: Sequence[Estimate], second: Sequence[Estimate]) -> Inferred:
    """First minus second, of the same readers in the same order; with one reader as ``mean``."""
    if len(first) == 1:
        apart = first[0].deviations - second[0].deviations
        degrees = min(first[0].degrees_of_freedom, second[0].degrees_of_freedom)
        return infer(first[0].value - second[0].value, float(apart @ apart), degrees, 1)
    values = np.array([[estimate.value for estimate in modality] for modality in (first, second)])
    return of_difference(values, covariance_matrix([*first, *second]))


def _infer(value: float, mean_square: float, shared: float, num_readers: int, factor: float) -> Inferred:
    total = mean_square + shared
    degrees = total**2 / (mean_square**2 / (num_readers - 1)) if mean_square**2 > 0 else np.inf
    return infer(value, factor * total, degrees, num_readers)


def _mean_off_diagonal(matrix: np.ndarray) -> float:
    number = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / (number * (number - 1)))
