"""What effect a proposed study can find, and what it cannot: ``power`` with the lesions at hand, in words."""

import bisect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moulage.evaluation.power import Plan
from moulage.evaluation.verdict_power import VerdictPlan

EXPECTED = 0.04
"""What as many real images again brought on ISIC-2019, in mean AP (docs/evidence.md): more is not to be expected."""
UNLIKELY = 0.10
"""A study that finds no smaller gain than this cannot answer."""


LARGEST: dict[str, Any] = {"num_folds": 5, "num_repeats": 2, "num_arms": 16, "family": 1, "rivals": 3}
"""The largest study that is proposed: what it does not find no other does."""


@dataclass(frozen=True)
class Reach:
    """Gains of mean average precision, as shares (0.02 = 2 points)."""

    smallest_effect: float  # the smallest that matters
    seen: float  # a true difference of two arms that 80 % of such studies find
    helps: float  # a true gain of generated images that 80 % of them call "helps"
    times_needed: float | None  # times the lesions at which the smallest effect is called so; None: at no number
    lesions_needed: dict[str, int]  # of each target class, for that; empty where no number does
    has_control: bool  # whether held-back real images show that the study can see a gain

    @property
    def can_answer(self) -> bool:
        """Whether a gain that may be is found."""
        return self.helps <= UNLIKELY


def reach(
    lesions: Mapping[str, int],
    smallest_effect: float,
    *,
    num_folds: int,
    num_repeats: int,
    num_arms: int,
    family: int,
    rivals: int,
    has_control: bool = True,
) -> Reach:
    """What five folds, or another number, of these lesions (of each target class) find.

    ``num_arms``: all arms, over which the variance of fits is pooled; ``family``: those with generated images, over
    which p is corrected; ``rivals``: those that each of them has to beat, beside no images and copies;
    ``has_control``: a positive control has to gain as much. By the planning constants of a head on frozen features.
    """
    plan = Plan.of_classes(list(lesions.values()), num_folds=num_folds, num_arms=num_arms, classifier="probe")
    plan = plan.at(num_folds * num_repeats)
    verdict = VerdictPlan((plan,) * (2 + rivals), (plan,) * has_control, family)
    times = verdict.factor_needed(smallest_effect)
    needed = {name: round(times * number) for name, number in lesions.items()} if times else {}
    number = plan.num_trials
    seen, helps = plan.detectable(number), verdict.detectable(number)
    return Reach(smallest_effect, seen, helps, times, needed, has_control)


def lesions_to_answer() -> int:
    """The fewest lesions of a single rare class whose study can answer."""

    def can(number: int) -> bool:
        return reach({"one": number}, UNLIKELY, **LARGEST).can_answer

    return bisect.bisect_left(range(10_000), True, lo=2, key=can)
