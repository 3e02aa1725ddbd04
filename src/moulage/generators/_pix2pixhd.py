"""The networks of ``pix2pixhd`` and their losses.

``maps`` are float [B, 2, S, S] in -1..1: the lesion mask and its boundary. Sections are those of Wang et al. 2018,
arXiv:1711.11585.
"""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moulage.generators._adversary import Adversary
from moulage.generators._condition import Conditional, LabelEmbedding
from moulage.generators._dcgan import UpConv
from moulage.generators._perceptual import Perceptual

if TYPE_CHECKING:
    from moulage.generators.pix2pixhd import Config

NUM_MAPS = 2
SLOPE = 0.2
"""Of the discriminators' leaky ReLUs."""
LABEL_FEATURES = 16
MOST_APART = 0.2
"""The reward for variety ends where images are this many times as far apart as their latents (mean differences).

Real images of one class of HAM10000 are about 0.25 apart, latents 1.13. Without an end (1.0) images of one mask became
twice as different as real ones of all masks.
"""


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

    def __init__(self, config: "Config", num_classes: int) -> None:
        self.config = config
        self.num_style = config.latent_size + (LABEL_FEATURES if num_classes > 1 else 0)

    def norm(self, num_channels: int, side: int) -> StyledNorm:
        conditional = side >= self.config.conditional_from
        return StyledNorm(num_channels, self.num_style if conditional else self.config.latent_size)

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
    config, layers = build.config, []
    channels = [min(config.base_channels << i, config.max_channels) for i in range(config.num_downsamplings + 1)]
    layers.append(build.layer(convolution(NUM_MAPS, channels[0], 7), channels[0], side))
    sides = [side >> i for i in range(len(channels))]
    layers += [build.down(channels[i - 1], channels[i], sides[i]) for i in range(1, len(channels))]
    layers += [build.residual(channels[-1], sides[-1]) for _ in range(config.num_blocks)]
    layers += [build.up(channels[i], channels[i - 1], sides[i - 1]) for i in range(len(channels) - 1, 0, -1)]
    return Stage(layers)


class Enhancer(nn.Module):
    """The local enhancer G2: maps [B, 2, 2S, 2S] and features [B, 2C, S, S] of what is coarser -> [B, C, 2S, 2S]."""

    def __init__(self, build: Builder, num_channels: int, side: int) -> None:
        super().__init__()
        front = build.layer(convolution(NUM_MAPS, num_channels, 7), num_channels, side)
        self.front = Stage([front, build.down(num_channels, 2 * num_channels, side // 2)])
        blocks = [build.residual(2 * num_channels, side // 2) for _ in range(build.config.num_enhancer_blocks)]
        self.back = Stage([*blocks, build.up(2 * num_channels, num_channels, side)])

    def forward(self, maps: Tensor, coarser: Tensor, style: Tensor) -> Tensor:
        return self.back(self.front(maps, style) + coarser, style)


class Synthesis(nn.Module):
    """Latents [B, latent_size], labels int64 [B], maps [B, 2, S, S] -> images [B, 3, S, S] in -1..1.

    Coarse to fine: G1 sees the maps at the smallest size, each enhancer at twice that (section 3.1). All are trained at
    once.
    """

    def __init__(self, config: "Config", num_classes: int, size: int) -> None:
        super().__init__()
        build, num = Builder(config, num_classes), config.num_enhancers
        self.embedding = LabelEmbedding(num_classes, LABEL_FEATURES) if num_classes > 1 else None
        self.coarse = coarse(build, size >> num)
        widths = [config.base_channels >> i for i in range(num + 1)]
        self.enhancers = nn.ModuleList(Enhancer(build, widths[i], size >> (num - i)) for i in range(1, num + 1))
        self.head = nn.Conv2d(widths[-1], 3, 7, padding=3, padding_mode="reflect")
        initialise(self)

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
    """Maps [B, C, S, S] and labels [B] -> how well each patch fits the class, [B, 1, S + 1, S + 1].

    The inner product with a vector of the class (Miyato & Koyama 2018, arXiv:1802.05637, eq. 4), which starts at zero.
    """

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

    def __init__(self, config: "Config", num_classes: int) -> None:
        super().__init__()
        num = config.num_discriminator_layers
        channels = [min(config.discriminator_channels << i, 8 * config.discriminator_channels) for i in range(num + 1)]
        sizes = zip([3 + NUM_MAPS, *channels], channels, [2] * num + [1], strict=False)
        self.layers = nn.ModuleList(nn.Conv2d(num_in, out, 4, stride, 2) for num_in, out, stride in sizes)
        self.head = nn.Conv2d(channels[-1], 1, 4, padding=2)
        initialise(self)
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

    def __init__(self, config: "Config", num_classes: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(Patches(config, num_classes) for _ in range(config.num_discriminators))

    def forward(self, pairs: Tensor, labels: Tensor) -> list[tuple[list[Tensor], Tensor]]:
        found = []
        for scale in self.scales:
            found.append(scale(pairs, labels))
            pairs = F.avg_pool2d(pairs, 3, 2, 1, count_include_pad=False)
        return found


def initialise(network: nn.Module) -> None:
    """Normal weights of standard deviation 0.02 and zero biases in all convolutions (the paper's appendix)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | UpConv):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.zeros_(module.bias)


class Game(Adversary):
    """Least squares (Mao et al. 2017, arXiv:1611.04076, eq. 9), feature matching, and a reward for variety.

    ``real`` of a step is [B, 5, S, S]: image, mask, boundary.
    """

    def __init__(self, config: "Config", num_classes: int, size: int, device: torch.device | str = "cpu") -> None:
        super().__init__(config, Synthesis(config, num_classes, size), Discriminator(config, num_classes), device)
        wanted = config.perceptual_weight > 0
        self.perceptual: Any = Perceptual(config.perceptual, size).to(self.device).eval() if wanted else None

    def generate(self, real: Tensor, latents: Tensor, labels: Tensor) -> Tensor:
        return self.generator(latents, labels, real[:, 3:])

    def discriminator_loss(
        self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        on_real = [scores for _, scores in self.discriminator(self.seen(real, rng), labels)]
        on_fake = [scores for _, scores in self.discriminator(self.seen(pair(fake, real), rng), labels)]
        losses = [((r - 1).square().mean() + f.square().mean()) / 2 for r, f in zip(on_real, on_fake, strict=True)]
        return torch.stack(losses).mean(), certainty(on_real), certainty(on_fake)

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> Tensor:
        config, state = self.config, rng.get_state()
        found = self.discriminator(self.seen(pair(fake, real), rng), labels)
        loss = torch.stack([(scores - 1).square().mean() for _, scores in found]).mean()
        if config.feature_matching_weight:
            rng.set_state(state)  # features of the real image under the same augmentation
            with torch.no_grad():
                wanted = self.discriminator(self.seen(real, rng), labels)
            apart = [feature_distance(ours, theirs) for (ours, _), (theirs, _) in zip(found, wanted, strict=True)]
            loss = loss + config.feature_matching_weight * torch.stack(apart).mean()
        if self.perceptual is not None:
            loss = loss + config.perceptual_weight * self.perceptual(fake, real[:, :3])
        if config.diversity_weight:
            loss = loss - config.diversity_weight * self.diversity(real, labels, rng)
        return loss

    def diversity(self, real: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        """How far apart images of one mask are, relative to their latents, at most ``MOST_APART``.

        Yang et al. 2019, arXiv:1901.09024, eq. 2, on a quarter of the batch. Without it the generator ignores the
        latents, because the target of feature matching is a single image.
        """
        num = max(1, len(real) // 4)
        real, labels = real[:num].repeat(2, 1, 1, 1), labels[:num].repeat(2)
        latents = self.latents(2 * num, rng)
        first, second = self.generate(real, latents, labels).float().chunk(2)
        z_first, z_second = latents.chunk(2)
        apart = (first - second).abs().mean((1, 2, 3)) / (z_first - z_second).abs().mean(1)
        return apart.clamp(max=MOST_APART).mean()


def pair(images: Tensor, real: Tensor) -> Tensor:
    """Images [B, 3, S, S] with the maps of ``real`` [B, 5, S, S]: [B, 5, S, S]."""
    return torch.cat([images, real[:, 3:].to(images)], 1)


def certainty(scores: list[Tensor]) -> Tensor:
    """Scores with targets 1 (real) and 0 as something like logits, [B]: above 0 where rather real."""
    return torch.stack([2 * found.detach().mean(1) - 1 for found in scores]).mean(0)


def feature_distance(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """Sum over the layers of the mean absolute difference (section 3.2, eq. 4)."""
    return torch.stack([(a - b).abs().mean() for a, b in zip(ours, theirs, strict=True)]).sum()
