"""FastGAN: a light GAN for few images, with skip-layer excitation and a discriminator that learns to reconstruct.

After Liu et al. 2021 (ICLR, arXiv:2101.04775), with a condition on the class, which the paper has not: the class enters
the latent, the batch norms and the excitations, and the discriminator projects on it. The paper reconstructs under a
perceptual distance whose weights come from a hub; here the distance is that of pixels.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from moulage.generators import _adversary, _learner
from moulage.generators._adversary import Judged
from moulage.generators._condition import Projection
from moulage.generators._fastgan import Drawer, Gate, Synthesis, SynthesisOptions, batch_norm, convolved, width
from moulage.generators._upconv import UpConv, normal_weights, sides

ADAM = _adversary.Optimiser(learning_rate=2e-4)  # the paper's
PART = 8  # side of the part of the 16 x 16 features that the second decoder gets


class Config(SynthesisOptions):
    """The defaults are the paper's; ``base_channels`` = 16 makes networks for a CPU."""

    images: _learner.Images = 400_000
    epochs: _learner.Epochs = None
    batch_size: _learner.BatchSize = 8
    ema_images: _learner.EmaImages = 5_500
    discriminator_size: Literal[16, 32, 64, 128, 256] = Field(
        256, description="pixels a side; strided convolutions bring larger images to it before the discriminator"
    )
    spectral_norm: bool = Field(True, description="normalise the discriminator's convolutions by their largest gain")
    reconstruction_weight: float = Field(
        1.0, ge=0, le=100, description="weight of the discriminator's reconstruction of real images; 0: none"
    )
    reconstruction_size: Literal[16, 32, 64, 128] = Field(
        128, description="pixels a side of the reconstructions, at most the size of the images"
    )
    reconstruction_loss: Literal["l1", "l2"] = Field("l1", description="distance of pixels: absolute or squared")
    generator_optimiser: _adversary.GeneratorOptimiser = ADAM
    discriminator_optimiser: _adversary.DiscriminatorOptimiser = ADAM
    discriminator_augment: _adversary.Augmentation = "diffaugment"


class DownBlock(nn.Module):
    """Halves the size on two ways, whose mean goes out (figure 4, left)."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__()
        self.main = nn.Sequential(*convolved(num_in, num_out, 4, 2, 1), *convolved(num_out, num_out, 3, padding=1))
        self.direct = nn.Sequential(nn.AvgPool2d(2), *convolved(num_in, num_out, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (self.main(x) + self.direct(x)) / 2


def decoder(num_in: int, base: int, size: int) -> nn.Module:
    """Features [B, num_in, 8, 8] -> an image [B, 3, size, size] in -1..1 (figure 4, right)."""
    layers: list[nn.Module] = []
    for side in sides(16, size):
        num_out = max(4, width(base, side) // 2)
        layers += [UpConv(num_in, 2 * num_out, 3, "nearest"), batch_norm(2 * num_out), Gate()]
        num_in = num_out
    return nn.Sequential(*layers, nn.Conv2d(num_in, 3, 3, padding=1), nn.Tanh())


class Discriminator(nn.Module):
    """Images [B, 3, size, size] in -1..1 -> a map of logits, positive for real; also an encoder (section 3.2)."""

    def __init__(self, config: Config, num_classes: int, size: int) -> None:
        super().__init__()
        base, top = config.base_channels, min(size, config.discriminator_size)
        widths = {side: width(base, side) for side in sides(8, top)}
        first = nn.Conv2d(3, widths[top], 3, padding=1) if size == top else nn.Conv2d(3, widths[top], 4, 2, 1)
        stem: list[nn.Module] = [first, nn.LeakyReLU(0.2)]
        for _ in sides(top, size // 4):
            stem += convolved(widths[top], widths[top], 4, 2, 1)
        down = [DownBlock(widths[2 * side], widths[side]) for side in reversed(sides(8, top // 2))]
        self.to_16 = nn.Sequential(*stem, *down[:-1])
        self.to_8 = down[-1]
        num = 2 * widths[8]
        self.neck = nn.Sequential(*convolved(widths[8], num, 1))
        self.head = nn.Conv2d(num, 1, 4)
        self.projection = Projection(num * 64, num_classes) if num_classes > 1 else None
        if config.reconstruction_weight:
            side = min(config.reconstruction_size, size)
            self.decode_whole, self.decode_part = decoder(widths[8], base, side), decoder(widths[16], base, side)
        normal_weights(self)
        if config.spectral_norm:  # of all but the decoders (Miyato et al. 2018, arXiv:1802.05957)
            for part in (self.to_16, self.to_8, self.neck, self.head):
                for conv in [module for module in part.modules() if isinstance(module, nn.Conv2d)]:
                    spectral_norm(conv)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, ., 16, 16] and [B, ., 8, 8]."""
        features = self.to_16(images)
        return features, self.to_8(features)

    def judge(self, features: Tensor, labels: Tensor) -> Tensor:
        """Logits [B, 25] of the 8 x 8 features: one for each 4 x 4 window."""
        features = self.neck(features)
        logits = self.head(features).flatten(1)
        if self.projection is not None:
            logits = logits + self.projection(features.flatten(1), labels)[:, None]
        return logits.float()

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.judge(self.encode(images)[1], labels)


class Game(_adversary.Adversary):
    """The two networks under the hinge loss (eq. 4 and 5), and the reconstruction of real images (eq. 3)."""

    GENERATOR, DISCRIMINATOR = Synthesis, Discriminator

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> Judged:
        real = self.seen(real, rng)
        features_16, features_8 = self.discriminator.encode(real)
        on_real = self.discriminator.judge(features_8, labels)
        on_fake = self.discriminator(self.seen(fake, rng), labels)
        loss = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
        if self.config.reconstruction_weight:
            loss = loss + self.config.reconstruction_weight * self.reconstruction(real, features_16, features_8, rng)
        return loss, on_real.mean(1), on_fake.mean(1)

    def reconstruction(self, real: Tensor, features_16: Tensor, features_8: Tensor, rng: torch.Generator) -> Tensor:
        """How far the decoded features are from the image, and those of a random part from that part (eq. 3)."""
        top, left = torch.randint(0, 16 - PART + 1, (2,), generator=rng).tolist()
        scale = real.shape[-1] // 16
        part = real[..., top * scale : (top + PART) * scale, left * scale : (left + PART) * scale]
        decoded_part = self.discriminator.decode_part(features_16[..., top : top + PART, left : left + PART])
        decoded_whole = self.discriminator.decode_whole(features_8)
        return self.distance(decoded_whole, real) + self.distance(decoded_part, part)

    def distance(self, decoded: Tensor, images: Tensor) -> Tensor:
        """Mean difference of pixels at the size of the decoded ones."""
        target = F.interpolate(images.float(), decoded.shape[2:], mode="bilinear", antialias=True)
        between = F.l1_loss if self.config.reconstruction_loss == "l1" else F.mse_loss
        return between(decoded.float(), target)

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> Tensor:
        return -self.discriminator(self.seen(fake, rng), labels).mean()


class Generator(Drawer[Config]):
    """At a power of two from 16 to 1024 pixels."""

    NAME, CONFIG, GAME = "fastgan", Config, Game
