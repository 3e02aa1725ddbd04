"""From the richest study to the poorest: the first that the hours pay is taken, and its generators learn the longer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moulage.errors import DataError, RecipeError
from moulage.proposal.cost import Cost
from moulage.recipe import Recipe

SAFETY = 0.85
"""Share of the hours that a study may be estimated to take: estimates err."""
BATCH = 32
PREVIEWS = 8
"""Previews of a fit, among which the validation part chooses."""


@dataclass(frozen=True)
class Rung:
    """A size of study."""

    generator: str  # which of the template's: projected, projected_gpu, dcgan
    least: int  # real images that a fit of it is shown, at least and at most
    most: int
    features: (
        int  # 1: the images once, as they are; 2: enlarged, too; 3: the first in quarter turns where that is meant
    )
    num_folds: int
    num_repeats: int = 1


CPU = (
    Rung("projected", 40_000, 40_000, 3, 5, 2),
    Rung("projected", 16_000, 40_000, 3, 5),
    Rung("projected", 8_000, 16_000, 2, 5),
    Rung("projected", 4_000, 8_000, 1, 5),
    Rung("projected", 4_000, 8_000, 1, 3),
    Rung("dcgan", 6_400, 12_800, 1, 3),
)
"""A generator that is shown less is none (docs/generators.md has what 4,000 to 110,000 images bring)."""
GPU = (
    Rung("projected_gpu", 1_000_000, 4_000_000, 3, 5, 2),
    Rung("projected_gpu", 100_000, 4_000_000, 3, 5),
    *CPU,
)


@dataclass(frozen=True)
class Taken:
    """The study that was chosen."""

    rung: Rung
    images: int  # that a fit of its generator is shown
    recipe: Recipe
    cost: Cost

    @property
    def is_all(self) -> bool:
        """Whether no rung has more of anything."""
        return self.rung.num_repeats > 1 and self.images == self.rung.most


def take(
    rungs: Sequence[Rung],
    hours: float,
    recipe_of: Callable[[Rung, int], Recipe],
    cost_of: Callable[[Recipe], Cost],
) -> Taken:
    """The first rung whose least study the hours pay, with as many images for its generators as they pay.

    ``RecipeError`` where they pay none: it says what the least takes. ``DataError`` where the data cannot be split.
    """
    least: Cost | None = None
    refused: DataError | None = None
    for rung in rungs:
        try:
            small = _taken(rung, rung.least, recipe_of, cost_of)
        except DataError as error:  # fewer folds may do
            refused = error
            continue
        if small.cost.hours <= SAFETY * hours:
            return _longest(small, SAFETY * hours, recipe_of, cost_of)
        least = small.cost
    if least is None:
        assert refused is not None
        raise refused
    needed = least.hours / SAFETY
    parts = sorted(least.core_seconds.items(), key=lambda item: -item[1])[:4]
    spent = ", ".join(f"{kind} {seconds / 60:.1f}" for kind, seconds in parts)
    raise RecipeError(
        f"{hours:g} hours are too few for these data on this machine: the least study takes {least.hours:.2f} hours "
        f"with {least.num_workers} workers (core-minutes: {spent}).",
        f"Give --hours {needed + 0.005:.2f} or more.",
    )


def _longest(
    small: Taken, hours: float, recipe_of: Callable[[Rung, int], Recipe], cost_of: Callable[[Recipe], Cost]
) -> Taken:
    """The study of the same rung that takes the hours, or its longest; the cost is linear in the images of a fit."""
    rung = small.rung
    if rung.most == rung.least:
        return small
    large = _taken(rung, rung.most, recipe_of, cost_of)
    if large.cost.hours <= hours:
        return large
    share = (hours - small.cost.hours) / (large.cost.hours - small.cost.hours)
    step = BATCH * PREVIEWS  # so that the previews are evenly apart
    images = (rung.least + int(share * (rung.most - rung.least))) // step * step
    return _taken(rung, images, recipe_of, cost_of) if images > rung.least else small


def _taken(
    rung: Rung, images: int, recipe_of: Callable[[Rung, int], Recipe], cost_of: Callable[[Recipe], Cost]
) -> Taken:
    recipe = recipe_of(rung, images)
    return Taken(rung, images, recipe, cost_of(recipe))
