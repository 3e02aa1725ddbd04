"""One step of two networks that play against each other; a GAN says what its networks and its losses are."""

import math
from abc import abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import numpy as np
import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from moulage import devices, optimisers, plugins
from moulage.generators import _augment, _learner, _start

Judged = tuple[Tensor, Tensor, Tensor]
"""A discriminator's loss, its logits on real images and those on generated ones, one an image or more."""
OPTIMISERS = ("generator_optimiser", "discriminator_optimiser")


class Optimiser(plugins.Options):
    """How one of the two networks learns. A plug-in's own defaults are those of the object in its field."""

    name: Literal["adam", "sgd"] = Field(
        default="adam", description="Adam, or stochastic gradient descent with momentum"
    )
    learning_rate: float = Field(default=1.5e-4, gt=0, le=1, description="step size")
    beta1: float = Field(default=0.5, ge=0, lt=1, description="Adam's decay of the mean gradient; SGD's momentum")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="Adam's decay of the mean squared gradient")

    def build(self, network: nn.Module) -> torch.optim.Optimizer:
        if self.name == "sgd":
            return torch.optim.SGD(network.parameters(), self.learning_rate, self.beta1, fused=True)
        return torch.optim.Adam(network.parameters(), self.learning_rate, (self.beta1, self.beta2), fused=True)


# Options whose default differs among plug-ins
LatentSize = Annotated[int, Field(ge=1, le=1024, description="numbers in a latent vector")]
GeneratorOptimiser = Annotated[Optimiser, Field(description="how the generator learns")]
DiscriminatorOptimiser = Annotated[Optimiser, Field(description="how the discriminator learns")]
DiscriminatorsOptimiser = Annotated[Optimiser, Field(description="how the discriminators learn")]
Augmentation = Annotated[
    Literal["none", "diffaugment", "ada"],
    Field(
        description="what is changed in all that the discriminator sees: "
        "nothing, DiffAugment's policy, or ADA's pipeline"
    ),
]
AdaProbability = Annotated[
    float | None,
    Field(
        ge=0,
        le=_augment.Adaptive.LIMIT,
        description="ADA's probability after ada_images, to which it rises along half a cosine; none: by ada_target",
    ),
]


class Options(_learner.Options):
    """What every GAN has beside the options of the loop."""

    latent_size: LatentSize = 100
    generator_optimiser: GeneratorOptimiser = Optimiser()
    discriminator_optimiser: DiscriminatorOptimiser = Optimiser()
    discriminator_augment: Augmentation = "none"
    diffaugment_policy: tuple[Literal["colour", "translation", "cutout"], ...] = Field(
        ("colour", "translation", "cutout"), description="DiffAugment's changes"
    )
    ada_target: float = Field(0.6, ge=0, lt=1, description="how sure of real images ADA lets the discriminator be")
    ada_images: int = Field(
        500_000, ge=100, description="real images in which ADA's probability can rise from 0 to 1; fewer for short fits"
    )
    ada_probability: AdaProbability = None
    freeze_discriminator: int = Field(
        0,
        ge=0,
        le=100,
        description="layers of the discriminator, from the image on, that keep what the fit starts from",
    )

    @property
    def sign_tells_real(self) -> bool:
        """Whether a positive logit means a real image, so that ADA can see how sure the discriminator is."""
        return True

    @model_validator(mode="after")
    def _ada_has_a_rule(self) -> Self:
        if self.discriminator_augment == "ada" and self.ada_probability is None and not self.sign_tells_real:
            raise ValueError(
                "ADA cannot go by the sign of this loss's logits, which says nothing alone: set ada_probability, such "
                'as 0.3, or discriminator_augment = "diffaugment"'
            )
        return self

    @field_validator(*OPTIMISERS, mode="before")
    @classmethod
    def _rest_is_the_plugins(cls, given: Any, info: ValidationInfo) -> Any:
        """A table that names some values of an optimiser leaves the others as the plug-in has them."""
        rest = cls.model_fields[info.field_name or ""].default.model_dump()
        return {**rest, **given} if isinstance(given, dict) else given


class Adversary(_learner.Game):
    """A generator and a discriminator, their optimisers, the generator's average.

    A plug-in names the classes of its networks, which take its config, the number of classes and the size. The
    generator makes images [B, 3, S, S] of rows of latents [B, ``num_inputs``] and labels [B], the discriminator logits
    [B] of images and labels.
    """

    GENERATOR: ClassVar[Any]
    DISCRIMINATOR: ClassVar[Any]

    PARTS: ClassVar = ("generator", "discriminator", "ema", *OPTIMISERS, "adaptive")
    LAYOUT: ClassVar = torch.channels_last  # of the networks in memory; on a CPU convolutions are fastest so

    def __init__(self, config: Any, num_classes: int, size: int, device: torch.device | str = "cpu") -> None:
        self.config, self.device = config, torch.device(device)
        networks = self.networks(num_classes, size)
        self.generator, self.discriminator = (each.to(self.device, memory_format=self.LAYOUT) for each in networks)
        self.ema = optimisers.EMA(self.generator, config.ema_decay)
        self.generator_optimiser = config.generator_optimiser.build(self.generator)
        self.discriminator_optimiser = config.discriminator_optimiser.build(self.discriminator)
        self.adaptive = _augment.Adaptive(config.ada_target, config.ada_images)
        self.frozen = _start.Frozen(self.discriminator, config.freeze_discriminator)

    def networks(self, num_classes: int, size: int) -> tuple[Any, Any]:
        """The two networks, with initial weights from PyTorch's own generator."""
        return self.GENERATOR(self.config, num_classes, size), self.DISCRIMINATOR(self.config, num_classes, size)

    @abstractmethod
    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> Judged:
        """How wrong the discriminator is; ``fake`` carries no gradient."""

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> Tensor:
        """The non-saturating loss; the discriminator's weights take no gradient here."""
        return F.softplus(-self.discriminator(self.seen(fake, rng), labels)).mean()

    def latents(self, num: int, rng: torch.Generator) -> Tensor:
        """Rows that the generator draws from: standard normal [num, num_inputs], on the device."""
        return torch.randn(num, self.generator.num_inputs, generator=rng).to(self.device)

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
        parts = _learner.in_parts(self.config.accumulate, real, labels, self.latents(len(real), rng))
        in_one, adaptive, sums = len(parts) == 1, self.config.discriminator_augment == "ada", dict[str, Tensor]()
        if adaptive and self.config.ada_probability is not None:
            self.adaptive.p = self.config.ada_probability * half_cosine(step * len(real) / self.config.ada_images)

        def descend(num: int, loss: Tensor, **values: Tensor) -> None:
            share = num / len(real)
            (loss * share).backward()
            for name, value in values.items():
                sums[name] = sums.get(name, 0) + share * value.detach().float().mean()

        fake = None
        self.discriminator_optimiser.zero_grad()
        for images, classes, z in parts:
            with devices.precision(self.device, self.config.precision):
                with torch.set_grad_enabled(in_one):  # kept for the generator's step; in parts it would not fit
                    fake = self.generate(images, z, classes).float()  # as real images are, whatever the precision
                loss, on_real, on_fake = self.discriminator_loss(images, fake.detach(), classes, step, rng)
            descend(len(images), loss, loss_d=loss, d_real=on_real.sigmoid(), d_fake=on_fake.sigmoid())
            if adaptive and self.config.ada_probability is None:
                self.adaptive.update(on_real)
        self.frozen.drop_gradients()
        left_out = optimisers.guarded_step(self.discriminator_optimiser)

        self.discriminator.requires_grad_(False)  # the generator's step needs no gradient of these weights
        self.generator_optimiser.zero_grad()
        for images, classes, z in parts:
            with devices.precision(self.device, self.config.precision):
                fake = fake if in_one and fake is not None else self.generate(images, z, classes).float()
                loss = self.generator_loss(images, fake, classes, step, rng)
            descend(len(images), loss, loss_g=loss)
        left_out = torch.maximum(left_out, optimisers.guarded_step(self.generator_optimiser))
        self.discriminator.requires_grad_(True)
        self.ema.update(self.generator)
        if adaptive:
            sums["ada_p"] = torch.tensor(self.adaptive.p)
        return sums | {"left_out": left_out}


C = TypeVar("C", bound=Options)


class Gan(_learner.Learner[C]):
    """A generator that learns in a ``GAME`` and draws by one forward pass of its generator."""

    GAME: ClassVar[type[Adversary]]

    def game(self) -> Any:
        return self.GAME(self.config, len(self.classes), self.size, self.device)

    def network_of(self) -> Any:
        network = self.GAME.GENERATOR(self.config, len(self.classes), self.size)
        return network.to(memory_format=self.GAME.LAYOUT)

    def draw(self, network: Any, labels: Tensor, seeds: np.ndarray) -> Tensor:
        return network(_learner.latents(seeds, network.num_inputs).to(self.device), labels)


def half_cosine(share: float) -> float:
    """From 0 to 1 along half a cosine, while ``share`` goes from 0 to 1; 1 afterwards."""
    return (1 - math.cos(math.pi * min(1.0, share))) / 2


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Squared norms [B] of logits' gradients in images: R1 (Mescheder et al. 2018, arXiv:1801.04406, eq. 9), R2."""
    [gradient] = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float().square().flatten(1).sum(1)
