"""Keeps as many images of each cluster of a class as real images have there: no more of what is drawn too often.

The clusters are those of k-means on the real images' features of the class. An image goes to the cluster whose centre
is nearest. Of the images that are wanted each cluster gets its share of the real images, by largest remainders; which
images fill the quota is drawn at random. A cluster with too few drawn images is not filled up from others, so that
fewer may be kept than are wanted: that is a mode which the generator misses.
"""

from typing import Any

import numpy as np
from pydantic import Field

from moulage.plugins import Options
from moulage.selection import ImageSet, Judgement


class Config(Options):
    """How finely the real images are divided."""

    num_clusters: int = Field(8, ge=2, le=500, description="Clusters of a class; no more than half its lesions.")


def select(
    config: Config, candidates: ImageSet, reference: ImageSet, want: dict[str, int], rng: np.random.Generator
) -> Judgement:
    """Keep what its cluster has a place for; score: places of the cluster less those taken before (1 and more)."""
    from sklearn.cluster import KMeans

    judged = Judgement.undecided(len(candidates))
    for label, rows in candidates.by_class():
        known = reference.rows_of(label)
        number = min(config.num_clusters, len(set(reference.groups[known])) // 2)
        if number < 2:
            judged.notes.append(f"{label}: fewer than four lesions in training make no clusters; none is dropped.")
            continue
        options: dict[str, Any] = {"n_init": 4, "random_state": int(rng.integers(2**31))}
        model = KMeans(number, **options).fit(reference.features[known])
        real_cluster = model.predict(reference.features[known])
        places = quotas(np.bincount(real_cluster, minlength=number), want.get(label, 0))
        cluster = model.predict(candidates.features[rows])
        left = np.zeros(len(rows))
        for c in range(number):
            members = rng.permutation(np.flatnonzero(cluster == c))
            left[members] = places[c] - np.arange(len(members))
        drawn = np.bincount(cluster, minlength=number)
        reasons = [f"Cluster {c + 1} of {number} has {places[c]} places for {drawn[c]} drawn images." for c in cluster]
        judged.say(rows, left > 0, left, reasons)
        missed = np.maximum(places - drawn, 0)
        if missed.any():
            judged.notes.append(
                f"{label}: {int(missed.sum())} places in {int((missed > 0).sum())} of {number} clusters stay empty, "
                "for lack of drawn images."
            )
    return judged


def quotas(counts: np.ndarray, number: int) -> np.ndarray:
    """``number`` places dealt in proportion to ``counts`` [K], by largest remainders: int64 [K]."""
    exact = counts / counts.sum() * number
    places = np.floor(exact).astype(np.int64)
    places[np.argsort(places - exact, kind="stable")[: number - places.sum()]] += 1
    return places
