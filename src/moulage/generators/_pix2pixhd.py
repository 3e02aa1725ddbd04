"""The networks of ``pix2pixhd`` and what makes them.

``maps`` are float [B, 2, S, S] in -1..1: the lesion mask and its boundary. Sections are those of Wang et al. 2018,
arXiv:1711.11585.
"""

import math

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from moulage import backbones
from moulage.generators import _adversary
from moulage.generators._condition import Conditional, LabelEmbedding
from moulage.generators._upconv import UpConv, normal_weights

NUM_MAPS = 2
SLOPE = 0.2  # of the discriminators' leaky ReLUs
LABEL_FEATURES = 16


class NetworkOptions(_adversary.Options):
    """What makes the networks; the defaults are the paper's global generator and its discriminators."""

    latent_size: _adversary.LatentSize = 64
    base_channels: int = Field(64, ge=4, le=512, description="channels of the global generator's largest map")
    max_channels: int = Field(1024, ge=4, le=2048, description="most channels; each halving of the size doubles them")
    num_downsamplings: int | None = Field(
        None,
        ge=1,
        le=7,
        description="times that the global generator halves the size; none: by the size, 2 at 64, 4 at 256",
    )
    num_blocks: int = Field(9, ge=0, le=32, description="residual blocks of the global generator, at its smallest size")
    num_enhancers: int = Field(
        0, ge=0, le=3, description="local enhancers; each doubles the size that the global generator works at"
    )
    num_enhancer_blocks: int = Field(3, ge=0, le=16, description="residual blocks of a local enhancer")
    conditional_from: int = Field(
        0, ge=0, le=1024, description="layers under this many pixels take no class: classes share coarse structure"
    )
    num_discriminators: int = Field(3, ge=1, le=5, description="discriminators, each at half the size of the last")
    num_discriminator_layers: int = Field(3, ge=1, le=6, description="strided layers of a discriminator")
    discriminator_channels: int = Field(64, ge=4, le=512, description="channels of a discriminator's first layer")


def convolution(num_in: int, num_out: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size, or divides it by the stride. No bias: a norm follows."""
    return nn.Conv2d(num_in, num_out, kernel, stride, kernel // 2, bias=False, padding_mode="reflect")


class StyledNorm(nn.Module):
    """Instance norm whose scale and shift are linear in a style, [B, C, H, W] and [B, D] -> [B, C, H, W].

    Adaptive instance norm (Huang & Belongie 2017, arXiv:1703.06868, eq. 8). A plane of a constant, such as a class or
    one number of a latent vector, would be lost in plain instance norm. Only the first ``num_style`` numbers count.
    """

    def __init__(self, num_channels: int, num_style: int) -> None:
        super().__init__()
        self.style = nn.Linear(num_style, 2 * num_channels)
        nn.init.normal_(self.style.weight, std=0.2 / math.sqrt(num_style))
        nn.init.zeros_(self.style.bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.style(style[:, : self.style.in_features]).float().chunk(2, 1)
        # As one batch norm over B x C channels: each channel of each image has a mean, variance, scale and shift.
        flat, scale = x.reshape(1, -1, *x.shape[2:]), 1 + scale.reshape(-1)
        return F.batch_norm(flat, None, None, scale, shift.reshape(-1), training=True).view(x.shape)


class Layer(nn.Module):
    """A convolution (or another change of a map), styled norm, ReLU."""

    def __init__(self, change: nn.Module, norm: StyledNorm) -> None:
        super().__init__()
        self.change, self.norm = change, norm

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return F.relu(self.norm(self.change(x), style))


class Residual(nn.Module):
    """x + norm(conv(relu(norm(conv(x)))))."""

    def __init__(self, first: Layer, second: nn.Module, norm: StyledNorm) -> None:
        super().__init__()
        self.first, self.second, self.norm = first, second, norm

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        return x + self.norm(self.second(self.first(x, style)), style)


class Stage(nn.ModuleList):
    """Layers and residual blocks of maps of known sizes, one after the other; see ``Builder``."""

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, style)
        return x


class Builder:
    """Makes the layers of a generator; those under ``conditional_from`` pixels get the latent part of a style alone."""

    def __init__(self, options: NetworkOptions, num_classes: int) -> None:
        self.options = options
        self.num_style = options.latent_size + (LABEL_FEATURES if num_classes > 1 else 0)

    def norm(self, num_channels: int, side: int) -> StyledNorm:
        conditional = side >= self.options.conditional_from
        return StyledNorm(num_channels, self.num_style if conditional else self.options.latent_size)

    def layer(self, change: nn.Module, num_channels: int, side: int) -> Layer:
        return Layer(change, self.norm(num_channels, side))

    def residual(self, num_channels: int, side: int) -> Residual:
        first = self.layer(convolution(num_channels, num_channels), num_channels, side)
        return Residual(first, convolution(num_channels, num_channels), self.norm(num_channels, side))

    def down(self, num_in: int, num_out: int, side: int) -> Layer:
        """To ``side`` from twice that."""
        return self.layer(convolution(num_in, num_out, stride=2), num_out, side)

    def up(self, num_in: int, num_out: int, side: int) -> Layer:
        """To ``side`` from half of that, by nearest up-sampling: the paper's transposed 3 x 3 leaves a cross-hatch."""
        return self.layer(UpConv(num_in, num_out, 3, "nearest"), num_out, side)


def coarse(build: Builder, side: int) -> Stage:
    """The global generator G1, section 3.1 and the paper's appendix: maps [B, 2, S, S] -> [B, base_channels, S, S]."""
    options, layers = build.options, []
    assert options.num_downsamplings is not None  # ``Config.at`` a size
    channels = [min(options.base_channels << i, options.max_channels) for i in range(options.num_downsamplings + 1)]
    layers.append(build.layer(convolution(NUM_MAPS, channels[0], 7), channels[0], side))
    sides = [side >> i for i in range(len(channels))]
    layers += [build.down(channels[i - 1], channels[i], sides[i]) for i in range(1, len(channels))]
    layers += [build.residual(channels[-1], sides[-1]) for _ in range(options.num_blocks)]
    layers += [build.up(channels[i], channels[i - 1], sides[i - 1]) for i in range(len(channels) - 1, 0, -1)]
    return Stage(layers)


class Enhancer(nn.Module):
    """The local enhancer G2: maps [B, 2, 2S, 2S] and features [B, 2C, S, S] of what is coarser -> [B, C, 2S, 2S]."""

    def __init__(self, build: Builder, num_channels: int, side: int) -> None:
        super().__init__()
        front = build.layer(convolution(NUM_MAPS, num_channels, 7), num_channels, side)
        self.front = Stage([front, build.down(num_channels, 2 * num_channels, side // 2)])
        blocks = [build.residual(2 * num_channels, side // 2) for _ in range(build.options.num_enhancer_blocks)]
        self.back = Stage([*blocks, build.up(2 * num_channels, num_channels, side)])

    def forward(self, maps: Tensor, coarser: Tensor, style: Tensor) -> Tensor:
        return self.back(self.front(maps, style) + coarser, style)


class Synthesis(nn.Module):
    """Latents [B, latent_size], labels int64 [B], maps [B, 2, S, S] -> images [B, 3, S, S] in -1..1.

    Coarse to fine: G1 sees the maps at the smallest size, each enhancer at twice that (section 3.1); all learn at once.
    """

    def __init__(self, options: NetworkOptions, num_classes: int, size: int) -> None:
        super().__init__()
        build, num, self.num_inputs = Builder(options, num_classes), options.num_enhancers, options.latent_size
        self.embedding = LabelEmbedding(num_classes, LABEL_FEATURES) if num_classes > 1 else None
        self.coarse = coarse(build, size >> num)
        widths = [options.base_channels >> i for i in range(num + 1)]
        self.enhancers = nn.ModuleList(Enhancer(build, widths[i], size >> (num - i)) for i in range(1, num + 1))
        self.head = nn.Conv2d(widths[-1], 3, 7, padding=3, padding_mode="reflect")
        normal_weights(self)

    def forward(self, latents: Tensor, labels: Tensor, maps: Tensor) -> Tensor:
        style = latents if self.embedding is None else torch.cat([latents, self.embedding(labels)], 1)
        pyramid = [maps]
        for _ in self.enhancers:
            pyramid.append(F.avg_pool2d(pyramid[-1], 2))
        x = self.coarse(pyramid.pop(), style)
        for enhancer in self.enhancers:
            x = enhancer(pyramid.pop(), x, style)
        return torch.tanh(self.head(x))


class PatchProjection(Conditional):
    """``Projection`` of each patch: maps [B, C, S, S] and labels [B] -> [B, 1, S + 1, S + 1]."""

    def __init__(self, num_channels: int, num_classes: int) -> None:
        super().__init__()
        self.heads = nn.Conv2d(num_channels, num_classes, 4, padding=2, bias=False)
        nn.init.zeros_(self.heads.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        chosen = F.one_hot(labels, self.heads.out_channels)[:, :, None, None]
        return (self.heads(x) * chosen).sum(1, keepdim=True) * self.strength


class Patches(nn.Module):
    """A discriminator of patches: pairs [B, 5, S, S] and labels [B] -> features of its layers, scores [B, P].

    Strided 4 x 4 convolutions with instance norm but in the first (the paper's appendix), and a score of each of P
    patches; where there are several classes, plus how well the patch fits the class.
    """

    def __init__(self, options: NetworkOptions, num_classes: int) -> None:
        super().__init__()
        num, first = options.num_discriminator_layers, options.discriminator_channels
        channels = [min(first << i, 8 * first) for i in range(num + 1)]
        sizes = zip([3 + NUM_MAPS, *channels], channels, [2] * num + [1], strict=False)
        self.layers = nn.ModuleList(nn.Conv2d(num_in, out, 4, stride, 2) for num_in, out, stride in sizes)
        self.head = nn.Conv2d(channels[-1], 1, 4, padding=2)
        normal_weights(self)
        self.projection = PatchProjection(channels[-1], num_classes) if num_classes > 1 else None

    def forward(self, pairs: Tensor, labels: Tensor) -> tuple[list[Tensor], Tensor]:
        features, x = [], pairs
        for i, layer in enumerate(self.layers):
            x = layer(x)
            x = F.leaky_relu(F.instance_norm(x) if i else x, SLOPE)
            features.append(x)
        scores = self.head(x) if self.projection is None else self.head(x) + self.projection(x, labels)
        return features, scores.flatten(1).float()


class Discriminator(nn.Module):
    """``num_discriminators`` of the same kind, each for pairs of half the size of the one before (section 3.2)."""

    def __init__(self, options: NetworkOptions, num_classes: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(Patches(options, num_classes) for _ in range(options.num_discriminators))

    def forward(self, pairs: Tensor, labels: Tensor) -> list[tuple[list[Tensor], Tensor]]:
        found = []
        for scale in self.scales:
            found.append(scale(pairs, labels))
            pairs = F.avg_pool2d(pairs, 3, 2, 1, count_include_pad=False)
        return found


class Perceptual(nn.Module):
    """Images ``ours`` and ``theirs`` float [B, 3, S, S] in -1..1 -> mean absolute difference of a network's features.

    A sum over its stages (Johnson et al. 2016, arXiv:1603.08155, section 3.2), the last with weight 1 and those before
    with 1/4, 1/8, ... from the last but one back, as the authors of pix2pixHD weigh VGG-19's. Errors:
    ``backbones.build``.
    """

    def __init__(self, options: backbones.Backbone, size: int) -> None:
        super().__init__()
        self.backbone = backbones.build(options, size).requires_grad_(False)

    def forward(self, ours: Tensor, theirs: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self._stages(theirs)
        apart = [(a.float() - b.float()).abs().mean() for a, b in zip(self._stages(ours), wanted, strict=True)]
        weights = [0.5 ** (len(apart) - i) for i in range(len(apart) - 1)]
        return sum((weight * each for weight, each in zip(weights, apart, strict=False)), apart[-1])

    def _stages(self, images: Tensor) -> list[Tensor]:
        images = self.backbone.prepared((images + 1) / 2)
        return self.backbone.network.forward_intermediates(images, intermediates_only=True)
