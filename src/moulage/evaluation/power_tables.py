"""What can be known before a GPU-hour is spent, and what a finished study would need to know more: tables and words."""

from collections.abc import Mapping, Sequence
from typing import Any

from moulage.errors import DataError
from moulage.evaluation.compare import MIN_LESIONS, MIN_TRIALS
from moulage.evaluation.lesion_variance import FEW_LESIONS
from moulage.evaluation.measure_names import find, parse
from moulage.evaluation.measures import Measure
from moulage.evaluation.power import MOST_TRIALS, Plan, equivalence_needs
from moulage.evaluation.verdict_power import VerdictPlan

TRIALS = (3, 5, 10, 20)
"""Fits an arm, of a hold-out."""
REPEATS = (1, 2, 4)
"""Repeats of the folds."""
FACTORS = (1, 2, 4)
"""Times the test lesions."""
TOGETHER = tuple(2**step for step in range(1, 11))
"""Times the fits and the lesions, both."""
ASSUMED = (
    "Numbers without a pilot are good for an order of magnitude (docs/evidence.md). Run a pilot with 3 fits an arm, "
    "then `moulage power --run FOLDER`."
)
FROZEN = (
    "They were measured on ISIC-2019 for a head on frozen features, whose fits hardly vary; a network that is trained "
    "varies more."
)
TRAINED = (
    "For a network that is trained they are assumed, from simulated studies; a head on frozen features, for which they "
    "were measured (--classifier probe), varies less."
)


def forecast(
    num_images: int,
    num_lesions: Mapping[str, int],
    targets: Sequence[str] = (),
    *,
    test: float = 0.2,
    num_folds: int = 5,
    num_arms: int = 5,
    family: int = 1,
    rivals: int = 1,
    smallest_effect: float = 0.02,
    classifier: str = "finetune",
) -> dict[str, Any]:
    """Detectable effects (80 % power, 5 % two-sided) of hold-outs and repeated folds, by the planning constants.

    Args:
        num_images: images of the whole data set.
        num_lesions: class -> lesions of the whole data set, for the classes that matter.
        targets: classes of the measures; all of ``num_lesions`` if empty.
        test: share of the images that a hold-out tests; folds test every image once a repeat.
        num_arms: arms of the study, over which the variance of the fits is pooled.
        family, rivals: arms with generated images, over which p is corrected, and rivals that each has to beat.
        smallest_effect: smallest difference that matters (0.02 = 2 points).
        classifier: ``finetune`` or ``probe``: whose planning constants.

    Returns:
        ``classes`` (what each can bear), ``rows`` (one a design, number of fits and measure), ``sentences``. A row has
        ``standard_error``, ``detectable`` (1, 2 and 4 times the images, one comparison), ``verdict`` (true gain called
        "helps") and ``margin`` (of equality); None where no verdict is possible, or beyond 100 points.
    """
    targets = list(targets or num_lesions)
    _check(num_images, num_lesions, targets, test, num_folds, num_arms)
    _check_family(family, rivals)
    primary = "balanced_accuracy"
    if targets:
        primary = "mean_average_precision" if len(targets) > 1 else f"average_precision:{targets[0]}"
    rows, found, needs = [], [], []
    for folds, share in ((1, test), (num_folds, 1.0)):
        tested, usual = round(share * num_images), 5 if folds == 1 else 2 * folds
        plans = _plans(tested, num_lesions, targets, share, folds, num_arms, classifier)
        for measure, plan in plans.items():
            for number in _numbers(folds):
                design = f"hold-out {100 * test:g} %" if folds == 1 else f"{folds} folds x {number // folds}"
                row = {"design": design, "num_trials": number, "num_images": tested, "measure": measure}
                whole = VerdictPlan((plan,) * (2 + rivals), (plan,), family) if plan else None
                rows.append(
                    row | _facts(plan, number) | {"verdict": _possible(whole.detectable(number)) if whole else None}
                )
                if measure == primary and number == usual:
                    found.append(_found(rows[-1], family, rivals))
        if (plan := plans[primary]) and _possible(plan.detectable(usual)):
            where = f"On a hold-out of {100 * test:g} %" if folds == 1 else f"With {folds} folds"
            needs.append(f"{where}: {needed(plan.at(usual), smallest_effect, find('recall'))}")
    classes = [_bears(name, test * count, count) for name, count in num_lesions.items()]
    mute = [_mute(row) for row in classes if row["class"] in targets and row["test lesions"] < MIN_LESIONS]
    notes = [ASSUMED, FROZEN if classifier == "probe" else TRAINED]
    said = [*found, *needs, *mute]
    return {"primary": primary, "classes": classes, "rows": rows, "sentences": said, "notes": notes}


def _check_family(family: int, rivals: int) -> None:
    if family < 1 or rivals < 0:
        raise DataError(
            f"A family of {family} arms and {rivals} rivals cannot be planned.", "Give 1 or more, and 0 or more."
        )


def after(comparisons: Sequence[Mapping[str, Any]], measure: str, smallest_effect: float) -> dict[str, Any]:
    """What a finished study could find, and what more it would need, from the components in its ``results.json``.

    Returns:
        ``classes``, ``rows`` (one a comparison under the measure: ``by_trials`` and ``by_size``, pairs of a number and
        the detectable effect; ``trials_needed``, ``factor_needed``, None where no number does) and ``sentences``.
        ``DataError``: there is no such comparison, or none has an interval.
    """
    wanted = [c for c in comparisons if c["measure"] == measure]
    if not wanted:
        known = ", ".join(dict.fromkeys(c["measure"] for c in comparisons)) or "none"
        raise DataError(f'This study has no comparison under "{measure}".', f"There are: {known}.")
    rows, sentences = [], []
    for values in wanted:
        if values["standard_error"] is None or any(
            values["num_lesions_by_class"][name] < MIN_LESIONS for name in values["classes"]
        ):
            continue
        plan = Plan.read(values)
        now = plan.num_trials
        rows.append(
            {
                "arm": values["arm"],
                "reference": values["reference"],
                "measure": measure,
                "num_trials": now,
                **_facts(plan, now),
                "by_trials": [[n, plan.detectable(n)] for n in _numbers(plan.num_folds)],
                "by_size": [[factor, plan.detectable(now, factor)] for factor in FACTORS],
                "trials_needed": plan.trials_needed(smallest_effect),
                "factor_needed": plan.factor_needed(smallest_effect),
            }
        )
        said = needed(plan, smallest_effect, parse(measure).measure)
        sentences.append(f"{values['arm']} against {values['reference']}: {said}")
    if not rows:
        raise DataError(
            f'No comparison under "{measure}" has an interval and enough lesions, so there is nothing to plan with.',
            f"A pilot needs at least {MIN_TRIALS} fits an arm, and {MIN_LESIONS} lesions of each class that counts.",
        )
    classes = [_bears(name, count, None) for name, count in wanted[0]["num_lesions_by_class"].items()]
    notes = ["The variances are those of this study, and as uncertain as a few fits make them."]
    return {"primary": measure, "classes": classes, "rows": rows, "sentences": sentences, "notes": notes}


def needed(plan: Plan, effect: float, measure: Measure) -> str:
    """What it would take to find an effect in 80 % of studies, in one sentence; the measure says in what unit."""
    number, now = f"{measure.scale * effect:g} {measure.unit}".rstrip(), plan.num_trials
    found = plan.detectable(now)
    if found <= effect:
        return f"{now} fits an arm find {number} in at least 80 % of studies."
    if measure.unit == "points" and found > 1:
        return f"{now} fits an arm find no difference that is possible in 80 % of studies."
    ways = []
    trials, factor = plan.trials_needed(effect), plan.factor_needed(effect)
    if trials is not None:
        ways.append(f"{trials} fits an arm")
    if factor is not None:
        ways.append(f"{factor:{'.1f' if factor < 10 else ',.0f'}} times the test lesions with {now} fits")
    lead = f"{now} fits an arm find {measure.amount(found)} in 80 % of studies; {number} would take"
    if ways:
        return f"{lead} {' or '.join(ways)}."
    both = next((k for k in TOGETHER if now * k <= MOST_TRIALS and plan.detectable(now * k, k) <= effect), None)
    if both is None:
        return f"{lead} more than a thousand fits, whatever the lesions: look for a larger effect."
    return f"{lead} more fits and more lesions, such as {now * both} fits on {both} times the test lesions."


def _plans(
    num_images: int,
    num_lesions: Mapping[str, int],
    targets: Sequence[str],
    share: float,
    folds: int,
    num_arms: int,
    classifier: str,
) -> dict[str, Plan | None]:
    """The plan of each measure on a test part with this share of the lesions; None where a class has too few."""
    found: dict[str, Plan | None] = {}
    for names in [*([targets] if len(targets) > 1 else []), *([name] for name in targets)]:
        sizes = [int(share * num_lesions[name]) for name in names]
        for kind in ("average_precision", "recall"):
            label = f"mean_{kind}" if len(names) > 1 else f"{kind}:{names[0]}"
            enough = min(sizes) >= MIN_LESIONS
            found[label] = Plan.of_classes(sizes, kind, folds, num_arms, classifier=classifier) if enough else None
    return {**found, "balanced_accuracy": Plan.of_images(max(1, num_images), folds, num_arms, classifier=classifier)}


def _numbers(folds: int) -> list[int]:
    return list(TRIALS) if folds == 1 else [folds * repeats for repeats in REPEATS]


def _facts(plan: Plan | None, number: int) -> dict[str, Any]:
    if plan is None:
        return dict.fromkeys(("standard_error", *(f"detectable_{factor}x" for factor in FACTORS), "margin"))
    found = {f"detectable_{factor}x": _possible(plan.detectable(number, factor)) for factor in FACTORS}
    error = plan.standard_error(number)
    margin = error / equivalence_needs(1.0, 0.0, plan.degrees_of_freedom(number))
    return {"standard_error": error, **found, "margin": _possible(margin)}


def _possible(difference: float) -> float | None:
    """A difference of shares; None where it is larger than any can be."""
    return difference if difference <= 1 else None


def _bears(name: str, tested: float, in_all: int | None) -> dict[str, Any]:
    """What a class's test lesions allow, on a hold-out and in folds, which test all."""
    counts = {"test lesions": int(tested), **({} if in_all is None else {"lesions in folds": in_all})}
    words = [_allows(count) for count in counts.values()]
    return {"class": name, **counts, "verdict": words[0] if len(set(words)) == 1 else f"{words[0]}; folds: {words[1]}"}


def _mute(row: Mapping[str, Any]) -> str:
    """Of a target class that allows no verdict on the hold-out."""
    either = row["lesions in folds"] < MIN_LESIONS
    where = f"{row['lesions in folds']} lesions in all" if either else f"{row['test lesions']} lesions in the hold-out"
    return (
        f"{row['class']} has {where}, fewer than {MIN_LESIONS}: no verdict {'' if either else 'there '}on this class, "
        "nor on a mean that it is part of."
    )


def _allows(count: int) -> str:
    if count < MIN_LESIONS:
        return f"none, fewer than {MIN_LESIONS} lesions"
    return f"wide interval, fewer than {FEW_LESIONS} lesions" if count < FEW_LESIONS else "possible"


def _found(row: Mapping[str, Any], family: int, rivals: int) -> str:
    head = f"{row['design'].capitalize()}, {row['num_trials']} fits an arm, {row['num_images']:,} test images"
    if row["detectable_1x"] is None:
        return (
            f"{head}: no verdict is possible: too few test lesions, or no difference that is possible would be found."
        )
    over = f"over none, copies and {rivals} rival{'s' * (rivals != 1)}" if rivals else "over none and copies"
    holm = f", Holm over {family} arms" * (family > 1)
    helps = "no gain that is possible" if row["verdict"] is None else f"a true gain of {100 * row['verdict']:.1f}"
    equal = "at no margin" if row["margin"] is None else f"within {100 * row['margin']:.1f} points"
    return (
        f"{head}: a true difference of {100 * row['detectable_1x']:.1f} points between two arms is found in 80 % of "
        f'studies; {helps} is called "helps" ({over}{holm}, the oracle gaining as much); arms that are equal are found '
        f"equal {equal}."
    )


def _check(
    num_images: int, num_lesions: Mapping[str, int], targets: Sequence[str], test: float, folds: int, num_arms: int
) -> None:
    if num_images < 1 or any(count < 0 for count in num_lesions.values()):
        raise DataError("Images and lesions are counts, from 1 and from 0 on.")
    if most := [name for name, count in num_lesions.items() if count > num_images]:
        raise DataError(f"{most[0]} has more lesions than there are images ({num_images}).")
    if none := [name for name in targets if num_lesions.get(name) == 0]:
        raise DataError(f"{none[0]} has no lesion, so there is nothing to plan.", "Leave the class out.")
    if num_images * test < MIN_LESIONS or folds > num_images / MIN_LESIONS:
        raise DataError(
            f"{num_images} images leave fewer than {MIN_LESIONS} to test (a share of {test}, or {folds} folds)."
        )
    if unknown := [name for name in targets if name not in num_lesions]:
        raise DataError(f'The lesions of the class "{unknown[0]}" are not known.', "Give them: --lesions CLASS=NUMBER.")
    if not 0 < test < 1 or folds < 2 or num_arms < 2:
        raise DataError(
            f"A test share of {test}, {folds} folds and {num_arms} arms cannot be planned.",
            "The share lies between 0 and 1; folds and arms are at least 2.",
        )
