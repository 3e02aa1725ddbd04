"""Share of a class's images that are found: of which it is said."""

import numpy as np

from moulage.evaluation.measures import ImageMean, Outputs


class Recall(ImageMean):
    words = "recall"
    decided = True
    warns = True

    def image_values(self, outputs: Outputs) -> np.ndarray:
        return outputs.predicted == outputs.labels


MEASURE = Recall()
