"""Memorisation: planted copies are found however they are changed, and new images are not called copies."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats

from moulage.data import audit, pixels
from moulage.data.near_copies import conformal_threshold, distances, near_copies
from moulage.errors import DataError
from moulage.evaluation.memorisation import authenticity, data_copying
from moulage.sources import isic2019, phantom
from pictures import encoded

SIZE = 64
Change = Callable[[np.ndarray], np.ndarray]


def jpeg(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded(image, "JPEG", quality=60))))


def cropped(image: np.ndarray) -> np.ndarray:
    inner = Image.fromarray(np.ascontiguousarray(image[3:-2, 2:-3]))
    return np.asarray(inner.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def hued(image: np.ndarray) -> np.ndarray:
    parts = np.array(Image.fromarray(image).convert("HSV"))
    parts[..., 0] += 20
    return np.asarray(Image.fromarray(parts, "HSV").convert("RGB"))


def flattened(image: np.ndarray) -> np.ndarray:
    return (image * 0.7 + 38).astype(np.uint8)


CHANGES: dict[str, Change] = {
    "exact": lambda image: image,
    "mirrored": lambda image: image[:, ::-1],
    "turned": lambda image: np.rot90(image),
    "transposed": lambda image: image.swapaxes(0, 1),
    "darker": lambda image: (image * 0.8).astype(np.uint8),
    "less contrast": flattened,
    "other hue": hued,
    "cropped": cropped,
    "compressed": jpeg,
    "turned, cropped, other hue, compressed": lambda image: jpeg(hued(cropped(np.rot90(image)))),
    "blurred": lambda image: ndimage.gaussian_filter(image, (1, 1, 0)),
}


def phantoms(lesions: range, label: str = "NV") -> np.ndarray:
    config = phantom.Config(size=SIZE)
    return np.stack([phantom.draw_image(config, label, seed, 1000 + seed, "PHA")[0] for seed in lesions])


@pytest.fixture(scope="module")
def train() -> np.ndarray:
    return phantoms(range(60))


@pytest.fixture(scope="module")
def others() -> np.ndarray:
    return phantoms(range(100, 210))


# Near-copies


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_leads_to_its_original(train, change):
    rows = np.arange(5, 11)
    distance, nearest = distances(np.stack([CHANGES[change](train[row]) for row in rows]), train)
    assert (nearest == rows).all()
    assert distance.max() < 0.45
    if change == "exact":
        assert distance.max() < 1e-3


def test_planted_copies_are_found_among_new_images(train, others):
    planted = np.stack([change(train[20 + k]) for k, change in enumerate(CHANGES.values())])
    found = near_copies(np.concatenate([others[:50], planted]), train, others[50:])
    assert found.is_copy[50:].all()
    np.testing.assert_array_equal(found.nearest[50:], 20 + np.arange(len(CHANGES)))
    assert found.is_copy[:50].mean() <= 0.04
    assert found.expected_false_alarms == pytest.approx(1 / 61)
    assert len(found.calibration) == 60
    closest = found.pairs(3)
    assert closest[0][0] == 50
    assert [distance for _, _, distance in closest] == sorted(found.distance)[:3]
    assert found.take(np.array([50, 0])).is_copy.tolist() == [True, bool(found.is_copy[0])]


def test_lesions_calibrate_where_no_image_was_held_out(train, others):
    """Each lesion is there twice; within it the second would set a threshold of nothing."""
    twice = np.concatenate([train, np.stack([cropped(image) for image in train])])
    found = near_copies(np.concatenate([others[:20], train[:3, :, ::-1]]), twice, groups=np.tile(np.arange(60), 2))
    assert found.calibration.min() > 0.3
    assert found.is_copy[20:].all()
    assert found.is_copy[:20].sum() <= 1


@pytest.mark.parametrize(("num", "rank"), [(10, 1), (98, 1), (99, 1), (198, 1), (199, 2), (999, 10)])
def test_the_threshold_is_the_largest_rank_within_the_promise(num, rank):
    assert conformal_threshold(np.arange(num, 0, -1.0), 0.01) == rank
    assert rank == 1 or rank / (num + 1) <= 0.01 < (rank + 1) / (num + 1)


def test_the_promise_holds_on_average():
    draws = np.random.default_rng(0).normal(size=(4000, 151))
    alarms = [draw[-1] < conformal_threshold(draw[:-1], 0.05) for draw in draws]
    assert np.mean(alarms) == pytest.approx(7 / 151, abs=0.01)


def test_what_shares_less_than_half_of_its_structure_is_no_copy(train, others, monkeypatch):
    monkeypatch.setattr("moulage.data.near_copies.LARGEST", 0.1)
    found = near_copies(np.concatenate([others[:5], train[:1]]), train[:20], others[50:70])
    assert found.threshold == 0.1
    assert found.is_copy.tolist() == [False] * 5 + [True]
    assert found.expected_false_alarms == pytest.approx(1 / 21)


def test_empty_sets_and_wrong_inputs(train):
    assert near_copies(train[:0], train, groups=np.arange(60)).is_copy.shape == (0,)
    blank = np.full((3, SIZE, SIZE, 3), 128, np.uint8)
    assert distances(blank, train)[0].min() > 0.99
    with pytest.raises(DataError, match="either held-out images or the lesions"):
        near_copies(train, train)
    with pytest.raises(DataError, match="other lesions to calibrate"):
        near_copies(train, train, train[:0])
    with pytest.raises(DataError, match=r"uint8 \[N, S, S, 3\]"):
        near_copies(train / 255, train, train)


@pytest.mark.real_data
@pytest.mark.slow
def test_planted_copies_are_found_among_real_images(real_data: Path, tmp_path: Path):
    """AK at 64 px, near-duplicates joined; one image in a hundred is a copy. ``docs/fidelity.md`` has more splits."""
    catalog = isic2019.read(real_data / "isic2019-84px", isic2019.Config()).only(label="AK")
    seen = pixels.build(catalog, (SIZE,), "squash", tmp_path)
    clean = audit.audit(catalog, seen).clean(catalog)
    images, groups = seen.array(SIZE)[seen.rows(clean.images)], clean.groups
    fitted = np.isin(groups, np.random.default_rng(0).permutation(np.unique(groups))[: len(np.unique(groups)) // 2])
    train, others = images[fitted], images[~fitted]
    planted = np.stack([change(train[7 * k]) for k, change in enumerate(CHANGES.values())])
    found = near_copies(np.concatenate([others, planted]), train, groups=groups[fitted])
    assert found.is_copy[len(others) :].all()
    assert found.expected_false_alarms <= 0.01
    assert found.is_copy[: len(others)].mean() <= 0.01


# Of the whole set


def normal(num: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num, 4))


def test_data_copying_is_a_z_score_that_copies_push_down():
    train, held_out = normal(200, 0), normal(100, 1)
    near = train[:80] + 0.02 * normal(80, 3)
    scores = [
        data_copying(train, held_out, normal(80, 10 + s), rng=np.random.default_rng(0)).overall for s in range(40)
    ]
    assert abs(np.mean(scores)) < 1.5
    copied = data_copying(train, held_out, near, rng=np.random.default_rng(0))
    assert copied.overall < -8
    assert copied.in_cells is not None
    assert copied.in_cells < -2
    away = data_copying(train, held_out, normal(80, 4) + 3, rng=np.random.default_rng(0))
    assert away.overall > 8


def test_data_copying_is_the_rank_test_of_scipy():
    train, held_out, generated = normal(50, 0), normal(30, 1), normal(40, 2)
    near = [np.linalg.norm(x[:, None] - train, axis=2).min(1) for x in (generated, held_out)]
    test = stats.mannwhitneyu(*near, use_continuity=False, method="asymptotic", alternative="greater")
    found = data_copying(train, held_out, generated, rng=np.random.default_rng(0), num_cells=1)
    assert found.overall == pytest.approx(stats.norm.isf(test.pvalue), rel=1e-6)
    assert found.in_cells == pytest.approx(found.overall)
    assert found.num_skipped == 0


def test_copying_in_one_cell_alone_shows_in_the_cells():
    """Half of the space is copied, the other half lies far out: together they cancel."""
    side = np.repeat([-20.0, 20.0], 100)[:, None] * [1, 0, 0, 0]
    train, held_out = normal(200, 0) + side, normal(200, 1) + side
    generated = np.concatenate([train[:100] + 0.01, train[100:] + 2])
    found = data_copying(train, held_out, generated, rng=np.random.default_rng(0), num_cells=2)
    assert found.num_cells == 2
    assert min(found.cells) < -8
    assert max(found.cells) > 5


def test_cells_with_few_images_are_skipped_and_counted():
    train = np.concatenate([normal(50, 0), normal(50, 1) + 50])
    found = data_copying(train, normal(30, 2), normal(30, 3) + 50, rng=np.random.default_rng(0), num_cells=2)
    assert found.in_cells is None
    assert found.num_skipped == 30
    with pytest.raises(DataError, match="needs 20 held-out"):
        data_copying(train, normal(5, 2), normal(30, 3), rng=np.random.default_rng(0))


def test_authenticity_by_hand():
    train = np.array([[0.0], [1.0], [5.0], [5.1]])
    generated = np.array([[0.3], [3.5], [5.05], [4.0]])
    assert authenticity(train, generated).tolist() == [False, True, False, True]
    lesions = np.array(["a", "b", "c", "c"])
    assert authenticity(train, generated, lesions).tolist() == [False, False, False, False]
