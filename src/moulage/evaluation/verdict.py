"""Judges arms by their comparisons, in words that claim no more than the numbers say.

An outcome is said of an arm only where it holds against *every* reference that it needs (intersection-union: no
correction among references), after Holm's correction over the declared family of arms:

- *helps*: better than ``none``, than ``duplicates`` and than every declared ``rival``, and the study's controls
  behaved;
- *hurts*: worse than ``none`` and than ``duplicates``;
- *practically equal*: equivalent to ``duplicates`` and not worse than ``none``, within the smallest effect that matters
  (two one-sided tests), and the controls behaved: to a study without sensitivity everything is equal. It comes first: a
  difference that is certainly smaller than what matters is no help;
- *not enough data*: everything else.

``duplicates`` is the reference that matters: it adds as many images, but real ones, so beating ``none`` alone says only
that more weight on a class helps. Rivals are a hurdle for "helps" alone: to be worse than one is no harm done.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from moulage.errors import DataError
from moulage.evaluation.compare import Comparison
from moulage.evaluation.measure_names import parse

REQUIRED = ("none", "duplicates", "rival")
"""Roles of the references without which nothing is said to help."""
HARMED = ("none", "duplicates")
"""Roles of the references that decide about harm and equality."""
LEVEL = 0.05
"""Two-sided level of a difference; level of each side of an equivalence test."""


class Outcome(Enum):
    """The four answers to: do these images help?"""

    HELPS = "helps"
    HURTS = "hurts"
    EQUAL = "practically equal"
    UNDECIDED = "not enough data"


@dataclass(frozen=True)
class Control:
    """Whether a control did what it must."""

    arm: str  # its name
    role: Literal["null", "positive"]  # ``null`` (must not help) or ``positive`` (must help)
    # ``behaves``, ``misbehaves``, ``not shown`` (a positive control whose gain is not certain), or ``cannot be judged``
    # (no interval, or too few lesions of a class)
    state: Literal["behaves", "misbehaves", "not shown", "cannot be judged"]
    text: str  # one sentence with the numbers


@dataclass(frozen=True)
class Verdict:
    """What is said of an arm."""

    arm: str  # its name
    outcome: Outcome  # one of four
    # Holm-adjusted p of the direction that the arm points to (the largest over its references); None where a reference
    # has no interval
    p_adjusted: float | None
    equivalence_p_adjusted: float | None  # Holm-adjusted p of the equivalence test
    refused: str  # which word is not said although the numbers would allow it, and why; empty otherwise
    missing: tuple[str, ...]  # roles of references that the arm was not compared with


def decide(
    family: Mapping[str, Mapping[str, Comparison]], smallest_effect: float, controls: Iterable[Control] = ()
) -> dict[str, Verdict]:
    """The verdict on every arm of a family; ``DataError`` where comparisons are of another arm, or several measures.

    Args:
        family: arm -> role of the reference (``REQUIRED``) -> comparison of the arm with it under the primary measure.
        smallest_effect: smallest difference that matters, in the unit of the measure (0.02 = 2 points), > 0.
        controls: how the study's controls did; one that does not behave refuses "helps" and "practically equal".
    """
    _check_effect(smallest_effect)
    for arm, against in family.items():
        if any(c.arm != arm for c in against.values()) or len({(c.measure, c.classes) for c in against.values()}) > 1:
            raise DataError(f"The comparisons under {arm} must be of this arm, under one measure.")
    better = {arm: _largest(against, REQUIRED, _p_better) for arm, against in family.items()}
    worse = {arm: _largest(against, HARMED, _p_worse) for arm, against in family.items()}
    direction = holm({arm: min(better[arm], worse[arm]) for arm in family})
    equivalence = holm({arm: _p_equal_to_both(against, smallest_effect) for arm, against in family.items()})
    broken = " ".join(control.text for control in controls if control.state != "behaves")
    found = {}
    for arm, against in family.items():
        outcome, refused = Outcome.UNDECIDED, ""
        if equivalence[arm] < LEVEL:
            outcome = Outcome.EQUAL
        elif direction[arm] < LEVEL:
            outcome = Outcome.HURTS if worse[arm] < better[arm] else Outcome.HELPS
        if broken and outcome in (Outcome.EQUAL, Outcome.HELPS):
            refused = f'The numbers would allow "{outcome.value}", but the controls forbid it. {broken}'
            outcome = Outcome.UNDECIDED
        missing = tuple(role for role in REQUIRED if role not in against)
        found[arm] = Verdict(arm, outcome, _finite(direction[arm]), _finite(equivalence[arm]), refused, missing)
    return found


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down adjusted p-values (Holm 1979); infinity (no test was possible) counts and stays."""
    if len(p_values) < 2:  # nothing to adjust; the library collects garbage at each call, a tenth of a second
        return {name: p if math.isinf(p) else min(p, 1.0) for name, p in p_values.items()}
    import numpy as np
    from statsmodels.stats.multitest import multipletests

    adjusted = np.asarray(multipletests([min(p, 1.0) for p in p_values.values()], method="holm")[1])
    return {
        name: math.inf if math.isinf(p) else float(a) for (name, p), a in zip(p_values.items(), adjusted, strict=True)
    }


def _finite(p: float) -> float | None:
    return None if math.isinf(p) else p


def control(role: Literal["null", "positive"], against: Mapping[str, Comparison]) -> Control:
    """How a control did under the primary measure, each test at its own level: a fault is not to be missed.

    A null control (noise, permuted labels) misbehaves where it is better than ``none`` and than ``duplicates``. A
    positive one (held-back real images) behaves where it is better than ``none`` and misbehaves where it is worse. What
    no test was possible of is no good behaviour: it cannot be judged.
    ``against``: role of the reference (``none`` is needed, ``duplicates`` where there is one) -> comparison.
    """
    none = against["none"]
    arm = none.arm
    evidence = f"{_difference(none)} of {measure_name(none)} against {none.reference} ({_evidence(none)})"
    tested = [_p_better(against[r]) for r in HARMED if r in against] if role == "null" else [_p_better(none)]
    if max(tested) == math.inf and all(p < LEVEL or p == math.inf for p in tested):
        why = f"too few lesions of {' and '.join(none.too_small)}" if none.too_small else "no interval"
        return Control(arm, role, "cannot be judged", f"The {role} control {arm} cannot be judged: {evidence}; {why}.")
    if role == "null":
        if max(tested) < LEVEL:
            return Control(arm, role, "misbehaves", f"The null control {arm} helps: {evidence}. It must not.")
        return Control(arm, role, "behaves", f"The null control {arm} does not help: {evidence}.")
    if _p_better(none) < LEVEL:
        return Control(arm, role, "behaves", f"The positive control {arm} helps: {evidence}.")
    if _p_worse(none) < LEVEL:
        return Control(arm, role, "misbehaves", f"The positive control {arm} hurts: {evidence}. It must help.")
    text = f"The positive control {arm} was not shown to help: {evidence}. The study could hardly see a real gain."
    return Control(arm, role, "not shown", text)


def hardest(comparisons: Iterable[Comparison]) -> Comparison:
    """The one of an arm's comparisons, at least one, in which it is least shown to be better.

    To be better than every rival is to pass the test against this one (intersection-union): no rival need be picked.
    """
    return max(comparisons, key=lambda c: (_p_better(c), -_gain(c)))


def outcome_against(comparison: Comparison, smallest_effect: float) -> Outcome:
    """What one comparison says of the arm against this one reference, uncorrected; it is no verdict on the arm.

    A measure where less is better counts the other way round; ``smallest_effect`` as for ``decide``.
    """
    _check_effect(smallest_effect)
    if _p_equal(comparison, smallest_effect) < LEVEL:
        return Outcome.EQUAL
    if _p_better(comparison) < LEVEL:
        return Outcome.HELPS
    return Outcome.HURTS if _p_worse(comparison) < LEVEL else Outcome.UNDECIDED


def equivalence_p(comparison: Comparison, smallest_effect: float) -> float:
    """p of the equivalence test against this one reference, uncorrected; infinity without an interval."""
    _check_effect(smallest_effect)
    return _p_equal(comparison, smallest_effect)


def _largest(against: Mapping[str, Comparison], roles: Iterable[str], p_value: Callable[[Comparison], float]) -> float:
    """Intersection-union test (Berger 1982): the largest p over the references; infinity where one is missing."""
    return max(p_value(against[role]) if role in against else math.inf for role in roles)


def _p_equal_to_both(against: Mapping[str, Comparison], margin: float) -> float:
    if set(HARMED) - set(against):
        return math.inf
    return max(_p_equal(against["duplicates"], margin), _p_equal(against["none"], margin, above=False))


def _gain(comparison: Comparison) -> float:
    return -comparison.difference if comparison.is_lower_better else comparison.difference


def _p_better(comparison: Comparison, sign: int = 1) -> float:
    """Two-sided p where the arm is better (``sign`` -1: worse); 1 where it is not; infinity without an interval."""
    if comparison.p_value is None or comparison.too_small:
        return math.inf
    return comparison.p_value if sign * _gain(comparison) > 0 else 1.0


def _p_worse(comparison: Comparison) -> float:
    return _p_better(comparison, -1)


def _p_equal(comparison: Comparison, margin: float, *, above: bool = True) -> float:
    """Two one-sided t-tests (Schuirmann 1987): the larger p; without ``above`` only the test against being worse."""
    from scipy.special import stdtr

    error, freedom = comparison.standard_error, comparison.degrees_of_freedom
    if error is None or freedom is None or comparison.too_small:
        return math.inf
    below = float(stdtr(freedom, -(margin + _gain(comparison)) / error))
    return max(below, float(stdtr(freedom, -(margin - _gain(comparison)) / error))) if above else below


def sentence(
    comparison: Comparison, smallest_effect: float, change: str = "", aside: str = "", *, brief: bool = False
) -> str:
    """One comparison in one sentence: effect, interval, sizes, and what the interval says.

    Args:
        comparison, smallest_effect: as in ``outcome_against``.
        change: what the arm did, such as ``Adding 80 generated AK images``; the arm's name without it.
        aside: what is said of the reference behind its name, such as ``, a rival``.
        brief: for a sentence that follows another one on the same images: neither measure nor sizes.
    """
    reference, difference = f"{comparison.reference}{aside}", _difference(comparison)
    reading = _reading(comparison, smallest_effect)
    if brief:
        return f"Against {reference}{',' * bool(aside)} {difference} ({_interval(comparison)}): {reading}."
    subject, measure = change or f'The arm "{comparison.arm}"', measure_name(comparison)
    return f"{subject} changed the {measure} by {difference} against {reference} ({_evidence(comparison)}): {reading}."


def statement(verdict: Verdict, change: str = "", num_arms: int = 1) -> str:
    """The outcome in one sentence, with its p as adjusted over the ``num_arms`` arms of the family."""
    p = verdict.equivalence_p_adjusted if verdict.outcome is Outcome.EQUAL else verdict.p_adjusted
    adjusted = "" if p is None else f" ({p_text(p)} after Holm over {num_arms} arm{'s' * (num_arms != 1)})"
    return f"{change or verdict.arm}: {verdict.outcome.value}{adjusted}."


def sentences(against: Mapping[str, Comparison], smallest_effect: float, change: str = "") -> list[str]:
    """A sentence for each reference: copies, nothing added, the hardest rival; arguments as of ``sentence``."""
    asides = {"duplicates": "", "none": "", "rival": ", the rival that is hardest to beat"}
    roles = [role for role in asides if role in against]
    return [sentence(against[r], smallest_effect, change, asides[r], brief=r != roles[0]) for r in roles]


def lacking(verdict: Verdict) -> str:
    """Which references are missing for the word helps, in a sentence; empty where none."""
    names = " and ".join(MISSING[role] for role in verdict.missing)
    return f"Without {names} no arm can be said to help." if names else ""


MISSING = {
    "none": "an arm that adds nothing",
    "duplicates": "an arm that adds as many copies of real images",
    "rival": "a cheap rival such as balanced_softmax",
}


def p_value(p: float) -> str:
    """A p-value in three digits: ``0.032`` or ``< 0.001``."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_text(p: float) -> str:
    """``p = 0.032`` or ``p < 0.001``."""
    return f"p {'' if p < 0.001 else '= '}{p_value(p)}"


def _check_effect(smallest_effect: float) -> None:
    if not smallest_effect > 0:
        raise DataError(f"The smallest effect that matters is {smallest_effect}.", "Give a number above 0.")


def measure_name(comparison: Comparison) -> str:
    """The measure in words, such as ``mean average precision of AK and DF``."""
    return parse(comparison.measure).words(comparison.classes)


def _difference(comparison: Comparison) -> str:
    return parse(comparison.measure).measure.amount(comparison.difference, signed=True)


def _evidence(comparison: Comparison) -> str:
    fits = f"{comparison.num_trials} fit{'s' * (comparison.num_trials != 1)}"
    size = f"{fits}, {comparison.num_images:,} images, {comparison.num_lesions:,} lesions"
    held = (f", {comparison.num_lesions_by_class[name]:,} of {name}" for name in comparison.classes)
    return f"{_interval(comparison)}; {size}{''.join(held)}"


def _interval(comparison: Comparison) -> str:
    if comparison.low is None or comparison.high is None:
        return "no interval"
    number = parse(comparison.measure).measure.number
    return f"95 % interval {number(comparison.low, signed=True)} to {number(comparison.high, signed=True)}"


def _reading(comparison: Comparison, smallest_effect: float) -> str:
    """What the interval says, and no more."""
    reference, measure = comparison.reference, parse(comparison.measure).measure
    if comparison.low is None or comparison.high is None:
        return "nothing can be concluded without an interval"
    if comparison.too_small:
        return f"no verdict, for want of lesions of {' and '.join(comparison.too_small)}"
    found = outcome_against(comparison, smallest_effect)
    if found is Outcome.EQUAL:
        return f"practically equal to {reference}, any difference is smaller than {measure.amount(smallest_effect)}"
    if found is not Outcome.UNDECIDED:
        return f"{'better' if found is Outcome.HELPS else 'worse'} than {reference}"
    bounds = comparison.high, -comparison.low
    gain, loss = bounds[::-1] if comparison.is_lower_better else bounds
    return (
        f"not enough data, no difference was shown, and neither a gain of {measure.number(gain)} "
        f"nor a loss of {measure.amount(loss)} is excluded"
    )
