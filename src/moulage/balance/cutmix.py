"""A rectangle of each image is replaced by that of another, and so is its share of the target (Yun et al. 2019).

The rectangle has the share 1 - l of the area before it is cut at the border, l ~ Beta(alpha, alpha), one a batch;
targets are blended by the area that was really replaced (equations 1 and 2). Torchvision's ``CutMix``: the other image
is the neighbour in the batch, whose order is random.
"""

import numpy as np
from pydantic import Field

from moulage.plugins import Options
from moulage.treatment import Tensor, Treatment, identity

ROLE = "rival"


class Config(Options):
    """Strength."""

    alpha: float = Field(1.0, gt=0, le=10, description="of the Beta distribution: 1 makes all areas equally likely")


def treat(config: Config, counts: np.ndarray) -> Treatment:
    """A mixing of batches."""
    from torchvision.transforms import v2

    cut = v2.CutMix(alpha=config.alpha)

    def mix(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return cut(inputs, targets)

    return Treatment(mix=mix, needs_pixels=True, key=identity(config))
