"""What a classifier trains on: real examples, an arm's extra examples, and an order in which no arm has an advantage.

All arms of a study see the same number of images an epoch: each real image once, and ``num_slots`` more. A slot holds
one of the arm's extra images; slots that the arm leaves empty hold real images. So an arm that adds nothing is not
trained for fewer steps than one that adds much, and a difference between two arms is one of content.

How extra images are used (``use.Use``) changes where they stand, or what they count, and never how many images are
seen: each order is that of the arm that adds nothing, with extra images in the place of others.

With weights (of data sets) an epoch is as long, but an image of weight 2 is in it twice as often as one of weight 1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moulage.data.epoch_order import at_even_distances, keep_in_place, rounded
from moulage.errors import DataError
from moulage.use import ADD, Use

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
    # of the loss of each, float32 [n], 1 on the mean of an epoch; None where all count alike
    weights: np.ndarray | None


@dataclass(frozen=True)
class TrainingView:
    """Real and extra examples, and the order of every epoch.

    ``DataError``: no real examples, more extra examples than slots, inputs of different shapes, or such weights.
    """

    real: Examples  # the training part of the split
    extra: Examples | None  # what the arm adds; ``None`` or empty for an arm that adds nothing
    # how many more images than the real ones an epoch holds. The same for all arms of a study: the largest number of
    # extra examples that one of them has no other place for
    num_slots: int
    # how often an epoch holds each real and then each extra example, relative to one of weight 1, float64 [num_real +
    # num_extra], above 0; None: all alike
    weights: np.ndarray | None = None
    use: Use = ADD  # what is done with the extra examples
    # under ``replace`` the real example whose place each extra one takes, int64 [num_extra]; -1 for a slot of its own.
    # Such a real example is never drawn. None: none leaves
    in_place_of: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not len(self.real):
            raise DataError("There is no training image.", "Check the split: its training part is empty.")
        self._check_places()
        if len(self._in_slots) > self.num_slots:
            raise DataError(
                f"There are {len(self._in_slots)} extra images and {self.num_slots} slots for them.",
                "num_slots must be the largest number of slots that any arm needs.",
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
        """Number of extra examples; those that need a slot are at most ``num_slots``."""
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

    @property
    def last(self) -> "TrainingView":
        """What the last epochs are drawn from: under ``pretrain`` the real examples alone, else all."""
        if self.use.way != "pretrain":
            return self
        weights = None if self.weights is None else self.weights[: self.num_real]
        return TrainingView(self.real, None, self.num_slots, weights)

    def counts(self, num_classes: int) -> np.ndarray:
        """Images of each class that are trained on in the end, int64 [K]; slots that are left empty do not count.

        With weights (of data sets or of the loss), and where a batch's shares are fixed, in proportion to how often
        they are seen, or count; these have the same sum, but for rounding. A class with an image has at least one.
        """
        if self.last is not self:
            return self.last.counts(num_classes)
        counts = np.bincount(self.labels[self._is_present], minlength=num_classes)
        if self.weights is None and self.use.way in ("add", "replace"):
            return counts
        each = self.shares() if self._extra_share else self._is_present * self._weights * self._loss_weights
        seen = np.bincount(self.labels, each, minlength=num_classes)
        return np.maximum(np.round(seen / seen.sum() * counts.sum()).astype(np.int64), np.minimum(counts, 1))

    def epoch(self, seed: int, epoch: int, class_weights: Sequence[float] | None = None) -> np.ndarray:
        """The order of one epoch: int64 [num_real + num_slots], indices into real followed by extra.

        Every real and every extra example appears once; empty slots hold real examples, no one of them again before
        each has been drawn. All random numbers are drawn whatever the arm, so at one step two arms of one ``seed`` hold
        the same image unless it comes from a slot that they fill differently.

        Under ``replace`` an extra example stands wherever the real one would that it takes the place of, in slots too.
        Under ``batch_share`` extra examples stand at even distances, so that of any n in a row n times the share are
        extra ones, rounded up or down; real and extra ones are each drawn as evenly as their places allow.

        With ``class_weights`` (at least 0, one for each class) there are equally many images, but class k has the share
        w_k / sum(w) of them, rounded up or down at random so that the mean is exact. Within a class no image is drawn
        again before each has been. An image that is drawn stays at the step where it is without weights, as often as it
        is there.

        With ``weights`` an example is in the epoch as often as without, times its weight, and all divided by the same
        number; rounded up or down at random so that the mean is exact. With both, classes have the shares of the class
        weights, and within a class images have shares in proportion to their weights.

        ``DataError``: class weights that are negative, not finite or all 0, favour a class without an image, or are
        given where a batch's shares are fixed.
        """
        rng = np.random.default_rng([ORDER_STREAM, seed, epoch])
        slots = np.resize(rng.permutation(self.num_real), self.num_slots)
        content = np.concatenate([np.arange(self.num_real), slots])
        places = rng.permutation(len(content))
        weighted = np.random.default_rng([WEIGHTED_STREAM, seed, epoch])
        if self._extra_share:
            self._checked(class_weights)
            return at_even_distances(
                content[places], self._extra_share, self._weights, self.labels, self.num_real, weighted
            )
        content = self._with_extra(content)
        if self.weights is not None or class_weights is not None:
            shares = self._shared_out(np.bincount(content, minlength=len(self.labels)), self._weights, class_weights)
            content = keep_in_place(content, rounded(shares, self.labels, len(content), weighted), weighted)
        return content[places]

    def shares(self, class_weights: Sequence[float] | None = None) -> np.ndarray:
        """Mean share of each real and then each extra example in what an epoch minimises, float64 [n], sum 1.

        It is the share of the epoch that the example makes up, times the weight of its loss; see ``epoch``, and
        ``DataError`` as there. With class weights the classes have the shares of these, whatever weights the losses
        have.
        """
        return self._shared_out(self._mean_times, self._weights * self._loss_weights, class_weights)

    def loss_weights(self, class_weights: Sequence[float] | None = None) -> np.ndarray | None:
        """Of each real and then each extra example, float64 [n]: 1 on the mean of an epoch, and with class weights on
        the mean of each class, so that neither the scale of the loss nor the shares of the classes depend on them.

        None where all are 1.
        """
        if self.use.way != "weight":
            return None
        return self.shares(class_weights) / self._shared_out(self._mean_times, self._weights, class_weights)

    @property
    def _in_slots(self) -> np.ndarray:
        """Which extra examples need a slot, int64."""
        if self.use.way == "batch_share":
            return np.empty(0, np.int64)
        return np.arange(self.num_extra) if self.in_place_of is None else np.flatnonzero(self.in_place_of < 0)

    @property
    def _is_present(self) -> np.ndarray:
        """Which real and then extra examples are ever drawn, bool [n]."""
        present = np.ones(len(self.labels), bool)
        if self.in_place_of is not None:
            present[self.in_place_of[self.in_place_of >= 0]] = False
        return present

    @property
    def _weights(self) -> np.ndarray:
        return np.ones(len(self.labels)) if self.weights is None else self.weights

    @property
    def _loss_weights(self) -> np.ndarray:
        """As the recipe says them: 1 for real examples."""
        of_extra = self.use.weight if self.use.way == "weight" else 1.0
        return np.where(np.arange(len(self.labels)) < self.num_real, 1.0, of_extra)

    @property
    def _extra_share(self) -> float:
        """The share of each batch that extra examples have; 0 where it is not fixed."""
        return self.use.share if self.use.way == "batch_share" and self.num_extra else 0.0

    @property
    def _mean_times(self) -> np.ndarray:
        """How often an epoch without any weight holds each real and then each extra example on the mean, float64."""
        num_empty = self.num_slots - len(self._in_slots)
        times = self._is_present * (1 + num_empty / self.num_real)
        times[self.num_real + self._in_slots] = 1
        return times

    def _with_extra(self, content: np.ndarray) -> np.ndarray:
        """What an epoch holds, of what it holds of an arm that adds nothing: int64 [num_real + num_slots]."""
        content = content.copy()
        content[self.num_real : self.num_real + len(self._in_slots)] = self.num_real + self._in_slots
        if self.in_place_of is None:
            return content
        stands = np.arange(len(self.labels))
        come = np.flatnonzero(self.in_place_of >= 0)
        stands[self.in_place_of[come]] = self.num_real + come
        return stands[content]

    def _shared_out(self, times: np.ndarray, weights: np.ndarray, class_weights: Sequence[float] | None) -> np.ndarray:
        """Shares float64 [n], sum 1, of examples that stand so often in an epoch without weights, by their weights."""
        by_class = self._checked(class_weights)
        if self._extra_share:
            is_extra = np.arange(len(self.labels)) >= self.num_real
            sums = np.bincount(is_extra, weights)
            return weights / sums[is_extra.astype(int)] * np.where(is_extra, self._extra_share, 1 - self._extra_share)
        if by_class is None:
            each = times * weights
        else:
            # Within a class all are drawn equally often, whether they fill slots or not.
            each = (times > 0) * weights
            each = each * (by_class / np.maximum(np.bincount(self.labels, each, len(by_class)), 1e-300))[self.labels]
        return each / each.sum()

    def _checked(self, class_weights: Sequence[float] | None) -> np.ndarray | None:
        """Class weights, or a ``DataError`` where an epoch cannot be drawn by them."""
        if class_weights is None:
            return None
        if self._extra_share:
            raise DataError("The shares of a batch are fixed, and class weights ask for others.")
        weights = np.asarray(class_weights, np.float64)
        counts = np.bincount(self.labels[self._is_present], minlength=len(weights))
        if not (np.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
            raise DataError(f"Class weights must be at least 0, and one of them above, not {weights.tolist()}.")
        if len(counts) > len(weights) or (weights[counts == 0] > 0).any():
            raise DataError(f"There are class weights {weights.tolist()} for classes with {counts.tolist()} images.")
        return weights

    def _check_places(self) -> None:
        """Each real example leaves for one extra example of its class at most, and only under ``replace``."""
        places = self.in_place_of
        if (places is not None) != (self.use.way == "replace"):
            raise DataError(f'The extra images take the place of real ones under "replace", not "{self.use.way}".')
        if places is None:
            return
        taken = places[places >= 0]
        fits = places.shape == (self.num_extra,) and len(set(taken)) == len(taken)
        fits = fits and bool(((places >= -1) & (places < self.num_real)).all())
        if not fits or (self.labels[self.num_real :][places >= 0] != self.labels[taken]).any():
            raise DataError("Each extra image takes the place of one real image of its class, or has a slot.")

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
        """Inputs, labels, place in the epoch's order, metadata, masks and weights of the loss, batch by batch.

        With ``steps_per_epoch`` only the first images of the order are used. The images are shared out evenly, so that
        batches differ by one image at most: a last batch of one image would upset batch normalisation. The order is
        that of ``epoch``, with ``class_weights`` where there are some.
        """
        order, labels = self.epoch(seed, epoch, class_weights), self.labels
        weights = self.loss_weights(class_weights)
        num_steps = self.num_steps(batch_size, steps_per_epoch)
        order, start = order[: num_steps * batch_size], 0
        for indices in np.array_split(order, num_steps):
            place = slice(start, start + len(indices))
            metadata, masks = self.metadata_at(indices), self.masks_at(indices)
            of_loss = None if weights is None else weights[indices].astype(np.float32)
            yield Batch(self.inputs_at(indices), labels[indices], place, metadata, masks, of_loss)
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
