"""Softmax head on the features of a frozen backbone: each image passes the network once, whatever is compared.

The features do not depend on the labels, the arm or the seed: the study computes them once for each set of images with
``embed``, keeps them under ``embed_key``, and every fit finds the penalised optimum of a softmax regression on them
(``_optimum``) in seconds.
"""

from functools import partial

import numpy as np
from pydantic import Field

from moulage import backbones, devices, randomness, runs
from moulage.classifiers import _attention, _fitting, _softmax

METADATA = "optional"
EMBED_BATCH = 32


class Config(_softmax.Options):
    """The thesis's classifier is ``standardize = false`` and a ``descent`` with ``optimizer = "sgd"``,
    ``learning_rate = 0.01``, ``batch_size = 24``, ``steps_per_epoch = 250``, ``epochs = 25`` on a ResNet-50 with the
    stride of v1.
    """

    size: int = Field(64, ge=16, le=1024, description="pixels a side of the images handed to the backbone")
    backbone: backbones.Backbone = Field(default=backbones.Backbone(), description="the frozen network and its weights")


def embed_key(config: Config) -> str:
    """Names the features: the same key, the same features. It loads the weights, and raises what ``embed`` raises."""
    features = _features(config)
    return runs.digest(config.size, config.backbone.model_dump(exclude={"weights"}), backbones.digest(features))


def embed(
    config: Config, pixels: np.ndarray, *, device: str = "cpu", progress: runs.Progress = runs.no_progress
) -> np.ndarray:
    """See ``backbones.embed``; ``DataError`` for pixels of another size, ``RecipeError`` where there are no weights."""
    _fitting.check_pixels(pixels, config.size)
    features, where = _features(config), devices.pick_device(device)
    return backbones.embed(features, pixels, device=where, batch_size=EMBED_BATCH, progress=progress)


def embed_seconds(config: Config, num_images: int, *, device: str = "cpu") -> float:
    """Seconds that ``embed`` takes for this many images."""
    return backbones.seconds_to_embed(partial(embed, config, device=device), config.size, EMBED_BATCH, num_images)


def _features(config: Config) -> backbones.Features:
    with randomness.reproducible("backbone", 0):  # weights = "scratch" are random, but always the same
        return backbones.build(config.backbone, config.size)


class Classifier(_attention.GradCam, _softmax.Classifier):
    """Softmax regression on embeddings, and on metadata beside them."""

    config: Config
    CONFIG = Config

    def __init__(self, config: Config, classes: tuple[str, ...]) -> None:
        super().__init__(config, classes)
        self.backbone: backbones.Features | None = None

    def _looked_at(self, pixels: np.ndarray, metadata: np.ndarray | None) -> _attention.LookedAt:
        head = self._trained()
        _fitting.check_pixels(pixels, self.config.size)
        _fitting.check_metadata(metadata, len(pixels), self.num_metadata)
        if self.backbone is None:
            self.backbone = _features(self.config).to(self.device)
        return _attention.LookedAt(self.backbone, head, metadata)

    def _num_features(self) -> int:
        return _features(self.config).num_features
