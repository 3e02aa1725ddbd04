"""The networks of ``dcgan`` and one step of their game."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moulage import optimisers
from moulage.errors import RecipeError
from moulage.generators._adversary import Adversary
from moulage.generators._condition import LabelEmbedding, Projection

if TYPE_CHECKING:
    from moulage.generators.dcgan import Config

ACTIVATIONS: dict[str, Any] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "elu": nn.ELU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}

LABEL_STD = 0.02
"""Initial standard deviation of the generator's label embedding; its latents have 1.

Training starts almost without a condition and grows one. In a trial on two classes of 55 and 24 images a label as large
as 0.3 drowned the latents: every class collapsed to one image (Shahbazi et al. 2022, arXiv:2201.06578, see the same).
"""


class UpConv(nn.Module):
    """Doubles the size and convolves: [B, in, S, S] -> [B, out, 2S, 2S], without a bias (batch norm follows)."""

    def __init__(self, num_in: int, num_out: int, kernel: int, upsampling: str) -> None:
        super().__init__()
        self.kernel, self.upsampling = kernel, upsampling
        self.fused = upsampling == "nearest" and kernel == 3
        shape = (num_in, num_out) if upsampling == "transposed" else (num_out, num_in)
        self.weight = nn.Parameter(torch.empty(*shape, kernel, kernel))
        # Of a doubled grid's 4 rows, those that read the same source row share one summed tap.
        self.register_buffer("taps", torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.upsampling == "transposed":
            odd = self.kernel % 2
            return F.conv_transpose2d(x, self.weight, stride=2, padding=(self.kernel - 1) // 2, output_padding=odd)
        if self.fused:
            return F.conv_transpose2d(x, self.summed_taps(), stride=2, padding=1)
        larger = F.interpolate(x, scale_factor=2, mode=self.upsampling)
        return F.conv2d(larger, self.weight, padding=self.kernel // 2)

    def summed_taps(self) -> Tensor:
        """The 4 x 4 stride-2 transposed kernel [in, out, 4, 4] that equals nearest up-sampling and a 3 x 3 convolution.

        It needs 1.75 times fewer operations over the whole network.
        """
        return torch.einsum("ak,oikl,bl->ioab", self.taps, self.weight, self.taps)


class Synthesis(nn.Module):
    """Latents float32 [B, latent_size] and labels int64 [B] -> images [B, 3, size, size] in -1..1."""

    def __init__(self, config: "Config", num_classes: int, size: int) -> None:
        super().__init__()
        num_doublings = doublings(size)
        self.side, self.base = size >> num_doublings, config.base_channels
        activation = ACTIVATIONS[config.generator_activation]
        self.embedding = LabelEmbedding(num_classes, config.latent_size, LABEL_STD) if num_classes > 1 else None
        self.dense = nn.Linear(config.latent_size * (2 if self.embedding else 1), self.base * self.side**2)
        layers: list[nn.Module] = [nn.BatchNorm2d(self.base)] if config.first_norm else []
        layers.append(activation())
        num_in, by_doubling = self.base, config.output == "doubling"
        for i in range(num_doublings - by_doubling):
            num_out = config.generator_channels[min(i, len(config.generator_channels) - 1)]
            layers.append(UpConv(num_in, num_out, config.generator_kernel, config.upsampling))
            layers += [nn.BatchNorm2d(num_out), activation()]
            num_in = num_out
        last = UpConv(num_in, 3, config.generator_kernel, config.upsampling) if by_doubling else None
        layers.append(last or nn.Conv2d(num_in, 3, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        if self.embedding is not None:
            latents = torch.cat([latents, self.embedding(labels)], 1)
        maps = self.dense(latents).view(-1, self.base, self.side, self.side)
        return torch.tanh(self.layers(maps.contiguous(memory_format=torch.channels_last)))


class Discriminator(nn.Module):
    """Images [B, 3, size, size] in -1..1 and labels int64 [B] -> logits [B], positive for real.

    Several classes: the features are also projected on a vector of the label (Miyato & Koyama 2018, arXiv:1802.05637),
    here the whole map: with pooled features the label was ignored and both classes of a trial looked the same.
    """

    def __init__(self, config: "Config", num_classes: int, size: int) -> None:
        super().__init__()
        kernel, layers, num_in = config.discriminator_kernel, [], 3
        for num_out, stride in zip(config.discriminator_channels, config.discriminator_strides, strict=True):
            first = not layers
            layers.append(nn.Conv2d(num_in, num_out, kernel, stride, (kernel - 1) // 2, bias=first))
            if not first:  # no batch norm on the image itself, as usual
                layers.append(nn.BatchNorm2d(num_out, track_running_stats=False))
            layers += [ACTIVATIONS[config.discriminator_activation](), nn.Dropout(config.dropout)]
            num_in = num_out
        self.layers = nn.Sequential(*layers)
        num_features = num_in * last_side(config, size) ** 2
        self.head = nn.Linear(num_features, 1)
        self.projection = Projection(num_features, num_classes) if num_classes > 1 else None

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        features = self.layers(images).flatten(1)
        logits = self.head(features).squeeze(1)
        if self.projection is not None:
            logits = logits + self.projection(features, labels)
        return logits.float()


def doublings(size: int) -> int:
    """How often a map of at least 4 pixels a side doubles to reach the size exactly."""
    return max(n for n in range(size.bit_length()) if size % 2**n == 0 and size >> n >= 4)


def last_side(config: "Config", size: int) -> int:
    """Pixels a side of the discriminator's last map.

    Raises:
        RecipeError: nothing is left of the image.
    """
    side, kernel = size, config.discriminator_kernel
    for stride in config.discriminator_strides:
        side = (side + 2 * ((kernel - 1) // 2) - kernel) // stride + 1
    if side < 1:
        raise RecipeError(
            f"The discriminator's strides leave nothing of an image of {size} pixels.",
            "Use fewer discriminator_strides of 2, or larger images.",
        )
    return side


def initialise(network: optimisers.Model) -> optimisers.Model:
    """Glorot-uniform weights (Keras's, the thesis's) and zero biases, in channels-last memory."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | UpConv):
            nn.init.xavier_uniform_(module.weight)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    if isinstance(network, Discriminator) and network.projection is not None:
        nn.init.zeros_(network.projection.heads.weight)
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


class Game(Adversary):
    """The two networks under binary cross-entropy."""

    def __init__(self, config: "Config", num_classes: int, size: int, device: torch.device | str = "cpu") -> None:
        generator, discriminator = Synthesis(config, num_classes, size), Discriminator(config, num_classes, size)
        super().__init__(config, initialise(generator), initialise(discriminator), device)

    def discriminator_loss(
        self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        on_real = self.discriminator(self.seen(real, rng), labels)
        on_fake = self.discriminator(self.seen(fake, rng), labels)
        targets = torch.full_like(on_real, 1 - self.config.label_smoothing)
        loss_real = F.binary_cross_entropy_with_logits(on_real, targets)
        return (loss_real + F.softplus(on_fake).mean()) / 2, on_real, on_fake

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> Tensor:
        return F.softplus(-self.discriminator(self.seen(fake, rng), labels)).mean()
