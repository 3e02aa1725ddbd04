"""Keeps only the best images, by a classifier's probability or by how deep they lie among real ones: for the ablation.

To rank and keep the best looks safe, and often costs more than it gives: what a classifier is surest of is what it
needs least (docs/selection.md).
"""

from typing import Literal

import numpy as np
from pydantic import Field

from moulage.data.neighbours import distance_to_others
from moulage.plugins import Options
from moulage.selection import ImageSet, Judgement
from moulage.selection._probability import probabilities
from moulage.selection._space import Share, highest, how_many, support


class Config(Options):
    """What is best, and how much of it is kept."""

    by: Literal["probability", "manifold"] = Field(
        "probability",
        description="`probability` of its class, as in `disagreement`; or depth in the balls of `off_manifold`.",
    )
    share: Share = None
    k: int = Field(5, ge=1, le=100, description="`manifold`: the balls reach to the k-th nearest of another lesion.")


def select(
    config: Config, candidates: ImageSet, reference: ImageSet, want: dict[str, int], rng: np.random.Generator
) -> Judgement:
    """Keep the highest scores of each class; score: the probability, or how deep in a ball (radius / distance)."""
    judged = Judgement.undecided(len(candidates))
    scores = (_probability if config.by == "probability" else _depth)(config, candidates, reference, rng)
    for label, rows in candidates.by_class():
        own = scores[rows]
        if not np.isfinite(own).all():
            judged.notes.append(f"{label}: too few lesions in training to say what is best; none is dropped.")
            continue
        number = how_many(config.share, len(rows), want.get(label, 0))
        ranks = np.empty(len(rows), np.int64)
        ranks[np.argsort(-own, kind="stable")] = np.arange(1, len(rows) + 1)
        reasons = [
            f"{config.by} {score:.2f}, rank {rank} of {len(rows)}, of which {number} are kept."
            for score, rank in zip(own, ranks, strict=True)
        ]
        judged.say(rows, highest(own, number), own, reasons)
    return judged


def _probability(config: Config, candidates: ImageSet, reference: ImageSet, rng: np.random.Generator) -> np.ndarray:
    """Probability of each candidate's own class, [N]; nan where nothing is known of the class."""
    found = probabilities(candidates, reference, rng, num_folds=5, strength=1.0, most_images=2000)
    if found is None:
        return np.full(len(candidates), np.nan)
    labels = candidates.catalog.labels
    known = np.isin(labels, reference.catalog.labels[found.rows])
    return np.where(known, found.candidates[np.arange(len(labels)), labels], np.nan)


def _depth(config: Config, candidates: ImageSet, reference: ImageSet, rng: np.random.Generator) -> np.ndarray:
    """Largest ratio of a ball's radius to the distance from its centre, [N]; not finite where there are no balls."""
    scores = np.full(len(candidates), np.nan)
    for label, rows in candidates.by_class():
        known = reference.rows_of(label)
        radius = distance_to_others(reference.features[known], reference.groups[known], config.k)
        if len(known) and np.isfinite(radius).all():
            scores[rows] = np.minimum(support(candidates.features[rows], reference.features[known], radius).ratio, 1e12)
    return scores
