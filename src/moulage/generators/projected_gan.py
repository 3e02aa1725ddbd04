"""Projected GAN: discriminators look at the features of a frozen, pre-trained network; learns fast from few images.

After Sauer et al. 2021 (NeurIPS, arXiv:2111.01007), with the generator of FastGAN as in the paper's light setting and a
condition on the class as in ``fastgan``. Scores in features of the same or a related network flatter what was trained
against it (Kynkäänniemi et al. 2023, arXiv:2203.06026): judge these images in another network as well.
"""

from typing import Literal

from pydantic import Field

from moulage import backbones
from moulage.generators import _adversary
from moulage.generators._fastgan import Drawer, SynthesisOptions
from moulage.generators._projected_gan import Game


class Optimiser(_adversary.Optimiser):
    """The paper's Adam."""

    learning_rate: float = Field(default=2e-4, gt=0, le=1, description="step size")
    beta1: float = Field(default=0.0, ge=0, lt=1, description="Adam's decay of the mean gradient; SGD's momentum")
    beta2: float = Field(default=0.99, ge=0, lt=1, description="Adam's decay of the mean squared gradient")


class Config(SynthesisOptions):
    """The defaults are for a GPU; docs/generators/projected_gan.md has settings for a CPU."""

    batch_size: int = Field(64, ge=2, le=4096, description="images in a batch")
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


class Generator(Drawer[Config]):
    """Draws images of ``classes`` at ``size`` x ``size`` pixels, a power of two from 16 to 1024; see ``Learner``."""

    NAME, CONFIG = "projected_gan", Config

    def __init__(self, config: Config, classes: tuple[str, ...], size: int) -> None:
        super().__init__(config, classes, size)
        backbones.check_installed(config.backbone)

    def game(self) -> Game:
        return Game(self.config, len(self.classes), self.size, self.device)
