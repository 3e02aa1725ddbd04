"""A diffusion model (Karras et al. 2022, EDM): a U-Net that denoises, drawn from in a few dozen steps.

Preconditioning, noise levels, loss and the deterministic second-order sampler are EDM's (arXiv:2206.00364), and so is
the augmentation that does not leak: the network is told how an image was turned, moved or stretched, and draws images
to which nothing was done. A few hundred images need it. The U-Net is ADM's in small (``_unet``).
"""

import copy
import itertools
import math
from collections.abc import Callable
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from moulage.errors import RecipeError
from moulage.generators import _augment, _learner
from moulage.generators._descent import OneLoss
from moulage.generators._editing import Editing, Editor, Given
from moulage.generators._unet import NetworkOptions, UNet

EDM_SIZE = 64  # pixels a side up to which EDM's noise levels hold as they are
NUM_AUGMENT = 9  # numbers that describe an augmentation


class Config(NetworkOptions):
    """The network is EDM's for faces at 64 pixels, the budget a fortieth of theirs; a CPU needs less of both.

    The average forgets half in a twentieth of the images, as EDM's does while it ramps up (appendix F.3).
    """

    images: _learner.Images = 5_000_000
    epochs: _learner.Epochs = None
    batch_size: _learner.BatchSize = 128
    ema_images: _learner.EmaImages = 250_000
    learning_rate: float = Field(2e-4, gt=0, le=0.1, description="step size of Adam")
    warmup_steps: int = Field(500, ge=0, le=1_000_000, description="steps in which the step size rises from 0")
    sigma_data: float = Field(0.5, gt=0, le=2, description="standard deviation of pixels, of images in -1..1")
    noise_mean: float | None = Field(
        None,
        ge=-10,
        le=10,
        description="mean of the logarithm of the noise level in training; left out: -1.2 (EDM's) up to 64 pixels, "
        "above them log(size / 64) more",
    )
    noise_std: float = Field(1.2, gt=0, le=10, description="standard deviation of that logarithm")
    augment_probability: float = Field(
        0.15, ge=0, le=1, description="of each geometric change that the network is told of, and does not draw"
    )
    guide: Literal["unconditional", "weak"] = Field(
        "unconditional",
        description="what guidance moves away from: the network without the class, or an earlier state, which is kept",
    )
    class_dropout: float = Field(
        0.0, ge=0, le=0.9, description="share of images whose class is hidden; guide = unconditional needs some"
    )
    weak_share: float = Field(
        1 / 16, gt=0, le=1, description="share of the steps after which guide = weak keeps the average"
    )

    def at(self, size: int) -> Self:
        if self.noise_mean is not None:
            return super().at(size)
        return super().at(size).model_copy(update={"noise_mean": -1.2 + math.log(noise_scale(size))})


class Drawing(Editing):
    """How images are drawn from a fit."""

    num_sampling_steps: int = Field(
        18,
        ge=2,
        le=1000,
        description="steps of the sampler, two evaluations each but one; fewer by strength",
    )
    sigma_min: float = Field(0.002, gt=0, le=1, description="lowest noise level of the sampler")
    sigma_max: float | None = Field(
        None,
        gt=1,
        le=2000,
        description="highest noise level, where it starts; left out: 80 (EDM's) up to 64 pixels, above them size / 64 "
        "times that",
    )
    rho: float = Field(7.0, ge=1, le=100, description="how much the sampler's steps shorten towards low noise")
    clip: bool = Field(True, description="keep the denoised image in the range of pixels at every step")
    guidance: float = Field(1.0, ge=0, le=20, description="strength of guidance; 1 is none and draws twice as fast")


def noise_scale(size: int) -> float:
    """How much higher the noise levels of images of ``size`` pixels are than EDM's, which are for 32 and 64.

    A mean over neighbours takes noise away and not the image, so that at twice the side twice the noise hides as much
    (Hoogeboom et al. 2023, arXiv:2301.11093, section 3.1: log SNR shifted by 2 log(64 / size)).
    """
    return max(1.0, size / EDM_SIZE)


class Denoiser(nn.Module):
    """D(x; sigma): the mean clean image given a noisy one, by a preconditioned network (EDM, eq. 7)."""

    weak_known: Tensor

    def __init__(self, config: Config, num_classes: int, size: int) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(config, num_classes, size, NUM_AUGMENT).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.weak = copy.deepcopy(self.unet).requires_grad_(False) if config.guide == "weak" else None
        self.register_buffer("weak_known", torch.tensor(False))  # whether ``weak``, an earlier average, is there yet

    def forward(
        self, x: Tensor, sigma: Tensor, labels: Tensor, keep: Tensor, augment: Tensor, weak: bool = False
    ) -> Tensor:
        """Denoised images float32 [B, 3, S, S] of ``x`` at noise levels ``sigma`` [B]; see ``UNet`` for the rest."""
        data, level = self.config.sigma_data, sigma[:, None, None, None]
        total = (level**2 + data**2).sqrt()
        c_skip, c_out, c_in = data**2 / total**2, level * data / total, 1 / total
        network = self.weak if weak and self.weak is not None else self.unet
        return c_skip * x + c_out * network(c_in * x, sigma.log() / 4, labels, keep, augment).float()

    def guided(self, x: Tensor, sigma: Tensor, labels: Tensor, drawing: Drawing) -> Tensor:
        """The denoised image, moved away from what a worse denoiser says of the same x.

        Worse is one that does not know the class (Ho & Salimans 2022, arXiv:2207.12598, eq. 6), or an earlier state of
        the same network (Karras et al. 2024, arXiv:2406.02507, eq. 3).
        """
        is_weak, ones, plain = self.config.guide == "weak", torch.ones_like(sigma), x.new_zeros(len(x), NUM_AUGMENT)
        denoised = self(x, sigma, labels, ones, plain)
        if drawing.guidance != 1 and (self.weak_known or not is_weak):
            keep = ones if is_weak else torch.zeros_like(ones)
            worse = self(x, sigma, labels, keep, plain, weak=is_weak)
            denoised = worse.lerp(denoised, drawing.guidance)
        return denoised.clamp(-1, 1) if drawing.clip else denoised

    @torch.no_grad()
    def keep_weak(self, unet: UNet) -> None:
        """Keep a copy of ``unet`` as the weak network; the strength of its condition becomes part of its labels."""
        assert self.weak is not None
        self.weak.load_state_dict(unet.state_dict())
        if self.weak.label is not None:
            self.weak.label.embedding.weight.mul_(self.weak.label.strength)
            self.weak.label.strength.fill_(1)
        self.weak_known.fill_(True)


def noise_levels(drawing: Drawing, size: int) -> list[float]:
    """The falling noise levels of the sampler, ``num_sampling_steps`` and a last 0 (EDM, eq. 5).

    With a strength they begin at that share of the way between the ends, and are as dense as all of them would be.
    """
    highest = drawing.sigma_max or 80 * noise_scale(size)
    highest, last = (sigma ** (1 / drawing.rho) for sigma in (highest, drawing.sigma_min))
    first, num = last + drawing.way * (highest - last), max(2, math.ceil(drawing.way * drawing.num_sampling_steps))
    return [(first + i / (num - 1) * (last - first)) ** drawing.rho for i in range(num)] + [0.0]


def heun(
    denoise: Callable[[Tensor, float], Tensor], noise: Tensor, sigmas: list[float], clean: Tensor | float = 0.0
) -> Tensor:
    """Integrate dx/dsigma = (x - D(x; sigma)) / sigma from noise to an image (EDM, algorithm 1).

    From standard normal [B, 3, S, S], added to ``clean`` images where there are any, along falling noise levels to 0;
    ``denoise`` takes images and a noise level.
    """
    x = clean + noise * sigmas[0]
    for sigma, lower in itertools.pairwise(sigmas):
        slope = (x - denoise(x, sigma)) / sigma
        euler = x + (lower - sigma) * slope
        if lower > 0:  # the second-order correction: the mean of the slopes at both ends
            slope = (slope + (euler - denoise(euler, lower)) / lower) / 2
            euler = x + (lower - sigma) * slope
        x = euler
    return x


def augmented(images: Tensor, probability: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images moved, turned, flipped and stretched, and what was done to each (EDM, appendix F.2, table 6).

    The network is told, and asked for images that were left alone: the changes do not leak into what it draws. Each
    change comes with the given probability; it is one bilinear resampling with reflected borders. Images are float
    [B, 3, S, S], ``rng`` is on the CPU; descriptions are float32 [B, 9], zeros for an image that was left alone.
    """
    num, zero = len(images), torch.zeros(len(images))
    if probability == 0:
        return images, images.new_zeros(num, NUM_AUGMENT)

    def maybe(values: Tensor) -> Tensor:
        return torch.where(torch.rand(num, generator=rng) < probability, values, zero)

    def normal() -> Tensor:
        return torch.randn(num, generator=rng)

    flip_x, flip_y = (maybe(torch.randint(0, 2, (num,), generator=rng).float()) for _ in "xy")
    scale, angle = maybe(normal()), maybe((torch.rand(num, generator=rng) * 2 - 1) * math.pi)
    stretch, axis = maybe(normal()), (torch.rand(num, generator=rng) * 2 - 1) * math.pi
    shift_x, shift_y = maybe(normal()), maybe(normal())
    done = [flip_x, flip_y, scale, angle.cos() - 1, angle.sin()]
    description = torch.stack([*done, stretch * axis.cos(), stretch * axis.sin(), shift_x, shift_y], 1)
    flips = torch.diag_embed(1 - 2 * torch.stack([flip_x, flip_y], 1))
    scales = torch.diag_embed(2 ** (0.2 * torch.stack([scale + stretch, scale - stretch], 1)))
    with _augment.in_fp32(images.device):
        matrix = flips @ rotation(angle) @ rotation(axis) @ scales @ rotation(-axis)
    shifts = torch.stack([shift_x, shift_y], 1)[:, :, None] / 4  # 1/8 of a side; coordinates run from -1 to 1
    moved = _augment.resampled(images, torch.cat([matrix, shifts], 2))
    changed = description.ne(0).any(1).to(images.device)
    return torch.where(changed[:, None, None, None], moved, images), description.to(images)


def rotation(angle: Tensor) -> Tensor:
    """Angles [B] -> matrices [B, 2, 2]."""
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)


class Game(OneLoss):
    """A denoiser in training; after step ``weak_step`` its average is kept as the weak network, where one is wanted."""

    def __init__(
        self, config: Config, num_classes: int, size: int, device: torch.device | str = "cpu", weak_step: int = 0
    ) -> None:
        super().__init__(config.at(size), Denoiser(config, num_classes, size), device)
        self.weak_step = weak_step

    def step(self, real: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        losses = super().step(real, labels, step, rng)
        if step == self.weak_step and self.network.weak is not None:
            for denoiser in (self.network, self.ema.model):
                denoiser.keep_weak(self.ema.model.unet)
        return losses

    def loss(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Weighted squared error of the denoised image (EDM, eqs. 2 and 8; noise levels and weights of table 1)."""
        config, num = self.config, len(images)
        clean, augment = augmented(images, config.augment_probability, rng)
        sigma = (config.noise_mean + config.noise_std * torch.randn(num, generator=rng)).exp().to(self.device)
        noise = torch.randn(images.shape, generator=rng).to(self.device)
        keep = (torch.rand(num, generator=rng) >= config.class_dropout).float().to(self.device)
        denoised = self.network(clean + sigma[:, None, None, None] * noise, sigma, labels, keep, augment)
        weight = (sigma**2 + config.sigma_data**2) / (sigma * config.sigma_data) ** 2
        return (weight * (denoised - clean).square().mean((1, 2, 3))).mean()


class Generator(Editor[Config]):
    """At a multiple of 8 pixels from 16 to 256."""

    NAME, CONFIG, DRAWING, SIZES = "diffusion", Config, Drawing, range(16, 257, 8)

    def __init__(self, config: Config, classes: tuple[str, ...], size: int) -> None:
        super().__init__(config, classes, size)
        config.check_size(size, len(classes))

    def check_drawing(self, drawing: Drawing) -> None:
        """Raise ``RecipeError`` where the fit has nothing that guidance could move away from."""
        if drawing.guidance == 1 or self.config.guide == "weak":
            return
        if len(self.classes) == 1:
            raise RecipeError(
                "With one class there is nothing to hide from the network, so guidance would do nothing.",
                'Fit with guide = "weak", or draw with guidance = 1.',
            )
        if self.config.class_dropout == 0:
            raise RecipeError(
                "Guidance away from the network without the class needs one that has learned without it.",
                'Fit with class_dropout, such as 0.1, or with guide = "weak"; or draw with guidance = 1.',
            )

    def game(self) -> Game:
        weak_step = max(1, round(self.config.weak_share * self.num_steps))
        return Game(self.config, len(self.classes), self.size, self.device, weak_step)

    def network_of(self) -> nn.Module:
        return Denoiser(self.config, len(self.classes), self.size)

    def edit(self, network: Denoiser, labels: Tensor, seeds: np.ndarray, given: Given | None) -> Tensor:
        noise = _learner.latents(seeds, 3, self.size, self.size, name="noise").to(self.device)

        def denoise(x: Tensor, sigma: float) -> Tensor:
            denoised = network.guided(x, x.new_full((len(x),), sigma), labels, self.drawing)
            if given is None or given.region is None:
                return denoised
            # Then x is there, at each noise level, the given image with that much of the first noise.
            return torch.where(given.region, denoised, given.images)

        return heun(denoise, noise, noise_levels(self.drawing, self.size), given.images if given else 0.0)
