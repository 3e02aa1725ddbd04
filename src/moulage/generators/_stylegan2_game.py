"""One step of the game that the two networks of ``stylegan2`` play."""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moulage.generators._adversary import Adversary, gradient_penalty
from moulage.generators._stylegan2 import Discriminator, Synthesis

if TYPE_CHECKING:
    from moulage.generators.stylegan2 import Config

PATH_DECAY = 0.01
"""Share of a new batch in the running mean of path lengths."""


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
        self.mean.lerp_(lengths.detach().mean(), PATH_DECAY)
        return (lengths - self.mean).square().mean()


class Game(Adversary):
    """Both networks under the non-saturating logistic loss, with lazy regularisation.

    A regulariser is computed every so many steps and counts as many times (Karras et al. 2019, section 3.1). It joins
    the loss of its step, so that Adam's constants need no correction for separate updates.
    """

    PARTS: ClassVar = (*Adversary.PARTS, "path_length")

    def __init__(self, config: "Config", num_classes: int, size: int, device: torch.device | str = "cpu") -> None:
        generator: Any = Synthesis(config, num_classes, size)
        discriminator: Any = Discriminator(config, num_classes, size)
        layout = {"memory_format": torch.channels_last}
        super().__init__(config, generator.to(**layout), discriminator.to(**layout), device)
        self.path_length = PathLength().to(self.device)

    def latents(self, num: int, rng: torch.Generator) -> Tensor:
        """Rows that ``Synthesis`` draws from: two latents, the layer from which on the second counts, and noise."""
        num_layers = len(self.generator.sides)
        latents = torch.randn(num, 2 * self.config.latent_size, generator=rng)
        crossover = torch.randint(1, num_layers, (num, 1), generator=rng)
        crossover[torch.rand(num, 1, generator=rng) >= self.config.style_mixing] = num_layers
        noise = torch.randn(num, sum(self.generator.noise_sizes), generator=rng)
        return torch.cat([latents, crossover, noise], 1).to(self.device)

    def discriminator_loss(
        self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        config = self.config
        regularise = config.r1_weight > 0 and step % config.r1_every == 0
        seen = self.seen(real, rng).detach().requires_grad_(regularise)
        on_real = self.discriminator(seen, labels)
        on_fake = self.discriminator(self.seen(fake, rng), labels)
        loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        if regularise:  # R1 in the images as the discriminator sees them: no second derivative of the augmentation
            loss = loss + config.r1_every * config.r1_weight / 2 * gradient_penalty(on_real, seen).mean()
        return loss, on_real, on_fake

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> Tensor:
        config, generator = self.config, self.generator
        loss = F.softplus(-self.discriminator(self.seen(fake, rng), labels)).mean()
        if config.path_length_weight > 0 and step % config.path_length_every == 0:
            half = len(labels) // 2  # as the paper: half a batch suffices
            rows = self.latents(half, rng)
            styles = generator.styles(rows[:, : config.latent_size], labels[:half])
            images = generator.render(styles, rows[:, 2 * config.latent_size + 1 :])
            penalty = self.path_length(images, styles, rng)
            loss = loss + config.path_length_every * config.path_length_weight * penalty
        return loss
