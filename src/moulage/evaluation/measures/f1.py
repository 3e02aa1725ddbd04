"""Harmonic mean of a class's precision and recall; undefined where it has no image and is never said."""

import numpy as np

from moulage.evaluation.measures import Measure, Outputs
from moulage.evaluation.resampling import Weighted, ratio


class F1(Measure):
    words = "F1"
    forms = ("class",)
    decided = True

    def weighted(self, outputs: Outputs, k: int | None, lesions: np.ndarray) -> Weighted:
        positive, predicted = outputs.labels == k, outputs.predicted == k
        return ratio(positive & predicted, (positive.astype(float) + predicted) / 2, lesions)


MEASURE = F1()
