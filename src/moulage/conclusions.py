"""What the predictions of a study say: comparisons, controls, verdicts, power, reliability, slices; as plain values.

Nothing here trains or reads pixels. The best rival, which further measures are shown against, is chosen on the
validation part; all else is of the test part.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import pandas as pd

from moulage.arm import Design
from moulage.curves import REAL
from moulage.evaluation import power, slices, verdict, worth
from moulage.evaluation.alignment import Fits, align
from moulage.evaluation.compare import Comparison, compare_fits
from moulage.evaluation.measure_names import is_lower_better, measure, parse
from moulage.evaluation.measures.expected_calibration_error import (
    NUM_BINS,
    confidence_bins,
    expected_calibration_error,
)
from moulage.evaluation.predictions import Predictions
from moulage.evaluation.verdict_power import VerdictPlan
from moulage.recipe import Recipe
from moulage.results import BestRival, Power, Reliability, Verdict

Predicted = Mapping[str, Sequence[Predictions]]
CONTROLS = ("noise", "permuted", "oracle")
"""Controls of which the report says so where a study leaves them out."""
TRIALS_SHOWN = (3, 5, 10, 20, 50)
SIZES_SHOWN = (0.5, 1.0, 2.0, 4.0, 8.0)
ONE_FIT = "All trials share one fit of the generator: the intervals leave out its luck."
STARTED = "The generator goes on from weights of another fit; what these have seen is not known here."
GIVEN = "All trials share one set of given images: the intervals leave out the generator's luck."


def best_rival(recipe: Recipe, roles: Mapping[str, str], validation: Predicted) -> BestRival | None:
    """The rival with the best mean primary measure over the trials on the validation part; None without rivals."""
    names = [name for name in recipe.arms if roles[name] == "rival"]
    if not names:
        return None
    primary, targets = recipe.study.primary, recipe.study.target_classes
    found = {name: float(np.mean([_of(primary, p, targets) for p in validation[name]])) for name in names}
    pick = min if is_lower_better(primary) else max
    return BestRival(arm=pick(names, key=found.__getitem__), measure=primary, validation=found)


def _of(name: str, said: Predictions, targets: Sequence[str]) -> float:
    return measure(name, said.labels, said.logits, said.classes, targets, said.predicted)


def measures(recipe: Recipe) -> list[str]:
    """The measures that arms are compared by, the primary one first, those that the recipe adds last."""
    targets = recipe.study.target_classes
    each = [f"{kind}:{name}" for name in targets for kind in ("average_precision", "recall", "auc", "f1")]
    means = ["mean_average_precision", "mean_recall"] if len(targets) > 1 else []
    usual = [recipe.study.primary, "balanced_accuracy", "accuracy", "auc", "log_loss", "expected_calibration_error"]
    return list(dict.fromkeys([*usual, *means, *each, *recipe.study.measures]))


def conclude(design: Design, test: Predicted, table: pd.DataFrame) -> dict[str, Any]:
    """Everything about the test part that goes into ``results.Results``, by its fields.

    Args:
        design: who is compared with whom.
        test: predictions of the test part.
        table: the catalog's table, with the attributes of the images.
    """
    recipe, fits, pairs = design.recipe, align(test), design.pairs()
    targets, primary_pairs = recipe.study.target_classes, [*pairs, *design.rival_pairs()]
    each = [
        (name, pairs if name != recipe.study.primary else dict.fromkeys(primary_pairs)) for name in measures(recipe)
    ]
    compared = [c for name, wanted in each for c in compare_fits(fits, wanted, name, targets)]
    primary = {(c.arm, c.reference): c for c in compared if c.measure == recipe.study.primary}
    controls = _controls(design, primary)
    kept = [(arm, name) for arm, name in pairs if design.roles[arm] == "synthetic"]
    sliced = slices.slices(test, table, kept, measures(recipe), targets)
    of_primary = f"{recipe.study.primary}:"  # the primary measure, and where it is an overall one that of each target
    warned = {name for name in measures(recipe) if f"{name}:".startswith(of_primary) or parse(name).measure.warns}
    warning = [c for c in compared if (c.arm, c.reference) in kept and c.measure in warned]
    return {
        "comparisons": compared,
        "controls": controls,
        "controls_missing": _missing_controls(design),
        "verdicts": _verdicts(design, primary, controls),
        "worths": worths(design, fits),
        "class_effects": _class_effects(design, fits),
        "power": [_power(c) for pair, c in primary.items() if pair in kept and _can_judge(c)],
        "reliability": [_reliability(name, fits) for name in fits.logits],
        "slices": sliced,
        "slice_warnings": slices.warnings(sliced, warning),
    }


def headline(verdicts: Sequence[Verdict]) -> str:
    """The study's answer in one line: what was added and its outcome; of several arms each outcome and its arms."""
    if not verdicts:
        return "No arm adds generated images, so nothing is answered."
    if len(verdicts) == 1:
        return f"{verdicts[0].change}: {verdicts[0].outcome}."
    arms: dict[str, list[str]] = {}
    for found in verdicts:
        arms.setdefault(found.outcome, []).append(found.arm)
    said = "; ".join(f"{outcome}: {', '.join(names)}" for outcome, names in arms.items())
    return f"{said[0].upper()}{said[1:]}."


def _against(design: Design, arm: str, primary: Mapping[tuple[str, str], Comparison]) -> dict[str, Comparison]:
    """Role -> comparison; of the rivals the one that the arm is least shown to be better than."""
    roles = design.references(arm).items()
    found = {role: primary[arm, name] for role, name in roles if (arm, name) in primary}
    if "rival" in found:
        found["rival"] = verdict.hardest(primary[pair] for pair in design.rival_pairs() if pair[0] == arm)
    return found


def _controls(design: Design, primary: Mapping[tuple[str, str], Comparison]) -> list[verdict.Control]:
    found = []
    for arm in design.controls:
        against = _against(design, arm, primary)
        if "none" in against:
            found.append(verdict.control(cast(Literal["null", "positive"], design.roles[arm]), against))
    return found


def _missing_controls(design: Design) -> list[str]:
    used = {arm.balance for arm in design.recipe.arms.values()}
    used |= {design.recipe.generators[arm.generator].plugin for arm in design.recipe.arms.values() if arm.generator}
    return [name for name in CONTROLS if name not in used]


def _verdicts(
    design: Design, primary: Mapping[tuple[str, str], Comparison], controls: Sequence[verdict.Control]
) -> list[Verdict]:
    study = design.recipe.study
    family = {arm: _against(design, arm, primary) for arm in design.family}
    decided = verdict.decide(family, study.smallest_effect, controls)
    found: list[Verdict] = []
    for arm, of in decided.items():
        against, change = family[arm], design.change(arm)
        plan = _plan(design, arm, against, primary)
        found.append(
            Verdict(
                arm=arm,
                change=change,
                outcome=of.outcome.value,
                statement=verdict.statement(of, change, len(family)),
                comparisons=verdict.sentences(against, study.smallest_effect, change),
                refused=of.refused,
                missing=verdict.lacking(of),
                needed=_needed(plan, against, study.smallest_effect) if plan else "",
                notes=_notes(design, arm, against),
                p_adjusted=of.p_adjusted,
                equivalence_p_adjusted=of.equivalence_p_adjusted,
                references={role: c.reference for role, c in against.items()},
                detectable=plan.detectable(plan.num_trials) if plan else None,
            )
        )
    return found


def _notes(design: Design, arm: str, against: Mapping[str, Comparison]) -> list[str]:
    """What limits a verdict beside its numbers."""
    options, notes = design.recipe.arms[arm], list[str]()
    if options.samples:
        notes.append(GIVEN)
    elif options.generator and design.recipe.generators[options.generator].refit == "study":
        notes.append(ONE_FIT)
    if options.generator and _starts_elsewhere(design, options.generator):
        notes.append(STARTED)
    if "rival" in against and (number := len(design.of_role("rival"))) > 1:
        notes.append(f"To help is to be better than each of {number} rivals; shown is the one that is hardest to beat.")
    return notes


def _starts_elsewhere(design: Design, generator: str) -> bool:
    """Whether it goes on from weights that are of no generator of the recipe."""
    known = design.recipe.generators
    start = known[generator].start
    return _starts_elsewhere(design, start) if start in known else bool(start)


def worths(design: Design, fits: Fits) -> list[worth.Worth]:
    """What copies and generated images are worth at each dose of each curve, under the primary measure."""
    recipe, found = design.recipe, list[worth.Worth]()
    for curve in recipe.curves:
        points = {name: options for name, options in recipe.arms.items() if options.curve == curve}
        real = {name: sum(design.additions(name).values()) for name, of in points.items() if of.series == REAL}
        arms = {number: name for name, number in reversed(real.items()) if number}  # doses may round to one number
        if not arms:
            continue
        num_real = sum(design.counts[label] for label in design.arms[arms[max(arms)]].wanted)
        doses = {design.none: 0} | {name: number for number, name in arms.items()}
        line = worth.RealCurve.of(fits, recipe.study.primary, recipe.study.target_classes, doses, num_real)
        for name, of in points.items():
            if of.series != REAL and (added := sum(design.additions(name).values())):
                about = {"curve": curve, "series": of.series, "dose": of.dose, "num_images": added}
                found.append(worth.worth(line, name, subject=design.point(name), **about))
    return found


def _class_effects(design: Design, fits: Fits) -> list[Comparison]:
    """Average precision and recall of every class that is tested, for the arms that add generated images."""
    pairs = [
        (arm, name)
        for arm in design.of_role("synthetic")
        for role, name in design.references(arm).items()
        if role in verdict.HARMED
    ]
    names = [name for name, size in zip(fits.classes, fits.sizes, strict=True) if size]
    kinds = ("average_precision", "recall")
    return [c for kind in kinds for name in names for c in compare_fits(fits, pairs, f"{kind}:{name}")]


def _reliability(arm: str, fits: Fits) -> Reliability:
    """Confidence and accuracy in bins of the confidence, all fits of an arm together."""
    chance = np.concatenate([outputs.probabilities for outputs in fits.outputs(arm)])
    labels = np.tile(fits.labels, fits.num_sets)
    bins, top = confidence_bins(chance), chance.max(axis=1)
    number = np.bincount(bins, minlength=NUM_BINS)
    sums = [np.bincount(bins, values, NUM_BINS) for values in (top, chance.argmax(axis=1) == labels)]
    rows = [(float(sums[0][b] / n), float(sums[1][b] / n), int(n)) for b, n in enumerate(number) if n]
    return Reliability(arm=arm, bins=rows, error=expected_calibration_error(labels, chance))


def _power(comparison: Comparison) -> Power:
    plan = power.Plan.of(comparison)
    shown = sorted({*TRIALS_SHOWN, comparison.num_trials})
    if comparison.scheme == "folds":
        shown = [comparison.num_folds * repeats for repeats in (1, 2, 3, 5, 10)]
    return Power(
        arm=comparison.arm,
        reference=comparison.reference,
        measure=comparison.measure,
        standard_error=comparison.standard_error or 0.0,
        detectable=plan.detectable(comparison.num_trials),
        by_trials=[(n, plan.detectable(n)) for n in shown],
        by_size=[(factor, plan.detectable(comparison.num_trials, factor)) for factor in SIZES_SHOWN],
    )


def _can_judge(comparison: Comparison) -> bool:
    return comparison.standard_error is not None and not comparison.too_small


def _plan(
    design: Design, arm: str, against: Mapping[str, Comparison], primary: Mapping[tuple[str, str], Comparison]
) -> VerdictPlan | None:
    """All that must be shown before the arm is said to help; None where that is not possible, whatever it gains."""
    tested = [c for role, c in against.items() if role != "rival"]
    if "rival" in against:
        tested += [primary[pair] for pair in design.rival_pairs() if pair[0] == arm]
    controls = [primary.get((name, design.none)) for name in design.controls if design.roles[name] == "positive"]
    controls = [c for c in controls if c]
    if set(verdict.REQUIRED) - set(against) or not all(map(_can_judge, [*tested, *controls])):
        return None
    plans = (tuple(power.Plan.of(c) for c in which) for which in (tested, controls))
    return VerdictPlan(*plans, num_arms=len(design.family))


def _needed(plan: VerdictPlan, against: Mapping[str, Comparison], smallest_effect: float) -> str:
    """What gain the study could have called a help, and what it would take for the smallest that matters."""
    copies, about = against["duplicates"], parse(against["duplicates"].measure).measure
    found, wanted = plan.detectable(plan.num_trials), about.amount(smallest_effect)
    alone = power.Plan.of(copies).detectable(copies.num_trials)
    conditions = [f"Holm over {plan.num_arms} arms"] if plan.num_arms > 1 else []
    conditions += ["the positive control gaining as much"] if plan.controls else []
    given = f" ({', '.join(conditions)})" if conditions else ""
    over = f"over each of {len(plan.references)} references{given}"
    if about.unit == "points" and found > 1:
        return f'No gain that is possible would have been called "helps" with a probability of 80 % {over}.'
    said = f'A true gain of {about.amount(found)} {over} would have been called "helps" with a probability of 80 %'
    if alone < found:
        said += f"; against {copies.reference} alone, {about.amount(alone)} would have been seen"
    if found <= smallest_effect:
        return f"{said}: the study could see what matters ({wanted})."
    trials, factor = plan.trials_needed(smallest_effect), plan.factor_needed(smallest_effect)
    ways = [f"about {trials:,} fits an arm instead of {plan.num_trials}"] if trials else []
    ways += [f"about {factor:.1f} times as many test lesions"] if factor else []
    if not ways:
        return f"{said}; for {wanted}, it takes both more fits and more test lesions."
    return f"{said}; for {wanted}, it takes {' or '.join(ways)}."
