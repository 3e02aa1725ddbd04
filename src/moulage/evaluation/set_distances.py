"""How far apart two sets of images are: kernel and Frechet distance of their features, and distances of their colours.

Each is 0 for equal distributions and has no upper bound. None has a natural scale: read it beside the distance of real
images from real images (``evaluation.fidelity``).
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from moulage.errors import DataError

LEVEL = 0.95
"""Confidence level of intervals."""
SMALL_SAMPLE = 2048
"""Below this many images a Frechet distance is mostly bias."""
BIN = 0.25
"""Width of the bins, in CIELAB units, in which pixel colours are counted."""

_BLOCK = 1024
_CHANNELS = ("lightness", "green_red", "blue_yellow")
_RANGES = ((0, 100), (-90, 100), (-110, 96))
"""Smallest and largest L*, a* and b* of sRGB, rounded outwards."""
_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]], np.float32)
"""Linear sRGB to CIE XYZ under D65 (IEC 61966-2-1)."""


@dataclass(frozen=True)
class Interval:
    """A value and its ``LEVEL`` confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class KernelDistance:
    """Kernel distance (KID) of two sets of features."""

    whole: Interval  # the unbiased estimate from all pairs, with its jackknife interval; it may be below 0
    subset_mean: float  # mean over random subsets, as KID is usually reported
    subset_std: float  # standard deviation over the subsets: of that size, not of the mean and not of ``whole``


@dataclass(frozen=True)
class FrechetDistance:
    """Frechet distance (FID) of two sets of features."""

    value: float  # 0 or greater; too great on average, the more so the fewer the images
    num_real: int  # numbers of images
    num_generated: int
    # whether either is below ``SMALL_SAMPLE`` or not above the number of features: then the value says little, and only
    # values of equal numbers of images may be compared
    small_sample: bool


def kid(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    rng: np.random.Generator,
    num_subsets: int = 20,
    subset_size: int = 1000,
    groups: np.ndarray | None = None,
    generated_groups: np.ndarray | None = None,
) -> KernelDistance:
    """Kernel distance as it is usually reported, from random subsets of images, beside ``squared_mmd`` of all.

    Arguments and errors as of ``squared_mmd``. A subset has ``subset_size`` images of each set, or as many as the
    smaller set has.
    """
    whole = squared_mmd(real, generated, groups, generated_groups)
    size = min(subset_size, len(real), len(generated))
    values = []
    for _ in range(num_subsets):
        first = real[rng.choice(len(real), size, replace=False)]
        second = generated[rng.choice(len(generated), size, replace=False)]
        values.append(squared_mmd(first, second).value)
    return KernelDistance(whole, float(np.mean(values)), float(np.std(values)))


def squared_mmd(
    real: np.ndarray,
    generated: np.ndarray,
    real_groups: np.ndarray | None = None,
    generated_groups: np.ndarray | None = None,
) -> Interval:
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012, eq. 3) with the kernel (x y / D + 1)^3.

    The kernel is KID's (Binkowski et al. 2018, section 4); the interval a two-sample delete-one-group jackknife
    (Arvesen 1969) with normal quantiles.

    Features are [N, D] and [M, D]; ``DataError``: shapes do not fit, a number is not finite, or there are fewer than 3
    images or lesions of a set. With groups, the lesion of each real image [N] (and of ``generated``, where that is made
    of real images too), pairs within one lesion are left out, because they are more alike than independent images are,
    and the interval leaves out whole lesions.
    """
    _check(real, generated)
    groups = [_numbered(g, len(x)) for g, x in ((real_groups, real), (generated_groups, generated))]
    sizes = [np.bincount(g) for g in groups]
    if min(map(len, sizes)) < 3:
        raise DataError(
            "A kernel distance with an interval needs 3 lesions or images of each set.", "Give more images."
        )
    within = [np.bincount(g, _kernel_sums(x, x, g)[0]) for x, g in zip((real, generated), groups, strict=True)]
    cross = [np.bincount(g, s) for g, s in zip(groups, _kernel_sums(real, generated), strict=True)]
    own = [row.sum() / (size.sum() ** 2 - (size**2).sum()) for row, size in zip(within, sizes, strict=True)]
    common = cross[0].sum() / (len(real) * len(generated))
    value, variance = own[0] + own[1] - 2 * common, 0.0
    for side in (0, 1):
        size, row, num = sizes[side], within[side], len(sizes[side])
        pairs = size.sum() ** 2 - (size**2).sum() - 2 * size * (size.sum() - size)
        without = (row.sum() - 2 * row) / pairs + own[1 - side]
        without -= 2 * (cross[side].sum() - cross[side]) / ((size.sum() - size) * sizes[1 - side].sum())
        variance += (num - 1) / num * ((without - without.mean()) ** 2).sum()
    half = float(stats.norm.ppf((1 + LEVEL) / 2) * np.sqrt(variance))
    return Interval(float(value), float(value - half), float(value + half))


def frechet(real: np.ndarray, generated: np.ndarray) -> FrechetDistance:
    """Frechet distance of two normal distributions fitted to features (Heusel et al. 2017, eq. 6).

    |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2). With S1 = A'A and S2 = B'B the last trace is the sum of the
    singular values of A B', which is exact and small where there are few images. Features are [N, D] and [M, D], N and
    M >= 2.
    """
    _check(real, generated)
    first, second = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    gap = first.mean(axis=0) - second.mean(axis=0)
    roots = [_root(features) for features in (first, second)]
    traces = sum(float((root**2).sum()) for root in roots)
    common = float(np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum())
    value = max(0.0, float(gap @ gap) + traces - 2 * common)
    fewest = min(len(real), len(generated))
    small = fewest < SMALL_SAMPLE or fewest <= real.shape[1]
    return FrechetDistance(value, len(real), len(generated), small)


def colour_distances(real: np.ndarray, generated: np.ndarray) -> dict[str, dict[str, float]]:
    """How the colours of two sets differ, in CIELAB units (2.3 is about what an eye just notices; Mahy et al. 1994).

    The sets are uint8 [N, S, S, 3], each with its own N >= 2 and S.

    Returns:
        ``pixels``: Wasserstein-1 distance of all pixels' L*, a* and b* (to ``BIN`` units) and ``all``, the root of the
        sum of their squares. ``means``: the same of each image's mean colour. ``variety``: standard deviation of the
        generated images' mean colours by that of the real ones; below 1 where variety is lost.
    """
    _check(real.reshape(len(real), -1)[:, :1], generated.reshape(len(generated), -1)[:, :1])
    counts, means = zip(*(_colours(images) for images in (real, generated)), strict=True)
    spread = [np.maximum(mean.std(axis=0, ddof=1), 1e-6) for mean in means]
    found: dict[str, dict[str, float]] = {"pixels": {}, "means": {}, "variety": {}}
    for c, name in enumerate(_CHANNELS):
        found["pixels"][name] = float(np.abs(counts[0][c] - counts[1][c]).sum() * BIN)
        found["means"][name] = float(stats.wasserstein_distance(means[0][:, c], means[1][:, c]))
        found["variety"][name] = float(spread[1][c] / spread[0][c])
    for kind in ("pixels", "means"):
        found[kind]["all"] = float(np.sqrt(sum(value**2 for value in found[kind].values())))
    found["variety"]["all"] = float(np.sqrt((spread[1] ** 2).sum() / (spread[0] ** 2).sum()))
    return found


def to_lab(pixels: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of sRGB pixels uint8 [..., 3]: L* in 0..100, a* and b* about -110..100, float32."""
    levels = np.arange(256, dtype=np.float32) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4).astype(np.float32)
    xyz = linear[pixels] @ (_XYZ / _XYZ.sum(axis=1, keepdims=True)).T
    root = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * np.float32((29 / 6) ** 2 / 3) + np.float32(4 / 29))
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _colours(images: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Cumulative shares of pixels over the bins of each channel, and each image's mean colour [N, 3]."""
    counts = [np.zeros(round((high - low) / BIN)) for low, high in _RANGES]
    means = np.empty((len(images), 3))
    for start in range(0, len(images), 64):
        lab = to_lab(images[start : start + 64]).reshape(-1, images.shape[1] * images.shape[2], 3)
        means[start : start + 64] = lab.mean(axis=1, dtype=np.float64)
        for c, (low, high) in enumerate(_RANGES):
            counts[c] += np.histogram(lab[..., c], len(counts[c]), (low, high))[0]
    return [np.cumsum(count) / count.sum() for count in counts], means


def _kernel_sums(
    first: np.ndarray, second: np.ndarray, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Row sums [N] and column sums [M] of the cubic kernel; with groups (of both), pairs of one group count nothing."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    rows, columns = np.empty(len(a)), np.zeros(len(b))
    for start in range(0, len(a), _BLOCK):
        part = slice(start, start + _BLOCK)
        kernel = a[part] @ b.T
        kernel /= a.shape[1]
        kernel += 1
        kernel = kernel * kernel * kernel
        if groups is not None:
            kernel[groups[part, None] == groups] = 0
        rows[part] = kernel.sum(axis=1)
        columns += kernel.sum(axis=0)
    return rows, columns


def _root(features: np.ndarray) -> np.ndarray:
    """A matrix A with A'A = covariance, of as few rows as there are images or features."""
    centred = (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)
    return centred if len(centred) <= centred.shape[1] else np.asarray(np.linalg.qr(centred, mode="r"))


def _numbered(groups: np.ndarray | None, num: int) -> np.ndarray:
    return np.arange(num) if groups is None else np.unique(groups, return_inverse=True)[1].reshape(-1)


def _check(real: np.ndarray, generated: np.ndarray) -> None:
    shapes = real.shape, generated.shape
    if {len(shape) for shape in shapes} != {2} or real.shape[1] != generated.shape[1] or min(shapes)[0] < 2:
        raise DataError(
            f"Two sets of at least 2 rows of the same length are compared, and these are {list(real.shape)} and "
            f"{list(generated.shape)}."
        )
    if not (np.isfinite(real).all() and np.isfinite(generated).all()):
        raise DataError("Features hold a number that is not finite.", "Check the images and the feature network.")
