"""Mean of minus the log of the true class's probability, in nats, from the logits and never clipped."""

import numpy as np

from moulage.evaluation.measures import ImageMean, Outputs
from moulage.evaluation.predictions import log_softmax


class LogLoss(ImageMean):
    words = "log-loss"
    forms = ("overall",)
    by_class = False
    lower_is_better = True
    unit, scale, digits = "nats", 1.0, 3

    def image_values(self, outputs: Outputs) -> np.ndarray:
        return -log_softmax(outputs.logits)[np.arange(len(outputs.labels)), outputs.labels]


MEASURE = LogLoss()
