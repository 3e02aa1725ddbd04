"""The whole inference on predictions of any models: each against a reference, in numbers and in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from moulage.errors import DataError, RecipeError, nearest
from moulage.evaluation import pairs, verdict
from moulage.evaluation.alignment import Fits, align
from moulage.evaluation.compare import MIN_TRIALS, Comparison, compare_fits
from moulage.evaluation.measure_names import resolve
from moulage.evaluation.predictions import Predictions

FIXED = "these two fixed models only"
"""Label of everything that takes the fits as fixed."""
ONE_FIT = (
    "One fit a model: a model trained again would score differently, and by how much cannot be seen from one fit. So "
    f"no interval holds for the methods; the tests of the pair hold for {FIXED}. Train each at least {MIN_TRIALS} "
    "times with other seeds, better 5, for a statement about the methods.",
    "McNemar's and DeLong's tests take images as independent: several images of a lesion make them too sure.",
)
"""What one fit a model lets anyone say."""


def compare_models(
    models: Mapping[str, Sequence[Predictions]],
    *,
    reference: str = "",
    measures: Sequence[str] = (),
    targets: Sequence[str] = (),
    smallest_effect: float = 0.02,
    num_resamples: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare every model with the reference; plain values, ready for JSON.

    Args:
        models: the fits of each model; the variance between fits is pooled over all of them.
        reference: its name; the first model if left out.
        measures: see ``measure_names``; without them ``default_measures``. The first is the one put in words.
        targets: target classes, for measures over them, and for the tests of one pair of fixed models.
        smallest_effect: smallest difference that matters (0.02 = 2 points).
        num_resamples, seed: as in ``compare.compare_all``.

    Returns:
        ``reference``, ``models``, ``num_trials``, ``num_images``, ``num_lesions``, ``num_lesions_by_class``,
        ``comparisons`` (fields of ``Comparison``, and Holm over the models, by measure: ``p_adjusted`` of the
        difference and ``equivalence_p_adjusted`` of the two one-sided tests; ``reading``), ``sentences``,
        ``fixed_pairs`` (only where every model has one fit), ``notes``.

    ``DataError``: fewer than two models, or fits that do not belong together. ``RecipeError``: the reference, a measure
    or a class is unknown.
    """
    reference, others = _reference(models, reference)
    fits = align(models)
    measures = list(dict.fromkeys(measures or default_measures(targets)))
    rows, sentences, notes, tested = [], [], [], [(name, reference) for name in others]
    for measure in measures:
        found = compare_fits(fits, tested, measure, targets, num_resamples=num_resamples, seed=seed)
        adjusted = verdict.holm({c.arm: c.p_value for c in found if c.p_value is not None})
        equal = verdict.holm({c.arm: verdict.equivalence_p(c, smallest_effect) for c in found})
        for comparison in found:
            p, p_equal = adjusted.get(comparison.arm), equal[comparison.arm]
            reading = _reading(comparison, p, p_equal, smallest_effect)
            known = {"p_adjusted": p, "equivalence_p_adjusted": p_equal if math.isfinite(p_equal) else None}
            rows.append({**asdict(comparison), **known, "reading": reading})
            notes += comparison.notes
            if measure == measures[0]:
                sentences.append(_sentence(comparison, p, p_equal, len(others), smallest_effect))
    alone = fits.num_trials == 1
    return {
        "reference": reference,
        "models": list(models),
        "num_trials": fits.num_trials,
        "scheme": "holdout" if fits.folds is None else "folds",
        "num_images": len(fits.labels),
        "num_lesions": fits.num_groups,
        "num_lesions_by_class": dict(zip(fits.classes, fits.sizes.tolist(), strict=True)),
        "smallest_effect": smallest_effect,
        "comparisons": rows,
        "sentences": sentences,
        "fixed_pairs": fixed_pairs(fits, others, reference, measures, targets) if alone else [],
        "notes": list(dict.fromkeys([*(ONE_FIT if alone else ()), *notes])),
    }


def _reference(models: Mapping[str, Any], reference: str) -> tuple[str, list[str]]:
    """The model to compare with, and the others."""
    reference = reference or next(iter(models), "")
    if reference not in models:
        raise RecipeError(f'There is no model "{reference}" to be the reference.', nearest(reference, models))
    others = [name for name in models if name != reference]
    if not others:
        raise DataError(
            f"There is only one model, {reference}.", "Name two or more: A.csv B.csv, or A=1.csv,2.csv B=3.csv,4.csv."
        )
    return reference, others


def default_measures(targets: Sequence[str]) -> list[str]:
    """The mean average precision of the target classes first; without targets, balanced accuracy."""
    if not targets:
        return ["balanced_accuracy", "accuracy", "auc"]
    each = [f"{kind}:{name}" for name in targets for kind in ("average_precision", "recall")]
    means = ["mean_average_precision", "mean_recall"] if len(targets) > 1 else []
    return [*means, *each, "balanced_accuracy"]


def fixed_pairs(
    fits: Fits, others: Sequence[str], reference: str, measures: Sequence[str], targets: Sequence[str]
) -> list[dict[str, Any]]:
    """Tests of each model's one fit against the reference's: lesions alone, exact McNemar, and DeLong by class.

    Measures are for the first; classes for DeLong's test are the targets, or all, which have two images and leave two
    others. Rows: ``model``, ``reference``, ``test``, ``measure``, ``difference``, ``low``, ``high``, ``p``,
    ``only_model_right`` and ``only_reference_right`` (of McNemar's), ``holds_for``.
    """
    rows = []
    counts = np.bincount(fits.labels, minlength=len(fits.classes))
    for name in others:
        head = {"model": name, "reference": reference}
        for measure in measures:
            found = pairs.fixed(fits, resolve(measure, fits.labels, fits.classes, targets), name, reference)
            if found is not None:
                rows.append(_row(head, "lesions as the only chance", measure, found))
        ours, theirs = (fits.outputs(model)[0].predicted == fits.labels for model in (name, reference))
        exact = pairs.mcnemar(ours, theirs)
        difference = (exact.only_first - exact.only_second) / len(fits.labels)
        counted = {"only_model_right": exact.only_first, "only_reference_right": exact.only_second}
        row = _row(head, "McNemar, exact", "accuracy", None)
        rows.append({**row, "difference": difference, "p": exact.p_value, **counted})
        first, second = (fits.outputs(model)[0].probabilities for model in (name, reference))
        for k, of in enumerate(fits.classes):
            if (targets and of not in targets) or not 2 <= counts[k] <= len(fits.labels) - 2:
                continue
            rows.append(_row(head, "DeLong", f"auc:{of}", pairs.delong(fits.labels == k, first[:, k], second[:, k])))
    return rows


def _row(head: dict[str, str], test: str, measure: str, found: pairs.Fixed | pairs.DeLong | None) -> dict[str, Any]:
    numbers = (found.difference, found.low, found.high, found.p_value) if found else (None,) * 4
    return {
        **head,
        "test": test,
        "measure": measure,
        **dict(zip(("difference", "low", "high", "p"), numbers, strict=True)),
        "only_model_right": None,
        "only_reference_right": None,
        "holds_for": FIXED,
    }


CORRECTED = "not enough data, after correction for several models"


def _reading(comparison: Comparison, p_adjusted: float | None, p_equal: float, smallest_effect: float) -> str:
    """The comparison in a few words, after the correction for several models, of differences and of equality alike."""
    if comparison.low is None:
        return "no interval"
    if comparison.too_small:
        return "too few lesions"
    if p_equal < verdict.LEVEL:
        return "practically equal"
    found = verdict.outcome_against(comparison, smallest_effect)
    if found is verdict.Outcome.UNDECIDED:
        return "not enough data"
    if found is verdict.Outcome.EQUAL or (p_adjusted is not None and p_adjusted >= verdict.LEVEL):
        return CORRECTED
    return "better" if found is verdict.Outcome.HELPS else "worse"


def _sentence(
    comparison: Comparison, p_adjusted: float | None, p_equal: float, num_models: int, smallest_effect: float
) -> str:
    said = verdict.sentence(comparison, smallest_effect, f'Taking "{comparison.arm}"')
    if p_adjusted is None or num_models < 2:
        return said
    equal = verdict.outcome_against(comparison, smallest_effect) is verdict.Outcome.EQUAL and math.isfinite(p_equal)
    p = f"{verdict.p_text(p_equal)} of the tests of equality" if equal else verdict.p_text(p_adjusted)
    late = _reading(comparison, p_adjusted, p_equal, smallest_effect) == CORRECTED
    return f"{said} After Holm over {num_models} models {p}{': not enough data after all' if late else ''}."
