"""StyleGAN2 with adaptive discriminator augmentation, at 16 to 256 pixels, for one class or several.

From Karras et al. 2019 (arXiv:1912.04958) and 2020 (arXiv:2006.06676): a mapping network, modulated convolutions,
noise, a residual discriminator, the non-saturating logistic loss with lazy R1 and path-length regularisation.
"""

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from moulage import randomness
from moulage.errors import RecipeError
from moulage.generators import _adversary, _learner
from moulage.generators._stylegan2 import Synthesis
from moulage.generators._stylegan2_game import Game

NUM_MEAN_LATENTS = 1024
"""Latents from which the mean w of each class is taken."""


class Optimiser(_adversary.Optimiser):
    """The paper's Adam."""

    learning_rate: float = Field(default=0.002, gt=0, le=1, description="step size")
    beta1: float = Field(default=0.0, ge=0, lt=1, description="Adam's decay of the mean gradient; SGD's momentum")
    beta2: float = Field(default=0.99, ge=0, lt=1, description="Adam's decay of the mean squared gradient")


class Config(_adversary.Options):
    """The defaults are for a GPU (the paper's channels for 256 pixels); docs/generators/stylegan2.md has others."""

    latent_size: int = Field(512, ge=1, le=1024, description="numbers in a latent vector, and in w")
    generator_optimiser: Optimiser = Field(Optimiser(), description="how the generator learns")  # pyright: ignore[reportIncompatibleVariableOverride]
    discriminator_optimiser: Optimiser = Field(Optimiser(), description="how the discriminator learns")  # pyright: ignore[reportIncompatibleVariableOverride]
    discriminator_augment: _adversary.Augmentation = Field("ada", description=_adversary.AUGMENTATION)
    mapping_layers: int = Field(8, ge=1, le=16, description="layers of the mapping network")
    base_channels: int = Field(
        16384, ge=64, le=65536, description="a map of r pixels a side has base_channels / r channels"
    )
    max_channels: int = Field(512, ge=4, le=2048, description="but at most so many")
    conditional_from: int = Field(
        0, ge=0, le=256, description="the generator's layers below so many pixels are shared by all classes; 0: none is"
    )
    style_mixing: float = Field(0.9, ge=0, le=1, description="share of training images drawn from two latents")
    r1_weight: float = Field(0.1, ge=0, le=1000, description="weight (gamma) of the R1 penalty on real images; 0: none")
    r1_every: int = Field(16, ge=1, le=64, description="steps between two of them")
    path_length_weight: float = Field(2.0, ge=0, le=100, description="weight of the path-length penalty; 0: none")
    path_length_every: int = Field(8, ge=1, le=64, description="steps between two of them")
    deviation_group: int = Field(
        4, ge=1, le=64, description="images over which the discriminator sees the standard deviation; 1: it does not"
    )
    truncation: float = Field(
        1.0, ge=0, le=1, description="psi: 1 draws as in training, less draws nearer to the class's mean"
    )


class Generator(_learner.Learner[Config]):
    """Draws images of ``classes`` at ``size`` x ``size`` pixels: 4, 5, 6 or 7 doubled; see ``Learner``."""

    NAME, CONFIG = "stylegan2", Config
    SIZES = tuple(sorted(side << i for side in (4, 5, 6, 7) for i in range(1, 7) if 16 <= side << i <= 256))

    def __init__(self, config: Config, classes: tuple[str, ...], size: int) -> None:
        super().__init__(config, classes, size)
        if config.conditional_from > size:
            raise RecipeError(
                f"conditional_from = {config.conditional_from} leaves no layer at {size} pixels that knows the class.",
                f"Use at most {size}.",
            )

    def game(self) -> Game:
        return Game(self.config, len(self.classes), self.size, self.device)

    def network_of(self) -> nn.Module:
        return Synthesis(self.config, len(self.classes), self.size).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def draw(self, network: Synthesis, labels: Tensor, seeds: np.ndarray) -> Tensor:
        latents = _learner.latents(seeds, self.config.latent_size).to(self.device)
        num = sum(network.noise_sizes)
        noise = torch.stack([torch.randn(num, generator=randomness.generator_for("noise", seed)) for seed in seeds])
        styles = network.truncate(network.styles(latents, labels), labels, self.config.truncation)
        return network.render(styles, noise.to(self.device))

    def settle(self, network: Synthesis, labels: np.ndarray) -> None:
        """Measure the mean w of each class, which truncation draws towards."""
        rng = randomness.generator_for("mean w")
        network.measure_means(torch.randn(NUM_MEAN_LATENTS, self.config.latent_size, generator=rng).to(self.device))
