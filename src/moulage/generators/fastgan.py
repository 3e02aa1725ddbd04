"""FastGAN: a light GAN for few images, with skip-layer excitation and a discriminator that learns to reconstruct.

After Liu et al. 2021 (ICLR, arXiv:2101.04775), with a condition on the class, which the paper has not: the class enters
the latent, the batch norms and the excitations, and the discriminator projects on it. The paper reconstructs under a
perceptual distance whose weights come from a hub; here the distance is that of pixels.
"""

from typing import Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from moulage.errors import RecipeError
from moulage.generators import _adversary, _batch_norm, _learner
from moulage.generators._fastgan import Game, Synthesis, initialise


class Optimiser(_adversary.Optimiser):
    """The paper's Adam."""

    learning_rate: float = Field(default=2e-4, gt=0, le=1, description="step size")


class Config(_adversary.Options):
    """The defaults are the paper's; ``base_channels`` = 16 makes networks for a CPU."""

    epochs: float | None = Field(None, gt=0, le=100_000, description="times that every image is seen; or give steps")
    steps: int | None = Field(50_000, ge=1, le=10_000_000, description="number of batches, instead of epochs")
    batch_size: int = Field(8, ge=2, le=4096, description="images in a batch")
    latent_size: int = Field(256, ge=1, le=1024, description="numbers in a latent vector")
    base_channels: int = Field(64, ge=2, le=512, description="channels at 128 pixels; 16 times as many at 4 pixels")
    convolutions: Literal[1, 2] = Field(1, description="convolutions at each resolution of the generator")
    excitation_ratio: Literal[4, 8, 16] = Field(
        16, description="a map gates the channels of the map so many times its side; maps begin at 4 pixels"
    )
    conditional_from: int = Field(
        4, ge=4, le=1024, description="pixels; the generator's layers below take no class, so that classes share them"
    )
    discriminator_size: Literal[16, 32, 64, 128, 256] = Field(
        256, description="pixels a side; strided convolutions bring larger images to it before the discriminator"
    )
    spectral_norm: bool = Field(True, description="normalise the discriminator's convolutions by their largest gain")
    reconstruction_weight: float = Field(
        1.0, ge=0, le=100, description="weight of the discriminator's reconstruction of real images; 0: none"
    )
    reconstruction_size: Literal[16, 32, 64, 128] = Field(
        128, description="pixels a side of the reconstructions, at most the size of the images"
    )
    reconstruction_loss: Literal["l1", "l2"] = Field("l1", description="distance of pixels: absolute or squared")
    generator_optimiser: Optimiser = Field(Optimiser(), description="how the generator learns")  # pyright: ignore[reportIncompatibleVariableOverride]
    discriminator_optimiser: Optimiser = Field(Optimiser(), description="how the discriminator learns")  # pyright: ignore[reportIncompatibleVariableOverride]
    discriminator_augment: _adversary.Augmentation = Field("diffaugment", description=_adversary.AUGMENTATION)


class Generator(_learner.Learner[Config]):
    """Draws images of ``classes`` at ``size`` x ``size`` pixels, a power of two from 16 to 1024; see ``Learner``."""

    NAME, CONFIG, SIZES = "fastgan", Config, (16, 32, 64, 128, 256, 512, 1024)

    def __init__(self, config: Config, classes: tuple[str, ...], size: int) -> None:
        super().__init__(config, classes, size)
        if config.conditional_from > size:
            raise RecipeError(
                f"fastgan: conditional_from = {config.conditional_from} leaves no layer that knows the class.",
                f"Use at most the size of the images, {size}.",
            )

    def game(self) -> Game:
        return Game(self.config, len(self.classes), self.size, self.device)

    def network_of(self) -> Synthesis:
        return initialise(Synthesis(self.config, len(self.classes), self.size))

    def draw(self, network: Synthesis, labels: Tensor, seeds: np.ndarray) -> Tensor:
        return network(_learner.latents(seeds, network.num_inputs).to(self.device), labels)

    def settle(self, network: Synthesis, labels: np.ndarray) -> None:
        def draw(some: np.ndarray, seeds: np.ndarray) -> Tensor:
            return self.draw(network, self._targets(some), seeds)

        _batch_norm.settle(network, labels, _learner.SAMPLE_BATCH, draw)
