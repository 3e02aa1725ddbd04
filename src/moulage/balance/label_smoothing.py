"""A share of every target is spread over all classes (Szegedy et al. 2016).

t = (1 - e) t + e / K (section 7). Where the classifier smooths labels itself, this comes on top.
"""

import numpy as np
from pydantic import Field

from moulage.plugins import Options
from moulage.treatment import Tensor, Treatment, identity

ROLE = "rival"


class Config(Options):
    """Strength."""

    epsilon: float = Field(0.1, ge=0, lt=1, description="share of the target that is spread over all classes")


def treat(config: Config, counts: np.ndarray) -> Treatment:
    """A loss of smoothed targets."""

    def loss(logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        smoothed = (1 - config.epsilon) * targets + config.epsilon / logits.shape[1]
        return -(logits.log_softmax(1) * smoothed).sum(1)

    return Treatment(loss=loss, key=identity(config))
