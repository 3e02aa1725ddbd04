"""What added images are worth: the number of real photographs of new lesions that would give the same score.

The scores of arms that add rising numbers of real photographs make a monotone curve, and the worth of an arm is the
place where the curve has its score. The interval inverts tests (Fieller's idea): it holds every number of photographs
whose score is not told from the arm's at 5 %, with the uncertainty of the arm and of the curve together, lesions and
trials as in any comparison. ``docs/statistics.md`` has formulas, and what simulated studies say of it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np

from moulage.curves import COPIES
from moulage.errors import DataError, RecipeError, nearest
from moulage.evaluation.alignment import Fits
from moulage.evaluation.compare import MIN_LESIONS, infer_contrast, refusal
from moulage.evaluation.lesion_variance import Lesions
from moulage.evaluation.measure_names import Wanted, resolve
from moulage.evaluation.trial_variance import Trials

Answer = Literal["interval", "none", "more than the study can see", "real images not shown to help", "no interval"]
"""``none``: the upper end is 0; ``more than the study can see``: it lies above the largest number of photographs."""
STEPS = 8
"""Numbers of photographs that are tested from one dose to the next, before the ends are sought between them."""
HALVINGS = 16
"""An end is found to 2^-16 of such a step."""


@dataclass(frozen=True, kw_only=True)
class Worth:
    """What the images of one arm are worth, in real photographs of new lesions."""

    curve: str  # the recipe's name for the curve
    series: str  # ``copies``, or what drew the images
    arm: str
    dose: float  # as the recipe has it: images for one real image, or for each class
    num_images: int  # images that are added
    measure: str
    answer: Answer
    estimate: float | None  # photographs; None above ``largest``, or where there is no answer
    low: float | None  # 95 % interval, in photographs; None where there is no answer
    high: float | None  # the same; None above ``largest``, too
    largest: int  # photographs of the curve's last dose: beyond them nothing is known
    statement: str  # all of this in a sentence

    @property
    def number(self) -> str:
        """The estimate, short: "35", "more than 800"."""
        return "–" if self.low is None else self._photographs(self.estimate)

    @property
    def interval(self) -> str:
        """The interval, short: "0 to 90", "40 to more than 800"."""
        return "–" if self.low is None else f"{self.low:,.0f} to {self._photographs(self.high)}"

    def _photographs(self, number: float | None) -> str:
        return f"more than {self.largest:,}" if number is None else f"{number:,.0f}"


def of_largest_doses(worths: Iterable[Worth]) -> list[Worth]:
    """Of each series the one of its largest dose; copies come last."""
    rising = sorted(worths, key=lambda worth: worth.dose)
    largest = {(worth.curve, worth.series): worth for worth in rising}
    return sorted(largest.values(), key=lambda worth: (worth.curve, worth.series == COPIES))


@dataclass(frozen=True)
class RealCurve:
    """Scores over the number of real photographs of new lesions that are added; rising, between the doses as well."""

    trials: Trials
    measure: str
    wanted: Wanted
    arms: tuple[str, ...]  # the arm that adds nothing, then those that add photographs
    doses: tuple[int, ...]  # photographs that each adds, rising from 0
    num_real: int  # real images that all arms train on, of the classes that are added

    @classmethod
    def of(
        cls, fits: Fits, measure: str, targets: Sequence[str], doses: Mapping[str, int], num_real: int
    ) -> "RealCurve":
        """Under a measure, see ``measure_names``; ``doses``: arm -> photographs that it adds, at least two, one of 0.

        ``RecipeError``: the measure, a class or an arm is unknown. The fits are those of *all* arms of the study.
        """
        for arm in doses:
            if arm not in fits.logits:
                raise RecipeError(f'There is no arm "{arm}" in the curve.', nearest(arm, fits.logits))
        arms = tuple(sorted(doses, key=doses.__getitem__))
        rising = tuple(doses[arm] for arm in arms)
        if len(arms) < 2 or rising[0] or len(set(rising)) < len(rising) or num_real < 1:
            raise DataError(
                f"A curve over {', '.join(map(str, rising))} photographs beside {num_real} real images says nothing.",
                "Give an arm that adds nothing and at least one that adds photographs, each another number.",
            )
        wanted = resolve(measure, fits.labels, fits.classes, targets)
        return cls(
            Trials(fits, Lesions.of(fits, wanted), wanted.measure.decided), measure, wanted, arms, rising, num_real
        )

    @property
    def sign(self) -> int:
        """-1 where less is better."""
        return -1 if self.wanted.measure.lower_is_better else 1

    def score(self, arm: str) -> float:
        """Mean over the sets, turned so that more is better."""
        return self.sign * float(self.trials.lesions.values[arm].mean())

    @cached_property
    def _blocks(self) -> list[tuple[str, ...]]:
        """For each dose the arms whose mean is the curve there: isotonic regression joins neighbours that fall."""
        from scipy.optimize import isotonic_regression

        ends = isotonic_regression([self.score(arm) for arm in self.arms]).blocks
        blocks = [self.arms[first:last] for first, last in pairwise(ends)]
        return [block for block in blocks for _ in block]

    @cached_property
    def heights(self) -> np.ndarray:
        """Value of the curve at each dose, turned so that more is better, [D]."""
        return np.array([np.mean([self.score(arm) for arm in block]) for block in self._blocks])

    @cached_property
    def _places(self) -> np.ndarray:
        """The doses on the scale on which the curve is straight between them: the log of all images of the classes."""
        return np.log1p(np.array(self.doses) / self.num_real)

    def weights(self, photographs: float) -> dict[str, float]:
        """Arm -> weight of its score in the curve's value there; they add up to 1."""
        at = np.interp(math.log1p(photographs / self.num_real), self._places, np.arange(len(self.doses)))
        first = min(int(at), len(self.doses) - 2)
        found: dict[str, float] = {}
        for row, weight in ((first, first + 1 - at), (first + 1, at - first)):
            for arm in self._blocks[row]:
                found[arm] = found.get(arm, 0.0) + float(weight) / len(self._blocks[row])
        return {arm: weight for arm, weight in found.items() if weight}

    def distance(self, arm: str, photographs: float) -> float:
        """Arm minus curve, in half widths of its 95 % interval: the two are told apart where it is beyond -1 or 1."""
        contrast = {name: -self.sign * weight for name, weight in self.weights(photographs).items()}
        contrast[arm] = contrast.get(arm, 0.0) + self.sign
        difference = sum(weight * float(self.trials.lesions.values[name].mean()) for name, weight in contrast.items())
        found = infer_contrast(difference, self.trials, contrast)
        half = (found["high"] - found["low"]) / 2 if found else 0.0
        return difference / half if half else math.copysign(math.inf, difference) if difference else 0.0

    def refusal(self, arm: str) -> str:
        """Why the worth of an arm has no interval; empty where it has one."""
        fits = self.trials.fits
        for name in (self.arms[-1], arm):
            if found := refusal(fits, self.wanted, name, self.arms[0]):
                return found
        for k in self.wanted.indices:
            if fits.sizes[k] < MIN_LESIONS:
                return f"{fits.classes[k]} has only {fits.sizes[k]} lesions in this part, fewer than {MIN_LESIONS}."
        return ""

    @cached_property
    def rises(self) -> bool:
        """Whether the largest dose is shown to be better than nothing."""
        return self.distance(self.arms[-1], 0) > 1

    def estimate(self, arm: str) -> float | None:
        """The fewest photographs at which the curve has the arm's score; None where it nowhere reaches it."""
        score, heights = self.score(arm), self.heights
        if score <= heights[0]:
            return 0.0
        if score > heights[-1]:
            return None
        row = int(np.searchsorted(heights, score))  # the first dose that reaches it
        share = (score - heights[row - 1]) / (heights[row] - heights[row - 1])
        place = self._places[row - 1] + share * (self._places[row] - self._places[row - 1])
        return float(np.expm1(place)) * self.num_real

    def interval(self, arm: str) -> tuple[float, float | None]:
        """The fewest and most photographs that are not told from the arm; no upper end above the last dose.

        Nothing added is not told from an arm that is no better, nor more than the last dose from one that is no worse.
        """
        places = self._places
        steps = [np.linspace(a, b, STEPS, endpoint=False) for a, b in pairwise(places)]
        tested = {0.0, *(np.expm1(np.concatenate(steps)) * self.num_real).tolist(), float(self.doses[-1])}
        if estimate := self.estimate(arm):  # it is never told from the arm, however short the interval
            tested.add(estimate)
        rising = sorted(tested)
        told = [self.distance(arm, photographs) for photographs in rising]
        inside = [row for row, distance in enumerate(told) if abs(distance) <= 1]
        low, high = 0.0, None
        if told[0] > 1:
            low = self._end(arm, rising[inside[0]], rising[inside[0] - 1]) if inside else rising[-1]
        if told[-1] < -1:
            high = self._end(arm, rising[inside[-1]], rising[inside[-1] + 1]) if inside else 0.0
        return low, high

    def _end(self, arm: str, inside: float, outside: float) -> float:
        """Where the interval ends between two numbers of photographs."""
        for _ in range(HALVINGS):
            middle = (inside + outside) / 2
            told = abs(self.distance(arm, middle)) > 1
            inside, outside = (inside, middle) if told else (middle, outside)
        return inside


def worth(real: RealCurve, arm: str, *, curve: str, series: str, dose: float, num_images: int, subject: str) -> Worth:
    """What the images of an arm are worth; ``subject`` is what it adds in words, such as ``400 generated images``."""
    about = {"curve": curve, "series": series, "arm": arm, "dose": dose, "num_images": num_images}
    about |= {"measure": real.measure, "largest": real.doses[-1]}
    answer: Answer = "no interval"
    why = real.refusal(arm)
    if not why and not real.rises:
        answer = "real images not shown to help"
        why = f"{photographs(real.doses[-1])} are not shown to help."
    if why:
        said = f"What {subject} are worth cannot be said: {why}"
        return Worth(**about, answer=answer, estimate=None, low=None, high=None, statement=said)
    estimate, (low, high) = real.estimate(arm), real.interval(arm)
    answer = "more than the study can see" if high is None else "interval" if high else "none"
    said = f"{subject} are worth {_in_words(estimate, low, high, real.doses[-1])}"
    return Worth(**about, answer=answer, estimate=estimate, low=low, high=high, statement=said)


def photographs(number: float) -> str:
    """A number of photographs in words."""
    return "1 photograph of a new lesion" if round(number) == 1 else f"{number:,.0f} photographs of new lesions"


def _in_words(estimate: float | None, low: float, high: float | None, largest: int) -> str:
    if high == 0:
        return "no photograph of a new lesion: they are shown to be worse than nothing added."
    beyond = f"more than {largest:,}"
    if low == largest:
        return f"more than the study can see: {beyond} photographs of new lesions, its largest dose."
    between = f"[{low:,.0f}, {beyond if high is None else f'{high:,.0f}'}]"
    if high is None and low == 0:
        between += ": neither nothing nor more than the study can see is excluded"
    number = f"{beyond} photographs of new lesions" if estimate is None else photographs(estimate)
    return f"{number} {between}."
