"""Frozen networks of the probe: pooled features of one network's stages, averaged over symmetries of the square."""

from typing import Any

import torch
from pydantic import Field, field_validator
from torch import nn

from moulage import backbones, randomness
from moulage.classifiers import _views
from moulage.errors import RecipeError


class Options(backbones.Backbone):
    """A frozen network, and what is taken of it."""

    layers: tuple[int, ...] = Field(
        default=(),
        description="stages whose maps' means are features too, beside the last ones; 0 is the finest, as timm's "
        "forward_intermediates counts them",
    )
    symmetries: _views.Number = Field(
        default=1,
        description="features are means over 1: the image as it is; 2: also mirrored; 4: the quarter turns; 8: all "
        "symmetries of the square. It takes as many times as long",
    )

    @field_validator("layers")
    @classmethod
    def _are_stages(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if list(layers) != sorted({layer for layer in layers if layer >= 0}):
            raise ValueError("must be different numbers from 0 on, in rising order")
        return layers


class Frozen(nn.Module):
    """Features float32 [N, D] of images float32 [N, 3, S, S] in 0..1: those of the last layer, then of ``layers``."""

    def __init__(self, features: backbones.Features, options: Options, size: int) -> None:
        super().__init__()
        self.features, self.options, self.num_features = features, options, features.num_features
        if options.layers:
            self.num_features = self._measured(size)

    def _measured(self, size: int) -> int:
        try:
            with torch.inference_mode():
                return self.eval()(torch.zeros(1, 3, size, size)).shape[1]
        except (AttributeError, IndexError, TypeError, AssertionError, RuntimeError, ValueError) as error:
            raise RecipeError(
                f"{self.options.name} has no stages {list(self.options.layers)} whose maps could be used: {error}.",
                "Count layers from 0, or leave them out.",
            ) from None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        views = [self._of_view(view) for view in _views.symmetries(images, self.options.symmetries)]
        return views[0] if len(views) == 1 else torch.stack(views).mean(0)

    def _of_view(self, images: torch.Tensor) -> torch.Tensor:
        if not self.options.layers:
            return self.features(images)
        network: Any = self.features.network
        last, maps = network.forward_intermediates(
            self.features.prepared(images), indices=list(self.options.layers), output_fmt="NCHW"
        )
        return torch.cat([network.forward_head(last), *(each.mean((2, 3)) for each in maps)], 1)


def build(options: Options, size: int) -> Frozen:
    """The network with its weights, in eval mode on the CPU; ``RecipeError`` as ``backbones.build``."""
    with randomness.reproducible("backbone", 0):  # weights = "scratch" are random, but always the same
        return Frozen(backbones.build(options, size), options, size)
