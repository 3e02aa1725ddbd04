"""Two random changes of colour or geometry to each image, all of one strength: RandAugment (Cubuk et al. 2020).

Torchvision's implementation, before the classifier's own augmentation. What it leaves empty is black.
"""

import numpy as np
from pydantic import Field

from moulage.balance import _policies
from moulage.plugins import Options
from moulage.treatment import Treatment, identity

ROLE = "rival"


class Config(Options):
    """Number and strength of the changes."""

    num_operations: int = Field(2, ge=1, le=14, description="changes an image (N of the paper)")
    magnitude: int = Field(9, ge=0, le=30, description="strength of a change (M of the paper), in 31 steps")


def treat(config: Config, counts: np.ndarray) -> Treatment:
    """An image policy."""
    augment = _policies.randaugment(config.num_operations, config.magnitude)
    return Treatment(augment=augment, needs_pixels=True, key=identity(config))
