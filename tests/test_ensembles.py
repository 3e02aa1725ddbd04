"""Ensembles: fitted on the validation part alone, by rules that are what they are called."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.metrics import balanced_accuracy_score

from moulage.errors import DataError, RecipeError
from moulage.evaluation.ensembles import METHODS, Member, best_single, combine, greedy_weights, mixture_weights
from moulage.evaluation.operating_point import choose_strength, decide, log_prior
from moulage.evaluation.predictions import ARGMAX, PARTS, Predictions, log_softmax
from moulage.evaluation.scores import scores_of
from moulage.evaluation.slices import restrict

CLASSES = ("NV", "BCC", "AK")
SIZES = (120, 60, 30)


def predictions(
    seed: int, part: Any, *, skill: float = 1.5, arm: str = "a", trial: int = 0, **more: Any
) -> Predictions:
    """Made-up logits of a part: the same images for every seed, two a lesion."""
    labels = np.repeat(np.arange(3), SIZES)
    names = np.array([f"{part}-{row}" for row in range(len(labels))], object)
    groups = np.array([f"{part}-L{row // 2}" for row in range(len(labels))], object)
    noise = np.random.default_rng((seed, len(part))).normal(size=(len(labels), 3))
    logits = skill * np.eye(3)[labels] + noise
    return Predictions(names, groups, labels, logits, CLASSES, arm, trial, part, more.get("split", "s"))


def member(name: str, seed: int, **more: Any) -> Member:
    return Member(name, *(predictions(seed, part, arm=name, **more) for part in ("validation", "test")))


def accuracy(found: Predictions) -> float:
    return float(scores_of(found)["balanced_accuracy"])


@pytest.fixture(scope="module")
def three() -> list[Member]:
    return [member("a", 1), member("b", 2), member("c", 3, skill=0.7)]


def test_the_mean_is_that_of_probabilities_or_of_centred_logits(three: list[Member]):
    found = combine(three, "mean")
    expected = np.mean([m.test.probabilities for m in three], axis=0)
    assert found.test.probabilities == pytest.approx(expected, abs=1e-6)
    assert found.weights == pytest.approx({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    found = combine(three, "mean", average="logits")
    geometric = np.exp(np.mean([log_softmax(m.test.logits) for m in three], axis=0))
    assert found.test.probabilities == pytest.approx(geometric / geometric.sum(1, keepdims=True), abs=1e-6)


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("balanced", [True, False])
def test_weights_are_the_most_likely_ones_on_the_simplex(three: list[Member], average: Any, balanced: bool):
    labels = three[0].validation.labels
    counts = np.bincount(labels)
    weight_of = 1 / counts[labels] if balanced else np.ones(len(labels))
    weight_of = weight_of / weight_of.sum()
    logs = np.stack([log_softmax(m.validation.logits) for m in three])
    values = np.exp(logs) if average == "probabilities" else logs - logs.mean(2, keepdims=True)

    def loss(shares: np.ndarray) -> float:
        mixed = np.tensordot(shares, values, 1)
        own = np.log(mixed) if average == "probabilities" else log_softmax(mixed)
        return float(-(weight_of * own[np.arange(len(labels)), labels]).sum())

    judge = minimize(
        loss,
        np.full(3, 1 / 3),
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-12},
    )
    found = mixture_weights(values, labels, weight_of, average)
    assert found.sum() == pytest.approx(1)
    assert loss(found) <= judge.fun + 1e-5
    assert found == pytest.approx(judge.x, abs=0.02)
    made = combine(three, "weighted", average=average, balanced=balanced)
    assert list(made.weights.values()) == pytest.approx(found.tolist())


def test_greedy_begins_with_the_best_and_never_validates_worse(three: list[Member]):
    made = combine(three, "greedy")
    assert accuracy(made.validation) >= max(accuracy(m.validation) for m in three) - 1e-9
    labels = np.array([0, 0, 1, 1])
    right_on_first = np.array([[3.0, 0], [3, 0], [1, 0], [1, 0]])
    right_on_last = np.array([[0.0, 1], [0, 1], [0, 3], [0, 3]])
    useless = np.array([[0.0, 9], [0, 9], [9, 0], [9, 0]])
    weights = greedy_weights(np.stack([right_on_first, right_on_last, useless]), labels, np.full(4, 0.25))
    assert weights.tolist() == [0.5, 0.5, 0.0]
    alone = greedy_weights(np.stack([useless, -useless]), labels, np.full(4, 0.25))
    assert alone.tolist() == [0.0, 1.0]


def test_stacking_reads_a_member_that_names_the_classes_wrongly(three: list[Member]):
    def wrong(found: Predictions) -> Predictions:
        return replace(found, logits=found.logits[:, [1, 2, 0]], predicted=ARGMAX)

    confused = Member("x", *(wrong(predictions(9, part, skill=3.0, arm="x")) for part in ("validation", "test")))
    members = [confused, three[2]]
    stacked = combine(members, "stacking")
    assert accuracy(stacked.test) > accuracy(combine(members, "mean").test) + 0.3
    assert stacked.weights["x"] > stacked.weights["c"]
    assert "5-fold cross-validation over lesions" in stacked.notes[0]


@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_the_test_part_is_learned_from(three: list[Member], method: str):
    made = combine(three, method)
    rng = np.random.default_rng(0)
    other = [replace(m, test=replace(m.test, labels=rng.permutation(m.test.labels))) for m in three[:1]]
    other += [replace(m, test=replace(m.test, labels=other[0].test.labels)) for m in three[1:]]
    again = combine(other, method)
    assert again.weights == made.weights
    assert np.array_equal(again.test.logits, made.test.logits)
    assert np.array_equal(again.test.predicted, made.test.predicted)
    assert made.test.part == "test"
    assert made.test.arm == method


@pytest.mark.parametrize("method", METHODS)
def test_images_may_stand_in_any_order(three: list[Member], method: str):
    order = np.random.default_rng(1).permutation(len(three[0].test))

    shuffled = [Member(m.name, *(restrict(part, order) for part in (m.validation, m.test))) for m in three[1:]]
    members = [three[0], *shuffled]
    assert np.array_equal(combine(members, method).test.logits, combine(three, method).test.logits)


def test_the_best_single_is_chosen_on_the_validation_part():
    good_there = Member("v", predictions(1, "validation", skill=4.0), predictions(1, "test", skill=0.1))
    good_here = Member("t", predictions(2, "validation", skill=0.1), predictions(2, "test", skill=4.0))
    assert best_single([good_here, good_there]).name == "v"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: replace(m, name="a"), "Two members"),
        (lambda m: replace(m, test=replace(m.test, split_digest="other")), "different splits"),
        (lambda m: replace(m, test=replace(m.test, images=m.test.images + "x")), "no prediction of"),
        (lambda m: replace(m, test=replace(m.test, labels=m.test.labels[::-1])), "other labels"),
        (lambda m: replace(m, test=replace(m.test, classes=("NV", "BCC", "SCC"))), "has the classes"),
    ],
)
def test_what_does_not_belong_together_is_refused(three: list[Member], change: Any, says: str):
    with pytest.raises(DataError, match=says):
        combine([three[0], change(three[1])], "mean")


def test_one_member_and_an_unknown_method_are_refused(three: list[Member]):
    with pytest.raises(DataError, match="makes no ensemble"):
        combine(three[:1], "mean")
    with pytest.raises(RecipeError, match="greedy"):
        combine(three, "gredy")


def test_stacking_needs_every_class_in_the_validation_part(three: list[Member]):
    members = [replace(m, validation=restrict(m.validation, m.validation.labels != 2)) for m in three]
    with pytest.raises(DataError, match="no image of AK"):
        combine(members, "stacking")
    assert combine(members, "greedy").test.logits.shape == (210, 3)


# --- moulage ensemble ------------------------------------------------------------------------------------------------


def study(folder: Path, arms: tuple[str, ...] = ("a", "b", "c"), folds: bool = False) -> None:
    """The predictions of a study of three trials."""
    for number, arm in enumerate(arms):
        for trial in range(3):
            for part in ("validation", "test"):
                split = f"s{trial}" if folds else "s"
                found = predictions(10 * number + trial, part, arm=arm, trial=trial, split=split)
                found.save(folder / "classifiers" / f"{arm}-{trial}-0123456789ab" / f"{part}.parquet")


@pytest.mark.slow
@pytest.mark.parametrize("folds", [False, True])
def test_an_ensemble_of_each_trial_is_made_compared_and_kept(call, folds: bool):
    study(Path("runs/x"), folds=folds)
    measure = ("--measure", "balanced_accuracy")
    result = call("ensemble", "runs/x", "--out", "made", *measure, "--targets", "AK", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["num_members"] == [3, 3, 3]
    assert found["comparison"]["reference"] == "best_single"
    assert found["comparison"]["models"] == ["best_single", *METHODS]
    assert found["comparison"]["num_trials"] == 3
    kept = Predictions.load(Path("made/greedy-1/test.parquet"))
    again = combine([member(arm, 10 * number + 1) for number, arm in enumerate("abc")], "greedy")
    assert np.array_equal(kept.logits, again.test.logits)
    assert (kept.arm, kept.trial) == ("greedy", 1)
    [made] = [e for e in found["ensembles"] if (e["method"], e["trial"]) == ("greedy", 1)]
    assert made["weights"] == pytest.approx(again.weights)
    files = (f"made/{m}-{t}/test.parquet" for m in ("mean", "greedy") for t in range(3))
    assert call("compare", *files, *measure).code == 0


def test_all_fits_of_a_split_make_one_ensemble(call):
    study(Path("runs/x"))
    result = call("ensemble", "runs/x", "--out", "made", "--by", "split", "--method", "mean", "--json")
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["num_members"] == [9]
    assert found["ensembles"][1]["weights"] == pytest.approx({f"{a}-{t}": 1 / 9 for a in "abc" for t in range(3)})


def test_several_runs_and_some_arms_and_the_table(call):
    study(Path("runs/x"))
    study(Path("runs/y"), ("a", "d"))
    result = call("ensemble", "runs/x", "runs/y", "--out", "made", "--arms", "a,d", "--method", "mean")
    assert result.code == 0, result.err
    assert "x/a 0.33" in " ".join(result.out.split())
    assert "Ensembles and the best single" in result.out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("runs/none",), "holds no fits"),
        (("runs/x", "--arms", "q"), 'no arm "q"'),
        (("runs/x", "--by", "fold"), "--by"),
        (("runs/x", "--average", "ranks"), "--average"),
        (("runs/x", "--method", "boosting"), "boosting"),
        (("runs/x", "--arms", "a"), "makes no ensemble"),
    ],
)
def test_wrong_requests_say_what_is_wrong(call, arguments: tuple[str, ...], says: str):
    study(Path("runs/x"))
    result = call("ensemble", *arguments, "--out", "made")
    assert result.code == 1
    assert says in result.err


def test_an_ensemble_says_what_validation_wants_of_its_own_probabilities(three: list[Member]):
    """The logits of members whose training classes were more unbalanced than what they saw lack 1.5 times the prior."""
    shift = 1.5 * np.log(np.array(SIZES, np.float32) / sum(SIZES))
    members = [
        replace(m, **{part: replace(getattr(m, part), logits=getattr(m, part).logits + shift) for part in PARTS})
        for m in three
    ]
    made = combine(members, "mean")
    labels = made.validation.labels
    prior = log_prior(np.bincount(labels))
    strength = choose_strength(made.validation.logits, labels, prior)
    for part in PARTS:
        found = getattr(made, part)
        assert np.array_equal(found.predicted, decide(found.logits, prior, strength))
    assert accuracy(made.test) > balanced_accuracy_score(made.test.labels, made.test.logits.argmax(1)) + 0.1


def test_the_best_single_member_is_known_by_what_it_says(three: list[Member]):
    right = replace(three[2], validation=replace(three[2].validation, predicted=three[2].validation.labels))
    assert best_single([*three[:2], right]).name == "c"
    assert best_single(three).name != "c"
