"""Exact nearest neighbours of rows of numbers: whole distance matrices, a block of rows at a time.

Distances are Euclidean. They come from one matrix product a block, in float64 and from centred rows, because the
difference of two large squares would otherwise eat the digits of a small distance; the distances that ``nearest_rows``
returns are computed once more from the differences themselves, so that a copy is at distance 0 exactly. Only
``nearest_images``, whose values are few and of one size, makes do with float32.
"""

from collections.abc import Iterator

import numpy as np

from moulage.errors import DataError

BLOCK_BYTES = 2**25
"""Memory of one block of distances."""


def nearest_rows(
    queries: np.ndarray,
    among: np.ndarray,
    k: int = 1,
    *,
    exclude_self: bool = False,
    groups: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` rows of ``among`` [M, D] that are nearest to each of the queries [N, D], the nearest first.

    All numbers are finite; ``k`` is 1 to M. With ``exclude_self``, for one array given twice, row i is no neighbour of
    query i, and ``k`` is at most M - 1. With ``groups``, of the queries [N] and of ``among`` [M], rows of one group are
    no neighbours; where fewer than ``k`` others are left, distances are infinite. The result is the distances, float64
    [N, k], and the rows, int64 [N, k].

    ``DataError``: shapes do not fit, a number is not finite, or there are fewer than ``k`` neighbours.
    """
    if exclude_self and len(queries) != len(among):
        raise DataError(f"Neighbours without oneself: {len(queries)} queries among {len(among)} rows are not the same.")
    if not 1 <= k <= len(among) - exclude_self:
        raise DataError(
            f"{k} nearest neighbours were asked for among {len(among) - exclude_self} rows.",
            "Lower the number of neighbours or give more images.",
        )
    distances, rows = np.empty((len(queries), k)), np.empty((len(queries), k), np.int64)
    for part, squared in squared_blocks(queries, among):
        if exclude_self:
            squared[np.arange(len(squared)), np.arange(part.start, part.stop)] = np.inf
        if groups is not None:
            squared[groups[0][part, None] == groups[1]] = np.inf
        found = np.argpartition(squared, k - 1, axis=1)[:, :k]
        for column in range(k):
            gap = np.asarray(queries[part], np.float64) - np.asarray(among[found[:, column]], np.float64)
            reached = np.isfinite(squared[np.arange(len(squared)), found[:, column]])
            distances[part, column] = np.where(reached, np.sqrt(np.einsum("nd,nd->n", gap, gap)), np.inf)
        order = np.lexsort((found, distances[part]), axis=1)
        distances[part] = np.take_along_axis(distances[part], order, axis=1)
        rows[part] = np.take_along_axis(found, order, axis=1)
    return distances, rows


def distance_to_others(features: np.ndarray, groups: np.ndarray, k: int = 1) -> np.ndarray:
    """Distance of each image to its ``k``-th nearest of another lesion, float64 [N]; infinite where there are fewer.

    Photographs of one lesion lie near each other, and would hide how far apart lesions are. ``features`` [N, D] are
    finite, ``groups`` [N] are the lesions, ``k`` is 1 or more.
    """
    found, codes = np.full(len(features), np.inf), np.unique(groups, return_inverse=True)[1]
    if k >= len(features):
        return found
    for part, squared in squared_blocks(features, features):
        squared[codes[part][:, None] == codes] = np.inf
        found[part] = np.sqrt(np.partition(squared, k - 1, axis=1)[:, k - 1])
    return found


def nearest_images(images: np.ndarray, among: np.ndarray, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Distance to, and row of, the nearest of ``among`` for each image, over the eight flips and quarter turns.

    Images are uint8 [N, S, S, 3] and [M, S, S, 3], M >= 1; both are averaged down to about ``side`` pixels a side
    first. The distance is the root mean square difference a value, float64 [N], in 0..255; rows are int64 [N].
    """
    step = max(1, images.shape[1] // side)

    def small(batch: np.ndarray) -> np.ndarray:
        edge = batch.shape[1] // step * step
        blocks = batch[:, :edge, :edge].reshape(len(batch), edge // step, step, edge // step, step, 3)
        return blocks.mean((2, 4), dtype=np.float32) - 127.5  # centred: small norms lose less when they are subtracted

    reference = small(among).reshape(len(among), -1)
    norms = (reference**2).sum(1)
    best, row = np.full(len(images), np.inf), np.zeros(len(images), np.int64)
    queries = small(images)
    for turned in (np.rot90(q, k, (1, 2)) for q in (queries, queries[:, :, ::-1]) for k in range(4)):
        flat = turned.reshape(len(images), -1)
        squared = (flat**2).sum(1)[:, None] + norms - 2 * flat @ reference.T
        found = squared.argmin(1)
        value = squared[np.arange(len(images)), found]
        row = np.where(value < best, found, row)
        best = np.minimum(best, value)
    return np.sqrt(np.maximum(best, 0) / reference.shape[1]).astype(np.float64), row


def squared_blocks(queries: np.ndarray, among: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances of a block of queries to all of ``among``: (which queries, float64 [n, M]), block by block.

    ``queries`` [N, D] and ``among`` [M, D], M >= 1, are finite.
    """
    centred, others, norms = _prepared(queries, among)
    step = max(1, BLOCK_BYTES // (8 * len(among)))
    for start in range(0, len(queries), step):
        part = slice(start, min(start + step, len(queries)))
        block = centred[part] @ others.T
        block *= -2
        block += norms
        block += np.einsum("nd,nd->n", centred[part], centred[part])[:, None]
        yield part, np.maximum(block, 0, out=block)


def _prepared(queries: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both in float64 minus the mean of ``among``, and the squared lengths of ``among``."""
    if queries.ndim != 2 or among.ndim != 2 or queries.shape[1] != among.shape[1] or not len(among):
        raise DataError(
            f"Distances need rows of the same length, and got {list(queries.shape)} and {list(among.shape)}."
        )
    others = np.array(among, np.float64)
    middle = others.mean(axis=0)
    others -= middle
    centred = others if queries is among else np.asarray(queries, np.float64) - middle
    norms = np.einsum("nd,nd->n", others, others)
    if not (np.isfinite(norms).all() and np.isfinite(centred).all()):
        raise DataError("Features hold a number that is not finite.", "Check the images and the feature network.")
    return centred, others, norms
