"""Fidelity: every score agrees with its peer, moves the way its name says, and is judged beside real images and copies.

The numbers of the peers are what ``python benchmarks/fidelity_peers.py 400 16`` printed for torch-fidelity 0.4.0,
torchmetrics 1.9.0, prdc 0.2, scikit-learn 1.9.1 and SciPy 1.17.1.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import linalg, ndimage, stats

from moulage.data.neighbours import nearest_rows, squared_blocks
from moulage.errors import DataError, LeakError
from moulage.evaluation.fidelity import MIN_IMAGES, Images, judge
from moulage.evaluation.manifolds import density_coverage, precision_recall
from moulage.evaluation.set_distances import colour_distances, frechet, kid, squared_mmd, to_lab
from moulage.evaluation.two_sample import transfer, two_sample_test


def features(num: int, size: int, seed: int, shift: float) -> np.ndarray:
    """The features of ``benchmarks/fidelity_peers.py``."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(num, 8)) @ np.random.default_rng(99).normal(size=(8, size)) + rng.normal(size=(num, size))
    return np.maximum(mixed / 4 + 0.3 + shift, 0).astype(np.float32)


REAL, GENERATED = features(400, 16, 1, 0.0), features(300, 16, 2, 0.05)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# Peers


@pytest.mark.parametrize(
    ("peer", "ours"),
    [
        (0.12583453, lambda: frechet(REAL, GENERATED).value),
        (0.00845044, lambda: squared_mmd(REAL[:300], GENERATED).value),
        (0.86, lambda: precision_recall(REAL, GENERATED).precision),
        (0.91, lambda: precision_recall(REAL, GENERATED).recall),
        (0.878, lambda: density_coverage(REAL, GENERATED).density),
        (0.93, lambda: density_coverage(REAL, GENERATED).coverage),
        (1.49514164, lambda: nearest_rows(GENERATED, REAL, 5)[0][:, 4].mean()),
    ],
)
def test_scores_are_those_of_the_peers(peer, ours):
    assert ours() == pytest.approx(peer, rel=1e-4)


# Neighbours


def test_neighbours_are_exact_far_from_the_origin(monkeypatch):
    monkeypatch.setattr("moulage.data.neighbours.BLOCK_BYTES", 8 * 50 * 7)
    among = np.random.default_rng(0).normal(size=(50, 5)) * 1e-3 + 1e4
    gaps = np.linalg.norm(among[:, None] - among, axis=2)
    np.fill_diagonal(gaps, np.inf)
    distances, rows = nearest_rows(among, among, 3, exclude_self=True)
    np.testing.assert_allclose(distances, np.sort(gaps, axis=1)[:, :3], rtol=1e-9)
    np.testing.assert_array_equal(rows, np.argsort(gaps, axis=1)[:, :3])
    assert (nearest_rows(among[[7]], among)[0] == 0).all()
    assert sum(len(block) for _, block in squared_blocks(among, among)) == 50


@pytest.mark.parametrize(
    ("queries", "among", "k", "words"),
    [
        (np.zeros((2, 3)), np.zeros((4, 2)), 1, "same length"),
        (np.zeros((2, 3)), np.zeros((4, 3)), 5, "among 4 rows"),
        (np.full((2, 3), np.nan), np.zeros((4, 3)), 1, "not finite"),
    ],
)
def test_impossible_neighbours_are_explained(queries, among, k, words):
    with pytest.raises(DataError, match=words):
        nearest_rows(queries, among, k)


# Kernel and Frechet distance


def test_the_frechet_distance_of_few_images_is_that_of_their_covariances():
    real, generated = features(30, 50, 1, 0), features(25, 50, 2, 0.1)
    first, second = (np.cov(x, rowvar=False) for x in (real, generated))
    eigenvalues = linalg.eigvals(first @ second).real
    gap = real.mean(0) - generated.mean(0)
    wanted = gap @ gap + np.trace(first) + np.trace(second) - 2 * np.sqrt(eigenvalues.clip(0)).sum()
    found = frechet(real, generated)
    assert found.value == pytest.approx(wanted, rel=1e-4)
    assert found.small_sample
    assert frechet(real, real).value == pytest.approx(0, abs=1e-6)


def test_the_frechet_distance_of_normals_is_the_closed_form():
    wide = np.random.default_rng(0).normal(size=(4000, 2)) * [1, 3] + [0, 2]
    narrow = np.random.default_rng(1).normal(size=(4000, 2))
    found = frechet(narrow, wide)
    assert found.value == pytest.approx(2**2 + (3 - 1) ** 2, rel=0.05)
    assert not found.small_sample


def test_the_kernel_distance_is_unbiased_and_its_interval_covers():
    values, covered = [], 0
    for seed in range(200):
        found = squared_mmd(features(30, 6, 2 * seed, 0), features(40, 6, 2 * seed + 1, 0))
        values.append(found.value)
        covered += found.low <= 0 <= found.high
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(200)
    assert covered >= 180


def test_lesions_do_not_bias_the_kernel_distance_and_widen_its_interval():
    """Each lesion has four nearly equal images: as independent images they would look more alike than they are."""
    plain, grouped, wide = [], [], []
    for seed in range(60):
        lesions = np.repeat(features(15, 6, 2 * seed, 0), 4, axis=0)
        other = features(40, 6, 2 * seed + 1, 0)
        groups = np.repeat(np.arange(15), 4)
        plain.append(squared_mmd(lesions, other))
        grouped.append(squared_mmd(lesions, other, groups))
        wide.append((grouped[-1].high - grouped[-1].low) / (plain[-1].high - plain[-1].low))
    error = np.std([found.value for found in grouped]) / np.sqrt(60)
    assert abs(np.mean([found.value for found in grouped])) < 3 * error
    assert np.mean([found.value for found in plain]) > 5 * error
    assert np.mean(wide) > 1.2


def test_the_jackknife_leaves_out_each_lesion_in_turn():
    groups = np.repeat(np.arange(6), 2)
    real, generated = REAL[:12], GENERATED[:9]
    found = squared_mmd(real, generated, groups)
    one = [squared_mmd(real[groups != g], generated, groups[groups != g]).value for g in range(6)]
    two = [squared_mmd(real, np.delete(generated, i, 0), groups).value for i in range(9)]
    variance = sum((len(x) - 1) ** 2 / len(x) * np.var(x, ddof=1) for x in (one, two))
    assert found.high - found.value == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-6)


def test_subsets_of_the_whole_are_the_whole():
    found = kid(REAL[:50], GENERATED[:50], rng=rng(), num_subsets=3, subset_size=1000)
    assert found.subset_mean == pytest.approx(found.whole.value, rel=1e-9)
    assert found.subset_std == pytest.approx(0, abs=1e-12)
    smaller = kid(REAL, GENERATED, rng=rng(), num_subsets=50, subset_size=100)
    assert smaller.subset_std > 0
    assert smaller.subset_mean == pytest.approx(smaller.whole.value, abs=0.5 * smaller.subset_std)


# Neighbourhoods


def test_shares_say_which_half_is_missing():
    real = np.random.default_rng(0).normal(size=(200, 4))
    narrow = np.random.default_rng(1).normal(size=(200, 4)) * 0.3
    wide = np.random.default_rng(2).normal(size=(200, 4)) * 4
    assert precision_recall(real, narrow).precision > 0.95 > 0.4 > precision_recall(real, narrow).recall
    assert precision_recall(real, wide).precision < 0.3
    assert density_coverage(real, narrow).density > 1.2
    assert density_coverage(real, narrow).coverage < 0.7
    assert density_coverage(real, real) == replace(density_coverage(real, real), density=1.0, coverage=1.0)


# Colours


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((119, 119, 119), (50.03, 0, 0)),
    ],
)
def test_cielab_is_that_of_the_standard(rgb, lab):
    np.testing.assert_allclose(to_lab(np.array(rgb, np.uint8)), lab, atol=0.05)


def test_a_set_of_one_colour_has_the_right_pixels_and_lacks_variety():
    """Half of the images dark, half bright, against images that are half dark and half bright themselves."""
    real = np.zeros((10, 8, 8, 3), np.uint8)
    real[5:] = 255
    generated = np.zeros((10, 8, 8, 3), np.uint8)
    generated[:, :4] = 255
    found = colour_distances(real, generated)
    assert found["pixels"]["all"] == pytest.approx(0, abs=1e-9)
    assert found["means"]["lightness"] == pytest.approx(50, abs=0.1)
    assert found["variety"]["lightness"] < 1e-3
    assert colour_distances(real, real)["means"]["all"] == 0


def test_colour_distances_are_in_lab_units():
    image = np.random.default_rng(0).integers(60, 180, (6, 16, 16, 3), dtype=np.uint8)
    brighter = np.clip(image * 1.2, 0, 255).astype(np.uint8)
    found = colour_distances(image, brighter)["pixels"]["lightness"]
    exact = stats.wasserstein_distance(to_lab(image)[..., 0].ravel(), to_lab(brighter)[..., 0].ravel())
    assert found == pytest.approx(exact, abs=0.02)


# Classifiers


def test_the_two_sample_test_sees_a_difference():
    found = two_sample_test(features(150, 8, 1, 0), features(90, 8, 2, 0.5), rng=rng())
    assert found.num_images == 90
    assert found.accuracy > 0.7
    assert found.low < found.accuracy < found.high
    assert found.p_value < 1e-4
    with pytest.raises(DataError, match="needs 10 images and 5 lesions"):
        two_sample_test(features(9, 8, 1, 0), features(90, 8, 2, 0), rng=rng())


@pytest.mark.slow
def test_the_two_sample_test_keeps_its_level():
    def p_value(seed: int) -> float:
        draw = np.random.default_rng(seed)
        return two_sample_test(draw.normal(size=(30, 4)), draw.normal(size=(30, 4)), rng=draw).p_value

    assert np.mean([p_value(seed) < 0.1 for seed in range(100)]) <= 0.16


def test_images_of_one_lesion_are_never_on_both_sides_of_a_fold():
    """Features say the lesion and nothing else: only a fold that cuts through lesions could tell the sides apart."""
    lesions = np.random.default_rng(0).normal(size=(40, 60)).repeat(5, axis=0)
    groups = np.arange(40).repeat(5)
    first, second = (groups < 20), (groups >= 20)
    honest = two_sample_test(
        lesions[first], lesions[second], rng=rng(), groups=groups[first], generated_groups=groups[second]
    )
    leaky = two_sample_test(lesions[first], lesions[second], rng=rng())
    assert leaky.accuracy > 0.8
    assert honest.accuracy < 0.75
    assert honest.high - honest.low > 0.1


def test_generated_images_with_the_right_labels_teach_as_much_as_real_ones_and_with_wrong_ones_nothing():
    labels = np.repeat([0, 1], 60)
    shift = np.repeat([0, 0.6], 60)[:, None]
    sets = [(features(120, 8, seed, 0) + shift, labels) for seed in (1, 2, 3)]
    found = transfer(sets[0], sets[1], sets[2], rng=rng())
    assert found is not None
    assert found.from_real > 0.8
    assert found.from_generated == pytest.approx(found.from_real, abs=0.1)
    wrong = transfer((sets[0][0], 1 - labels), sets[1], sets[2], rng=rng())
    assert wrong is not None
    assert wrong.from_generated < 0.2
    assert wrong.num_images == {0: 60, 1: 60}
    assert transfer((sets[0][0][:60], labels[:60]), sets[1], sets[2], rng=rng()) is None


# The whole


def pictures(num: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(num, 32, 32))
    grey = ndimage.gaussian_filter(noise, (0, 1.5, 1.5)) * 200 + 130
    return np.clip(grey[..., None] * [1, 0.9, 0.8], 0, 255).astype(np.uint8)


def images(num: int, seed: int, shift: float = 0.0, lesions: str | None = None) -> Images:
    groups = None if lesions is None else np.array([f"{lesions}{i // 2}" for i in range(num)])
    return Images(pictures(num, seed), features(num, 8, seed, shift), np.zeros(num, np.int64), groups)


def test_judge_sets_generated_images_between_the_floor_and_copies():
    train, held_out = images(70, 1, lesions="a"), images(60, 2, lesions="b")
    good, bad = images(64, 3), images(64, 4, shift=0.6)
    rows = np.r_[:64, :3]
    mixed = Images(good.pixels[rows], good.features[rows], np.repeat([0, 1], [64, 3]))
    found = judge(mixed, train, held_out, classes=("A", "B"), features="test", rng=rng())
    of = found.classes["A"]
    assert (of.num_generated, of.num_train, of.num_held_out, of.num_held_out_lesions) == (64, 70, 60, 30)
    assert of.generated.num_images == of.floor.num_images == of.copies.num_images == 64
    assert of.generated.frechet < 2 * of.floor.frechet
    assert of.generated.near_copies <= 0.05
    assert of.copies.near_copies == 1
    assert of.copies.data_copying < -5 < of.floor.data_copying
    assert of.copies.authenticity == 0 < 0.3 < of.generated.authenticity
    assert found.small_sample
    assert found.classes["B"].generated is None
    assert f"{MIN_IMAGES} generated images are needed and there are 3" in found.classes["B"].too_few
    assert found.overall["generated"]["frechet"] == pytest.approx(of.generated.frechet)
    written = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert len(written["classes"]["A"]["near_copies"]["rows"]) == round(of.generated.near_copies * 64)
    assert len(written["classes"]["A"]["near_copies"]["closest"]) == 24
    worse = judge(bad, train, held_out, classes=("A",), features="test", rng=rng(), num_draws=1).classes["A"]
    assert worse.generated.frechet > 3 * worse.floor.frechet
    assert worse.generated.kid_low > worse.floor.kid
    assert worse.generated.accuracy > 0.7 > worse.floor.accuracy
    assert worse.generated.precision < worse.floor.precision


def test_judge_refuses_what_would_make_the_floor_a_lie():
    train, held_out = images(50, 1, lesions="a"), images(50, 2, lesions="b")
    with pytest.raises(LeakError, match="25 lesions are in the training and in the held-out"):
        judge(images(50, 3), train, replace(held_out, groups=train.groups), classes=("A",), features="", rng=rng())
    with pytest.raises(DataError, match="need their lesions"):
        judge(images(50, 3), replace(train, groups=None), held_out, classes=("A",), features="", rng=rng())
    narrow = replace(held_out, features=held_out.features[:, :4])
    with pytest.raises(DataError, match="not of one network"):
        judge(images(50, 3), train, narrow, classes=("A",), features="", rng=rng())
