"""Verdicts: words never claim more than the interval says."""

import dataclasses

import pytest

from moulage.errors import DataError
from moulage.evaluation.compare import Comparison
from moulage.evaluation.verdict import Outcome, answer, measure_name, outcome, outcome_against, sentence

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
    middle = 0.004 if low is None or high is None else (low + high) / 2
    return dataclasses.replace(BASE, **({"low": low, "high": high, "difference": middle} | changes))


def against(**intervals: tuple[float | None, float | None]) -> dict[str, Comparison]:
    return {name: make(*interval, reference=name) for name, interval in intervals.items()}


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
        ((-0.02, 0.01), Outcome.UNDECIDED),  # touches the margin
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
    ("none", "duplicates", "expected"),
    [
        (UP, UP, Outcome.HELPS),
        (UP, WIDE, Outcome.UNDECIDED),
        (UP, INSIDE, Outcome.UNDECIDED),
        (UP, DOWN, Outcome.UNDECIDED),
        (WIDE, UP, Outcome.UNDECIDED),
        (DOWN, DOWN, Outcome.HURTS),
        (INSIDE, INSIDE, Outcome.EQUAL),
        (WIDE, WIDE, Outcome.UNDECIDED),
    ],
)
def test_an_outcome_holds_against_every_reference(none, duplicates, expected):
    assert outcome(against(none=none, duplicates=duplicates), 0.02) is expected


def test_a_further_reference_can_only_take_away():
    assert outcome(against(none=UP, duplicates=UP, focal=UP), 0.02) is Outcome.HELPS
    assert outcome(against(none=UP, duplicates=UP, focal=WIDE), 0.02) is Outcome.UNDECIDED


@pytest.mark.parametrize("missing", ["none", "duplicates"])
def test_help_is_never_said_without_both_references(missing):
    given = against(none=UP, duplicates=UP)
    del given[missing]
    assert outcome(given, 0.02) is Outcome.UNDECIDED
    text = answer(given, 0.02)
    assert "helps" not in text
    assert f"Without a comparison with {missing}" in text


def test_sentence_without_a_difference():
    assert sentence(BASE, 0.02, "Adding 80 generated AK images") == (
        "Adding 80 generated AK images changed the mean average precision of AK by +0.4 points against duplicates "
        "(95 % interval -2.1 to +2.9; 3 fits, 1,234 images, 701 lesions): not enough data, no difference was shown, "
        "and neither a gain of 2.9 nor a loss of 2.1 points is excluded."
    )


def test_sentences_of_the_other_outcomes():
    assert sentence(make(*UP), 0.02).endswith(": better than duplicates.")
    assert sentence(make(*DOWN), 0.02).endswith(": worse than duplicates.")
    inside = ": practically equal to duplicates, any difference is smaller than 2.0 points."
    assert sentence(make(*INSIDE), 0.02).endswith(inside)
    nothing = sentence(make(None, None, num_trials=1), 0.02)
    assert "(no interval; 1 fit, 1,234 images, 701 lesions): nothing can be concluded" in nothing
    for interval in (UP, DOWN, INSIDE, WIDE, (None, None)):
        assert "helps" not in sentence(make(*interval), 0.02)


def test_a_loss_is_told_in_nats_and_its_gain_is_a_fall():
    text = sentence(make(-0.03, 0.01, measure="log_loss", classes=()), 0.005)
    assert "changed the log-loss by -0.010 nats" in text
    assert "neither a gain of 0.030 nor a loss of 0.010 nats is excluded" in text


def test_a_rounded_zero_has_no_minus():
    assert "by +0.0 points" in sentence(make(-0.0104, 0.0102), 0.005)


def test_answer_opens_with_the_outcome_and_puts_duplicates_first():
    text = answer(against(none=UP, duplicates=WIDE), 0.02, "Adding 80 generated AK images")
    assert text.startswith("Adding 80 generated AK images: not enough data. ")
    assert text.index("against duplicates") < text.index("against none")
    assert "not corrected for the number of arms" in text
    assert answer(against(none=UP, duplicates=UP), 0.02).startswith("synthesize: helps. ")


def test_measures_in_words():
    assert measure_name(make(0, 1, classes=("AK", "DF", "VASC"))) == "mean average precision of AK, DF and VASC"
    assert measure_name(make(0, 1, measure="recall:AK")) == "recall of AK"
    assert measure_name(make(0, 1, measure="balanced_accuracy", classes=())) == "balanced accuracy"


def test_nonsense_is_refused():
    with pytest.raises(DataError, match="smallest effect"):
        outcome_against(BASE, 0)
    with pytest.raises(DataError, match="one arm under one measure"):
        outcome({}, 0.02)
    with pytest.raises(DataError, match="one arm under one measure"):
        outcome({"none": make(*UP, reference="none"), "duplicates": make(*UP, arm="other")}, 0.02)
