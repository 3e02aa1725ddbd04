"""Options of generators: each does something, and what is impossible is refused."""

import tomllib
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch

from moulage import contracts, plugins, randomness
from moulage.errors import RecipeError
from moulage.generators import _adversary, _editing
from tiny_generators import DRAWING, SIZE, bright, make, marked, pictures, rates

CHANGES: dict[str, list[dict[str, Any]]] = tomllib.loads("""
of_every_gan = [
    { generator_optimiser = { learning_rate = 0.001 } },
    { discriminator_optimiser = { name = "sgd", learning_rate = 0.1 } }, { accumulate = 2 },
]
of_fastgan_and_projected_gan = [
    { latent_size = 7 }, { base_channels = 3 }, { convolutions = 2 }, { excitation_ratio = 8 },
    { conditional_from = 16 }, { spectral_norm = false }, { discriminator_augment = "none" },
    { diffaugment_policy = ["colour"] },
]
dcgan = [
    { steps = 5 }, { batch_size = 3 }, { latent_size = 7 }, { base_channels = 12 }, { generator_channels = [8, 6] },
    { generator_kernel = 5 }, { generator_activation = "silu" }, { upsampling = "bilinear" }, { first_norm = true },
    { output = "doubling" }, { discriminator_channels = [4, 6] }, { discriminator_strides = [2, 1] },
    { discriminator_kernel = 4 }, { discriminator_activation = "gelu" }, { dropout = 0.0 }, { label_smoothing = 0.3 },
    { augment = "none" }, { ema_images = 1 }, { precision = "bf16" },
    { upsampling = "transposed", generator_kernel = 4 },
]
diffusion = [
    { base_channels = 16 }, { channel_multipliers = [1, 3] }, { num_blocks = 2 }, { attention_sides = [] },
    { patch_size = 1 }, { conditional_from = 8 }, { dropout = 0.3 }, { learning_rate = 0.001 }, { warmup_steps = 3 },
    { sigma_data = 0.4 }, { noise_mean = -0.5 }, { noise_std = 0.7 }, { augment_probability = 0.9 },
    { class_dropout = 0.5 }, { ema_images = 1 }, { precision = "bf16" }, { sampling = "balanced" },
    { condition_start = 0.5, condition_end = 0.75 }, { accumulate = 2 },
    { drawing = { guidance = 2.0 }, class_dropout = 0.2 },
    { drawing = { guidance = 2.0 }, guide = "weak", weak_share = 0.25 },
    { drawing = { guidance = 2.0 }, guide = "weak", weak_share = 0.75 },
]
fastgan = [
    { reconstruction_weight = 0.0 }, { reconstruction_loss = "l2" }, { discriminator_size = 32, size = 32 },
    { reconstruction_size = 16, size = 32 },
]
finetuned_diffusion = [
    { prompts = { AK = "z z", NV = "b c" } }, { resolution = 32 }, { rank = 3 }, { alpha = 1.0 },
    { learning_rate = 0.01 }, { warmup_steps = 3 }, { class_dropout = 0.7 }, { min_snr_gamma = 0.1 },
    { condition_start = 0.5, condition_end = 1.0 },
    { accumulate = 2 },
]
pix2pixhd = [
    { latent_size = 5 }, { base_channels = 8 }, { max_channels = 4 }, { num_downsamplings = 2 }, { num_blocks = 2 },
    { num_enhancers = 1 }, { conditional_from = 16 }, { num_discriminators = 1 }, { num_discriminator_layers = 2 },
    { discriminator_channels = 8 }, { feature_matching_weight = 1.0 }, { diversity_weight = 0.0 },
    { recombine = 0.0 }, { discriminator_augment = "diffaugment" }, { condition_end = 1.0 },
    { sampling = "balanced" }, { num_enhancers = 1, num_enhancer_blocks = 1 },
    { perceptual_weight = 1.0, perceptual = { name = "test_resnet", weights = "scratch", input_size = 32 } },
]
progressive = [
    { latent_size = 7 }, { base_channels = 3 }, { max_channels = 16 }, { shares = [2, 1, 1] }, { fade = 1.0 },
    { loss = "logistic" }, { penalty = 1.0 }, { penalty_every = 2 }, { drift = 0.5 }, { pixel_norm = false },
    { equalised_learning_rate = false }, { minibatch_stddev = false }, { attention_size = 0 },
    { discriminator_augment = "diffaugment" }, { attention_size = 16 },
]
projected_gan = [
    { num_maps = 1 }, { mixing = "channels" }, { discriminator_channels = 4 },
    { backbone = { name = "test_resnet", weights = "scratch", input_size = 48 } }, { mixing = "none" },
]
r3gan = [
    { batch_size = 3 }, { latent_size = 7 }, { expansion = 1 }, { group_width = 8 }, { num_blocks = 2 },
    { patch_size = 2 }, { gamma = 9.0 }, { gamma_final = 9.0 }, { learning_rate_final = 0.9 }, { burn_in_images = 36 },
    { beta2_first = 0.5 },
    { penalty_every = 2 }, { discriminator_augment = "diffaugment" }, { sampling = "balanced" },
    { conditional_from = 8 }, { condition_end = 1.0 }, { precision = "bf16" },
    { channel_base = 512, max_channels = 32 }, { max_channels = 32, channel_base = 256 },
    { discriminator_augment = "diffaugment", diffaugment_policy = ["colour"] },
    { condition_start = 0.9, condition_end = 1.0 },
]
stylegan2 = [
    { latent_size = 7 }, { discriminator_augment = "diffaugment" }, { mapping_layers = 2 }, { base_channels = 80 },
    { max_channels = 6 }, { conditional_from = 16 }, { style_mixing = 0.0 }, { r1_weight = 1.0 }, { r1_every = 1 },
    { path_length_weight = 1.0 }, { path_length_every = 1 }, { deviation_group = 4 },
    { ema_images = 1 }, { precision = "bf16" },
]
""")
"""For each generator values, other than its own, of its options; all of them must draw other images."""
GAN, FASTGAN = CHANGES.pop("of_every_gan"), CHANGES.pop("of_fastgan_and_projected_gan")
for _name in CHANGES:
    CHANGES[_name] += GAN if "diffusion" not in _name else []
    CHANGES[_name] += FASTGAN if _name in ("fastgan", "projected_gan") else []
CHANGES["finetuned_diffusion"].append({"min_snr_gamma": None})
BASES: dict[str, dict[str, Any]] = {
    "progressive": {"shares": (1, 1, 1), "steps": 6, "preview_every": 6},  # steps at each resolution
    "r3gan": {"burn_in_images": 8, "discriminator_augment": "none"},
}


DRAWN = tomllib.loads("""
diffusion = [
    { num_sampling_steps = 4 }, { sigma_min = 0.1 }, { sigma_max = 20.0 }, { rho = 3.0, num_sampling_steps = 4 },
    { clip = false, num_sampling_steps = 4 }, { guidance = 2.0 }, { strength = 0.4 }, { strength = 0.5 },
    { edit = "lesion" }, { edit = "surround" },
]
finetuned_diffusion = [
    { guidance = 1.0 }, { sampler = "ddim" }, { num_sampling_steps = 5 }, { strength = 0.4 },
    { strength = 0.4, num_sampling_steps = 5 }, { edit = "lesion" }, { edit = "surround" },
]
stylegan2 = [{ truncation = 0.5 }]
""")
"""The same for options of drawing, all on one fit."""
GUIDED: dict[str, dict[str, Any]] = {"diffusion": {"class_dropout": 0.2}}


def images_of(name: str, size: int = SIZE, **options: Any) -> bytes:
    """Images of both classes after a tiny fit, before they are rounded."""
    fast = rates(2e-3) if "generator_optimiser" in plugins.load("generators", name).Config.model_fields else {}
    generator = make(name, size=size, **({"precision": "fp32"} | fast | BASES.get(name, {}) | options))
    with TemporaryDirectory() as folder:
        generator.fit(*pictures(size=size), seed=0, folder=Path(folder))
    return drawn_by(generator)


def drawn_by(generator: Any) -> bytes:
    images, labels, seeds = pictures(8)[0], torch.arange(8) % 2, np.arange(8)
    with torch.no_grad(), randomness.reproducible("draw"):
        if not getattr(generator.drawing, "changes", ""):
            return generator.draw(generator.network, labels, seeds).numpy().tobytes()
        masks, edit = bright(images), generator.drawing.edit
        region = None if edit == "whole" else torch.from_numpy((masks > 0) == (edit == "lesion"))[:, None]
        given = _editing.Given(generator._inputs(images), region)
        return generator.edit(generator.network, labels, seeds, given).numpy().tobytes()


@cache
def drawn(name: str, size: int) -> dict[bytes, str]:
    """What was drawn so far, and under which options."""
    return {images_of(name, size): "{}"}


@pytest.mark.parametrize(
    ("name", "change"), [marked(name, change) for name in CHANGES for change in CHANGES[name]], ids=str
)
def test_no_option_changes_nothing(name: str, change: dict[str, Any]):
    known, images = drawn(name, change.get("size", SIZE)), images_of(name, **change)
    assert images not in known, known[images]
    known[images] = str(change)


@pytest.mark.parametrize("name", [marked(name) for name in DRAWN])
def test_one_fit_is_drawn_from_in_every_way(name: str, tmp_path: Path):
    generator, plug = make(name, precision="fp32", **GUIDED.get(name, {})), contracts.generator(name)
    generator.fit(*pictures(), seed=0, folder=tmp_path)
    generator.save(tmp_path / "saved")
    seen = {drawn_by(generator): "{}"}
    for change in DRAWN[name]:
        plug.draw_by(generator, DRAWING.get(name, {}) | change)
        images = drawn_by(generator)
        assert images not in seen, (seen[images], change)
        seen[images] = str(change)
        loaded = plug.load(tmp_path / "saved")
        plug.draw_by(loaded, DRAWING.get(name, {}) | change)
        assert drawn_by(loaded) == images
    assert {*plug.Drawing.model_fields} == {key for change in DRAWN[name] for key in change}


def test_every_generator_that_has_options_of_drawing_is_among_them():
    assert {name for name in plugins.names("generators") if contracts.generator(name).Drawing.model_fields} == {*DRAWN}


@pytest.mark.parametrize(
    ("name", "options", "drawing"),
    [
        ("diffusion", {}, {"guidance": 2.0}),
        ("diffusion", {"classes": ("AK",), "class_dropout": 0.2}, {"guidance": 2.0}),
        ("diffusion", {}, {"num_sampling_steps": 1}),
        ("diffusion", {}, {"truncation": 0.5}),
        ("diffusion", {}, {"strength": 0.0}),
        ("diffusion", {}, {"strength": 1.01}),
        ("diffusion", {}, {"edit": "hair"}),
        ("stylegan2", {}, {"strength": 0.5}),
        ("stylegan2", {}, {"truncation": 1.5}),
        ("dcgan", {}, {"truncation": 0.5}),
        ("noise", {}, {"guidance": 1.0}),
    ],
)
def test_impossible_ways_of_drawing_are_refused(name: str, options: dict[str, Any], drawing: dict[str, Any]):
    with pytest.raises(RecipeError):
        make(name, drawing=drawing, **options)


def test_every_option_of_a_generator_is_among_them():
    for name, changes in CHANGES.items():
        config = plugins.load("generators", name).Config
        missing = (
            {*config.model_fields} - {*_adversary.Options.model_fields} - {key for each in changes for key in each}
        )
        assert missing <= {"weights"}, name


IMPOSSIBLE: dict[str, list[dict[str, Any]]] = tomllib.loads("""
dcgan = [
    { epochs = 3, steps = 3 }, { images = 9, steps = 3 }, { images = 9, epochs = 1 }, { steps = 0 }, { images = 0 },
    { accumulate = 3 }, { condition_start = 0.5, condition_end = 0.2 },
    { sampling = "uniform" }, { discriminator_strides = [2, 2, 2] }, { discriminator_strides = [2, 3] },
    { generator_kernel = 4 }, { generator_channels = [64, 0] }, { upsampling = "cubic" },
    { generator_optimiser = { learning_rat = 1 } },
]
diffusion = [
    { patch_size = 3 }, { channel_multipliers = [] }, { guidance = 2.0 },
    { guide = "stronger" }, { warmup_step = 3 },
]
fastgan = [
    { base_channels = 1 }, { convolutions = 3 }, { excitation_ratio = 2 }, { reconstruction_size = 48 },
    { reconstruction_loss = "lpips" }, { steps = 3, epochs = 3 },
]
progressive = [
    { shares = [1, 0, 1] }, { fade = 1.5 }, { loss = "hinge" }, { attention_size = 48 }, { penalty = -1 },
]
r3gan = [
    { conditional_from = 24 }, { gamma = -1 }, { channel_base = 1 }, { blocks = 2 },
]
stylegan2 = [
    { truncation = 0.5 }, { r1_every = 0 }, { max_channels = 0 }, { style_mixing = -1 },
]
""")
IMPOSSIBLE["dcgan"].append({"images": None, "epochs": None, "steps": None})


@pytest.mark.parametrize(("name", "options"), [(n, options) for n in IMPOSSIBLE for options in IMPOSSIBLE[n]], ids=str)
def test_impossible_options_are_refused(name: str, options: dict[str, Any]):
    with pytest.raises(RecipeError, match=name):
        make(name, **options)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("dcgan", (8, 30, 512)),
        ("diffusion", (8, 30, 512)),
        ("fastgan", (8, 48, 2048)),
        ("noise", (7, 1025)),
        ("pix2pixhd", (8, 20, 2048)),
        ("progressive", (4, 48, 2048)),
        ("r3gan", (4, 24, 1024)),
        ("stylegan2", (8, 30, 72, 512)),
    ],
)
def test_impossible_sizes_are_refused(name: str, sizes: tuple[int, ...]):
    for size in sizes:
        with pytest.raises(RecipeError, match=f"{name} cannot draw images of {size} pixels"):
            make(name, size=size)


DEEP = {"discriminator_channels": (4,) * 6, "discriminator_strides": (2,) * 6}


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("dcgan", {**DEEP, "discriminator_kernel": 4}, "strides"),
        ("diffusion", {"channel_multipliers": (1,) * 5}, "divide 16 pixels by 32"),
        ("diffusion", {"attention_sides": (8, 16)}, "no map has 16 a side.\n.*8, 4 a side"),
        ("diffusion", {"attention_sides": (16,), "patch_size": 1, "size": 80}, "no map has 16 a side"),
        ("diffusion", {"conditional_from": 9}, "no map that knows the class"),
        ("fastgan", {"conditional_from": 32}, "conditional_from"),
        ("pix2pixhd", {"num_downsamplings": 4}, "halve"),
        ("pix2pixhd", {"num_discriminators": 3}, "discriminators"),
        ("pix2pixhd", {"num_enhancers": 3, "size": 64}, "base_channels"),
        ("progressive", {"shares": (1, 2)}, "shares"),
        ("progressive", {"attention_size": 32}, "attention_size"),
        ("projected_gan", {"conditional_from": 32}, "conditional_from"),
        ("stylegan2", {"conditional_from": 17}, "conditional_from"),
    ],
)
def test_options_that_do_not_go_with_the_size_are_refused(name: str, options: dict[str, Any], match: str):
    with pytest.raises(RecipeError, match=match):
        make(name, **options)


def test_an_optimiser_given_in_part_keeps_the_plugins_other_values():
    adam = plugins.configure("generators", "stylegan2", {"generator_optimiser": {"learning_rate": 0.001}})
    assert adam.generator_optimiser.model_dump() == {"name": "adam", "learning_rate": 0.001, "beta1": 0, "beta2": 0.99}
    assert adam.discriminator_optimiser.learning_rate == 0.0025
    assert adam.discriminator_augment == "ada"
