"""Progressively growing GAN: 4 pixels first, then twice as many, faded in; with self-attention where asked for.

After Karras et al. 2017 (arXiv:1710.10196): minibatch standard deviation, equalised learning rate, pixel norm, WGAN-GP.
Self-attention (``attention_size``) and two learning rates make it the GAN of Ali et al. 2019 (arXiv:1910.11960), as in
studies/progressive2019.toml. The class enters the latent; the discriminator projects on it.

All resolutions exist from the start. How far the networks have grown is one integer, ``growth``, in units of which
a resolution has ``FULL``: 0 is 4 x 4 pixels, 1.3 FULL is 16 x 16 faded in to 30 % over 8 x 8. Images and networks go by
it alone. It is a buffer, so averaged and saved weights know what they draw.
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from moulage.errors import RecipeError
from moulage.generators import _adversary, _learner, _upconv
from moulage.generators._adversary import Judged
from moulage.generators._condition import LABEL_STD, LabelEmbedding, Projection

Share = Annotated[float, Field(gt=0)]
ADAM = _adversary.Optimiser(learning_rate=1e-3, beta1=0.0, beta2=0.99)  # the paper's
FIRST = 4  # pixels a side of the first images
FULL = 1 << 16  # growth from one resolution to the next; a power of 2, so that shares of it are exact
SLOPE = 0.2  # of the leaky rectifiers
EPSILON = 1e-8


class Config(_adversary.Options):
    """The defaults are the paper's; 7,800,000 images are its 600,000 a phase at 256 pixels."""

    images: _learner.Images = 7_800_000
    epochs: _learner.Epochs = None
    batch_size: _learner.BatchSize = 16
    ema_images: _learner.EmaImages = 11_000
    latent_size: _adversary.LatentSize = 512
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
    generator_optimiser: _adversary.GeneratorOptimiser = ADAM
    discriminator_optimiser: _adversary.Optimiser = Field(
        ADAM,
        description="how the discriminator learns; two time scales: another learning rate than the generator's",
    )

    @property
    def sign_tells_real(self) -> bool:
        return self.loss == "logistic"  # only differences of Wasserstein's critic mean anything


def grown(step: int, num_steps: int, shares: Sequence[float], fade: float) -> int:
    """How far the networks have grown at a step (from 1) of ``num_steps`` (section 2, figure 2).

    ``shares`` of the steps, from 4 pixels on, sum to 1; each resolution fades in during the share ``fade`` of its own.
    """
    start = 0
    for level, share in enumerate(accumulate(shares)):
        # Whole steps; a sum of shares that rounding left just below one counts as it.
        end = num_steps if level == len(shares) - 1 else math.floor(share * num_steps + 1e-6)
        if step <= end:
            fading = fade * (end - start)
            blend = min(1.0, (step - start) / fading) if level and fading else 1.0
            return (level - 1) * FULL + round(blend * FULL)
        start = end
    raise AssertionError("a step after the last")


def upper(growth: int) -> tuple[int, float]:
    """The highest level in use (0 is 4 pixels), and the share above 0 to which it is faded in."""
    level = -(-growth // FULL)
    return level, growth / FULL - level + 1


def shrink(images: Tensor, growth: int) -> Tensor:
    """Images [B, 3, S, S] as the networks see them: at the current resolution, blended with the one below."""
    level, blend = upper(growth)
    images = F.avg_pool2d(images, images.shape[-1] // (FIRST << level))
    return images if blend == 1 else blended(enlarge(F.avg_pool2d(images, 2)), images, blend)


def blended(coarse: Tensor, fine: Tensor, share: float | Tensor) -> Tensor:
    """What is shown of both, float32; under autocast one may be of another precision than the other."""
    return torch.lerp(coarse.float(), fine.float(), share)


def enlarge(images: Tensor, size: int = 0) -> Tensor:
    """Images at twice the size, or at ``size``, by repeating pixels."""
    return F.interpolate(images, size or 2 * images.shape[-1], mode="nearest")


def pixel_norm(x: Tensor) -> Tensor:
    """Each position's vector of channels at a mean square of 1 (section 4.2)."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + EPSILON)


def scaled(weight: Tensor, fan_in: int, gain: float, equalised: bool) -> float:
    """Initialise a weight (He et al. 2015, arXiv:1502.01852) and return the factor to use it with.

    With an equalised learning rate the weight has variance 1 and the factor is He's constant (section 4.1); Adam, whose
    steps do not depend on the scale of a gradient, then changes all layers equally fast.
    """
    std = gain / math.sqrt(fan_in)
    nn.init.normal_(weight, std=1.0 if equalised else std)
    return std if equalised else 1.0


class Conv(nn.Module):
    """Convolution that keeps the size; a kernel of 1 on a 1 x 1 map is a dense layer."""

    def __init__(self, num_in: int, num_out: int, kernel: int, equalised: bool, gain: float = math.sqrt(2)) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_out, num_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(num_out))
        self.scale = scaled(self.weight, num_in * kernel**2, gain, equalised)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.weight.shape[-1] // 2)


class UpConv(_upconv.UpConv):
    """Nearest up-sampling and a 3 x 3 convolution in one."""

    def __init__(self, num_in: int, num_out: int, equalised: bool) -> None:
        super().__init__(num_in, num_out, 3, "nearest")
        self.bias = nn.Parameter(torch.zeros(num_out))
        self.scale = scaled(self.weight, num_in * 9, math.sqrt(2), equalised)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.summed_taps() * self.scale, self.bias, stride=2, padding=1)


class DownConv(Conv):
    """A 3 x 3 convolution and averaging over 2 x 2 in one strided convolution: 2.25 times fewer operations."""

    taps: Tensor

    def __init__(self, num_in: int, num_out: int, equalised: bool) -> None:
        super().__init__(num_in, num_out, 3, equalised)
        # An average of two neighbours reads 4 rows; each row meets the taps that the two have in common with it.
        taps = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1]]) / 2
        self.register_buffer("taps", taps, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = torch.einsum("ak,oikl,bl->oiab", self.taps, self.weight * self.scale, self.taps)
        return F.conv2d(x, kernel, self.bias, stride=2, padding=1)


class Attention(nn.Module):
    """Each position takes from all what resembles its query (Zhang et al. 2018, arXiv:1805.08318, eq. 1 to 3)."""

    def __init__(self, num_channels: int, equalised: bool) -> None:
        super().__init__()
        num_inner = max(1, num_channels // 8)
        self.inputs = Conv(num_channels, 3 * num_inner, 1, equalised, gain=1)
        self.output = Conv(num_inner, num_channels, 1, equalised, gain=1)
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        # No fused kernel: the gradient penalty differentiates this twice.
        query, key, value = self.inputs(x).flatten(2).chunk(3, 1)
        weights = (query.transpose(1, 2) @ key).softmax(2)
        taken = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.strength * self.output(taken)


class Plan:
    """What both networks have in common: sides and widths of their maps."""

    def __init__(self, config: Config, size: int) -> None:
        self.sides = _upconv.sides(FIRST, size)
        self.widths = {s: min(config.max_channels, max(1, config.base_channels * 64 // s)) for s in self.sides}
        self.equalised, self.attention_size = config.equalised_learning_rate, config.attention_size

    def attention(self) -> nn.Module:
        """Self-attention, or nothing where it was not asked for."""
        size = self.attention_size
        return Attention(self.widths[size], self.equalised) if size else nn.Identity()


class Synthesis(nn.Module):
    """Latents float32 [B, latent_size] and labels int64 [B] -> images [B, 3, s, s], about -1..1, s as far as grown."""

    growth: Tensor

    def __init__(self, config: Config, num_classes: int, size: int) -> None:
        super().__init__()
        plan = self.plan = Plan(config, size)
        widths, equalised, self.num_inputs = plan.widths, plan.equalised, config.latent_size
        self.normalise = pixel_norm if config.pixel_norm else nn.Identity()
        self.embedding = LabelEmbedding(num_classes, config.latent_size, LABEL_STD) if num_classes > 1 else None
        num_latent = config.latent_size * (2 if self.embedding else 1)
        self.dense = Conv(num_latent, widths[FIRST] * FIRST**2, 1, equalised, gain=math.sqrt(2) / FIRST)
        self.convs = nn.ModuleDict({str(s): Conv(widths[s], widths[s], 3, equalised) for s in plan.sides})
        self.ups = nn.ModuleDict({str(s): UpConv(widths[s // 2], widths[s], equalised) for s in plan.sides[1:]})
        self.to_rgb = nn.ModuleDict({str(s): Conv(widths[s], 3, 1, equalised, gain=1) for s in plan.sides})
        self.attention = plan.attention()
        self.register_buffer("growth", torch.tensor((len(plan.sides) - 1) * FULL))

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        level, blend = upper(int(self.growth))
        inputs = pixel_norm(latents)
        if self.embedding is not None:
            inputs = torch.cat([inputs, self.embedding(labels)], 1)
        x = self.dense(inputs[:, :, None, None]).view(len(latents), -1, FIRST, FIRST)
        x = below = self.block(FIRST, x.contiguous(memory_format=torch.channels_last))
        for side in self.plan.sides[1 : level + 1]:
            below, x = x, self.block(side, self.ups[str(side)](x))
        images = self.to_rgb[str(FIRST << level)](x)
        if blend == 1:
            return images
        return blended(enlarge(self.to_rgb[str(FIRST << level - 1)](below)), images, blend)

    def block(self, side: int, x: Tensor) -> Tensor:
        """What follows the doubling of the size."""
        x = self.normalise(F.leaky_relu(x, SLOPE))
        x = self.normalise(F.leaky_relu(self.convs[str(side)](x), SLOPE))
        return self.attention(x) if side == self.plan.attention_size else x


class Discriminator(nn.Module):
    """Images [B, 3, s, s], s as far as grown, and labels int64 [B] -> logits [B], higher for real."""

    growth: Tensor

    def __init__(self, config: Config, num_classes: int, size: int) -> None:
        super().__init__()
        plan = self.plan = Plan(config, size)
        widths, equalised = plan.widths, plan.equalised
        self.from_rgb = nn.ModuleDict({str(s): Conv(3, widths[s], 1, equalised) for s in plan.sides})
        self.convs = nn.ModuleDict({str(s): Conv(widths[s], widths[s], 3, equalised) for s in plan.sides[1:]})
        self.downs = nn.ModuleDict({str(s): DownConv(widths[s], widths[s // 2], equalised) for s in plan.sides[1:]})
        self.attention = plan.attention()
        self.minibatch_stddev, num = config.minibatch_stddev, widths[FIRST]
        self.last = Conv(num + config.minibatch_stddev, num, 3, equalised)
        self.dense = Conv(num * FIRST**2, num, 1, equalised)
        self.head = Conv(num, 1, 1, equalised, gain=1)
        self.projection = Projection(num, num_classes) if num_classes > 1 else None
        self.register_buffer("growth", torch.tensor((len(plan.sides) - 1) * FULL))

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        level, blend = upper(int(self.growth))
        x = self.enter(FIRST << level, images)
        for side in reversed(self.plan.sides[1 : level + 1]):
            x = self.block(side, x)
            if side == FIRST << level and blend < 1:
                x = blended(self.enter(side // 2, F.avg_pool2d(images, 2)), x, blend)
        if self.minibatch_stddev:
            x = torch.cat([x, deviation(x)], 1)
        x = F.leaky_relu(self.last(x), SLOPE)
        features = F.leaky_relu(self.dense(x.flatten(1)[:, :, None, None]), SLOPE)
        logits = self.head(features).flatten()
        if self.projection is not None:  # its own equalised learning rate
            logits = logits + self.projection(features.flatten(1) / math.sqrt(features.shape[1]), labels)
        return logits.float()

    def enter(self, side: int, images: Tensor) -> Tensor:
        """Features of images of this side."""
        return F.leaky_relu(self.from_rgb[str(side)](images), SLOPE)

    def block(self, side: int, x: Tensor) -> Tensor:
        """Features at half the side."""
        x = self.attention(x) if side == self.plan.attention_size else x
        x = F.leaky_relu(self.convs[str(side)](x), SLOPE)
        return F.leaky_relu(self.downs[str(side)](x), SLOPE)


def deviation(x: Tensor) -> Tensor:
    """Standard deviation over the batch, averaged over channels and positions: [B, 1, s, s], all equal (section 3)."""
    mean = (x.float().var(0, unbiased=False) + EPSILON).sqrt().mean()
    return mean.to(x.dtype).expand(len(x), 1, *x.shape[2:])


class Game(_adversary.Adversary):
    """Wasserstein's distance with gradient penalty, or the logistic loss with R1; ``growth_at`` a step says how far."""

    GENERATOR, DISCRIMINATOR = Synthesis, Discriminator
    growth_at: Callable[[int], int]

    def step(self, real: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        growth = self.growth_at(step)
        if step > 1 and upper(growth)[0] != upper(self.growth_at(step - 1))[0]:
            # Moments and averages of what was learned at the last resolution mislead at the new one.
            self.generator_optimiser.state.clear()
            self.discriminator_optimiser.state.clear()
            self.ema.num_updates = 0
        self.generator.growth.fill_(growth)
        self.discriminator.growth.fill_(growth)
        return super().step(shrink(real, growth), labels, step, rng)

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> Judged:
        config = self.config
        real, fake = self.seen(real, rng), self.seen(fake, rng)
        on_real, on_fake = self.discriminator(real, labels), self.discriminator(fake, labels)
        if config.loss == "wgan-gp":
            loss = on_fake.mean() - on_real.mean() + config.drift * on_real.square().mean()
        else:
            loss = F.softplus(on_fake).mean() + F.softplus(-on_real).mean()
        if config.penalty and step % config.penalty_every == 0:
            loss = loss + config.penalty * config.penalty_every * self.penalty(real, fake, labels, rng)
        return loss, on_real, on_fake

    def penalty(self, real: Tensor, fake: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Of the discriminator's gradient: its distance from 1 between real and generated images (WGAN-GP, Gulrajani et
        al. 2017, arXiv:1704.00028, eq. 3), or half its square on real ones (R1)."""
        where = real
        if self.config.loss == "wgan-gp":
            where = blended(real, fake, torch.rand(len(real), 1, 1, 1, generator=rng).to(self.device))
        where = where.detach().requires_grad_()
        squares = _adversary.gradient_penalty(self.discriminator(where, labels), where)
        if self.config.loss == "wgan-gp":
            return ((squares + EPSILON).sqrt() - 1).square().mean()
        return squares.mean() / 2

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> Tensor:
        logits = self.discriminator(self.seen(fake, rng), labels)
        return -logits.mean() if self.config.loss == "wgan-gp" else F.softplus(-logits).mean()


class Generator(_adversary.Gan[Config]):
    """At a power of two from 8 to 1024 pixels; previews before the last resolution are small, with repeated pixels."""

    NAME, CONFIG, SIZES, GAME = "progressive", Config, (8, 16, 32, 64, 128, 256, 512, 1024), Game

    def __init__(self, config: Config, classes: tuple[str, ...], size: int) -> None:
        super().__init__(config, classes, size)
        sides = _upconv.sides(FIRST, size)
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
        self.held: int | None = None

    def growth_at(self, step: int) -> int:
        """How far the networks have grown at a step of the fit, or all the time while it is ``held``."""
        return grown(step, self.num_steps, self.shares, self.config.fade) if self.held is None else self.held

    def draws_as_at_the_end(self, step: int) -> bool:
        return super().draws_as_at_the_end(step) and self.growth_at(step) == (len(self.shares) - 1) * FULL

    def game(self) -> Game:
        game = super().game()
        game.growth_at = self.growth_at
        return game

    def draw(self, network: Synthesis, labels: Tensor, seeds: np.ndarray) -> Tensor:
        return enlarge(super().draw(network, labels, seeds), self.size)

    def steps_and_seconds(self, num_images: int, device: str = "cpu") -> tuple[int, float]:
        """As of ``Learner``, in the mean over the resolutions."""
        seconds = []
        try:
            for level in range(len(self.shares)):
                self.held = level * FULL
                seconds.append(super().steps_and_seconds(num_images, device)[1])
        finally:
            self.held = None
        return self.config.num_steps(num_images), float(np.dot(self.shares, seconds))
