"""Cross-entropy weighted by class: by inverse frequency or by the effective number of images (Cui et al. 2019).

The mean over the images of a batch of -sum_k w_k t_k log p_k, with weights that sum to the number of classes (section
4). It is not divided by the weights of the batch, so that an image counts the same whatever its neighbours.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from moulage.balance import _weights
from moulage.plugins import Options
from moulage.treatment import Tensor, Treatment, identity

ROLE = "rival"


class Config(Options):
    """How a class's weight follows from its number of images."""

    mode: Literal["inverse", "effective_number"] = Field(
        "effective_number", description="1 / n_k, or (1 - beta) / (1 - beta^n_k)"
    )
    beta: float = Field(
        0.999, ge=0, lt=1, description="of effective_number: 0 gives equal weights, near 1 those of inverse"
    )


def treat(config: Config, counts: np.ndarray) -> Treatment:
    """A weighted loss."""
    inverse = config.mode == "inverse"
    weights = _weights.inverse(counts) if inverse else _weights.effective_number(counts, config.beta)

    def loss(logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        return -(logits.log_softmax(1) * targets @ logits.new_tensor(weights))

    return Treatment(loss=loss, key=identity(config))
