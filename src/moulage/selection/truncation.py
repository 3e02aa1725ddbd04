"""Keeps the images nearest to the middle of their class: what truncation of a generator's input does, on its output.

Truncation (Brock et al. 2019, Large scale GAN training, section 3.1; towards the mean latent in StyleGAN, Karras et al.
2019) buys fidelity with variety. Here the images are drawn in full and the outer ones dropped, which any generator
allows. ``density`` measures with distances to real neighbours in place of the mean, as instance selection does (DeVries
et al. 2020). A class of several looks has its mean between them, where no image is.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from moulage.data.neighbours import nearest_rows
from moulage.plugins import Options
from moulage.selection import ImageSet, Judgement
from moulage.selection._space import Share, highest, how_many


class Config(Options):
    """What the middle is, and how much is kept around it."""

    by: Literal["mean", "density"] = Field(
        "mean", description="Distance to the mean of the real images of the class, or to the k-th nearest of them."
    )
    share: Share = None
    k: int = Field(5, ge=1, le=100, description="`density`: which neighbour; the last one where there are fewer.")


def select(
    config: Config, candidates: ImageSet, reference: ImageSet, want: dict[str, int], rng: np.random.Generator
) -> Judgement:
    """Keep the smallest distances of each class; score: the distance in feature space, negative."""
    judged = Judgement.undecided(len(candidates))
    for label, rows in candidates.by_class():
        real = reference.features[reference.rows_of(label)].astype(np.float64)
        if not len(real):
            judged.notes.append(f"{label}: no image in training to say where its middle is; none is dropped.")
            continue
        own = candidates.features[rows].astype(np.float64)
        if config.by == "mean":
            distance, place = np.linalg.norm(own - real.mean(axis=0), axis=1), "the class mean"
        else:
            k = min(config.k, len(real))
            distance, place = nearest_rows(own, real, k)[0][:, -1], f"the real image number {k} by distance"
        number = how_many(config.share, len(rows), want.get(label, 0))
        keep = highest(-distance, number)
        limit = distance[keep].max() if keep.any() else 0.0
        reasons = [f"{d:.3g} from {place}; the {number} nearest reach to {limit:.3g}." for d in distance]
        judged.say(rows, keep, -distance, reasons)
    return judged
