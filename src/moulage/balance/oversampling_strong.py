"""Oversampling whose images are strongly augmented, so that a rare image is rarely seen twice alike.

``oversampling`` with ``trivialaugment`` or ``randaugment`` on every image, whatever its class: an augmentation of rare
classes alone would tell a network the class.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from moulage.balance import _policies
from moulage.plugins import Options
from moulage.treatment import Treatment, check_counts, identity

ROLE = "rival"


class Config(Options):
    """Strength of both."""

    power: float = Field(1.0, ge=0, le=1, description="1: all classes equally often, 0.5: square root, 0: as they are")
    policy: Literal["trivialaugment", "randaugment"] = Field("trivialaugment", description="how images are augmented")
    num_operations: int = Field(2, ge=1, le=14, description="of randaugment: changes an image")
    magnitude: int = Field(9, ge=0, le=30, description="of randaugment: strength of a change")


def treat(config: Config, counts: np.ndarray) -> Treatment:
    """Class weights and an image policy."""
    weights = check_counts(counts) ** (1 - config.power)
    if config.policy == "trivialaugment":
        augment = _policies.trivialaugment()
    else:
        augment = _policies.randaugment(config.num_operations, config.magnitude)
    classes = tuple(weights.tolist())
    return Treatment(class_weights=classes, augment=augment, needs_pixels=True, key=identity(config))
