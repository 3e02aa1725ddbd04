"""Softmax head on the features of frozen networks: each image passes the network once, whatever is compared.

The features do not depend on the labels, the arm or the seed: the study computes them once for each set of images and
each network with ``embed``, keeps them under ``embed_key``, and every fit finds the penalised optimum of a softmax
regression on them (``_optimum``) in seconds.
"""

from collections.abc import Iterator
from functools import partial
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from moulage import backbones, devices, runs
from moulage.classifiers import _attention, _fitting, _frozen, _softmax, _views
from moulage.errors import RecipeError

METADATA = "optional"
EMBED_BATCH = 32
# All stages of Lite0: they pass by anyway, and bring more than larger images do; see docs/classifiers.md.
DEFAULT = _frozen.Options(layers=(0, 1, 2, 3, 4))


class Config(_softmax.Options):
    """The thesis's classifier is ``standardize = false`` and a ``descent`` with ``optimizer = "sgd"``,
    ``learning_rate = 0.01``, ``batch_size = 24``, ``steps_per_epoch = 250``, ``epochs = 25`` on a ResNet-50 with the
    stride of v1.
    """

    size: int = Field(64, ge=16, le=1024, description="pixels a side of the images handed to the backbone")
    backbone: _frozen.Options = Field(
        default=DEFAULT,
        description="the frozen network and what is taken of it; a table of your own begins without layers",
    )
    backbones: tuple[_frozen.Options, ...] = Field(
        default=(),
        max_length=16,
        description="several frozen networks, in place of backbone; the features of all stand side by side",
    )

    @model_validator(mode="after")
    def _either(self) -> Self:
        if self.backbones and self.backbone != DEFAULT:
            raise ValueError("backbone and backbones are both given; put all networks into backbones")
        return self

    @property
    def networks(self) -> tuple[_frozen.Options, ...]:
        """All frozen networks, in the order of their features."""
        return self.backbones or (self.backbone,)


def embed_parts(config: Config) -> tuple[Config, ...]:
    """A config for each network alone: the features of all, side by side, are those of ``config``."""
    return tuple(config.model_copy(update={"backbone": each, "backbones": ()}) for each in config.networks)


def embed_key(config: Config) -> str:
    """Names the features: the same key, the same features. It loads the weights, and raises what ``embed`` raises."""
    keys = [
        runs.digest(config.size, options.model_dump(exclude={"weights"}), backbones.digest(built))
        for options, built in zip(config.networks, _built(config), strict=True)
    ]
    if len(set(keys)) < len(keys):
        raise RecipeError(
            "backbones has a network twice, with the same weights and options: its features would count double.",
            "Leave one of them out, or give it another input_size, layers or symmetries.",
        )
    return keys[0] if len(keys) == 1 else runs.digest(*keys)


def embed(
    config: Config, pixels: np.ndarray, *, device: str = "cpu", progress: runs.Progress = runs.no_progress
) -> np.ndarray:
    """See ``backbones.embed``; ``DataError`` for pixels of another size, ``RecipeError`` where there are no weights."""
    _fitting.check_pixels(pixels, config.size)
    where = devices.pick_device(device)
    number, found = len(config.networks), list[np.ndarray]()
    for network in _built(config):
        before = len(found) * len(pixels)
        told = partial(_tell, progress, before, number)
        found.append(backbones.embed(network, pixels, device=where, batch_size=EMBED_BATCH, progress=told))
    return np.concatenate(found, axis=1)


def _tell(progress: runs.Progress, before: int, number: int, done: int, total: int, note: str) -> None:
    """Progress over all of so many networks; ``before``: images that earlier ones have forwarded."""
    progress(before + done, number * total, note)


def embed_seconds(config: Config, num_images: int, *, device: str = "cpu") -> float:
    """Seconds that ``embed`` takes for this many images."""
    return sum(
        backbones.seconds_to_embed(partial(embed, part, device=device), part.size, EMBED_BATCH, num_images, device)
        for part in embed_parts(config)
    )


def _built(config: Config) -> Iterator[_frozen.Frozen]:
    return (_frozen.build(options, config.size) for options in config.networks)


class Classifier(_attention.GradCam, _softmax.Classifier):
    """Softmax regression on embeddings, and on metadata beside them."""

    config: Config
    CONFIG = Config

    def __init__(self, config: Config, classes: tuple[str, ...]) -> None:
        super().__init__(config, classes)
        self.frozen: list[_frozen.Frozen] = []

    def _looked_at(self, pixels: np.ndarray, metadata: np.ndarray | None) -> list[_attention.LookedAt]:
        head, first = self._trained(), 0
        _fitting.check_pixels(pixels, self.config.size)
        _fitting.check_metadata(metadata, len(pixels), self.num_metadata)
        self.frozen = self.frozen or [each.to(self.device) for each in _built(self.config)]
        seen, width = list[_attention.LookedAt](), sum(each.num_features for each in self.frozen)
        for each in self.frozen:
            views = _views.Views(symmetries=each.options.symmetries)
            seen.append(_attention.LookedAt(each.features, head, metadata, views, width, first))
            first += each.num_features
        return seen

    def _num_features(self) -> int:
        return sum(each.num_features for each in _built(self.config))
