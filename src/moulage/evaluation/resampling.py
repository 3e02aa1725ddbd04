"""Functions of lesion weights, and the class-stratified bootstrap that varies the weights.

A measure is written as a function of weighted counts, ``value(matrix @ weights)``: row t of the sparse matrix says what
each lesion adds to count t, a column of the weights says how often each lesion is taken. Measures of a ranking count
the images in bins between the distinct scores, so that scores are sorted once and a resample costs one addition an
image. All fits see the same weights, which keeps them paired.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

CHUNK = 250
"""Resamples at a time: 2.5 MB of weights for 2,500 lesions."""


@dataclass(frozen=True)
class Weighted:
    """A measure of one fit as a function of lesion weights."""

    matrix: csr_array  # [T, L] float32, what each of the L lesions adds to each of T counts
    # counts [T, B] -> values [B] of B weightings; it may change the counts that it is given
    value: Callable[[np.ndarray], np.ndarray]

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Values [B] under weights [L, B] float32."""
        return self.value(self.matrix @ weights)

    def counts(self, lesions: slice = slice(None)) -> np.ndarray:
        """What these lesions add to each count, [T, lesions] float64."""
        return self.matrix[:, lesions].toarray().astype(np.float64)

    def total(self) -> np.ndarray:
        """The counts of all lesions, [T, 1] float64."""
        return self.matrix.astype(np.float64).sum(axis=1)[:, None]


def ratio(above: np.ndarray, below: np.ndarray, lesions: np.ndarray) -> Weighted:
    """The sum of ``above`` over the sum of ``below``, values [N] of images of the lesions [N]."""
    zeros = np.zeros(len(lesions), np.int64)
    return Weighted(count_blocks(1, lesions, (zeros, above), (zeros, below)), lambda counts: counts[0] / counts[1])


def count_blocks(size: int, lesions: np.ndarray, *parts: tuple[np.ndarray, np.ndarray]) -> csr_array:
    """Counts in blocks of ``size`` rows: each part is the bin of each image, [N] in 0..size-1, and its value, [N]."""
    rows = np.concatenate([bins + block * size for block, (bins, _) in enumerate(parts)])
    values = np.concatenate([np.asarray(values, np.float64) for _, values in parts])
    used = values != 0
    shape = len(parts) * size, int(lesions.max()) + 1
    return count_matrix(rows[used], np.tile(lesions, len(parts))[used], values[used], shape)


def count_matrix(rows: np.ndarray, lesions: np.ndarray, values: np.ndarray, shape: tuple[int, int]) -> csr_array:
    """Sparse [T, L] float32; what falls on one place is added up."""
    return csr_array((values.astype(np.float32), (rows, lesions)), shape=shape)


def accumulate(counts: np.ndarray) -> np.ndarray:
    """Cumulative sums down the rows, in place: faster than ``cumsum``, which strides down the columns."""
    for row in range(1, len(counts)):
        counts[row] += counts[row - 1]
    return counts


def divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """``above / below``, NaN where nothing is left to divide by."""
    return np.divide(above, below, out=np.full(len(below), np.nan), where=below > 0)


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
        weights = _draw(strata, chunk.stop - first, rng)
        values[:, chunk] = [np.mean([measure(weights) for measure in measures], axis=0) for measures in fits]
    return values


def _draw(strata: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """How often each lesion is drawn, [L, size] float32."""
    weights = np.empty((len(strata), size), np.float32)
    for k in np.unique(strata):
        members = np.flatnonzero(strata == k)
        drawn = rng.integers(0, len(members), size=(size, len(members)))
        drawn += np.arange(size)[:, None] * len(members)
        weights[members] = np.bincount(drawn.ravel(), minlength=size * len(members)).reshape(size, -1).T
    return weights
