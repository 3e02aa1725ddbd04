"""Share of the images of which their class is said."""

import numpy as np

from moulage.evaluation.measures import ImageMean, Outputs


class Accuracy(ImageMean):
    words = "accuracy"
    forms = ("overall",)
    by_class = False
    decided = True

    def image_values(self, outputs: Outputs) -> np.ndarray:
        return outputs.predicted == outputs.labels


MEASURE = Accuracy()
