"""EDM's formulas against closed forms, and what is particular to the generator ``diffusion``."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_generators
from moulage import plugins
from moulage.generators import diffusion
from moulage.generators._unet import Attention, UNet
from tiny_generators import SIZE

pytestmark = pytest.mark.slow

TINY: dict[str, Any] = {"attention_sides": (4,), "dropout": 0.0, "precision": "fp32"}


def configure(**options: Any) -> diffusion.Config:
    return tiny_generators.configure("diffusion", **(TINY | options))


def fitted(folder: Path, **options: Any) -> diffusion.Generator:
    generator = tiny_generators.make("diffusion", **(TINY | options))
    generator.fit(*tiny_generators.pictures(), seed=0, folder=folder)
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
        sigmas = diffusion.noise_levels(diffusion.Drawing(num_sampling_steps=num_sampling_steps), 64)
        drawn = diffusion.heun(gaussian_denoiser(mean, std), noise, sigmas)
        errors.append(float((drawn - exact).abs().max()))
    assert errors[0] < 0.08
    assert errors[0] > 3.2 * errors[1] > 3.2 * 3.2 * errors[2]


def test_noise_levels_follow_the_schedule():
    sigmas = diffusion.noise_levels(diffusion.Drawing(num_sampling_steps=3, sigma_min=0.01, sigma_max=10, rho=2), 64)
    assert sigmas == pytest.approx([10, ((10**0.5 + 0.01**0.5) / 2) ** 2, 0.01, 0])


def test_noise_grows_with_the_size_of_images():
    """A mean over 2 x 2 pixels halves the noise and leaves what an image shows: at twice the side twice the noise."""
    for size, times in ((32, 1), (64, 1), (128, 2), (224, 3.5), (256, 4)):
        assert diffusion.noise_levels(diffusion.Drawing(), size)[0] == pytest.approx(80 * times)
        game = diffusion.Game(configure(noise_std=0.01, patch_size=4), 1, size)
        seen: list[torch.Tensor] = []
        game.network.forward = lambda x, sigma, *others, seen=seen: seen.append(sigma) or x
        game.loss(torch.zeros(2, 3, size, size), torch.zeros(2, dtype=torch.long), torch.Generator().manual_seed(0))
        assert float(seen[0].log().mean()) == pytest.approx(-1.2 + np.log(times), abs=0.05)
    assert diffusion.noise_levels(diffusion.Drawing(sigma_max=80), 256)[0] == pytest.approx(80)
    assert diffusion.Game(configure(noise_mean=-1.2), 1, SIZE).config.noise_mean == -1.2


# The network


@pytest.mark.parametrize("size", range(16, 257, 8))
def test_every_size_has_attention_at_a_side_that_occurs(size: int):
    """As many maps have attention as the options say, on the way down and up, and in the middle of the smallest."""
    config = plugins.configure("generators", "diffusion", {"base_channels": 4, "num_blocks": 1})
    diffusion.Generator(config, ("AK",), size)
    with torch.device("meta"):
        unet = UNet(config, 1, size, 9)
    [side], sides = config.at(size).attention_sides, config.sides(size)
    assert side in sides
    assert side <= 24 or side == sides[-1]
    attending = sum(isinstance(module, Attention) for module in unet.modules())
    assert attending == 3 + 2 * (side == sides[-1])


def test_attention_is_where_papers_have_it():
    config = plugins.configure("generators", "diffusion", {})
    sides = {size: config.at(size).attention_sides for size in (32, 64, 96, 256)}
    assert sides == {32: (16,), 64: (16,), 96: (24,), 256: (32,)}
    none = plugins.configure("generators", "diffusion", {"attention_sides": [], "base_channels": 4})
    assert not any(isinstance(module, Attention) for module in UNet(none, 1, 64, 9).modules())


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


def test_augmentation_does_not_mind_the_precision_around_it():
    """Under autocast a grid of 256 pixels would be off by up to 0.7 of them, and the network told something else."""
    images = normal(16, 3, 256, 256)
    plain, told = diffusion.augmented(images, 0.5, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        moved, also_told = diffusion.augmented(images, 0.5, torch.Generator().manual_seed(0))
    assert torch.equal(moved, plain)
    assert torch.equal(also_told, told)


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
    network = denoiser(class_dropout=0.1)
    plain = torch.zeros(2, 9)
    known, free = (network(x, sigma, labels, keep, plain) for keep in (torch.ones(2), torch.zeros(2)))
    guided = network.guided(x, sigma, labels, diffusion.Drawing(guidance=3, clip=False))
    torch.testing.assert_close(guided, free + 3 * (known - free))
    clipped = network.guided(100 * x, sigma, labels, diffusion.Drawing(guidance=3))
    assert clipped.abs().max() == 1


def test_the_weak_network_is_an_earlier_average(tmp_path: Path):
    generator = fitted(tmp_path / "long", guide="weak", weak_share=0.5, drawing={"guidance": 2})
    early = fitted(tmp_path / "early", steps=2)
    assert generator.network.weak_known
    for name, value in early.network.unet.state_dict().items():
        assert torch.equal(generator.network.weak.state_dict()[name], value), name
    plain = fitted(tmp_path / "plain")
    assert not np.array_equal(generator.sample(0, np.arange(3)), plain.sample(0, np.arange(3)))
    generator.save(tmp_path / "saved")
    loaded = diffusion.Generator.load(tmp_path / "saved")
    loaded.drawing = generator.drawing
    assert np.array_equal(loaded.sample(1, np.arange(3)), generator.sample(1, np.arange(3)))
