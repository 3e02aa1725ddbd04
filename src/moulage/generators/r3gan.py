"""R3GAN: a plain residual GAN with a relativistic loss and two gradient penalties (Huang et al. 2024).

The GAN is dead; long live the GAN! (arXiv:2501.05441). Each real image is compared with a generated one (relativistic
pairing, eq. 2), zero-centred gradient penalties on real (R1) and generated images (R2) make training stable, and the
networks are residual without normalisation (config E). For a few hundred images DiffAugment or ADA is added.
"""

import math
from itertools import pairwise
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from moulage.generators import _adversary, _learner, _upconv
from moulage.generators._adversary import Judged
from moulage.generators._condition import LabelEmbedding, Projection

ADAM = _adversary.Optimiser(learning_rate=2e-4, beta1=0.0, beta2=0.99)  # the paper's
SLOPE = 0.2  # of the leaky ReLUs
SMALLEST = 4  # pixels a side of the coarsest stage
GAMMA_AT_64 = 2.0  # the authors' setting for faces at 64 pixels
GAMMA_GROWTH = math.log(150 / GAMMA_AT_64, 256 / 64)  # and 150 at 256: in between a power of the side


class Config(_adversary.Options):
    """The defaults are for a GPU; docs/generators.md has settings for a CPU."""

    images: _learner.Images = 20_000_000
    epochs: _learner.Epochs = None
    batch_size: _learner.BatchSize = 64
    ema_images: _learner.EmaImages = 500_000
    latent_size: _adversary.LatentSize = 64
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
    gamma: float | None = Field(
        None,
        ge=0,
        le=10_000,
        description="weight of both gradient penalties at the first step; none: by the size, 2 at 64 and 150 at 256",
    )
    gamma_final: float | None = Field(
        None, ge=0, le=10_000, description="the same after burn_in_images; none: a tenth of gamma"
    )
    learning_rate_final: float = Field(
        0.25, gt=0, le=1, description="factor of both learning rates after burn_in_images"
    )
    beta2_first: float = Field(
        0.9, ge=0, lt=1, description="Adam's beta2 at the first step; the optimisers' own after burn_in_images"
    )
    burn_in_images: int | None = Field(
        None,
        ge=0,
        description="images over which gamma and learning rates fall and beta2 rises, along half a cosine; none: all",
    )
    penalty_every: int = Field(
        1, ge=1, le=64, description="steps between two gradient penalties, which count as much more"
    )
    conditional_from: int = Field(
        4, ge=4, le=1024, description="pixels a side from which stages know the class; coarser ones are shared by all"
    )
    generator_optimiser: _adversary.GeneratorOptimiser = ADAM
    discriminator_optimiser: _adversary.DiscriminatorOptimiser = ADAM
    discriminator_augment: _adversary.Augmentation = "diffaugment"
    ada_probability: _adversary.AdaProbability = 0.3

    @property
    def sign_tells_real(self) -> bool:
        return False  # a logit counts relative to one of a generated image

    def at(self, size: int) -> Self:
        gamma = GAMMA_AT_64 * (size / 64) ** GAMMA_GROWTH if self.gamma is None else self.gamma
        final = gamma / 10 if self.gamma_final is None else self.gamma_final
        return self.model_copy(update={"gamma": gamma, "gamma_final": final})

    @model_validator(mode="after")
    def _groups_divide(self) -> Self:
        if self.conditional_from & (self.conditional_from - 1):
            raise ValueError("conditional_from must be a power of 2")
        return self


class Conv(nn.Conv2d):
    """A convolution that keeps the size, with He initial weights times ``gain`` and no bias."""

    def __init__(self, num_in: int, num_out: int, kernel: int, groups: int = 1, gain: float = 1.0) -> None:
        super().__init__(num_in, num_out, kernel, padding=kernel // 2, groups=groups, bias=False)
        nn.init.normal_(self.weight, std=gain / math.sqrt(num_in // groups * kernel**2))


class BiasAct(nn.Module):
    """Leaky ReLU of the sum of a map and a bias a channel."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + self.bias, SLOPE)


class Block(nn.Module):
    """x + 1x1(act(grouped 3x3(act(1x1(x))))); it starts as the identity (Fixup, arXiv:1901.09321)."""

    def __init__(self, num_channels: int, config: Config, num_blocks: int) -> None:
        super().__init__()
        width = num_channels * config.expansion
        groups = max(1, width // config.group_width) if width % config.group_width == 0 else 1
        gain = math.sqrt(2 / (1 + SLOPE**2)) * num_blocks ** (-1 / 4)  # L ** (-1 / (2 m - 2)), m = 3 convolutions
        self.layers = nn.Sequential(
            Conv(num_channels, width, 1, gain=gain),
            BiasAct(width),
            Conv(width, width, 3, groups, gain),
            BiasAct(width),
            Conv(width, num_channels, 1, gain=0),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def stages(config: Config, size: int) -> list[tuple[int, int]]:
    """(side of the map, channels) of every stage, from the coarsest on."""
    sides = _upconv.sides(SMALLEST, max(SMALLEST, size // config.patch_size))
    return [(side, max(16, min(config.max_channels, config.channel_base // side))) for side in sides]


class Synthesis(nn.Module):
    """Latents float32 [B, latent_size] and labels int64 [B] -> images [B, 3, size, size], about -1..1.

    With ``conditional_from`` = 4 the class is given beside the latent. Above, it scales and shifts the channels of the
    stages of at least so many pixels, and coarser ones are the same for all classes: what rare classes have too few
    images to learn alone (Khorram et al. 2024, arXiv:2402.17065).
    """

    def __init__(self, config: Config, num_classes: int, size: int) -> None:
        super().__init__()
        self.num_inputs = config.latent_size
        self.sides, channels = zip(*stages(config, size), strict=True)
        conditional, first = num_classes > 1, channels[0]
        with_latent = conditional and config.conditional_from <= SMALLEST
        self.embedding = LabelEmbedding(num_classes, config.latent_size) if with_latent else None
        num_inputs = config.latent_size * (2 if with_latent else 1)
        self.dense = nn.Linear(num_inputs, first, bias=False)
        nn.init.normal_(self.dense.weight, std=1 / math.sqrt(num_inputs))
        self.basis = nn.Parameter(torch.randn(first, SMALLEST, SMALLEST))
        num_blocks = config.num_blocks * len(channels)
        self.transitions = nn.ModuleList(
            Conv(a, b, 1) if a != b else nn.Identity() for a, b in zip((first, *channels), channels, strict=False)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(num, config, num_blocks) for _ in range(config.num_blocks))) for num in channels
        )
        self.styles = nn.ModuleList(
            LabelEmbedding(num_classes, 2 * num, 0.0)
            if conditional and not with_latent and side >= config.conditional_from
            else nn.Identity()
            for side, num in zip(self.sides, channels, strict=True)
        )
        self.patch = size // self.sides[-1]
        # A patch sees its neighbours, or their borders show as a grid.
        self.to_rgb = Conv(channels[-1], 3 * self.patch**2, 1 if self.patch == 1 else 3)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        if self.embedding is not None:
            latents = torch.cat([latents, self.embedding(labels)], 1)
        x = self.dense(latents)[:, :, None, None] * self.basis
        x = x.contiguous(memory_format=torch.channels_last)
        for side, transition, style, stage in zip(self.sides, self.transitions, self.styles, self.stages, strict=True):
            x = transition(x)  # 1 x 1, so before the up-sampling it gives the same as after, for a quarter of the work
            if side > SMALLEST:
                x = F.interpolate(x, scale_factor=2, mode="bilinear")
            if isinstance(style, LabelEmbedding):
                scale, shift = style(labels)[:, :, None, None].chunk(2, 1)
                x = x * (1 + scale) + shift
            x = stage(x)
        return F.pixel_shuffle(self.to_rgb(x), self.patch)


class Discriminator(nn.Module):
    """Images [B, 3, size, size] and labels int64 [B] -> logits [B]: the generator's stages in reverse."""

    def __init__(self, config: Config, num_classes: int, size: int) -> None:
        super().__init__()
        sides, channels = zip(*reversed(stages(config, size)), strict=True)
        self.patch = size // sides[0]
        num_blocks = config.num_blocks * len(channels)
        self.from_rgb = Conv(3 * self.patch**2, channels[0], 1)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(num, config, num_blocks) for _ in range(config.num_blocks))) for num in channels
        )
        self.transitions = nn.ModuleList(Conv(a, b, 1) if a != b else nn.Identity() for a, b in pairwise(channels))
        last = channels[-1]
        self.basis = nn.Conv2d(last, last, SMALLEST, groups=last, bias=False)
        nn.init.normal_(self.basis.weight, std=1 / SMALLEST)
        self.head = nn.Linear(last, 1, bias=False)
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(last))
        self.projection = Projection(last, num_classes) if num_classes > 1 else None

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        x = self.from_rgb(F.pixel_unshuffle(images, self.patch).contiguous(memory_format=torch.channels_last))
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i < len(self.transitions):
                x = self.transitions[i](F.avg_pool2d(x, 2))  # bilinear interpolation to half the size
        features = self.basis(x).flatten(1)
        logits = self.head(features).squeeze(1)
        if self.projection is not None:
            logits = logits + self.projection(features, labels)
        return logits.float()


class Game(_adversary.Adversary):
    """Relativistic pairing (eq. 2 of the paper) with R1 and R2 (eq. 3)."""

    GENERATOR, DISCRIMINATOR = Synthesis, Discriminator

    burn_in_images: int

    def scheduled(self, step: int, first: float, final: float) -> float:
        """From ``first`` at the first step to ``final`` after ``burn_in_images``, along half a cosine."""
        share = step * self.config.batch_size / max(1, self.burn_in_images)
        return first + (final - first) * _adversary.half_cosine(share)

    def step(self, real: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        config = self.config
        factor = self.scheduled(step, 1.0, config.learning_rate_final)
        for optimiser, options in (
            (self.generator_optimiser, config.generator_optimiser),
            (self.discriminator_optimiser, config.discriminator_optimiser),
        ):
            [group] = optimiser.param_groups
            group["lr"] = options.learning_rate * factor
            if "betas" in group:
                group["betas"] = options.beta1, self.scheduled(step, config.beta2_first, options.beta2)
        return super().step(real, labels, step, rng)

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> Judged:
        penalised = step % self.config.penalty_every == 0
        real, fake = (self.seen(x, rng).detach().requires_grad_(penalised) for x in (real, fake))
        on_real, on_fake = self.discriminator(real, labels), self.discriminator(fake, labels)
        loss = F.softplus(on_fake - on_real).mean()
        if penalised:
            gamma = self.scheduled(step, self.config.gamma, self.config.gamma_final)
            penalty = _adversary.gradient_penalty(on_real, real) + _adversary.gradient_penalty(on_fake, fake)
            loss = loss + self.config.penalty_every * gamma / 2 * penalty.mean()
        return loss, on_real, on_fake

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> Tensor:
        with torch.no_grad():
            on_real = self.discriminator(self.seen(real, rng), labels)
        return F.softplus(on_real - self.discriminator(self.seen(fake, rng), labels)).mean()


class Generator(_adversary.Gan[Config]):
    """At a power of 2 from 8 to 512 pixels."""

    NAME, CONFIG, SIZES, GAME = "r3gan", Config, (8, 16, 32, 64, 128, 256, 512), Game

    def game(self) -> Game:
        game, given = super().game(), self.config.burn_in_images
        game.burn_in_images = self.num_steps * self.config.batch_size if given is None else given
        return game
