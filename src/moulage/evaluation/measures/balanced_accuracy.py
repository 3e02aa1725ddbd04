"""Mean recall of the classes that occur."""

from moulage.evaluation.measures.recall import Recall


class BalancedAccuracy(Recall):
    words = "balanced accuracy"
    forms = ("overall",)


MEASURE = BalancedAccuracy()
