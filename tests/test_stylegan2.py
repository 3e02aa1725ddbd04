"""stylegan2: its parts against the papers' definitions, its options, what it can learn."""

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from torch import Tensor, nn
from torch.nn import functional as F

from moulage import monitoring, randomness
from moulage.generators import _stylegan2 as networks
from moulage.generators import stylegan2
from moulage.generators._adversary import gradient_penalty
from moulage.generators.stylegan2 import Game, PathLength
from tiny_generators import configure, make

TAPS = np.array([1.0, 3, 3, 1]) / 8
KERNEL = np.outer(TAPS, TAPS)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=rng(seed))


def game(num_classes: int = 2, size: int = 16, **options: Any) -> Game:
    with randomness.reproducible("test"):
        return Game(configure("stylegan2", **({"precision": "fp32"} | options)).at(size), num_classes, size)


def filtered(image: np.ndarray, padding: int, gain: float = 1.0) -> np.ndarray:
    return convolve2d(np.pad(image, padding), gain * KERNEL, mode="valid")


# Filters and convolutions


@pytest.mark.parametrize(("padding", "stride", "gain"), [(1, 1, 4.0), (2, 1, 1.0), (1, 2, 1.0)])
def test_blur_is_the_filter_of_each_channel(padding: int, stride: int, gain: float):
    x = normal(2, 3, 8, 8)
    expected = np.array([[filtered(c, padding, gain)[::stride, ::stride] for c in image] for image in x.numpy()])
    np.testing.assert_allclose(networks.Blur(3, padding, stride, gain)(x).numpy(), expected, atol=1e-6)


def test_doubling_of_images_is_the_filter_with_repeated_edges():
    image = normal(5, 5).numpy()
    spread = np.zeros((14, 14))
    spread[::2, ::2] = np.pad(image, 1, mode="edge")
    expected = filtered(spread, 1, gain=4)[1:-2, 1:-2][:10, :10]
    doubled = F.interpolate(torch.from_numpy(image)[None, None], scale_factor=2, mode="bilinear")[0, 0]
    np.testing.assert_allclose(doubled.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("kernel", "up"), [(1, False), (3, False), (3, True)])
def test_modulated_convolution_is_that_of_each_image_with_its_own_weights(kernel: int, up: bool):
    layer = networks.ModulatedConv(5, 4, kernel, 6, up=up)
    x, w = normal(3, 5, 7, 7), normal(3, 6, seed=1)
    maps, factor = layer(x, w)
    assert factor.shape == (3, 4, 1, 1)
    for image, style, out in zip(x, layer.style(w), maps * factor, strict=True):
        weight = layer.weight * style[None, :, None, None]  # eq. 1
        weight = weight / weight.square().sum((1, 2, 3), keepdim=True).sqrt()  # eq. 3
        if up:
            wide = F.conv_transpose2d(image[None], weight.transpose(0, 1), stride=2)[0].detach().numpy()
            expected = torch.tensor(np.array([filtered(c, 1, gain=4) for c in wide]))
        else:
            expected = F.conv2d(image[None], weight, padding=kernel // 2)[0]
        assert out.shape[1:] == ((14, 14) if up else (7, 7))
        torch.testing.assert_close(out, expected.to(out), atol=1e-5, rtol=1e-4)


def test_demodulated_maps_have_unit_variance_whatever_the_style():
    layer = networks.ModulatedConv(32, 16, 3, 8)
    w = normal(4, 8, seed=1) * torch.tensor([0.1, 1, 10, 100])[:, None]
    maps, factor = layer(normal(4, 32, 40, 40), w)
    variance = (maps * factor)[:, :, 1:-1, 1:-1].var((2, 3)).mean(1)
    assert variance.tolist() == pytest.approx([1] * 4, abs=0.1)


def test_mean_squares_stay_at_one_at_the_start():
    with randomness.reproducible("test"), torch.no_grad():
        config = stylegan2.Config(base_channels=256, max_channels=64, latent_size=64)
        w = networks.Mapping(config, 2)(normal(64, 64), torch.zeros(64).long())
        assert 0.4 < float(w.square().mean()) < 2.5  # eight layers, one class
        x, w = normal(8, 64, 24, 24), w[:8]
        for _ in range(3):
            x = networks.Layer(64, 64, 64, up=False)(x, w, torch.zeros(()))
            assert float(x.square().mean()) == pytest.approx(1, rel=0.5)
        x = normal(4, 32, 32, 32)
        for _ in range(3):
            x = F.leaky_relu(networks.Conv(32, 32, 3, gain=networks.GAIN)(x), 0.2)
            assert float(x[:, :, 1:-1, 1:-1].square().mean()) == pytest.approx(1, rel=0.5)


def test_layer_adds_noise_and_bias_before_the_activation_with_its_gain():
    layer = networks.Layer(5, 4, 6, up=False)
    nn.init.constant_(layer.noise_strength, 0.7)
    nn.init.normal_(layer.bias, generator=rng(2))
    x, w, noise = normal(3, 5, 7, 7), normal(3, 6, seed=1), normal(3, 1, 7, 7, seed=3)
    maps, factor = layer.conv(x, w)
    expected = math.sqrt(2) * F.leaky_relu(maps * factor + 0.7 * noise + layer.bias, 0.2)
    torch.testing.assert_close(layer(x, w, noise), expected)


def test_deviation_is_that_of_every_group():
    x = normal(6, 3, 4, 4)
    ours = networks.deviation(x, 3)
    assert ours.shape == (6, 1, 4, 4)
    for first in (0, 1):  # images that are 2 apart are one group
        expected = x[first::2].numpy().std(0).mean()
        np.testing.assert_allclose(ours[first::2].numpy(), np.full((3, 1, 4, 4), expected), rtol=1e-5)
    np.testing.assert_allclose(networks.deviation(x, 4)[0, 0, 0, 0], x.numpy().std(0).mean(), rtol=1e-5)


# Regularisation


def test_path_length_of_a_linear_generator_is_that_of_its_transpose():
    matrices, w = normal(2, 5, 3 * 4 * 4), normal(6, 2, 5, seed=1).requires_grad_()
    images = torch.einsum("bld,ldp->bp", w, matrices).view(6, 3, 4, 4)
    penalty = PathLength()
    penalty.mean.fill_(0.5)
    value = penalty(images, w, rng(4))
    y = torch.randn(6, 3, 4, 4, generator=rng(4)).flatten(1) / 4
    lengths = torch.einsum("bp,ldp->bld", y, matrices).square().sum(2).mean(1).sqrt()
    mean = 0.5 + 0.01 * (lengths.mean() - 0.5)
    torch.testing.assert_close(penalty.mean, mean)
    torch.testing.assert_close(value, (lengths - mean).square().mean())


def test_r1_joins_the_loss_at_its_steps_and_counts_as_many_times():
    one = game(discriminator_augment="none", r1_every=3, r1_weight=0.4)
    real, fake, labels = normal(4, 3, 16, 16), normal(4, 3, 16, 16, seed=1), torch.tensor([0, 1, 0, 1])
    losses = [one.discriminator_loss(real, fake, labels, step, rng())[0].item() for step in (1, 2, 3, 4, 6)]
    seen = real.clone().requires_grad_()
    penalty = gradient_penalty(one.discriminator(seen, labels), seen).mean().item()
    assert penalty > 0
    assert losses[0] == losses[1] == losses[3]
    assert losses[2] == losses[4] == pytest.approx(losses[0] + 3 * 0.4 / 2 * penalty)


def test_path_length_joins_the_loss_at_its_steps_and_its_mean_is_saved():
    one = game(discriminator_augment="none", path_length_every=3)
    real, labels = normal(4, 3, 16, 16), torch.tensor([0, 1, 0, 1])
    for step in (1, 2):
        one.step(real, labels, step, rng(step))
    assert one.path_length.mean == 0
    one.step(real, labels, 3, rng(3))
    assert one.path_length.mean > 0
    assert one.state_dict()["path_length"]["mean"] == one.path_length.mean
    other = game(discriminator_augment="none", path_length_every=3)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert [float(v) for v in other.step(real, labels, 6, rng(6)).values()] == [
        float(v) for v in one.step(real, labels, 6, rng(6)).values()
    ]


def test_regularisers_work_in_bf16_under_augmentation():
    one = game(precision="bf16", r1_every=1, path_length_every=1)
    one.adaptive.p = 0.8
    values = one.step(normal(4, 3, 16, 16), torch.tensor([0, 1, 0, 1]), 1, rng())
    assert monitoring.all_finite({name: float(value) for name, value in values.items()})


# Styles


def test_styles_are_mixed_from_the_crossover_on():
    one = game(style_mixing=1.0)
    labels, network = torch.tensor([0, 1, 1]), one.generator
    for layer in network.layers:
        nn.init.constant_(layer.noise_strength, 0.5)
    rows = one.latents(3, rng())
    assert rows.shape == (3, 2 * 6 + 1 + 16 + 2 * 64 + 2 * 256)
    rows[:, 12] = torch.tensor([1, 3, 5])
    first, second = network.styles(rows[:, :6], labels), network.styles(rows[:, 6:12], labels)
    styles = first.clone()
    styles[0, 1:], styles[1, 3:] = second[0, 1:], second[1, 3:]
    drawn = network(rows, labels)
    assert torch.equal(drawn, network.render(styles, rows[:, 13:]))
    assert not torch.equal(drawn, network.render(styles, rows[:, 13:].flip(0)))


@pytest.mark.parametrize(("share", "lowest", "highest"), [(0.0, 0, 0), (0.5, 0.4, 0.6), (1.0, 1, 1)])
def test_so_many_images_are_mixed(share: float, lowest: float, highest: float):
    one = game(style_mixing=share)
    crossover = one.latents(500, rng())[:, 12]
    assert lowest <= float((crossover < 5).float().mean()) <= highest
    if share == 1:
        assert set(crossover.tolist()) == {1, 2, 3, 4}


def test_layers_below_conditional_from_know_no_class():
    network = game(conditional_from=16).generator
    latents = normal(3, 6)
    as_first, as_second = (network.styles(latents, torch.full((3,), label)) for label in (0, 1))
    assert torch.equal(as_first[:, :3], as_second[:, :3])  # layers of 4, 8 and 8 pixels
    assert (as_first[:, 3:] != as_second[:, 3:]).any(2).all()
    assert torch.equal(as_first[:, 0], network.mapping(latents, None))
    everywhere = game().generator
    assert (everywhere.styles(latents, torch.zeros(3).long()) != everywhere.styles(latents, torch.ones(3).long())).any()


def test_without_strength_the_mapping_knows_no_class():
    network = game().generator
    network.mapping.embedding.strength.fill_(0)
    latents = normal(3, 6)
    for label in (0, 1):
        assert torch.equal(network.mapping(latents, torch.full((3,), label)), network.mapping(latents, None))


def test_truncation_draws_towards_the_mean_of_the_class():
    generator = make("stylegan2", conditional_from=8)
    network = game(conditional_from=8).generator
    generator.settle(network, np.array([0, 1]))
    labels = torch.arange(2).repeat_interleave(5000)
    styles = network.styles(normal(10000, 6, seed=9), labels).detach()
    means = network.truncate(styles, labels, 0.0)
    for label in (0, 1):
        ours = styles[labels == label]
        error = (means[labels == label][0] - ours.mean(0)).abs() / ours.std(0)
        assert error.max() < 5 / math.sqrt(stylegan2.NUM_MEAN_LATENTS)
    assert torch.equal(means[0, 0], means[-1, 0])  # 4 pixels: no class
    assert not torch.equal(means[0, 1], means[-1, 1])
    assert torch.equal(network.truncate(styles, labels, 1.0), styles)
    torch.testing.assert_close(network.truncate(styles, labels, 0.3), means + 0.3 * (styles - means))


# Options


@pytest.mark.parametrize(("size", "batch_size", "weight"), [(64, 16, 0.0512), (64, 32, 0.0256), (256, 32, 0.4096)])
def test_r1_follows_size_and_batch_unless_it_is_given(size: int, batch_size: int, weight: float):
    assert stylegan2.Config(batch_size=batch_size).at(size).r1_weight == pytest.approx(weight)
    assert stylegan2.Generator(stylegan2.Config(r1_weight=0.0), ("AK",), size).config.r1_weight == 0
    found = stylegan2.Generator(stylegan2.Config(batch_size=batch_size), ("AK",), size).config
    assert found.r1_weight == pytest.approx(weight)


def test_defaults_are_those_that_the_authors_program_takes_by_itself():
    config = stylegan2.Config()
    assert (config.mapping_layers, config.ada_images, config.ada_target) == (2, 500_000, 0.6)
    assert config.generator_optimiser == config.discriminator_optimiser
    assert config.generator_optimiser.learning_rate == 0.0025
    assert (config.images, config.ema_images) == (5_000_000, 10_000 * config.batch_size / 32)


def test_a_path_length_that_is_not_finite_leaves_the_mean_as_it_was():
    penalty, w = PathLength(), normal(2, 3, 5).requires_grad_()
    penalty.mean.fill_(0.5)
    images = (w.sum((1, 2)) * float("nan"))[:, None, None, None].expand(2, 3, 4, 4)
    assert penalty(images, w, rng()).isnan()
    assert penalty.mean == 0.5


@pytest.mark.parametrize("size", [16, 20, 28, 48, 64])
def test_both_networks_reach_the_size(size: int):
    one, labels = game(size=size), torch.tensor([0, 1])
    images = one.generator(one.latents(2, rng()), labels)
    assert images.shape == (2, 3, size, size)
    assert one.discriminator(images, labels).shape == (2,)
    assert one.generator.sides[0] in (4, 5, 6, 7)
