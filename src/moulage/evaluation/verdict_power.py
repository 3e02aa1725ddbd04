"""What a whole verdict can find: better than *every* reference, after Holm, with the positive control seen to help.

Each single test has the power of a noncentral t. That all of them succeed together is less likely than that one does,
and more than if they were independent, because they share an arm: the tests are joined as normal variables with one
correlation (a Gaussian copula). Holm's first step asks of the only arm with an effect a p below level / arms.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from moulage.errors import DataError
from moulage.evaluation.power import POWER, Plan, Search, single_power
from moulage.evaluation.verdict import LEVEL

CORRELATION = 0.5
"""Of the differences of one arm from two references, where the three vary alike and independently."""


@dataclass(frozen=True)
class VerdictPlan(Search):
    """The tests that must all succeed before an arm is said to help, which has the same true gain in all of them."""

    references: tuple[Plan, ...]  # of the arm's differences from each reference, at least one
    controls: tuple[Plan, ...] = ()  # of the positive controls' differences from ``none``
    num_arms: int = 1  # of the family over which Holm corrects

    def __post_init__(self) -> None:
        if not self.references or self.num_arms < 1:
            raise DataError("A verdict needs a reference and a family of at least one arm.")

    @property
    def step(self) -> int:
        """Fits of a repeat."""
        return self.references[0].num_folds

    @property
    def num_trials(self) -> int:
        """Fits an arm that the plans stand for."""
        return self.references[0].num_trials

    def power(self, effect: float, num_trials: int, size_factor: float = 1.0) -> float:
        """How often the verdict is "helps" where the arm, and real images in its place, truly gain ``effect`` > 0.

        The gain of real images is taken as no larger than the arm's, which is cautious. That a null control is called
        better by luck (2.5 % each) is left out.
        """
        size = num_trials, size_factor
        levels = [LEVEL / self.num_arms] * len(self.references) + [LEVEL] * len(self.controls)
        plans = (*self.references, *self.controls)
        single = [
            single_power(effect, plan.standard_error(*size), plan.degrees_of_freedom(*size), level)
            for plan, level in zip(plans, levels, strict=True)
        ]
        return all_found(single)

    def detectable(self, num_trials: int, size_factor: float = 1.0) -> float:
        """The smallest true gain that is called "helps" with 80 % probability, in the unit of the measure."""
        from scipy.optimize import brentq

        def missing(effect: float) -> float:
            return self.power(effect, num_trials, size_factor) - POWER

        high = max(plan.detectable(num_trials, size_factor) for plan in (*self.references, *self.controls))
        if high == 0:
            return 0.0
        low = 0.5 * high
        while missing(high) < 0:
            low, high = high, 1.5 * high
        return float(brentq(missing, low, high, xtol=1e-5 * high))  # pyright: ignore[reportArgumentType]


def all_found(powers: Sequence[float], correlation: float = CORRELATION) -> float:
    """Probability that all tests succeed, each with its own power, joined as normals of one correlation in [0, 1).

    The integral over the common factor u of prod_i Phi((z_i + sqrt(rho) u) / sqrt(1 - rho)), z_i = Phi^-1(power_i)
    (Dunnett and Sobel 1955), by Gauss-Hermite quadrature.
    """
    import numpy as np
    from scipy.special import ndtr, ndtri

    points, weights = np.polynomial.hermite_e.hermegauss(61)
    quantiles = ndtri(np.clip(powers, 1e-300, 1 - 1e-16))[:, None]
    shifted = (quantiles + math.sqrt(correlation) * points) / math.sqrt(1 - correlation)
    return float(weights @ ndtr(shifted).prod(axis=0) / weights.sum())
