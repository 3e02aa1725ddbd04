"""Lesion masks: read as images are, and new ones made of real ones."""

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from moulage.data import images, masks
from moulage.data.catalog import Catalog
from moulage.errors import DataError
from pictures import encoded

SIZE = 32


def disc(row: float = 16, column: float = 16, radius: float = 8, size: int = SIZE) -> np.ndarray:
    y, x = np.indices((size, size))
    return masks.binary((y - row) ** 2 + (x - column) ** 2 < radius**2)


def rectangle(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[height // 4 : -(height // 4), width // 8 : width // 2] = True
    return mask


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """Three images of 40 x 60 pixels with 1-bit masks in an archive."""
    with zipfile.ZipFile(tmp_path / "masks.zip", "w") as archive:
        for name in "abc":
            archive.writestr(f"{name}.png", encoded(rectangle(40, 60)))
    rows = {"image": list("abc"), "label": "MEL", "location": [f"{name}.jpg" for name in "abc"]}
    return Catalog.build(
        pd.DataFrame(rows | {"mask": [f"masks.zip::{name}.png" for name in "abc"]}), ["MEL"], "few", tmp_path
    )


@pytest.mark.parametrize("fit", images.FRAMINGS)
def test_masks_are_cut_as_images_are(fit: str, catalog: Catalog, tmp_path: Path):
    read = masks.read(catalog, SIZE, fit, tmp_path / "cache")
    assert (read.shape, read.dtype) == ((3, SIZE, SIZE), np.uint8)
    picture = np.repeat(rectangle(40, 60)[..., None] * np.uint8(255), 3, 2)
    expected = images.square(picture, SIZE, fit)[..., 0] > 127
    assert np.array_equal(read, np.stack([masks.binary(expected)] * 3))
    assert np.array_equal(masks.read(catalog, SIZE, fit, tmp_path / "cache"), read)


def test_an_image_without_a_mask_is_named(catalog: Catalog, tmp_path: Path):
    with pytest.raises(DataError, match=r'mask of image "b".*1 of 3'):
        masks.read(catalog.with_columns(mask=["masks.zip::a.png", "", "masks.zip::c.png"]), SIZE, "squash", tmp_path)
    lost = ["masks.zip::a.png", "masks.zip::lost.png", "masks.zip::c.png"]
    with pytest.raises(DataError, match='mask of image "b"') as error:
        masks.read(catalog.with_columns(mask=lost), SIZE, "squash", tmp_path)
    assert "lost.png" in error.value.hint


def test_the_boundary_is_both_sides_of_the_outline():
    mask = np.zeros((6, 6), np.uint8)
    mask[2:5, 2:6] = 255
    expected = np.zeros((6, 6), np.uint8)
    expected[2:5, 2:6] = 255  # all of it but the middle of what touches the edge of the image
    expected[3, 3:6] = 0
    expected[1, 2:6] = expected[5, 2:6] = expected[2:5, 1] = 255
    assert np.array_equal(masks.boundary(mask), expected)
    assert np.array_equal(masks.boundary(np.stack([mask, mask.T])), np.stack([expected, expected.T]))
    assert not masks.boundary(np.full((4, 4), 255, np.uint8)).any()


def test_the_signed_distance_of_a_disc_is_its_radius_less_the_distance_to_its_centre():
    y, x = np.indices((SIZE, SIZE))
    exact = 8 - np.hypot(y - 16, x - 16)
    assert np.abs(masks.signed_distance(disc()) - exact).max() < 1.2
    assert (masks.signed_distance(np.zeros((4, 4), np.uint8)) == -4).all()
    assert (masks.signed_distance(np.full((4, 4), 255, np.uint8)) == 4).all()


def test_warped_masks_are_new_whole_and_about_as_large():
    mask = disc(14, 18)
    new = [masks.warped(mask, np.random.default_rng(seed)) for seed in range(40)]
    assert all(m.dtype == np.uint8 and m.shape == mask.shape and set(np.unique(m)) == {0, 255} for m in new)
    assert len({m.tobytes() for m in new}) == 40
    assert np.array_equal(new[3], masks.warped(mask, np.random.default_rng(3)))
    shares = np.array([m.mean() for m in new]) / mask.mean()
    assert 0.9 < shares.mean() < 1.15
    assert 0.5 < shares.min() < 0.95
    assert 1.05 < shares.max() < 2


def test_a_lesion_cut_by_the_edge_stays_cut_and_a_full_or_a_tiny_one_stays():
    corner = disc(0, 0, 14)
    assert all((masks.warped(corner, np.random.default_rng(i))[[0, -1]]).any() for i in range(20))
    full, dot = np.full((SIZE, SIZE), 255, np.uint8), disc(radius=1)
    for seed in range(20):
        assert (masks.warped(full, np.random.default_rng(seed)) == 255).all()
        assert masks.warped(dot, np.random.default_rng(seed)).any()


def test_a_mask_between_two_lies_where_the_first_does_and_is_between_in_size():
    first, second = disc(12, 14, 5), disc(20, 18, 10)
    sizes = []
    for seed in range(20):
        new = masks.recombined((first, second), np.random.default_rng(seed))
        assert np.abs(np.argwhere(new).mean(0) - [12, 14]).max() < 0.6
        sizes.append((new > 0).sum())
    assert (first > 0).sum() < min(sizes) < max(sizes) < (second > 0).sum()
    assert len(set(sizes)) > 5


def test_masks_that_have_nothing_between_them_give_the_first():
    first, empty = disc(radius=3), np.zeros((SIZE, SIZE), np.uint8)
    assert np.array_equal(masks.recombined((first, empty), np.random.default_rng(0)), first)
    assert not masks.recombined((empty, empty), np.random.default_rng(0)).any()
