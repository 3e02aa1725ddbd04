"""Whether generated images are copies of training images: one by one, and as a set.

Near-copies are named one by one (``data.near_copies``). The other two speak of the whole set in feature space and need
no threshold: C_T asks whether generated images lie nearer to the training images than held-out real images do,
authenticity asks of each generated image whether its nearest training image has a nearer real neighbour. Both see
copying that is spread over the whole set; neither sees a few copies among many new images, which near-copies do.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from moulage.data.neighbours import distance_to_others, nearest_rows
from moulage.errors import DataError

MIN_IN_CELL = 20
"""Images of either set that a cell needs: the rank test takes its statistic as normal."""


@dataclass(frozen=True)
class DataCopying:
    """The data-copying test; a z-score: below -3 generated images are nearer to training images than chance allows."""

    overall: float  # the test over all images at once
    # C_T, the mean over cells weighted by their held-out images; None where no cell has enough images
    in_cells: float | None
    num_cells: int  # cells that had enough images
    num_skipped: int  # generated images in the other cells
    cells: tuple[float, ...]  # z-score of each cell that had enough, in the order of the cells


def data_copying(
    train: np.ndarray,
    held_out: np.ndarray,
    generated: np.ndarray,
    *,
    rng: np.random.Generator,
    num_cells: int = 5,
    groups: tuple[np.ndarray, np.ndarray] | None = None,
) -> DataCopying:
    """The three-sample data-copying test (Meehan et al. 2020).

    Distances to the nearest training image are ranked: the Mann-Whitney statistic U of generated against held-out
    images (of other lesions) as a z-score (ties by mid-ranks), within cells of a k-means of the training images, at
    most one for each. It counts images as independent; several images of one held-out lesion make it overstate.
    ``groups`` are the lesions of the generated images, where these are edited photographs, and of the training images:
    their own ones are left out, to which they are near by intention. Features are [N, D]; ``DataError``: fewer than
    ``MIN_IN_CELL`` to compare, or shapes do not fit.
    """
    from sklearn.cluster import KMeans

    if min(len(held_out), len(generated)) < MIN_IN_CELL:
        raise DataError(
            f"The data-copying test needs {MIN_IN_CELL} held-out and generated images and got {len(held_out)} and "
            f"{len(generated)}."
        )
    away = [nearest_rows(held_out, train)[0][:, 0], nearest_rows(generated, train, groups=groups)[0][:, 0]]
    options: dict[str, Any] = {"n_init": 4, "random_state": int(rng.integers(2**31))}
    clusters = KMeans(min(num_cells, len(train)), **options)
    clusters.fit(np.asarray(train, np.float64))
    cells = [clusters.predict(np.asarray(x, np.float64)) for x in (held_out, generated)]
    inside = [[x[c == cell] for x, c in zip(away, cells, strict=True)] for cell in range(clusters.n_clusters)]
    large = [pair for pair in inside if min(map(len, pair)) >= MIN_IN_CELL]
    scores = tuple(_z(*pair) for pair in large)
    mean = float(np.average(scores, weights=[len(pair[0]) for pair in large])) if scores else None
    skipped = len(generated) - sum(len(pair[1]) for pair in large)
    return DataCopying(_z(*away), mean, len(scores), skipped, scores)


def authenticity(
    train: np.ndarray, generated: np.ndarray, groups: np.ndarray | None = None, kin: np.ndarray | None = None
) -> np.ndarray:
    """Which generated images are authentic (Alaa et al. 2022): bool [N].

    An image is not where it is nearer to its nearest training image than any other training image is to that one. Of
    real images of other lesions more than half are authentic, a third or so are not: read the share beside theirs.
    Features are [M, D] (M >= 2) and [N, D]. With groups, the lesion of each training image [M], the other training
    image is one of another lesion, because two photographs of one lesion are near each other; and with ``kin``, the
    lesions of edited images [N], their nearest training image is one of another lesion too.
    """
    away, row = nearest_rows(generated, train, groups=None if groups is None or kin is None else (kin, groups))
    own = (
        nearest_rows(train, train, exclude_self=True)[0][:, 0] if groups is None else distance_to_others(train, groups)
    )
    return away[:, 0] > own[row[:, 0]]


def _z(held_out: np.ndarray, generated: np.ndarray) -> float:
    """Mann-Whitney U of generated over held-out distances as a z-score; 0 where all distances are equal."""
    n, m = len(held_out), len(generated)
    total, ranks = n + m, stats.rankdata(np.r_[held_out, generated])
    _, ties = np.unique(ranks, return_counts=True)
    above = ranks[n:].sum() - m * (m + 1) / 2
    variance = n * m / 12 * (total + 1 - (ties**3 - ties).sum() / (total * (total - 1)))
    return float((above - n * m / 2) / np.sqrt(variance)) if variance > 0 else 0.0
