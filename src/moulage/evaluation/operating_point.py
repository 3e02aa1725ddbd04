"""The operating point of a classifier: which class it says of an image, apart from how its logits rank the images.

Post-hoc logit adjustment (A. K. Menon et al., Long-tail learning via logit adjustment, ICLR 2021, equation 9): said is
the class with the largest ``z_k - strength * log pi_k``, where pi are the shares of the classes among what was trained
on. A strength of 0 says the most probable class; 1 is what balanced accuracy asks of calibrated logits. The strength is
chosen on the validation part, never on the test part, and the logits stay what they are.
"""

from collections.abc import Sequence

import numpy as np

from moulage.errors import DataError

STRENGTHS = tuple(round(0.1 * i, 1) for i in range(-10, 21))
"""To choose from. Plain training wants about 1, training for balanced classes about 0: each has room to both sides."""
NOISE = 0.5
"""Strengths whose balanced accuracy is so many standard errors below the best one's count as equally good."""


def log_prior(counts: np.ndarray) -> np.ndarray:
    """Log of the class shares, float64 [K], of the numbers of images that a classifier trained on, all above 0."""
    counts = np.asarray(counts, np.float64)
    if counts.ndim != 1 or not len(counts) or counts.min() <= 0:
        raise DataError(
            f"An operating point can only be set where every class was trained on; the counts are {counts.tolist()}.",
            "Leave the class out of the recipe.",
        )
    return np.log(counts / counts.sum())


def decide(logits: np.ndarray, log_prior: np.ndarray, strength: float) -> np.ndarray:
    """The class that is said of each image, int64 [N], for logits [N, K]; of equals the first.

    ``DataError`` if shapes differ or a share is 0.
    """
    if logits.ndim != 2 or log_prior.shape != logits.shape[1:] or not np.isfinite(log_prior).all():
        raise DataError(f"Logits {list(logits.shape)} cannot be adjusted by a prior of {log_prior.tolist()}.")
    return (logits - strength * log_prior).argmax(axis=1)


def choose_strength(
    logits: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    log_prior: np.ndarray,
    strengths: Sequence[float] = STRENGTHS,
) -> float:
    """The mean of the strengths whose balanced accuracy cannot be told from the best one's, rounded to 0.001.

    Balanced accuracy, the mean recall of the classes that occur, is a step function of the strength, and its highest
    step is a matter of a few images. So all strengths count that are less than ``NOISE`` standard errors below the best
    (of equals the first): the standard error is that of their difference over lesions, if there were none (a sum of
    squares, as in McNemar's test). A step that is as wide as the range says nothing, and its middle is taken.

    Args:
        logits: of the validation part, [N, K].
        labels: its class indices, int64 [N].
        groups: its lesions, [N].
        log_prior: see the function, [K].
        strengths: to choose from.

    ``DataError``: there is no image or no strength to choose with, or shapes differ.
    """
    if not len(labels) or not len(labels) == len(logits) == len(groups) or not len(strengths):
        raise DataError(
            f"{len(labels)} labels of {len(logits)} images of {len(groups)} lesions cannot choose one of "
            f"{len(strengths)} strengths.",
            "Give the split a validation part: it chooses the strength.",
        )
    tried = np.sort(np.asarray(strengths, np.float64))
    right = np.stack([decide(logits, log_prior, strength) == labels for strength in tried]).astype(np.float64)
    _, lesions = np.unique(groups.astype(str), return_inverse=True)
    number = np.bincount(labels)
    share = 1 / number[labels] / np.count_nonzero(number)
    best = int(np.round(right @ share, 12).argmax())
    lost = (right[best] - right) * share
    noise = np.sqrt([(np.bincount(lesions, row) ** 2).sum() for row in lost])
    return round(float(tried[lost.sum(axis=1) <= NOISE * noise + 1e-12].mean()), 3)
