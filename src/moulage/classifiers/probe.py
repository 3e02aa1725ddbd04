"""Softmax head on the features of a frozen backbone: each image passes the network once, whatever is compared.

The features do not depend on the labels, the arm or the seed: the study computes them once for each set of images with
``embed``, keeps them under ``embed_key``, and every fit trains a softmax regression on them in seconds.
"""

import time

import numpy as np
from pydantic import Field

from moulage import backbones, devices, randomness, runs
from moulage.classifiers import _attention, _fitting, _softmax

METADATA = "optional"
EMBED_BATCH = 32


class Config(_softmax.Options):
    """The thesis's classifier is ``optimizer = "sgd"``, ``learning_rate = 0.01``, ``batch_size = 24``,
    ``steps_per_epoch = 250``, ``epochs = 25``, ``standardize = false`` on a ResNet-50 with the stride of v1.
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
    """Features of the frozen backbone, each image forwarded once.

    Args:
        config: backbone and size.
        pixels: uint8 [N, size, size, 3]; may be memory-mapped.
        device: where the network runs.
        progress: called after each batch with the number of images done.

    Returns:
        float32 [N, D].

    Raises:
        RecipeError: the weights cannot be loaded.
        DataError: pixels are of another size or type.
    """
    _fitting.check_pixels(pixels, config.size)
    features, where = _features(config), devices.pick_device(device)
    size = features.num_features
    return backbones.embed(features, size, pixels, device=where, batch_size=EMBED_BATCH, progress=progress)


def embed_seconds(config: Config, num_images: int, *, device: str = "cpu") -> float:
    """Seconds that ``embed`` takes for this many images, from two batches: for the estimate before a run."""
    times = []

    def tick(done: int, total: int, note: str) -> None:
        times.append(time.perf_counter())

    embed(config, np.zeros((3 * EMBED_BATCH, config.size, config.size, 3), np.uint8), device=device, progress=tick)
    return (times[-1] - times[0]) / (2 * EMBED_BATCH) * num_images


def _features(config: Config) -> backbones.Features:
    with randomness.reproducible("backbone", 0):  # weights = "scratch" are random, but always the same
        return backbones.build(config.backbone, config.size)


class Classifier(_softmax.Classifier):
    """Softmax regression on embeddings, and on metadata beside them."""

    config: Config
    CONFIG = Config

    def __init__(self, config: Config, classes: tuple[str, ...]) -> None:
        super().__init__(config, classes)
        self.backbone: backbones.Features | None = None

    def attention(
        self,
        pixels: np.ndarray,
        labels: np.ndarray,
        metadata: np.ndarray | None = None,
        *,
        shuffled: str = "",
        draw: int = 0,
    ) -> tuple[np.ndarray, int]:
        """Grad-CAM through backbone and head, float32 [N, S, S] in -1..1, and the cells a side, of pixels uint8
        [N, S, S, 3]; see ``_attention.grad_cam``.
        """
        head = self._trained()
        _fitting.check_pixels(pixels, self.config.size)
        _fitting.check_metadata(metadata, len(pixels), self.num_metadata)
        device = head.mean.device
        if self.backbone is None:
            self.backbone = _features(self.config).to(device)
        return _attention.grad_cam(
            self.backbone, head, pixels, labels, device, beside=metadata, shuffled=shuffled, draw=draw
        )

    def _num_features(self) -> int:
        return _features(self.config).num_features
