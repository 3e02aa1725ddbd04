"""How many real images can be held back: the doses of the curve of what real images are worth."""

from moulage.data.catalog import Catalog
from moulage.data.split import RESERVE, Split
from moulage.errors import DataError
from moulage.proposal.choice import Choice
from moulage.proposal.cost import Clock
from moulage.proposal.survey import Survey
from moulage.recipe import Recipe, parse

SHARE = 0.5
"""Of the training lesions of classes that are rare by themselves, held back."""
NUM_SEEDS = 3
"""Ways to deal the lesions that are looked at: the audit joins duplicates, after which they are dealt otherwise."""
SAFETY = 0.9
"""Share of the images that were held back in the poorest of them that a dose may ask for."""


def held_back(of: Choice, there: Survey, clock: Clock, num_folds: int) -> tuple[float, ...]:
    """The doses of a choice for which every training part surely has held-back images; none where there is no dose."""
    key = f"{of.targets} {of.scarcity} {num_folds}"
    if key not in clock.held:
        clock.held[key] = _least(of, there, clock, num_folds)
    return tuple(dose for dose in of.doses if dose <= SAFETY * clock.held[key])


def _least(of: Choice, there: Survey, clock: Clock, num_folds: int) -> float:
    """Held-back images for one that stays, of the class and part that have the fewest; 0 where none can be."""
    try:
        recipes = [_recipe(of, there, num_folds, seed) for seed in range(NUM_SEEDS)]
        return min(_ratio(split, clock.learned(each), of) for each in recipes for split in clock.dealt(each))
    except DataError:  # too few lesions
        return 0.0


def _recipe(of: Choice, there: Survey, num_folds: int, seed: int) -> Recipe:
    held = {"scarcity": of.scarcity} if of.is_scarce else {"reserve": SHARE}
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
