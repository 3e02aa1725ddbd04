"""Projected GAN: discriminators look at the features of a frozen, pre-trained network; learns fast from few images.

After Sauer et al. 2021 (NeurIPS, arXiv:2111.01007), with the generator of FastGAN as in the paper's light setting and a
condition on the class as in ``fastgan``. Scores in features of the same or a related network flatter what was trained
against it (Kynkäänniemi et al. 2023, arXiv:2203.06026): judge these images in another network as well.
"""

from itertools import pairwise
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from moulage import backbones
from moulage.errors import RecipeError
from moulage.generators import _adversary, _learner
from moulage.generators._adversary import Judged
from moulage.generators._condition import Projection
from moulage.generators._fastgan import Drawer, Synthesis, SynthesisOptions, batch_norm

ADAM = _adversary.Optimiser(learning_rate=2e-4, beta1=0.0, beta2=0.99)  # the paper's
INPUT_SIZE = 224  # pixels a side that the frozen network was trained at, and sees at least
LAST = 4  # pixels a side at which every discriminator judges


class Config(SynthesisOptions):
    """The defaults are the authors'; docs/generators/projected_gan.md has settings for a CPU."""

    images: _learner.Images = 10_000_000
    epochs: _learner.Epochs = None
    ema_images: _learner.EmaImages = 20_000
    batch_size: _learner.BatchSize = 64
    backbone: backbones.Backbone = Field(
        default=backbones.Backbone(),
        description="the frozen timm network whose features are looked at; without "
        "input_size, images under 224 pixels are enlarged to 224",
    )
    num_maps: int = Field(
        4, ge=1, le=6, description="feature maps that get a discriminator: the last so many of at least 4 x 4"
    )
    mixing: Literal["none", "channels", "scales"] = Field(
        "scales",
        description="how frozen random weights mix the features: not, across channels, or also across the maps",
    )
    discriminator_channels: int = Field(
        256, ge=4, le=2048, description="most channels of the discriminators; features of fewer keep theirs"
    )
    spectral_norm: bool = Field(True, description="normalise the discriminators' convolutions by their largest gain")
    generator_optimiser: _adversary.GeneratorOptimiser = ADAM
    discriminator_optimiser: _adversary.DiscriminatorsOptimiser = ADAM
    discriminator_augment: _adversary.Augmentation = "diffaugment"

    def at(self, size: int) -> Self:
        side = self.backbone.input_size or max(size, INPUT_SIZE)
        return self.model_copy(update={"backbone": self.backbone.model_copy(update={"input_size": side})})


class Backbone(nn.Module):
    """Images float [B, 3, size, size] in -1..1 -> feature maps of falling size, of a frozen timm network.

    The last ``num_maps`` of those of at least 4 x 4; ``RecipeError`` where the network gives no such maps.
    """

    def __init__(self, options: backbones.Backbone, size: int, num_maps: int) -> None:
        super().__init__()
        self.features = backbones.build(options, size).requires_grad_(False)
        self.indices: list[int] = []
        network: Any = self.features.network
        if not hasattr(network, "forward_intermediates"):
            raise RecipeError(f"{options.name} does not give feature maps.", "Take another backbone.name.")
        with torch.no_grad():
            sides = [maps.shape[-1] for maps in self._all(torch.zeros(1, 3, size, size))]
            enough = [i for i, side in enumerate(sides) if side >= LAST]
            if len(set(sides)) > 1:  # one map a resolution, its last; a transformer's are all alike: the last few
                enough = [i for i, (side, after) in enumerate(pairwise([*sides, 0])) if side >= LAST and side != after]
            self.indices = enough[-num_maps:]
            if not self.indices:
                raise RecipeError(
                    f"{options.name} leaves less than {LAST} x {LAST} features of {self.features.input_size} pixels.",
                    "Set backbone.input_size larger.",
                )
            self.shapes = [(maps.shape[1], maps.shape[-1]) for maps in self(torch.zeros(1, 3, size, size))]
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, images: Tensor) -> list[Tensor]:
        return self._all((images + 1) / 2)

    def _all(self, images: Tensor) -> list[Tensor]:
        """Intermediate maps of images in 0..1: of ``indices``, or all while there are none."""
        network: Any = self.features.network
        return network.forward_intermediates(
            self.features.prepared(images), indices=self.indices or None, intermediates_only=True, stop_early=True
        )

    def train(self, mode: bool = True) -> "Backbone":
        """Frozen: always in eval mode."""
        return super().train(False)


class Mixing(nn.Module):
    """Random, frozen convolutions that spread the features, so that no discriminator can look at a part of them alone.

    Across channels: a 1 x 1 convolution of each map (section 3.2, CCM). Across scales: from the smallest map up, each
    is enlarged, convolved 3 x 3 and added to the next larger one (CSM). Weights are He-initialised and never learn.
    """

    def __init__(self, shapes: list[tuple[int, int]], how: str) -> None:
        super().__init__()
        widths = [num for num, _ in shapes]
        channels = [nn.Conv2d(num, num, 1) for num in widths] if how != "none" else []
        scales = [nn.Conv2d(small, large, 3, padding=1) for large, small in pairwise(widths)]
        self.channels = nn.ModuleList(channels)
        self.scales = nn.ModuleList(scales if how == "scales" else [])
        for module in (*self.channels, *self.scales):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]
        self.requires_grad_(False).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        if self.channels:
            maps = [mix(x) for mix, x in zip(self.channels, maps, strict=True)]
        if self.scales:
            for i in range(len(maps) - 2, -1, -1):
                larger = F.interpolate(maps[i + 1], maps[i].shape[-2:], mode="bilinear")
                maps[i] = (maps[i] + self.scales[i](larger)) / 2**0.5
        return maps


class Head(nn.Module):
    """One feature map [B, C, H, H] and labels [B] -> logits [B, 16], positive for real: one a cell of 4 x 4."""

    def __init__(self, num_in: int, side: int, most: int, num_classes: int, normalised: bool) -> None:
        super().__init__()
        wrap = spectral_norm if normalised else (lambda module: module)
        layers: list[nn.Module] = []
        while side >= 2 * LAST:
            num_out = min(2 * num_in, most)
            layers += [wrap(nn.Conv2d(num_in, num_out, 4, 2, 1, bias=False)), batch_norm(num_out), nn.LeakyReLU(0.2)]
            num_in, side = num_out, side // 2
        num_out = min(num_in, most)
        layers += [wrap(nn.Conv2d(num_in, num_out, 3, padding=1, bias=False)), batch_norm(num_out), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(LAST))
        self.head = wrap(nn.Conv2d(num_out, 1, 1))
        self.projection = Projection(num_out * LAST**2, num_classes) if num_classes > 1 else None

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        features = self.layers(x)
        logits = self.head(features).flatten(1)
        if self.projection is not None:
            logits = logits + self.projection(features.flatten(1), labels)[:, None]
        return logits.float()


class Discriminator(nn.Module):
    """A head for each feature map; logits [B, number of heads x 16]."""

    def __init__(self, config: Config, shapes: list[tuple[int, int]], num_classes: int) -> None:
        super().__init__()
        most, normalised = config.discriminator_channels, config.spectral_norm
        self.heads = nn.ModuleList([Head(num, side, most, num_classes, normalised) for num, side in shapes])

    def forward(self, maps: list[Tensor], labels: Tensor) -> Tensor:
        return torch.cat([head(x, labels) for head, x in zip(self.heads, maps, strict=True)], 1)


class Game(_adversary.Adversary):
    """The generator against the discriminators under the hinge loss, in the mean over maps and cells (eq. 1 and 4)."""

    GENERATOR, PARTS = Synthesis, (*_adversary.Adversary.PARTS, "mixing")

    def networks(self, num_classes: int, size: int) -> tuple[nn.Module, nn.Module]:
        config, generator = self.config, Synthesis(self.config, num_classes, size)
        self.backbone: Any = Backbone(config.backbone, size, config.num_maps).to(self.device)
        self.mixing: Any = Mixing(self.backbone.shapes, config.mixing).to(self.device)
        return generator, Discriminator(config, self.backbone.shapes, num_classes)

    def maps(self, images: Tensor, rng: torch.Generator) -> list[Tensor]:
        """What the discriminators see of images."""
        return self.mixing(self.backbone(self.seen(images, rng)))

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> Judged:
        with torch.no_grad():  # of the frozen part; nothing before the heads learns here
            maps = [self.maps(images, rng) for images in (real, fake)]
        on_real, on_fake = (self.discriminator(seen, labels) for seen in maps)
        loss = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
        return loss, on_real.mean(1), on_fake.mean(1)

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> Tensor:
        return -self.discriminator(self.maps(fake, rng), labels).mean()


class Generator(Drawer[Config]):
    """At a power of two from 16 to 1024 pixels."""

    NAME, CONFIG, GAME = "projected_gan", Config, Game

    def __init__(self, config: Config, classes: tuple[str, ...], size: int) -> None:
        super().__init__(config, classes, size)
        backbones.check_installed(config.backbone)
