"""Drops images that a classifier of the training part gives, with confidence, to another class than their own.

He et al. 2023 (Is synthetic data from generative models ready for image recognition?) drop by the confidence of CLIP,
and DiffuLT (Shao et al. 2024, arXiv 2403.05170) sorts with a feature extractor that was trained on the same long-tailed
data; here it is a logistic regression on frozen features. Where real images of a class are often mistaken, good images
are dropped, and what is kept is easy: the notes say how many real images of the class would be dropped in the same way.
"""

import numpy as np
from pydantic import Field

from moulage.plugins import Options
from moulage.selection import ImageSet, Judgement
from moulage.selection._probability import probabilities


class Config(Options):
    """The classifier, and how sure of another class it has to be."""

    threshold: float = Field(
        0.5, gt=0, lt=1, description="An image is dropped whose probability of one other class is above this."
    )
    num_folds: int = Field(5, ge=2, le=20, description="Folds of the training part's lesions.")
    strength: float = Field(1.0, gt=0, description="Penalty of the classifier's weights; less makes it too sure.")
    most_images: int = Field(2000, ge=10, description="Real images of a class that it learns from, at most.")


def select(
    config: Config, candidates: ImageSet, reference: ImageSet, want: dict[str, int], rng: np.random.Generator
) -> Judgement:
    """Keep what no other class claims; score: probability of the class it was drawn for."""
    judged = Judgement.undecided(len(candidates))
    options = config.model_dump(exclude={"threshold"})
    found = probabilities(candidates, reference, rng, **options)
    if found is None:
        judged.notes.append("Fewer than two classes have two lesions in training; none is dropped.")
        return judged
    classes = np.array(reference.catalog.classes, object)
    real_labels = reference.catalog.labels[found.rows]
    for label, rows in candidates.by_class():
        own = reference.catalog.classes.index(label)
        real = found.real[real_labels == own]
        if not len(real):
            judged.notes.append(f"{label}: fewer than two lesions in training; none is dropped.")
            continue
        others = found.candidates[rows].copy()
        others[:, own] = 0
        most = others.max(axis=1)
        reasons = [
            f"{label} with probability {mine:.2f}, {name} with {its:.2f} (dropped above {config.threshold:g})."
            for mine, name, its in zip(found.candidates[rows, own], classes[others.argmax(axis=1)], most, strict=True)
        ]
        judged.say(rows, most <= config.threshold, found.candidates[rows, own], reasons)
        lost = int((np.delete(real, own, axis=1).max(axis=1) > config.threshold).sum())
        judged.notes.append(
            f"{label}: of {len(real):,} real images {lost:,} ({lost / len(real):.0%}) would be dropped in the same way."
        )
    return judged
