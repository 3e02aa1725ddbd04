"""pix2pixHD: draws a lesion and the skin around it into a lesion mask, for one class or several.

After Wang et al. 2018 (arXiv:1711.11585) and, for dermoscopy, Ding et al. 2019, who give the network the lesion mask
with its class, and its boundary. A coarse-to-fine generator, discriminators of patches at several sizes, least squares,
feature matching; docs/generators/pix2pixhd.md says what differs. Masks for new images are made of those of the
training part, which are kept with the weights.
"""

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from moulage import backbones, randomness, runs
from moulage.data import masks as lesion_masks
from moulage.errors import DataError, RecipeError, RunError
from moulage.generators import _adversary, _learner
from moulage.generators._adversary import Judged
from moulage.generators._pix2pixhd import NUM_MAPS, Discriminator, NetworkOptions, Perceptual, Synthesis
from moulage.monitoring import Board

NEEDS_MASKS = True
MASKS = "masks.npz"
SMALLEST, MOST_HALVINGS = 16, 4
"""Pixels a side that the residual blocks have at least, and the paper's halvings, where ``num_downsamplings`` is not
given: 4 from 256 pixels on, 3 at 128, 2 at 64, where a fourth would leave 4 pixels to the nine blocks."""
NUM_SHOWN = 6  # masks of each class, and images beside them, in the grids of ``maps``
MOST_APART = 0.2
"""The reward for variety ends where images are this many times as far apart as their latents (mean differences).

Real images of one class of HAM10000 are about 0.25 apart, latents 1.13; see docs/generators/pix2pixhd.md.
"""
ADAM = _adversary.Optimiser(learning_rate=2e-4)  # the paper's


class Config(NetworkOptions):
    """The defaults are the paper's but for the size of the batch, which is 1 there."""

    images: _learner.Images = 600_000
    epochs: _learner.Epochs = None
    batch_size: _learner.BatchSize = 8
    generator_optimiser: _adversary.GeneratorOptimiser = ADAM
    discriminator_optimiser: _adversary.DiscriminatorsOptimiser = ADAM
    feature_matching_weight: float = Field(10.0, ge=0, le=1000, description="weight of the feature matching loss")
    perceptual_weight: float = Field(
        0.0, ge=0, le=1000, description="weight of the perceptual loss; 0: not computed, and no network is needed"
    )
    perceptual: backbones.Backbone = Field(
        backbones.Backbone(name="vgg19.tv_in1k", weights="hub"), description="the network of the perceptual loss"
    )
    diversity_weight: float = Field(
        8.0, ge=0, le=1000, description="weight of the reward for images of one mask that differ; 0: not computed"
    )
    recombine: float = Field(
        0.5, ge=0, le=1, description="share of new masks that are made of two real ones; the others are made of one"
    )

    def at(self, size: int) -> Self:
        side, num = size >> self.num_enhancers, self.num_downsamplings
        if num is None:
            fits = [n for n in range(1, MOST_HALVINGS + 1) if side % 2**n == 0 and side >> n >= SMALLEST]
            num = max(fits, default=1)
        return self.model_copy(update={"num_downsamplings": num})

    @model_validator(mode="after")
    def _enhancers_have_channels(self) -> Self:
        if self.base_channels % (1 << self.num_enhancers):
            raise ValueError("each enhancer halves base_channels, which is not possible so often")
        return self


class Game(_adversary.Adversary):
    """Least squares (Mao et al. 2017, arXiv:1611.04076, eq. 9), feature matching, and a reward for variety."""

    GENERATOR, LAYOUT = Synthesis, torch.preserve_format

    def networks(self, num_classes: int, size: int) -> tuple[nn.Module, nn.Module]:
        networks = Synthesis(self.config, num_classes, size), Discriminator(self.config, num_classes)
        wanted = self.config.perceptual_weight > 0
        self.perceptual: Any = Perceptual(self.config.perceptual, size).to(self.device).eval() if wanted else None
        return networks

    def generate(self, real: Tensor, latents: Tensor, labels: Tensor) -> Tensor:
        return self.generator(latents, labels, real[:, 3:])  # beside the image: mask and boundary

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> Judged:
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


class Generator(_adversary.Gan[Config]):
    """At a multiple of 8 pixels from 16 to 1024."""

    NAME, CONFIG, SIZES, NUM_PLANES = "pix2pixhd", Config, range(16, 1025, 8), 3 + NUM_MAPS
    GAME = Game

    def __init__(self, config: Config, classes: tuple[str, ...], size: int) -> None:
        super().__init__(config, classes, size)
        self._masks: tuple[np.ndarray, ...] = ()
        num_halvings = self.config.num_downsamplings or 0
        smallest, times = size >> config.num_enhancers + num_halvings, 1 << config.num_enhancers
        if smallest < 2 or size % (times << num_halvings):
            raise RecipeError(
                f"pix2pixhd cannot halve {size} pixels {num_halvings} + {config.num_enhancers} times.",
                "Use a smaller num_downsamplings or num_enhancers, or another size.",
            )
        if size >> config.num_discriminators - 1 < 8:
            raise RecipeError(
                f"Of {size} pixels the last of {config.num_discriminators} discriminators sees less than 8.",
                "Use a smaller num_discriminators, or a larger size.",
            )

    def fit(self, images: np.ndarray, labels: np.ndarray, *, masks: np.ndarray | None = None, **settings: Any) -> None:
        """As ``Learner.fit``, with masks uint8 [N, S, S]; ``DataError`` where there is not one of each image."""
        if masks is None or masks.shape != images.shape[:3] or masks.dtype != np.uint8:
            found = "none" if masks is None else f"{masks.dtype} of {masks.shape}"
            raise DataError(
                f"pix2pixhd needs a mask of each image, uint8 {images.shape[:3]}; it got {found}.",
                "Use data with masks, such as ham10000, or another generator.",
            )
        self._masks = tuple(masks[labels == label] for label in range(len(self.classes)))
        # Image, mask and boundary go through the loop as one array, so that a symmetry turns them alike.
        super().fit(np.concatenate([images, planes(masks)], 3), labels, **settings)

    def draw(self, network: Synthesis, labels: Tensor, seeds: np.ndarray) -> Tensor:
        masks_of = seeds["first"] if seeds.dtype == _learner.BETWEEN else seeds
        pairs = zip(labels.tolist(), masks_of, strict=True)
        maps = self._inputs(planes(np.stack([self._mask(label, seed) for label, seed in pairs])))
        return network(_learner.latents(seeds, self.config.latent_size).to(self.device), labels, maps)

    def maps(self, label: int, seeds: np.ndarray) -> np.ndarray:
        """The masks uint8 [n, S, S] that ``sample`` draws into for the same class and seeds."""
        return np.stack([self._mask(label, seed) for seed in seeds])

    def _mask(self, label: int, seed: int) -> np.ndarray:
        """A mask of the class, warped, or recombined with another and then warped."""
        rng, known = randomness.numpy_rng("mask", seed), self._masks[label]
        first, second = known[rng.integers(len(known))], known[rng.integers(len(known))]
        mask = lesion_masks.recombined((first, second), rng) if rng.random() < self.config.recombine else first
        return lesion_masks.warped(mask, rng)

    def save(self, folder: Path) -> None:
        """Write ``config.json``, ``weights.safetensors`` and the training part's masks as bits, ``masks.npz``."""
        super().save(folder)
        rows = np.concatenate(self._masks).reshape(-1, self.size**2) > 0
        labels = np.repeat(np.arange(len(self._masks)), [len(masks) for masks in self._masks])
        with runs.atomic(folder / MASKS) as temporary, temporary.open("wb") as stream:
            np.savez(stream, masks=np.packbits(rows, axis=1), labels=labels)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:
        generator = super().load(folder, device)
        try:
            with np.load(folder / MASKS, allow_pickle=False) as file:
                packed, labels = file["masks"], file["labels"]
        except (OSError, KeyError, ValueError) as error:
            raise RunError(f"{folder / MASKS} cannot be loaded: {error}.", "Fit the generator again.") from None
        bits = np.unpackbits(packed, axis=1, count=generator.size**2).reshape(-1, generator.size, generator.size)
        masks = lesion_masks.binary(bits > 0)
        generator._masks = tuple(masks[labels == label] for label in range(len(generator.classes)))
        return generator

    def _check(self, images: np.ndarray, labels: np.ndarray) -> None:
        super()._check(images[..., :3], labels)

    def _preview(self, step: int, num: int, num_columns: int, folder: Path, board: Board) -> list[np.ndarray]:
        """The usual grid, and in ``maps`` a grid of masks and the images drawn into them."""
        seeds, shown = np.arange(NUM_SHOWN), []
        for label in range(len(self.classes)):
            masks = np.repeat(self.maps(label, seeds)[..., None], 3, 3)
            shown.append(np.stack([masks, self.sample(label, seeds)], 1).reshape(-1, *masks.shape[1:]))
        self._show(step, "maps", np.concatenate(shown), 2 * NUM_SHOWN, folder, board)
        return super()._preview(step, num, num_columns, folder, board)


def planes(masks: np.ndarray) -> np.ndarray:
    """What the networks see of masks uint8 [N, S, S]: uint8 [N, S, S, 2], the mask and its boundary."""
    return np.stack([masks, lesion_masks.boundary(masks)], -1)


def pair(images: Tensor, real: Tensor) -> Tensor:
    """Images [B, 3, S, S] with the maps of ``real`` [B, 5, S, S]: [B, 5, S, S]."""
    return torch.cat([images, real[:, 3:].to(images)], 1)


def certainty(scores: list[Tensor]) -> Tensor:
    """Scores with targets 1 (real) and 0 as something like logits, [B]: above 0 where rather real."""
    return torch.stack([2 * found.detach().mean(1) - 1 for found in scores]).mean(0)


def feature_distance(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """Sum over the layers of the mean absolute difference (section 3.2, eq. 4)."""
    return torch.stack([(a - b).abs().mean() for a, b in zip(ours, theirs, strict=True)]).sum()
