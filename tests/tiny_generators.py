"""Generators whose smallest fits take a second, and what they learn from: one place for all tests of generators."""

from typing import Any

import numpy as np
import pytest

import tiny_latent_diffusion
from moulage import contracts, plugins

SIZE = 16
CLASSES = ("AK", "NV")
RUN: dict[str, Any] = {"steps": 4, "batch_size": 4, "checkpoint_minutes": 0, "preview_every": 4}
TINY: dict[str, dict[str, Any]] = {
    "dcgan": {
        "base_channels": 8,
        "generator_channels": (8, 4),
        "latent_size": 6,
        "discriminator_channels": (4, 8),
        "discriminator_strides": (2, 2),
    },
    "diffusion": {
        "base_channels": 8,
        "channel_multipliers": (1, 2),
        "num_blocks": 1,
        "attention_sides": (8,),
        "patch_size": 2,
        "dropout": 0.05,
        "learning_rate": 2e-3,
        "warmup_steps": 0,
    },
    "fastgan": {"base_channels": 2, "latent_size": 6, "excitation_ratio": 4, "discriminator_size": 16},
    "finetuned_diffusion": {
        "weights": tiny_latent_diffusion.folder,
        "prompts": {"AK": "a", "NV": "b c"},
        "rank": 2,
        "learning_rate": 0.05,
        "warmup_steps": 0,
    },
    "pix2pixhd": {
        "latent_size": 4,
        "base_channels": 4,
        "num_downsamplings": 1,
        "num_blocks": 1,
        "discriminator_channels": 4,
        "num_discriminators": 2,
        "num_discriminator_layers": 1,
    },
    "progressive": {"base_channels": 2, "latent_size": 6, "attention_size": 8},
    "projected_gan": {
        "base_channels": 2,
        "latent_size": 6,
        "excitation_ratio": 4,
        "discriminator_channels": 8,
        "backbone": {"name": "test_resnet", "weights": "scratch", "input_size": 32},
        "num_maps": 2,
    },
    "r3gan": {"channel_base": 64, "max_channels": 16, "num_blocks": 1, "latent_size": 6},
    "stylegan2": {
        "base_channels": 64,
        "max_channels": 8,
        "latent_size": 6,
        "mapping_layers": 1,
        "r1_every": 2,
        "path_length_every": 2,
        "deviation_group": 2,
    },
}
"""What makes each learned generator small; a new one adds its own."""
DRAWING: dict[str, dict[str, Any]] = {name: {"num_sampling_steps": 2} for name in ("diffusion", "finetuned_diffusion")}
"""How those draw that are slow to draw from."""
SLOW = {*TINY} - {"dcgan", "r3gan"}
"""Generators whose smallest fits, or whose packages' imports, take longest; the slow tests have them."""


def marked(name: str, *rest: Any) -> Any:
    """A case of a generator, slow where the generator is."""
    return pytest.param(name, *rest, marks=pytest.mark.slow if name in SLOW else ())


def rates(rate: float) -> dict[str, Any]:
    """Learning rates of a GAN's two networks."""
    return {f"{network}_optimiser": {"learning_rate": rate} for network in ("generator", "discriminator")}


def configure(name: str, **options: Any) -> Any:
    """A tiny generator's config."""
    small = RUN | TINY[name] if name in TINY else {}
    small = {key: value() if callable(value) else value for key, value in small.items()}
    return plugins.configure("generators", name, small | options)


def make(
    name: str,
    classes: tuple[str, ...] = CLASSES,
    size: int = SIZE,
    drawing: dict[str, Any] | None = None,
    **options: Any,
) -> Any:
    """A tiny generator; where it needs masks and is given none, it gets those of bright places."""
    module = plugins.load("generators", name)
    generator = module.Generator(configure(name, **options), classes, size)
    contracts.generator(name).draw_by(generator, DRAWING.get(name, {}) | (drawing or {}))
    if getattr(module, "NEEDS_MASKS", False):
        fit = generator.fit
        generator.fit = lambda images, *args, **more: fit(images, *args, **({"masks": bright(images)} | more))
    return generator


def bright(images: np.ndarray) -> np.ndarray:
    """Masks uint8 [N, S, S] of images."""
    return np.where(images[..., 0] > 127, 255, 0).astype(np.uint8)


def pictures(num: int = 9, num_classes: int = 2, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Images of noise, and labels."""
    rng = np.random.default_rng(num)
    return rng.integers(0, 256, (num, size, size, 3), np.uint8), np.arange(num, dtype=np.int64) % num_classes
