"""A diffusion model (Karras et al. 2022, EDM): a U-Net that denoises, drawn from in a few dozen steps.

Preconditioning, noise levels, loss and the deterministic second-order sampler are EDM's (arXiv:2206.00364), and so is
the augmentation that does not leak: the network is told how an image was turned, moved or stretched, and draws images
to which nothing was done. A few hundred images need it. The U-Net is ADM's in small (``_unet``).
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from moulage import randomness
from moulage.errors import RecipeError
from moulage.generators import _learner
from moulage.generators._diffusion import Denoiser, Game, heun, noise_levels

Side = Annotated[int, Field(ge=1, le=256)]
Multiplier = Annotated[int, Field(ge=1, le=16)]


class Config(_learner.Options):
    """The defaults are EDM's for faces at 64 pixels; a CPU needs a smaller network and ``patch_size = 2``."""

    base_channels: int = Field(128, ge=4, le=1024, description="channels of the largest map")
    channel_multipliers: tuple[Multiplier, ...] = Field(
        (1, 2, 2, 2), min_length=1, max_length=7, description="channels of each map as multiples; each halves the side"
    )
    num_blocks: int = Field(4, ge=1, le=8, description="residual blocks at each size, on the way down")
    attention_sides: tuple[Side, ...] = Field((16,), description="sides of the maps that have attention, in pixels")
    patch_size: Literal[1, 2, 4] = Field(
        1, description="pixels a side that the network takes as one; 2 is three times as fast, and a little coarser"
    )
    conditional_from: int = Field(
        0, ge=0, le=256, description="maps of fewer pixels a side take no class, so that classes share the coarse form"
    )
    dropout: float = Field(0.05, ge=0, lt=1, description="dropout in each block")
    learning_rate: float = Field(2e-4, gt=0, le=0.1, description="step size of Adam")
    warmup_steps: int = Field(500, ge=0, le=1_000_000, description="steps in which the step size rises from 0")
    sigma_data: float = Field(0.5, gt=0, le=2, description="standard deviation of pixels, of images in -1..1")
    noise_mean: float = Field(-1.2, ge=-10, le=10, description="mean of the logarithm of the noise level in training")
    noise_std: float = Field(1.2, gt=0, le=10, description="standard deviation of that logarithm")
    augment_probability: float = Field(
        0.15, ge=0, le=1, description="of each geometric change that the network is told of, and does not draw"
    )
    num_sampling_steps: int = Field(18, ge=2, le=1000, description="steps of the sampler, two evaluations each but one")
    sigma_min: float = Field(0.002, gt=0, le=1, description="lowest noise level of the sampler")
    sigma_max: float = Field(80.0, gt=1, le=1000, description="highest noise level, where it starts")
    rho: float = Field(7.0, ge=1, le=100, description="how much the sampler's steps shorten towards low noise")
    clip: bool = Field(True, description="keep the denoised image in the range of pixels at every step")
    guide: Literal["unconditional", "weak"] = Field(
        "unconditional",
        description="what guidance moves away from: the network without the class, or an earlier state of it",
    )
    guidance: float = Field(1.0, ge=0, le=20, description="strength of guidance; 1 is none and draws twice as fast")
    class_dropout: float = Field(
        0.0, ge=0, le=0.9, description="share of images whose class is hidden; guide = unconditional needs some"
    )
    weak_share: float = Field(
        1 / 16, gt=0, le=1, description="share of the steps after which guide = weak keeps the average"
    )

    @model_validator(mode="after")
    def _guidance_is_possible(self) -> Self:
        if self.guidance != 1 and self.guide == "unconditional" and self.class_dropout == 0:
            raise ValueError('guidance without the class needs class_dropout, such as 0.1, or guide = "weak"')
        return self


class Generator(_learner.Learner[Config]):
    """Draws images of ``classes`` at ``size`` x ``size`` pixels, a multiple of 8 from 16 to 256; see ``Learner``."""

    NAME, CONFIG, SIZES = "diffusion", Config, range(16, 257, 8)

    def __init__(self, config: Config, classes: tuple[str, ...], size: int) -> None:
        super().__init__(config, classes, size)
        self._num_steps = 0
        divisor = config.patch_size * 2 ** (len(config.channel_multipliers) - 1)
        if size % divisor:
            raise RecipeError(
                f"The U-Net cannot divide {size} pixels by {divisor}.",
                "Use fewer channel_multipliers, each of which but the first halves the side, or a smaller patch_size.",
            )
        if config.guidance != 1 and config.guide == "unconditional" and len(classes) == 1:
            raise RecipeError(
                "With one class there is nothing to hide from the network, so guidance would do nothing.",
                'Use guide = "weak", or guidance = 1.',
            )

    def fit(self, images: np.ndarray, labels: np.ndarray, *, seed: int, folder: Path, **others: Any) -> None:
        """As ``Learner.fit``; the number of steps says when the weak network is kept."""
        self._num_steps = self.config.num_steps(len(images))
        super().fit(images, labels, seed=seed, folder=folder, **others)

    def game(self) -> Game:
        weak_step = max(1, round(self.config.weak_share * self._num_steps))
        return Game(self.config, len(self.classes), self.size, self.device, weak_step)

    def network_of(self) -> nn.Module:
        return Denoiser(self.config, len(self.classes), self.size)

    def draw(self, network: Denoiser, labels: Tensor, seeds: np.ndarray) -> Tensor:
        shape = (3, self.size, self.size)
        noise = torch.stack([torch.randn(shape, generator=randomness.generator_for("noise", seed)) for seed in seeds])

        def denoise(x: Tensor, sigma: float) -> Tensor:
            return network.guided(x, x.new_full((len(x),), sigma), labels)

        return heun(denoise, noise.to(self.device), noise_levels(self.config))
