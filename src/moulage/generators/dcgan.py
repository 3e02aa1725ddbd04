"""Deep convolutional GAN of the 2020 thesis, at 32 to 128 pixels, for one class or several.

The networks and settings follow the thesis (after Radford et al. 2015, arXiv:1511.06434): a dense layer to 4 x 4 x 256,
nearest up-sampling and 3 x 3 convolutions; a discriminator of strided convolutions; binary cross-entropy, Adam. What is
corrected: the loss is taken from logits (the thesis put a sigmoid under a loss that expects logits), real images are
seen in all 8 symmetries of the square, and images are drawn from an average of the weights, whose batch norm is
measured anew: the thesis's momentum of 0.8 has therefore no counterpart among the options.
"""

from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from moulage.errors import RecipeError
from moulage.generators import _adversary
from moulage.generators._adversary import Judged
from moulage.generators._condition import LABEL_STD, LabelEmbedding, Projection
from moulage.generators._upconv import UpConv
from moulage.optimisers import Model

ACTIVATIONS: dict[str, Any] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}
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


class Synthesis(nn.Module):
    """Latents float32 [B, latent_size] and labels int64 [B] -> images [B, 3, size, size] in -1..1."""

    def __init__(self, config: Config, num_classes: int, size: int) -> None:
        super().__init__()
        num_doublings, self.num_inputs = doublings(size), config.latent_size
        self.side, self.base = size >> num_doublings, config.base_channels
        activation = ACTIVATIONS[config.generator_activation]
        self.embedding = LabelEmbedding(num_classes, config.latent_size, LABEL_STD) if num_classes > 1 else None
        self.dense = nn.Linear(config.latent_size * (2 if self.embedding else 1), self.base * self.side**2)
        layers: list[nn.Module] = [nn.BatchNorm2d(self.base)] if config.first_norm else []
        layers.append(activation())
        num_in, by_doubling = self.base, config.output == "doubling"
        for i in range(num_doublings - by_doubling):
            num_out = config.generator_channels[min(i, len(config.generator_channels) - 1)]
            layers.append(UpConv(num_in, num_out, config.generator_kernel, config.upsampling))
            layers += [nn.BatchNorm2d(num_out), activation()]
            num_in = num_out
        last = UpConv(num_in, 3, config.generator_kernel, config.upsampling) if by_doubling else None
        layers.append(last or nn.Conv2d(num_in, 3, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        if self.embedding is not None:
            latents = torch.cat([latents, self.embedding(labels)], 1)
        maps = self.dense(latents).view(-1, self.base, self.side, self.side)
        return torch.tanh(self.layers(maps.contiguous(memory_format=torch.channels_last)))


class Discriminator(nn.Module):
    """Images [B, 3, size, size] in -1..1 and labels int64 [B] -> logits [B], positive for real.

    Several classes: the features are also projected on a vector of the label (Miyato & Koyama 2018, arXiv:1802.05637),
    here the whole map: with pooled features the label was ignored and both classes of a trial looked the same.
    """

    def __init__(self, config: Config, num_classes: int, size: int) -> None:
        super().__init__()
        kernel, layers, num_in = config.discriminator_kernel, [], 3
        for num_out, stride in zip(config.discriminator_channels, config.discriminator_strides, strict=True):
            first = not layers
            layers.append(nn.Conv2d(num_in, num_out, kernel, stride, (kernel - 1) // 2, bias=first))
            if not first:  # no batch norm on the image itself, as usual
                layers.append(nn.BatchNorm2d(num_out, track_running_stats=False))
            layers += [ACTIVATIONS[config.discriminator_activation](), nn.Dropout(config.dropout)]
            num_in = num_out
        self.layers = nn.Sequential(*layers)
        num_features = num_in * last_side(config, size) ** 2
        self.head = nn.Linear(num_features, 1)
        self.projection = Projection(num_features, num_classes) if num_classes > 1 else None

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        features = self.layers(images).flatten(1)
        logits = self.head(features).squeeze(1)
        if self.projection is not None:
            logits = logits + self.projection(features, labels)
        return logits.float()


def doublings(size: int) -> int:
    """How often a map of at least 4 pixels a side doubles to reach the size exactly."""
    return max(n for n in range(size.bit_length()) if size % 2**n == 0 and size >> n >= 4)


def last_side(config: Config, size: int) -> int:
    """Pixels a side of the discriminator's last map; ``RecipeError`` where nothing is left of the image."""
    side, kernel = size, config.discriminator_kernel
    for stride in config.discriminator_strides:
        side = (side + 2 * ((kernel - 1) // 2) - kernel) // stride + 1
    if side < 1:
        raise RecipeError(
            f"The discriminator's strides leave nothing of an image of {size} pixels.",
            "Use fewer discriminator_strides of 2, or larger images.",
        )
    return side


def initialise(network: Model) -> Model:
    """Glorot-uniform weights (Keras's, the thesis's) and zero biases."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | UpConv):
            nn.init.xavier_uniform_(module.weight)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(network, Discriminator) and network.projection is not None:
        nn.init.zeros_(network.projection.heads.weight)
    return network


class Game(_adversary.Adversary):
    """The two networks under binary cross-entropy."""

    GENERATOR, DISCRIMINATOR = Synthesis, Discriminator

    def networks(self, num_classes: int, size: int) -> tuple[nn.Module, nn.Module]:
        generator, discriminator = super().networks(num_classes, size)
        return initialise(generator), initialise(discriminator)

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> Judged:
        on_real = self.discriminator(self.seen(real, rng), labels)
        on_fake = self.discriminator(self.seen(fake, rng), labels)
        targets = torch.full_like(on_real, 1 - self.config.label_smoothing)
        loss_real = F.binary_cross_entropy_with_logits(on_real, targets)
        return (loss_real + F.softplus(on_fake).mean()) / 2, on_real, on_fake


class Generator(_adversary.Gan[Config]):
    """At a multiple of 8 pixels from 16 to 256."""

    NAME, CONFIG, SIZES, GAME = "dcgan", Config, range(16, 257, 8), Game

    def __init__(self, config: Config, classes: tuple[str, ...], size: int) -> None:
        super().__init__(config, classes, size)
        last_side(config, size)
