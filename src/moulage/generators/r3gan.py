"""R3GAN: a plain residual GAN with a relativistic loss and two gradient penalties (Huang et al. 2024).

Huang, Gokaslan, Kuleshov and Tompkin 2024, The GAN is dead; long live the GAN! (arXiv:2501.05441). Each real image is
compared with a generated one (relativistic pairing, eq. 2), zero-centred gradient penalties on real (R1) and generated
images (R2) make training stable, and the networks are modern residual ones without normalisation (config E): no further
tricks. What this project adds for a few hundred images is DiffAugment or ADA on what the discriminator sees.
"""

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor, nn

from moulage.generators import _adversary, _learner
from moulage.generators._r3gan import Game, Synthesis


class Optimiser(_adversary.Optimiser):
    """The paper's Adam."""

    learning_rate: float = Field(default=2e-4, gt=0, le=1, description="step size")
    beta1: float = Field(default=0.0, ge=0, lt=1, description="Adam's decay of the mean gradient; SGD's momentum")
    beta2: float = Field(default=0.99, ge=0, lt=1, description="Adam's decay of the mean squared gradient")


class Config(_adversary.Options):
    """The defaults are for a GPU; docs/generators.md has settings for a CPU."""

    batch_size: int = Field(64, ge=2, le=4096, description="images in a batch")
    latent_size: int = Field(64, ge=1, le=1024, description="numbers in a latent vector")
    channel_base: int = Field(
        16_384, ge=64, le=131_072, description="channels of a stage times its side in pixels, up to max_channels"
    )
    max_channels: int = Field(384, ge=16, le=2048, description="channels of a stage at most")
    expansion: int = Field(
        2, ge=1, le=8, description="channels inside a residual block, as a multiple of those outside"
    )
    group_width: int = Field(16, ge=1, le=2048, description="channels that a 3 x 3 convolution mixes")
    num_blocks: int = Field(2, ge=1, le=8, description="residual blocks of a stage")
    patch_size: Literal[1, 2, 4] = Field(
        1,
        description="pixels a side that the finest stage handles as one; 2 or 4 save most of the work at a large size",
    )
    gamma: float = Field(2.0, ge=0, le=1000, description="weight of both gradient penalties at the first step")
    gamma_final: float = Field(0.2, ge=0, le=1000, description="the same from burn_in_steps on")
    learning_rate_final: float = Field(
        0.25, gt=0, le=1, description="factor of both learning rates from burn_in_steps on"
    )
    burn_in_steps: int = Field(5000, ge=0, description="steps over which gamma and learning rate fall (half a cosine)")
    penalty_every: int = Field(
        1, ge=1, le=64, description="steps between two gradient penalties, which count as much more"
    )
    conditional_from: int = Field(
        4, ge=4, le=1024, description="pixels a side from which stages know the class; coarser ones are shared by all"
    )
    generator_optimiser: Optimiser = Field(Optimiser(), description="how the generator learns")  # pyright: ignore[reportIncompatibleVariableOverride]
    discriminator_optimiser: Optimiser = Field(Optimiser(), description="how the discriminator learns")  # pyright: ignore[reportIncompatibleVariableOverride]
    discriminator_augment: _adversary.Augmentation = Field("diffaugment", description=_adversary.AUGMENTATION)

    @model_validator(mode="after")
    def _groups_divide(self) -> Self:
        if self.conditional_from & (self.conditional_from - 1):
            raise ValueError("conditional_from must be a power of 2")
        return self


class Generator(_learner.Learner[Config]):
    """Draws images of ``classes`` at ``size`` x ``size`` pixels, a power of 2 from 8 to 512; see ``Learner``."""

    NAME, CONFIG, SIZES = "r3gan", Config, (8, 16, 32, 64, 128, 256, 512)

    def game(self) -> Game:
        return Game(self.config, len(self.classes), self.size, self.device)

    def network_of(self) -> nn.Module:
        return Synthesis(self.config, len(self.classes), self.size)

    def draw(self, network: Synthesis, labels: Tensor, seeds: np.ndarray) -> Tensor:
        return network(_learner.latents(seeds, self.config.latent_size).to(self.device), labels)
