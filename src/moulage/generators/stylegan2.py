"""StyleGAN2 with adaptive discriminator augmentation, at 16 to 256 pixels, for one class or several.

From Karras et al. 2019 (arXiv:1912.04958) and 2020 (arXiv:2006.06676): a mapping network, modulated convolutions,
noise, a residual discriminator, the non-saturating logistic loss with lazy R1 and path-length regularisation.
"""

from typing import Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from moulage import plugins, randomness
from moulage.errors import RecipeError
from moulage.generators import _adversary, _learner
from moulage.generators._adversary import Judged
from moulage.generators._stylegan2 import Discriminator, NetworkOptions, Synthesis

ADAM = _adversary.Optimiser(learning_rate=0.0025, beta1=0.0, beta2=0.99)  # of the authors' automatic settings
R1_WEIGHT = 0.0002  # of the same: times the pixels of an image, by the images in a batch
NUM_MEAN_LATENTS = 1024  # latents from which the mean w of each class is taken
PATH_DECAY = 0.01  # share of a new batch in the running mean of path lengths


class Config(NetworkOptions):
    """The defaults are those that the authors' program takes by itself; docs/generators/stylegan2.md has others."""

    images: _learner.Images = 5_000_000
    epochs: _learner.Epochs = None
    generator_optimiser: _adversary.GeneratorOptimiser = ADAM
    discriminator_optimiser: _adversary.DiscriminatorOptimiser = ADAM
    discriminator_augment: _adversary.Augmentation = "ada"
    style_mixing: float = Field(0.9, ge=0, le=1, description="share of training images drawn from two latents")
    r1_weight: float | None = Field(
        None,
        ge=0,
        le=1000,
        description="weight (gamma) of the R1 penalty on real images; 0: none; not given: 0.0002 pixels / batch_size",
    )
    r1_every: int = Field(16, ge=1, le=64, description="steps between two of them")
    path_length_weight: float = Field(2.0, ge=0, le=100, description="weight of the path-length penalty; 0: none")
    path_length_every: int = Field(8, ge=1, le=64, description="steps between two of them")
    deviation_group: int = Field(
        4, ge=1, le=64, description="images over which the discriminator sees the standard deviation; 1: it does not"
    )

    def at(self, size: int) -> Self:
        weight = R1_WEIGHT * size**2 / self.batch_size if self.r1_weight is None else self.r1_weight
        return self.model_copy(update={"r1_weight": weight})


class Drawing(plugins.Options):
    """How images are drawn from a fit."""

    truncation: float = Field(
        1.0, ge=0, le=1, description="psi: 1 draws as in training, less draws nearer to the class's mean"
    )


class PathLength(nn.Module):
    """Keeps a step in w equally long in the image everywhere (Karras et al. 2019, arXiv:1912.04958, eq. 4).

    The length is |J_w^T y| for a random image y, J_w the Jacobian of the images with respect to w; it is held to its
    running mean, which belongs to the state of training. Taken as the root mean square over the layers and with y of
    standard deviation 1 / S the weight of the paper's equation 5 (appendix B) is 2 at every size.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, images: Tensor, styles: Tensor, rng: torch.Generator) -> Tensor:
        """Mean penalty of images [B, 3, S, S] drawn from w [B, num_layers, latent_size]; moves the running mean."""
        y = torch.randn(images.shape, generator=rng).to(images.device) / images.shape[-1]
        [gradient] = torch.autograd.grad((images.float() * y).sum(), styles, create_graph=True)
        lengths = gradient.float().square().sum(2).mean(1).sqrt()
        moved = torch.lerp(self.mean, lengths.detach().mean(), PATH_DECAY)
        self.mean.copy_(torch.where(moved.isfinite(), moved, self.mean))  # one bad batch must not stay in it
        return (lengths - self.mean).square().mean()


class Game(_adversary.Adversary):
    """Both networks under the non-saturating logistic loss, with lazy regularisation.

    A regulariser is computed every so many steps and counts as many times (Karras et al. 2019, section 3.1). It joins
    the loss of its step, so that Adam's constants need no correction for separate updates.
    """

    GENERATOR, PARTS = Synthesis, (*_adversary.Adversary.PARTS, "path_length")

    def networks(self, num_classes: int, size: int) -> tuple[nn.Module, nn.Module]:
        self.path_length = PathLength().to(self.device)
        generator = Synthesis(self.config, num_classes, size)
        return generator, Discriminator(self.config, num_classes, size, self.config.deviation_group)

    def latents(self, num: int, rng: torch.Generator) -> Tensor:
        """Rows that ``Synthesis`` draws from: two latents, the layer from which on the second counts, and noise."""
        num_layers = len(self.generator.sides)
        latents = torch.randn(num, 2 * self.config.latent_size, generator=rng)
        crossover = torch.randint(1, num_layers, (num, 1), generator=rng)
        crossover[torch.rand(num, 1, generator=rng) >= self.config.style_mixing] = num_layers
        noise = torch.randn(num, sum(self.generator.noise_sizes), generator=rng)
        return torch.cat([latents, crossover, noise], 1).to(self.device)

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> Judged:
        config = self.config
        regularise = config.r1_weight > 0 and step % config.r1_every == 0
        seen = self.seen(real, rng).detach().requires_grad_(regularise)
        on_real = self.discriminator(seen, labels)
        on_fake = self.discriminator(self.seen(fake, rng), labels)
        loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        if regularise:  # R1 in the images as the discriminator sees them: no second derivative of the augmentation
            loss = loss + config.r1_every * config.r1_weight / 2 * _adversary.gradient_penalty(on_real, seen).mean()
        return loss, on_real, on_fake

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> Tensor:
        config, generator = self.config, self.generator
        loss = super().generator_loss(real, fake, labels, step, rng)
        if config.path_length_weight > 0 and step % config.path_length_every == 0:
            half = len(labels) // 2  # as the paper: half a batch suffices
            rows = self.latents(half, rng)
            styles = generator.styles(rows[:, : config.latent_size], labels[:half])
            images = generator.render(styles, rows[:, 2 * config.latent_size + 1 :])
            penalty = self.path_length(images, styles, rng)
            loss = loss + config.path_length_every * config.path_length_weight * penalty
        return loss


class Generator(_adversary.Gan[Config]):
    """At 16 to 256 pixels: 4, 5, 6 or 7 doubled."""

    NAME, CONFIG, DRAWING, GAME = "stylegan2", Config, Drawing, Game
    SIZES = tuple(sorted(side << i for side in (4, 5, 6, 7) for i in range(1, 7) if 16 <= side << i <= 256))

    def __init__(self, config: Config, classes: tuple[str, ...], size: int) -> None:
        super().__init__(config, classes, size)
        if config.conditional_from > size:
            raise RecipeError(
                f"conditional_from = {config.conditional_from} leaves no layer at {size} pixels that knows the class.",
                f"Use at most {size}.",
            )

    def draw(self, network: Synthesis, labels: Tensor, seeds: np.ndarray) -> Tensor:
        latents = _learner.latents(seeds, self.config.latent_size).to(self.device)
        noise = _learner.latents(seeds, sum(network.noise_sizes), name="noise")
        styles = network.truncate(network.styles(latents, labels), labels, self.drawing.truncation)
        return network.render(styles, noise.to(self.device))

    def settle(self, network: Synthesis, labels: np.ndarray) -> None:
        """Measure the mean w of each class, which truncation draws towards."""
        rng = randomness.generator_for("mean w")
        network.measure_means(torch.randn(NUM_MEAN_LATENTS, self.config.latent_size, generator=rng).to(self.device))
