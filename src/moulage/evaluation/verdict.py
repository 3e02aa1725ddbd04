"""Puts comparisons into words that claim no more than their intervals say.

An ``Outcome`` is said of an arm only where it holds against *every* reference (intersection-union: no correction among
references), and ``none`` and ``duplicates`` must both be among them. ``duplicates`` is the reference that matters: it
adds as many images, but real ones, so beating ``none`` alone says only that more weight on a class helps.

What comes here next, by extending ``outcome`` and ``answer``: the best rival chosen on validation as one more
reference; controls (noise, permuted, oracle) that must behave before "helps" may be said; Holm over the declared family
of arms; TOST at 5 % a side (now the 95 % interval must lie within the smallest effect, which is stricter); how many
more fits or images would decide.
"""

from collections.abc import Mapping
from enum import Enum

from moulage.errors import DataError
from moulage.evaluation.compare import Comparison

REQUIRED = ("none", "duplicates")
"""References without which nothing is said but "not enough data"."""


class Outcome(Enum):
    """The four answers to: do these images help?"""

    HELPS = "helps"
    HURTS = "hurts"
    EQUAL = "practically equal"
    UNDECIDED = "not enough data"


NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "recall": "recall",
    "average_precision": "average precision",
    "auc": "AUC",
    "f1": "F1",
    "log_loss": "log-loss",
    "expected_calibration_error": "expected calibration error",
    "mean_recall": "mean recall",
    "mean_average_precision": "mean average precision",
}


def outcome_against(comparison: Comparison, smallest_effect: float) -> Outcome:
    """What one 95 % interval says of the arm against this one reference; it is no verdict on the arm.

    Practically equal comes first: a difference that is certain, and certainly smaller than what matters, is no help.
    A measure where less is better counts the other way round.

    Args:
        comparison: the comparison.
        smallest_effect: smallest difference that matters, in the unit of the measure (0.02 = 2 points), > 0.
    """
    if not smallest_effect > 0:
        raise DataError(f"The smallest effect that matters is {smallest_effect}.", "Give a number above 0.")
    low, high = comparison.low, comparison.high
    if low is None or high is None or comparison.too_small:
        return Outcome.UNDECIDED
    if comparison.is_lower_better:
        low, high = -high, -low
    if -smallest_effect < low and high < smallest_effect:
        return Outcome.EQUAL
    if low > 0:
        return Outcome.HELPS
    return Outcome.HURTS if high < 0 else Outcome.UNDECIDED


def outcome(against: Mapping[str, Comparison], smallest_effect: float) -> Outcome:
    """The outcome of an arm: what holds against every reference, or "not enough data".

    Args:
        against: role of the reference -> comparison of one arm with it under one measure; the roles ``none`` and
            ``duplicates`` (as many images as the arm adds) are required, whatever the arms in these roles are called.
        smallest_effect: as in ``outcome_against``.
    """
    _check(against)
    found = {outcome_against(comparison, smallest_effect) for comparison in against.values()}
    return found.pop() if len(found) == 1 and not set(REQUIRED) - set(against) else Outcome.UNDECIDED


def sentence(comparison: Comparison, smallest_effect: float, change: str = "") -> str:
    """One comparison in one sentence: effect, interval, sizes, and what the interval says.

    Args:
        comparison: the comparison.
        smallest_effect: as in ``outcome_against``.
        change: what the arm did, such as ``Adding 80 generated AK images``; the arm's name without it.
    """
    amount = _number(comparison, comparison.difference, signed=True)
    subject = change or f'The arm "{comparison.arm}"'
    return (
        f"{subject} changed the {measure_name(comparison)} by {amount} {_unit(comparison)} "
        f"against {comparison.reference} ({_evidence(comparison)}): {_reading(comparison, smallest_effect)}."
    )


def answer(against: Mapping[str, Comparison], smallest_effect: float, change: str = "") -> str:
    """The answer for one arm in words: the outcome, then the evidence against each reference.

    Args:
        against: as in ``outcome``.
        smallest_effect: as in ``outcome_against``.
        change: as in ``sentence``.
    """
    _check(against)
    arm = next(iter(against.values())).arm
    parts = [f"{change or arm}: {outcome(against, smallest_effect).value}."]
    ordered = sorted(against, key=lambda name: (name != "duplicates", name != "none", name))
    parts += [sentence(against[name], smallest_effect, change) for name in ordered]
    if missing := [name for name in REQUIRED if name not in against]:
        parts.append(
            f"Without a comparison with {' and '.join(missing)} nothing can be said of what generated images add."
        )
    parts.append("The intervals are not corrected for the number of arms, and hold for this data set.")
    return " ".join(parts)


def measure_name(comparison: Comparison) -> str:
    """The measure in words, such as ``mean average precision of AK and DF``."""
    names = comparison.classes
    listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
    return NAMES[comparison.measure.partition(":")[0]] + (f" of {listed}" if listed else "")


def _check(against: Mapping[str, Comparison]) -> None:
    if len({(comparison.arm, comparison.measure, comparison.classes) for comparison in against.values()}) != 1:
        raise DataError("An outcome needs comparisons of one arm under one measure.")


def _evidence(comparison: Comparison) -> str:
    fits = f"{comparison.num_trials} fit{'s' * (comparison.num_trials != 1)}"
    size = f"{fits}, {comparison.num_images:,} images, {comparison.num_lesions:,} lesions"
    if comparison.low is None or comparison.high is None:
        return f"no interval; {size}"
    low, high = (_number(comparison, value, signed=True) for value in (comparison.low, comparison.high))
    return f"95 % interval {low} to {high}; {size}"


def _reading(comparison: Comparison, smallest_effect: float) -> str:
    """What the interval says, and no more."""
    reference, unit = comparison.reference, _unit(comparison)
    margin = f"{_number(comparison, smallest_effect)} {unit}"
    if comparison.low is None or comparison.high is None:
        return "nothing can be concluded without an interval"
    if comparison.too_small:
        return f"no verdict, for want of lesions of {' and '.join(comparison.too_small)}"
    found = outcome_against(comparison, smallest_effect)
    if found is Outcome.EQUAL:
        return f"practically equal to {reference}, any difference is smaller than {margin}"
    if found is not Outcome.UNDECIDED:
        return f"{'better' if found is Outcome.HELPS else 'worse'} than {reference}"
    gain, loss = comparison.high, -comparison.low
    if comparison.is_lower_better:
        gain, loss = loss, gain
    return (
        f"not enough data, no difference was shown, and neither a gain of {_number(comparison, gain)} "
        f"nor a loss of {_number(comparison, loss)} {unit} is excluded"
    )


def _unit(comparison: Comparison) -> str:
    return "nats" if comparison.measure == "log_loss" else "points"


def _number(comparison: Comparison, value: float, *, signed: bool = False) -> str:
    """Points to one decimal, nats to three; a rounded zero has no sign but +."""
    digits, scaled = (3, value) if comparison.measure == "log_loss" else (1, 100 * value)
    return f"{round(scaled, digits) + 0.0:{'+' if signed else ''}.{digits}f}"
