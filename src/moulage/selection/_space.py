"""Geometry of a feature space: what real images span, and how many of the best are kept."""

from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from moulage.data.neighbours import squared_blocks

Share = Annotated[
    float | None, Field(gt=0, le=1, description="Share of each class that is kept; none: as many as are wanted.")
]
"""An option of the rules that rank."""


class Support(NamedTuple):
    """Where N queries lie in the balls around M real images."""

    ratio: np.ndarray  # the largest radius/distance over all balls, float64 [N]; 1 and more: in one of them
    ball: np.ndarray  # the real image of that ball, int64 [N]
    rarity: np.ndarray  # the smallest radius of the balls that a query lies in, float64 [N]; inf: it lies in none


def support(
    queries: np.ndarray,
    real: np.ndarray,
    radius: np.ndarray,
    groups: tuple[np.ndarray, np.ndarray] | None = None,
) -> Support:
    """Whether queries lie in the union of the balls around real images (Kynkaanniemi et al. 2019, equation 1).

    Queries are [N, D], real images [M, D], M >= 1, with a ball of ``radius`` [M] each. With ``groups``, the lesions of
    queries [N] and of real images [M], no ball of a query's own lesion counts.
    """
    ratio, rarity = np.empty(len(queries)), np.empty(len(queries))
    ball = np.empty(len(queries), np.int64)
    for part, squared in squared_blocks(queries, real):
        distance = np.sqrt(squared)
        if groups is not None:
            distance[groups[0][part][:, None] == groups[1]] = np.inf
        # A ball reaches to a real image: rounding must not leave that one outside.
        inside = (distance <= radius * (1 + 1e-9)) & np.isfinite(distance)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(np.isfinite(distance), radius / distance, 0.0)
        ratios[inside] = np.fmax(ratios[inside], 1.0)  # also where both are 0
        ball[part] = ratios.argmax(axis=1)
        ratio[part] = ratios[np.arange(len(ratios)), ball[part]]
        rarity[part] = np.where(inside, radius, np.inf).min(axis=1)
    return Support(ratio, ball, rarity)


def highest(scores: np.ndarray, number: int) -> np.ndarray:
    """Which ``number`` scores [N] are the highest, bool [N]; of equal ones the first."""
    kept = np.zeros(len(scores), bool)
    kept[np.argsort(-scores, kind="stable")[:number]] = True
    return kept


def how_many(share: float | None, num_candidates: int, wanted: int) -> int:
    """How many candidates of a class are kept: a share of them, rounded, or as many as are wanted."""
    return min(wanted, num_candidates) if share is None else round(share * num_candidates)
