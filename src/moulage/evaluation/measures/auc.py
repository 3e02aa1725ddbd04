"""Area under the ROC curve of a class against the rest: share of pairs in the right order, a tie counting half."""

import numpy as np

from moulage.evaluation.measures import Measure, Outputs, sklearn_metric
from moulage.evaluation.resampling import Weighted, accumulate, count_matrix, divide


class Auc(Measure):
    words = "AUC"
    forms = ("overall", "class")
    needs_others = True

    def value(self, outputs: Outputs, k: int | None) -> float | None:
        roc_auc_score = sklearn_metric("roc_auc_score")
        positive = outputs.labels == k
        if not positive.any() or positive.all():
            return None
        return roc_auc_score(positive, outputs.probabilities[:, k])

    def weighted(self, outputs: Outputs, k: int | None, lesions: np.ndarray) -> Weighted:
        """Half of a negative that ties with a positive falls one bin further down."""
        positive, score = outputs.labels == k, outputs.probabilities[:, k]
        thresholds = np.unique(score[positive])
        last = len(thresholds)
        places = [last - np.searchsorted(thresholds, score[~positive], side) for side in ("right", "left")]
        rows = [last - np.searchsorted(thresholds, score[positive], "right"), *(last + 1 + place for place in places)]
        columns = [lesions[positive], lesions[~positive], lesions[~positive]]
        values = np.repeat([1.0, 0.5], [positive.sum(), 2 * (~positive).sum()])
        shape = 2 * (last + 1), int(lesions.max()) + 1
        return Weighted(count_matrix(np.concatenate(rows), np.concatenate(columns), values, shape), _share)

    def without_each(self, outputs: Outputs, k: int | None, lesions: np.ndarray) -> tuple[float, np.ndarray]:
        """A lesion takes its pairs away; costs a sort."""
        positive, score = outputs.labels == k, outputs.probabilities[:, k]
        ours, theirs = np.sort(score[positive]), np.sort(score[~positive])
        pairs = np.empty(len(score))
        sides = [np.searchsorted(theirs, score[positive], side) for side in ("left", "right")]
        pairs[positive] = (sides[0] + sides[1]) / 2
        sides = [np.searchsorted(ours, score[~positive], side) for side in ("left", "right")]
        pairs[~positive] = len(ours) - (sides[0] + sides[1]) / 2
        right, num_lesions = pairs[positive].sum(), int(lesions.max()) + 1
        kept = [mask.sum() - np.bincount(lesions, mask, num_lesions) for mask in (positive, ~positive)]
        without = right - np.bincount(lesions, pairs, num_lesions)
        return float(right / (len(ours) * len(theirs))), divide(without, kept[0] * kept[1])


def _share(counts: np.ndarray) -> np.ndarray:
    """Of counts of positives, then of negatives, by bins from the top down."""
    positives, negatives = np.split(counts, 2)
    num_positives, higher = positives.sum(axis=0, dtype=np.float64), accumulate(negatives)
    wrong = np.multiply(positives, higher, out=positives).sum(axis=0, dtype=np.float64)
    return 1 - wrong / (num_positives * higher[-1])


MEASURE = Auc()
