"""Near-copies of training images: which generated images are a training image again, and how sure that is.

The distance of two images is one minus the ``detail`` of ``thumbnails.compare``: the correlation of fine structure in
32 px thumbnails after alignment. It does not look at colour, and it is searched over eight flips and quarter turns. The
candidates that are aligned are the training images whose low frequencies are most similar, as they are and cropped a
little, so that a cropped copy finds its original.

How small a distance must be is not a constant: it depends on the images. It is taken from real images of other lesions,
which cannot be copies. A split conformal test (Vovk et al. 2005; Bates et al. 2023) turns n such distances into
a threshold below which a new image that is as far from the training images as they are falls with a probability of at
most ``false_alarms``, for any distribution. ``evaluation.memorisation`` has the measured numbers.
"""

from dataclasses import dataclass

import numpy as np

from moulage.data import thumbnails
from moulage.data.images import square
from moulage.errors import DataError
from moulage.runs import Progress, no_progress

NUM_CANDIDATES = 6
"""Training images (with an orientation and a crop) that each image is aligned with."""
LARGEST = 0.5
"""No threshold is larger: where fine structure correlates by less than a half, two images share a blob and no source.
Among real images such look-alikes come in clusters of lesions, which a few calibration images may miss."""
CROPS = (0.0, 0.045)
"""Shares of a side that are cut off each edge of a training image before it is compared."""
OVERLAP, LITTLE = 0.30, 0.10
"""Share of the thumbnail that both show below which the distance is taken for more: there a blob is nearly all."""

POWER = 0.75
"""Of the frequency, in the descriptors."""
_BATCH = 256


@dataclass(frozen=True)
class NearCopies:
    """Which images are near-copies of training images."""

    threshold: float  # an image whose distance is below it is a near-copy
    distance: np.ndarray  # to the nearest training image, float64 [N] in 0..2; 0: the same structure, 1: none in common
    nearest: np.ndarray  # row of that training image, int64 [N]
    is_copy: np.ndarray  # bool [N]
    # largest expected share of images as new as the calibration's that are called copies; above what was asked for
    # where there are too few calibration images to promise it
    expected_false_alarms: float
    calibration: np.ndarray  # distances of the real images that set the threshold, float64 [n]

    def take(self, rows: np.ndarray) -> "NearCopies":
        """What was found of these images."""
        found = self.distance[rows], self.nearest[rows], self.is_copy[rows]
        return NearCopies(self.threshold, *found, self.expected_false_alarms, self.calibration)

    def pairs(self, num_pairs: int) -> list[tuple[int, int, float]]:
        """The closest pairs, the closest first: (row of the image, row of the training image, distance)."""
        order = np.argsort(self.distance, kind="stable")[:num_pairs]
        return [(int(row), int(self.nearest[row]), float(self.distance[row])) for row in order]


def near_copies(
    generated: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray | None = None,
    *,
    groups: np.ndarray | None = None,
    kin: np.ndarray | None = None,
    false_alarms: float = 0.01,
    progress: Progress = no_progress,
) -> NearCopies:
    """Find the generated images that are near-copies of training images; all images are uint8 [N, S, S, 3].

    The threshold comes from real images that are compared with the training images, ``train``, of which there is at
    least one: ``held_out`` ones of other lesions that are no near-duplicates of them, or, where ``groups`` (the lesion
    of each training image) are given in their place, each training image against those of the other lesions.
    ``kin`` [N] are the lesions of the generated images, where these are edited photographs: one that is near its own
    lesion is no news, and is compared with the images of the others alone, as those that set the threshold are.
    ``false_alarms`` is the largest share of new images that may be called copies; it takes 1 / false_alarms - 1
    calibration images to promise it.

    ``DataError``: shapes or types do not fit, or neither or both of ``held_out`` and ``groups`` are given.
    """
    if (held_out is None) == (groups is None):
        raise DataError("Near-copies need either held-out images or the lesions of the training images to calibrate.")
    calibrating = train if held_out is None else held_out
    if not len(calibrating) or (groups is not None and len(np.unique(groups)) < 2):
        raise DataError("Near-copies need real images of other lesions to calibrate.", "Give held-out images.")
    originals = _cropped(train)
    own = None if groups is None else (groups, groups)
    calibration, _ = _nearest(_thumbnails(calibrating), originals, own, progress)
    related = None if groups is None or kin is None else (kin, groups)
    distance, nearest = _nearest(_thumbnails(generated), originals, related, progress)
    threshold = min(LARGEST, conformal_threshold(calibration, false_alarms))
    expected = (1 + int((calibration < threshold).sum())) / (1 + len(calibration))
    return NearCopies(threshold, distance, nearest, distance < threshold, expected, calibration)


def conformal_threshold(calibration: np.ndarray, false_alarms: float) -> float:
    """Distance below which a new image is called a copy.

    Among n + 1 exchangeable distances each rank is equally likely, so the new one is below the r-th smallest of the
    others with probability r / (n + 1) at most: r is the largest for which that is within ``false_alarms``, or 1.
    """
    rank = max(1, int(np.floor(false_alarms * (len(calibration) + 1) + 1e-9)))
    return float(np.sort(calibration)[rank - 1])


def distances(images: np.ndarray, train: np.ndarray, progress: Progress = no_progress) -> tuple[np.ndarray, np.ndarray]:
    """Structural distance to, and row of, the nearest training image: float64 [N] in 0..2 and int64 [N].

    ``images`` and ``train`` are uint8 [N, S, S, 3] and [M, S, S, 3], M >= 1.
    """
    return _nearest(_thumbnails(images), _cropped(train), None, progress)


def distances_to_own(images: np.ndarray, parents: np.ndarray) -> np.ndarray:
    """Structural distance of each edited image to the photograph that it was made of, as they lie: float64 [N] in 0..2.

    Both are uint8 [N, S, S, 3], in one order.
    """
    first, second = _thumbnails(images), _thumbnails(parents)
    detail, overlap = thumbnails.compare(first.luminance, first.inside, second.luminance, second.inside)
    return 1 - detail + LITTLE * (overlap < OVERLAP)


@dataclass(frozen=True)
class _Thumbnails:
    """Luminance float32 [N, 32, 32] (centred, zero in the vignette) and what is inside the vignette (1 or 0)."""

    luminance: np.ndarray
    inside: np.ndarray

    def turned(self, rows: np.ndarray, turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """These rows, each in its own orientation."""
        found = np.stack([self.luminance[rows], self.inside[rows]])
        for turn in np.unique(turns):
            chosen = turns == turn
            for values in found:
                values[chosen] = thumbnails.orient(values[chosen], int(turn))
        return found[0], found[1]


def _thumbnails(images: np.ndarray, crop: float = 0.0) -> _Thumbnails:
    """Vignettes are found after the grey values are stretched, so that neither brightness nor contrast moves them."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise DataError(f"Images must be uint8 [N, S, S, 3] and are {images.dtype} {list(images.shape)}.")
    cut = round(crop * images.shape[1])
    inner = images[:, cut : images.shape[1] - cut, cut : images.shape[2] - cut]
    small = np.zeros((len(images), thumbnails.SIDE, thumbnails.SIDE, 3), np.uint8)
    for row, image in enumerate(inner):
        small[row] = square(image, thumbnails.SIDE, "squash")
    grey = thumbnails.luminance(small)
    low, high = np.percentile(grey.reshape(len(grey), thumbnails.SIDE**2), (1, 99), axis=1)[:, :, None, None]
    stretched = ((grey - low) * (255 / np.maximum(high - low, 1))).clip(0, 255).astype(np.uint8)
    inside = thumbnails.inside(np.repeat(stretched[..., None], 3, axis=3)).astype(np.float32)
    return _Thumbnails(thumbnails.centred(grey, inside), inside)


def _cropped(images: np.ndarray) -> _Thumbnails:
    """The thumbnails of all images at the first crop, then at the second ..."""
    crops = [_thumbnails(images, crop) for crop in CROPS]
    return _Thumbnails(np.concatenate([c.luminance for c in crops]), np.concatenate([c.inside for c in crops]))


def _nearest(
    queries: _Thumbnails, originals: _Thumbnails, groups: tuple[np.ndarray, np.ndarray] | None, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Smallest distance of each query over its candidates, and the training image's row.

    ``originals`` are ``_cropped``. With ``groups``, of the queries and of the training images, those of one group are
    not compared.
    """
    num = len(queries.luminance)
    described = np.split(thumbnails.descriptors(originals.luminance, POWER), len(CROPS))
    num_originals = len(described[0])
    distance, nearest = np.full(num, np.inf), np.zeros(num, np.int64)
    for start in range(0, num, _BATCH):
        part = slice(start, min(start + _BATCH, num))
        luminance, inside = queries.luminance[part], queries.inside[part]
        similar = _similarities(thumbnails.descriptors(luminance, POWER), described)
        if groups is not None:
            similar[groups[0][part, None] == groups[1]] = -np.inf
        for crop, row, turn in _candidates(similar):
            turned = originals.turned(crop * num_originals + row, turn)
            detail, overlap = thumbnails.compare(luminance, inside, *turned)
            found = 1 - detail + LITTLE * (overlap < OVERLAP)
            allowed = groups is None or groups[0][part] != groups[1][row]
            better = (found < distance[part]) & allowed
            distance[part][better], nearest[part][better] = found[better], row[better]
        progress(part.stop, num, "near-copies")
    return distance, nearest


def _similarities(queries: np.ndarray, described: list[np.ndarray]) -> np.ndarray:
    """Cosines of queries with training images in each crop and orientation, float32 [n, M, crops * 8]."""
    flat, cosines = queries.reshape(len(queries), -1), []
    for originals in described:
        for turn in range(len(thumbnails.ORIENTATIONS)):
            turned = thumbnails.oriented(originals, turn)
            cosines.append(flat @ turned.reshape(len(turned), -1).T)
    return np.stack(cosines, axis=2)


def _candidates(similar: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(crop, row, orientation) of each query's most similar training images, [n] each."""
    best, place = similar.max(axis=2), similar.argmax(axis=2)
    num = min(NUM_CANDIDATES, best.shape[1])
    rows = np.argpartition(-best, num - 1, axis=1)[:, :num]
    crops, turns = np.divmod(np.take_along_axis(place, rows, axis=1), len(thumbnails.ORIENTATIONS))
    return list(zip(crops.T, rows.T, turns.T, strict=True))
