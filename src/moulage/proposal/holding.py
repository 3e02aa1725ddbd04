"""How many real images can be held back: the doses of the curve of what real images are worth."""

from dataclasses import dataclass

from moulage.data.catalog import Catalog
from moulage.data.split import RESERVE, Split
from moulage.errors import DataError
from moulage.proposal.choice import Choice
from moulage.proposal.cost import Clock
from moulage.proposal.survey import Survey
from moulage.recipe import Recipe, parse

SHARES = (0.5, 0.6, 0.7)
"""Of the training lesions of classes that are rare by themselves, held back: more where lesions are few and uneven."""
ENOUGH = 0.5
"""A dose of real images, times those that stay, for which no more is held back: less would hardly be seen to help."""
NUM_SEEDS = 3
"""Ways to deal the lesions that are looked at: the audit joins duplicates, after which they are dealt otherwise."""
SAFETY = 0.9
"""Share of the images that were held back in the poorest of them that a dose may ask for."""


@dataclass(frozen=True)
class HeldBack:
    """Real images that are held back from the training part."""

    share: float = 0.0  # of the targets' training lesions; 0 where their number says it, or nothing is held back
    doses: tuple[float, ...] = ()  # that every training part surely has; none: nothing can be held back


def held_back(of: Choice, there: Survey, clock: Clock, num_folds: int) -> HeldBack:
    """What is held back for a choice: as little as allows a dose of ``ENOUGH``, or else the largest of its doses."""
    found = HeldBack()
    for share in (0.0,) if of.is_scarce else SHARES:
        key = f"{of.targets} {of.scarcity} {share} {num_folds}"
        if key not in clock.held:
            clock.held[key] = _least(of, share, there, clock, num_folds)
        doses = tuple(dose for dose in of.doses if dose <= SAFETY * clock.held[key])
        if len(doses) > len(found.doses):
            found = HeldBack(share, doses)
        if max(found.doses, default=0) >= ENOUGH:
            break
    return found


def _least(of: Choice, share: float, there: Survey, clock: Clock, num_folds: int) -> float:
    """Held-back images for one that stays, of the class and part that have the fewest; 0 where none can be."""
    try:
        recipes = [_recipe(of, share, there, num_folds, seed) for seed in range(NUM_SEEDS)]
        return min(_ratio(split, clock.learned(each), of) for each in recipes for split in clock.dealt(each))
    except DataError:  # too few lesions
        return 0.0


def _recipe(of: Choice, share: float, there: Survey, num_folds: int, seed: int) -> Recipe:
    held = {"scarcity": of.scarcity} if of.is_scarce else {"reserve": share}
    return parse(
        {
            "study": {"name": "held", "target_classes": of.targets},
            "data": {"source": there.source, "unknown": list(of.left_out)},
            "split": {"scheme": "folds", "num_folds": num_folds, "seed": seed, **held},
        }
    )


def _ratio(split: Split, catalog: Catalog, of: Choice) -> float:
    held, stay = (split.part(catalog, part).counts for part in (RESERVE, "train"))
    return min(held[name] / max(1, stay[name]) for name in of.targets)
