"""Average precision of a class against the rest: sum of precision times step in recall, ties counting together."""

import numpy as np

from moulage.evaluation.measures import Measure, Outputs, sklearn_metric
from moulage.evaluation.resampling import Weighted, accumulate, count_blocks, divide

TINY = np.float32(1e-20)
"""Added to a count of images: no image makes a precision of 0, and any other count is not changed in float32."""


class AveragePrecision(Measure):
    words = "average precision"
    abbreviation = "AP"
    warns = True

    def value(self, outputs: Outputs, k: int | None) -> float | None:
        if not (positive := outputs.labels == k).any():
            return None
        return sklearn_metric("average_precision_score")(positive, outputs.probabilities[:, k])

    def weighted(self, outputs: Outputs, k: int | None, lesions: np.ndarray) -> Weighted:
        positive, score = outputs.labels == k, outputs.probabilities[:, k]
        thresholds = np.unique(score[positive])
        bins = len(thresholds) - np.searchsorted(thresholds, score, side="right")
        parts = (bins, positive), (bins, np.ones(len(bins)))
        return Weighted(count_blocks(len(thresholds) + 1, lesions, *parts), _steps)

    def without_each(self, outputs: Outputs, k: int | None, lesions: np.ndarray) -> tuple[float, np.ndarray]:
        """Sum over thresholds t of p_t TP_t / N_t, over P: p_t positives at t, TP_t positives and N_t images from t up.

        Thresholds are the distinct scores of positives, from the top. A lesion with c of its images at or above t
        changes N_t to N_t - c, and TP_t to TP_t - c if it is positive; c is constant between two of its images. So
        with the prefix sums of the changed terms for c = 1, 2, 3 ... an image costs one difference of two sums.
        """
        positive, score = outputs.labels == k, outputs.probabilities[:, k]
        thresholds = np.unique(score[positive])
        last = len(thresholds)
        place = last - np.searchsorted(thresholds, score, side="right")  # first threshold that the image is at or above
        at = np.bincount(place[positive], minlength=last).astype(float)
        found, images = at.cumsum(), np.bincount(place, minlength=last + 1)[:last].cumsum().astype(float)
        num_lesions, num_positive = int(lesions.max()) + 1, at.sum()
        full = float((at * found / images).sum())
        order = np.lexsort((place, lesions))
        order = order[place[order] < last]  # images below all positives change nothing
        lesion, start, is_positive = lesions[order], place[order], positive[order]
        fresh = np.r_[True, lesion[1:] != lesion[:-1]]
        count = np.arange(len(order)) - np.maximum.accumulate(np.where(fresh, np.arange(len(order)), 0)) + 1
        stop = np.r_[np.where(fresh[1:], last, start[1:]), last]
        change, own = np.zeros(len(order)), np.zeros(len(order))
        unchanged = _prefix(at * found / images)
        # A lesion's images at one threshold leave together: the number at or above it is that of the last of them.
        lowest = np.flatnonzero(np.r_[stop[:-1] != start[:-1], True])
        there = count[lowest[np.searchsorted(lowest, np.arange(len(order)))]]
        for c in range(1, int(count.max()) + 1):
            rows = count == c
            for sign in (False, True):
                chosen = rows & (is_positive == sign)
                if chosen.any():
                    precision = (found - c * sign) / np.maximum(images - c, 1)
                    sums = _prefix(at * precision) - unchanged
                    change[chosen] = sums[stop[chosen]] - sums[start[chosen]]
            gone = is_positive & (there == c)
            own[gone] = ((found - c) / np.maximum(images - c, 1))[start[gone]]
        total = full + np.bincount(lesion, change - own, num_lesions)
        left = num_positive - np.bincount(lesions, positive, num_lesions)
        return full / num_positive, divide(total, left)


def _steps(counts: np.ndarray) -> np.ndarray:
    """Of counts of positives, then of all images, by bins from the top down."""
    steps, images = np.split(counts, 2)
    found, images = accumulate(steps.copy()), accumulate(images)
    images += TINY
    precision = np.divide(found, images, out=images)
    return np.einsum("tb,tb->b", steps, precision) / found[-1]


def _prefix(values: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, 2 ... values."""
    return np.concatenate([[0.0], np.cumsum(values)])


MEASURE = AveragePrecision()
