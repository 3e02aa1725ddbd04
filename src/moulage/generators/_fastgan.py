"""The generator's network of ``fastgan``, which ``projected_gan`` has too (Liu et al. 2021, arXiv:2101.04775)."""

from typing import Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from moulage.errors import RecipeError
from moulage.generators import _adversary
from moulage.generators._condition import LABEL_STD, LabelEmbedding
from moulage.generators._upconv import UpConv, normal_weights, sides

WIDTHS = {4: 16, 8: 8, 16: 4, 32: 2, 64: 2, 128: 1, 256: 0.5, 512: 0.25, 1024: 0.125}
"""Channels of a map of so many pixels a side, as a multiple of ``base_channels``."""


class SynthesisOptions(_adversary.Options):
    """What makes the generator's network."""

    latent_size: _adversary.LatentSize = 256
    base_channels: int = Field(64, ge=2, le=512, description="channels at 128 pixels; 16 times as many at 4 pixels")
    convolutions: Literal[1, 2] = Field(1, description="convolutions at each resolution of the generator")
    excitation_ratio: Literal[4, 8, 16] = Field(
        16, description="a map gates the channels of the map so many times its side; maps begin at 4 pixels"
    )
    conditional_from: int = Field(
        4, ge=4, le=1024, description="pixels; the generator's layers below take no class, so that classes share them"
    )


def width(base_channels: int, side: int) -> int:
    return max(1, int(base_channels * WIDTHS[side]))


class Gate(nn.Module):
    """Gated linear unit. On a CPU the gradient of ``F.glu`` takes ten times as long in channels-last memory."""

    def forward(self, x: Tensor) -> Tensor:
        values, gates = x.chunk(2, 1)
        return values * gates.sigmoid()


class Norm(nn.Module):
    """Batch norm with a gain and a shift that may depend on the class."""

    def __init__(self, num_channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(num_channels)
        self.embedding = LabelEmbedding(num_classes, 2 * num_channels, 0.0) if num_classes > 1 else None

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        x = self.norm(x)
        if self.embedding is None:
            return x
        gain, shift = self.embedding(labels)[:, :, None, None].chunk(2, 1)
        return x + x * gain.to(x) + shift.to(x)


class UpBlock(nn.Module):
    """Doubles the size: convolutions, each followed by noise of a learned strength, batch norm, a gated linear unit."""

    def __init__(self, num_in: int, num_out: int, num_convs: int, num_classes: int) -> None:
        super().__init__()
        convs: list[nn.Module] = [UpConv(num_in, 2 * num_out, 3, "nearest")]
        convs += [nn.Conv2d(num_out, 2 * num_out, 3, padding=1, bias=False) for _ in range(num_convs - 1)]
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList([Norm(2 * num_out, num_classes) for _ in convs])
        self.noise_strength = nn.Parameter(torch.zeros(num_convs))
        self.gate = Gate()

    def forward(self, x: Tensor, noise: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        for conv, norm, strength, row in zip(self.convs, self.norms, self.noise_strength, noise, strict=True):
            x = conv(x)
            # In place: a sum would come out channels-first, ten times as slow, and so would the norm after it.
            x = x.add_((strength * row).view(-1, 1, *x.shape[2:]).to(x))
            x = self.gate(norm(x, labels))
        return x


class Excitation(nn.Module):
    """Skip-layer excitation: a small map, and here the class, gates a large one (section 3.1, eq. 1, figure 3)."""

    def __init__(self, num_low: int, num_high: int, num_classes: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(num_low, num_high, 4)
        self.gate = nn.Conv2d(num_high, num_high, 1)
        self.embedding = LabelEmbedding(num_classes, num_high, 0.0) if num_classes > 1 else None

    def forward(self, low: Tensor, high: Tensor, labels: Tensor) -> Tensor:
        logits = self.gate(F.leaky_relu(self.squeeze(F.avg_pool2d(low, low.shape[-1] // 4)), 0.1))
        if self.embedding is not None:
            logits = logits + self.embedding(labels)[:, :, None, None]
        return high * logits.sigmoid().to(high)


class Synthesis(nn.Module):
    """Rows [B, num_inputs] (latent, then all noise maps), labels int64 [B] -> images [B, 3, size, size] in -1..1."""

    def __init__(self, config: SynthesisOptions, num_classes: int, size: int) -> None:
        super().__init__()

        def classes_at(side: int) -> int:
            return num_classes if side >= config.conditional_from else 1

        self.sides, self.num_convs, self.ratio = sides(4, size), config.convolutions, config.excitation_ratio
        noise = [side**2 for side in self.sides[1:] for _ in range(self.num_convs)]
        self.splits = [config.latent_size, *noise]
        self.num_inputs = sum(self.splits)
        widths = {side: width(config.base_channels, side) for side in self.sides}
        self.embedding = LabelEmbedding(num_classes, config.latent_size, LABEL_STD) if classes_at(4) > 1 else None
        num_latent = config.latent_size * (2 if self.embedding else 1)
        self.dense = nn.Linear(num_latent, 2 * widths[4] * 16, bias=False)
        self.norm, self.gate = Norm(2 * widths[4], classes_at(4)), Gate()
        self.blocks, self.excitations = nn.ModuleDict(), nn.ModuleDict()
        for side in self.sides[1:]:
            num_in, num_out = widths[side // 2], widths[side]
            self.blocks[str(side)] = UpBlock(num_in, num_out, self.num_convs, classes_at(side))
            low = side // self.ratio
            if low >= 4:
                self.excitations[str(side)] = Excitation(widths[low], num_out, classes_at(side))
        self.image = nn.Conv2d(widths[size], 3, 3, padding=1)
        normal_weights(self)

    def forward(self, rows: Tensor, labels: Tensor) -> Tensor:
        latents, *noise = rows.split(self.splits, 1)
        if self.embedding is not None:
            latents = torch.cat([latents, self.embedding(labels)], 1)
        x = self.dense(latents).view(len(rows), -1, 4, 4).contiguous(memory_format=torch.channels_last)
        maps = {4: self.gate(self.norm(x, labels))}
        for i, (name, block) in enumerate(self.blocks.items()):
            side, own = int(name), tuple(noise[i * self.num_convs : (i + 1) * self.num_convs])
            maps[side] = block(maps[side // 2], own, labels)
            if name in self.excitations:
                maps[side] = self.excitations[name](maps[side // self.ratio], maps[side], labels)
        return torch.tanh(self.image(maps[self.sides[-1]]))


def batch_norm(num_channels: int) -> nn.Module:
    """The discriminator's: it never judges a single image, so it needs no running statistics."""
    return nn.BatchNorm2d(num_channels, track_running_stats=False)


def convolved(num_in: int, num_out: int, kernel: int, stride: int = 1, padding: int = 0) -> list[nn.Module]:
    """A discriminator's convolution, and what follows it."""
    convolution = nn.Conv2d(num_in, num_out, kernel, stride, padding, bias=False)
    return [convolution, batch_norm(num_out), nn.LeakyReLU(0.2)]


C = TypeVar("C", bound=SynthesisOptions)


class Drawer(_adversary.Gan[C]):
    """Draws from a ``Synthesis``, at a power of two from 16 to 1024 pixels; what learns it is up to the plug-in."""

    SIZES = (16, 32, 64, 128, 256, 512, 1024)

    def __init__(self, config: C, classes: tuple[str, ...], size: int) -> None:
        super().__init__(config, classes, size)
        if config.conditional_from > size:
            raise RecipeError(
                f"{self.NAME}: conditional_from = {config.conditional_from} leaves no layer that knows the class.",
                f"Use at most the size of the images, {size}.",
            )
