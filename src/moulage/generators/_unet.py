"""The U-Net of ``diffusion``: residual blocks and attention, told the noise level, the class and the augmentation.

After Dhariwal & Nichol 2021 (arXiv:2105.05233, section 3: norms that are scaled and shifted by the embedding,
resampling inside residual blocks, attention with 64 channels a head) and Ho et al. 2020 (arXiv:2006.11239, appendix B).
"""

import math
from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from moulage.errors import RecipeError
from moulage.generators import _learner
from moulage.generators._condition import LabelEmbedding

Side = Annotated[int, Field(ge=1, le=256)]
Multiplier = Annotated[int, Field(ge=1, le=16)]
GROUP_CHANNELS = 4
"""Channels in a group of a norm, at least; 32 groups at most (Wu & He 2018, arXiv:1803.08494).

With 16 a network of 16 base channels learned more slowly: a loss of 0.52 after 200 steps, and 0.48 with 4.
"""
HEAD_CHANNELS = 64
MOST_ATTENDED = 24
"""Side of the largest map that has attention where nobody says which, unless all are larger."""
PERIOD = 10_000
"""Longest period of the sines that a noise level is written in (Vaswani et al. 2017, arXiv:1706.03762)."""


class NetworkOptions(_learner.Options):
    """What makes the network."""

    base_channels: int = Field(128, ge=4, le=1024, description="channels of the largest map")
    channel_multipliers: tuple[Multiplier, ...] = Field(
        (1, 2, 2, 2), min_length=1, max_length=7, description="channels of each map as multiples; each halves the side"
    )
    num_blocks: int = Field(4, ge=1, le=8, description="residual blocks at each size, on the way down")
    attention_sides: tuple[Side, ...] | None = Field(
        None,
        description="sides of the maps that have attention; left out: the largest map of at most 24 a side (16 of 64 "
        "pixels), else the smallest",
    )
    patch_size: Literal[1, 2, 4] = Field(
        1, description="pixels a side that the network takes as one; 2 is three times as fast, and a little coarser"
    )
    conditional_from: int = Field(
        0, ge=0, le=256, description="maps of fewer pixels a side take no class, so that classes share the coarse form"
    )
    dropout: float = Field(
        0.25,
        ge=0,
        lt=1,
        description="dropout in each block: EDM's for 15,000 images (table 7); 0.05 for 70,000, 0 for a small network",
    )

    def sides(self, size: int) -> list[int]:
        """Sides of the maps of images of ``size`` pixels, the largest first."""
        return [size // self.patch_size >> level for level in range(len(self.channel_multipliers))]

    def at(self, size: int) -> Self:
        """EDM attends at 16 of 64 pixels, ADM at 8 to 32 of 256; attention costs the fourth power of a side."""
        if self.attention_sides is not None:
            return self
        sides = self.sides(size)
        side = next((side for side in sides if side <= MOST_ATTENDED), sides[-1])
        return self.model_copy(update={"attention_sides": (side,)})

    def check_size(self, size: int, num_classes: int) -> None:
        """Raise ``RecipeError`` where images of this size have no maps such as the options ask for."""
        divisor, sides = self.patch_size * 2 ** (len(self.channel_multipliers) - 1), self.sides(size)
        if size % divisor:
            raise RecipeError(
                f"The U-Net cannot divide {size} pixels by {divisor}.",
                "Use fewer channel_multipliers, each of which but the first halves the side, or a smaller patch_size.",
            )
        there = f"At {size} pixels the maps have {', '.join(map(str, sides))} a side."
        strange = [side for side in self.attention_sides or () if side not in sides]
        if strange:
            raise RecipeError(
                f"attention_sides: no map has {' or '.join(map(str, strange))} a side.",
                f"{there} Name some of these, or leave attention_sides out.",
            )
        if num_classes > 1 and self.conditional_from > sides[0]:
            raise RecipeError(
                f"conditional_from = {self.conditional_from} leaves no map that knows the class.",
                f"{there} Use at most {sides[0]}.",
            )


class UNet(nn.Module):
    """Noisy images -> what ``diffusion.Denoiser`` makes denoised images of, both float [B, 3, S, S]."""

    def __init__(self, options: NetworkOptions, num_classes: int, size: int, num_augment: int) -> None:
        super().__init__()
        base, width, self.patch = options.base_channels, 4 * options.base_channels, options.patch_size
        self.sines = 2 * (base // 2)
        self.embed = nn.Sequential(nn.Linear(self.sines, width), nn.SiLU(), nn.Linear(width, width))
        self.label = LabelEmbedding(num_classes, width) if num_classes > 1 else None
        self.augment = nn.Linear(num_augment, width, bias=False)

        attended = options.at(size).attention_sides or ()

        def block(num_in: int, num_out: int, side: int, resample: str = "") -> Block:
            attends = side in attended and not resample
            block = Block(num_in, num_out, width, options.dropout, attends, resample)
            block.takes_class = side >= options.conditional_from
            return block

        side, num_in = size // self.patch, base
        self.first = nn.Conv2d(3 * self.patch**2, base, 3, padding=1)
        self.down, self.up, kept = nn.ModuleList(), nn.ModuleList(), [base]
        for level, multiplier in enumerate(options.channel_multipliers):
            if level:
                side //= 2
                self.down.append(block(num_in, num_in, side, "down"))
                kept.append(num_in)
            for _ in range(options.num_blocks):
                self.down.append(block(num_in, base * multiplier, side))
                num_in = base * multiplier
                kept.append(num_in)
        self.middle = nn.ModuleList([block(num_in, num_in, side), block(num_in, num_in, side)])
        for level, multiplier in reversed(list(enumerate(options.channel_multipliers))):
            for _ in range(options.num_blocks + 1):
                self.up.append(block(num_in + kept.pop(), base * multiplier, side))
                num_in = base * multiplier
            if level:
                side *= 2
                self.up.append(block(num_in, num_in, side, "up"))
        self.last = nn.Sequential(norm(num_in), nn.SiLU(), zero(nn.Conv2d(num_in, 3 * self.patch**2, 3, padding=1)))

    def forward(self, x: Tensor, noise: Tensor, labels: Tensor, keep: Tensor, augment: Tensor) -> Tensor:
        """The output for images ``x``; ``noise`` float [B] stands for their noise levels, labels are int64 [B].

        Where ``keep`` float [B] is 0 the class is hidden; ``augment`` [B, num_augment] is 0 for an image as it is.
        """
        free = self.embed(sines(noise, self.sines)) + self.augment(augment)
        known = free if self.label is None else free + self.label(labels) * keep[:, None]
        free, known = F.silu(free), F.silu(known)
        x = self.first(F.pixel_unshuffle(x, self.patch).contiguous(memory_format=torch.channels_last))
        kept = [x]
        for layer in self.down:
            x = layer(x, known if layer.takes_class else free)
            kept.append(x)
        for layer in self.middle:
            x = layer(x, known if layer.takes_class else free)
        for layer in self.up:
            x = layer(x if layer.resample else torch.cat([x, kept.pop()], 1), known if layer.takes_class else free)
        return F.pixel_shuffle(self.last(x), self.patch)


class Block(nn.Module):
    """A residual block, with attention after it where ``attends``; ``resample`` is ``""``, ``"down"`` or ``"up"``."""

    takes_class = True

    def __init__(
        self, num_in: int, num_out: int, num_features: int, dropout: float, attends: bool, resample: str
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm1, self.conv1 = norm(num_in), nn.Conv2d(num_in, num_out, 3, padding=1)
        self.norm2, self.conv2 = norm(num_out), zero(nn.Conv2d(num_out, num_out, 3, padding=1))
        self.affine = nn.Linear(num_features, 2 * num_out)
        self.skip = nn.Conv2d(num_in, num_out, 1) if num_in != num_out else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.attention = Attention(num_out) if attends else nn.Identity()

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        h = self.conv1(self._resampled(F.silu(self.norm1(x))))
        scale, shift = self.affine(features)[:, :, None, None].chunk(2, 1)
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        h = self.conv2(self.dropout(F.silu(h)))
        return self.attention((self.skip(self._resampled(x)) + h) * math.sqrt(0.5))

    def _resampled(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.resample == "up" else x


class Attention(nn.Module):
    """Every place of a map looks at every other."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.num_heads = max(1, num_channels // HEAD_CHANNELS)
        while num_channels % self.num_heads:
            self.num_heads -= 1
        self.norm, self.inputs = norm(num_channels), nn.Conv2d(num_channels, 3 * num_channels, 1)
        self.output = zero(nn.Conv2d(num_channels, num_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        num, channels, *sides = x.shape
        tokens = self.inputs(self.norm(x)).permute(0, 2, 3, 1)
        heads = tokens.reshape(num, -1, 3, self.num_heads, channels // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value)
        seen = seen.transpose(1, 2).reshape(num, *sides, channels).permute(0, 3, 1, 2)
        return (x + self.output(seen)) * math.sqrt(0.5)


def sines(values: Tensor, num: int) -> Tensor:
    """Numbers [B] as cosines and sines of ``num // 2`` frequencies, [B, num]."""
    steps = torch.arange(num // 2, device=values.device) / (num // 2)
    angles = values[:, None].float() * PERIOD**-steps
    return torch.cat([angles.cos(), angles.sin()], 1)


def norm(num_channels: int) -> nn.GroupNorm:
    num_groups = min(32, max(1, num_channels // GROUP_CHANNELS))
    while num_channels % num_groups:
        num_groups -= 1
    return nn.GroupNorm(num_groups, num_channels, eps=1e-6)


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with weights of zero: a block starts as the identity."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType]
    return layer
