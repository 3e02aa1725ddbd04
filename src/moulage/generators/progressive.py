"""Progressively growing GAN: 4 pixels first, then twice as many, faded in; with self-attention where asked for.

After Karras et al. 2017 (arXiv:1710.10196): minibatch standard deviation, equalised learning rate, pixel norm, WGAN-GP.
Self-attention (``attention_size``) and two learning rates (those of the two optimisers) make it the GAN of Ali et al.
2019 (arXiv:1910.11960), as in studies/progressive2019.toml. The class enters the latent; the discriminator projects
on it.
"""

from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from moulage.errors import RecipeError
from moulage.generators import _adversary, _learner
from moulage.generators._progressive import Game, Schedule, Synthesis, enlarge, sides_to

Share = Annotated[float, Field(gt=0)]


class Optimiser(_adversary.Optimiser):
    """How one of the two networks learns; what is not given is as in the paper."""

    learning_rate: float = Field(default=1e-3, gt=0, le=1, description="step size")
    beta1: float = Field(default=0.0, ge=0, lt=1, description="Adam's decay of the mean gradient; SGD's momentum")
    beta2: float = Field(default=0.99, ge=0, lt=1, description="Adam's decay of the mean squared gradient")


class Config(_adversary.Options):
    """The defaults are the paper's; 490,000 steps are its 600,000 images a phase at 256 pixels."""

    epochs: float | None = Field(None, gt=0, le=100_000, description="times that every image is seen; or give steps")
    steps: int | None = Field(490_000, ge=1, le=10_000_000, description="number of batches, instead of epochs")
    batch_size: int = Field(16, ge=2, le=4096, description="images in a batch")
    latent_size: int = Field(512, ge=1, le=1024, description="numbers in a latent vector")
    base_channels: int = Field(256, ge=1, le=2048, description="channels at 64 pixels; twice as many at half the size")
    max_channels: int = Field(512, ge=4, le=2048, description="at most so many channels")
    shares: tuple[Share, ...] = Field(
        (), description="steps of each resolution from 4 pixels on, relative; none: 1, then 2 for each"
    )
    fade: float = Field(0.5, ge=0, le=1, description="share of a resolution's steps in which it fades in")
    loss: Literal["wgan-gp", "logistic"] = Field(
        "wgan-gp", description="Wasserstein distance with a penalty between the images; or logistic with R1"
    )
    penalty: float = Field(10.0, ge=0, le=1000, description="weight of the penalty of the discriminator's gradient")
    penalty_every: int = Field(1, ge=1, le=64, description="steps from one penalty to the next, so much heavier")
    drift: float = Field(1e-3, ge=0, le=1, description="wgan-gp: weight of the squared logits of real images")
    pixel_norm: bool = Field(True, description="normalise each position's channels in the generator")
    equalised_learning_rate: bool = Field(True, description="scale weights when they are used, not when they begin")
    minibatch_stddev: bool = Field(True, description="show the discriminator how much a batch varies")
    attention_size: Literal[0, 8, 16, 32, 64, 128] = Field(
        0, description="pixels a side of the maps with self-attention, in both networks; 0: none"
    )
    generator_optimiser: Optimiser = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        Optimiser(), description="how the generator learns"
    )
    discriminator_optimiser: Optimiser = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        Optimiser(),
        description="how the discriminator learns; two time scales: another learning rate than the generator's",
    )


class Generator(_learner.Learner[Config]):
    """Draws images of ``classes`` at ``size`` x ``size`` pixels, a power of two from 8 to 1024; see ``Learner``.

    Previews before the last resolution are small images with repeated pixels.
    """

    NAME, CONFIG, SIZES = "progressive", Config, (8, 16, 32, 64, 128, 256, 512, 1024)

    def __init__(self, config: Config, classes: tuple[str, ...], size: int) -> None:
        super().__init__(config, classes, size)
        sides = sides_to(size)
        shares = config.shares or (1.0, *[2.0] * (len(sides) - 1))
        if len(shares) != len(sides):
            raise RecipeError(
                f"progressive: shares has {len(shares)} values, and there are {len(sides)} resolutions up to {size}.",
                f"Give one for each of {', '.join(map(str, sides))} pixels.",
            )
        if config.attention_size > size:
            raise RecipeError(
                f"progressive: attention_size = {config.attention_size} is larger than the images.",
                f"Use at most {size}.",
            )
        self.shares = tuple(share / sum(shares) for share in shares)
        self.growth_at = Schedule(config.steps or 1, self.shares, config.fade).growth

    def fit(self, images: np.ndarray, labels: np.ndarray, **options: Any) -> None:
        """See ``Learner.fit``; the number of images says how many steps there are to share."""
        self.growth_at = Schedule(self.config.num_steps(len(images)), self.shares, self.config.fade).growth
        super().fit(images, labels, **options)

    def game(self) -> Game:
        return Game(self.config, len(self.classes), self.size, self.growth_at, self.device)

    def network_of(self) -> Synthesis:
        return Synthesis(self.config, len(self.classes), self.size).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def draw(self, network: Synthesis, labels: Tensor, seeds: np.ndarray) -> Tensor:
        return enlarge(network(_learner.latents(seeds, self.config.latent_size).to(self.device), labels), self.size)

    def steps_and_seconds(self, num_images: int, *, device: str = "cpu") -> tuple[int, float]:
        """Number of steps of a fit on so many images, and mean seconds a step over the resolutions."""
        before, seconds = self.growth_at, []
        try:
            for level in range(len(self.shares)):
                self.growth_at = lambda step, level=level: float(level)
                seconds.append(super().steps_and_seconds(num_images, device=device)[1])
        finally:
            self.growth_at = before
        return self.config.num_steps(num_images), float(np.dot(self.shares, seconds))
