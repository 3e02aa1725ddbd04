"""Comparisons: worked by hand, judged by scikit-learn and scipy, and by how often intervals cover in simulations."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from made_up_fits import CLASSES, fit, in_folds, saying, study
from moulage.errors import DataError, MoulageError, RecipeError
from moulage.evaluation import resampling
from moulage.evaluation.alignment import align
from moulage.evaluation.compare import compare, compare_all
from moulage.evaluation.lesion_variance import Lesions, pair
from moulage.evaluation.measure_names import Wanted, find, measure, resolve
from moulage.evaluation.measures import Measure
from moulage.evaluation.predictions import Predictions
from moulage.evaluation.slices import restrict
from moulage.evaluation.trial_variance import NOISY, Part, Trials


def worked() -> dict[str, list[Predictions]]:
    """Two classes, two lesions each; lesion a1 has two images. Rows: a1, a1, a2, b1, b2."""
    labels, groups = np.array([0, 0, 0, 1, 1]), ["a1", "a1", "a2", "b1", "b2"]
    correct = {
        "arm": ([1, 1, 0, 1, 1], [1, 0, 1, 1, 0], [1, 1, 1, 1, 1]),
        "none": ([1, 0, 0, 0, 1], [1, 0, 0, 0, 1], [1, 0, 0, 0, 1]),
    }
    return {
        arm: [
            fit(labels, np.eye(4)[np.where(row, labels, 1 - labels)], groups, arm=arm, trial=trial)
            for trial, row in enumerate(rows)
        ]
        for arm, rows in correct.items()
    }


def test_closed_form_worked_by_hand():
    # c_ls, arm minus none:  a1 (1, 0, 1), a2 (0, 1, 1), b1 (1, 1, 1), b2 (0, -1, 0)
    # R_ks:                  class a (1/3, 1/3, 2/3), class b (1/2, 0, 1/2)
    # 5 u_ls = c - R n:      a1 (1/3, -2/3, -1/3), a2 the opposite, b1 (1/2, 1, 1/2), b2 the opposite
    # means over fits:       a1 -2/9, b1 2/3;  V_L = 2/1 * 2 * (4/81 + 4/9) / 25
    # residuals squared:     a1 (25 + 16 + 1)/81, b1 (1 + 4 + 1)/36;  V_E = 2/1 * 2 * (42/81 + 1/6) / (3 * 2) / 25
    # accuracies:            arm 4/5, 3/5, 1 (variance 0.04 of three), none always 2/5: nothing to share
    found = compare(worked(), "arm", "none", "accuracy")
    of_a, of_b = 4 * (4 / 81) / 25, 4 * (4 / 9) / 25
    interaction = 4 * (42 / 81 + 1 / 6) / 6 / 25
    trials = 0.04 / 3
    assert trials < interaction  # which V_L holds already, so that the fits add nothing
    variance = of_a + of_b
    freedom = variance**2 / (of_a**2 + of_b**2 + trials**2 / 2)
    assert found.method == "closed form"
    assert found.difference == pytest.approx(0.4)
    assert found.variance_lesions == pytest.approx(of_a + of_b)
    assert found.variance_trials == 0
    assert found.variance_interaction == pytest.approx(interaction)
    assert found.standard_error == pytest.approx(variance**0.5)
    assert found.degrees_of_freedom == pytest.approx(freedom)
    interval = stats.t.interval(0.95, freedom, loc=0.4, scale=variance**0.5)
    assert (found.low, found.high) == pytest.approx(interval)
    assert found.p_value == pytest.approx(2 * stats.t.sf(0.4 / variance**0.5, freedom))
    assert (found.num_trials, found.num_images, found.num_lesions) == (3, 5, 4)
    assert found.num_lesions_by_class == {"NV": 2, "MEL": 2, "AK": 0, "DF": 0}


def brute_closed_form(arms, arm, reference, weights, value):
    """The formulas again, as loops over lesions and classes."""
    first = arms[arm][0]
    num_trials, lesion_part, interaction = len(arms[arm]), 0.0, 0.0
    for k, weight in enumerate(weights):
        rows = first.labels == k
        names = sorted(set(first.groups[rows]))
        change = [value(a)[rows] - value(b)[rows] for a, b in zip(arms[arm], arms[reference], strict=True)]
        for name in names:
            held = first.groups[rows] == name
            u = [weight * (c[held].sum() - c.mean() * held.sum()) / rows.sum() for c in change]
            factor = len(names) / (len(names) - 1)
            lesion_part += factor * np.mean(u) ** 2
            interaction += factor * sum((x - np.mean(u)) ** 2 for x in u) / (num_trials * (num_trials - 1))
    return lesion_part, interaction


def scored(name, fits):
    return [measure(name, p.labels, p.logits, CLASSES, ("AK", "DF")) for p in fits]


@pytest.mark.parametrize("name", ["balanced_accuracy", "accuracy", "log_loss", "recall:AK", "mean_recall"])
def test_closed_form_agrees_with_plain_loops(name):
    arms = study()
    labels = arms["none"][0].labels
    weights = {
        "balanced_accuracy": np.full(4, 1 / 4),
        "recall:AK": np.array([0, 0, 1, 0]),
        "mean_recall": np.array([0, 0, 1 / 2, 1 / 2]),
    }.get(name, np.bincount(labels) / len(labels))
    found = compare(arms, "arm1", "none", name, ("AK", "DF"))
    values = {arm: scored(name, fits) for arm, fits in arms.items()}
    apart = np.array(list(values.values()))
    apart = apart - apart.mean(axis=0) - apart.mean(axis=1, keepdims=True) + apart.mean()

    def value(p: Predictions) -> np.ndarray:
        loss = -np.log(p.probabilities[np.arange(len(labels)), labels])
        return loss if name == "log_loss" else (p.predicted == labels).astype(float)

    lesion_part, interaction = brute_closed_form(arms, "arm1", "none", weights, value)
    assert Trials(align(arms), Lesions.of(align(arms), resolve(name, labels, CLASSES, ("AK", "DF")))).pool == (*arms,)
    trials = 2 * (apart**2).sum() / (3 * (len(arms) - 1)) / 4  # of four fits, centred over arms and fits
    assert found.method == "closed form"
    assert found.estimate_arm == pytest.approx(np.mean(values["arm1"]))
    assert found.estimate_reference == pytest.approx(np.mean(values["none"]))
    assert found.variance_lesions == pytest.approx(lesion_part)
    assert found.variance_trials == pytest.approx(max(0, trials - interaction))
    assert found.freedom_trials == 3 * (len(arms) - 1)
    assert found.is_lower_better == (name == "log_loss")


def test_bootstrap_weights_keep_each_class():
    strata = np.array([0, 2, 0, 2, 2, 5])
    weights = resampling._draw(strata, 4000, np.random.default_rng(0))
    for k in (0, 2, 5):
        assert (weights[strata == k].sum(axis=0) == (strata == k).sum()).all()
    assert weights[:5].mean(axis=1) == pytest.approx(1, abs=0.06)
    assert weights[1].var() == pytest.approx(2 / 3, rel=0.1)


class Counted(Measure):
    """Recall of a class whose closed form is not known."""

    def weighted(self, outputs, k, lesions):
        return find("recall").weighted(outputs, k, lesions)


def test_bootstrap_and_jackknife_agree_with_the_closed_form_for_recall():
    arms = study(lesions=(40, 30, 16, 20))
    rows = np.flatnonzero(np.cumsum(arms["none"][0].labels == 2) <= 16)
    arms = {  # one image a lesion, so that recall is linear in the weights; 16 of AK, so that m/(m - 1) shows
        arm: [fit(p.labels[rows], p.logits[rows], arm=arm, trial=p.trial) for p in fits] for arm, fits in arms.items()
    }
    fits, recall, counted = align(arms), Wanted(find("recall"), (2,)), Wanted(Counted(), (2,))
    closed, left_out, drawn = Lesions.of(fits, recall), Lesions.of(fits, counted), Lesions.of(fits, counted, 10_000)
    assert [way.method for way in (closed, left_out, drawn)] == ["closed form", "lesion jackknife", "lesion bootstrap"]
    expected = closed.variances(fits, pair("arm1", "none"))
    assert left_out.variances(fits, pair("arm1", "none"))[0] == pytest.approx(expected[0])
    # a variance of 10,000 draws is known to 1.4 %
    assert drawn.variances(fits, pair("arm1", "none"))[0].sum() == pytest.approx(expected[0].sum(), rel=0.035)
    assert drawn.variances(fits, pair("arm1", "none"))[1] == pytest.approx(expected[1], rel=0.05)


@pytest.mark.parametrize("name", ["mean_average_precision", "auc", "f1:AK", "mean_partial_auc"])
def test_jackknife_and_bootstrap_agree_with_many_lesions(name):
    arms = study(lesions=(150, 100, 60, 50), num_trials=3)
    quick, drawn, other = (
        compare(arms, "arm1", "none", name, ("AK", "DF"), num_resamples=number, seed=seed)
        for number, seed in ((0, 0), (4000, 0), (600, 1))
    )
    assert (quick.method, drawn.method) == ("lesion jackknife", "lesion bootstrap")
    judge = [np.mean(scored(name, arms[arm])) for arm in ("arm1", "none")]
    assert (quick.estimate_arm, quick.estimate_reference) == pytest.approx(judge)
    assert quick.difference == drawn.difference
    assert drawn.low < drawn.difference < drawn.high
    # 4,000 draws know a standard error to 1.1 %; the rest is that a measure is not linear in the lesions
    assert quick.standard_error == pytest.approx(drawn.standard_error, rel=0.08)
    assert other.standard_error == pytest.approx(drawn.standard_error, rel=0.2)
    assert other.standard_error != drawn.standard_error


def test_folds_are_pooled_within_repeats():
    arms = in_folds()
    found = compare(arms, "arm1", "none", "average_precision:AK")
    assert (found.scheme, found.num_folds, found.num_repeats, found.num_trials) == ("folds", 4, 2, 8)
    values = []
    for arm in ("arm1", "none"):
        for repeat in (arms[arm][:4], arms[arm][4:]):
            labels = np.concatenate([p.labels for p in repeat])
            chance = np.concatenate([p.probabilities[:, 2] for p in repeat])
            values.append(metrics.average_precision_score(labels == 2, chance))
    assert found.estimate_arm == pytest.approx(np.mean(values[:2]))
    assert found.estimate_reference == pytest.approx(np.mean(values[2:]))
    assert found.num_images == sum(len(p) for p in arms["none"][:4])


def test_variance_of_folds_agrees_with_plain_loops():
    arms, num_folds, num_repeats = in_folds(fold_noise=0.8), 4, 2
    names = list(arms)
    found = compare(arms, "arm1", "none", "balanced_accuracy")
    classes = {}
    for p in arms["none"][:4]:
        for group, label in zip(p.groups, p.labels, strict=True):
            classes[group] = label
    sizes = np.bincount(list(classes.values()))
    images = np.bincount(np.concatenate([p.labels for p in arms["none"][:4]]))
    influence, added, place = {}, {}, {}
    for arm in names:
        for r in range(num_repeats):
            repeat = arms[arm][r * num_folds : (r + 1) * num_folds]
            hits = [np.sum([(p.predicted == k)[p.labels == k].sum() for p in repeat]) / images[k] for k in range(4)]
            for f, p in enumerate(repeat):
                for group in set(p.groups):
                    rows, k = p.groups == group, classes[group]
                    u = 0.25 * ((p.predicted[rows] == k).sum() - hits[k] * rows.sum()) / images[k]
                    influence[arm, r, group], place[r, group] = u, f
                    added[arm, r, f] = added.get((arm, r, f), 0) + num_folds * u
    lesion_part = noise = square = 0.0
    for group, k in classes.items():
        u = [influence["arm1", r, group] - influence["none", r, group] for r in range(num_repeats)]
        lesion_part += sizes[k] / (sizes[k] - 1) * np.mean(u) ** 2
        for r in range(num_repeats):
            mean = np.mean([influence[arm, r, group] for arm in names])
            apart = sum((influence[arm, r, group] - mean) ** 2 for arm in names)
            noise += sizes[k] / (sizes[k] - 1) * apart / (len(names) - 1) / num_repeats
    for r in range(num_repeats):
        for f in range(num_folds):
            mean = np.mean([added[arm, r, f] for arm in names])
            square += sum((added[arm, r, f] - mean) ** 2 for arm in names)
    square /= (len(names) - 1) * num_repeats * (num_folds - 1)
    assert found.variance_lesions == pytest.approx(lesion_part)
    assert found.variance_trials == pytest.approx(max(0, 2 * (square - num_folds * noise) / 8))
    assert found.variance_trials > 0


def test_cautious_interval_is_that_of_nadeau_and_bengio():
    """Equal folds of one class: the fold scores are the recalls of the folds."""
    rng, folds = np.random.default_rng(0), []
    for fold in range(5):
        names = [f"i{fold}{i}" for i in range(20)]
        labels = np.repeat([0, 1], 10)
        for arm, chance in (("none", 0.6), ("arm", 0.7)):
            logits = np.eye(4)[np.where(rng.random(20) < chance, labels, 1 - labels)]
            folds.append(fit(labels, logits, names, arm=arm, trial=fold, images=np.array(names)))
    arms = {arm: [p for p in folds if p.arm == arm] for arm in ("none", "arm")}
    found = compare(arms, "arm", "none", "accuracy")
    d = [
        np.mean(a.predicted == a.labels) - np.mean(b.predicted == b.labels) for a, b in zip(*arms.values(), strict=True)
    ]
    d = -np.array(d)
    error = ((1 / 5 + 1 / 4) * d.var(ddof=1)) ** 0.5
    expected = stats.t.interval(0.95, 4, loc=d.mean(), scale=error)
    assert (found.cautious_low, found.cautious_high) == pytest.approx(expected)
    assert compare(study(num_trials=3), "arm1", "none", "accuracy").cautious_low is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda fits: fits[:7], "lack"),
        (lambda fits: [fits[0], *fits[2:]], "that trial"),
        (lambda fits: [*fits[:3], fits[3], *fits[5:]], "lack"),
    ],
)
def test_unfinished_folds_are_refused(change, words):
    arms = {arm: change(fits) for arm, fits in in_folds().items()}
    with pytest.raises(DataError, match=words):
        compare(arms, "arm1", "none", "accuracy")


def test_a_lesion_in_two_folds_is_refused():
    arms = in_folds()
    other = arms["none"][1].groups[0]
    for fits in arms.values():
        p = fits[0]
        groups = np.where(p.groups == p.groups[0], other, p.groups)
        fits[0] = fit(p.labels, p.logits, groups, arm=p.arm, trial=0, images=p.images, split_digest=p.split_digest)
    with pytest.raises(DataError, match=r"two folds|differ in the groups"):
        compare(arms, "arm1", "none", "accuracy")


def test_jackknife_agrees_with_plain_loops():
    arms = study(lesions=(16, 10, 8, 12), num_trials=3)
    found = compare(arms, "arm1", "none", "average_precision:DF")
    first, by_class, sizes = arms["none"][0], [], []
    for k in range(4):
        names, values = sorted(set(first.groups[first.labels == k])), []
        for name in names:
            kept = first.groups != name
            one, other = (
                [measure("average_precision:DF", p.labels[kept], p.logits[kept], CLASSES) for p in arms[arm]]
                for arm in ("arm1", "none")
            )
            values.append(np.mean(one) - np.mean(other))
        by_class.append((len(names) - 1) / len(names) * ((values - np.mean(values)) ** 2).sum())
        sizes.append(len(names))
    assert found.method == "lesion jackknife"
    assert found.variance_lesions == pytest.approx(sum(by_class), rel=1e-3)
    spread = sum(part**2 / (size - 1) for part, size in zip(by_class, sizes, strict=True))
    assert found.freedom_lesions == pytest.approx(sum(by_class) ** 2 / spread, rel=1e-3)
    assert any("12 lesions" in note and "jackknife" in note for note in found.notes)


def test_pairs_together_equal_pairs_alone():
    arms = study(num_trials=3)
    pairs = [("arm1", "none"), ("arm2", "none"), ("arm2", "arm1")]
    together = compare_all(arms, pairs, "average_precision:AK", num_resamples=500)
    assert together == [compare(arms, *pair, "average_precision:AK", num_resamples=500) for pair in pairs]
    assert compare_all(arms, [], "average_precision:AK") == []


def test_photographs_of_one_lesion_are_no_further_evidence():
    one = study(num_trials=3)

    def twice(together: bool) -> dict[str, list[Predictions]]:
        def double(p: Predictions) -> Predictions:
            groups = np.r_[p.groups, p.groups if together else np.char.add("again ", p.groups.astype(str))]
            return fit(np.r_[p.labels, p.labels], np.r_[p.logits, p.logits], groups, arm=p.arm, trial=p.trial)

        return {arm: [double(p) for p in fits] for arm, fits in one.items()}

    alone, clustered, separate = (
        compare(arms, "arm1", "none", "balanced_accuracy").variance_lesions for arms in (one, twice(True), twice(False))
    )
    assert clustered == pytest.approx(alone)
    assert separate == pytest.approx(alone / 2, rel=0.03)


def test_a_mere_shift_of_the_operating_point_moves_recall_but_not_average_precision():
    shift = np.array([0, 0, 1.5, 0])
    arms = study(num_arms=6, num_trials=3)
    arms["arm1"] = [fit(p.labels, p.logits + shift, p.groups, arm="arm1", trial=p.trial) for p in arms["none"]]
    assert compare(arms, "arm1", "none", "recall:AK").low > 0
    found = compare(arms, "arm1", "none", "average_precision:AK", num_resamples=200)
    assert found.difference == pytest.approx(0, abs=1e-6)
    assert found.low < 0 < found.high


def parts(values: dict[str, np.ndarray], still: tuple[str, ...] = ()) -> Trials:
    """The trial part of a hold-out where the arms' measure has these values; the fits of ``still`` are one fit."""
    arms = study(num_arms=len(values), num_trials=len(next(iter(values.values()))))
    arms = {name: [replace(p, arm=name) for p in fits] for name, fits in zip(values, arms.values(), strict=True)}
    for name in still:
        arms[name] = [saying(p, arms[name][0].logits) for p in arms[name]]
    return Trials(align(arms), Lesions("closed form", values, {}, {}))


def test_what_a_trial_does_to_all_arms_alike_is_no_part_of_a_difference():
    """Worked by hand: fits 0, 3 and 6 points up in all arms; what is left of the arms is (1, 0, -1), (-1, 0, 1), 0."""
    trial, own = np.array([0.0, 3, 6]), np.array([1.0, 0, -1])
    trials = parts({"none": trial + own, "a": trial - own, "b": trial + 0 * own})
    assert trials.pool == ("none", "a", "b")
    square = (2 + 2 + 0) / ((3 - 1) * (3 - 1))
    for arm, reference in (("a", "none"), ("a", "b"), ("none", "b")):
        assert trials.part(pair(arm, reference), 0.1) == Part(pytest.approx(2 * square / 3), 4.0, 0.1)
    two = parts({"none": trial + own, "a": trial - own})  # no one to share with: the variance of the differences
    assert two.part(pair("a", "none"), 0.0) == Part(pytest.approx(np.var([2, 0, -2], ddof=1) / 3), 2.0, 0.0)


def test_a_noisy_arm_leaves_the_pool_of_the_others():
    rng = np.random.default_rng(0)
    values = {name: rng.normal(size=4) for name in ("none", "a", "b", "c")}
    alone = parts(values)
    trials = parts(values | {"noisy": 50 * rng.normal(size=4)})
    assert trials.pool == alone.pool == ("none", "a", "b", "c")
    assert trials.part(pair("a", "none"), 0.0) == alone.part(pair("a", "none"), 0.0)
    noisy = trials.part(pair("noisy", "none"), 0.0)
    change = trials.lesions.values["noisy"] - values["none"]
    assert noisy == Part(pytest.approx(change.var(ddof=1) / 4), 3.0, 0.0)


def test_noisy_is_decided_by_an_f_test():
    """Of equal arms the first is called noisy as often as the level says, the most deviant of four at most so often."""
    rng, called = np.random.default_rng(1), np.zeros(4)
    arms = parts({name: rng.normal(size=3) for name in "abcd"})
    for _ in range(400):
        held = replace(arms.lesions, values={name: rng.normal(size=3) for name in "abcd"})
        called += [name not in Trials(arms.fits, held).pool for name in "abcd"]
    assert stats.binom.ppf(0.001, 1600, 0.5 * NOISY) < called.sum() < stats.binom.ppf(0.999, 1600, 1.5 * NOISY)


def test_an_arm_that_never_varies_neither_lends_nor_borrows():
    rng = np.random.default_rng(2)
    moving = {name: rng.normal(size=4) for name in ("a", "b", "c", "d")}
    alone, still = parts(moving), {"none": np.full(4, 0.5), "e": np.full(4, 0.6)}
    trials = parts(moving | still, still=("none", "e"))
    assert trials.pool == alone.pool == ("a", "b", "c", "d")
    assert trials.part(pair("a", "b"), 0.0) == alone.part(pair("a", "b"), 0.0)
    assert trials.part(pair("none", "e"), 0.0).raw == 0
    rows = np.array(list(moving.values()))
    part = trials.part(pair("a", "none"), 0.2)  # not centred: an arm that never varies shares nothing with a trial
    assert part.raw == pytest.approx(rows.var(axis=1, ddof=1).mean() / 4)
    assert 3 <= part.freedom <= 12
    few = parts({"a": moving["a"], "none": still["none"]}, still=("none",))
    assert few.part(pair("a", "none"), 0.0) == Part(pytest.approx(moving["a"].var(ddof=1) / 4), 3.0, 0.0)


def test_copies_of_fits_are_no_further_fits():
    """Three fits, of which the first stands there twice more: as three with the weights 3, 1 and 1."""
    arms = study(num_trials=5)
    arms["arm1"] = [saying(p, arms["arm1"][t].logits) for p, t in zip(arms["arm1"], (0, 0, 0, 1, 2), strict=True)]
    found = compare(arms, "arm1", "none", "balanced_accuracy")
    values = {arm: np.array(scored("balanced_accuracy", fits)) for arm, fits in arms.items()}
    raw = values["arm1"][2:].var(ddof=1) * (9 + 1 + 1) / 25 + values["none"].var(ddof=1) / 5
    assert found.variance_trials == pytest.approx(max(0, raw - found.variance_interaction))
    assert any("Some fits of arm1 are copies" in note for note in found.notes)
    arms["arm1"][4] = saying(arms["arm1"][4], arms["arm1"][3].logits)
    refused = compare(arms, "arm1", "none", "balanced_accuracy")
    assert refused.low is None
    assert any("only 2 different fits" in note for note in refused.notes)
    assert compare(arms, "arm2", "none", "balanced_accuracy").low is not None


def test_a_classifier_whose_rows_decide_the_fit():
    """Lesions alone count where neither arm varies; an arm that predicts what the reference does is no other arm."""
    arms = study(num_arms=4, num_trials=3)
    arms = {name: [saying(p, fits[0].logits) for p in fits] for name, fits in arms.items()}
    arms["arm3"] = [replace(p, arm="arm3") for p in arms["none"]]
    found = compare(arms, "arm1", "none", "balanced_accuracy")
    assert (found.variance_trials, found.variance_interaction) == (0.0, pytest.approx(0, abs=1e-30))
    assert found.standard_error == pytest.approx(found.variance_lesions**0.5)
    assert found.degrees_of_freedom == pytest.approx(found.freedom_lesions)
    assert any("All fits of none, arm1, arm2, arm3 are identical" in note for note in found.notes)
    same = compare(arms, "arm3", "none", "balanced_accuracy")
    assert (same.difference, same.low) == (0, None)
    assert any("arm3 and none say the same class" in note for note in same.notes)


def test_arms_that_differ_by_their_operating_point_alone():
    """To a measure of the logits they are one arm, and count once in the pool; to one of what is said they are two."""
    arms = study(num_arms=4, num_trials=3)
    lifted = np.array([0.0, 0, 0, 0.5])
    moved = {"moved": [replace(p, arm="moved", predicted=(p.logits + lifted).argmax(1)) for p in arms["arm1"]]}
    both = arms | moved
    for name in ("average_precision:DF", "log_loss"):
        found = compare(both, "moved", "none", name)
        assert found == replace(compare(arms, "arm1", "none", name), arm="moved")
        same = compare(both, "moved", "arm1", name)
        assert (same.difference, same.low) == (0, None)
        assert any("moved and arm1 predict the same" in note for note in same.notes)
    recall = compare(both, "moved", "arm1", "recall:DF")
    assert recall.difference > 0.02
    assert recall.low is not None
    alike = arms | {"moved": [replace(p, arm="moved", logits=2 * p.logits) for p in arms["arm1"]]}
    same = compare(alike, "moved", "arm1", "recall:DF")
    assert (same.difference, same.low) == (0, None)
    assert compare(alike, "moved", "arm1", "log_loss").low is not None


def test_copied_repeats_of_folds_are_refused():
    arms = in_folds(4, 2)
    again = {a: [*f[:4], *(replace(p, trial=p.trial + 4) for p in f[:4])] for a, f in arms.items()}
    with pytest.raises(DataError, match="Repeat 2 of the folds predicts in every arm, to the last bit, what repeat 1"):
        compare(again, "arm1", "none", "accuracy")
    again["arm2"] = [
        *arms["arm2"][:4],
        *(saying(p, p.logits + 0.1 * (p.labels[:, None] == 0)) for p in again["arm2"][4:]),
    ]
    assert compare(again, "arm1", "none", "accuracy").low is not None


def test_identical_fits_are_said():
    arms = study(num_trials=3)
    arms["arm1"] = [saying(p, arms["arm1"][0].logits) for p in arms["arm1"]]
    assert any("fits of arm1 are identical" in note for note in compare(arms, "arm1", "none", "accuracy").notes)
    assert not compare(study(num_trials=3), "arm1", "none", "accuracy").notes


@pytest.mark.parametrize("num_trials", [1, 2])
def test_fewer_than_three_fits_give_a_difference_but_no_interval(num_trials):
    for name in ("balanced_accuracy", "average_precision:AK"):
        found = compare(study(num_trials=num_trials), "arm1", "none", name)
        assert np.isfinite(found.difference)
        assert [found.low, found.high, found.p_value, found.standard_error] == [None] * 4
        assert found.method == ""
        assert any("at least 3" in note for note in found.notes)


def test_no_variation_gives_no_interval():
    labels = np.repeat([0, 1], 20)
    same = {
        arm: [fit(labels, np.eye(4)[labels], arm=arm, trial=trial) for trial in range(3)] for arm in ("none", "arm")
    }
    for name in ("accuracy", "recall:MEL", "average_precision:MEL", "auc"):
        found = compare(same, "arm", "none", name, num_resamples=100)
        assert found.difference == 0
        assert found.low is None
        same_as = "say the same class" if name in ("accuracy", "recall:MEL") else "predict the same"
        assert any(same_as in note for note in found.notes)
    other = [fit(labels, 2 * np.eye(4)[labels], arm="arm", trial=trial) for trial in range(3)]
    found = compare(same | {"arm": other}, "arm", "none", "average_precision:MEL")
    assert any("do not vary" in note for note in found.notes)


def test_few_lesions_are_said():
    few = compare(study(lesions=(40, 30, 20, 8)), "arm1", "none", "recall:DF")
    assert few.too_small == ("DF",)
    assert few.method == "lesion jackknife"
    assert few.freedom_lesions == pytest.approx(7)
    assert any("DF has only 8 lesions" in note and "no verdict" in note for note in few.notes)
    assert compare(study(lesions=(40, 30, 20, 8)), "arm1", "none", "recall:AK").too_small == ()
    single = compare(study(lesions=(40, 30, 20, 1)), "arm1", "none", "recall:DF")
    assert single.low is None
    assert any("single lesion" in note for note in single.notes)
    overall = compare(study(lesions=(40, 30, 20, 1)), "arm1", "none", "accuracy")
    assert overall.low is not None
    assert any(note.startswith("DF: a single lesion") for note in overall.notes)
    rest = compare(study(lesions=(40, 30, 20, 1)), "arm1", "none", "average_precision:AK", num_resamples=200)
    assert rest.low < rest.difference < rest.high


def test_a_lesion_of_two_classes_counts_in_both():
    arms = study(lesions=(20, 20, 20, 20), num_trials=3)
    labels, groups = arms["none"][0].labels, arms["none"][0].groups.copy()
    groups[labels == 3] = np.where(
        groups[labels == 3] == groups[labels == 3][0], groups[labels == 2][0], groups[labels == 3]
    )
    arms = {arm: [fit(labels, p.logits, groups, arm=arm, trial=p.trial) for p in fits] for arm, fits in arms.items()}
    found = compare(arms, "arm1", "none", "balanced_accuracy")
    assert found.num_lesions == 79
    assert set(found.num_lesions_by_class.values()) == {20}
    assert any("several classes: 1 " in note for note in found.notes)


def test_order_of_images_and_trials_does_not_matter():
    arms = study()
    before = compare(arms, "arm1", "none", "average_precision:AK", num_resamples=200)
    rows = np.random.default_rng(0).permutation(len(arms["none"][0]))
    arms["arm1"] = [restrict(p, rows) for p in reversed(arms["arm1"])]
    assert compare(arms, "arm1", "none", "average_precision:AK", num_resamples=200) == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"split_digest": "other"}, "split_digest is other"),
        ({"part": "validation"}, "part is validation"),
        ({"classes": ("NV", "MEL", "AK", "SCC")}, "classes is"),
        ({"trial": 7}, "[0, 1, 7]"),
        ({"trial": 0}, "one trial number"),
        ({"arm": "arm9"}, "stand under the arm arm1"),
        ({"images": lambda p: np.r_[["other"], p.images[1:]]}, 'such as "i0"'),
        ({"labels": lambda p: (p.labels + 1) % 4}, 'the labels of image "i0"'),
        ({"groups": lambda p: np.r_[p.groups[:3], ["x"], p.groups[4:]]}, 'the groups of image "i3"'),
    ],
)
def test_fits_that_do_not_belong_together_are_refused(changes, words):
    arms = study(num_trials=3)
    p = arms["arm1"][2]
    columns = {"images": p.images, "labels": p.labels, "logits": p.logits, "groups": p.groups, "arm": p.arm, "trial": 2}
    columns |= {name: value(p) if callable(value) else value for name, value in changes.items()}
    arms["arm1"][2] = fit(columns.pop("labels"), columns.pop("logits"), **columns)
    with pytest.raises(DataError) as caught:
        compare(arms, "arm1", "none", "accuracy")
    assert words in str(caught.value)


def test_missing_fits_are_refused():
    arms = study(num_trials=3)
    for broken in ({}, arms | {"arm1": []}, arms | {"arm1": arms["arm1"][:2]}):
        with pytest.raises(DataError, match=r"Finish|nothing"):
            compare(broken, "arm1", "none", "accuracy")


@pytest.mark.parametrize(
    ("arm", "reference", "name", "words"),
    [
        ("arm3", "none", "accuracy", 'no arm "arm3"'),
        ("arm1", "nona", "accuracy", 'Did you mean "none"'),
        ("none", "none", "accuracy", "with itself"),
        ("arm1", "none", "acuracy", 'Did you mean "accuracy"'),
        ("arm1", "none", "mean_average_precision", "target classes"),
    ],
)
def test_wrong_names_are_refused(arm, reference, name, words):
    with pytest.raises(RecipeError) as caught:
        compare(study(num_trials=3), arm, reference, name)
    assert words in str(caught.value)


def test_a_class_without_images_is_refused():
    with pytest.raises(MoulageError, match="no image of DF"):
        compare(study(lesions=(20, 20, 20, 0), num_trials=3), "arm1", "none", "recall:DF")
