"""What a classifier trains on: real examples, an arm's extra examples, and an order in which no arm has an advantage.

All arms of a study see the same number of images an epoch: each real image once, and ``num_slots`` more. A slot holds
one of the arm's extra images; slots that the arm leaves empty hold real images. So an arm that adds nothing is not
trained for fewer steps than one that adds much, and a difference between two arms is one of content.

With weights (of data sets) an epoch is as long, but an image of weight 2 is in it twice as often as one of weight 1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moulage.errors import DataError

ORDER_STREAM = 0x0DE2
"""Keeps the order's random numbers apart from those that other code draws from the same seed."""
WEIGHTED_STREAM = 0x0DE3
"""The same for the images that class weights draw."""


@dataclass(frozen=True)
class Examples:
    """Inputs and their labels; ``DataError`` where these do not match, or inputs are neither pixels nor embeddings."""

    inputs: np.ndarray  # uint8 pixels [N, S, S, 3] or float32 embeddings [N, D]; may be memory-mapped
    labels: np.ndarray  # class indices, int64 [N]
    metadata: np.ndarray | None = None  # of the patients, float32 [N, M]; None where the classifier reads none
    # of the lesions, uint8 [N, S, S]: 255 inside, 0 outside, ``masks.UNKNOWN`` all over where there is none; None
    # where the classifier learns none
    masks: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", np.asarray(self.labels, np.int64))
        shape, dtype = self.inputs.shape, self.inputs.dtype
        is_pixels = dtype == np.uint8 and len(shape) == 4 and shape[1] == shape[2] and shape[3] == 3
        is_embeddings = dtype == np.float32 and len(shape) == 2
        if not (is_pixels or is_embeddings):
            raise DataError(
                f"Inputs are {dtype} {list(shape)}.",
                "They must be pixels, uint8 [N, size, size, 3], or embeddings, float32 [N, D].",
            )
        if self.labels.shape != shape[:1]:
            raise DataError(f"There are {shape[0]} inputs and labels of shape {list(self.labels.shape)}.")
        if len(self) and self.labels.min() < 0:
            raise DataError(f"Example {int(self.labels.argmin())} has the label {self.labels.min()}.")
        _check_metadata(self.metadata, len(self))
        if self.masks is not None and (self.masks.dtype != np.uint8 or self.masks.shape != shape[:3]):
            raise DataError(
                f"Masks are {self.masks.dtype} {list(self.masks.shape)} for inputs {list(shape)}.",
                "They must be uint8 [N, size, size], one an image.",
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_metadata(self) -> int:
        """Columns of metadata, M; 0 where there are none."""
        return 0 if self.metadata is None else self.metadata.shape[1]


class Batch(NamedTuple):
    """Some examples of an epoch."""

    inputs: np.ndarray  # as in ``Examples``, [n, ...]
    labels: np.ndarray  # int64 [n]
    place: slice  # where they stand in the epoch's order
    metadata: np.ndarray | None  # float32 [n, M], or None
    masks: np.ndarray | None  # uint8 [n, S, S], or None


@dataclass(frozen=True)
class TrainingView:
    """Real and extra examples, and the order of every epoch.

    ``DataError``: no real examples, more extra examples than slots, inputs of different shapes, or such weights.
    """

    real: Examples  # the training part of the split
    extra: Examples | None  # what the arm adds; ``None`` or empty for an arm that adds nothing
    # how many more images than the real ones an epoch holds. The same for all arms of a study: the largest number of
    # extra examples that one of them has
    num_slots: int
    # how often an epoch holds each real and then each extra example, relative to one of weight 1, float64 [num_real +
    # num_extra], above 0; None: all alike
    weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not len(self.real):
            raise DataError("There is no training image.", "Check the split: its training part is empty.")
        if self.num_extra > self.num_slots:
            raise DataError(
                f"There are {self.num_extra} extra images and {self.num_slots} slots for them.",
                "num_slots must be the largest number of extra images of any arm.",
            )
        if self.extra is not None and self.extra.inputs.shape[1:] != self.real.inputs.shape[1:]:
            real, extra = self.real.inputs.shape[1:], self.extra.inputs.shape[1:]
            raise DataError(f"Real inputs have the shape {list(real)}, extra ones {list(extra)}.")
        if self.weights is not None:
            shape = (self.num_real + self.num_extra,)
            if self.weights.shape != shape or not (np.isfinite(self.weights) & (self.weights > 0)).all():
                raise DataError(f"Weights must be above 0, one for each of {shape[0]} images.")
        if not self.extra:  # none, or empty
            return
        columns, hint = self.extra.num_metadata, "masks.unknown stands for missing ones."
        if columns != self.num_metadata:
            raise DataError(f"Real images have {self.num_metadata} columns of metadata, extra ones {columns}.")
        if (self.extra.masks is None) != (self.real.masks is None):
            raise DataError("Only the real or only the extra images have masks.", hint)

    @property
    def num_real(self) -> int:
        """Number of real examples."""
        return len(self.real)

    @property
    def num_extra(self) -> int:
        """Number of extra examples, at most ``num_slots``."""
        return 0 if self.extra is None else len(self.extra)

    @property
    def num_metadata(self) -> int:
        """Columns of metadata, M; 0 where there are none."""
        return self.real.num_metadata

    def __len__(self) -> int:
        """Images an epoch."""
        return self.num_real + self.num_slots

    @property
    def labels(self) -> np.ndarray:
        """Labels of the real examples followed by the extra ones, int64 [num_real + num_extra]."""
        return self.real.labels if self.extra is None else np.concatenate([self.real.labels, self.extra.labels])

    def counts(self, num_classes: int) -> np.ndarray:
        """Images of each class that are trained on, int64 [K]; with weights, in proportion to how often they are seen.

        Weighted counts have the same sum, but for rounding; a class with an image has at least one.
        """
        counts = np.bincount(self.labels, minlength=num_classes)
        if self.weights is None:
            return counts
        seen = np.bincount(self.labels, self.weights, minlength=num_classes)
        return np.maximum(np.round(seen / seen.sum() * counts.sum()).astype(np.int64), np.minimum(counts, 1))

    def epoch(self, seed: int, epoch: int, class_weights: Sequence[float] | None = None) -> np.ndarray:
        """The order of one epoch: int64 [num_real + num_slots], indices into real followed by extra.

        Every real and every extra example appears once; empty slots hold real examples, no one of them again before
        each has been drawn. All random numbers are drawn whatever the arm, so at one step two arms of one ``seed`` hold
        the same image unless it comes from a slot that they fill differently.

        With ``class_weights`` (at least 0, one for each class) there are equally many images, but class k has the share
        w_k / sum(w) of them, rounded up or down at random so that the mean is exact. Within a class no image is drawn
        again before each has been. An image that is drawn stays at the step where it is without weights, as often as it
        is there.

        With ``weights`` an example is in the epoch as often as without, times its weight, and all divided by the same
        number; rounded up or down at random so that the mean is exact. With both, classes have the shares of the class
        weights, and within a class images have shares in proportion to their weights.

        ``DataError``: class weights that are negative, not finite or all 0, or favour a class without an image.
        """
        rng = np.random.default_rng([ORDER_STREAM, seed, epoch])
        slots = np.resize(rng.permutation(self.num_real), self.num_slots)
        slots[: self.num_extra] = self.num_real + np.arange(self.num_extra)
        content = np.concatenate([np.arange(self.num_real), slots])
        places = rng.permutation(len(content))
        weighted = np.random.default_rng([WEIGHTED_STREAM, seed, epoch])
        by_class = None if class_weights is None else self._checked(np.asarray(class_weights, np.float64))
        if self.weights is not None:
            content = _keep_in_place(content, self._weighted_times(content, by_class, weighted), weighted)
        elif by_class is not None:
            content = _keep_in_place(content, self._times(by_class, weighted), weighted)
        return content[places]

    def shares(self, class_weights: Sequence[float] | None = None) -> np.ndarray:
        """Mean share of an epoch of each real and then each extra example, float64 [n], sum 1; see ``epoch``.

        ``DataError`` as there.
        """
        each = np.ones(self.num_real + self.num_extra)
        if class_weights is None:
            each[: self.num_real] += (self.num_slots - self.num_extra) / self.num_real
            each = each if self.weights is None else each * self.weights
        else:
            by_class = self._checked(np.asarray(class_weights, np.float64))
            # Within a class all are drawn equally often, whether they fill slots or not.
            each = np.ones(len(self.labels)) if self.weights is None else self.weights
            each = each * (by_class / np.maximum(np.bincount(self.labels, each, len(by_class)), 1e-300))[self.labels]
        return each / each.sum()

    def _checked(self, weights: np.ndarray) -> np.ndarray:
        """Class weights, or a ``DataError`` where an epoch cannot be drawn by them."""
        counts = np.bincount(self.labels, minlength=len(weights))
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
            raise DataError(f"Class weights must be at least 0, and one of them above, not {weights.tolist()}.")
        if len(counts) > len(weights) or (weights[counts == 0] > 0).any():
            raise DataError(f"There are class weights {weights.tolist()} for classes with {counts.tolist()} images.")
        return weights

    def _weighted_times(
        self, content: np.ndarray, class_weights: np.ndarray | None, rng: np.random.Generator
    ) -> np.ndarray:
        """How often an epoch draws each example where examples have weights, int64; the sum is ``len(self)``.

        ``content`` [len(self)] are the examples of an epoch without any weight; ``class_weights`` float64 [K].
        """
        assert self.weights is not None
        labels = self.labels
        if class_weights is None:
            shares = self.weights * np.bincount(content, minlength=len(labels))
        else:
            shares = (class_weights / np.maximum(np.bincount(labels, self.weights, len(class_weights)), 1e-300))[labels]
            shares = shares * self.weights
        order = np.lexsort((rng.random(len(labels)), labels))  # class by class, so that classes are rounded once
        edges = np.cumsum(shares[order])
        edges = np.floor(edges / edges[-1] * len(self) + rng.random()).astype(np.int64)
        times = np.empty(len(labels), np.int64)
        times[order] = np.diff(edges, prepend=0)
        return times

    def _times(self, weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """How often an epoch draws each example, int64 [num_real + num_extra]; the sum is ``len(self)``."""
        labels = self.labels
        edges = np.cumsum(weights)
        # Systematic rounding: one random shift for all classes.
        edges = np.floor(edges / edges[-1] * len(self) + rng.random()).astype(np.int64)
        times = np.zeros(len(labels), np.int64)
        for label, number in enumerate(np.diff(edges, prepend=0)):
            rows = rng.permutation(np.flatnonzero(labels == label))
            if len(rows):
                times[rows] = number // len(rows)
                times[rows[: number % len(rows)]] += 1
        return times

    def inputs_at(self, indices: np.ndarray) -> np.ndarray:
        """The inputs at these indices into real followed by extra: [len(indices), ...], a copy."""
        return self._at("inputs", indices)

    def metadata_at(self, indices: np.ndarray) -> np.ndarray | None:
        """The metadata at these indices into real followed by extra: float32 [len(indices), M]; None without any."""
        return None if self.real.metadata is None else self._at("metadata", indices)

    def masks_at(self, indices: np.ndarray) -> np.ndarray | None:
        """The lesion masks at these indices into real followed by extra: uint8 [n, S, S], a copy; None without any."""
        return None if self.real.masks is None else self._at("masks", indices)

    def _at(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Rows of these arrays of real and extra examples, which are not joined: they may be memory-mapped."""
        is_extra = indices >= self.num_real
        found = np.asarray(getattr(self.real, name)[np.where(is_extra, 0, indices)])
        if self.num_extra:
            found[is_extra] = getattr(self.extra, name)[indices[is_extra] - self.num_real]
        return found

    def num_steps(self, batch_size: int, steps_per_epoch: int | None = None) -> int:
        """Steps an epoch: enough for all its images, or at most ``steps_per_epoch``."""
        whole = -(-len(self) // batch_size)
        return whole if steps_per_epoch is None else min(whole, steps_per_epoch)

    def batches(
        self,
        seed: int,
        epoch: int,
        batch_size: int,
        steps_per_epoch: int | None = None,
        class_weights: Sequence[float] | None = None,
    ) -> Iterator[Batch]:
        """Inputs, labels, place in the epoch's order, metadata and masks, batch by batch.

        With ``steps_per_epoch`` only the first images of the order are used. The images are shared out evenly, so that
        batches differ by one image at most: a last batch of one image would upset batch normalisation. The order is
        that of ``epoch``, with ``class_weights`` where there are some.
        """
        order, labels = self.epoch(seed, epoch, class_weights), self.labels
        num_steps = self.num_steps(batch_size, steps_per_epoch)
        order, start = order[: num_steps * batch_size], 0
        for indices in np.array_split(order, num_steps):
            place = slice(start, start + len(indices))
            metadata, masks = self.metadata_at(indices), self.masks_at(indices)
            yield Batch(self.inputs_at(indices), labels[indices], place, metadata, masks)
            start += len(indices)


def _check_metadata(metadata: np.ndarray | None, number: int) -> None:
    if metadata is None:
        return
    if metadata.dtype != np.float32 or metadata.ndim != 2 or len(metadata) != number:
        raise DataError(
            f"Metadata are {metadata.dtype} {list(metadata.shape)} for {number} examples.",
            "They must be float32 [N, M], one row an example.",
        )
    if not np.isfinite(metadata).all():
        row = int(np.argmin(np.isfinite(metadata).all(axis=1)))
        raise DataError(f"The metadata of example {row} are not finite.", "Encode what is missing as a value.")


def _keep_in_place(content: np.ndarray, times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Content [n] in which example i stands ``times[i]`` times: where it stands already, and else at random places."""
    by_example = np.argsort(content, kind="stable")
    grouped = content[by_example]
    occurrence = np.empty(len(content), np.int64)  # the how-manieth time that an example stands here, from 0
    occurrence[by_example] = np.arange(len(content)) - np.searchsorted(grouped, grouped)
    kept = occurrence < times[content]
    missing = times - np.bincount(content[kept], minlength=len(times))
    result = content.copy()
    result[~kept] = rng.permutation(np.repeat(np.arange(len(times)), missing))
    return result


def require_classes(labels: np.ndarray, classes: Sequence[str], what: str) -> None:
    """Raise ``DataError`` where a class has no example among ``labels``, int64 [N], or a label lies beyond the classes.

    ``what``: whose labels these are, such as ``"the training images"``, for the message.
    """
    counts = np.bincount(labels, minlength=len(classes))
    if len(counts) > len(classes):
        raise DataError(f"A label of {what} is {len(counts) - 1}, but there are {len(classes)} classes.")
    absent = [name for name, count in zip(classes, counts, strict=True) if not count]
    if absent:
        raise DataError(
            f"No image of {', '.join(absent)} is among {what}.",
            "Leave the class out of the recipe, or split so that each part holds some of its groups.",
        )
