"""FastGAN: a light GAN for few images, with skip-layer excitation and a discriminator that learns to reconstruct.

After Liu et al. 2021 (ICLR, arXiv:2101.04775), with a condition on the class, which the paper has not: the class enters
the latent, the batch norms and the excitations, and the discriminator projects on it. The paper reconstructs under a
perceptual distance whose weights come from a hub; here the distance is that of pixels.
"""

from typing import Literal

from pydantic import Field

from moulage.generators import _adversary
from moulage.generators._fastgan import Drawer, Game, SynthesisOptions


class Optimiser(_adversary.Optimiser):
    """The paper's Adam."""

    learning_rate: float = Field(default=2e-4, gt=0, le=1, description="step size")


class Config(SynthesisOptions):
    """The defaults are the paper's; ``base_channels`` = 16 makes networks for a CPU."""

    epochs: float | None = Field(None, gt=0, le=100_000, description="times that every image is seen; or give steps")
    steps: int | None = Field(50_000, ge=1, le=10_000_000, description="number of batches, instead of epochs")
    batch_size: int = Field(8, ge=2, le=4096, description="images in a batch")
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


class Generator(Drawer[Config]):
    """Draws images of ``classes`` at ``size`` x ``size`` pixels, a power of two from 16 to 1024; see ``Learner``."""

    NAME, CONFIG = "fastgan", Config

    def game(self) -> Game:
        return Game(self.config, len(self.classes), self.size, self.device)
