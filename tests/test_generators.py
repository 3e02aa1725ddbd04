"""The contract that every generator keeps, and what is particular to dcgan."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import tiny_latent_diffusion
from moulage import plugins, runs
from moulage import recipe as recipes
from moulage.errors import CheckpointError, CollapsedError, DataError, DivergedError, RecipeError, RunError
from moulage.generators import _learner, _upconv, dcgan

SIZE = 16
TINY = {"base_channels": 8, "generator_channels": (8, 4), "latent_size": 6}
TINY |= {"discriminator_channels": (4, 8), "discriminator_strides": (2, 2)}
TINY_PIX2PIXHD = {"latent_size": 4, "base_channels": 4, "num_downsamplings": 1, "num_blocks": 1}
TINY_PIX2PIXHD |= {"discriminator_channels": 4, "num_discriminators": 2, "num_discriminator_layers": 1}
TINY_STYLEGAN2 = {"base_channels": 64, "max_channels": 8, "latent_size": 6, "mapping_layers": 1}
TINY_STYLEGAN2 |= {"r1_every": 2, "path_length_every": 2, "deviation_group": 2}
TINY_FASTGAN = {"base_channels": 2, "latent_size": 6, "excitation_ratio": 4, "discriminator_size": 16}
TINY_PROJECTED_GAN = {"base_channels": 2, "latent_size": 6, "excitation_ratio": 4, "discriminator_channels": 8}
TINY_PROJECTED_GAN |= {"backbone": {"name": "test_resnet", "weights": "scratch", "input_size": 32}, "num_maps": 2}
TINY_R3GAN = {"channel_base": 64, "max_channels": 16, "num_blocks": 1, "latent_size": 6}
TINY_PROGRESSIVE = {"base_channels": 2, "latent_size": 6, "attention_size": 8}
TINY_DIFFUSION = {"base_channels": 8, "channel_multipliers": (1, 2), "num_blocks": 1, "attention_sides": (8,)}
TINY_DIFFUSION |= {"patch_size": 2, "num_sampling_steps": 2, "learning_rate": 2e-3, "warmup_steps": 0}
TINY_LATENT = {"weights": tiny_latent_diffusion.folder, "prompts": {"AK": "a", "NV": "b c"}, "rank": 2}
TINY_LATENT |= {"num_sampling_steps": 2, "learning_rate": 0.05, "warmup_steps": 0}
SMALL: dict[str, dict[str, Any]] = {
    "dcgan": {"steps": 5, "batch_size": 4, "checkpoint_every": 2, "preview_every": 5, **TINY},
    "fastgan": {"steps": 4, "batch_size": 4, "checkpoint_every": 2, "preview_every": 4, **TINY_FASTGAN},
    "diffusion": {"steps": 4, "batch_size": 4, "checkpoint_every": 2, "preview_every": 4, **TINY_DIFFUSION},
    "finetuned_diffusion": {"steps": 4, "batch_size": 4, "checkpoint_every": 2, "preview_every": 4, **TINY_LATENT},
    "noise": {},
    "projected_gan": {"steps": 4, "batch_size": 4, "checkpoint_every": 2, "preview_every": 4, **TINY_PROJECTED_GAN},
    "r3gan": {"steps": 4, "batch_size": 4, "checkpoint_every": 2, "preview_every": 4, **TINY_R3GAN},
    "progressive": {"steps": 4, "batch_size": 4, "checkpoint_every": 2, "preview_every": 4, **TINY_PROGRESSIVE},
    "stylegan2": {"steps": 4, "batch_size": 4, "checkpoint_every": 2, "preview_every": 4, **TINY_STYLEGAN2},
    "pix2pixhd": {"steps": 4, "batch_size": 4, "checkpoint_every": 2, "preview_every": 4, **TINY_PIX2PIXHD},
}
"""Settings of a fit that takes a second, for each generator; a new generator adds its own."""
STEPS = {
    "finetuned_diffusion": (4, 2),
    "diffusion": (4, 2),
    "r3gan": (4, 2),
    "fastgan": (4, 2),
    "progressive": (4, 2),
    "projected_gan": (4, 2),
    "dcgan": (5, 2),
    "noise": (2, 1),
    "pix2pixhd": (4, 2),
    "stylegan2": (4, 2),
}
"""Steps of that fit on two classes, and steps from one checkpoint to the next; it ends with a checkpoint."""

SLOW = ("diffusion", "fastgan", "finetuned_diffusion", "pix2pixhd", "progressive", "projected_gan")
SLOW += ("stylegan2",)
"""Generators whose smallest fits, or whose packages' imports, take longest; the slow tests have them."""

every_generator = pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in plugins.names("generators")],
)


def make(name: str, classes: tuple[str, ...] = ("AK", "NV"), size: int = SIZE, **options: Any) -> Any:
    module = plugins.load("generators", name)
    small = {key: value() if callable(value) else value for key, value in SMALL[name].items()}
    config = plugins.configure("generators", name, small | options)
    generator = module.Generator(config, classes, size)
    if getattr(module, "NEEDS_MASKS", False):
        fit = generator.fit
        generator.fit = lambda images, *args, **kwargs: fit(images, *args, masks=bright(images), **kwargs)
    return generator


def bright(images: np.ndarray) -> np.ndarray:
    """Masks of images, for generators that need some."""
    return np.where(images[..., 0] > 127, 255, 0).astype(np.uint8)


def pictures(num: int = 9, num_classes: int = 2, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(num)
    return rng.integers(0, 256, (num, size, size, 3), np.uint8), np.arange(num, dtype=np.int64) % num_classes


@every_generator
def test_options_are_documented_and_strict(name: str):
    module = plugins.load("generators", name)
    assert plugins.summary("generators", name)
    assert all(field.description for field in module.Config.model_fields.values())
    with pytest.raises(RecipeError, match="batch_siz"):
        plugins.configure("generators", name, {"batch_siz": 3})


@every_generator
@pytest.mark.parametrize("num_classes", [1, 2])
def test_fit_draws_the_same_images_for_the_same_seeds(name: str, num_classes: int, tmp_path: Path):
    generator = make(name, ("AK", "NV")[:num_classes])
    images, labels = pictures(num_classes=num_classes)
    before, state = images.copy(), torch.get_rng_state()
    generator.fit(images, labels, seed=0, folder=tmp_path)
    many = generator.sample(0, np.arange(40))
    assert many.shape == (40, SIZE, SIZE, 3)
    assert many.dtype == np.uint8
    assert np.array_equal(generator.sample(0, np.array([33, 5])), many[[33, 5]])
    assert not np.array_equal(many[0], many[1])
    if num_classes == 2:
        assert not np.array_equal(generator.sample(1, np.arange(40)), many)
    assert np.array_equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


@every_generator
def test_fit_depends_on_its_seed_alone(name: str, tmp_path: Path):
    drawn = []
    for i, seed in enumerate((0, 0, 1)):
        generator = make(name)
        torch.manual_seed(i)
        generator.fit(*pictures(), seed=seed, folder=tmp_path / str(i))
        drawn.append(generator.sample(0, np.arange(3)))
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


class Interrupt(Exception):
    """Stands for a kill."""


@every_generator
def test_an_interrupted_fit_resumes_exactly(name: str, tmp_path: Path):
    whole = make(name)
    whole.fit(*pictures(), seed=3, folder=tmp_path / "whole")
    expected = whole.sample(1, np.arange(4))
    num_steps, every = STEPS[name]
    for stop in {1, min(every + 1, num_steps), num_steps}:  # before a checkpoint, past one, at the end
        folder = tmp_path / str(stop)

        def interrupt(done: int, total: int, note: str, stop: int = stop) -> None:
            if done == stop:
                raise Interrupt

        with pytest.raises(Interrupt):
            make(name).fit(*pictures(), seed=3, folder=folder, progress=interrupt)
        again, done = make(name), []
        again.fit(*pictures(), seed=3, folder=folder, progress=lambda d, t, n, done=done: done.append((d, t)))
        assert np.array_equal(again.sample(1, np.arange(4)), expected)
        first = stop - stop % every + 1 if stop < num_steps else num_steps + 1
        assert [d for d, _ in done] == list(range(first, num_steps + 1))
        for mine, theirs in zip(runs.read_log(folder), runs.read_log(tmp_path / "whole"), strict=True):
            assert (mine["step"], mine["epoch"]) == (theirs["step"], theirs["epoch"])
            assert {k: v for k, v in mine.items() if "loss" in k} == {k: v for k, v in theirs.items() if "loss" in k}


@every_generator
def test_a_fit_with_other_settings_does_not_go_on(name: str, tmp_path: Path):
    make(name).fit(*pictures(), seed=3, folder=tmp_path)
    with pytest.raises(CheckpointError):
        make(name).fit(*pictures(), seed=4, folder=tmp_path)
    with pytest.raises(CheckpointError):
        make(name).fit(*pictures(11), seed=3, folder=tmp_path)


@every_generator
def test_fit_leaves_log_previews_and_weights(name: str, tmp_path: Path):
    generator = make(name)
    generator.fit(*pictures(), seed=0, folder=tmp_path)
    last = runs.read_log(tmp_path)[-1]
    assert {"step", "epoch", "images_per_second", "seconds"} <= set(last)
    assert last["step"] == STEPS[name][0]
    assert list((tmp_path / "previews").glob("*.png"))
    assert list((tmp_path / "tensorboard").iterdir())
    generator.save(tmp_path / "saved")
    state = torch.get_rng_state()
    loaded = plugins.load("generators", name).Generator.load(tmp_path / "saved")
    assert torch.equal(torch.get_rng_state(), state)
    assert (loaded.classes, loaded.size) == (("AK", "NV"), SIZE)
    assert np.array_equal(loaded.sample(1, np.arange(3)), generator.sample(1, np.arange(3)))


@every_generator
def test_what_was_not_fitted_cannot_draw(name: str, tmp_path: Path):
    with pytest.raises(RunError):
        make(name).sample(0, np.arange(2))
    with pytest.raises(RunError):
        make(name).save(tmp_path)
    with pytest.raises(RunError):
        plugins.load("generators", name).Generator.load(tmp_path)


@every_generator
def test_wrong_images_are_refused_before_any_work(name: str, tmp_path: Path):
    images, labels = pictures()
    wrong = {
        "shape": (images[:, :8], labels),
        "float": (images / 255, labels),
        "Labels": (images, labels + 1),
        "NV": (images, (labels == 8).astype(np.int64)),
        "AK": (images[:0], labels[:0]),
    }
    for message, (some, targets) in wrong.items():
        with pytest.raises(DataError, match=message):
            make(name).fit(some, targets, seed=0, folder=tmp_path)
    assert not any(tmp_path.iterdir())


@every_generator
def test_the_estimate_counts_steps_and_leaves_the_network_alone(name: str, tmp_path: Path):
    generator = make(name)
    generator.fit(*pictures(), seed=0, folder=tmp_path)
    before = generator.sample(0, np.arange(2))
    num_steps, seconds = generator.steps_and_seconds(100)
    assert num_steps == STEPS[name][0]
    assert 0 < seconds < 10
    assert np.array_equal(generator.sample(0, np.arange(2)), before)


# dcgan


def test_dcgan_draws_each_class_in_its_own_colour(tmp_path: Path):
    images = np.random.default_rng(0).integers(60, 120, (24, SIZE, SIZE, 3)).astype(np.uint8)
    labels = np.arange(24, dtype=np.int64) % 2
    images[labels == 0, :, :, 0] += 100
    images[labels == 1, :, :, 2] += 100
    learn = {"learning_rate": 2e-3}
    larger = {"base_channels": 16, "generator_channels": (16, 8), "discriminator_channels": (8, 16), "ema_decay": 0.95}
    run = {"steps": 100, "batch_size": 8, "checkpoint_every": 100, "preview_every": 100}
    generator = make("dcgan", **run, **larger, generator_optimiser=learn, discriminator_optimiser=learn)
    generator.fit(images, labels, seed=0, folder=tmp_path)
    for label, channel in ((0, 0), (1, 2)):
        mean = generator.sample(label, np.arange(32)).mean((0, 1, 2))
        assert mean.argmax() == channel
        assert mean[channel] - np.delete(mean, channel).max() > 50


def test_dcgan_defaults_are_the_thesis_at_8_49_gflop_an_image_and_step():
    config = dcgan.Config(augment="none")
    game = dcgan.Game(config, 1, 64)
    for layer in game.generator.modules():
        if isinstance(layer, _upconv.UpConv):
            layer.fused = False
    with FlopCounterMode(display=False) as counter:
        game.step(torch.zeros(2, 3, 64, 64), torch.zeros(2, dtype=torch.long), 1, torch.Generator())
    assert counter.get_total_flops() / 2e9 == pytest.approx(8.49, rel=0.03)
    assert game.generator.dense.out_features == 4 * 4 * 256
    assert dcgan.Config().num_steps(867) == 27094


@pytest.mark.parametrize("size", [1, 4, 7])
def test_dcgan_fused_convolution_equals_upsampling_and_convolution(size: int):
    layer = dcgan.initialise(_upconv.UpConv(5, 4, 3, "nearest"))
    x = torch.randn(2, 5, size, size, generator=torch.Generator().manual_seed(size))
    plain = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), layer.weight, padding=1)
    assert layer.fused
    torch.testing.assert_close(layer(x), plain, atol=2e-6, rtol=0)


@pytest.mark.parametrize("size", [16, 32, 40, 48, 64, 72, 88, 128])
@pytest.mark.parametrize("upsampling", ["nearest", "bilinear", "transposed"])
def test_dcgan_reaches_every_size(size: int, upsampling: str):
    config = dcgan.Config(upsampling=upsampling, **TINY)
    network = dcgan.Synthesis(config, 1, size)
    assert network(torch.randn(2, 6), torch.zeros(2, dtype=torch.long)).shape == (2, 3, size, size)
    assert dcgan.Discriminator(config, 1, size)(torch.zeros(2, 3, size, size), torch.zeros(2)).shape == (2,)


def test_dcgan_can_be_that_of_bisla_layer_by_layer():
    recipe = recipes.load(Path(__file__).parents[1] / "studies" / "bisla2019.toml")
    config = plugins.configure("generators", "dcgan", recipe.generators["melanoma"].options)
    generator, discriminator = dcgan.Synthesis(config, 1, 256), dcgan.Discriminator(config, 1, 256)
    assert isinstance(generator.layers[0], nn.BatchNorm2d)
    assert generator.dense.out_features == 256 * 4 * 4  # a 4 x 4 transposed convolution of one pixel
    seen: dict[str, list[tuple[int, ...]]] = {"up": [], "down": []}
    for module in (*generator.layers, *discriminator.layers):
        if isinstance(module, _upconv.UpConv):
            assert (module.kernel, module.upsampling) == (4, "transposed")
            module.register_forward_hook(lambda *args: seen["up"].append(tuple(args[2].shape[1:])))
        elif isinstance(module, nn.Conv2d):
            assert module.kernel_size == (4, 4)
            module.register_forward_hook(lambda *args: seen["down"].append(tuple(args[2].shape[1:])))
        else:
            assert not isinstance(module, nn.Dropout) or not module.p
    labels = torch.zeros(2, dtype=torch.long)
    discriminator(generator(torch.randn(2, config.latent_size), labels), labels)
    widths, sides = [128, 64, 32, 16, 8, 3], [8, 16, 32, 64, 128, 256]
    assert seen["up"] == [(c, s, s) for c, s in zip(widths, sides, strict=True)]
    widths, sides = [16, 32, 64, 128, 256, 512], [128, 64, 32, 16, 8, 4]
    assert seen["down"] == [(c, s, s) for c, s in zip(widths, sides, strict=True)]
    assert discriminator.head.in_features == 512 * 4 * 4  # a 4 x 4 convolution to one number


CHANGES: list[dict[str, Any]] = [
    {"steps": 4},
    {"batch_size": 3},
    {"latent_size": 7},
    {"base_channels": 12},
    {"generator_channels": (8, 6)},
    {"generator_kernel": 5},
    {"generator_activation": "silu"},
    {"upsampling": "bilinear"},
    {"upsampling": "transposed", "generator_kernel": 4},
    {"first_norm": True},
    {"output": "doubling"},
    {"discriminator_channels": (4, 6)},
    {"discriminator_strides": (2, 1)},
    {"discriminator_kernel": 4},
    {"discriminator_activation": "gelu"},
    {"dropout": 0.0},
    {"generator_optimiser": {"learning_rate": 1e-3}},
    {"discriminator_optimiser": {"name": "sgd", "learning_rate": 0.1}},
    {"label_smoothing": 0.3},
    {"augment": "none"},
    {"ema_decay": 0.1},
    {"precision": "bf16"},
]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    generator = make("dcgan", precision="fp32", **FAST)
    generator.fit(*pictures(), seed=0, folder=tmp_path_factory.mktemp("reference"))
    return generator.sample(0, np.arange(4))


FAST = {"generator_optimiser": {"learning_rate": 2e-3}, "discriminator_optimiser": {"learning_rate": 2e-3}}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_dcgan_has_no_option_that_changes_nothing(change: dict[str, Any], reference: np.ndarray, tmp_path: Path):
    generator = make("dcgan", **({"precision": "fp32"} | FAST | change))
    generator.fit(*pictures(), seed=0, folder=tmp_path)
    assert not np.array_equal(generator.sample(0, np.arange(4)), reference)


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 3, "steps": 3},
        {"epochs": None},
        {"steps": 0},
        {"discriminator_strides": (2, 2)},
        {"discriminator_strides": (2, 2, 3, 1, 1)},
        {"generator_kernel": 4},
        {"generator_channels": (64, 0)},
        {"upsampling": "cubic"},
        {"generator_optimiser": {"learning_rat": 1}},
    ],
)
def test_dcgan_refuses_impossible_options(options: dict[str, Any]):
    with pytest.raises(RecipeError, match="dcgan"):
        plugins.configure("generators", "dcgan", options)


def test_dcgan_refuses_impossible_sizes():
    for size in (8, 30, 512):
        with pytest.raises(RecipeError, match=str(size)):
            make("dcgan", size=size)
    deep = {"discriminator_channels": (4,) * 6, "discriminator_strides": (2,) * 6, "discriminator_kernel": 4}
    with pytest.raises(RecipeError, match="strides"):
        make("dcgan", **deep)


def test_dcgan_stops_where_a_loss_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    step = dcgan.Game.step
    monkeypatch.setattr(dcgan.Game, "step", lambda *args: step(*args) | {"loss_g": torch.tensor(float("nan"))})
    with pytest.raises(DivergedError, match="step 2"):
        make("dcgan").fit(*pictures(), seed=0, folder=tmp_path)
    assert not list(tmp_path.glob("checkpoint*"))


def test_dcgan_stops_where_all_previews_are_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_learner, "CHECK_COLLAPSE_FROM", 1)
    monkeypatch.setattr(_learner, "latents", lambda seeds, num: torch.zeros(len(seeds), num))
    with pytest.raises(CollapsedError, match="step 5"):
        make("dcgan").fit(*pictures(), seed=0, folder=tmp_path)
