"""Share of the images whose class is the most probable one."""

import numpy as np

from moulage.evaluation.measures import ImageMean, Outputs


class Accuracy(ImageMean):
    words = "accuracy"
    forms = ("overall",)
    by_class = False

    def image_values(self, outputs: Outputs) -> np.ndarray:
        return outputs.predicted == outputs.labels


MEASURE = Accuracy()
