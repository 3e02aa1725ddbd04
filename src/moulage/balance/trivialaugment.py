"""One random change of random strength to each image: TrivialAugment (Müller and Hutter 2021).

Torchvision's ``TrivialAugmentWide``, before the classifier's own augmentation. What it leaves empty is black.
"""

import numpy as np

from moulage.balance import _policies
from moulage.plugins import Options
from moulage.treatment import Treatment, identity

ROLE = "rival"


class Config(Options):
    """No options: that is its point."""


def treat(config: Config, counts: np.ndarray) -> Treatment:
    """An image policy."""
    return Treatment(augment=_policies.trivialaugment(), needs_pixels=True, key=identity(config))
