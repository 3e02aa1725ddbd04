"""Fits of several arms on the same images, checked and aligned for a paired comparison.

Two designs are understood, and told apart by the images: *hold-out*, where every fit predicts the same images, and
*repeated folds*, where the fits of a repeat predict disjoint images that together are all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from moulage.errors import DataError
from moulage.evaluation.measures import Outputs
from moulage.evaluation.predictions import ARGMAX, Predictions, first_true


@dataclass(frozen=True)
class Fits:
    """Fits of all arms on the same images.

    A *set* is one prediction of every image: a fit of a hold-out, or the pooled out-of-fold predictions of a repeat.
    """

    classes: tuple[str, ...]
    labels: np.ndarray  # [N] int64
    # index of each image's lesion, [N] int64; a lesion's images in another class are a lesion of their own
    lesions: np.ndarray
    strata: np.ndarray  # class of each lesion, [L] int64
    num_groups: int  # lesions before that distinction
    logits: dict[str, np.ndarray]  # arm -> [S, N, K] float32, one for each set, in order of the trials
    # fold that predicted each image in each set, [S, N] int64 in 0..num_folds-1; None for a hold-out
    folds: np.ndarray | None = None
    # arm -> class that is said, [S, N] int64; of an arm that is not there the largest logit's
    predicted: dict[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    # what was computed from these fits already; filled by the methods below and ``lesion_variance``
    memo: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def outputs(self, name: str) -> list[Outputs]:
        """Each of an arm's S sets, for the measures; what one of these has computed serves the next measure."""
        if ("outputs", name) not in self.memo:
            said = self.predicted.get(name, [ARGMAX] * self.num_sets)
            self.memo["outputs", name] = [
                Outputs(self.labels, *of_set) for of_set in zip(self.logits[name], said, strict=True)
            ]
        return self.memo["outputs", name]

    def same(self, name: str) -> list[list[int]]:
        """Which of an arm's S sets are the same to the last bit: each set once, in order."""
        if ("same", name) not in self.memo:
            self.memo["same", name] = _alike([(own.logits, own.predicted) for own in self.outputs(name)])
        return self.memo["same", name]

    def original(self, name: str, decided: bool) -> str:
        """The first arm that predicts in every set what this one does; the arm itself where there is none before.

        ``decided``: compared are the classes that are said, otherwise the logits.
        """
        if ("original", decided) not in self.memo:
            names = list(self.logits)
            alike = _alike([[out.predicted if decided else out.logits for out in self.outputs(of)] for of in names])
            self.memo["original", decided] = {names[row]: names[rows[0]] for rows in alike for row in rows}
        return self.memo["original", decided][name]

    def originals(self, decided: bool) -> tuple[str, ...]:
        """The arms less those that predict in every set what an earlier one does; see ``original``."""
        return tuple(name for name in self.logits if self.original(name, decided) == name)

    @property
    def num_sets(self) -> int:
        """S: fits of a hold-out, or repeats of the folds."""
        return len(next(iter(self.logits.values())))

    @property
    def num_folds(self) -> int:
        """Folds of a repeat; 1 for a hold-out."""
        return 1 if self.folds is None else int(self.folds.max()) + 1

    @property
    def num_trials(self) -> int:
        """Fits of an arm."""
        return self.num_sets * self.num_folds

    @property
    def sizes(self) -> np.ndarray:
        """Lesions of each class, [K] int64."""
        return np.bincount(self.strata, minlength=len(self.classes))


def _alike(rows: Sequence[Sequence[np.ndarray]]) -> list[list[int]]:
    """Groups of rows whose arrays are the same to the last bit."""
    groups: dict[tuple[bytes, ...], list[int]] = {}
    for number, arrays in enumerate(rows):
        groups.setdefault(tuple(array.tobytes() for array in arrays), []).append(number)
    return list(groups.values())


def align(arms: Mapping[str, Sequence[Predictions]]) -> Fits:
    """Check that all fits belong together; image order follows the first arm's.

    ``DataError``: arms with other trials, images, labels, groups, classes, parts or splits; trials that are neither
    fits on the same images nor folds that part them; a lesion in two folds of a repeat.
    """
    if not arms or not all(arms.values()):
        raise DataError("There is nothing to compare: an arm has no predictions.", "Finish its fits first.")
    ordered = {name: sorted(fits, key=lambda fit: fit.trial) for name, fits in arms.items()}
    first = next(iter(ordered.values()))
    _check_trials(ordered)
    for fits in ordered.values():
        for ours, theirs in zip(first, fits, strict=True):
            _check_same(ours, theirs, ("classes", "part", "split_digest"))
    for fit in first[1:]:
        _check_same(first[0], fit, ("classes", "part"))
    sets = _sets(first)
    images = np.concatenate([first[t].images for t in sets[0]])
    place = pd.Index(images)
    labels, groups = (np.concatenate([getattr(first[t], name) for t in sets[0]]) for name in ("labels", "groups"))
    folds = np.zeros((len(sets), len(images)), np.int64)
    rows: list[np.ndarray] = []
    for s, trials in enumerate(sets):
        for f, t in enumerate(trials):
            rows.append(place.get_indexer(pd.Index(first[t].images)))
            folds[s, rows[t]] = f
            _check_values(first[0], first[t], labels[rows[t]], groups[rows[t]])
    num_classes = len(first[0].classes)
    logits = {name: np.empty((len(sets), len(images), num_classes), np.float32) for name in ordered}
    predicted = {name: np.empty((len(sets), len(images)), np.int64) for name in ordered}
    for name, fits in ordered.items():
        for s, trials in enumerate(sets):
            for t in trials:
                order = _rows(first[t], fits[t])
                logits[name][s, rows[t]] = fits[t].logits[order]
                predicted[name][s, rows[t]] = fits[t].predicted[order]
    codes, names = pd.factorize(groups)
    _check_folds(folds, codes, names)
    units, lesions = np.unique(codes * num_classes + labels, return_inverse=True)
    strata, in_folds = units % num_classes, folds if len(sets[0]) > 1 else None
    fits = Fits(first[0].classes, labels, lesions, strata, len(names), logits, in_folds, predicted)
    if in_folds is not None:
        _check_repeats(fits)
    return fits


def _check_trials(arms: dict[str, list[Predictions]]) -> None:
    first = next(iter(arms))
    expected = [fit.trial for fit in arms[first]]
    for name, fits in arms.items():
        found = [fit.trial for fit in fits]
        if len(set(found)) < len(found):
            raise DataError(f"Arm {name} has two fits with one trial number: {found}.")
        if found != expected:
            raise DataError(f"Arm {name} has the trials {found}, arm {first} has {expected}.", "Finish all fits first.")
        for fit in fits:
            if fit.arm != name:
                raise DataError(f"{fit} stand under the arm {name}.")


def _check_same(first: Predictions, other: Predictions, names: Sequence[str]) -> None:
    for name in names:
        ours, theirs = getattr(first, name), getattr(other, name)
        if ours != theirs:
            raise DataError(
                f"{other}: {name} is {theirs}; {first} have {ours}.",
                "Fits of one trial must be of one part of one split, and all trials of the same classes.",
            )


def _sets(fits: list[Predictions]) -> list[list[int]]:
    """Which trials together predict every image once: one a set for a hold-out, the folds of each repeat otherwise."""
    everything = frozenset().union(*(fit.images for fit in fits))
    sets: list[list[int]] = [[]]
    covered: set[str] = set()
    for t, fit in enumerate(fits):
        if len(covered) == len(everything):
            sets.append([])
            covered = set()
        sets[-1].append(t)
        if again := covered.intersection(fit.images):
            raise DataError(
                f"{fit} are of some images that trial {fits[sets[-1][0]].trial} or one after it has too, "
                f'such as "{min(again)}", and not of all.',
                "Trials are either fits on the same images, or folds that part the images, one repeat after another.",
            )
        covered.update(fit.images)
    missing = everything - covered
    if missing or len({len(trials) for trials in sets}) > 1:
        lost = f'the image "{min(missing)}" among others' if missing else "some folds"
        raise DataError(
            f"The trials from {fits[sets[-1][0]].trial} on lack {lost}.",
            "Finish all folds of the repeat, or compare fits on the same images.",
        )
    return sets


def _check_folds(folds: np.ndarray, codes: np.ndarray, names: Any) -> None:
    for row in folds:
        lowest, highest = np.full(len(names), row.max()), np.zeros(len(names), np.int64)
        np.minimum.at(lowest, codes, row)
        np.maximum.at(highest, codes, row)
        if (torn := first_true(lowest != highest)) is not None:
            raise DataError(f'The lesion "{names[torn]}" is in two folds of one repeat.', "Deal folds by lesion.")


def _check_repeats(fits: Fits) -> None:
    """Another repeat must be one: dealt anew, or fitted anew."""
    for rows in _alike([[logits[s] for logits in fits.logits.values()] for s in range(fits.num_sets)]):
        if len(rows) > 1:
            raise DataError(
                f"Repeat {rows[1] + 1} of the folds predicts in every arm, to the last bit, what repeat {rows[0] + 1} "
                "does.",
                "Leave it out, or deal the lesions into other folds: a copy is no further repeat.",
            )


def _rows(first: Predictions, other: Predictions) -> np.ndarray:
    """Rows of ``other`` in the image order of ``first``; what differs otherwise is an error that names it."""
    rows = np.arange(len(first))
    if not np.array_equal(first.images, other.images):
        rows = pd.Index(other.images).get_indexer(pd.Index(first.images))
        if len(other) != len(first) or (rows < 0).any():
            missing = set(first.images) ^ set(other.images)
            raise DataError(
                f"{other} and {first} are of different images: {len(missing)} are in one of them only, "
                f'such as "{min(missing)}".',
                "Predict the same images with every model.",
            )
    _check_values(other, first, other.labels[rows], other.groups[rows])
    return rows


def _check_values(other: Predictions, first: Predictions, labels: np.ndarray, groups: np.ndarray) -> None:
    for name, values in (("labels", labels), ("groups", groups)):
        if (row := first_true(getattr(first, name) != values)) is not None:
            raise DataError(f'{other} and {first} differ in the {name} of image "{first.images[row]}".')
