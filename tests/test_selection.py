"""Selection rules: the contract that each honours, and each on features where the right answer is known."""

import functools
import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from moulage import plugins
from moulage.data.catalog import REAL, Catalog
from moulage.data.neighbours import distance_to_others
from moulage.errors import DataError, LeakError
from moulage.selection import ImageSet
from moulage.selection._probability import probabilities
from moulage.selection._space import highest, how_many, support
from moulage.selection.diversity import quotas
from moulage.stages.selection import Rule, chain, decisions, first_seeds, pictures, summary, survivors

CLASSES = ("AK", "NV", "DF")
NAMES = plugins.names("selection")
DRAWN = "noise-0-abc"


def images(features, labels, groups=None, origin=REAL, pixels=None) -> ImageSet:
    """Images with these features [N, D]; each its own lesion, and random pixels, where nothing else is said."""
    features = np.asarray(features, np.float32)
    prefix = "r" if origin == REAL else "d"
    names = [f"{prefix}{i}" for i in range(len(features))]
    columns = {"image": names, "label": labels, "location": names, "origin": origin, "lesion": groups or names}
    table = pd.DataFrame(columns).assign(seed=np.arange(len(names)) if origin != REAL else -1)
    if pixels is None:
        pixels = np.random.default_rng(len(names)).integers(0, 256, (len(names), 32, 32, 3), np.uint8)
    return ImageSet(Catalog.build(table, CLASSES, prefix), pixels, features)


def drawn(features, labels, **options) -> ImageSet:
    return images(features, labels, origin=DRAWN, **options)


def judge(name, candidates, reference, want=None, seed=0, **options):
    module = plugins.load("selection", name)
    want = want or dict.fromkeys(CLASSES, 5)
    return module.select(module.Config(**options), candidates, reference, want, np.random.default_rng(seed))


def clouds(rng, num_images, spread=1.0, gap=10.0, classes=CLASSES):
    """Features of classes that lie far apart, ``num_images`` of each, and their labels."""
    middles = {name: np.eye(8)[i] * gap for i, name in enumerate(CLASSES)}
    features = np.concatenate([middles[c] + spread * rng.standard_normal((num_images, 8)) for c in classes])
    return features, np.repeat(classes, num_images).tolist()


@pytest.fixture(scope="module")
def real() -> ImageSet:
    """24 images of each class, two of each lesion."""
    features, labels = clouds(np.random.default_rng(0), 24)
    return images(features, labels, [f"l{i // 2}" for i in range(len(labels))])


@pytest.fixture(scope="module")
def candidates() -> ImageSet:
    return drawn(*clouds(np.random.default_rng(1), 10, spread=0.9, classes=("NV", "AK")))


@pytest.fixture(scope="module")
def plain(real, candidates):
    """What each rule says of the candidates, computed once."""
    return functools.cache(lambda name: judge(name, candidates, real))


# The contract


@pytest.mark.parametrize("name", NAMES)
def test_contract_of_every_rule(name, real, candidates, plain):
    one, two = plain(name), judge(name, candidates, real)
    assert one.keep.dtype == bool
    assert one.keep.shape == one.score.shape == one.nearest.shape == (len(candidates),)
    assert np.isfinite(one.score).all()
    assert one.score.dtype == np.float64
    assert one.nearest.dtype == np.int64
    assert ((one.nearest >= -1) & (one.nearest < len(real))).all()
    assert len(one.reasons) == len(candidates)
    assert all(reason.endswith(".") and "\n" not in reason for reason in (*one.reasons, *one.notes))
    assert "There is nothing to judge it by." not in one.reasons
    assert one.reasons == two.reasons, "the random numbers that are passed in decide, and nothing else"
    assert (one.keep == two.keep).all()
    assert (one.score == two.score).all()


@pytest.mark.parametrize("name", sorted({*NAMES} - {"random", "diversity"}))  # these draw lots in that order
def test_no_rule_minds_the_order_of_candidates(name, real, candidates, plain):
    order = np.random.default_rng(5).permutation(len(candidates))
    shuffled = judge(name, candidates.take(order), real)
    np.testing.assert_array_equal(shuffled.keep, plain(name).keep[order])
    np.testing.assert_allclose(shuffled.score, plain(name).score[order], rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_no_rule_minds_having_little_to_go_by(name, real, candidates):
    assert len(judge(name, candidates.take(np.zeros(0, np.int64)), real).keep) == 0
    one_each = real.take(np.array([0, 24]))
    found = judge(name, candidates, one_each)
    assert found.notes or name in ("random", "truncation", "near_copies")
    assert np.isfinite(found.score).all()
    if name not in ("random", "truncation", "near_copies"):
        assert found.keep.all(), "what cannot be judged is kept, and said"


def test_images_whose_arrays_do_not_fit_are_refused(real):
    with pytest.raises(DataError, match="72 images, and features of shape"):
        ImageSet(real.catalog, real.pixels, real.features[:-1])


# Geometry


def test_radii_reach_to_other_lesions():
    line = np.array([[0.0], [1.0], [3.0], [7.0]])
    assert distance_to_others(line, np.array(list("abcd")), 1).tolist() == [1, 1, 2, 4]
    assert distance_to_others(line, np.array(list("aacd")), 1).tolist() == [3, 2, 2, 4]
    assert distance_to_others(line, np.array(list("aacd")), 3).tolist() == [np.inf, np.inf, 4, 7]


def test_support_by_hand():
    real, radius = np.array([[0.0], [1.0], [7.0]]), np.array([1.0, 1.0, 6.0])
    found = support(np.array([[0.4], [2.0], [-3.0], [0.0]]), real, radius)
    assert found.rarity.tolist() == [1, 1, np.inf, 1]
    np.testing.assert_allclose(found.ratio, [2.5, 1.2, 0.6, np.inf])
    assert found.ball.tolist() == [0, 2, 2, 0]
    own = support(real, real, radius, (np.array(list("aab")),) * 2)
    assert own.rarity.tolist() == [np.inf, 6, np.inf], "no ball of the own lesion counts"


def test_support_is_improved_precision():
    """Against the definition, written out: is any real image nearer than its own k-th nearest?"""
    rng = np.random.default_rng(3)
    real, fake = rng.standard_normal((70, 5)), 1.3 * rng.standard_normal((50, 5))
    radius = distance_to_others(real, np.arange(70).astype(str), 3)
    gaps = np.linalg.norm(real[:, None] - real, axis=2)
    np.testing.assert_allclose(radius, np.sort(gaps, axis=1)[:, 3])
    expected = (np.linalg.norm(fake[:, None] - real, axis=2) <= radius).any(axis=1)
    found = support(fake, real, radius)
    assert (np.isfinite(found.rarity) == expected).all()
    assert ((found.ratio >= 1) == expected).all()
    assert 0 < expected.sum() < 50


def test_the_highest():
    assert highest(np.array([1.0, 3, 3, 2]), 2).tolist() == [False, True, True, False]
    assert highest(np.array([1.0, 1, 1]), 2).tolist() == [True, True, False]
    assert (how_many(None, 10, 4), how_many(None, 3, 4), how_many(0.25, 10, 4)) == (4, 3, 2)


# Each rule where the answer is known


def test_near_copies_finds_turned_and_recoloured_copies():
    noise = np.random.default_rng(0).standard_normal((80, 32, 32, 3))
    smooth = ndimage.gaussian_filter(noise, (0, 2, 2, 0))
    pixels = (128 + 60 * smooth / smooth.std()).clip(0, 255).astype(np.uint8)
    train, other = pixels[:40], pixels[40:]
    real = images(np.zeros((40, 2)), ["NV"] * 40, pixels=train)
    paler = (train[2:3] * 0.8 + 20).astype(np.uint8)
    copies = np.concatenate([train[0:1], np.rot90(train[1:2], 1, (1, 2)), paler, train[3:4, :, ::-1]])
    asked = np.concatenate([copies, other])
    result = judge("near_copies", drawn(np.zeros((44, 2)), ["NV"] * 44, pixels=asked), real)
    assert not result.keep[:4].any()
    assert result.nearest[:4].tolist() == [0, 1, 2, 3]
    assert result.keep[4:].mean() > 0.8
    assert "training image r1 (a copy: below" in result.reasons[1]
    assert result.notes == [
        "40 training images are too few to promise 1.0% false alarms: 2.4% of new images would be called copies."
    ]
    assert not judge("near_copies", drawn(np.zeros((1, 2)), ["NV"], pixels=asked[:1]), real, false_alarms=0.1).notes


def test_off_manifold_drops_what_is_unlike_its_own_class(real, candidates):
    far = np.array([[40.0] * 8, [10, 0, 0, 0, 0, 0, 0, 0]], np.float32)
    strange = drawn(np.concatenate([candidates.features, far]), [*candidates.catalog.table["label"], "AK", "NV"])
    found = judge("off_manifold", strange, real, k=5)
    assert found.keep[:-2].mean() > 0.8
    assert found.keep[-2:].tolist() == [False, False], "the last one lies among AK and was drawn as NV"
    assert found.score[-2] < 0.2
    assert "outside of all" in found.reasons[-2]
    assert real.catalog.table["label"][found.nearest[-1]] == "NV"
    assert "would be dropped" in found.notes[0]


def test_rarity_drops_what_lies_in_wide_balls_alone():
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.standard_normal((80, 2)), [[30.0, 0]]])
    real = images(features, ["AK"] * 81)
    asked = drawn([[0.0, 0], [20, 0]], ["AK"] * 2)
    assert judge("off_manifold", asked, real, k=3).keep.tolist() == [True, True]
    assert judge("off_manifold", asked, real, k=3, rarity=0.95).keep.tolist() == [True, False]


def test_disagreement_drops_what_looks_like_another_class(real, candidates):
    wrong = candidates.catalog.with_columns(
        label=np.where(np.arange(20) % 10 == 0, "DF", candidates.catalog.table["label"])
    )
    found = judge("disagreement", ImageSet(wrong, candidates.pixels, candidates.features), real)
    assert (found.keep == (np.arange(20) % 10 != 0)).all()
    assert found.reasons[0].startswith("DF with probability 0.")
    assert "NV with 0." in found.reasons[0]
    surer = judge("disagreement", ImageSet(wrong, candidates.pixels, candidates.features), real, strength=0.01)
    assert surer.score[0] < found.score[0] < 0.5 < found.score[1] < surer.score[1]
    assert any("would be dropped in the same way" in note for note in found.notes)


def test_a_copy_of_a_mislabelled_image_is_judged_by_a_classifier_that_never_saw_it(real):
    """Nobody can learn random labels: out of fold a copy of a training image is as uncertain as a new one."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((120, 40)).astype(np.float32)
    labels = np.array(["AK", "NV"])[rng.integers(0, 2, 120)].tolist()
    reference, copies = images(features, labels), drawn(features, labels)
    found = probabilities(copies, reference, rng, num_folds=5, strength=1e-6, most_images=100)
    own = found.candidates[np.arange(120), copies.catalog.labels]
    assert 0.35 < (own > 0.5).mean() < 0.65
    np.testing.assert_allclose(found.candidates.sum(axis=1), 1)
    np.testing.assert_allclose(found.real.sum(axis=1), 1)
    assert found.real[:, 2].max() == 0


def test_folds_part_no_lesion():
    """Two photographs of each lesion are the same; if a fold parted them, the label would be known by heart."""
    rng = np.random.default_rng(0)
    features = np.repeat(rng.standard_normal((60, 40)), 2, axis=0).astype(np.float32)
    labels = np.repeat(np.array(["AK", "NV"])[rng.integers(0, 2, 60)], 2).tolist()
    reference = images(features, labels, [f"l{i // 2}" for i in range(120)])
    found = probabilities(drawn(features, labels), reference, rng, num_folds=4, strength=1e-6, most_images=200)
    for asked, true in (
        (found.candidates, reference.catalog.labels),
        (found.real, reference.catalog.labels[found.rows]),
    ):
        assert 0.3 < (asked[np.arange(120), true] > 0.5).mean() < 0.7


def test_diversity_keeps_the_shares_of_real_clusters():
    rng = np.random.default_rng(0)
    middles = np.array([[0.0, 0], [50, 0], [0, 50]])
    real = images(np.repeat(middles, [60, 30, 10], axis=0) + rng.standard_normal((100, 2)), ["AK"] * 100)
    asked = np.repeat(middles, [10, 60, 20], axis=0) + rng.standard_normal((90, 2))
    found = judge("diversity", drawn(asked, ["AK"] * 90), real, {"AK": 20}, num_clusters=3)
    kept = np.bincount(np.repeat([0, 1, 2], [10, 60, 20])[found.keep], minlength=3)
    assert kept.tolist() == [10, 6, 2], "12 places for 10 images in the first; others do not fill them"
    assert found.notes == ["AK: 2 places in 1 of 3 clusters stay empty, for lack of drawn images."]
    other = judge("diversity", drawn(asked, ["AK"] * 90), real, {"AK": 20}, seed=1, num_clusters=3)
    assert (other.keep != found.keep).any(), "which images fill a quota is drawn by lot"


def test_quotas_add_up():
    assert quotas(np.array([60, 30, 10]), 10).tolist() == [6, 3, 1]
    assert quotas(np.array([1, 1, 1]), 10).sum() == 10
    assert quotas(np.array([5, 3]), 0).tolist() == [0, 0]


def test_random_keeps_as_many_as_wanted_and_others_with_another_seed(real, candidates):
    found = judge("random", candidates, real, {"AK": 7, "NV": 3})
    labels = candidates.catalog.table["label"].to_numpy()
    assert {name: int(found.keep[labels == name].sum()) for name in ("AK", "NV")} == {"AK": 7, "NV": 3}
    assert (judge("random", candidates, real, {"AK": 7, "NV": 3}, seed=1).keep != found.keep).any()
    assert judge("random", candidates, real, share=0.5).keep.sum() == 10
    assert judge("random", candidates, real, {"AK": 99, "NV": 99}).keep.all()


@pytest.mark.parametrize("by", ["mean", "density"])
def test_truncation_keeps_the_middle(by, real, candidates):
    found = judge("truncation", candidates, real, {"AK": 5, "NV": 5}, by=by)
    middles = np.stack([real.features[real.rows_of(name)].mean(axis=0) for name in CLASSES])
    distance = np.linalg.norm(candidates.features - middles[candidates.catalog.labels], axis=1)
    assert found.keep.sum() == 10
    assert distance[found.keep].mean() < 0.9 * distance[~found.keep].mean()
    if by == "mean":
        np.testing.assert_allclose(found.score, -distance, rtol=1e-5)


def test_density_keeps_both_looks_and_the_mean_lies_between_them():
    rng = np.random.default_rng(0)
    real = images(np.repeat([[0.0, 0], [20, 0]], 30, axis=0) + rng.standard_normal((60, 2)), ["AK"] * 60)
    asked = drawn([[0.0, 0], [20, 0], [10, 0]], ["AK"] * 3)
    assert judge("truncation", asked, real, {"AK": 1}, by="mean").keep.tolist() == [False, False, True]
    assert judge("truncation", asked, real, {"AK": 2}, by="density").keep.tolist() == [True, True, False]


@pytest.mark.parametrize("by", ["probability", "manifold"])
def test_best_keeps_the_surest(by, real):
    steps = np.zeros((9, 8), np.float32)
    steps[:, 1] = np.linspace(0, 10, 9)  # from the middle of AK ...
    steps[:, 0] = np.linspace(10, 0, 9)  # ... to that of NV
    asked = drawn(np.concatenate([steps, steps]), ["AK"] * 9 + ["NV"] * 9)
    found = judge("best", asked, real, {"AK": 3, "NV": 2}, by=by)
    assert set(np.flatnonzero(found.keep)) <= {0, 1, 2, 3} | {14, 15, 16, 17}
    assert found.keep.sum() == 5
    assert "of 9, of which 3 are kept" in found.reasons[0]


# Rules in a chain


def rule(plugin, **config):
    return Rule(plugin, config)


def test_each_rule_sees_what_those_before_it_kept(real, candidates):
    rules = [rule("random", share=0.5), rule("off_manifold"), rule("random", share=0.5)]
    steps = chain(rules, candidates, real, {"AK": 1, "NV": 1}, seed=3)
    assert steps[0].rows.tolist() == list(range(20))
    for before, after in itertools.pairwise(steps):
        assert after.rows.tolist() == before.rows[before.judgement.keep].tolist()
    kept = survivors(steps, 20)
    assert kept.tolist() == steps[-1].rows[steps[-1].judgement.keep].tolist()
    assert (steps[0].judgement.score[:4] != steps[2].judgement.score[:4]).any(), "the same rule twice draws other lots"
    table = decisions(steps, candidates)
    assert len(table) == sum(len(step.rows) for step in steps)
    assert set(table["image"][~table["kept"]]) == set(candidates.catalog.images) - set(candidates.catalog.images[kept])
    found = summary(steps, candidates, candidates.catalog.take(kept), {"AK": 1, "NV": 1})
    assert [sum(each["came_in"].values()) for each in found["rules"]] == [len(step.rows) for step in steps]
    assert sum(found["kept"].values()) == len(kept)
    assert found["rules"][0]["dropped"] == {"AK": 5, "NV": 5}


def test_pictures_show_what_each_rule_dropped_beside_what_it_was_held_against(real, candidates):
    steps = chain([rule("random", share=0.9), rule("off_manifold", k=1)], candidates, real, {"AK": 1, "NV": 1}, seed=3)
    found = pictures(steps, candidates, real)
    index = {name: row for row, name in enumerate(candidates.catalog.images)}
    rows = [index[name] for name in found["names"]]
    np.testing.assert_array_equal(found["images"], candidates.pixels[rows])
    for number, step in enumerate(steps):
        assert set(np.array(rows)[found["rule"] == number]) <= set(step.dropped)
    second = found["rule"] == 1
    assert second.any()
    assert found["has_nearest"].tolist() == second.tolist()
    assert not found["nearest"][~second].any()
    place = {row: place for place, row in enumerate(steps[1].rows)}
    expected = [steps[1].judgement.nearest[place[row]] for row in np.array(rows)[second]]
    np.testing.assert_array_equal(found["nearest"][second], real.pixels[expected])


def test_a_chain_takes_neither_real_candidates_nor_a_drawn_reference(real, candidates):
    with pytest.raises(LeakError, match='takes "r0" for a drawn image'):
        chain([rule("random")], real, real, {}, seed=0)
    with pytest.raises(LeakError, match='takes "d0" for a real image'):
        chain([rule("random")], candidates, candidates, {}, seed=0)


def test_the_first_seeds_of_each_class(candidates):
    shuffled = candidates.catalog.take(np.random.default_rng(0).permutation(20))
    rows = first_seeds(shuffled, {"NV": 3, "AK": 2})
    assert shuffled.images[rows].tolist() == ["d0", "d1", "d2", "d10", "d11"]
    with pytest.raises(DataError, match="there are 10"):
        first_seeds(shuffled, {"NV": 11})
