"""What can be found, judged by statsmodels, by simulation and by hand; planned from counts, data or a finished run."""

import gc
import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from fake_run import filled
from made_up_fits import in_folds, study
from moulage.errors import DataError, RecipeError
from moulage.evaluation.compare import compare
from moulage.evaluation.measure_names import find
from moulage.evaluation.power import FITTED, Plan, detectable, equivalence_needs, equivalence_power, single_power
from moulage.evaluation.power_tables import after, forecast, needed
from moulage.evaluation.verdict_power import VerdictPlan, all_found
from moulage.results import Results, Study


@pytest.mark.parametrize("freedom", [1, 3, 8, 24, 120])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_detectable_equals_statsmodels(freedom, power):
    """Of one sample of nu + 1: the effect in standard deviations is the one in standard errors / sqrt(nu + 1)."""
    effect = detectable(0.01, freedom, power) / 0.01 / math.sqrt(freedom + 1)
    judge = TTestPower().power(effect, nobs=freedom + 1, alpha=0.025, alternative="larger")
    assert judge == pytest.approx(power, abs=1e-6)


def test_detectable_by_hand():
    assert detectable(0.02) == pytest.approx(0.02 * (1.959964 + 0.841621), rel=1e-6)
    assert detectable(0.0, 5) == 0


@pytest.mark.parametrize("wrong", [(-1, 5, 0.8, 0.05), (1, 0, 0.8, 0.05), (1, 5, 0.02, 0.05), (1, 5, 0.8, 1.5)])
def test_detectable_refuses_nonsense(wrong):
    with pytest.raises(DataError, match="no detectable effect"):
        detectable(*wrong)


def test_equivalence_needs_by_hand():
    """Known SE: 2 Phi(m/SE - 1.645) - 1 = 0.8 gives m/SE = 2.9264; half the margin: m/2/SE = 1.645 + 0.842."""
    assert equivalence_needs(0.02) == pytest.approx(0.02 / (1.644854 + 1.281552), rel=1e-5)
    assert equivalence_needs(0.02, 0.01) == pytest.approx(0.01 / (1.644854 + 0.841621), rel=1e-4)
    assert equivalence_needs(1, 0.5) == pytest.approx(equivalence_needs(1, -0.5))
    assert equivalence_needs(1, 0, 10) < equivalence_needs(1, 0, 100) < equivalence_needs(1)
    with pytest.raises(DataError, match="not within the margin"):
        equivalence_needs(0.02, 0.02)


@pytest.mark.parametrize(("freedom", "true"), [(4, 0.0), (12, 0.5), (60, 0.25)])
def test_power_of_equality_against_simulation(freedom, true):
    """400,000 pairs of d and s: Monte-Carlo error 0.08 points."""
    rng, error = np.random.default_rng(0), 0.25
    d = rng.normal(true, error, 400_000)
    s = error * np.sqrt(rng.chisquare(freedom, 400_000) / freedom)
    t = stats.t.ppf(0.95, freedom)
    found = ((d + 1) / s > t) & ((d - 1) / s < -t)
    assert equivalence_power(1, error, freedom, true) == pytest.approx(found.mean(), abs=0.003)


def test_equality_at_what_it_needs_has_the_power_asked_for():
    for freedom in (3, 9, 50, math.inf):
        needed = equivalence_needs(0.02, 0.005, freedom, power=0.9)
        assert equivalence_power(0.02, needed, freedom, 0.005) == pytest.approx(0.9, abs=1e-6)
        assert equivalence_power(0.02, 1.05 * needed, freedom, 0.005) < 0.9


@pytest.mark.parametrize("measure", ["balanced_accuracy", "average_precision:AK"])
def test_plan_gives_back_the_comparison_that_it_came_from(measure):
    found = compare(study(seed_noise=2, seed=1), "arm1", "none", measure)
    assert found.variance_trials is not None
    assert found.variance_trials > 0
    plan = Plan.of(found)
    assert plan.standard_error(4) == pytest.approx(found.standard_error)
    assert plan.degrees_of_freedom(4) == pytest.approx(found.degrees_of_freedom)
    assert plan.detectable(4) == pytest.approx(detectable(found.standard_error, found.degrees_of_freedom))
    assert Plan.read(asdict(found)) == plan


def test_plan_of_repeated_folds_counts_repeats():
    found = compare(in_folds(5, 2), "arm1", "none", "balanced_accuracy")
    plan = Plan.of(found)
    assert (plan.num_sets, plan.num_folds, plan.num_trials, plan.smallest_trials) == (2, 5, 10, 5)
    assert plan.standard_error(10) == pytest.approx(found.standard_error)
    assert plan.interaction > 0
    with pytest.raises(DataError, match="whole repeats"):
        plan.standard_error(7)
    once = Plan.of(compare(in_folds(5, 1), "arm1", "none", "balanced_accuracy"))
    assert (once.interaction, once.num_sets) == (0, 1)


def test_more_fits_and_more_lesions_shrink_what_they_should():
    plan = Plan(lesions=4e-4, interaction=2e-4, trials=3e-4, num_sets=5)
    assert plan.standard_error(5) == pytest.approx(3e-2)
    assert plan.standard_error(10) == pytest.approx(math.sqrt(4e-4 + 1e-4 + 1.5e-4))
    assert plan.standard_error(5, 4) == pytest.approx(math.sqrt(1e-4 + 0.5e-4 + 3e-4))
    assert plan.standard_error(10, 4) == pytest.approx(math.sqrt(1e-4 + 0.25e-4 + 1.5e-4))


def test_needed_numbers_are_the_smallest_that_are_enough():
    plan = Plan(lesions=4e-4, interaction=2e-4, trials=3e-4, num_sets=5, num_arms=3, freedom=60)
    number = plan.trials_needed(0.07)
    assert number is not None
    assert plan.detectable(number) <= 0.07 < plan.detectable(number - 1)
    factor = plan.factor_needed(0.06)
    assert factor is not None
    assert plan.detectable(5, factor) <= 0.06 < plan.detectable(5, factor / 1.002)
    assert plan.trials_needed(0.05) is None  # the lesions alone are 0.02 x 2.8
    assert plan.factor_needed(0.04) is None  # the fits alone are 0.017 x 2.8 and more
    assert plan.factor_needed(0.5) == 1.0
    assert plan.trials_needed(0.9) == 3
    assert Plan(4e-4, 2e-4, 3e-4, 1, num_folds=5).trials_needed(0.9) == 5


@pytest.mark.parametrize("classifier", sorted(FITTED))
def test_planning_constants_scale_with_lesions_fits_and_folds(classifier):
    """By hand: parts / lesions + parts / fits, summed over classes and divided by their number squared."""
    lesions, interaction, trials = FITTED[classifier]["recall"]
    about = {"kind": "recall", "classifier": classifier}
    one = Plan.of_classes([50], **about)
    assert one.standard_error(4) ** 2 == pytest.approx(lesions / 50 + interaction / 50 / 4 + trials / 4)
    both = Plan.of_classes([50, 20], **about)
    parts = (lesions + interaction / 4) * (1 / 50 + 1 / 20) + 2 * trials / 4
    assert both.standard_error(4) ** 2 == pytest.approx(parts / 4)
    folds = Plan.of_classes([250], num_folds=5, **about)
    assert folds.standard_error(10) ** 2 == pytest.approx(lesions / 250 + interaction / 250 / 2 + trials / 10)
    lesions, interaction, trials = FITTED[classifier]["balanced_accuracy"]
    whole = Plan.of_images(20_000, classifier=classifier)
    assert whole.standard_error(5) ** 2 == pytest.approx((lesions + interaction / 5) / 4 + trials / 5)


def test_frozen_features_vary_less_between_fits():
    for measure, (_, _, trials) in FITTED["finetune"].items():
        assert FITTED["probe"][measure].trials <= trials


def test_planning_refuses_what_it_has_no_constants_for():
    with pytest.raises(DataError, match="too few"):
        Plan.of_classes([1])
    with pytest.raises(RecipeError, match='no planning constants for "knn"') as caught:
        Plan.of_classes([20], classifier="knn")
    assert "probe" in caught.value.hint
    with pytest.raises(RecipeError, match='no planning constants for "auc"'):
        Plan.of_classes([20], "auc")


def test_no_plan_without_an_interval():
    found = compare(study(num_trials=2), "arm1", "none", "balanced_accuracy")
    assert found.low is None
    with pytest.raises(DataError, match="arm1 against none, balanced_accuracy: without an interval"):
        Plan.of(found)


def test_an_effect_of_the_detectable_size_is_found_as_often_as_promised():
    """100,000 draws of d and of its estimated error: Monte-Carlo error 0.13 points."""
    plan = Plan.of(compare(study(num_trials=5), "arm1", "none", "balanced_accuracy"))
    error, freedom = plan.standard_error(5), plan.degrees_of_freedom(5)
    rng = np.random.default_rng(3)
    d = plan.detectable(5) + error * rng.normal(size=100_000)
    s = error * np.sqrt(rng.chisquare(freedom, 100_000) / freedom)
    assert (d / s > stats.t.ppf(0.975, freedom)).mean() == pytest.approx(0.8, abs=0.005)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_all_tests_together_against_simulation(correlation):
    """Normals with one common factor, 400,000 draws: Monte-Carlo error 0.08 points."""
    rng, powers = np.random.default_rng(0), np.array([0.3, 0.8, 0.6])
    shared, own = rng.normal(size=(400_000, 1)), rng.normal(size=(400_000, 3))
    found = correlation**0.5 * shared + (1 - correlation) ** 0.5 * own < stats.norm.ppf(powers)
    assert all_found(powers, correlation) == pytest.approx(found.all(axis=1).mean(), abs=0.003)
    assert all_found(powers, 0.0) == pytest.approx(powers.prod(), rel=1e-6)
    assert all_found([0.7]) == pytest.approx(0.7)


def test_the_power_of_a_verdict_is_that_of_verdicts():
    """Estimates of four arms and an oracle with a known error, judged by ``decide`` itself, 1,500 times.

    The true gain is 4.8 points and 5.0 are detectable by one test: 77 %. Of the verdict it is far less.
    """
    from moulage.evaluation.verdict import Control, Outcome, control, decide

    error, gain, number = 5.0 / 2.801585, 4.8, 1500
    plan = Plan(lesions=error**2 / 1e4, interaction=0.0, trials=0.0, num_sets=5, num_arms=11, freedom=1e9)
    gc.freeze()  # statsmodels collects garbage in every correction
    rng, helps = np.random.default_rng(4), 0
    base = compare(study(), "arm1", "none", "balanced_accuracy")
    for _ in range(number):
        level = dict(
            zip(("none", "duplicates", "rival", "gan", "oracle"), rng.normal(0, error / 2**0.5, 5), strict=True)
        )

        def against(arm: str, reference: str, level: dict[str, float] = level):
            change = (level[arm] + (gain if arm in ("gan", "oracle") else 0) - level[reference]) / 100
            p = float(2 * stats.norm.sf(abs(change) / (error / 100)))
            about = {"difference": change, "p_value": p, "standard_error": error / 100, "degrees_of_freedom": 1e9}
            return replace(base, arm=arm, reference=reference, **about)

        null = {
            f"null{n}": {r: replace(base, arm=f"null{n}", p_value=0.9) for r in ("none", "duplicates")} for n in (1, 2)
        }
        family = {"gan": {r: against("gan", r) for r in ("none", "duplicates", "rival")}, **null}
        controls: list[Control] = [control("positive", {"none": against("oracle", "none")})]
        helps += decide(family, 1e-6, controls)["gan"].outcome is Outcome.HELPS
    gc.unfreeze()
    planned = VerdictPlan((plan,) * 3, (plan,), num_arms=3)
    # the copula takes one correlation for all; the oracle shares ``none`` with one of the three alone
    assert planned.power(gain / 100, 5) == pytest.approx(helps / number, abs=0.04)
    assert VerdictPlan((plan,)).power(gain / 100, 5) == pytest.approx(0.767, abs=0.002)
    assert VerdictPlan((plan,) * 3).power(gain / 100, 5) < 0.65
    assert VerdictPlan((plan,) * 3, num_arms=10).power(gain / 100, 5) < 0.25


def test_a_verdict_with_one_reference_is_a_comparison():
    plan = Plan(lesions=4e-4, interaction=2e-4, trials=3e-4, num_sets=5, num_arms=3, freedom=60)
    alone = VerdictPlan((plan,))
    assert alone.detectable(5) == pytest.approx(plan.detectable(5), rel=1e-4)
    assert alone.trials_needed(0.07) == plan.trials_needed(0.07)
    whole = VerdictPlan((plan,) * 3, (plan,), 10)
    assert whole.power(whole.detectable(5), 5) == pytest.approx(0.8, abs=1e-4)
    assert whole.detectable(10) < whole.detectable(5) > whole.detectable(5, 2) > plan.detectable(5, 2)
    with pytest.raises(DataError, match="needs a reference"):
        VerdictPlan(())


LESIONS = {"AK": 260, "DF": 92, "XX": 30}


def test_a_forecast_is_the_plan_of_each_design():
    found = forecast(20_000, LESIONS, ["AK", "DF"], test=0.25, num_folds=5, num_arms=7)
    assert found["primary"] == "mean_average_precision"
    rows = {(row["design"], row["num_trials"], row["measure"]): row for row in found["rows"]}
    plan = Plan.of_classes([65, 23], num_arms=7)
    row = rows["hold-out 25 %", 5, "mean_average_precision"]
    assert row["detectable_1x"] == pytest.approx(plan.detectable(5))
    assert row["detectable_4x"] == pytest.approx(plan.detectable(5, 4))
    found_equal = equivalence_power(row["margin"], row["standard_error"], plan.degrees_of_freedom(5))
    assert found_equal == pytest.approx(0.8, abs=1e-6)
    folds = Plan.of_classes([92], "recall", 5, 7)
    assert rows["5 folds x 2", 10, "recall:DF"]["detectable_1x"] == pytest.approx(folds.detectable(10))
    assert rows["5 folds x 2", 10, "balanced_accuracy"]["num_images"] == 20_000
    frozen = forecast(20_000, LESIONS, ["AK", "DF"], test=0.25, num_arms=7, classifier="probe")
    assert frozen["rows"][0]["detectable_1x"] == pytest.approx(
        Plan.of_classes([65, 23], num_arms=7, classifier="probe").detectable(3)
    )


def test_a_forecast_says_what_a_class_can_bear():
    found = forecast(20_000, {**LESIONS, "YY": 60}, ["AK", "XX"], test=0.2)
    verdicts = {row["class"]: row["verdict"] for row in found["classes"]}
    assert verdicts["AK"] == "possible"
    assert verdicts["XX"] == "none, fewer than 10 lesions; folds: possible"  # 6 of 30
    assert verdicts["YY"] == "wide interval, fewer than 15 lesions; folds: possible"
    assert any("XX has 6 lesions in the hold-out, fewer than 10" in sentence for sentence in found["sentences"])


def test_a_class_too_small_to_plan_is_none_and_no_crash():
    found = forecast(500, {"AK": 4}, ["AK"], test=0.2)
    assert {row["detectable_1x"] for row in found["rows"] if row["design"] == "hold-out 20 %"} - {None}  # BA is planned
    assert all(
        row["detectable_1x"] is None for row in found["rows"] if row["num_images"] == 100 and ":" in row["measure"]
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_images": 20}, "AK has more lesions than there are images"),
        ({"targets": ["BB"]}, 'lesions of the class "BB" are not known'),
        ({"test": 1.0}, "cannot be planned"),
        ({"num_arms": 1}, "cannot be planned"),
        ({"family": 0}, "cannot be planned"),
        ({"num_lesions": {"AK": 0}}, "AK has no lesion"),
        ({"num_images": 40, "num_lesions": {"AK": 20}}, "fewer than 10 to test"),
        ({"num_folds": 100_000}, "fewer than 10 to test"),
    ],
)
def test_counts_that_make_no_sense(change, words):
    with pytest.raises(DataError, match=words):
        forecast(**{"num_images": 5000, "num_lesions": LESIONS, "targets": ["AK"], **change})


def test_no_number_where_no_verdict_is_possible():
    """Nine lesions allow no verdict, and no difference of shares is larger than 100 points."""
    few = forecast(20_000, {"AK": 45, "DF": 260}, ["AK", "DF"])
    rows = [row for row in few["rows"] if row["measure"] == "mean_average_precision" and row["num_images"] == 4000]
    assert {(row["detectable_1x"], row["verdict"]) for row in rows} == {(None, None)}
    assert any("no verdict is possible" in sentence for sentence in few["sentences"])
    tiny = compare(study(lesions=(60, 40, 25, 8)), "arm1", "none", "recall:DF")
    with pytest.raises(DataError, match="enough lesions"):
        after([asdict(tiny)], "recall:DF", 0.02)
    vague = Plan(lesions=0.4, interaction=0.0, trials=0.1, num_sets=3)
    assert (
        needed(vague, 0.02, find("recall")) == "3 fits an arm find no difference that is possible in 80 % of studies."
    )


def test_after_a_study_plans_with_its_own_variances():
    found = compare(study(), "arm1", "none", "balanced_accuracy")
    result = after([asdict(found)], "balanced_accuracy", 0.02)
    [row] = result["rows"]
    plan = Plan.of(found)
    assert row["standard_error"] == pytest.approx(found.standard_error)
    assert dict(map(tuple, row["by_trials"]))[10] == pytest.approx(plan.detectable(10))
    assert row["trials_needed"] == plan.trials_needed(0.02)
    with pytest.raises(DataError, match='no comparison under "auc"'):
        after([asdict(found)], "auc", 0.02)
    with pytest.raises(DataError, match="has an interval"):
        after([asdict(compare(study(num_trials=2), "arm1", "none", "accuracy"))], "accuracy", 0.02)


def test_what_is_needed_is_enough():
    plan = Plan(lesions=2e-4, interaction=1e-4, trials=1e-4, num_sets=5, num_arms=5, freedom=100)
    assert "5 fits an arm find 6 points in at least 80 % of studies" in needed(plan, 0.06, find("recall"))
    said = needed(plan, 0.04, find("recall"))
    fits = plan.trials_needed(0.04)
    factor = plan.factor_needed(0.04)
    assert (f"{fits} fits an arm" in said) is (fits is not None)
    assert (f"{factor:.1f} times the test lesions" in said) is (factor is not None)
    assert "more fits and more lesions" in needed(plan, 0.01, find("recall"))
    assert "look for a larger effect" in needed(plan, 0.0001, find("recall"))
    assert "5 fits an arm find 0.06 nats in at least 80 % of studies" in needed(plan, 0.06, find("log_loss"))


def test_the_verb_plans_from_counts(call):
    found = json.loads(call("power", "--images", 5000, "--lesions", "AK=120,DF=60", "--json").out)
    assert found["primary"] == "mean_average_precision"
    shown = call("power", "--images", 5000, "--lesions", "AK=120,DF=60")
    assert shown.code == 0
    assert "True difference found in 80 % of studies, in points" in shown.out
    assert "found equal within" in shown.out


PHANTOM = ("--source-set", "num_images=240", "--source-set", "size=32")


def test_the_verb_plans_from_labels(call, tmp_path):
    found = json.loads(call("power", "--source", "phantom", *PHANTOM, "--targets", "AK", "--json").out)
    assert found["primary"] == "average_precision:AK"
    assert {row["num_images"] for row in found["rows"]} == {48, 240}


def test_the_verb_plans_from_a_run(call, tmp_path):
    found = compare(study(), "arm1", "none", "balanced_accuracy")
    about = filled(Study, name="done", primary="balanced_accuracy", smallest_effect=0.03)
    filled(Results, study=about, comparisons=[found]).save(tmp_path / "done")
    result = json.loads(call("power", "--run", "done", "--json").out)
    assert result["rows"][0]["trials_needed"] == Plan.of(found).trials_needed(0.03)
    assert "now 4" in call("power", "--run", "done").out
    assert "there is nothing to report yet" in call("power", "--run", ".").err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Say what to plan with"),
        (("--images", 500, "--source", "phantom"), "Say what to plan with"),
        (("--lesions", "AK=50"), "The number of images is not said"),
        (("--images", 500, "--lesions", "AK=many"), "no whole number"),
        (("--images", 500, "--lesions", "AK=50", "--smallest-effect", "2"), "The smallest effect is 2"),
        (("--images", 500, "--lesions", "AK=50", "--classifier", "knn"), 'no planning constants for "knn"'),
    ],
)
def test_the_verb_refuses_nonsense(call, arguments, words):
    result = call("power", *arguments)
    assert result.code == 1
    assert words in result.err


def test_an_effect_that_is_huge_beside_its_error_is_always_found() -> None:
    # SciPy's noncentral t gives NaN here, which ended a study.
    assert single_power(0.04590622803438924, 0.0012181744495321364, 397.95472005052244, 0.01) == 1.0
    for degrees in (1.5, 2, 4, 30, 400, 5000):
        for shift in np.arange(1, 300, 7.3):
            assert 0 <= single_power(shift, 1.0, degrees) <= 1
        assert np.isfinite(detectable(1.0, degrees, level=1e-4))
