"""Whether generated images lie among real ones, and real ones among them: k-nearest-neighbour balls in feature space.

Shares depend on the number of images and on k: compare only values of equal numbers, or read them beside those of real
images (``evaluation.fidelity``). An image on the rim of a ball is outside it.
"""

from dataclasses import dataclass

import numpy as np

from moulage.data.neighbours import nearest_rows, squared_blocks

RIM = 1 - 1e-9
"""Squared distances from this share of a squared radius are on the rim: it keeps ties off the mercy of rounding."""


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares, 0 to 1."""

    precision: float  # generated images that lie in the ball of some real image
    recall: float  # real images that lie in the ball of some generated image


@dataclass(frozen=True)
class DensityCoverage:
    """How thick and how complete the generated images lie in the balls of the real ones."""

    # balls of real images that a generated image lies in, mean, by k; 1 is expected of real images, and generated
    # images crowded where real ones are dense exceed it
    density: float
    coverage: float  # real images whose ball holds a generated image, 0 to 1


def precision_recall(real: np.ndarray, generated: np.ndarray, *, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkaanniemi et al. 2019, eq. 1 and 2) of features [N, D] and [M, D].

    A ball reaches to the k-th nearest image of its own set. ``DataError``: N or M is not above k, or shapes do not fit.
    """
    radii = [nearest_rows(x, x, k, exclude_self=True)[0][:, -1] ** 2 * RIM for x in (real, generated)]
    precise, recalled = np.zeros(len(generated), bool), np.zeros(len(real), bool)
    for part, squared in squared_blocks(generated, real):
        precise[part] = (squared < radii[0]).any(axis=1)
        recalled |= (squared < radii[1][part, None]).any(axis=0)
    return PrecisionRecall(float(precise.mean()), float(recalled.mean()))


def density_coverage(real: np.ndarray, generated: np.ndarray, *, k: int = 5) -> DensityCoverage:
    """Density and coverage (Naeem et al. 2020, section 3) of features [N, D] and [M, D].

    A ball reaches to the k-th nearest real image. ``DataError``: N is not above k, M is 0, or shapes do not fit.
    """
    radii = nearest_rows(real, real, k, exclude_self=True)[0][:, -1] ** 2 * RIM
    hits, covered = 0, np.zeros(len(real), bool)
    for _, squared in squared_blocks(generated, real):
        inside = squared < radii
        hits += int(inside.sum())
        covered |= inside.any(axis=0)
    return DensityCoverage(hits / (k * len(generated)), float(covered.mean()))
