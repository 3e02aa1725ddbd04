"""Plain training, then a fresh head, trained class-balanced on the frozen backbone: cRT (Kang et al. 2020).

The second stage (section 4) takes its epochs from the first, so that as many images are seen as by any other arm; it
starts from the epoch of the first stage that validated best, and batch normalisation keeps its averages. The
probe, whose backbone is frozen anyway, goes to the optimum of the second stage: class-balanced sampling.
"""

import numpy as np
from pydantic import Field

from moulage.plugins import Options
from moulage.treatment import Treatment, identity

ROLE = "rival"


class Config(Options):
    """How long the second stage is."""

    share: float = Field(0.25, gt=0, lt=1, description="share of the epochs, the last ones, that retrain the head")


def treat(config: Config, counts: np.ndarray) -> Treatment:
    """A second stage."""
    return Treatment(retrain_head=config.share, key=identity(config))
