"""What a study can see, from counts, from a data set and from a finished run; and the verb ``power``."""

import json
from dataclasses import asdict

import pytest

from made_up_fits import study
from moulage.errors import DataError
from moulage.evaluation.compare import compare
from moulage.evaluation.measure_names import find
from moulage.evaluation.power import Plan, equivalence_power
from moulage.evaluation.power_tables import after, forecast, needed
from moulage.runs import write_json

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
    ],
)
def test_counts_that_make_no_sense(change, words):
    with pytest.raises(DataError, match=words):
        forecast(**{"num_images": 5000, "num_lesions": LESIONS, "targets": ["AK"], **change})


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
    about = {"primary": "balanced_accuracy", "smallest_effect": 0.03}
    write_json(tmp_path / "done" / "results.json", {"study": about, "comparisons": [asdict(found)]})
    result = json.loads(call("power", "--run", "done", "--json").out)
    assert result["rows"][0]["trials_needed"] == Plan.of(found).trials_needed(0.03)
    assert "now 4" in call("power", "--run", "done").out


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
