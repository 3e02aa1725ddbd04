"""Larger margins for rarer classes, and weights of classes late in the training: LDAM-DRW (Cao et al. 2019).

LDAM: cross-entropy after the logit of the true class y is lowered by a margin D_y,

    -log(e^(z_y - D_y) / (e^(z_y - D_y) + sum_(j != y) e^z_j))

with D_j = C / n_j^(1/4) (section 3.2). DRW: from a share of the training on, classes are weighted by effective number
(section 3.3; weights that sum to K). The paper normalises features and weights of the last layer and multiplies the
cosines by 30, with a largest margin of 0.5 of a cosine. Here the margin is in units of logits (docs/rivals.md has the
papers, and what follows from it), so the default scale is far below 30. A classifier at
the optimum of its loss minimises that of the end, with its weights.
"""

import numpy as np
from pydantic import Field

from moulage.balance import _weights
from moulage.plugins import Options
from moulage.treatment import Tensor, Treatment, check_counts, identity

ROLE = "rival"


class Config(Options):
    """Margins, and when the weights begin."""

    max_margin: float = Field(0.5, ge=0, description="margin of the rarest class, before scaling: it sets C")
    scale: float = Field(4.0, gt=0, description="what margins are multiplied by, as logits are larger than cosines")
    beta: float = Field(0.9999, ge=0, lt=1, description="of the effective number of images (see class_weights)")
    defer: float = Field(0.8, ge=0, le=1, description="share of the training before classes are weighted; 1: never")


def treat(config: Config, counts: np.ndarray) -> Treatment:
    """A loss that changes with progress."""
    counts = check_counts(counts)
    margins = config.scale * config.max_margin * (counts.min() / counts) ** 0.25
    weights = _weights.effective_number(counts, config.beta)

    def loss(logits: Tensor, targets: Tensor, progress: float) -> Tensor:
        # [n, K, K]: row k of an image holds its logits with the margin of class k, as if k were the true class.
        lowered = logits[:, None, :] - logits.new_tensor(margins).diag()
        log_p = lowered.log_softmax(2).diagonal(dim1=1, dim2=2)
        now = weights if progress >= config.defer < 1 else np.ones(len(weights))
        return -(log_p * targets @ logits.new_tensor(now))

    return Treatment(loss=loss, key=identity(config))
