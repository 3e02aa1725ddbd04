"""How unlike everything known an image is: scores for images of a class that no classifier learned. Higher is stranger.

From logits: one minus the maximum softmax (Hendrycks & Gimpel 2017, arXiv:1610.02136), the entropy of the softmax, the
energy (Liu et al. 2020, arXiv:2010.03759, eq. 4, T = 1). From features: the distance to the k-th nearest training image
(Sun et al. 2022, arXiv:2204.06507) and to the nearest class mean (Lee et al. 2018, arXiv:1807.03888, eq. 2).
"""

from dataclasses import dataclass

import numpy as np

from moulage.errors import DataError, RecipeError, nearest
from moulage.evaluation.predictions import log_softmax

OF_LOGITS = ("max_softmax", "entropy", "energy")
OF_FEATURES = ("nearest", "mahalanobis")
RECALL = 0.95
"""Share of the unknown images that is to be found where the false positive rate is read."""
NUM_NEAREST = 10
NUM_RESAMPLES = 1000
CHUNK = 1024


@dataclass(frozen=True)
class Detection:
    """How well one score tells unknown images from known ones."""

    score: str  # its name
    auroc: float  # chance that an unknown image scores higher than a known one; ties count half
    # 95 % interval of ``auroc`` over lesions, known and unknown ones drawn anew (percentiles of the bootstrap); the
    # classifier is taken as fixed
    low: float
    high: float
    false_positives: float  # share of the known images that is called unknown where 95 % of the unknown ones are found


def of_logits(logits: np.ndarray, name: str) -> np.ndarray:
    """A score of ``OF_LOGITS`` for logits [N, K], float64 [N]; ``RecipeError`` where there is no such score."""
    values = np.asarray(logits, np.float64)
    logs = log_softmax(values)
    if name == "max_softmax":
        return 1 - np.exp(logs.max(axis=1))
    if name == "entropy":
        return -(np.exp(logs) * logs).sum(axis=1)
    if name == "energy":
        return -(values[:, 0] - logs[:, 0])  # log-softmax is the logit less the log of the sum of exponentials
    raise RecipeError(f'There is no score "{name}" of logits.', nearest(name, OF_LOGITS))


def of_features(train: np.ndarray, labels: np.ndarray, features: np.ndarray) -> dict[str, np.ndarray]:
    """The scores of ``OF_FEATURES``, each float64 [N], of images with features [N, D].

    ``train`` is float [M, D] of training images, M above ``NUM_NEAREST`` (else ``DataError``), of classes int64 [M].
    """
    if len(train) <= NUM_NEAREST:
        raise DataError(f"{len(train)} training images are too few: the {NUM_NEAREST}th nearest is looked for.")
    return {"nearest": _nearest(train, features), "mahalanobis": _mahalanobis(train, labels, features)}


def _nearest(train: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Euclidean distance of the normalised features to the k-th nearest training image."""
    both = (np.asarray(values, np.float32) for values in (train, features))
    ours, theirs = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12) for x in both)
    found = np.empty(len(theirs))
    for start in range(0, len(theirs), CHUNK):
        cosine = np.partition(theirs[start : start + CHUNK] @ ours.T, -NUM_NEAREST, axis=1)[:, -NUM_NEAREST]
        found[start : start + CHUNK] = np.sqrt(np.maximum(0, 2 - 2 * cosine))
    return found


def _mahalanobis(train: np.ndarray, labels: np.ndarray, features: np.ndarray) -> np.ndarray:
    """Squared distance to the nearest class mean under one covariance within classes, shrunk as by Ledoit and Wolf."""
    from sklearn.covariance import ledoit_wolf

    train, features = np.asarray(train, np.float64), np.asarray(features, np.float64)
    present = np.unique(labels)
    means = np.stack([train[labels == k].mean(axis=0) for k in present])
    residuals = train - means[np.searchsorted(present, labels)]
    covariance, _ = ledoit_wolf(residuals, assume_centered=True)
    factor = np.linalg.cholesky(covariance)
    white = np.linalg.solve(factor, features.T).T
    centres = np.linalg.solve(factor, means.T).T
    squared = (white**2).sum(1)[:, None] + (centres**2).sum(1) - 2 * white @ centres.T
    return squared.min(axis=1)


def detection(
    name: str,
    known: np.ndarray,
    unknown: np.ndarray,
    known_groups: np.ndarray,
    unknown_groups: np.ndarray,
    rng: np.random.Generator,
) -> Detection:
    """How well a score tells ``unknown`` [M] from ``known`` [N] images, one or more of each; groups: their lesions."""
    if not len(known) or not len(unknown):
        raise DataError(f"{name}: {len(known)} known and {len(unknown)} unknown images cannot be told apart.")
    groups = [np.unique(g, return_inverse=True)[1] for g in (known_groups, unknown_groups)]
    drawn = []
    sizes = [int(g.max()) + 1 for g in groups]
    for _ in range(NUM_RESAMPLES):
        times = [np.bincount(rng.integers(0, n, n), minlength=n) for n in sizes]  # that each lesion is drawn
        weights = [drawn_times[g].astype(float) for drawn_times, g in zip(times, groups, strict=True)]
        drawn.append(_auroc(known, unknown, *weights))
    low, high = np.quantile(drawn, [0.025, 0.975])
    threshold = np.quantile(unknown, 1 - RECALL, method="lower")
    value = _auroc(known, unknown, np.ones(len(known)), np.ones(len(unknown)))
    return Detection(name, value, float(low), float(high), float((known >= threshold).mean()))


def _auroc(known: np.ndarray, unknown: np.ndarray, known_weights: np.ndarray, unknown_weights: np.ndarray) -> float:
    values, place = np.unique(np.concatenate([known, unknown]), return_inverse=True)
    below = np.bincount(place[: len(known)], known_weights, len(values))
    ours = np.bincount(place[len(known) :], unknown_weights, len(values))
    beaten = np.cumsum(below) - below / 2
    return float((ours * beaten).sum() / (ours.sum() * below.sum()))


def unknown_share(validation: np.ndarray, scores: np.ndarray, share: float) -> np.ndarray:
    """A probability of being unknown, float64 [N] in 0..1, for the challenge's column UNK, of images with scores [N].

    Scores at or below the (1 - share) quantile of validation images, all of known classes, give 0; above it the
    probability rises to 1 as the score passes all of them, linearly in rank. So ``share`` of the known images, 0..1,
    may be doubted.
    """
    ordered = np.sort(np.asarray(validation, np.float64))
    rank = np.searchsorted(ordered, scores, side="left") / len(ordered)
    return np.clip((rank - (1 - share)) / max(share, 1e-12), 0.0, 1.0)
