"""Share of a class's images that are found: for which it is the most probable class."""

import numpy as np

from moulage.evaluation.measures import ImageMean, Outputs


class Recall(ImageMean):
    words = "recall"
    warns = True

    def image_values(self, outputs: Outputs) -> np.ndarray:
        return outputs.predicted == outputs.labels


MEASURE = Recall()
