"""The networks of ``dcgan`` and one step of their game."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moulage import training
from moulage.errors import RecipeError

if TYPE_CHECKING:
    from moulage.generators.dcgan import Config, Optimiser

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
        num_doublings = (size // 4).bit_length() - 1
        self.side, self.base = size >> num_doublings, config.base_channels
        activation = ACTIVATIONS[config.generator_activation]
        self.embedding = nn.Embedding(num_classes, config.latent_size) if num_classes > 1 else None
        self.dense = nn.Linear(config.latent_size * (2 if self.embedding else 1), self.base * self.side**2)
        layers, num_in = [activation()], self.base
        for i in range(num_doublings):
            num_out = config.generator_channels[min(i, len(config.generator_channels) - 1)]
            layers.append(UpConv(num_in, num_out, config.generator_kernel, config.upsampling))
            layers += [nn.BatchNorm2d(num_out), activation()]
            num_in = num_out
        layers.append(nn.Conv2d(num_in, 3, 3, padding=1))
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
        self.label_heads = nn.Linear(num_features, num_classes) if num_classes > 1 else None

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        features = self.layers(images).flatten(1)
        logits = self.head(features).squeeze(1)
        if self.label_heads is not None:
            logits = logits + self.label_heads(features).gather(1, labels[:, None]).squeeze(1)
        return logits.float()


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


def initialise(network: training.Model) -> training.Model:
    """Glorot-uniform weights (Keras's, the thesis's) and zero biases, in channels-last memory."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | UpConv):
            nn.init.xavier_uniform_(module.weight)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=LABEL_STD)
    if isinstance(network, Discriminator) and network.label_heads is not None:
        nn.init.zeros_(network.label_heads.weight)
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def build_optimiser(options: "Optimiser", network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of one network."""
    if options.name == "sgd":
        return torch.optim.SGD(network.parameters(), options.learning_rate, options.beta1, fused=True)
    return torch.optim.Adam(network.parameters(), options.learning_rate, (options.beta1, options.beta2), fused=True)


class Game:
    """The two networks, their optimisers and the generator's average: all that a step changes."""

    def __init__(self, config: "Config", num_classes: int, size: int, device: torch.device | str = "cpu") -> None:
        self.config, self.device = config, torch.device(device)
        self.generator = initialise(Synthesis(config, num_classes, size)).to(self.device)
        self.discriminator = initialise(Discriminator(config, num_classes, size)).to(self.device)
        self.ema = training.EMA(self.generator, config.ema_decay)
        self.generator_optimiser = build_optimiser(config.generator_optimiser, self.generator)
        self.discriminator_optimiser = build_optimiser(config.discriminator_optimiser, self.discriminator)

    def step(self, real: Tensor, labels: Tensor, latents: Tensor) -> dict[str, Tensor]:
        """One update of each network on one batch; returns losses and mean probabilities (scalars, detached)."""
        with training.precision(self.device, self.config.precision):
            fake = self.generator(latents, labels)
            on_real, on_fake = self.discriminator(real, labels), self.discriminator(fake.detach(), labels)
            targets = torch.full_like(on_real, 1 - self.config.label_smoothing)
            loss_real = F.binary_cross_entropy_with_logits(on_real, targets)
            loss_d = (loss_real + F.softplus(on_fake).mean()) / 2
        self.discriminator_optimiser.zero_grad()
        loss_d.backward()
        self.discriminator_optimiser.step()

        self.discriminator.requires_grad_(False)  # the generator's step needs no gradient of these weights
        with training.precision(self.device, self.config.precision):
            loss_g = F.softplus(-self.discriminator(fake, labels)).mean()
        self.generator_optimiser.zero_grad()
        loss_g.backward()
        self.generator_optimiser.step()
        self.discriminator.requires_grad_(True)
        self.ema.update(self.generator)
        sums = {
            "loss_d": loss_d,
            "loss_g": loss_g,
            "d_real": on_real.sigmoid().mean(),
            "d_fake": on_fake.sigmoid().mean(),
        }
        return {name: value.detach() for name, value in sums.items()}

    _PARTS = ("generator", "discriminator", "ema", "generator_optimiser", "discriminator_optimiser")

    def state_dict(self) -> dict[str, Any]:
        """All that a step depends on, PyTorch's random states (dropout) included."""
        return {"random": training.random_state(self.device)} | {p: getattr(self, p).state_dict() for p in self._PARTS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part in self._PARTS:
            getattr(self, part).load_state_dict(state[part])
        training.restore_random_state(state["random"], self.device)
