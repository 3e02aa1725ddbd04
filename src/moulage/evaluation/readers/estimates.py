"""One reader's score, and how much each lesion moves it: all that variances and covariances need.

The covariance of two scores is the product of their ``deviations``, whichever of the three ways they come from: the
jackknife and the bootstrap over lesions, or the placements of DeLong, DeLong and Clarke-Pearson (1988), summed over
the images of a lesion as in Obuchowski (1997).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Covariance = Literal["jackknife", "bootstrap", "delong"]
COVARIANCES: tuple[Covariance, ...] = ("jackknife", "bootstrap", "delong")
RESAMPLES = 1000
GENERATED, REAL_ONLY = 0, 1
"""Strata of lesions: those with a generated image, and the others."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """A score of one reader.

    ``deviations`` [K] float64: their products with those of another score sum to the covariance. K are the lesions of
    the whole test, or the resamples. ``degrees_of_freedom``: of the variance, for the reader alone (Satterthwaite over
    the strata of lesions, as Brunner and Munzel 2000 have it for an AUC).
    """

    value: float
    deviations: np.ndarray
    degrees_of_freedom: float

    @property
    def variance(self) -> float:
        return float(self.deviations @ self.deviations)


@dataclass(frozen=True, eq=False)
class Ratings:
    """Confidence of one reader in the images of one source and in the real ones."""

    generated: np.ndarray  # [M] float64
    real: np.ndarray  # [N] float64
    of_generated: np.ndarray  # lesion of each generated image, [M] int64 in 0..num_lesions-1
    of_real: np.ndarray  # [N] int64
    num_lesions: int  # of the whole test

    @property
    def wins(self) -> np.ndarray:
        """Whether a generated image is rated above a real one, a tie as half: [M, N] float64."""
        return (np.sign(self.generated[:, None] - self.real[None]) + 1) / 2

    @property
    def strata(self) -> np.ndarray:
        """``GENERATED``, ``REAL_ONLY`` or -1 (not in these ratings) for each lesion, [num_lesions] int64."""
        strata = np.full(self.num_lesions, -1)
        strata[self.of_real] = REAL_ONLY
        strata[self.of_generated] = GENERATED
        return strata

    @property
    def sizes(self) -> tuple[int, int]:
        """Lesions with generated images, and lesions with real ones."""
        return len(np.unique(self.of_generated)), len(np.unique(self.of_real))


def auc(ratings: Ratings, covariance: Covariance = "jackknife", weights: np.ndarray | None = None) -> Estimate:
    """Share of pairs of a generated and a real image in which the generated one is called so with more confidence.

    A tie counts half. At least two lesions of each kind. ``weights`` [num_lesions, B] of ``draw`` for the bootstrap,
    the same for all readers and sources.
    """
    if covariance == "delong":
        return _delong(ratings)
    jackknifed = _jackknifed_auc(ratings)
    if covariance == "jackknife":
        return jackknifed
    if weights is None:
        raise ValueError("The bootstrap needs weights.")
    ours, theirs = weights[ratings.of_generated], weights[ratings.of_real]
    values = ((ratings.wins @ theirs) * ours).sum(axis=0) / (ours.sum(axis=0) * theirs.sum(axis=0))
    deviations = (values - values.mean()) / np.sqrt(len(values) - 1)
    return Estimate(jackknifed.value, deviations, jackknifed.degrees_of_freedom)


def draw(strata: np.ndarray, num_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each lesion is drawn in each resample, [L, B] float64; each stratum [L] keeps its number of lesions."""
    weights = np.empty((len(strata), num_resamples))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        share = np.full(len(members), 1 / len(members))
        weights[members] = rng.multinomial(len(members), share, size=num_resamples).T
    return weights


def of_counts(
    counts: np.ndarray, value: Callable[[np.ndarray], np.ndarray], strata: np.ndarray | None = None
) -> Estimate:
    """A function of counts that lesions add up to, by the jackknife.

    Args:
        counts: what each lesion adds, [L, C] float64; a lesion that adds nothing is not there.
        value: counts [C, B] to values [B].
        strata: see ``Ratings.strata``; one stratum where there is none.
    """
    total, there = counts.sum(axis=0), counts.any(axis=1)
    found = value(np.concatenate([total[None], total - counts]).T)
    strata = np.where(there, 0, -1) if strata is None else strata
    return _jackknifed(float(found[0]), found[1:], np.where(there, strata, -1))


def _jackknifed_auc(ratings: Ratings) -> Estimate:
    wins, size = ratings.wins, ratings.num_lesions
    ours = np.bincount(ratings.of_generated, wins.sum(axis=1), size)
    theirs = np.bincount(ratings.of_real, wins.sum(axis=0), size)
    both = wins * (ratings.of_generated[:, None] == ratings.of_real[None])  # pairs within a lesion, taken away twice
    within = np.bincount(ratings.of_generated, both.sum(axis=1), size)
    left = len(ratings.generated) - np.bincount(ratings.of_generated, minlength=size)
    left_real = len(ratings.real) - np.bincount(ratings.of_real, minlength=size)
    without = (wins.sum() - ours - theirs + within) / (left * left_real)
    return _jackknifed(float(wins.mean()), without, ratings.strata)


def _jackknifed(value: float, without: np.ndarray, strata: np.ndarray) -> Estimate:
    """From the values without each lesion, [L]; those of stratum -1 are not there."""
    there = strata >= 0
    number = int(there.sum())
    deviations = np.where(there, without - without[there].mean(), 0.0) * np.sqrt((number - 1) / number)
    return Estimate(value, deviations, _satterthwaite(deviations, strata))


def _delong(ratings: Ratings) -> Estimate:
    wins, size = ratings.wins, ratings.num_lesions
    value, num_ours, num_theirs = float(wins.mean()), *ratings.sizes
    ours = np.bincount(ratings.of_generated, wins.mean(axis=1) - value, size) / len(ratings.generated)
    theirs = np.bincount(ratings.of_real, wins.mean(axis=0) - value, size) / len(ratings.real)
    deviations = ours * np.sqrt(num_ours / (num_ours - 1)) + theirs * np.sqrt(num_theirs / (num_theirs - 1))
    return Estimate(value, deviations, _satterthwaite(deviations, ratings.strata))


def _satterthwaite(deviations: np.ndarray, strata: np.ndarray) -> float:
    """Of a sum of variances, one a stratum, each with one degree less than it has lesions; infinite of none."""
    parts = [
        (float((deviations[strata == s] ** 2).sum()), int((strata == s).sum()) - 1)
        for s in np.unique(strata[strata >= 0])
    ]
    below = sum(part**2 / degrees for part, degrees in parts if degrees > 0)
    return sum(part for part, _ in parts) ** 2 / below if below > 0 else np.inf


def covariance_matrix(estimates: Sequence[Estimate]) -> np.ndarray:
    """Of the scores, [E, E] float64."""
    deviations = np.stack([estimate.deviations for estimate in estimates])
    return deviations @ deviations.T
