"""How well a reader tells real from generated images, apart from how readily the reader says "generated"."""

from dataclasses import dataclass

import numpy as np

from moulage.evaluation.compare import CONFIDENCE
from moulage.evaluation.readers.answers import FIRST_GENERATED
from moulage.evaluation.readers.estimates import Estimate, Ratings, of_counts


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share of answers with Wilson's interval (1927), which holds its 95 % on average for few answers as well.

    Clopper and Pearson's exact one holds at least 95 % in the worst case, and so is a fifth too wide for 30 answers
    (Brown, Cai and DasGupta 2001). Answers count as independent, which those of one reader to different lesions are.
    """

    count: int
    total: int
    share: float | None  # None of no answers
    low: float | None
    high: float | None

    @classmethod
    def of(cls, hits: np.ndarray) -> "Rate":
        """Of answers [N] bool."""
        from statsmodels.stats.proportion import proportion_confint

        count, total = int(hits.sum()), len(hits)
        if not total:
            return cls(count=0, total=0, share=None, low=None, high=None)
        found = np.array(proportion_confint(count, total, alpha=1 - CONFIDENCE, method="wilson"), np.float64)
        return cls(count=count, total=total, share=count / total, low=float(found[0]), high=float(found[1]))


@dataclass(frozen=True, eq=False)
class Detection:
    """What one reader said of the images of one source and of the real ones: calls from ``FIRST_GENERATED`` on.

    d' = z(H) - z(F) and the criterion c = -(z(H) + z(F)) / 2 (Macmillan and Creelman 2005), with H the share of
    generated images that are called so and F that of real ones. Half an answer is added to each of the four counts,
    always (Hautus 1995): without it a share of 0 or 1 has no z. c > 0: the reader rather says "real".
    """

    d_prime: Estimate
    criterion: Estimate
    real_called_generated: Estimate
    generated_called_real: Estimate

    @classmethod
    def of(cls, ratings: Ratings) -> "Detection":
        """At least two lesions of each kind."""
        size, strata = ratings.num_lesions, ratings.strata
        called, called_real = ratings.generated >= FIRST_GENERATED, ratings.real >= FIRST_GENERATED
        hits, misses = (np.bincount(ratings.of_generated, mask, size) for mask in (called, ~called))
        alarms, passes = (np.bincount(ratings.of_real, mask, size) for mask in (called_real, ~called_real))
        counts = np.stack([hits, misses, alarms, passes], axis=1).astype(np.float64)
        return cls(
            of_counts(counts, _d_prime, strata),
            of_counts(counts, _criterion, strata),
            of_counts(counts[:, 2:], share),
            of_counts(counts[:, 1::-1], share),
        )


def share(counts: np.ndarray) -> np.ndarray:
    """First of two counts [2, B] in their sum."""
    return counts[0] / counts.sum(axis=0)


def _scores(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """z(H) and z(F) of hits, misses, false alarms and correct rejections, [4, B]."""
    from scipy.special import ndtri

    hits, misses, alarms, passes = counts
    return ndtri((hits + 0.5) / (hits + misses + 1)), ndtri((alarms + 0.5) / (alarms + passes + 1))


def _d_prime(counts: np.ndarray) -> np.ndarray:
    hit, alarm = _scores(counts)
    return hit - alarm


def _criterion(counts: np.ndarray) -> np.ndarray:
    hit, alarm = _scores(counts)
    return -(hit + alarm) / 2
