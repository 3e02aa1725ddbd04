"""The networks of ``stylegan2`` and what makes them."""

import math
from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from moulage.generators import _adversary
from moulage.generators._condition import LabelEmbedding, Projection

GAIN = math.sqrt(2)
"""Brings the output of a leaky ReLU of slope 0.2 back to about the variance of its input; here always folded into
weights, biases and factors, which are small, so that no map is multiplied by it."""
MAPPING_RATE = 0.01  # how much slower the mapping network learns than the rest


class NetworkOptions(_adversary.Options):
    """What makes the networks."""

    latent_size: int = Field(512, ge=1, le=1024, description="numbers in a latent vector, and in w")
    mapping_layers: int = Field(2, ge=1, le=16, description="layers of the mapping network")
    base_channels: int = Field(
        16384, ge=64, le=65536, description="a map of r pixels a side has base_channels / r channels"
    )
    max_channels: int = Field(512, ge=4, le=2048, description="but at most so many")
    conditional_from: int = Field(
        0, ge=0, le=256, description="the generator's layers below so many pixels are shared by all classes; 0: none is"
    )


class Linear(nn.Module):
    """[B, num_in] -> [B, num_out] with equalised learning rate: standard normal weights, scaled when they are used."""

    def __init__(self, num_in: int, num_out: int, bias: float = 0.0, gain: float = 1.0, rate: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_out, num_in) / rate)
        self.bias = nn.Parameter(torch.full((num_out,), bias / rate))
        self.scale, self.bias_scale = gain * rate / math.sqrt(num_in), gain * rate

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.bias_scale)


class Conv(nn.Module):
    """Convolution of maps with equalised learning rate; ``gain`` multiplies what comes out."""

    def __init__(self, num_in: int, num_out: int, kernel: int, *, down: bool = False, bias: bool = True, gain: float):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(num_out, num_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(num_out)) if bias else None
        self.scale, self.gain, self.down = gain / math.sqrt(num_in * kernel**2), gain, down

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias * self.gain
        stride, padding = (2, 0) if self.down else (1, self.weight.shape[-1] // 2)
        return F.conv2d(x, self.weight * self.scale, bias, stride, padding)


class Blur(nn.Module):
    """The low-pass filter [1, 3, 3, 1] in both directions around a change of size (Karras et al. 2019, section 4.2).

    A filter of each channel alone: [B, C, H, W] -> [B, C, H + 2 padding - 3, ...], or every ``stride``-th pixel of it.
    """

    kernel: Tensor

    def __init__(self, num_channels: int, padding: int, stride: int = 1, gain: float = 1.0) -> None:
        super().__init__()
        taps = torch.tensor([1.0, 3, 3, 1]) / 8
        kernel = (gain * torch.outer(taps, taps)).repeat(num_channels, 1, 1, 1)
        self.register_buffer("kernel", kernel, persistent=False)
        self.padding, self.stride = padding, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, None, self.stride, self.padding, groups=x.shape[1])


def normalise(x: Tensor) -> Tensor:
    """Vectors [B, n] with a mean square of 1."""
    return x * x.square().mean(1, keepdim=True).add(1e-8).rsqrt()


class Mapping(nn.Module):
    """Latents [B, latent_size] and labels int64 [B], or None for no class -> w float32 [B, latent_size]."""

    def __init__(self, options: NetworkOptions, num_classes: int) -> None:
        super().__init__()
        size = options.latent_size
        self.embedding = LabelEmbedding(num_classes, size) if num_classes > 1 else None
        sizes = [size * (1 if self.embedding is None else 2)] + [size] * options.mapping_layers
        self.layers = nn.ModuleList(Linear(i, o, gain=GAIN, rate=MAPPING_RATE) for i, o in pairwise(sizes))

    def forward(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        x = normalise(latents)
        if self.embedding is not None:
            vectors = torch.zeros_like(x)
            if labels is not None:
                vectors = normalise(self.embedding.embedding(labels)) * self.embedding.strength
            x = torch.cat([x, vectors], 1)
        for layer in self.layers:
            x = F.leaky_relu_(layer(x), 0.2)
        return x.float()


class ModulatedConv(nn.Module):
    """Maps x [B, num_in, S, S] and w [B, latent_size] -> maps and factors [B, num_out, 1, 1] that demodulate them.

    The weights of an image would be w_ijk s_i / sqrt(sum_ik (w_ijk s_i)^2) (Karras et al. 2019, arXiv:1912.04958,
    eqs. 1 and 3). Convolution is linear: to scale its inputs by s_i, and what comes out by the root, is the same with
    one convolution for the whole batch. The caller multiplies by the factors, together with what follows.
    """

    def __init__(self, num_in: int, num_out: int, kernel: int, latent_size: int, *, up: bool = False) -> None:
        super().__init__()
        self.style = Linear(latent_size, num_in, bias=1.0)
        self.weight = nn.Parameter(torch.randn(num_out, num_in, kernel, kernel))
        self.scale = 1 / math.sqrt(num_in * kernel**2)
        self.blur = Blur(num_out, padding=1, gain=4.0) if up else None

    def forward(self, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        style, weight = self.style(w), self.weight * self.scale
        factor = (style.square() @ weight.square().sum((2, 3)).T).add(1e-8).rsqrt()
        x = x * style[:, :, None, None]
        if self.blur is None:
            maps = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        else:
            maps = self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        return maps, factor[:, :, None, None].to(maps.dtype)


class Layer(nn.Module):
    """A modulated convolution, noise, bias and a leaky ReLU."""

    def __init__(self, num_in: int, num_out: int, latent_size: int, *, up: bool) -> None:
        super().__init__()
        self.conv = ModulatedConv(num_in, num_out, 3, latent_size, up=up)
        self.bias = nn.Parameter(torch.zeros(1, num_out, 1, 1))
        self.noise_strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        maps, factor = self.conv(x, w)
        maps = torch.addcmul((self.bias * GAIN).to(maps.dtype), maps, factor * GAIN)
        return F.leaky_relu_(maps.add_(noise * (self.noise_strength * GAIN)), 0.2)


class ToRGB(nn.Module):
    """Maps and w -> colours [B, 3, S, S], modulated but not demodulated."""

    def __init__(self, num_in: int, latent_size: int) -> None:
        super().__init__()
        self.conv = ModulatedConv(num_in, 3, 1, latent_size)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return self.conv(x, w)[0].float() + self.bias


def sides(size: int) -> list[int]:
    """Pixels a side of the maps from the smallest (4 to 7) to the images."""
    num_doublings = (size // 4).bit_length() - 1
    return [size >> i for i in range(num_doublings, -1, -1)]


def num_channels(options: NetworkOptions, side: int) -> int:
    return max(1, min(options.max_channels, options.base_channels // side))


class Synthesis(nn.Module):
    """The generator: w for each layer, then images in -1..1 as the sum of what each size adds ("skip" generator).

    ``forward`` draws training batches from rows of ``Game.latents``. ``styles`` and ``render`` are its two halves.
    """

    layer_sides: Tensor
    means: Tensor

    def __init__(self, options: NetworkOptions, num_classes: int, size: int) -> None:
        super().__init__()
        self.latent_size = options.latent_size
        self.conditional_from = options.conditional_from if num_classes > 1 else 0
        self.mapping = Mapping(options, num_classes)
        self.sides = [side for i, side in enumerate(sides(size)) for side in [side] * (2 if i else 1)]
        self.noise_sizes = [side**2 for side in self.sides]
        channels = [num_channels(options, side) for side in self.sides]
        self.start = nn.Parameter(torch.randn(1, channels[0], self.sides[0], self.sides[0]))
        self.layers, self.to_rgb = nn.ModuleList(), nn.ModuleList()
        for i, num_out in enumerate(channels):
            self.layers.append(Layer(channels[max(i - 1, 0)], num_out, options.latent_size, up=i % 2 == 1))
            if i % 2 == 0:
                self.to_rgb.append(ToRGB(num_out, options.latent_size))
        self.register_buffer("means", torch.zeros(num_classes + 1, options.latent_size))
        self.register_buffer("layer_sides", torch.tensor(self.sides), persistent=False)

    def forward(self, rows: Tensor, labels: Tensor) -> Tensor:
        first, second, crossover, noise = rows.split([self.latent_size, self.latent_size, 1, sum(self.noise_sizes)], 1)
        mixed = torch.arange(len(self.sides), device=rows.device) >= crossover
        styles = torch.where(mixed[:, :, None], self.styles(second, labels), self.styles(first, labels))
        return self.render(styles, noise)

    def styles(self, latents: Tensor, labels: Tensor) -> Tensor:
        """w of each layer, [B, num_layers, latent_size]; layers below ``conditional_from`` pixels know no class."""
        without = self.mapping(latents, None) if self.conditional_from else None
        return self._by_layer(self.mapping(latents, labels), without)

    def truncate(self, styles: Tensor, labels: Tensor, psi: float) -> Tensor:
        """Each w moved towards the mean of its class, all the way at psi = 0 (Karras et al. 2018, arXiv:1812.04948)."""
        means = self._by_layer(self.means[labels], self.means[-1].expand(len(labels), -1))
        return torch.lerp(means, styles, psi)

    @torch.no_grad()
    def measure_means(self, latents: Tensor) -> None:
        """Take the mean w of each class, and without a class, over latents [n, latent_size]."""
        for label in range(len(self.means) - 1):
            self.means[label] = self.mapping(latents, torch.full((len(latents),), label, device=latents.device)).mean(0)
        self.means[-1] = self.mapping(latents, None).mean(0)

    def render(self, styles: Tensor, noise: Tensor) -> Tensor:
        """Images [B, 3, S, S] from w [B, num_layers, latent_size] and noise [B, sum of ``noise_sizes``]."""
        x = self.start.expand(len(styles), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        image = None
        maps = zip(self.layers, styles.unbind(1), noise.split(self.noise_sizes, 1), self.sides, strict=True)
        for i, (layer, w, values, side) in enumerate(maps):
            x = layer(x, w, values.view(-1, 1, side, side))
            if i % 2 == 0:
                colours = self.to_rgb[i // 2](x, w)
                # Bilinear doubling is the filter [1, 3, 3, 1] with repeated edges.
                image = colours if image is None else colours + F.interpolate(image, scale_factor=2, mode="bilinear")
        assert image is not None
        return image

    def _by_layer(self, with_class: Tensor, without: Tensor | None) -> Tensor:
        ours = with_class[:, None].expand(-1, len(self.sides), -1)
        if without is None or not self.conditional_from:
            return ours
        return torch.where((self.layer_sides >= self.conditional_from)[:, None], ours, without[:, None])


class Block(nn.Module):
    """Halves the size: two convolutions beside a 1 x 1 convolution; the sum is divided by the square root of 2."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.first = Conv(num_in, num_in, 3, gain=GAIN)
        self.blur = Blur(num_in, padding=2)
        self.second = Conv(num_in, num_out, 3, down=True, gain=GAIN / math.sqrt(2))
        self.halve = Blur(num_in, padding=1, stride=2)
        self.beside = Conv(num_in, num_out, 1, bias=False, gain=1 / math.sqrt(2))

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.blur(F.leaky_relu_(self.first(x), 0.2)))
        return F.leaky_relu_(y, 0.2) + self.beside(self.halve(x))


class Discriminator(nn.Module):
    """Images [B, 3, size, size] in -1..1 and labels int64 [B] -> logits [B], positive for real; see ``deviation``."""

    def __init__(self, options: NetworkOptions, num_classes: int, size: int, group: int) -> None:
        super().__init__()
        self.group = group
        channels = [num_channels(options, side) for side in reversed(sides(size))]
        last, side = channels[-1], sides(size)[0]
        self.from_rgb = Conv(3, channels[0], 1, gain=GAIN)
        self.blocks = nn.Sequential(*[Block(i, o) for i, o in pairwise(channels)])
        self.conv = Conv(last + 1, last, 3, gain=GAIN)
        self.dense = Linear(last * side**2, last, gain=GAIN)
        self.head = Linear(last, 1)
        self.projection = Projection(last, num_classes) if num_classes > 1 else None
        if self.projection is not None:
            # Equalised like the rest, and normal as in the paper: from zero, two classes of a trial stayed alike.
            nn.init.normal_(self.projection.heads.weight)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        x = self.blocks(F.leaky_relu_(self.from_rgb(images.contiguous(memory_format=torch.channels_last)), 0.2))
        x = F.leaky_relu_(self.conv(torch.cat([x, deviation(x, self.group)], 1)), 0.2)
        features = F.leaky_relu_(self.dense(x.flatten(1)), 0.2)
        logits = self.head(features).squeeze(1)
        if self.projection is not None:
            logits = logits + self.projection(features / math.sqrt(features.shape[1]), labels)
        return logits.float()


def deviation(x: Tensor, group: int) -> Tensor:
    """Mean standard deviation of the maps [B, C, S, S] over groups of images, as a map [B, 1, S, S].

    It tells the discriminator how varied a batch is (Karras et al. 2017, arXiv:1710.10196, section 3). Where groups do
    not fill the batch, all images are one group.
    """
    num, (_, channels, height, width) = len(x), x.shape
    size = group if num % group == 0 else num
    grouped = x.float().view(size, num // size, channels, height, width)
    std = grouped.var(0, correction=0).add(1e-8).sqrt().mean((1, 2, 3))
    return std.to(x.dtype).repeat(size)[:, None, None, None].expand(-1, 1, height, width)
