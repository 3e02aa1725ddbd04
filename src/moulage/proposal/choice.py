"""Which classes a study is about: the rare ones that have lesions enough, else frequent ones that are made scarce."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from moulage.errors import DataError, nearest
from moulage.evaluation.lesion_variance import FEW_LESIONS
from moulage.proposal.survey import OfClass

BELOW_MEAN = 0.75
"""A class is rare that has fewer images than this share of the classes' mean, and at most half of the largest's."""
LEAST_TO_SPLIT = 6
"""Lesions that a class needs to be in every part of five folds; a class with fewer is left out of the study."""
TRAINED = 0.7
"""Share of the lesions that is in the training part of five folds with a validation part of a tenth."""
MOST_LEFT, LEAST_LEFT = 60, 10
"""Lesions of a class that stay in the training part where it is made scarce."""
DOSES = ((0.25, 0.5, 1.0, 2.0), (0.25, 0.5, 1.0))
"""Images that are added to classes made scarce, times those that stay; of the first that the lesions allow."""
DOSES_OF_RARE = (0.25, 0.5, 1.0)
"""The same for classes that are rare by themselves: the largest dose is what is judged."""
SPARE = 1.5
"""Times the lesions of the largest dose that the reserve holds, because lesions have unequally many images."""


@dataclass(frozen=True)
class Choice:
    """What a study asks of which classes."""

    targets: tuple[str, ...]
    lesions: dict[str, int]  # of each target, in all
    # class -> lesions that stay in the training part, where classes are made scarce; empty: they are rare by themselves
    scarcity: dict[str, int] = field(default_factory=dict[str, int])
    doses: tuple[float, ...] = DOSES_OF_RARE  # images that are added, times the real ones
    too_few: dict[str, int] = field(default_factory=dict[str, int])  # rare classes without lesions enough to be targets
    left_out: dict[str, int] = field(default_factory=dict[str, int])  # classes that no split can deal to every part
    was_asked: bool = False  # whether the targets were named by the user

    @property
    def is_scarce(self) -> bool:
        """Whether its classes are made scarce."""
        return bool(self.scarcity)


def rare(classes: Sequence[OfClass]) -> tuple[OfClass, ...]:
    """The classes that are rare among these."""
    counts = [each.images for each in classes]
    bound = min(BELOW_MEAN * sum(counts) / len(counts), max(counts) / 2)
    return tuple(each for each in classes if each.images <= bound)


def choose(classes: Sequence[OfClass], wanted: Sequence[str] = ()) -> tuple[Choice | None, Choice | None]:
    """The study of the rare classes (of ``wanted``, where any are named), and that of classes that are made scarce.

    Either is None where no class has lesions enough for it. ``DataError``: a wanted class is none of these or has too
    few lesions, or fewer than two classes can be split.
    """
    known = {each.name: each for each in classes}
    for name in wanted:
        if name not in known:
            raise DataError(f'--targets: "{name}" is no class of these data.', nearest(name, known))
        if known[name].lesions < FEW_LESIONS:
            raise DataError(
                f'--targets: "{name}" has {known[name].lesions} lesions, and a verdict needs {FEW_LESIONS} or more.',
                "Name other classes, or bring more lesions of it: more photographs of the same ones are no help.",
            )
    left_out = {each.name: each.lesions for each in classes if each.lesions < LEAST_TO_SPLIT}
    split = [each for each in classes if each.name not in left_out]
    if len(split) < 2:
        few = ", ".join(f"{name} {number}" for name, number in left_out.items())
        raise DataError(
            f"A classifier needs two classes, and {len(split)} of these {len(classes)} can be in every part of a split "
            f"(lesions: {few or 'one class only'}).",
            f"A class needs {LEAST_TO_SPLIT} lesions or more: bring more, or merge classes.",
        )
    found = [known[name] for name in wanted] or rare(split)
    few = {each.name: each.lesions for each in found if each.lesions < FEW_LESIONS}
    targets = {each.name: each.lesions for each in found if each.name not in few}
    of_rare = None
    if targets:
        of_rare = Choice(tuple(targets), targets, too_few=few, left_out=left_out, was_asked=bool(wanted))
    made = None if wanted else _made_scarce(split, few, left_out)
    return of_rare, made


def lesions_to_make_scarce() -> int:
    """The fewest lesions of a class that can be made scarce."""
    return math.ceil(LEAST_LEFT * (1 + SPARE * DOSES[-1][-1]) / TRAINED)


def _made_scarce(split: Sequence[OfClass], few: dict[str, int], left_out: dict[str, int]) -> Choice | None:
    """The two classes with the most lesions that can be made scarce; the largest only where there is no other."""
    for doses in DOSES:
        times = 1 + SPARE * doses[-1]
        levels = {each.name: min(MOST_LEFT, int(TRAINED * each.lesions / times)) for each in split}
        able = sorted((each for each in split if levels[each.name] >= LEAST_LEFT), key=lambda each: -each.lesions)
        largest = max(split, key=lambda each: each.images)
        chosen = [each for each in able if each is not largest][:2] or able[:1]
        if chosen:
            names = tuple(each.name for each in split if each in chosen)
            lesions, kept = ({name: of[name] for name in names} for of in (_lesions(split), levels))
            return Choice(names, lesions, kept, doses, few, left_out)
    return None


def _lesions(classes: Sequence[OfClass]) -> dict[str, int]:
    return {each.name: each.lesions for each in classes}
