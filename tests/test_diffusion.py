"""EDM's formulas against closed forms, and what is particular to the generator ``diffusion``."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moulage import plugins
from moulage.errors import RecipeError
from moulage.generators import diffusion

pytestmark = pytest.mark.slow

SIZE = 16
TINY: dict[str, Any] = {
    "steps": 4,
    "batch_size": 4,
    "checkpoint_every": 4,
    "preview_every": 4,
    "base_channels": 8,
    "channel_multipliers": (1, 2),
    "num_blocks": 1,
    "attention_sides": (4,),
    "patch_size": 2,
    "num_sampling_steps": 2,
    "learning_rate": 3e-3,
    "warmup_steps": 0,
    "dropout": 0.0,
    "precision": "fp32",
}


def configure(**options: Any) -> diffusion.Config:
    return plugins.configure("generators", "diffusion", TINY | options)


def fitted(folder: Path, classes: tuple[str, ...] = ("AK", "NV"), **options: Any) -> diffusion.Generator:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (9, SIZE, SIZE, 3), np.uint8), np.arange(9, dtype=np.int64) % len(classes)
    generator = diffusion.Generator(configure(**options), classes, SIZE)
    generator.fit(images, labels, seed=0, folder=folder)
    return generator


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def denoiser(num_classes: int = 2, **options: Any) -> diffusion.Denoiser:
    """One whose output layer is not zero, as it is at the start."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = diffusion.Denoiser(configure(**options), num_classes, SIZE).eval()
        for weight in network.parameters():
            torch.nn.init.normal_(weight, std=0.1)
    return network


# The formulas


def gaussian_denoiser(mean: float, std: float):
    """The ideal denoiser of data that are normal in every pixel: the posterior mean."""
    return lambda x, sigma: (std**2 * x + sigma**2 * mean) / (std**2 + sigma**2)


def test_heun_solves_the_flow_of_gaussian_data_with_second_order():
    mean, std, noise = 0.3, 0.4, normal(4, 3, 2, 2)
    exact = mean + (noise * 80 - mean) * std / np.sqrt(std**2 + 80**2)
    errors = []
    for num_sampling_steps in (18, 36, 72):
        sigmas = diffusion.noise_levels(configure(num_sampling_steps=num_sampling_steps))
        drawn = diffusion.heun(gaussian_denoiser(mean, std), noise, sigmas)
        errors.append(float((drawn - exact).abs().max()))
    assert errors[0] < 0.08
    assert errors[0] > 3.2 * errors[1] > 3.2 * 3.2 * errors[2]


def test_noise_levels_follow_the_schedule():
    sigmas = diffusion.noise_levels(configure(num_sampling_steps=3, sigma_min=0.01, sigma_max=10, rho=2))
    assert sigmas == pytest.approx([10, ((10**0.5 + 0.01**0.5) / 2) ** 2, 0.01, 0])


def test_the_network_sees_unit_variance_and_its_target_has_unit_variance():
    network, sigma = denoiser(), torch.tensor([0.01, 0.5, 3, 80])
    seen: list[torch.Tensor] = []
    network.unet.forward = lambda x, *others: seen.extend((x, *others)) or torch.ones_like(x)
    clean, noise = 0.5 * normal(4, 3, 64, 64), normal(4, 3, 64, 64, seed=1)
    x = clean + sigma[:, None, None, None] * noise
    denoised = network(x, sigma, torch.zeros(4), torch.ones(4), torch.zeros(4, 9))
    assert seen[0].std((1, 2, 3)).numpy() == pytest.approx(np.ones(4), abs=0.03)
    assert seen[1].numpy() == pytest.approx(np.log(sigma.numpy()) / 4)
    skip = denoised - x  # (c_skip - 1) x + c_out
    c_skip = 0.25 / (sigma**2 + 0.25)
    c_out = (skip - (c_skip - 1)[:, None, None, None] * x).mean((1, 2, 3))
    target = (clean - c_skip[:, None, None, None] * x) / c_out[:, None, None, None]
    assert target.std((1, 2, 3)).numpy() == pytest.approx(np.ones(4), abs=0.03)


def test_the_loss_of_a_network_that_says_zero_is_one_at_every_noise_level():
    for noise_mean in (-4.0, 0.0, 4.0):
        game = diffusion.Game(configure(noise_mean=noise_mean, noise_std=0.1, augment_probability=0), 1, SIZE)
        game.network.unet.forward = lambda x, *others: torch.zeros_like(x)
        images = 0.5 * normal(64, 3, SIZE, SIZE)
        loss = game.loss(images, torch.zeros(64, dtype=torch.long), torch.Generator().manual_seed(0))
        assert float(loss) == pytest.approx(1, abs=0.03)


def test_augmentation_tells_what_it_did():
    images = normal(400, 3, 8, 8)
    moved, told = diffusion.augmented(images, 0.3, torch.Generator().manual_seed(0))
    alone = told.eq(0).all(1)
    assert 5 < alone.sum() < 100  # 0.7^4 * 0.85^2 * ... of 400, and no other
    assert torch.equal(moved[alone], images[alone])
    assert (moved[~alone] - images[~alone]).abs().amax((1, 2, 3)).min() > 0.01
    for column, axis in ((0, 3), (1, 2)):
        only = told[:, column].eq(1) & told.ne(0).sum(1).eq(1)
        assert only.any()
        torch.testing.assert_close(moved[only], images[only].flip(axis), atol=1e-5, rtol=0)
    same, none = diffusion.augmented(images, 0.0, torch.Generator())
    assert same is images
    assert not none.any()


def test_augmentation_turns_by_the_angle_it_tells():
    ramp = torch.linspace(-1, 1, 33)[None, None, None, :].expand(300, 3, 33, 33)
    moved, told = diffusion.augmented(ramp, 0.3, torch.Generator().manual_seed(1))
    only = told[:, [0, 1, 2, 5, 6, 7, 8]].eq(0).all(1) & told[:, 3].ne(0)
    assert only.any()
    slope_x = (moved[only, 0, 16, 20] - moved[only, 0, 16, 12]) / 0.5
    torch.testing.assert_close(slope_x, told[only, 3] + 1, atol=1e-3, rtol=0)


# Condition and guidance


def test_a_hidden_class_does_not_count():
    network, x, sigma = denoiser(), normal(2, 3, SIZE, SIZE), torch.ones(2)
    first, second, plain = torch.zeros(2, dtype=torch.long), torch.ones(2, dtype=torch.long), torch.zeros(2, 9)
    shown = [network(x, sigma, labels, torch.ones(2), plain) for labels in (first, second)]
    hidden = [network(x, sigma, labels, torch.zeros(2), plain) for labels in (first, second)]
    assert not torch.equal(*shown)
    assert torch.equal(*hidden)


@pytest.mark.parametrize(("conditional_from", "counts"), [(0, True), (8, True), (9, False)])
def test_small_maps_take_no_class(conditional_from: int, counts: bool):
    network, x = denoiser(conditional_from=conditional_from), normal(2, 3, SIZE, SIZE)
    drawn = [network(x, torch.ones(2), torch.full((2,), i), torch.ones(2), torch.zeros(2, 9)) for i in (0, 1)]
    assert torch.equal(*drawn) != counts


def test_guidance_moves_away_from_the_worse_denoiser():
    x, sigma, labels = normal(2, 3, SIZE, SIZE), torch.ones(2), torch.zeros(2, dtype=torch.long)
    network = denoiser(guidance=3, class_dropout=0.1, clip=False)
    plain = torch.zeros(2, 9)
    known, free = (network(x, sigma, labels, keep, plain) for keep in (torch.ones(2), torch.zeros(2)))
    torch.testing.assert_close(network.guided(x, sigma, labels), free + 3 * (known - free))
    clipped = denoiser(guidance=3, class_dropout=0.1).guided(100 * x, sigma, labels)
    assert clipped.abs().max() == 1


def test_the_weak_network_is_an_earlier_average(tmp_path: Path):
    generator = fitted(tmp_path / "long", guide="weak", weak_share=0.5, guidance=2)
    early = fitted(tmp_path / "early", steps=2)
    assert generator.network.weak_known
    for name, value in early.network.unet.state_dict().items():
        assert torch.equal(generator.network.weak.state_dict()[name], value), name
    plain = fitted(tmp_path / "plain")
    assert not np.array_equal(generator.sample(0, np.arange(3)), plain.sample(0, np.arange(3)))
    generator.save(tmp_path / "saved")
    loaded = diffusion.Generator.load(tmp_path / "saved")
    assert np.array_equal(loaded.sample(1, np.arange(3)), generator.sample(1, np.arange(3)))


# The generator


@pytest.mark.slow
def test_diffusion_draws_each_class_in_its_own_colour(tmp_path: Path):
    images = np.random.default_rng(0).integers(60, 120, (24, SIZE, SIZE, 3)).astype(np.uint8)
    labels = np.arange(24, dtype=np.int64) % 2
    images[labels == 0, :, :, 0] += 100
    images[labels == 1, :, :, 2] += 100
    run = {"steps": 120, "batch_size": 8, "checkpoint_every": 120, "preview_every": 120, "ema_decay": 0.95}
    generator = diffusion.Generator(configure(**run, num_sampling_steps=8), ("AK", "NV"), SIZE)
    generator.fit(images, labels, seed=0, folder=tmp_path)
    for label, channel in ((0, 0), (1, 2)):
        mean = generator.sample(label, np.arange(16)).mean((0, 1, 2))
        assert mean.argmax() == channel
        assert mean[channel] - np.delete(mean, channel).max() > 50


GUIDED = {"guidance": 2.0, "class_dropout": 0.2}
CHANGES: list[dict[str, Any]] = [
    {"base_channels": 16},
    {"channel_multipliers": (1, 3)},
    {"num_blocks": 2},
    {"attention_sides": ()},
    {"patch_size": 1},
    {"conditional_from": 8},
    {"dropout": 0.3},
    {"learning_rate": 1e-3},
    {"warmup_steps": 3},
    {"sigma_data": 0.4},
    {"noise_mean": -0.5},
    {"noise_std": 0.7},
    {"augment_probability": 0.9},
    {"num_sampling_steps": 4},
    {"sigma_min": 0.1},
    {"sigma_max": 20.0},
    {"rho": 3.0, "num_sampling_steps": 4},
    {"clip": False, "num_sampling_steps": 4},
    {"class_dropout": 0.5},
    GUIDED,
    {"guidance": 2.0, "guide": "weak", "weak_share": 0.25},
    {"guidance": 2.0, "guide": "weak", "weak_share": 0.75},
    {"accumulate": 2},
    {"ema_decay": 0.1},
    {"precision": "bf16"},
    {"sampling": "balanced"},
    {"condition_start": 0.5, "condition_end": 0.75},
]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return {"{}": fitted(tmp_path_factory.mktemp("reference")).sample(0, np.arange(2)).tobytes()}


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: "-".join(change))
def test_diffusion_has_no_option_that_changes_nothing(change: dict[str, Any], drawn: dict[str, bytes], tmp_path: Path):
    images = fitted(tmp_path, **change).sample(0, np.arange(2)).tobytes()
    assert images not in drawn.values(), [other for other, same in drawn.items() if same == images]
    drawn[str(change)] = images


@pytest.mark.parametrize(
    "options",
    [
        {"guidance": 2.0},
        {"patch_size": 3},
        {"channel_multipliers": ()},
        {"num_sampling_steps": 1},
        {"guide": "stronger"},
        {"warmup_step": 3},
    ],
)
def test_diffusion_refuses_impossible_options(options: dict[str, Any]):
    with pytest.raises(RecipeError, match="diffusion"):
        plugins.configure("generators", "diffusion", options)


def test_diffusion_refuses_what_the_network_cannot_do():
    for size in (8, 30, 512):
        with pytest.raises(RecipeError, match=str(size)):
            diffusion.Generator(configure(), ("AK",), size)
    with pytest.raises(RecipeError, match="divide 16 pixels by 32"):
        diffusion.Generator(configure(channel_multipliers=(1,) * 5), ("AK",), 16)
    with pytest.raises(RecipeError, match="one class"):
        diffusion.Generator(configure(**GUIDED), ("AK",), 16)
