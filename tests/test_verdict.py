"""Verdicts: words never claim more than the numbers say."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired

from moulage.errors import DataError
from moulage.evaluation.compare import Comparison
from moulage.evaluation.verdict import (
    Control,
    Outcome,
    control,
    decide,
    hardest,
    holm,
    lacking,
    measure_name,
    outcome_against,
    sentence,
    sentences,
    statement,
)

BASE = Comparison(
    arm="synthesize",
    reference="duplicates",
    measure="mean_average_precision",
    classes=("AK",),
    estimate_arm=0.504,
    estimate_reference=0.5,
    difference=0.004,
    standard_error=0.01,
    degrees_of_freedom=20.0,
    low=-0.021,
    high=0.029,
    p_value=0.7,
    num_trials=3,
    num_arms=3,
    num_images=1234,
    num_lesions=701,
    num_lesions_by_class={"NV": 641, "AK": 60},
    variance_lesions=5e-5,
    variance_trials=5e-5,
    method="lesion bootstrap",
    notes=(),
)


def make(low: float | None, high: float | None, **changes) -> Comparison:
    """A comparison with this 95 % interval, and all else that follows from it."""
    if low is None or high is None:
        empty = dict.fromkeys(
            ("standard_error", "degrees_of_freedom", "p_value", "variance_lesions", "variance_trials")
        )
        return dataclasses.replace(BASE, **({"low": None, "high": None} | empty | changes))
    middle, error = (low + high) / 2, (high - low) / 2 / stats.t.ppf(0.975, 20)
    p = 2 * stats.t.sf(abs(middle) / error, 20)
    return dataclasses.replace(
        BASE, **({"low": low, "high": high, "difference": middle, "standard_error": error, "p_value": p} | changes)
    )


def against(**intervals: tuple[float | None, float | None]) -> dict[str, Comparison]:
    return {name: make(*interval, reference=name) for name, interval in intervals.items()}


def verdict(controls=(), **intervals: tuple[float | None, float | None]) -> Outcome:
    return decide({"synthesize": against(**intervals)}, 0.02, controls)["synthesize"].outcome


UP, DOWN, INSIDE, WIDE = (0.01, 0.05), (-0.05, -0.01), (-0.01, 0.015), (-0.021, 0.029)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (UP, Outcome.HELPS),
        (DOWN, Outcome.HURTS),
        (INSIDE, Outcome.EQUAL),
        (WIDE, Outcome.UNDECIDED),
        ((None, None), Outcome.UNDECIDED),
        ((0.0, 0.05), Outcome.UNDECIDED),
        ((0.001, 0.019), Outcome.EQUAL),  # certain, and certainly too small to matter
        ((-0.025, 0.01), Outcome.UNDECIDED),
    ],
)
def test_one_interval(interval, expected):
    assert outcome_against(make(*interval), 0.02) is expected


def test_less_is_better_for_a_loss():
    assert outcome_against(make(*UP, measure="log_loss", classes=()), 0.005) is Outcome.HURTS
    assert outcome_against(make(*DOWN, measure="expected_calibration_error", classes=()), 0.005) is Outcome.HELPS


def test_no_verdict_on_a_class_of_few_lesions():
    few = make(*UP, num_lesions_by_class={"NV": 641, "AK": 9})
    assert outcome_against(few, 0.02) is Outcome.UNDECIDED
    assert "for want of lesions of AK" in sentence(few, 0.02)


@pytest.mark.parametrize(
    ("none", "duplicates", "rival", "expected"),
    [
        (UP, UP, UP, Outcome.HELPS),
        (UP, UP, WIDE, Outcome.UNDECIDED),
        (UP, UP, DOWN, Outcome.UNDECIDED),
        (UP, WIDE, UP, Outcome.UNDECIDED),
        (WIDE, UP, UP, Outcome.UNDECIDED),
        (UP, DOWN, UP, Outcome.UNDECIDED),
        (DOWN, DOWN, WIDE, Outcome.HURTS),  # the rival is no part of harm
        (DOWN, DOWN, UP, Outcome.HURTS),
        (DOWN, WIDE, DOWN, Outcome.UNDECIDED),
        (INSIDE, INSIDE, DOWN, Outcome.EQUAL),
        (UP, INSIDE, WIDE, Outcome.EQUAL),  # better than none, and so are copies
        (DOWN, INSIDE, WIDE, Outcome.UNDECIDED),
        (WIDE, INSIDE, WIDE, Outcome.EQUAL),  # not worse than none by what matters
        ((-0.05, 0.06), INSIDE, WIDE, Outcome.UNDECIDED),
        (WIDE, WIDE, WIDE, Outcome.UNDECIDED),
        ((None, None), (None, None), (None, None), Outcome.UNDECIDED),
    ],
)
def test_an_outcome_holds_against_every_reference(none, duplicates, rival, expected):
    assert verdict(none=none, duplicates=duplicates, rival=rival) is expected


@pytest.mark.parametrize("missing", ["none", "duplicates", "rival"])
def test_help_is_never_said_without_all_references(missing):
    given = against(none=UP, duplicates=UP, rival=UP)
    del given[missing]
    found = decide({"synthesize": given}, 0.02)["synthesize"]
    assert found.outcome is Outcome.UNDECIDED
    assert found.missing == (missing,)
    assert "helps" not in " ".join([statement(found), *sentences(given, 0.02)])
    assert lacking(found).startswith("Without a")


def test_equality_is_two_one_sided_tests():
    """Against statsmodels' paired test on data with this mean and standard error."""
    values = np.random.default_rng(0).normal(0.004, 0.04, 21)
    error = values.std(ddof=1) / 21**0.5
    margin = 0.02
    judged = ttost_paired(values, np.zeros(21), -margin, margin)[0]
    numbers = {"difference": values.mean(), "standard_error": error, "p_value": 0.5, "degrees_of_freedom": 20.0}
    same = {role: make(-1, 1, reference=role, **numbers) for role in ("none", "duplicates")}
    found = decide({"synthesize": same}, margin)["synthesize"]
    assert found.equivalence_p_adjusted == pytest.approx(judged)
    assert (found.outcome is Outcome.EQUAL) == (judged < 0.05)


def test_holm_worked_by_hand():
    # sorted: 0.01 x 4, 0.02 x 3, 0.03 x 2 (raised to 0.06), 0.5; what could not be tested counts and stays
    found = holm({"a": 0.03, "b": 0.01, "c": math.inf, "d": 0.02})
    assert found == {"a": pytest.approx(0.06), "b": pytest.approx(0.04), "c": math.inf, "d": pytest.approx(0.06)}
    assert holm({}) == {}


def test_a_larger_family_asks_for_more():
    good, null = against(none=UP, duplicates=UP, rival=UP), against(none=WIDE, duplicates=WIDE, rival=WIDE)
    alone = good["none"].p_value
    assert 0.005 < alone < 0.05 / 2
    assert verdict(none=UP, duplicates=UP, rival=UP) is Outcome.HELPS
    others = {f"other{n}": {r: dataclasses.replace(c, arm=f"other{n}") for r, c in null.items()} for n in range(12)}
    found = decide({"synthesize": good, **others}, 0.02)
    assert found["synthesize"].outcome is Outcome.UNDECIDED
    assert found["synthesize"].p_adjusted == pytest.approx(13 * alone)


@pytest.mark.parametrize(
    ("role", "none", "duplicates", "state"),
    [
        ("null", WIDE, WIDE, "behaves"),
        ("null", DOWN, DOWN, "behaves"),
        ("null", UP, WIDE, "behaves"),  # more weight on a class helps, whatever its pictures
        ("null", UP, UP, "misbehaves"),
        ("null", UP, None, "misbehaves"),
        ("positive", UP, WIDE, "behaves"),
        ("positive", WIDE, UP, "not shown"),
        ("positive", DOWN, UP, "misbehaves"),
        ("null", (None, None), None, "cannot be judged"),
        ("null", UP, (None, None), "cannot be judged"),
        ("null", WIDE, (None, None), "behaves"),  # it is not better than none, whatever copies would say
        ("positive", (None, None), None, "cannot be judged"),
    ],
)
def test_controls(role, none, duplicates, state):
    given = against(none=none) | (against(duplicates=duplicates) if duplicates else {})
    found = control(role, given)
    assert found.state == state
    assert "synthesize" in found.text
    allowed = verdict([found], none=UP, duplicates=UP, rival=UP) is Outcome.HELPS
    assert allowed == (state == "behaves")


@pytest.mark.parametrize("role", ["null", "positive"])
@pytest.mark.parametrize("interval", [UP, DOWN, WIDE])
def test_a_control_with_too_few_lesions_cannot_be_judged(role, interval):
    """A null control that gains 82.8 points on nine lesions neither behaves nor misbehaves."""
    few = {"num_lesions_by_class": {"NV": 641, "AK": 9}}
    given = {name: make(*interval, reference=name, **few) for name in ("none", "duplicates")}
    found = control(role, given)
    assert found.state == "cannot be judged"
    assert "too few lesions of AK" in found.text
    assert verdict([found], none=UP, duplicates=UP, rival=UP) is Outcome.UNDECIDED
    assert verdict([found], none=INSIDE, duplicates=INSIDE, rival=INSIDE) is Outcome.UNDECIDED


def test_the_hardest_rival_is_the_one_that_the_arm_is_least_shown_to_beat():
    rivals = against(a=UP, b=WIDE, c=DOWN, d=(0.011, 0.05))
    assert hardest(rivals.values()).reference == "c"
    assert hardest([rivals["a"], rivals["d"]]).reference == "a"
    assert hardest([rivals["a"], make(None, None, reference="e")]).reference == "e"
    loss = [make(*end, reference=name, measure="log_loss", classes=()) for name, end in (("a", UP), ("b", DOWN))]
    assert hardest(loss).reference == "a"


def test_a_broken_control_refuses_help_and_equality_and_nothing_else():
    broken = [Control("noise", "null", "misbehaves", "The null control noise helps.")]
    given = against(none=UP, duplicates=UP, rival=UP)
    found = decide({"synthesize": given}, 0.02, broken)["synthesize"]
    assert found.refused == (
        'The numbers would allow "helps", but the controls forbid it. The null control noise helps.'
    )
    assert verdict(broken, none=DOWN, duplicates=DOWN, rival=DOWN) is Outcome.HURTS
    assert verdict(broken, none=INSIDE, duplicates=INSIDE, rival=INSIDE) is Outcome.UNDECIDED
    same = decide({"synthesize": against(none=INSIDE, duplicates=INSIDE, rival=INSIDE)}, 0.02, broken)["synthesize"]
    assert same.refused.startswith('The numbers would allow "practically equal", but')


def test_sentence_without_a_difference():
    assert sentence(make(*WIDE), 0.02, "Adding 80 generated AK images") == (
        "Adding 80 generated AK images changed the mean average precision of AK by +0.4 points against duplicates "
        "(95 % interval -2.1 to +2.9; 3 fits, 1,234 images, 701 lesions, 60 of AK): not enough data, no difference was "
        "shown, and neither a gain of 2.9 nor a loss of 2.1 points is excluded."
    )


def test_sentences_of_the_other_outcomes():
    assert sentence(make(*UP), 0.02).endswith(": better than duplicates.")
    assert sentence(make(*DOWN), 0.02).endswith(": worse than duplicates.")
    inside = ": practically equal to duplicates, any difference is smaller than 2.0 points."
    assert sentence(make(*INSIDE), 0.02).endswith(inside)
    nothing = sentence(make(None, None, num_trials=1), 0.02)
    assert "(no interval; 1 fit, 1,234 images, 701 lesions, 60 of AK): nothing can be concluded" in nothing
    for interval in (UP, DOWN, INSIDE, WIDE, (None, None)):
        assert "helps" not in sentence(make(*interval), 0.02)


def test_a_loss_is_told_in_nats_and_its_gain_is_a_fall():
    text = sentence(make(-0.03, 0.01, measure="log_loss", classes=()), 0.005)
    assert "changed the log-loss by -0.010 nats" in text
    assert "neither a gain of 0.030 nor a loss of 0.010 nats is excluded" in text


def test_a_rounded_zero_has_no_minus():
    assert "by +0.0 points" in sentence(make(-0.0104, 0.0102), 0.005)


def test_explanation_opens_with_the_outcome_and_puts_duplicates_first():
    given = against(none=UP, duplicates=WIDE, rival=DOWN)
    found = decide({"synthesize": given}, 0.02)["synthesize"]
    change = "Adding 80 generated AK images (gan)"
    assert statement(found, change, 2).startswith(f"{change}: not enough data (p = ")
    assert statement(found, change, 2).endswith("after Holm over 2 arms).")
    text = sentences(given, 0.02, change)
    assert text[0].startswith(f"{change} changed the mean average precision of AK by +")
    assert "against duplicates (95 % interval" in text[0]
    assert text[1].startswith("Against none +")
    assert text[2].startswith("Against rival, the rival that is hardest to beat, -")
    assert not any("images, " in sentence for sentence in text[1:])  # sizes are said once
    assert lacking(found) == ""


def test_measures_in_words():
    assert measure_name(make(0, 1, classes=("AK", "DF", "VASC"))) == "mean average precision of AK, DF and VASC"
    assert measure_name(make(0, 1, measure="recall:AK")) == "recall of AK"
    assert measure_name(make(0, 1, measure="balanced_accuracy", classes=())) == "balanced accuracy"


def test_nonsense_is_refused():
    with pytest.raises(DataError, match="smallest effect"):
        outcome_against(BASE, 0)
    with pytest.raises(DataError, match="of this arm, under one measure"):
        decide({"other": against(none=UP)}, 0.02)
    with pytest.raises(DataError, match="of this arm, under one measure"):
        decide({"synthesize": {"none": make(*UP), "duplicates": make(*UP, measure="accuracy")}}, 0.02)
