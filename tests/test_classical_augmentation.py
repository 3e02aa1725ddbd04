"""Classical augmentation of a classifier's batches."""

import numpy as np
import pytest
import torch

from moulage.classifiers import _augment

OFF = _augment.Augment(flip=False, rotation="none", crop_area=1, brightness=0, contrast=0, saturation=0, hue_degrees=0)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(16, 3, 20, 20, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def draws() -> torch.Tensor:
    return torch.rand(16, _augment.NUM_DRAWS, generator=torch.Generator().manual_seed(4))


def test_switched_off_it_changes_nothing(images, draws):
    assert torch.allclose(_augment.augment(images, draws, OFF), images, atol=1e-5)


def test_flips_and_right_angles_are_the_eight_symmetries(images, draws):
    options = OFF.model_copy(update={"flip": True, "rotation": "right_angles"})
    found = set()
    for image, result in zip(images, _augment.augment(images, draws, options), strict=True):
        turned = [torch.rot90(image, k, (1, 2)) for k in range(4)]
        symmetries = [*turned, *(t.flip(2) for t in turned)]
        matches = [i for i, s in enumerate(symmetries) if torch.allclose(result, s, atol=1e-4)]
        assert len(matches) == 1
        found.update(matches)
    assert len(found) > 4


def test_a_crop_stays_inside_the_image(draws):
    ramp = torch.linspace(-1, 1, 20).expand(16, 1, 20, 20)
    images = torch.cat([ramp, ramp.transpose(2, 3), ramp * 0], 1) / 2 + 0.5
    result = _augment.augment(images, draws, OFF.model_copy(update={"crop_area": 0.3}))
    width = result[:, 0, 0, -1] - result[:, 0, 0, 0]
    height = result[:, 1, -1, 0] - result[:, 1, 0, 0]
    area = width * height
    assert 0.28 < area.min() < 0.5 < 0.8 < area.max() < 1.01
    assert ((width / height).log().abs() <= np.log(4 / 3) + 0.05).all()
    steps = (result[:, 0, :, 1:] - result[:, 0, :, :-1])[:, :, 1:-1]
    assert (steps > 0).all(), "nothing is mirrored in"


def test_colour_changes_keep_grey_grey_and_the_range(images, draws):
    colour = _augment.Augment(flip=False, rotation="none", crop_area=1, brightness=0.4, contrast=0.4, saturation=0.4)
    result = _augment.augment(images, draws, colour)
    assert result.min() >= 0
    assert result.max() <= 1
    assert (result - images).abs().mean() > 0.02
    grey = images[:, :1].expand(-1, 3, -1, -1)
    result = _augment.augment(grey, draws, colour)
    assert torch.allclose(result[:, 0], result[:, 1], atol=1e-5)
    assert torch.allclose(result[:, 0], result[:, 2], atol=1e-5)


def test_a_third_of_a_turn_of_hue_moves_red_to_green(images):
    draws = torch.full((16, _augment.NUM_DRAWS), 0.5)
    draws[:, 10] = 1
    result = _augment.augment(images, draws, OFF.model_copy(update={"hue_degrees": 120.0}))
    assert torch.allclose(result, images.roll(1, dims=1), atol=1e-4)


def test_an_image_is_augmented_alike_whatever_its_neighbours(images, draws):
    options = _augment.Augment(rotation="any")
    whole = _augment.augment(images, draws, options)
    assert torch.allclose(whole[5:7], _augment.augment(images[5:7], draws[5:7], options), atol=1e-6)
