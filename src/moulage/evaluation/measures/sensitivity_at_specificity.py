"""Highest sensitivity of a class that keeps a given specificity, the probability of the class being its score.

The threshold is the lowest one at which the share of other images that are called positive is at most 1 - specificity,
as in scikit-learn's ``roc_curve``: ``max(tpr[fpr <= 1 - specificity])``. Nothing is interpolated: such a threshold can
be used. Images of one score are called alike. ``@0.95`` behind the name is at 95 %, without it is at 90 %.

The threshold is a quantile, and the jackknife of a quantile is inconsistent (Efron and Tibshirani, An Introduction to
the Bootstrap, 1993, section 11.6): the variance is that of a lesion bootstrap. ``docs/statistics.md`` has what covers.
"""

import numpy as np

from moulage.evaluation.measures import Measure, Outputs
from moulage.evaluation.resampling import Weighted, count_blocks, divide

ROUNDING = 1e-9
"""(1 - 0.9) * 10 is a little less than 1 in floating point, and one false positive is allowed."""


class SensitivityAtSpecificity(Measure):
    words = "sensitivity at {level} % specificity"
    needs_others = True
    resamples = 1000

    def sides(self, outputs: Outputs, k: int | None) -> tuple[np.ndarray, np.ndarray]:
        """What is to be found, [N] bool, and the score that should be high for it, [N]."""
        assert k is not None
        return outputs.labels == k, outputs.probabilities[:, k]

    def weighted(self, outputs: Outputs, k: int | None, lesions: np.ndarray) -> Weighted:
        """Bins are the distinct scores of the others from the top; what is to be found falls into that below it."""
        positive, score = self.sides(outputs, k)
        thresholds = np.unique(score[~positive])
        at_or_above, above = (len(thresholds) - np.searchsorted(thresholds, score, side) for side in ("right", "left"))
        parts = (np.where(positive, above, 0), positive), (np.where(positive, 0, at_or_above), ~positive)
        return Weighted(count_blocks(len(thresholds) + 1, lesions, *parts), self._at_the_threshold)

    def _at_the_threshold(self, counts: np.ndarray) -> np.ndarray:
        found, wrong = np.split(counts, 2)
        whole, others, row = found.sum(axis=0), wrong.sum(axis=0), 0
        allowed = self._allowed(others)
        while row + 1 < len(wrong) and (wrong[row] <= allowed).any():  # adds up the bins, and no more than it takes
            row += 1
            wrong[row] += wrong[row - 1]
            found[row] += found[row - 1]
        first = (wrong[: row + 1] > allowed).argmax(axis=0)
        return np.where(others > 0, found[first, np.arange(len(first))] / whole, np.nan)

    def _allowed(self, others: np.ndarray) -> np.ndarray:
        """How many of the others may be called positive."""
        assert self.level is not None
        return np.floor((1 - self.level) * others.astype(np.float64) + ROUNDING * others)

    def without_each(self, outputs: Outputs, k: int | None, lesions: np.ndarray) -> tuple[float, np.ndarray]:
        """A lesion of the class leaves the threshold where it is; one of the others moves it down by ranks."""
        positive, score = self.sides(outputs, k)
        others = np.flatnonzero(~positive)[np.argsort(-score[~positive], kind="stable")]
        num_lesions, num_others = int(lesions.max()) + 1, len(others)
        gone = np.bincount(lesions[others], minlength=num_lesions)
        rank = self._allowed(num_others - gone).astype(np.int64)  # of the first image that may not be called positive
        place = np.argsort(lesions[others], kind="stable")  # ranks of the first lesion's images, of the second's ...
        start = np.cumsum(gone) - gone
        for number in range(int(gone.max())):
            has = np.flatnonzero(gone > number)
            rank[has] += place[start[has] + number] <= rank[has]
        ours, threshold = np.sort(score[positive]), np.append(score[others], -np.inf)
        whole = positive & (score > threshold[int(self._allowed(np.array(num_others)))])
        hits = len(ours) - np.searchsorted(ours, threshold[rank], side="right")
        left = len(ours) - np.bincount(lesions, positive, num_lesions)
        without = divide(hits - np.bincount(lesions, whole, num_lesions), np.where(gone < num_others, left, 0))
        return float(whole.sum() / len(ours)), without

    def linearised(self, outputs: Outputs, k: int | None, lesions: np.ndarray) -> tuple[float, np.ndarray]:
        """At the threshold of all lesions, and as far down the curve as the share of the others has changed there.

        The slope of the curve is taken over two standard deviations of the others' number to either side: over a single
        rank, as the exact values take it, it does not settle with more images.
        """
        positive, score = self.sides(outputs, k)
        num_lesions, ours, others = int(lesions.max()) + 1, np.sort(score[positive]), np.sort(score[~positive])[::-1]
        rank = int(self._allowed(np.array(len(others))))
        near = max(1, round(2 * np.sqrt(rank * (1 - rank / len(others)))))
        ends = np.array([max(0, rank - near), min(len(others) - 1, rank + near)])
        found = len(ours) - np.searchsorted(ours, others[ends], side="right")
        slope = np.diff(found / len(ours))[0] / max(np.diff(ends / len(others))[0], 1 / len(others))
        called = score > others[rank]
        rates: list[np.ndarray] = []
        for side in (positive, ~positive):
            left = side.sum() - np.bincount(lesions, side, num_lesions)
            rates.append(divide((side & called).sum() - np.bincount(lesions, side & called, num_lesions), left))
        value = float((positive & called).sum() / len(ours))
        return value, rates[0] - slope * (rates[1] - (~positive & called).sum() / len(others))


MEASURE = SensitivityAtSpecificity(level=0.9)
