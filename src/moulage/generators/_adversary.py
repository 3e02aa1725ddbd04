"""One step of two networks that play against each other; a GAN says what its networks and its losses are."""

from abc import abstractmethod
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from moulage import devices, optimisers, plugins
from moulage.generators import _augment, _learner

Augmentation = Literal["none", "diffaugment", "ada"]
AUGMENTATION = "what is changed in all that the discriminator sees: nothing, DiffAugment's policy, or ADA's pipeline"
OPTIMISERS = ("generator_optimiser", "discriminator_optimiser")


class Optimiser(plugins.Options):
    """How one of the two networks learns."""

    name: Literal["adam", "sgd"] = Field(
        default="adam", description="Adam, or stochastic gradient descent with momentum"
    )
    learning_rate: float = Field(default=1.5e-4, gt=0, le=1, description="step size")
    beta1: float = Field(default=0.5, ge=0, lt=1, description="Adam's decay of the mean gradient; SGD's momentum")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="Adam's decay of the mean squared gradient")

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of a network."""
        if self.name == "sgd":
            return torch.optim.SGD(network.parameters(), self.learning_rate, self.beta1, fused=True)
        return torch.optim.Adam(network.parameters(), self.learning_rate, (self.beta1, self.beta2), fused=True)


class Options(_learner.Options):
    """What every GAN has beside the options of the loop."""

    latent_size: int = Field(100, ge=1, le=1024, description="numbers in a latent vector")
    generator_optimiser: Optimiser = Field(Optimiser(), description="how the generator learns")
    discriminator_optimiser: Optimiser = Field(Optimiser(), description="how the discriminator learns")
    discriminator_augment: Augmentation = Field("none", description=AUGMENTATION)
    diffaugment_policy: tuple[Literal["colour", "translation", "cutout"], ...] = Field(
        ("colour", "translation", "cutout"), description="DiffAugment's changes"
    )
    ada_target: float = Field(0.6, ge=0, lt=1, description="how sure of real images ADA lets the discriminator be")
    ada_images: int = Field(
        100_000, ge=100, description="real images in which ADA's probability can rise from 0 to 1; fewer for short fits"
    )


class Adversary(_learner.Game):
    """A generator and a discriminator, their optimisers, the generator's average.

    Args:
        config: options of the plug-in.
        generator: latents [B, latent_size], labels [B] -> images [B, 3, S, S].
        discriminator: images, labels -> logits [B].
        device: where they go.
    """

    PARTS: ClassVar = ("generator", "discriminator", "ema", *OPTIMISERS, "adaptive")

    def __init__(
        self, config: Any, generator: nn.Module, discriminator: nn.Module, device: torch.device | str = "cpu"
    ) -> None:
        self.config, self.device = config, torch.device(device)
        self.generator: Any = generator.to(self.device)
        self.discriminator: Any = discriminator.to(self.device)
        self.ema = optimisers.EMA(self.generator, config.ema_decay)
        self.generator_optimiser = config.generator_optimiser.build(self.generator)
        self.discriminator_optimiser = config.discriminator_optimiser.build(self.discriminator)
        self.adaptive = _augment.Adaptive(config.ada_target, config.ada_images)

    @abstractmethod
    def discriminator_loss(
        self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(loss, logits on real, logits on fake); ``fake`` carries no gradient."""

    @abstractmethod
    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> Tensor:
        """Loss of the generator; the discriminator's weights take no gradient here."""

    def latents(self, num: int, rng: torch.Generator) -> Tensor:
        """Standard normal [num, latent_size] on the device."""
        return torch.randn(num, self.config.latent_size, generator=rng).to(self.device)

    def generate(self, real: Tensor, latents: Tensor, labels: Tensor) -> Tensor:
        """Images [B, 3, S, S]; a generator that draws from more than latents and labels finds it beside ``real``."""
        return self.generator(latents, labels)

    def seen(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """What the discriminator sees of images."""
        if self.config.discriminator_augment == "diffaugment":
            return _augment.diffaugment(images, self.config.diffaugment_policy, rng)
        return self.adaptive(images, rng) if self.config.discriminator_augment == "ada" else images

    def step(self, real: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        """One update of each network; losses, and the mean probabilities that the discriminator gives."""
        num_parts = self.config.accumulate
        parts = list(zip(real.chunk(num_parts), labels.chunk(num_parts), strict=True))
        latents = self.latents(len(real), rng).split([len(images) for images, _ in parts])
        sums: dict[str, Tensor] = {}

        def add(share: float, **values: Tensor) -> None:
            for name, value in values.items():
                sums[name] = sums.get(name, 0) + share * value.detach().float().mean()

        fake = None
        self.discriminator_optimiser.zero_grad()
        for (images, classes), z in zip(parts, latents, strict=True):
            with devices.precision(self.device, self.config.precision):
                fake = self.generate(images, z, classes)
                loss, on_real, on_fake = self.discriminator_loss(images, fake.detach(), classes, step, rng)
            share = len(images) / len(real)
            (loss * share).backward()
            add(share, loss_d=loss, d_real=on_real.sigmoid(), d_fake=on_fake.sigmoid())
            if self.config.discriminator_augment == "ada":
                self.adaptive.update(on_real)
        self.discriminator_optimiser.step()

        self.discriminator.requires_grad_(False)  # the generator's step needs no gradient of these weights
        self.generator_optimiser.zero_grad()
        for (images, classes), z in zip(parts, latents, strict=True):
            with devices.precision(self.device, self.config.precision):
                fake = fake if num_parts == 1 and fake is not None else self.generate(images, z, classes)
                loss = self.generator_loss(images, fake, classes, step, rng)
            share = len(images) / len(real)
            (loss * share).backward()
            add(share, loss_g=loss)
        self.generator_optimiser.step()
        self.discriminator.requires_grad_(True)
        self.ema.update(self.generator)
        if self.config.discriminator_augment == "ada":
            sums["ada_p"] = torch.tensor(self.adaptive.p)
        return sums


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Squared norm of the logits' gradient with respect to the images they are of, each image alone: [B].

    R1 on real images (Mescheder et al. 2018, arXiv:1801.04406, eq. 9), R2 on generated ones; without the factor.
    """
    [gradient] = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float().square().flatten(1).sum(1)
