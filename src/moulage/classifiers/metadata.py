"""Metadata alone, no image: a softmax regression that says how much age, sex and site tell without a photograph.

It is the probe's head on ``classifier.metadata``, trained alike: a study with it and one of the probe differ in nothing
but what the classifier reads.
"""

import numpy as np
from pydantic import Field

from moulage import runs
from moulage.classifiers import _softmax

METADATA = "required"
TYPICAL = 16  # columns that a few metadata make, for the timing


class Config(_softmax.Options):
    """Options of the softmax regression."""

    size: int = Field(32, ge=16, le=1024, description="pixels a side at which images are decoded; none is read")


def embed_key(config: Config) -> str:
    """The same whatever the options: nothing is read off an image."""
    return runs.digest("metadata")


def embed(
    config: Config, pixels: np.ndarray, *, device: str = "cpu", progress: runs.Progress = runs.no_progress
) -> np.ndarray:
    """No feature of an image: float32 [N, 0]."""
    return np.empty((len(pixels), 0), np.float32)


def embed_seconds(config: Config, num_images: int, *, device: str = "cpu") -> float:
    """Nothing is computed."""
    return 0.0


class Classifier(_softmax.Classifier):
    """Softmax regression on metadata."""

    config: Config
    CONFIG = Config

    def _num_features(self) -> int:
        return TYPICAL
