"""Paired comparison of two arms over several fits: lesions x trials variance, for a hold-out and for repeated folds.

Lesions are drawn from the population of lesions and fits from the population of fits; an interval that takes either as
fixed covers too little. Formulas, sources and their limits are in ``docs/statistics.md``.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from moulage.errors import RecipeError, nearest
from moulage.evaluation.alignment import Fits, align
from moulage.evaluation.lesion_variance import FEW_LESIONS, Contrast, Lesions, pair
from moulage.evaluation.measure_names import Wanted, is_lower_better, resolve
from moulage.evaluation.predictions import Predictions
from moulage.evaluation.trial_variance import NOTHING, Part, Trials

MIN_TRIALS = 3
"""Fewer fits give a difference but no interval."""
MIN_LESIONS = 10
"""A class with fewer lesions gets no verdict."""
CONFIDENCE = 0.95
FEWEST_RESAMPLES = 100
"""A variance of fewer draws is known to 14 % at best."""
NEGLIGIBLE = 1e-20
"""A squared standard error below this is rounding: nothing varies."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Arm minus reference under one measure, in the measure's own unit (a fraction; nats for ``log_loss``).

    What cannot be computed is None, and ``notes`` say why.
    """

    arm: str  # what is compared
    reference: str
    measure: str
    classes: tuple[str, ...]  # classes that the measure names; empty for an overall measure
    estimate_arm: float  # means over the fits (folds: over the repeats, of the pooled predictions)
    estimate_reference: float
    difference: float  # estimate_arm - estimate_reference
    standard_error: float | None = None  # of the difference; Student's t
    degrees_of_freedom: float | None = None
    low: float | None = None  # 95 % interval
    high: float | None = None
    p_value: float | None = None  # two-sided, of no difference, not corrected for several comparisons
    num_trials: int  # fits an arm, which are num_folds x num_repeats in folds
    num_arms: int  # arms over which the variance of fits is pooled
    num_images: int  # size of the part; lesions are the groups of the split
    num_lesions: int
    num_lesions_by_class: dict[str, int]  # class -> lesions; one with images of two classes counts in both
    variance_lesions: float | None = None  # the two parts of the squared standard error
    variance_trials: float | None = None
    method: str  # ``closed form``, ``lesion jackknife`` or ``lesion bootstrap``; empty where there is no interval
    notes: tuple[str, ...]  # sentences on what limits this comparison
    variance_interaction: float | None = None  # V_E, the part of ``variance_lesions`` that shrinks with more fits
    # degrees of freedom of the two parts; None beside a standard error: infinite, nothing varies
    freedom_lesions: float | None = None
    freedom_trials: float | None = None
    cautious_low: float | None = None  # Nadeau and Bengio's 95 % interval; for repeated folds only
    cautious_high: float | None = None
    scheme: Literal["holdout", "folds"] = "holdout"  # ``holdout`` or ``folds``
    num_folds: int = 1
    num_repeats: int = 1

    @property
    def is_lower_better(self) -> bool:
        """Whether a negative difference is an improvement."""
        return is_lower_better(self.measure)

    @property
    def too_small(self) -> tuple[str, ...]:
        """Classes named by the measure on which no verdict is possible, for want of lesions."""
        return tuple(name for name in self.classes if self.num_lesions_by_class[name] < MIN_LESIONS)


def compare(
    arms: Mapping[str, Sequence[Predictions]],
    arm: str,
    reference: str,
    measure: str,
    targets: Sequence[str] = (),
    *,
    num_resamples: int | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare two arms; ``compare_all`` with one pair."""
    return compare_all(arms, [(arm, reference)], measure, targets, num_resamples=num_resamples, seed=seed)[0]


def compare_all(
    arms: Mapping[str, Sequence[Predictions]],
    pairs: Iterable[tuple[str, str]],
    measure: str,
    targets: Sequence[str] = (),
    *,
    num_resamples: int | None = None,
    seed: int = 0,
) -> list[Comparison]:
    """Compare pairs (arm, reference) under one measure.

    Args:
        arms: the fits of *all* arms of the study, by name: the variance between fits is pooled over them.
        pairs: which arm to compare with which reference.
        measure, targets: see ``measure_names``.
        num_resamples: for measures without a closed form, lesion bootstrap with so many resamples; 0: lesion jackknife;
            None: what the measure says covers.
        seed: of the bootstrap; the same for all arms and fits, which see the same resamples.

    ``DataError``: the fits do not belong together, or a class has no image. ``RecipeError``: an arm, the measure or a
    class is unknown.
    """
    return compare_fits(align(arms), pairs, measure, targets, num_resamples=num_resamples, seed=seed)


def compare_fits(
    fits: Fits,
    pairs: Iterable[tuple[str, str]],
    measure: str,
    targets: Sequence[str] = (),
    *,
    num_resamples: int | None = None,
    seed: int = 0,
) -> list[Comparison]:
    """``compare_all`` of fits that are aligned already: several measures then share what they have in common."""
    pairs = list(pairs)
    for names in pairs:
        for name in names:
            if name not in fits.logits:
                raise RecipeError(f'There is no arm "{name}" to compare.', nearest(name, fits.logits))
        if names[0] == names[1]:
            raise RecipeError(f'The arm "{names[0]}" cannot be compared with itself.')
    if num_resamples is not None and num_resamples != 0 and num_resamples < FEWEST_RESAMPLES:
        raise RecipeError(
            f"{num_resamples} resamples tell no variance.", f"Give {FEWEST_RESAMPLES} or more, or 0 for the jackknife."
        )
    wanted = resolve(measure, fits.labels, fits.classes, targets)
    if not pairs:
        return []
    lesions = Lesions.of(fits, wanted, num_resamples, seed)
    trials = Trials(fits, lesions, wanted.measure.decided)
    return [_compare(fits, wanted, measure, lesions, trials, *names) for names in pairs]


def _compare(
    fits: Fits, wanted: Wanted, measure: str, lesions: Lesions, trials: Trials, arm: str, reference: str
) -> Comparison:
    refused, inference = refusal(fits, wanted, arm, reference), {}
    notes = [*filter(None, [refused]), *_notes(fits, wanted)]
    ours, theirs = (float(lesions.values[name].mean()) for name in (arm, reference))
    difference = ours - theirs
    if not refused:
        inference = infer_contrast(difference, trials, pair(arm, reference))
        if inference:
            inference |= _cautious(difference, fits, trials, arm, reference)
        else:
            notes.append("The two arms do not vary on any lesion in any fit, so there is no interval.")
    return Comparison(
        arm=arm,
        reference=reference,
        measure=measure,
        classes=wanted.named,
        estimate_arm=ours,
        estimate_reference=theirs,
        difference=difference,
        num_trials=fits.num_trials,
        num_arms=len(trials.pool),
        num_images=len(fits.labels),
        num_lesions=fits.num_groups,
        num_lesions_by_class=dict(zip(fits.classes, fits.sizes.tolist(), strict=True)),
        method=lesions.method if inference else "",
        notes=tuple(notes),
        scheme="holdout" if fits.folds is None else "folds",
        num_folds=fits.num_folds,
        num_repeats=1 if fits.folds is None else fits.num_sets,
        **inference,
    )


def infer_contrast(difference: float, trials: Trials, contrast: Contrast) -> dict[str, float]:
    """``infer`` of a contrast of arms, with its V_E; ``difference``: its value, the mean over the sets."""
    by_class, interaction = trials.lesions.variances(trials.fits, contrast)
    part = trials.part(contrast, interaction)
    found = infer(difference, by_class, sizes=trials.fits.sizes, trials=part)
    return found | {"variance_interaction": interaction} if found else {}


def infer(
    difference: float,
    by_class: np.ndarray,
    *,
    sizes: np.ndarray,
    trials: Part = NOTHING,
) -> dict[str, float]:
    """Standard error, degrees of freedom (Satterthwaite), interval and p-value; nothing where nothing varies.

    Args:
        difference: arm minus reference.
        by_class, sizes: V_L and lesions of each class, [K].
        trials: the trial part; what is left of it without lesion noise counts as 0 where it is less.
    """
    from scipy.special import stdtr, stdtrit

    variance_lesions, variance_trials = float(by_class.sum()), max(0.0, trials.raw - trials.noise)
    variance = variance_lesions + variance_trials
    if variance < NEGLIGIBLE:
        return {}
    spread_lesions = float((by_class**2 / np.maximum(sizes - 1, 1)).sum())
    freedom = float(max(1.0, variance**2 / (spread_lesions + trials.raw**2 / trials.freedom)))
    error = math.sqrt(variance)
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    found = {
        "standard_error": error,
        "degrees_of_freedom": freedom,
        "low": difference - half,
        "high": difference + half,
        "p_value": float(2 * stdtr(freedom, -abs(difference) / error)),
        "variance_lesions": variance_lesions,
        "variance_trials": variance_trials,
        "freedom_trials": trials.freedom,
    }
    return found | ({"freedom_lesions": variance_lesions**2 / spread_lesions} if spread_lesions else {})


def _cautious(difference: float, fits: Fits, trials: Trials, arm: str, reference: str) -> dict[str, float]:
    """Nadeau and Bengio 2003, section 3: variance (1/J + n_test/n_train) S^2 of the fold differences, t with J - 1.

    The ratio of test to training images is taken as 1 / (F - 1). Not for a hold-out, whose fits share their test part.
    """
    from scipy.special import stdtrit

    if fits.folds is None:
        return {}
    values, deviations = trials.lesions.values, trials.deviations
    found = np.repeat(values[arm] - values[reference], fits.num_folds) + deviations[arm] - deviations[reference]
    error = math.sqrt((1 / len(found) + 1 / (fits.num_folds - 1)) * found.var(ddof=1))
    half = float(stdtrit(len(found) - 1, (1 + CONFIDENCE) / 2)) * error
    return {"cautious_low": difference - half, "cautious_high": difference + half}


def refusal(fits: Fits, wanted: Wanted, arm: str, reference: str) -> str:
    """Why there can be no interval; empty where there can."""
    if fits.num_trials < MIN_TRIALS:
        count = f"{fits.num_trials} fit{'s' * (fits.num_trials != 1)}"
        return f"{count} an arm: an interval needs at least {MIN_TRIALS}, because a fit varies with its seed."
    decided = wanted.measure.decided
    if fits.original(arm, decided) == fits.original(reference, decided):
        same = "say the same class" if decided else "predict the same"
        return f"{arm} and {reference} {same} of every image in every fit: there is no difference to test."
    for name in (arm, reference):
        if 1 < (number := len(fits.same(name))) < MIN_TRIALS and fits.folds is None:
            return f"{name} has only {number} different fits, the others are copies: an interval needs {MIN_TRIALS}."
    for k in wanted.indices:
        if fits.sizes[k] < 2:
            return f"{fits.classes[k]} has a single lesion in this part, so there is no interval."
    return ""


def _notes(fits: Fits, wanted: Wanted) -> list[str]:
    """What the reader of a comparison must know beside the numbers."""
    notes = []
    for k in wanted.indices:
        size = int(fits.sizes[k])
        count = f"{fits.classes[k]} has only {size} lesion{'s' * (size != 1)} in this part"
        if size < MIN_LESIONS:
            notes.append(f"{count}, fewer than {MIN_LESIONS}: no verdict on this class.")
        elif size < FEW_LESIONS:
            way = "" if wanted.measure.resamples else "lesion jackknife, and "
            notes.append(f"{count}, fewer than {FEW_LESIONS}: {way}a wide interval.")
    if not wanted.indices and (fits.sizes == 1).any():
        single = ", ".join(name for name, size in zip(fits.classes, fits.sizes, strict=True) if size == 1)
        notes.append(f"{single}: a single lesion in this part, whose share of the uncertainty is left out.")
    if crossing := len(fits.strata) - fits.num_groups:
        notes.append(f"Some lesions bear several classes: {crossing} counted once more, in their second class.")
    return [*notes, *_copies(fits)]


def _copies(fits: Fits) -> list[str]:
    """What is said of arms whose fits are the same to the last bit, in a hold-out."""
    if fits.folds is not None or fits.num_sets < 2:
        return []
    number = {name: len(fits.same(name)) for name in fits.logits}
    notes = []
    if same := ", ".join(name for name, count in number.items() if count == 1):
        notes.append(
            f"All fits of {same} are identical, so that only the lesions make its uncertainty: right for a classifier "
            "whose rows decide the fit, wrong where one fit was given several times."
        )
    if some := ", ".join(name for name, count in number.items() if 1 < count < fits.num_sets):
        notes.append(f"Some fits of {some} are copies of others, and count once.")
    return notes
