"""Drops images outside of what the real images of their class span in feature space.

The span is that of improved precision (Kynkaanniemi et al. 2019, Improved precision and recall metric, equations 1 and
2): a ball around each real image that reaches to its k-th nearest, here of another lesion. An image in none of the
balls is unlike all that was seen. An outlier among the real images has a wide ball, which lets in nearly anything;
``rarity`` drops what lies in wide balls alone (rarity score: Han et al. 2023), at a quantile of what real
images score that way against other lesions.
"""

import numpy as np
from pydantic import Field

from moulage.data.neighbours import distance_to_others
from moulage.plugins import Options
from moulage.selection import ImageSet, Judgement
from moulage.selection._space import support


class Config(Options):
    """How wide the balls are."""

    k: int = Field(5, ge=1, le=100, description="The balls reach to the k-th nearest real image of another lesion.")
    rarity: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Drop what is rarer than this share of the class's real images; none: rare ones are kept.",
    )


def select(
    config: Config, candidates: ImageSet, reference: ImageSet, want: dict[str, int], rng: np.random.Generator
) -> Judgement:
    """Keep what lies in a ball; score: the largest radius / distance from the centre over all balls (1: rim)."""
    judged = Judgement.undecided(len(candidates))
    for label, rows in candidates.by_class():
        known = reference.rows_of(label)
        real, groups = reference.features[known], reference.groups[known]
        radius = distance_to_others(real, groups, config.k)
        if not np.isfinite(radius).all():
            judged.notes.append(f"{label}: fewer than {config.k} images of other lesions in training; none is dropped.")
            continue
        others, found = support(real, real, radius, (groups, groups)), support(candidates.features[rows], real, radius)
        rarest = np.inf
        if config.rarity is not None and np.isfinite(others.rarity).any():
            rarest = float(np.quantile(others.rarity[np.isfinite(others.rarity)], config.rarity))
        keep, inside = (found.rarity <= rarest) & np.isfinite(found.rarity), np.isfinite(found.rarity)
        judged.say(
            rows, keep, found.ratio, [_reason(*each, rarest) for each in zip(found.ratio, found.rarity, strict=True)]
        )
        judged.nearest[rows] = known[found.ball]
        lost = int((~np.isfinite(others.rarity) | (others.rarity > rarest)).sum())
        judged.notes.append(
            f"{label}: of {len(known):,} real images {lost:,} ({lost / len(known):.0%}) would be dropped, held against "
            f"other lesions; of the {len(rows):,} drawn ones {int((~inside).sum()):,} lie in no ball."
        )
    return judged


def _reason(ratio: float, rarity: float, rarest: float) -> str:
    if not np.isfinite(rarity):
        return f"{1 / max(ratio, 1e-12):.2f} radii from the nearest ball's centre, outside of all."
    compared = "" if np.isinf(rarest) else f" of radius {rarity:.3g} or more (rare: above {rarest:.3g})"
    return f"Inside a real image's ball{compared}."
