"""What a study can find, before it is run and after: detectable effects, and what a smaller one would take.

The squared standard error of a difference of two arms has three parts, which shrink with different things:

    SE^2 = lesions / f + interaction / (f S) + trials / S        (f: times as many test lesions; S: fits, or repeats)

``Plan.of`` takes the parts from a finished comparison. Without one, ``Plan.of_classes`` and ``Plan.of_images`` take
them from constants, ``FITTED``: good for an order of magnitude.
"""

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from moulage.errors import DataError, RecipeError, nearest
from moulage.evaluation.compare import MIN_TRIALS, Comparison
from moulage.evaluation.verdict import LEVEL

POWER = 0.8
"""How often an effect of the detectable size is found."""
MOST_TRIALS = 1000
"""More fits than this count as out of reach."""
MOST_TIMES = 1e6
"""More times the test lesions than this count as out of reach."""

BALANCED_IMAGES = 5000
"""Test images to which the parts of balanced accuracy refer; the parts of lesions shrink in proportion to more."""


class Parts(NamedTuple):
    """Parts of the squared standard error of a difference, in squared fractions (1e-4 is a squared point).

    ``lesions`` and ``interaction`` are of one test lesion of the class (balanced accuracy: of 5,000 images), and the
    latter of one fit; ``trials`` is of one fit.
    """

    lesions: float
    interaction: float
    trials: float


FITTED: dict[str, dict[str, Parts]] = {
    "finetune": {
        "balanced_accuracy": Parts(0.36e-4, 1.85e-4, 1.0e-4),
        "recall": Parts(254e-4, 1160e-4, 25e-4),
        "average_precision": Parts(121e-4, 552e-4, 11.9e-4),
    },
    "probe": {
        "balanced_accuracy": Parts(0.09e-4, 0.02e-4, 0.01e-4),
        "recall": Parts(228e-4, 13e-4, 0.1e-4),
        "average_precision": Parts(63e-4, 12e-4, 0.2e-4),
    },
}
"""Planning constants by classifier and measure (``docs/evidence.md``).

Of ``probe``, a head on frozen features at its optimum: medians over pairs of arms of a study on ISIC-2019, recall of AK
alone; what fits add by themselves is rounded up from 0. Of ``finetune``: assumed, fitted to simulated studies; average
precision with 1 / 2.1 of recall's variance.
"""


def detectable(
    standard_error: float, degrees_of_freedom: float = math.inf, power: float = POWER, level: float = LEVEL
) -> float:
    """The smallest true difference that a two-sided t-test finds, in its direction, with this power in (level / 2, 1).

    The exact solution: the noncentrality at which a noncentral t exceeds t_{1-level/2, nu} with probability ``power``,
    times the standard error, in its unit. The usual (t_{1-level/2, nu} + t_{power, nu}) x SE is 14 % too small at
    nu = 1, equal to 0.3 % from nu = 8 on. A standard error that is known has infinite degrees of freedom.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtri

    if not (standard_error >= 0 and degrees_of_freedom > 0 and 0 < level < 1 and level / 2 < power < 1):
        raise DataError(
            f"There is no detectable effect for a standard error of {standard_error}, {degrees_of_freedom} degrees of "
            f"freedom, power {power} and level {level}.",
            "The power must lie between half the level and 1.",
        )
    critical = _quantile(1 - level / 2, degrees_of_freedom)
    if degrees_of_freedom > 1e6:
        return standard_error * float(critical + ndtri(power))

    def missed(shift: float) -> float:
        return _missed(degrees_of_freedom, shift, critical) - (1 - power)

    high = 2 * critical + 10
    while missed(high) > 0:
        high *= 2
    return standard_error * float(brentq(missed, 0, high, xtol=1e-12))  # pyright: ignore[reportArgumentType]


def single_power(effect: float, standard_error: float, degrees_of_freedom: float, level: float = LEVEL) -> float:
    """How often a two-sided t-test finds a true effect > 0 in its direction: the upper tail of a noncentral t."""
    from scipy.special import ndtr

    if standard_error == 0:
        return 1.0
    critical, shift = _quantile(1 - level / 2, degrees_of_freedom), effect / standard_error
    if degrees_of_freedom > 1e6:
        return float(ndtr(shift - critical))
    return 1 - _missed(degrees_of_freedom, shift, critical)


def _missed(degrees_of_freedom: float, shift: float, critical: float) -> float:
    """How often a noncentral t stays below the critical value."""
    from scipy.special import nctdtr

    found = float(nctdtr(degrees_of_freedom, shift, critical))
    # SciPy gives NaN for large shifts, of 35 and more: there, far above the critical value, it is 0 to 200 digits.
    return 0.0 if math.isnan(found) and shift > critical else found


def equivalence_power(
    margin: float,
    standard_error: float,
    degrees_of_freedom: float = math.inf,
    true_difference: float = 0.0,
    level: float = LEVEL,
) -> float:
    """How often two one-sided t-tests (Schuirmann 1987), each at ``level``, find equality within the margin.

    The exact probability that |d| < margin - t s, d normal around the true difference and nu s^2 / SE^2 chi-squared:
    the integral over s of Phi((margin - t s - true) / SE) - Phi((-margin + t s - true) / SE). One unit for all.
    """
    import numpy as np
    from scipy.integrate import quad
    from scipy.special import gammaln, ndtr

    if not (margin > 0 and standard_error > 0 and degrees_of_freedom > 0):
        raise DataError("Margin, standard error and degrees of freedom must be above 0.")
    critical, nu = _quantile(1 - level, degrees_of_freedom), degrees_of_freedom

    def given(ratio: float) -> float:
        reach = margin / standard_error - critical * ratio
        shift = true_difference / standard_error
        return max(0.0, float(ndtr(reach - shift) - ndtr(-reach - shift)))

    if nu > 1e6:
        return given(1.0)
    constant = math.log(2) + nu / 2 * math.log(nu / 2) - float(gammaln(nu / 2))

    def density(ratio: float) -> float:  # of sqrt(chi2_nu / nu)
        return math.exp(constant + (nu - 1) * math.log(ratio) - nu * ratio**2 / 2) if ratio > 0 else 0.0

    last = margin / standard_error / critical  # a larger standard error than this never finds equality
    bounds = np.unique(np.clip([0, 1 - 5 / math.sqrt(2 * nu), 1, 1 + 5 / math.sqrt(2 * nu), last], 0, last))
    parts = (quad(lambda x: given(x) * density(x), a, b)[0] for a, b in itertools.pairwise(bounds))
    return float(sum(parts))


def equivalence_needs(
    margin: float,
    true_difference: float = 0.0,
    degrees_of_freedom: float = math.inf,
    power: float = POWER,
    level: float = LEVEL,
) -> float:
    """The largest standard error at which equality within the margin is found with this power.

    With many degrees of freedom 0.34 margin where the arms are equal in truth, 0.20 where they differ by half of it.
    """
    from scipy.optimize import brentq

    if abs(true_difference) >= margin:
        raise DataError(
            f"A true difference of {true_difference} is not within the margin of {margin}.", "Take a wider margin."
        )

    def missing(ratio: float) -> float:
        return equivalence_power(margin, ratio * margin, degrees_of_freedom, true_difference, level) - power

    low = 1e-3 * (margin - abs(true_difference)) / margin
    while missing(low) < 0:  # few degrees of freedom: t is large
        low /= 10
    return margin * float(brentq(missing, low, 2.0, xtol=1e-10))  # pyright: ignore[reportArgumentType]


class Search(ABC):
    """How many fits, or lesions, an effect takes: of whatever has a detectable effect that shrinks with both."""

    @property
    @abstractmethod
    def step(self) -> int:
        """Fits of a repeat: 1 for a hold-out."""

    @property
    @abstractmethod
    def num_trials(self) -> int:
        """Fits an arm that the plan stands for."""

    @abstractmethod
    def detectable(self, num_trials: int, size_factor: float = 1.0) -> float:
        """The smallest true difference that is found, with so many fits an arm and so many times the test lesions."""

    @property
    def smallest_trials(self) -> int:
        """Fewest fits an arm that give an interval."""
        return -(-MIN_TRIALS // self.step) * self.step

    def trials_needed(self, effect: float) -> int | None:
        """Fewest fits an arm, in whole repeats, that find the effect; None where no number up to 1,000 does.

        Doubled until it is enough, then halved in between.
        """
        step = self.step
        low, high = 0, self.smallest_trials // step
        while self.detectable(high * step) > effect:
            low, high = high, 2 * high
            if high * step > MOST_TRIALS:
                return None
        while high - low > 1 and low * step >= self.smallest_trials:
            middle = (low + high) // 2
            low, high = (low, middle) if self.detectable(middle * step) <= effect else (middle, high)
        return high * step

    def factor_needed(self, effect: float) -> float | None:
        """How many times the test lesions find the effect with the plan's fits; None where no number does.

        1 where the present ones are enough. None says that the fits alone vary too much: more of them are needed.
        """
        if self.num_trials < self.smallest_trials or self.detectable(self.num_trials, MOST_TIMES) > effect:
            return None
        if self.detectable(self.num_trials) <= effect:
            return 1.0
        low, high = 1.0, MOST_TIMES
        while high / low > 1.001:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if self.detectable(self.num_trials, middle) <= effect else (middle, high)
        return high


@dataclass(frozen=True)
class Plan(Search):
    """The variance components of a difference, from which its standard error at other sizes follows."""

    # lesion part of the squared standard error, less the interaction, at the size that the plan stands for
    lesions: float
    interaction: float  # lesion x fit part, at that size and for ``num_sets``
    trials: float  # what the fits add beyond it, for ``num_sets``
    num_sets: int  # predictions of every image: fits of a hold-out, or repeats of the folds
    num_folds: int = 1  # folds of a repeat; 1 for a hold-out
    # arms over which the variance of the fits is pooled; where a pair has its own, how many give its degrees of freedom
    num_arms: float = 2
    freedom: float = math.inf  # degrees of freedom of the lesion part

    @classmethod
    def of(cls, comparison: Comparison) -> "Plan":
        """``read``, of a comparison in memory."""
        return cls.read(asdict(comparison))

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Plan":
        """The components of a comparison in ``results.json``; ``DataError`` where no interval measured them.

        With a single repeat of the folds the interaction cannot be told from the lesion part, and counts as lesions:
        more repeats then seem to bring less than they do.
        """
        if values["standard_error"] is None:
            raise DataError(
                f"{values['arm']} against {values['reference']}, {values['measure']}: without an interval there are no "
                "variance components to plan with.",
                f"At least {MIN_TRIALS} fits an arm are needed.",
            )
        lesions, num_folds, freedom = values["variance_lesions"], values["num_folds"], values["freedom_trials"]
        interaction, num_sets = min(values["variance_interaction"], lesions), values["num_trials"] // num_folds
        pooled = 1 + freedom / (num_sets * (num_folds - 1) if num_folds > 1 else num_sets - 1)
        components = lesions - interaction, interaction, values["variance_trials"]
        return cls(*components, num_sets, num_folds, pooled, values["freedom_lesions"] or math.inf)

    @classmethod
    def of_images(
        cls, num_images: int, num_folds: int = 1, num_arms: int = 2, *, classifier: str = "finetune"
    ) -> "Plan":
        """Balanced accuracy on so many test images (folds: images in all), by the planning constants, for one set."""
        _check_counts("test images", num_images)
        parts, share = _fitted(classifier, "balanced_accuracy"), BALANCED_IMAGES / num_images
        trials = parts.trials / num_folds
        return cls(share * parts.lesions, share * parts.interaction, trials, 1, num_folds, num_arms)

    @classmethod
    def of_classes(
        cls,
        num_lesions: Sequence[int],
        kind: str = "average_precision",
        num_folds: int = 1,
        num_arms: int = 2,
        *,
        classifier: str = "finetune",
    ) -> "Plan":
        """The mean over classes with so many test lesions (folds: in all), each >= 2, by the planning constants.

        For one set. The classes are taken as independent, which is a little too pessimistic. ``kind`` and
        ``classifier`` are those of ``FITTED``.
        """
        _check_counts("lesions of a class", min(num_lesions) - 1)
        parts, share = _fitted(classifier, kind), 1 / len(num_lesions) ** 2
        inverse = sum(1 / count for count in num_lesions)
        freedom = inverse**2 / sum((1 / count) ** 2 / (count - 1) for count in num_lesions)
        trials = share * parts.trials * len(num_lesions) / num_folds
        lesions, interaction = share * parts.lesions * inverse, share * parts.interaction * inverse
        return cls(lesions, interaction, trials, 1, num_folds, num_arms, freedom)

    @property
    def step(self) -> int:
        """Fits of a repeat."""
        return self.num_folds

    @property
    def num_trials(self) -> int:
        """Fits an arm that the plan stands for."""
        return self.num_sets * self.num_folds

    def at(self, num_trials: int) -> "Plan":
        """The same plan, standing for this number of fits; folds: whole repeats."""
        share, num_sets = self.num_trials / num_trials, num_trials // self.num_folds
        return replace(self, interaction=share * self.interaction, trials=share * self.trials, num_sets=num_sets)

    def standard_error(self, num_trials: int, size_factor: float = 1.0) -> float:
        """Of the difference, with so many fits an arm (folds: whole repeats) and so many times the test lesions."""
        return math.sqrt(sum(self._parts(num_trials, size_factor)))

    def degrees_of_freedom(self, num_trials: int, size_factor: float = 1.0) -> float:
        """Satterthwaite, as in ``compare``: the trial part counts before lesion noise is taken off it."""
        lesions, interaction, trials = self._parts(num_trials, size_factor)
        sets, whole = num_trials / self.num_folds, lesions + interaction
        if self.num_folds > 1:
            raw, own = trials + lesions / sets + interaction, sets * (self.num_folds - 1)
        else:
            raw, own = trials + interaction, sets - 1
        spread = whole**2 / (size_factor * self.freedom) + raw**2 / max((self.num_arms - 1) * own, 1.0)
        return max(1.0, (whole + trials) ** 2 / spread) if spread else math.inf

    def detectable(self, num_trials: int, size_factor: float = 1.0) -> float:
        """See ``detectable``, in the unit of the measure."""
        size = num_trials, size_factor
        return detectable(self.standard_error(*size), self.degrees_of_freedom(*size))

    def _parts(self, num_trials: int, size_factor: float) -> tuple[float, float, float]:
        if num_trials < 1 or num_trials % self.num_folds or not size_factor > 0:
            raise DataError(
                f"{num_trials} fits in {self.num_folds} folds with {size_factor} times the lesions cannot be planned.",
                "Fits come in whole repeats of the folds.",
            )
        share = self.num_trials / num_trials
        return self.lesions / size_factor, share * self.interaction / size_factor, share * self.trials


def _quantile(probability: float, degrees_of_freedom: float) -> float:
    from scipy.special import ndtri, stdtrit

    return float(ndtri(probability) if math.isinf(degrees_of_freedom) else stdtrit(degrees_of_freedom, probability))


def _check_counts(what: str, count: int) -> None:
    if count < 1:
        raise DataError(f"There are too few {what} to plan with.", "A class needs at least two lesions in the test.")


def _fitted(classifier: str, measure: str) -> Parts:
    for name, known in ((classifier, FITTED), (measure, FITTED["finetune"])):
        if name not in known:
            raise RecipeError(f'There are no planning constants for "{name}".', nearest(name, known))
    return FITTED[classifier][measure]
