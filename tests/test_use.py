"""What is done with the images that an arm adds: where they stand in every epoch, what they count, who refuses what."""

import tomllib
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from classifier_case import CLASSES, DESCENT, Case
from moulage import plugins, runs
from moulage import recipe as recipes
from moulage.classifiers import _fitting, probe
from moulage.data import replacing
from moulage.data.catalog import Catalog
from moulage.data.training_view import Examples, TrainingView
from moulage.errors import DataError, RecipeError
from moulage.report.sections import methods
from moulage.stages import plan as plans
from moulage.stages import witness
from moulage.stages.classifier import EXTRA
from moulage.treatment import PLAIN, Treatment
from moulage.use import Use, Way, check
from recipes import phantom_recipe, tiny_gan
from small_study import Small

USES: dict[Way, Use] = {
    "add": Use(),
    "replace": Use("replace"),
    "weight": Use("weight", weight=0.5),
    "pretrain": Use("pretrain", share=0.5),
    "batch_share": Use("batch_share", share=0.3),
}


def numbered(labels: list[int], first: int = 0) -> Examples:
    """Embeddings whose single feature numbers them from ``first``."""
    return Examples(np.arange(first, first + len(labels), dtype=np.float32)[:, None], np.array(labels, np.int64))


def taken(real: list[int], extra: list[int]) -> np.ndarray:
    """The first real example of the class that no other has taken, for each extra one."""
    free = {label: [i for i, other in enumerate(real) if other == label] for label in extra}
    return np.array([free[label].pop(0) if free[label] else -1 for label in extra], np.int64)


def view(real: list[int], extra: list[int], num_slots: int, use: Use, **more: Any) -> TrainingView:
    places = taken(real, extra) if use.way == "replace" else None
    return TrainingView(
        numbered(real), numbered(extra, len(real)) if extra else None, num_slots, use=use, in_place_of=places, **more
    )


def slots_of(real: list[int], extra: list[int], use: Use) -> int:
    if use.way == "batch_share":
        return 0
    return int((taken(real, extra) < 0).sum()) if use.way == "replace" else len(extra)


# The order of an epoch

labels = st.lists(st.integers(0, 2), min_size=1, max_size=25)
doses = st.lists(st.integers(0, 2), max_size=20)
uses = st.one_of(
    st.sampled_from([USES["add"], USES["replace"]]),
    st.floats(0.01, 100).map(lambda weight: Use("weight", weight=weight)),
    st.floats(0.01, 0.99).map(lambda share: Use("pretrain", share=share)),
    st.floats(0.01, 0.99).map(lambda share: Use("batch_share", share=share)),
)
seeds = st.integers(0, 2**63 - 1)


@given(labels, st.lists(st.tuples(doses, uses), min_size=2, max_size=4), seeds, st.integers(1, 50), st.data())
@settings(max_examples=150, deadline=None)
def test_images_seen_are_equal_between_all_arms_doses_and_ways(real, arms, seed, epoch, data):
    """Whatever is added, however it is used and weighed: as many images an epoch, and none that left."""
    num_slots = max(slots_of(real, extra, use) for extra, use in arms)
    weighted, by_class = data.draw(st.booleans()), data.draw(st.booleans())
    seen = set()
    for extra, use in arms:
        weights = np.array([1.0 + i % 3 for i in range(len(real) + len(extra))]) if weighted else None
        some = view(real, extra, num_slots, use, weights=weights)
        class_weights = None
        if by_class and use.way != "batch_share":
            class_weights = (np.bincount(some.labels, minlength=3) > 0) * np.array([1.0, 2, 5])
        for one in (some, some.last):
            weights_of_class = class_weights
            if by_class and one is not some:
                weights_of_class = (np.bincount(one.labels, minlength=3) > 0) * np.array([1.0, 2, 5])
            order = one.epoch(seed, epoch, weights_of_class)
            seen.add(len(order))
            seen.add(sum(len(batch.labels) for batch in one.batches(seed, epoch, 4, None, weights_of_class)))
            assert order.dtype == np.int64
            assert 0 <= order.min() <= order.max() < len(one.labels)
            if one.in_place_of is not None:
                assert not set(order) & set(one.in_place_of[one.in_place_of >= 0])
            shares = one.shares(weights_of_class)
            assert shares.sum() == pytest.approx(1)
            assert (shares >= 0).all()
            times = np.bincount(order, minlength=len(one.labels))
            assert (times[shares == 0] == 0).all()
    assert seen == {len(real) + num_slots}


REAL, EXTRA_LABELS = [0, 1, 2, 2, 0, 1, 2, 0, 1, 2], [0, 0, 1]


def test_replaced_images_are_stood_for_wherever_they_would_be():
    some, none = (view(REAL, extra, 5, use) for extra, use in ((EXTRA_LABELS, USES["replace"]), ([], USES["add"])))
    for epoch in range(4):
        before = none.epoch(3, epoch)
        expected = [{0: 10, 4: 11, 1: 12}.get(int(i), i) for i in before]
        assert some.epoch(3, epoch).tolist() == expected
    assert some.counts(3).tolist() == none.counts(3).tolist() == [3, 3, 4]
    assert some.shares().tolist() == pytest.approx([0, 0, 0.1, 0.1, 0, *[0.1] * 5, *[0.1] * 3])


def test_more_images_than_there_are_to_replace_take_slots():
    some = view([0, 1, 1], [0, 0, 0], 4, USES["replace"])
    assert some.in_place_of is not None
    assert some.in_place_of.tolist() == [0, -1, -1]
    times = sum(np.bincount(some.epoch(1, epoch), minlength=6) for epoch in range(300)) / 300
    # Two of the four slots are empty: each of what no other has left takes 1 + 2 / 3 places; those in slots one.
    assert times.tolist() == pytest.approx([0, 5 / 3, 5 / 3, 5 / 3, 1, 1], abs=0.15)
    assert some.shares().tolist() == pytest.approx(np.array([0, 5 / 3, 5 / 3, 5 / 3, 1, 1]) / 7)
    assert some.counts(2).tolist() == [3, 2]


@pytest.mark.parametrize(("share", "batch_size"), [(0.3, 4), (0.05, 7), (0.8, 5)])
def test_extra_images_have_a_fixed_share_of_each_batch(share, batch_size):
    real, extra = [i % 3 for i in range(30)], [0, 0, 1, 0, 1]
    some, none = view(real, extra, 12, Use("batch_share", share=share)), view(real, [], 12, Use())
    times = np.zeros(35)
    for epoch in range(200):
        order, before = some.epoch(0, epoch), none.epoch(0, epoch)
        for start in range(len(order) - batch_size + 1):  # wherever a batch begins
            number = (order[start : start + batch_size] >= 30).sum()
            assert abs(number - share * batch_size) < 1
        found = np.bincount(order, minlength=35)
        assert np.ptp(found[:30]) <= 1, "real images as evenly as their places allow"
        assert np.ptp(found[30:]) <= 1
        is_real = order < 30
        could = np.minimum(np.bincount(before[is_real], minlength=30), found[:30]).sum()
        assert (order == before)[is_real].sum() >= could, "and where they stand in the arm that adds nothing"
        times += found / 200
    assert times == pytest.approx([*[42 * (1 - share) / 30] * 30, *[42 * share / 5] * 5], abs=0.2)
    assert some.shares() == pytest.approx([*[(1 - share) / 30] * 30, *[share / 5] * 5])


def test_the_real_images_of_a_batch_do_not_depend_on_what_is_extra():
    real = [i % 3 for i in range(30)]
    few, many = (view(real, [0] * number, 0, USES["batch_share"]).epoch(5, 1) for number in (2, 40))
    assert ((few >= 30) == (many >= 30)).all()
    assert (few[few < 30] == many[few < 30]).all()


def test_weights_of_data_sets_share_out_the_places_of_their_kind():
    weights = np.array([1, 1, 1, 3, 1, 1, 2, 2, 4], np.float64)
    some = view([0, 1, 2] * 2, [0, 1, 2], 6, USES["batch_share"], weights=weights)
    assert some.shares() == pytest.approx([*0.7 * weights[:6] / 8, *0.3 * weights[6:] / 8])
    times = sum(np.bincount(some.epoch(0, epoch), minlength=9) for epoch in range(3000)) / 3000
    assert times == pytest.approx(12 * some.shares(), abs=0.06)


def test_weighted_losses_count_as_much_as_one_on_the_mean():
    some, plain = (view(REAL, EXTRA_LABELS, 5, use) for use in (USES["weight"], USES["add"]))
    assert (some.epoch(2, 1) == plain.epoch(2, 1)).all()
    found = some.loss_weights()
    assert found is not None
    assert found[10:] / found[0] == pytest.approx([0.5] * 3)
    assert found[some.epoch(2, 1)].mean() == pytest.approx(1)
    assert some.counts(3).tolist() == [5, 4, 5]  # 4, 3.5 and 4, times 13 / 11.5
    by_class = some.loss_weights((1, 1, 1))
    assert by_class is not None
    order = some.epoch(2, 1, (1, 1, 1))
    for label in range(3):  # as many images of each class, and as much weight
        assert by_class[order][some.labels[order] == label].mean() == pytest.approx(1, abs=0.12)
    assert by_class[12] / by_class[1] == pytest.approx(0.5)
    assert plain.loss_weights() is None
    [batch] = some.batches(2, 1, 99)
    assert batch.weights is not None
    assert batch.weights.tolist() == pytest.approx(found[some.epoch(2, 1)])


def test_the_last_epochs_after_pretraining_are_of_real_images_alone():
    some, none = view(REAL, EXTRA_LABELS, 5, USES["pretrain"]), view(REAL, [], 5, USES["add"])
    assert (some.epoch(2, 1) == view(REAL, EXTRA_LABELS, 5, USES["add"]).epoch(2, 1)).all()
    assert (some.last.epoch(2, 9) == none.epoch(2, 9)).all()
    assert some.counts(3).tolist() == none.counts(3).tolist(), "treatments are told what counts in the end"
    for share, epochs, expected in ((0.5, 4, 2), (0.01, 4, 1), (0.99, 4, 3)):
        assert Use("pretrain", share=share).num_epochs(epochs) == expected
    for other in ("add", "replace", "weight", "batch_share"):
        assert USES[other].num_epochs(1) == 1
        assert view(REAL, EXTRA_LABELS, 5, USES[other]).last.num_extra == 3


def test_places_and_weights_that_make_no_sense_are_refused():
    def placed(places: list[int], way: Way = "replace") -> TrainingView:
        given = np.array(places, np.int64)
        return TrainingView(numbered([0, 0, 1]), numbered([0, 1], 3), 2, use=USES[way], in_place_of=given)

    for places in ([0], [0, 0], [2, 0], [0, 3], [-2, -1]):
        with pytest.raises(DataError, match="one real image of its class"):
            placed(places)
    with pytest.raises(DataError, match='under "replace", not "add"'):
        placed([0, 2], "add")
    with pytest.raises(DataError, match='under "replace", not "replace"'):
        TrainingView(numbered([0]), None, 0, use=USES["replace"])
    with pytest.raises(DataError, match="class weights ask for others"):
        view(REAL, EXTRA_LABELS, 5, USES["batch_share"]).epoch(0, 1, (1, 1, 1))


# Which real images leave


def catalog(labels: list[str], groups: list[str]) -> Catalog:
    names = [f"i{i}" for i in range(len(labels))]
    return Catalog.build(
        pd.DataFrame({"image": names, "location": names, "label": labels, "group": groups}), ("A", "B"), "c"
    )


@given(st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 9)), min_size=1, max_size=30), st.data())
@settings(max_examples=40, deadline=None)
def test_lesions_leave_one_after_the_other_and_doses_are_nested(rows, data):
    train = catalog([label for label, _ in rows], [str(group) for _, group in rows])
    small, large = sorted(data.draw(st.tuples(st.integers(0, 40), st.integers(0, 40))))
    found = {n: replacing.in_place_of(["A"] * n, train, np.random.default_rng(7)) for n in (small, large)}
    assert (found[large][:small] == found[small]).all(), "a larger dose replaces the same images and further ones"
    left = found[small][found[small] >= 0]
    assert len(left) == len(set(left)) == min(small, train.counts["A"])
    assert (train.table["label"].to_numpy()[left] == "A").all()
    stay = replacing.staying(train, {"A": small}, np.random.default_rng(7))
    assert sorted([*stay.images, *train.images[left]]) == sorted(train.images)
    of_a = train.only(label="A")
    parted = set(train.groups[left]) & set(stay.only(label="A").groups)
    assert len(parted) <= 1, "at most one lesion has left in part"
    assert not parted or len(of_a) > small


# What is minimised: the probe at its optimum


def clouds(counts: tuple[int, ...], seed: int) -> Examples:
    rng, labels = np.random.default_rng(seed), np.repeat(np.arange(3), counts)
    return Examples((rng.normal(0, 1, (len(labels), 4)) + 1.2 * np.eye(3, 4)[labels]).astype(np.float32), labels)


TRAIN, MORE = clouds((60, 40, 20), 0), clouds((0, 10, 30), 1)
SHARES = {
    # 120 real and 40 extra images in 200 places
    "add": ([(1 + 40 / 120) / 200] * 120, [1 / 200] * 40),
    "replace": ([1 / 140] * 120, [1 / 140] * 20 + [1 / 140] * 10 + [0.0] * 10),
    "weight": ([(1 + 40 / 120) / 180] * 120, [0.5 / 180] * 40),
    "batch_share": ([0.7 / 120] * 120, [0.3 / 40] * 40),
}


@pytest.mark.parametrize("way", SHARES)
def test_the_probe_is_at_the_optimum_of_what_the_way_says(way, tmp_path):
    """Judge: scikit-learn, with the share of each image written down by hand."""
    places, num_slots = None, 80
    of_real, of_extra = (np.array(each) for each in SHARES[way])
    if way == "replace":
        # 10 of class 1 and the first 20 of class 2 come for real ones; 10 of class 2 are more than there are.
        places = np.array([*range(60, 70), *range(100, 120), *[-1] * 10])
        times = np.ones(160) * (1 + (num_slots - 10) / 120)
        times[places[places >= 0]], times[-10:] = 0, 1
        of_real, of_extra = times[:120] / 200, times[120:] / 200
    shares = np.concatenate([of_real, of_extra])
    assert shares.sum() == pytest.approx(1)
    some = TrainingView(TRAIN, MORE, num_slots, use=USES[way], in_place_of=places)
    assert some.shares() == pytest.approx(shares)
    classifier = probe.Classifier(probe.Config(penalty=0.01), CLASSES)
    classifier.fit(some, TRAIN, seed=0, folder=tmp_path)
    mean, std = TRAIN.inputs.mean(0), TRAIN.inputs.std(0)
    inputs = (np.concatenate([TRAIN.inputs, MORE.inputs]) - mean) / std
    judge = LogisticRegression(C=1 / 0.01, tol=1e-8, max_iter=5000)
    judge.fit(inputs[shares > 0], some.labels[shares > 0], sample_weight=shares[shares > 0])
    expected, found = judge.decision_function(inputs), classifier.predict(np.concatenate([TRAIN.inputs, MORE.inputs]))
    np.testing.assert_allclose(
        found - found.mean(1, keepdims=True), expected - expected.mean(1, keepdims=True), atol=0.01
    )
    assert runs.read_log(tmp_path, "epoch")[-1]["num_images"] == 200


# What classifiers train on, step by step

IN_STEPS = {
    "probe": {"descent": {**DESCENT, "epochs": 4, "choose": "last"}},
    "finetune": {"epochs": 2, "ema_decay": 0.0, "batch_size": 16, "choose": "last"},
}


def of_case(case: Case, way: Way) -> TrainingView:
    """Eight images of the class ``NV`` come, for the first real ones of it where they replace."""
    places = np.append(np.flatnonzero(case.train.labels == 2), [-1] * 3) if way == "replace" else None
    return TrainingView(case.train, case.extra, 12, use=USES[way], in_place_of=places)


@pytest.fixture(scope="module")
def finetune() -> Case:
    return Case("finetune", **IN_STEPS["finetune"])


@pytest.mark.parametrize("way", USES)
def test_a_fine_tuning_is_shown_these_images_in_this_order(way, finetune, tmp_path):
    seen, some = [], of_case(finetune, way)

    def augment(images):
        seen.append(images.clone())
        return images

    treatment = Treatment(augment=augment, needs_pixels=True, key="looks")
    finetune.fitted(tmp_path, view=some, treatment=treatment)
    orders = [some.epoch(0, 1), some.epoch(0, 2)]
    if way == "pretrain":
        orders[1] = TrainingView(finetune.train, None, 12).epoch(0, 2)
    expected = np.concatenate([some.inputs_at(order) for order in orders])
    assert torch.equal(torch.cat(seen).permute(0, 2, 3, 1), torch.from_numpy(expected))
    log = runs.read_log(tmp_path, "epoch")
    assert [record["num_images"] for record in log] == [len(finetune.train) + 12] * 2


@pytest.mark.parametrize("name", ["probe", "finetune"])
@pytest.mark.parametrize("mix", [False, True])
def test_a_weighted_loss_is_a_loss_times_a_weight(name, mix, tmp_path):
    """Extra images are the only ones of their class here, so that a loss that weighs classes does the same."""
    case = Case(name, **IN_STEPS[name])
    kept = case.train.labels < 2
    train = Examples(case.train.inputs[kept], case.train.labels[kept])
    some = TrainingView(train, case.extra, 12, use=Use("weight", weight=0.25))
    mean = (len(train) + 4 + 0.25 * 8) / (len(train) + 12)
    factors = torch.tensor([1, 1, 0.25]) / mean

    def loss(logits, targets, progress):
        return functional.cross_entropy(logits, targets, reduction="none") * (targets @ factors.to(targets))

    def swap(inputs, targets):
        return 0.7 * inputs + 0.3 * inputs.flip(0), 0.7 * targets + 0.3 * targets.flip(0)

    mixing = {"mix": swap} if mix else {}
    found = case.fitted(tmp_path / "a", view=some, treatment=Treatment(**mixing, key="a") if mix else PLAIN)
    plain = TrainingView(train, case.extra, 12)
    expected = case.fitted(tmp_path / "b", view=plain, treatment=Treatment(loss=loss, **mixing, key="b"))
    logits = [case.predict(each) for each in (found, expected, case.fitted(tmp_path / "c", view=plain))]
    np.testing.assert_allclose(logits[0], logits[1], atol=2e-3)
    assert np.abs(logits[0] - logits[2]).max() > 0.02, "the weight matters"


def test_metadata_and_weights_are_mixed_as_the_targets_are():
    inputs, targets, known = torch.rand(4, 5), torch.eye(4)[:, :3], torch.rand(4, 2)
    weights = torch.tensor([1.0, 0.5, 1, 0.5])

    def mix(inputs, targets):
        return 0.7 * inputs + 0.3 * inputs.flip(0), 0.7 * targets + 0.3 * targets.flip(0)

    given = (inputs, targets, known, weights)
    expected = [0.7 * each + 0.3 * each.flip(0) for each in given]
    for left_out in ((), (2,), (3,), (2, 3)):
        some = [None if i in left_out else each for i, each in enumerate(given)]
        found = _fitting.mixed(Treatment(mix=mix, key="m"), *some)
        for i, each in enumerate(found):
            assert each is None if i in left_out else torch.allclose(each, expected[i])
    assert _fitting.mixed(PLAIN, *given) == given


def test_no_epoch_before_the_last_stage_is_kept(tmp_path, monkeypatch):
    """Two epochs on all images, and the first on real ones alone, though the very first has the most merit."""
    case = Case("probe", **IN_STEPS["probe"])
    monkeypatch.setattr(_fitting, "merit", lambda choose, epoch, scored: -float(epoch))
    kept = case.fitted(tmp_path / "a", view=of_case(case, "pretrain"))
    monkeypatch.undo()
    three = Case("probe", descent={**DESCENT, "epochs": 3, "choose": "last"})
    expected = three.fitted(
        tmp_path / "b", view=TrainingView(case.train, case.extra, 12, use=Use("pretrain", share=0.6))
    )
    assert (case.predict(kept) == case.predict(expected)).all()


def test_a_pretrained_fine_tuning_resumes_in_either_stage(finetune, tmp_path):
    some = of_case(finetune, "pretrain")
    whole = finetune.fitted(tmp_path / "whole", view=some)
    steps = some.num_steps(16)

    def stop(done, total, note):
        if done > steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune.fitted(tmp_path / "broken", view=some, progress=stop)
    resumed = finetune.fitted(tmp_path / "broken", view=some)
    assert (finetune.predict(resumed) == finetune.predict(whole)).all()


# Refusals

GAN = {"balance": "synthesize", "generator": "gan", "add": {"AK": 4}}
DESCENDING = {"options": {"descent": {"epochs": 1}}}


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ({"use": "replacing"}, r"arms\.x\.use(.|\n)*replace"),
        ({"weight": 0.5}, 'weight is for use = "weight", and use is "add"'),
        ({"use": "weight"}, 'use = "weight" needs weight, such as weight = 0.5'),
        ({"use": "weight", "weight": 0}, r"arms\.x\.weight"),
        ({"use": "weight", "weight": 0.5, "share": 0.5}, 'share is for use = "pretrain" or "batch_share"'),
        ({"use": "batch_share"}, 'use = "batch_share" needs share, such as share = 0.3'),
        ({"use": "batch_share", "share": 1.0}, r"arms\.x\.share"),
        ({"use": "batch_share", "share": 0.0}, r"arms\.x\.share"),
        ({"use": "pretrain"}, "needs share"),
        ({"use": "replace", "add": {}}, "what is done with added images: give one of add, ratio, like"),
        ({"use": "replace", "balance": "none", "generator": ""}, 'balance = "none" adds no image'),
        ({"use": "replace", "balance": "focal", "generator": ""}, 'balance = "focal" adds no image'),
        ({"use": "pretrain", "share": 0.5}, r'arms.x.use = "pretrain"(.|\n)*optimum(.|\n)*descent(.|\n)*finetune'),
        (
            {"use": "batch_share", "share": 0.3, "treatment": "oversampling"},
            "fixes what a batch holds, and oversampling",
        ),
        ({"use": "batch_share", "share": 0.3, "treatment": "crt"}, "fixes what a batch holds, and crt"),
    ],
)
def test_contradictions_are_refused_before_work(arm, words):
    with pytest.raises(RecipeError, match=words):
        plans.check(recipes.parse(recipe_of(x=GAN | arm)))


def recipe_of(classifier: dict[str, Any] | None = None, **arms: dict[str, Any]) -> dict[str, Any]:
    return phantom_recipe(generators={"gan": tiny_gan("AK", "VASC")}, arms=arms, classifier=classifier or {})


def test_what_a_classifier_cannot_do_is_refused_before_work():
    pretrain = {"x": GAN | {"use": "pretrain", "share": 0.5}}
    plans.check(recipes.parse(recipe_of({"options": {"descent": {"epochs": 2}}}, **pretrain)))
    with pytest.raises(RecipeError, match=r"one epoch(.|\n)*2 or more"):
        plans.check(recipes.parse(recipe_of(DESCENDING, **pretrain)))
    config = plugins.configure("classifiers", "finetune", {"mask_task": {"weight": 1.0}})
    masked = plugins.load("classifiers", "finetune").Classifier(config, CLASSES)
    masked.check_use(USES["batch_share"])
    with pytest.raises(RecipeError, match="mask_task"):
        masked.check_use(USES["weight"])
    with pytest.raises(RecipeError, match="one epoch"):
        Case("finetune", epochs=1).new().check_use(USES["pretrain"])

    unknowing: Any = object()
    for way in ("add", "replace", "batch_share"):
        check(unknowing, USES[way])
    for way in ("weight", "pretrain"):
        with pytest.raises(RecipeError, match=f"does not say that it knows {way}"):
            check(unknowing, USES[way])


def test_a_classifier_refuses_a_view_that_it_cannot_use(tmp_path):
    case = Case("probe", penalty=0.1)
    with pytest.raises(RecipeError, match="optimum"):
        case.fitted(tmp_path, view=of_case(case, "pretrain"))
    assert not list(tmp_path.iterdir())


# A study

STUDY = phantom_recipe(
    generators={"noise": {"plugin": "noise", "classes": ["AK", "VASC"], "size": 32}},
    classifier={"options": {"penalty": 0.1}},
    split={"reserve": 0.3},
    arms={
        "replaced": {"balance": "synthesize", "generator": "noise", "add": {"AK": 3, "VASC": 60}, "use": "replace"},
        "copies": {"balance": "duplicates", "add": {"AK": 2}, "use": "replace"},
        "oracle": {"balance": "oracle", "add": {"AK": 3}, "use": "weight", "weight": 0.5},
        "permuted": {"balance": "permuted", "add": {"AK": 40}, "use": "batch_share", "share": 0.3},
    },
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Small:
    return Small(STUDY, tmp_path_factory.mktemp("run"))


def test_arms_of_all_ways_see_as_many_images(finished):
    results = finished.collect()
    train = finished.part("train")
    more = 60 - train.counts["VASC"]
    assert more > 3, "the most slots are needed for images that find none to replace"
    assert {arm.images_seen for arm in results.arms} == {len(train) + more}
    assert {arm.name: arm.num_real for arm in results.arms} == {
        "none": len(train),
        "replaced": len(train) - 3 - train.counts["VASC"],
        "copies": len(train) - 2,
        "oracle": len(train),
        "permuted": len(train),
    }
    said = methods.text(results)
    for words in (
        "copies of real training images in place of real ones)",
        "with a loss weight of 0.5)",
        "as 30 % of each batch)",
    ):
        assert words in said


def test_each_image_that_replaces_names_the_one_that_left(finished):
    train, rows = finished.part("train"), {arm: finished.extra(arm) for arm in ("replaced", "copies", "oracle")}
    assert (rows["oracle"][witness.IN_PLACE_OF] == "").all()
    left = rows["replaced"][witness.IN_PLACE_OF]
    of_ak = left[rows["replaced"]["label"] == "AK"].tolist()
    assert set(left[left != ""]) == {*train.only(label="VASC").images, *of_ak}
    assert set(of_ak) < set(train.only(label="AK").images)
    assert rows["copies"][witness.IN_PLACE_OF].tolist() == of_ak[:2], "the same leave, of any arm"
    assert not set(rows["copies"]["image"]) & set(of_ak[:2])


def test_an_arm_that_says_other_images_left_is_refused(finished):
    stage = finished.stage("classifier", "copies")
    for image in ("", finished.extra("replaced")[witness.IN_PLACE_OF][2], finished.part("test").images[0]):
        with finished.added(
            stage, image=finished.part("train").only(label="AK").images[0], origin="real", in_place_of=image
        ):
            finished.refused(stage.folder, "other images left")
    with finished.kept(stage, EXTRA) as path:
        pd.read_parquet(path).assign(in_place_of="").to_parquet(path)
        finished.refused(stage.folder, "other rows")


def test_copies_of_what_left_are_refused_before_work(finished):
    train = finished.part("train")
    arm = {"balance": "duplicates", "add": {"AK": train.counts["AK"]}, "use": "replace"}
    recipe = recipes.parse(STUDY | {"arms": {"none": {"balance": "none"}, "copies": arm}})
    with pytest.raises(RecipeError, match=r'all \d+ real images of "AK"(.|\n)*fewer'):
        plans.plan(recipe, finished.prepared)


def test_a_curve_hands_its_use_to_its_generated_images_and_their_copies():
    given = {
        "generators": {"gan": tiny_gan("AK")},
        "split": {"reserve": 0.3},
        "curves": {"c": {"doses": [0.5, 0.9], "generators": ["gan"], "use": "weight", "weight": 0.5}},
    }
    found = recipes.parse(phantom_recipe(**given))
    plans.check(found)
    assert {name: arm.used for name, arm in found.arms.items() if arm.curve} == {
        f"c-{series}-{dose}": Use("weight", 0.5) if series != "real" else Use()
        for series in ("real", "copies", "gan")
        for dose in (50, 90)
    }
    assert recipes.parse(tomllib.loads(recipes.to_toml(found))).arms == found.arms
    for change, words in (
        ({"use": "weight", "share": 0.5}, 'curves.c(.|\n)*use = "weight" needs weight'),
        ({"use": "replace", "doses": [0.5, 1.0]}, "curves.c(.|\n)*no real image to be copied; give doses below 1"),
        ({"use": "batch_share"}, "curves.c(.|\n)*needs share"),
    ):
        with pytest.raises(RecipeError, match=words):
            recipes.parse(phantom_recipe(**given | {"curves": {"c": {"generators": ["gan"]} | change}}))
