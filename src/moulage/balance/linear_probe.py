"""Only the head is trained, on the frozen backbone.

What the network that the training starts from knows already, with the classifier's own augmentation (Kumar et al. 2022
compare both). The classifier ``probe`` is one already, and refuses.
"""

import numpy as np

from moulage.plugins import Options
from moulage.treatment import Treatment, identity

ROLE = "rival"


class Config(Options):
    """No options."""


def treat(config: Config, counts: np.ndarray) -> Treatment:
    """A frozen backbone."""
    return Treatment(freeze_backbone=True, key=identity(config))
