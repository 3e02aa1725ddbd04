"""Measures as functions of lesion weights, and the class-stratified bootstrap that varies the weights.

A measure of one class is written as a function of weighted counts, ``value(matrix @ weights)``: row t of the sparse
matrix says what each lesion adds to count t, a column of the weights says how often each lesion is taken. Average
precision and AUC count, for each distinct score of a positive image, the images at or above it; so scores are sorted
once, and a resample costs one addition an image. All fits see the same weights, which keeps them paired.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from moulage.evaluation.scores import NUM_BINS, confidence_bins, confidence_gaps

CHUNK = 250
"""Resamples at a time: 2.5 MB of weights for 2,500 lesions."""
TINY = np.float32(1e-20)
"""Added to a count of images: no image makes a precision of 0, and any other count is not changed in float32."""


@dataclass(frozen=True)
class Weighted:
    """A measure of one fit as a function of lesion weights.

    Attributes:
        matrix: [T, L] float32, what each of the L lesions adds to each of T counts.
        value: counts [T, B] -> values [B] of B weightings.
    """

    matrix: csr_array
    value: Callable[[np.ndarray], np.ndarray]

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Values [B] under weights [L, B] float32."""
        return self.value(self.matrix @ weights)


def weighted(kind: str, k: int, labels: np.ndarray, probabilities: np.ndarray, lesions: np.ndarray) -> Weighted:
    """A measure of class ``k`` (ignored by the calibration error) as a function of lesion weights.

    Args:
        kind: recall, f1, average_precision, auc or expected_calibration_error.
        k: class index.
        labels: [N] int64.
        probabilities: [N, K] float.
        lesions: index of each image's lesion, [N] int64, 0..L-1, every index used.
    """
    if kind == "expected_calibration_error":
        rows, gaps = confidence_bins(probabilities), confidence_gaps(labels, probabilities)
        total = np.full(len(labels), NUM_BINS)
        matrix = _matrix(np.r_[rows, total], np.r_[lesions, lesions], np.r_[gaps, np.ones(len(labels))], NUM_BINS + 1)
        return Weighted(matrix, lambda counts: np.abs(counts[:-1]).sum(axis=0) / counts[-1])
    positive = labels == k
    if kind in ("average_precision", "auc"):
        return _ranked(kind, positive, probabilities[:, k], lesions)
    predicted = probabilities.argmax(axis=1) == k
    hits, whole = positive & predicted, positive.astype(float)
    if kind == "f1":
        whole = (whole + predicted) / 2
    everybody = np.zeros(len(labels), np.int64)
    matrix = _matrix(np.r_[everybody, everybody + 1], np.r_[lesions, lesions], np.r_[hits, whole], 2)
    return Weighted(matrix, lambda counts: counts[0] / counts[1])


def bootstrap(fits: Sequence[Sequence[Weighted]], strata: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    """Values of each fit in class-stratified resamples of the lesions, [F, num_resamples] float64.

    Args:
        fits: for each fit the measures to average, such as the average precision of each target class.
        strata: class of each lesion, [L] int64; each class keeps its number of lesions.
        num_resamples: number of resamples.
        seed: the same seed gives the same weights, so that arms compared one by one stay paired.
    """
    rng, values = np.random.default_rng(seed), np.empty((len(fits), num_resamples))
    for first in range(0, num_resamples, CHUNK):
        chunk = slice(first, min(first + CHUNK, num_resamples))
        values[:, chunk] = _values(fits, _draw(strata, chunk.stop - first, rng))
    return values


def _values(fits: Sequence[Sequence[Weighted]], weights: np.ndarray) -> np.ndarray:
    return np.stack([np.mean([measure(weights) for measure in measures], axis=0) for measures in fits])


def _draw(strata: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """How often each lesion is drawn, [L, size] float32."""
    weights = np.empty((len(strata), size), np.float32)
    for k in np.unique(strata):
        members = np.flatnonzero(strata == k)
        drawn = rng.integers(0, len(members), size=(size, len(members)))
        drawn += np.arange(size)[:, None] * len(members)
        weights[members] = np.bincount(drawn.ravel(), minlength=size * len(members)).reshape(size, -1).T
    return weights


def _ranked(kind: str, positive: np.ndarray, score: np.ndarray, lesions: np.ndarray) -> Weighted:
    """Average precision or AUC of one class.

    Bin t holds the images from the t-th highest distinct score of a positive image down to the next; the last bin holds
    the images below all of them. Half of a negative that ties with a positive falls one bin further (AUC only).
    """
    thresholds = np.unique(score[positive])
    last = len(thresholds)
    at_or_above = last - np.searchsorted(thresholds, score, side="right")
    above = last - np.searchsorted(thresholds, score, side="left")
    one = np.ones(len(score))
    positives = at_or_above[positive], lesions[positive], one[positive]
    if kind == "auc":
        rest = ~positive
        others = (
            np.r_[at_or_above[rest], above[rest]],
            np.r_[lesions[rest], lesions[rest]],
            np.r_[one[rest], one[rest]] / 2,
        )
    else:
        others = at_or_above, lesions, one
    rows, columns, values = (np.concatenate(pair) for pair in zip(positives, others, strict=True))
    rows[len(positives[0]) :] += last + 1
    value = _auc if kind == "auc" else _average_precision
    return Weighted(_matrix(rows, columns, values, 2 * (last + 1)), value)


def _average_precision(counts: np.ndarray) -> np.ndarray:
    """Sum of precision times step in recall; counts are those of positives, then of all images, from the top down."""
    steps, images = np.split(counts, 2)
    found, images = _accumulate(steps.copy()), _accumulate(images)
    images += TINY
    precision = np.divide(found, images, out=images)
    return np.einsum("tb,tb->b", steps, precision) / found[-1]


def _auc(counts: np.ndarray) -> np.ndarray:
    """Share of pairs in the right order, a tie counting half; counts are those of positives, then of negatives."""
    positives, negatives = np.split(counts, 2)
    num_positives, higher = positives.sum(axis=0, dtype=np.float64), _accumulate(negatives)
    wrong = np.multiply(positives, higher, out=positives).sum(axis=0, dtype=np.float64)
    return 1 - wrong / (num_positives * higher[-1])


def _accumulate(counts: np.ndarray) -> np.ndarray:
    """Cumulative sums down the rows, in place: faster than ``cumsum``, which strides down the columns."""
    for row in range(1, len(counts)):
        counts[row] += counts[row - 1]
    return counts


def _matrix(rows: np.ndarray, lesions: np.ndarray, values: np.ndarray, num_rows: int) -> csr_array:
    """Sparse [num_rows, L] float32; what falls on one place is added up."""
    shape = (num_rows, int(lesions.max()) + 1)
    return csr_array((values.astype(np.float32), (rows, lesions)), shape=shape)
