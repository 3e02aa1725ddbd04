"""Cross-entropy of logits to which the log of the class counts is added: balanced softmax (Ren et al. 2020).

p_j = n_j e^z_j / sum_i n_i e^z_i (theorem 1): the counts explain how rare a class is, and the logits that are left suit
balanced data. Meta-sampling is not part of it. It equals ``logit_adjustment`` with tau = 1.
"""

import numpy as np

from moulage.plugins import Options
from moulage.treatment import Tensor, Treatment, check_counts, identity

ROLE = "rival"


class Config(Options):
    """No options."""


def treat(config: Config, counts: np.ndarray) -> Treatment:
    """A loss with counts in it."""
    log_counts = np.log(check_counts(counts))

    def loss(logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        return -((logits + logits.new_tensor(log_counts)).log_softmax(1) * targets).sum(1)

    return Treatment(loss=loss, key=identity(config))
