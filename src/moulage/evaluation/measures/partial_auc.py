"""Area between the ROC curve of a class and the line at a given sensitivity: 0 to 1 - sensitivity.

The measure of ISIC 2024 (the challenge "Skin Cancer Detection with 3D-TBP", its page on Kaggle), above a sensitivity of
80 %: it lies in 0..0.2, and a score by chance has 0.02. Ties are joined by straight lines, as in scikit-learn's
``roc_auc_score(..., max_fpr=0.2)`` of the curve turned about. ``@0.9`` behind the name is above 90 %, without it 80 %.
"""

import numpy as np

from moulage.evaluation.measures import Measure, Outputs
from moulage.evaluation.resampling import Weighted, accumulate, count_blocks


class PartialAuc(Measure):
    words = "partial AUC above {level} % sensitivity"
    heading = "partial AUC above {level} %"
    needs_others = True
    unit, scale, digits = "", 1.0, 4

    def weighted(self, outputs: Outputs, k: int | None, lesions: np.ndarray) -> Weighted:
        """Bins begin at the distinct scores of the class's images, from the top down."""
        positive, score = outputs.labels == k, outputs.probabilities[:, k]
        thresholds = np.unique(score[positive])
        at_or_above, above = (len(thresholds) - np.searchsorted(thresholds, score, side) for side in ("right", "left"))
        parts = (at_or_above, positive), (at_or_above, ~positive), (above, ~positive)
        return Weighted(count_blocks(len(thresholds) + 1, lesions, *parts), self._area)

    def _area(self, counts: np.ndarray) -> np.ndarray:
        """Walks up the curve from its end, where every image is called positive, as far as the level allows.

        From one score of positives to the next, p more of them are missed and the negatives that are called negative
        grow from those below the score to those at it or below; a part x of that step adds p x (below + x tied / 2).
        """
        assert self.level is not None
        here, at_or_above, above = np.split(counts, 3)
        found, at_or_above, above = (accumulate(part) for part in (here.copy(), at_or_above, above))
        positives, negatives = found[-1], at_or_above[-1]
        room = (1 - self.level) * positives - (positives - found)
        part = np.clip(np.divide(room, here, out=np.zeros_like(room), where=here > 0), 0, 1)
        steps = here * part * (negatives - at_or_above + (at_or_above - above) * part / 2)
        return steps.sum(axis=0, dtype=np.float64) / positives / negatives


MEASURE = PartialAuc(level=0.8)
