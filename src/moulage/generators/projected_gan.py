"""Projected GAN: discriminators look at the features of a frozen, pre-trained network; learns fast from few images.

After Sauer et al. 2021 (NeurIPS, arXiv:2111.01007), with the generator of FastGAN as in the paper's light setting and a
condition on the class as in ``fastgan``. Scores in features of the same or a related network flatter what was trained
against it (Kynkäänniemi et al. 2023, arXiv:2203.06026): judge these images in another network as well.
"""

from typing import Any, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from moulage import backbones
from moulage.errors import RecipeError
from moulage.generators import _adversary, _batch_norm, _learner
from moulage.generators._fastgan import Synthesis, initialise
from moulage.generators._projected_gan import Game


class Optimiser(_adversary.Optimiser):
    """The paper's Adam."""

    learning_rate: float = Field(default=2e-4, gt=0, le=1, description="step size")
    beta1: float = Field(default=0.0, ge=0, lt=1, description="Adam's decay of the mean gradient; SGD's momentum")
    beta2: float = Field(default=0.99, ge=0, lt=1, description="Adam's decay of the mean squared gradient")


class Config(_adversary.Options):
    """The defaults are for a GPU; docs/generators/projected_gan.md has settings for a CPU."""

    batch_size: int = Field(64, ge=2, le=4096, description="images in a batch")
    latent_size: int = Field(256, ge=1, le=1024, description="numbers in a latent vector")
    base_channels: int = Field(64, ge=2, le=512, description="channels at 128 pixels; 16 times as many at 4 pixels")
    convolutions: Literal[1, 2] = Field(1, description="convolutions at each resolution of the generator")
    excitation_ratio: Literal[4, 8, 16] = Field(
        16, description="a map gates the channels of the map so many times its side; maps begin at 4 pixels"
    )
    conditional_from: int = Field(
        4, ge=4, le=1024, description="pixels; the generator's layers below take no class, so that classes share them"
    )
    backbone: backbones.Backbone = Field(
        default=backbones.Backbone(), description="the frozen timm network whose features are looked at"
    )
    num_maps: int = Field(
        4, ge=1, le=6, description="feature maps that get a discriminator: the last so many of at least 4 x 4"
    )
    mixing: Literal["none", "channels", "scales"] = Field(
        "scales",
        description="how frozen random weights mix the features: not, across channels, or also across the maps",
    )
    discriminator_channels: int = Field(
        256, ge=4, le=2048, description="most channels of the discriminators; features of fewer keep theirs"
    )
    spectral_norm: bool = Field(True, description="normalise the discriminators' convolutions by their largest gain")
    generator_optimiser: Optimiser = Field(Optimiser(), description="how the generator learns")  # pyright: ignore[reportIncompatibleVariableOverride]
    discriminator_optimiser: Optimiser = Field(Optimiser(), description="how the discriminators learn")  # pyright: ignore[reportIncompatibleVariableOverride]
    discriminator_augment: _adversary.Augmentation = Field("diffaugment", description=_adversary.AUGMENTATION)


class Generator(_learner.Learner[Config]):
    """Draws images of ``classes`` at ``size`` x ``size`` pixels, a power of two from 16 to 1024; see ``Learner``."""

    NAME, CONFIG, SIZES = "projected_gan", Config, (16, 32, 64, 128, 256, 512, 1024)

    def __init__(self, config: Config, classes: tuple[str, ...], size: int) -> None:
        super().__init__(config, classes, size)
        if config.conditional_from > size:
            raise RecipeError(
                f"projected_gan: conditional_from = {config.conditional_from} leaves no layer that knows the class.",
                f"Use at most the size of the images, {size}.",
            )
        backbones.check_installed(config.backbone)

    def game(self) -> Game:
        return Game(self.config, len(self.classes), self.size, self.device)

    def network_of(self) -> Synthesis:
        return initialise(Synthesis(self.config, len(self.classes), self.size))

    def draw(self, network: Synthesis, labels: Tensor, seeds: np.ndarray) -> Tensor:
        return network(_learner.latents(seeds, network.num_inputs).to(self.device), labels)

    def settle(self, network: Any, labels: np.ndarray) -> None:
        def draw(some: np.ndarray, seeds: np.ndarray) -> Tensor:
            return self.draw(network, self._targets(some), seeds)

        _batch_norm.settle(network, labels, _learner.SAMPLE_BATCH, draw)
