"""Images of rare classes are drawn more often, those of frequent ones less: class-balanced sampling to a power.

Class j makes up the share n_j^q / sum_i n_i^q of an epoch with q = 1 - power (Kang et al. 2020, equation 1): power 1 is
class-balanced, 0.5 square-root sampling (Mahajan et al., ECCV 2018), 0 every image once. An epoch is as long as that of
every other arm.
"""

import numpy as np
from pydantic import Field

from moulage.plugins import Options
from moulage.treatment import Treatment, check_counts, identity

ROLE = "rival"


class Config(Options):
    """Strength."""

    power: float = Field(1.0, ge=0, le=1, description="1: all classes equally often, 0.5: square root, 0: as they are")


def treat(config: Config, counts: np.ndarray) -> Treatment:
    """Class weights."""
    weights = check_counts(counts) ** (1 - config.power)
    return Treatment(class_weights=tuple(weights.tolist()), key=identity(config))
