"""Paired comparison of two arms over several fits of one hold-out part: lesions x trials variance.

Lesions are drawn from the population of lesions and fits from the population of fits; an interval that takes either as
fixed covers too little. Formulas, sources and their limits are in ``docs/statistics.md``.

What comes here next, without changing what is here: repeated folds (``fits.align`` refuses them now), Nadeau-Bengio as
the second, cautious interval, Holm over the declared family of arms, TOST, the minimal detectable effect.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from moulage.errors import RecipeError, nearest
from moulage.evaluation.fits import Fits, align
from moulage.evaluation.lesions import FEW_LESIONS, MEANS, Lesions, class_weights, image_values
from moulage.evaluation.predictions import Predictions
from moulage.evaluation.scores import Measure, is_lower_better, resolve
from moulage.evaluation.scores import measure as score

MIN_TRIALS = 3
"""Fewer fits give a difference but no interval."""
MIN_LESIONS = 10
"""A class with fewer lesions gets no verdict."""
CONFIDENCE = 0.95
NEGLIGIBLE = 1e-20
"""A squared standard error below this is rounding: nothing varies."""


@dataclass(frozen=True)
class Comparison:
    """Arm minus reference under one measure, in the measure's own unit (a fraction; nats for ``log_loss``).

    What cannot be computed is None, and ``notes`` say why.

    Attributes:
        arm, reference, measure: what is compared.
        classes: classes that the measure names; empty for an overall measure.
        estimate_arm, estimate_reference: means over the fits.
        difference: estimate_arm - estimate_reference.
        standard_error, degrees_of_freedom: of the difference; Student's t.
        low, high: 95 % interval.
        p_value: two-sided, of no difference, not corrected for several comparisons.
        num_trials, num_arms: fits an arm, and arms over which their variance is pooled.
        num_images, num_lesions: size of the part; lesions are the groups of the split.
        num_lesions_by_class: class -> lesions; one with images of two classes counts in both.
        variance_lesions, variance_trials: the two parts of the squared standard error.
        method: ``closed form``, ``lesion bootstrap`` or ``lesion jackknife``; empty where there is no interval.
        notes: sentences on what limits this comparison.
    """

    arm: str
    reference: str
    measure: str
    classes: tuple[str, ...]
    estimate_arm: float
    estimate_reference: float
    difference: float
    standard_error: float | None
    degrees_of_freedom: float | None
    low: float | None
    high: float | None
    p_value: float | None
    num_trials: int
    num_arms: int
    num_images: int
    num_lesions: int
    num_lesions_by_class: dict[str, int]
    variance_lesions: float | None
    variance_trials: float | None
    method: str
    notes: tuple[str, ...]

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
    num_resamples: int = 10_000,
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
    num_resamples: int = 10_000,
    seed: int = 0,
) -> list[Comparison]:
    """Compare pairs (arm, reference) under one measure.

    Args:
        arms: the fits of *all* arms of the study, by name: the variance between fits is pooled over them.
        pairs: which arm to compare with which reference.
        measure: see ``scores.resolve``.
        targets: target classes, for measures over them.
        num_resamples: bootstrap resamples, for measures without a closed form.
        seed: of the bootstrap; the same for all arms and fits, which see the same resamples.

    Raises:
        DataError: the fits do not belong together, or a class has no image.
        RecipeError: an arm, the measure or a class is unknown.
    """
    fits, pairs = align(arms), list(pairs)
    for names in pairs:
        for name in names:
            if name not in fits.logits:
                raise RecipeError(f'There is no arm "{name}" to compare.', nearest(name, fits.logits))
        if names[0] == names[1]:
            raise RecipeError(f'The arm "{names[0]}" cannot be compared with itself.')
    wanted = resolve(measure, fits.labels, fits.classes, targets)
    values = {name: _estimates(fits, name, wanted, measure, targets) for name in fits.logits}
    needed = list(dict.fromkeys(name for names in pairs for name in names))
    if not pairs:
        return []
    lesions = None if _refusal(fits, wanted) else Lesions.of(fits, wanted, needed, num_resamples, seed)
    return [_compare(fits, wanted, measure, values, lesions, *names) for names in pairs]


def _estimates(fits: Fits, name: str, wanted: Measure, measure: str, targets: Sequence[str]) -> np.ndarray:
    """The measure of each fit of an arm, [S]."""
    if wanted.kind not in MEANS:
        return np.array([score(measure, fits.labels, logits, fits.classes, targets) for logits in fits.logits[name]])
    num_images = np.bincount(fits.labels, minlength=len(fits.classes))
    weights = (class_weights(fits, wanted) / np.maximum(num_images, 1))[fits.labels]
    return image_values(fits, name, wanted) @ weights


def _compare(
    fits: Fits,
    wanted: Measure,
    measure: str,
    values: dict[str, np.ndarray],
    lesions: Lesions | None,
    arm: str,
    reference: str,
) -> Comparison:
    """Put one pair together."""
    notes, inference = _notes(fits, wanted), {}
    difference = float(values[arm].mean() - values[reference].mean())
    if lesions is not None:
        by_class, interaction = lesions.variances(fits, arm, reference)
        few = [fits.sizes[k] for k in wanted.indices if fits.sizes[k] < FEW_LESIONS and len(wanted.indices) == 1]
        inference = _infer(
            difference,
            by_class,
            sizes=fits.sizes,
            trials=_trial_variance(values, arm, reference),
            trials_freedom=len(values) * (fits.num_trials - 1),
            interaction=interaction,
            most_freedom=few[0] - 1 if few else math.inf,
        )
        if not inference:
            notes.append("The two arms do not vary on any lesion in any fit, so there is no interval.")
    names = ("standard_error", "degrees_of_freedom", "low", "high", "p_value", "variance_lesions", "variance_trials")
    return Comparison(
        arm=arm,
        reference=reference,
        measure=measure,
        classes=wanted.named,
        estimate_arm=float(values[arm].mean()),
        estimate_reference=float(values[reference].mean()),
        difference=difference,
        num_trials=fits.num_trials,
        num_arms=len(values),
        num_images=len(fits.labels),
        num_lesions=fits.num_groups,
        num_lesions_by_class=dict(zip(fits.classes, fits.sizes.tolist(), strict=True)),
        method=lesions.method if lesions and inference else "",
        notes=tuple(notes),
        **{name: inference.get(name) for name in names},
    )


def _trial_variance(values: dict[str, np.ndarray], arm: str, reference: str) -> float:
    """v / S: an arm's variance between fits, but at least the mean over all arms, so that none looks steady by luck."""
    of_arm = {name: row.var(ddof=1) for name, row in values.items()}
    pooled = np.mean(list(of_arm.values()))
    return float((max(of_arm[arm], pooled) + max(of_arm[reference], pooled)) / len(values[arm]))


def _infer(
    difference: float,
    by_class: np.ndarray,
    *,
    sizes: np.ndarray,
    trials: float,
    trials_freedom: int,
    interaction: float,
    most_freedom: float,
) -> dict[str, float]:
    """Standard error, degrees of freedom (Satterthwaite), interval and p-value; nothing where nothing varies.

    Args:
        difference: arm minus reference.
        by_class: V_L of each class, [K].
        sizes: lesions of each class, [K].
        trials: v / S, and its degrees of freedom.
        interaction: V_E, the part of ``trials`` that ``by_class`` holds already.
        most_freedom: upper bound of the degrees of freedom.
    """
    from scipy.special import stdtr, stdtrit

    variance_lesions, variance_trials = float(by_class.sum()), max(0.0, trials - interaction)
    variance = variance_lesions + variance_trials
    if variance < NEGLIGIBLE:
        return {}
    spread = float((by_class**2 / np.maximum(sizes - 1, 1)).sum()) + trials**2 / trials_freedom
    freedom = float(min(max(1.0, variance**2 / spread), most_freedom))
    error = math.sqrt(variance)
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * error
    return {
        "standard_error": error,
        "degrees_of_freedom": freedom,
        "low": difference - half,
        "high": difference + half,
        "p_value": float(2 * stdtr(freedom, -abs(difference) / error)),
        "variance_lesions": variance_lesions,
        "variance_trials": variance_trials,
    }


def _refusal(fits: Fits, wanted: Measure) -> str:
    """Why there can be no interval; empty where there can."""
    if fits.num_trials < MIN_TRIALS:
        count = "1 fit" if fits.num_trials == 1 else f"{fits.num_trials} fits"
        return f"{count} an arm: an interval needs at least {MIN_TRIALS}, because a fit varies with its seed."
    for k in wanted.indices:
        if fits.sizes[k] < 2:
            return f"{fits.classes[k]} has a single lesion in this part, so there is no interval."
    return ""


def _notes(fits: Fits, wanted: Measure) -> list[str]:
    """What the reader of a comparison must know beside the numbers."""
    refusal = _refusal(fits, wanted)
    notes = [refusal] if refusal else []
    for k in wanted.indices:
        size = int(fits.sizes[k])
        count = f"{fits.classes[k]} has only {size} lesion{'s' * (size != 1)} in this part"
        if size < MIN_LESIONS:
            notes.append(f"{count}, fewer than {MIN_LESIONS}: no verdict on this class.")
        elif size < FEW_LESIONS:
            notes.append(f"{count}, fewer than {FEW_LESIONS}: lesion jackknife, and a wide interval.")
    if not wanted.indices and (fits.sizes == 1).any():
        single = ", ".join(name for name, size in zip(fits.classes, fits.sizes, strict=True) if size == 1)
        notes.append(f"{single}: a single lesion in this part, whose share of the uncertainty is left out.")
    if crossing := len(fits.strata) - fits.num_groups:
        notes.append(f"Some lesions bear several classes: {crossing} counted once more, in their second class.")
    same = [name for name, logits in fits.logits.items() if len(logits) > 1 and (logits == logits[0]).all()]
    if same:
        notes.append(f"The fits of {', '.join(same)} are identical: their seeds change nothing.")
    return notes
