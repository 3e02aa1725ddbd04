"""What a classifier makes of generated images: can it tell them from real ones, and can it learn from them?"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from moulage.errors import DataError
from moulage.evaluation.set_distances import LEVEL

NUM_FOLDS = 5
STRENGTH = 0.01
"""Inverse strength C of the L2 penalty on standardised features; fixed, so that nothing is tuned on what is judged."""

INFLATION = 1.35
"""Standard deviation of a cross-validated accuracy by that of as many independent coin tosses.

Folds share most of their training images. Between sets of one normal distribution it was 1.22 (40 images a side, 8
features), 1.34 (100, 50), 1.28 (60, 300) and 1.28 (150, 20) in 60 to 150 repeats; the correction of Nadeau and Bengio
2003 would be 1.5 for five folds.
"""


@dataclass(frozen=True)
class TwoSampleTest:
    """Out-of-fold accuracy of a classifier that tells real from generated images."""

    accuracy: float  # 0.5 where it cannot tell, 1 where it always can
    low: float  # confidence interval at ``LEVEL``
    high: float
    p_value: float  # chance of this accuracy or more where it cannot tell, one-sided
    num_images: int  # images of each side


@dataclass(frozen=True)
class Transfer:
    """Balanced accuracy on real held-out images of a head that was fitted on other images."""

    from_generated: float  # fitted on generated images (train on synthetic, test on real)
    from_real: float  # fitted on as many real training images of each class
    num_images: dict[int, int]  # images of each class that either was fitted on
    chance: float  # one over the number of classes


def two_sample_test(
    real: np.ndarray,
    generated: np.ndarray,
    *,
    rng: np.random.Generator,
    groups: np.ndarray | None = None,
    generated_groups: np.ndarray | None = None,
) -> TwoSampleTest:
    """Classifier two-sample test (Lopez-Paz and Oquab 2017, section 3) with a logistic regression on features.

    Folds never cut through a lesion. The larger set is drawn down to the smaller. The variance of the accuracy sums
    over lesions (images of one lesion are right or wrong together) and is inflated by what folds share (``INFLATION``);
    the p-value takes the accuracy as normal about 1/2.

    Features are [N, D] and [M, D]; groups the lesion of each image, of ``generated`` where it is made of real ones too.
    ``DataError``: fewer than 10 images or 5 lesions of a side.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    num = min(len(real), len(generated))
    chosen = [np.sort(rng.choice(len(x), num, replace=False)) for x in (real, generated)]
    names = [np.arange(len(x)) if g is None else g for x, g in ((real, groups), (generated, generated_groups))]
    groups = np.array([f"{side}/{name}" for side in (0, 1) for name in names[side][chosen[side]]])
    features = np.concatenate([real[chosen[0]], generated[chosen[1]]]).astype(np.float64)
    labels = np.repeat([0, 1], num)
    if num < 2 * NUM_FOLDS or min(len(np.unique(groups[labels == side])) for side in (0, 1)) < NUM_FOLDS:
        raise DataError(
            f"A two-sample test needs {2 * NUM_FOLDS} images and {NUM_FOLDS} lesions of each side; one side has {num} "
            "images.",
            "Give more images.",
        )
    right = np.empty(2 * num, bool)
    folds = StratifiedGroupKFold(NUM_FOLDS, shuffle=True, random_state=int(rng.integers(2**31)))
    for fit, test in folds.split(features, labels, groups):
        right[test] = _head().fit(features[fit], labels[fit]).predict(features[test]) == labels[test]
    accuracy = float(right.mean())
    of_group = np.unique(groups, return_inverse=True)[1].reshape(-1)
    error = INFLATION * np.sqrt((np.bincount(of_group, right - accuracy) ** 2).sum()) / len(right)
    # where each lesion is right or wrong by a coin
    tossed = INFLATION * np.sqrt((np.bincount(of_group) ** 2).sum() / 4) / len(right)
    half = stats.norm.ppf((1 + LEVEL) / 2) * error
    p_value = float(stats.norm.sf((accuracy - 0.5) / tossed))
    return TwoSampleTest(accuracy, float(max(0, accuracy - half)), float(min(1, accuracy + half)), p_value, num)


def transfer(
    generated: tuple[np.ndarray, np.ndarray],
    train: tuple[np.ndarray, np.ndarray],
    held_out: tuple[np.ndarray, np.ndarray],
    *,
    rng: np.random.Generator,
) -> Transfer | None:
    """Train on synthetic, test on real (Esteban et al. 2017), beside training on as many real images.

    Each argument is features [N, D] and labels [N] int64. Classes that all three have are used; None where fewer than
    two are left.
    """
    classes = sorted(set.intersection(*(set(labels.tolist()) for _, labels in (generated, train, held_out))))
    if len(classes) < 2:
        return None
    count = {k: int(min((generated[1] == k).sum(), (train[1] == k).sum())) for k in classes}
    tested = np.isin(held_out[1], classes)
    scores = []
    for features, labels in (generated, train):
        rows = np.concatenate([rng.choice(np.flatnonzero(labels == k), count[k], replace=False) for k in classes])
        head = _head().fit(features[rows].astype(np.float64), labels[rows])
        found = head.predict(held_out[0][tested].astype(np.float64))
        scores.append(float(np.mean([(found[held_out[1][tested] == k] == k).mean() for k in classes])))
    return Transfer(scores[0], scores[1], count, 1 / len(classes))


def _head() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    head = LogisticRegression(C=STRENGTH, max_iter=1000, class_weight="balanced", tol=1e-3)
    return make_pipeline(StandardScaler(), head)
