"""What a discriminator sees changed: in range, differentiable, the same for the same random numbers, and adaptive."""

import math

import numpy as np
import pytest
import torch

from moulage.generators import _augment


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(num: int = 64, size: int = 16) -> torch.Tensor:
    return torch.rand(num, 3, size, size, generator=rng(1)) * 2 - 1


def test_symmetries_are_the_eight_of_the_square():
    image = np.arange(27, dtype=np.uint8).reshape(1, 3, 3, 3)
    seen = {_augment.symmetries(image, np.random.default_rng(i), "flips").tobytes() for i in range(200)}
    assert len(seen) == 8
    assert _augment.symmetries(image, np.random.default_rng(0), "none") is image


@pytest.mark.parametrize("policy", [("colour",), ("translation",), ("cutout",), ("colour", "translation", "cutout")])
def test_diffaugment_is_seeded_and_differentiable(policy: tuple[str, ...]):
    x = images().requires_grad_()
    seen = _augment.diffaugment(x, policy, rng())
    assert seen.shape == x.shape
    assert torch.equal(seen, _augment.diffaugment(x, policy, rng()))
    assert not torch.equal(seen, _augment.diffaugment(x, policy, rng(5)))
    [gradient] = torch.autograd.grad(seen.sum(), x)
    assert gradient.abs().sum() > 0
    assert torch.equal(_augment.diffaugment(x, (), rng()), x)


def test_translation_moves_by_up_to_an_eighth_and_brings_in_grey():
    x = torch.ones(200, 3, 16, 16)
    seen = _augment.diffaugment(x, ("translation",), rng())
    lost = 16 - seen[:, 0].amax(1).sum(1)  # columns that became grey
    assert set(lost.tolist()) == {0.0, 1.0, 2.0}


def test_cutout_takes_half_the_side():
    seen = _augment.diffaugment(torch.ones(200, 3, 16, 16), ("cutout",), rng())
    area = (seen[:, 0] == 0).sum((1, 2))
    assert area.max() == 64
    assert area.min() < 64  # a hole may reach over the edge


def test_colour_keeps_structure_within_a_channel():
    x = images(8)
    seen = _augment.diffaugment(x, ("colour",), rng())
    grey, was = seen.mean(1).flatten(1), x.mean(1).flatten(1)
    for one, other in zip(grey, was, strict=True):
        assert np.corrcoef(one, other)[0, 1] == pytest.approx(1, abs=1e-5)


def test_planes_beyond_colour_move_with_the_image_and_keep_their_values():
    plane = (torch.rand(32, 1, 16, 16, generator=rng(2)) > 0.5).float()
    x = torch.cat([images(32), plane], 1)
    assert torch.equal(_augment.diffaugment(x, ("colour",), rng())[:, 3:], plane)
    moved = _augment.diffaugment(torch.cat([plane.repeat(1, 3, 1, 1), plane], 1), ("translation", "cutout"), rng())
    assert torch.equal(moved[:, :1], moved[:, 3:])


def test_adaptive_probability_rises_while_real_images_are_too_sure_and_falls_when_not():
    adaptive = _augment.Adaptive(target=0.6, num_images=1000)
    for _ in range(8):
        adaptive.update(torch.full((25,), 3.0))
    assert adaptive.p == pytest.approx(200 / 1000)
    state = adaptive.state_dict()
    for _ in range(4):
        adaptive.update(torch.full((25,), -3.0))
    assert adaptive.p == pytest.approx(100 / 1000)
    other = _augment.Adaptive(target=0.6, num_images=1000)
    other.load_state_dict(state)
    assert other.state_dict() == state
    for _ in range(400):
        adaptive.update(torch.full((25,), 3.0))
    assert adaptive.p == _augment.Adaptive.LIMIT


def test_adaptive_changes_about_p_of_the_images():
    adaptive, x = _augment.Adaptive(), images(200)
    assert adaptive(x, rng()) is x
    shares = []
    for p in (0.05, 0.8):
        adaptive.p = p
        seen = adaptive(x, rng())
        assert torch.equal(seen, adaptive(x, rng()))
        shares.append(float(((seen - x).abs().amax((1, 2, 3)) > 1e-3).float().mean()))
    assert 0.2 < shares[0] < 0.7  # of about ten changes each with probability 0.05 at least one
    assert shares[1] > 0.99


def test_geometry_without_probability_is_the_identity_and_keeps_area_without_scaling():
    assert torch.equal(_augment.geometry(5, 0.0, rng()), torch.eye(3).repeat(5, 1, 1))
    matrices = _augment.geometry(4000, 0.5, rng())
    areas = torch.linalg.det(matrices[:, :2, :2]).abs().log2()
    # log2 of the area is twice that of the scale, which is normal(0, 0.2) with probability 1/2
    assert float(areas.mean()) == pytest.approx(0, abs=0.02)
    assert float(areas.std()) == pytest.approx(2 * 0.2 * math.sqrt(0.5), rel=0.1)


def test_colours_keep_grey_grey_but_for_brightness_and_contrast():
    matrices = _augment.colours(500, 1.0, rng())
    grey = torch.cat([torch.full((3,), 0.3), torch.ones(1)])
    seen = matrices[:, :3] @ grey
    assert float((seen - seen.mean(1, keepdim=True)).abs().max()) < 1e-5
    assert torch.equal(_augment.colours(5, 0.0, rng()), torch.eye(4).repeat(5, 1, 1))


def test_hue_turns_one_colour_into_another_of_the_same_sum():
    """Contrast, brightness and saturation off: what is left are rotations and flips of the colour cube's diagonal."""
    matrices = _augment.colours(2000, 0.2, rng())
    red = torch.tensor([1.0, 0, 0, 1])
    seen = (matrices[:, :3] @ red).numpy()
    norms, sums = (seen**2).sum(1), seen.sum(1)
    turned = (np.abs(norms - 1) < 1e-4) & (np.abs(sums - 1) < 1e-4) & (np.abs(seen[:, 0] - 1) > 1e-2)
    assert turned.mean() > 0.05


# Precision: under autocast, as a training step on a recent GPU runs, matrix products are in bf16 unless they opt out.


def centroid(drawn: torch.Tensor) -> torch.Tensor:
    """Where the light of images [B, 1, S, S] lies, in pixels: [B, 2], x first."""
    side = torch.arange(drawn.shape[-1], dtype=torch.float64)
    light = drawn[:, 0].double()
    total = light.sum((1, 2))
    return torch.stack([(light.sum(1) * side).sum(1), (light.sum(2) * side).sum(1)], 1) / total[:, None]


def test_resampling_under_autocast_moves_by_the_pixels_that_it_was_told():
    size, shifts = 256, torch.tensor([[7.0, -3.0], [0.5, 41.25], [-60.0, 17.75]])
    square = torch.zeros(3, 1, size, size)
    square[..., 100:140, 110:150] = 1
    maps = torch.eye(2, 3).repeat(3, 1, 1)
    maps[:, :, 2] = -2 * shifts / size  # from the new image's coordinates to the old one's; the side is 2
    for images in (square, square.bfloat16()):
        with torch.autocast("cpu", torch.bfloat16):
            moved = _augment.resampled(images, maps)
        assert moved.dtype == torch.float32
        assert float((centroid(moved) - centroid(square) - shifts).abs().max()) < 1e-3


def test_real_and_generated_images_are_changed_in_the_same_precision():
    """Generated images come out of a network in bf16; the same values must come out of the same changes."""
    x = images(32).bfloat16()
    adaptive = _augment.Adaptive()
    adaptive.p = 0.8
    policy = ("colour", "translation", "cutout")
    for change in (adaptive, lambda x, rng: _augment.diffaugment(x, policy, rng)):
        plain = change(x.float(), rng())
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(change(x.float(), rng()), plain)
            assert torch.equal(change(x, rng()), plain)
