"""Highest specificity for a class that keeps a given sensitivity, the probability of the class being its score.

``max(1 - fpr[tpr >= sensitivity])`` of scikit-learn's ``roc_curve``: ``sensitivity_at_specificity`` with the class and
the others changed about. ``@0.95`` behind the name is at 95 %, without it is at 90 %.
"""

import numpy as np

from moulage.evaluation.measures import Outputs
from moulage.evaluation.measures.sensitivity_at_specificity import SensitivityAtSpecificity


class SpecificityAtSensitivity(SensitivityAtSpecificity):
    words = "specificity at {level} % sensitivity"

    def sides(self, outputs: Outputs, k: int | None) -> tuple[np.ndarray, np.ndarray]:
        positive, score = super().sides(outputs, k)
        return ~positive, -score


MEASURE = SpecificityAtSensitivity(level=0.9)
