"""Images, or embeddings, and their targets are blended in pairs: mixup (Zhang et al. 2018).

x = l x_i + (1 - l) x_j and t = l t_i + (1 - l) t_j with l ~ Beta(alpha, alpha), one l a batch (section 2 and its
reference code). Torchvision's ``MixUp``: j is the neighbour of i in the batch, whose order is random.
"""

import numpy as np
from pydantic import Field

from moulage.plugins import Options
from moulage.treatment import Tensor, Treatment, identity

ROLE = "rival"


class Config(Options):
    """Strength."""

    alpha: float = Field(0.2, gt=0, le=10, description="of the Beta distribution: the larger, the more evenly blended")


def treat(config: Config, counts: np.ndarray) -> Treatment:
    """A mixing of batches."""
    from torchvision.transforms import v2

    blend = v2.MixUp(alpha=config.alpha)

    def mix(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        as_images = inputs if inputs.ndim == 4 else inputs[:, :, None, None]  # torchvision takes nothing but images
        mixed, mixed_targets = blend(as_images, targets)
        return mixed.view_as(inputs), mixed_targets

    return Treatment(mix=mix, key=identity(config))
