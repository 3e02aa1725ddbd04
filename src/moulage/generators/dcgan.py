"""Deep convolutional GAN of the 2020 thesis, at 32 to 128 pixels, for one class or several.

The networks and settings follow the thesis (after Radford et al. 2015, arXiv:1511.06434): a dense layer to 4 x 4 x 256,
nearest up-sampling and 3 x 3 convolutions; a discriminator of strided convolutions; binary cross-entropy, Adam. What is
corrected: the loss is taken from logits (the thesis put a sigmoid under a loss that expects logits), real images are
seen in all 8 symmetries of the square, and images are drawn from an average of the weights.
"""

from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from moulage.generators import _adversary, _batch_norm, _learner
from moulage.generators._dcgan import Game, Synthesis, last_side

Channels = Annotated[int, Field(ge=1, le=2048)]
Activation = Literal["relu", "leaky_relu", "elu", "silu", "gelu"]


class Config(_adversary.Options):
    """The defaults are the thesis's values at 64 pixels."""

    base_channels: int = Field(256, ge=4, le=2048, description="channels of the generator's first, smallest map")
    generator_channels: tuple[Channels, ...] = Field(
        (256, 256, 128, 128),
        min_length=1,
        max_length=8,
        description="channels after each doubling of the size; surplus ones are left out, the last is repeated",
    )
    generator_kernel: int = Field(3, ge=3, le=7, description="side of the generator's kernels")
    generator_activation: Activation = Field("relu", description="activation of the generator")
    upsampling: Literal["nearest", "bilinear", "transposed"] = Field(
        "nearest", description="how the generator doubles the size: interpolation before the convolution, or by it"
    )
    first_norm: bool = Field(False, description="batch norm of the generator's first, smallest map too")
    output: Literal["convolution", "doubling"] = Field(
        "convolution",
        description="what makes the colours: a 3 x 3 convolution after the last doubling, or that doubling",
    )
    discriminator_channels: tuple[Channels, ...] = Field(
        (32, 64, 128, 256, 512), min_length=1, max_length=8, description="channels of the discriminator's convolutions"
    )
    discriminator_strides: tuple[Literal[1, 2], ...] = Field(
        (2, 2, 2, 1, 1), description="their strides, one each; 2 halves the size"
    )
    discriminator_kernel: int = Field(3, ge=3, le=7, description="side of the discriminator's kernels")
    discriminator_activation: Activation = Field("leaky_relu", description="activation of the discriminator")
    dropout: float = Field(0.25, ge=0, lt=1, description="dropout after each convolution of the discriminator")
    label_smoothing: float = Field(0.0, ge=0, le=0.5, description="real images get the target 1 - this")

    @model_validator(mode="after")
    def _networks_are_consistent(self) -> Self:
        if len(self.discriminator_strides) != len(self.discriminator_channels):
            raise ValueError("discriminator_strides and discriminator_channels must have the same length")
        if self.generator_kernel % 2 == 0 and self.upsampling != "transposed":
            raise ValueError('an even generator_kernel needs upsampling = "transposed"')
        return self


class Generator(_learner.Learner[Config]):
    """Draws images of ``classes`` at ``size`` x ``size`` pixels, a multiple of 8 from 16 to 256; see ``Learner``."""

    NAME, CONFIG, SIZES = "dcgan", Config, range(16, 257, 8)

    def __init__(self, config: Config, classes: tuple[str, ...], size: int) -> None:
        super().__init__(config, classes, size)
        last_side(config, size)

    def game(self) -> Game:
        return Game(self.config, len(self.classes), self.size, self.device)

    def network_of(self) -> nn.Module:
        return Synthesis(self.config, len(self.classes), self.size).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def draw(self, network: Synthesis, labels: Tensor, seeds: np.ndarray) -> Tensor:
        return network(_learner.latents(seeds, self.config.latent_size).to(self.device), labels)

    def settle(self, network: Synthesis, labels: np.ndarray) -> None:
        """Measure batch norm anew. The thesis's momentum of 0.8 has therefore no counterpart among the options."""

        def draw(some: np.ndarray, seeds: np.ndarray) -> Tensor:
            return self.draw(network, self._targets(some), seeds)

        _batch_norm.settle(network, labels, _learner.SAMPLE_BATCH, draw)
