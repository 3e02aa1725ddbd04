"""Focal loss: images that are classified well already count less (Lin et al. 2017).

FL = -alpha_t (1 - p_t)^gamma log p_t (equation 5), with p_t the softmax probability of the class instead of the sigmoid
of the paper. For soft targets the terms of the classes are weighted by the targets. Gamma = 0 is cross-entropy.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from moulage.balance import _weights
from moulage.plugins import Options
from moulage.treatment import Tensor, Treatment, check_counts, identity

ROLE = "rival"
SMALLEST = 1e-12
"""Of 1 - p: below it the power, whose derivative is infinite at 0 for gamma < 1, is taken as constant."""


class Config(Options):
    """How much less, and whether classes are weighted as well."""

    gamma: float = Field(2.0, ge=0, le=10, description="the higher, the less an image counts that is classified well")
    alpha: Literal["none", "inverse"] = Field(
        "none", description="weights of classes: all 1, or by inverse frequency, with the sum of the number of classes"
    )


def treat(config: Config, counts: np.ndarray) -> Treatment:
    """A focal loss."""
    counts = check_counts(counts)
    alpha = _weights.inverse(counts) if config.alpha == "inverse" else np.ones(len(counts))

    def loss(logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        log_p = logits.log_softmax(1)
        rest = (-log_p.expm1()).clamp(min=SMALLEST)  # 1 - p without cancellation
        return -(rest**config.gamma * log_p * targets @ logits.new_tensor(alpha))

    return Treatment(loss=loss, key=identity(config))
