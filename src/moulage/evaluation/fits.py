"""Fits of several arms on the same images, checked and aligned for a paired comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from moulage.errors import DataError
from moulage.evaluation.predictions import Predictions


@dataclass(frozen=True)
class Fits:
    """Fits of all arms on the same images.

    Attributes:
        labels: [N] int64.
        lesions: index of each image's lesion, [N] int64; a lesion's images in another class are
            a lesion of their own.
        strata: class of each lesion, [L] int64.
        num_groups: lesions before that distinction.
        logits: arm -> [S, N, K] float32, in order of the trials.
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    lesions: np.ndarray
    strata: np.ndarray
    num_groups: int
    logits: dict[str, np.ndarray]

    @property
    def num_trials(self) -> int:
        return len(next(iter(self.logits.values())))

    @property
    def sizes(self) -> np.ndarray:
        """Lesions of each class, [K] int64."""
        return np.bincount(self.strata, minlength=len(self.classes))


def align(arms: Mapping[str, Sequence[Predictions]]) -> Fits:
    """Check that all fits belong together; image order follows the first."""
    if not arms or not all(arms.values()):
        raise DataError("There is nothing to compare: an arm has no predictions.", "Finish its fits first.")
    first = next(iter(arms.values()))[0]
    trials = sorted(fit.trial for fit in next(iter(arms.values())))
    for name, fits in arms.items():
        found = sorted(fit.trial for fit in fits)
        if len(set(found)) < len(found):
            raise DataError(f"Arm {name} has two fits with one trial number: {found}.")
        if found != trials:
            raise DataError(
                f"Arm {name} has the trials {found}, arm {first.arm} has {trials}.", "Finish all fits first."
            )
        for fit in fits:
            if fit.arm != name:
                raise DataError(f"{fit} stand under the arm {name}.")
    logits = {
        name: np.stack([fit.logits[_rows(first, fit)] for fit in sorted(fits, key=lambda fit: fit.trial)])
        for name, fits in arms.items()
    }
    groups, names = pd.factorize(first.groups)
    num_classes = len(first.classes)
    units, lesions = np.unique(groups * num_classes + first.labels, return_inverse=True)
    return Fits(first.classes, first.labels, lesions, units % num_classes, len(names), logits)


def _rows(first: Predictions, other: Predictions) -> np.ndarray:
    """Rows of ``other`` in the image order of ``first``; what differs otherwise is an error that names it."""
    for name in ("classes", "part", "split_digest"):
        ours, theirs = getattr(first, name), getattr(other, name)
        if ours != theirs:
            raise DataError(
                f"{other}: {name} is {theirs}; {first} have {ours}.",
                "Only fits on one part of one split can be compared here; repeated folds cannot yet.",
            )
    rows = np.arange(len(first))
    if not np.array_equal(first.images, other.images):
        rows = pd.Index(other.images).get_indexer(pd.Index(first.images))
        if len(other) != len(first) or (rows < 0).any():
            missing = set(first.images) ^ set(other.images)
            raise DataError(f'{other} and {first} are of different images, such as "{min(missing)}".')
    for name in ("labels", "groups"):
        wrong = getattr(first, name) != getattr(other, name)[rows]
        if wrong.any():
            raise DataError(f'{other} and {first} differ in the {name} of image "{first.images[wrong.argmax()]}".')
    return rows
