"""pix2pixHD: draws a lesion and the skin around it into a lesion mask, for one class or several.

After Wang et al. 2018 (arXiv:1711.11585) and, for dermoscopy, Ding et al. 2019, who give the network the lesion mask
with its class, and its boundary. A coarse-to-fine generator, discriminators of patches at several sizes, least squares,
feature matching.

What differs: pix2pixHD draws one image of a mask, and a study needs many. Here a latent vector and the class set scale
and shift of every norm, and a term of the loss rewards images that differ where latents do. Masks for new images are
made of those of the training part, which are kept with the weights.
"""

from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor, nn

from moulage import backbones, monitoring, randomness, runs, sheets
from moulage.data import masks as lesion_masks
from moulage.errors import DataError, RecipeError, RunError
from moulage.generators import _adversary, _learner
from moulage.generators._pix2pixhd import NUM_MAPS, Game, Synthesis

NEEDS_MASKS = True
MASKS = "masks.npz"
NUM_SHOWN = 6
"""Masks of each class, and images beside them, in the grids of ``maps``."""


class Optimiser(_adversary.Optimiser):
    """The paper's Adam."""

    learning_rate: float = Field(default=2e-4, gt=0, le=1, description="step size")


class Config(_adversary.Options):
    """The networks' defaults are the paper's global generator and its discriminators."""

    latent_size: int = Field(64, ge=1, le=1024, description="numbers in a latent vector")
    generator_optimiser: Optimiser = Field(Optimiser(), description="how the generator learns")  # pyright: ignore[reportIncompatibleVariableOverride]
    discriminator_optimiser: Optimiser = Field(Optimiser(), description="how the discriminators learn")  # pyright: ignore[reportIncompatibleVariableOverride]
    base_channels: int = Field(64, ge=4, le=512, description="channels of the global generator's largest map")
    max_channels: int = Field(1024, ge=4, le=2048, description="most channels; each halving of the size doubles them")
    num_downsamplings: int = Field(4, ge=1, le=7, description="times that the global generator halves the size")
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

    @model_validator(mode="after")
    def _enhancers_have_channels(self) -> Self:
        if self.base_channels % (1 << self.num_enhancers):
            raise ValueError("each enhancer halves base_channels, which is not possible so often")
        return self


class Generator(_learner.Learner[Config]):
    """Draws images of ``classes`` at ``size`` x ``size`` pixels, a multiple of 8 from 16 to 1024; see ``Learner``."""

    NAME, CONFIG, SIZES, NUM_PLANES = "pix2pixhd", Config, range(16, 1025, 8), 3 + NUM_MAPS

    def __init__(self, config: Config, classes: tuple[str, ...], size: int) -> None:
        super().__init__(config, classes, size)
        self._masks: tuple[np.ndarray, ...] = ()
        smallest, times = size >> config.num_enhancers + config.num_downsamplings, 1 << config.num_enhancers
        if smallest < 2 or size % (times << config.num_downsamplings):
            raise RecipeError(
                f"pix2pixhd cannot halve {size} pixels {config.num_downsamplings} + {config.num_enhancers} times.",
                "Use a smaller num_downsamplings or num_enhancers, or another size.",
            )
        if size >> config.num_discriminators - 1 < 8:
            raise RecipeError(
                f"Of {size} pixels the last of {config.num_discriminators} discriminators sees less than 8.",
                "Use a smaller num_discriminators, or a larger size.",
            )

    def fit(self, images: np.ndarray, labels: np.ndarray, *, masks: np.ndarray | None = None, **settings: Any) -> None:
        """Learn from images, labels and masks, uint8 [N, S, S]; the other arguments are those of ``Learner.fit``.

        Raises:
            DataError: no masks, or not one of each image; else what ``Learner.fit`` raises.
        """
        if masks is None or masks.shape != images.shape[:3] or masks.dtype != np.uint8:
            found = "none" if masks is None else f"{masks.dtype} of {masks.shape}"
            raise DataError(
                f"pix2pixhd needs a mask of each image, uint8 {images.shape[:3]}; it got {found}.",
                "Use data with masks, such as ham10000, or another generator.",
            )
        self._masks = tuple(masks[labels == label] for label in range(len(self.classes)))
        # Image, mask and boundary go through the loop as one array, so that a symmetry turns them alike.
        super().fit(np.concatenate([images, planes(masks)], 3), labels, **settings)

    def game(self) -> Game:
        return Game(self.config, len(self.classes), self.size, self.device)

    def network_of(self) -> nn.Module:
        return Synthesis(self.config, len(self.classes), self.size)

    def draw(self, network: Synthesis, labels: Tensor, seeds: np.ndarray) -> Tensor:
        pairs = zip(labels.tolist(), seeds, strict=True)
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
        """Read what ``save`` wrote."""
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

    def _preview(
        self, step: int, images: np.ndarray, labels: np.ndarray, folder: Path, board: monitoring.Board
    ) -> None:
        """The usual grid, and in ``maps`` a grid of masks and the images drawn into them."""
        super()._preview(step, images[..., :3], labels, folder, board)
        seeds, shown = np.arange(NUM_SHOWN), []
        for label in range(len(self.classes)):
            masks = np.repeat(self.maps(label, seeds)[..., None], 3, 3)
            shown.append(np.stack([masks, self.sample(label, seeds)], 1).reshape(-1, *masks.shape[1:]))
        picture = sheets.grid(np.concatenate(shown), 2 * NUM_SHOWN)
        with runs.atomic(folder / "maps" / f"{step:07d}.png") as temporary:
            picture.save(temporary, "PNG")
        board.picture(step, "maps", picture)


def planes(masks: np.ndarray) -> np.ndarray:
    """What the networks see of masks uint8 [N, S, S]: uint8 [N, S, S, 2], the mask and its boundary."""
    return np.stack([masks, lesion_masks.boundary(masks)], -1)
