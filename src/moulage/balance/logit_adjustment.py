"""Cross-entropy of logits to which tau times the log of the class shares is added (Menon et al. 2021).

-log(e^(z_y + tau log pi_y) / sum_j e^(z_j + tau log pi_j)) (equation 10): with tau = 1 the minimum of the balanced
error is its own.
"""

import numpy as np
from pydantic import Field

from moulage.plugins import Options
from moulage.treatment import Tensor, Treatment, check_counts, identity

ROLE = "rival"


class Config(Options):
    """Strength."""

    tau: float = Field(1.0, ge=0, le=5, description="strength; 0: cross-entropy, 1: balanced")


def treat(config: Config, counts: np.ndarray) -> Treatment:
    """A loss with class shares in it."""
    counts = check_counts(counts)
    shift = config.tau * np.log(counts / counts.sum())

    def loss(logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        return -((logits + logits.new_tensor(shift)).log_softmax(1) * targets).sum(1)

    return Treatment(loss=loss, key=identity(config))
