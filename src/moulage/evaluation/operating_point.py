"""The operating point of a classifier: which class it says of an image, apart from how its logits rank the images.

Post-hoc logit adjustment (A. K. Menon et al., Long-tail learning via logit adjustment, ICLR 2021, equation 9): said is
the class with the largest ``z_k - strength * log pi_k``, where pi are the shares of the classes among what was trained
on. A strength of 0 says the most probable class; 1 is what balanced accuracy asks of calibrated logits. The strength is
chosen on the validation part, never on the test part, and the logits stay what they are.
"""

import numpy as np

from moulage.errors import DataError

STEP, WIDTH = 0.05, 0.2
"""Between strengths, and standard deviation of the Gaussian by which balanced accuracy is smoothed over them."""
STRENGTHS = tuple(round(STEP * i, 2) for i in range(-20, 41))
"""To choose from. Plain training wants about 1, training for balanced classes about 0: each has room to both sides."""


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


def choose_strength(logits: np.ndarray, labels: np.ndarray, log_prior: np.ndarray) -> float:
    """The strength with the highest *smoothed* balanced accuracy (mean recall of the classes that occur).

    Balanced accuracy is a step function of the strength, and its highest step is a matter of a few images. So it is
    averaged over neighbouring strengths; beyond the range counts as the worst of it, and of equals the mean is taken,
    so that a step as wide as the range, which tells nothing, gives its middle.

    Args:
        logits: of the validation part, [N, K].
        labels: its class indices, int64 [N].
        log_prior: see the function, [K].

    ``DataError``: there is no image to choose with, or shapes differ.
    """
    if not len(labels) or len(labels) != len(logits):
        raise DataError(
            f"{len(labels)} labels of {len(logits)} images cannot choose an operating point.",
            "Give the split a validation part: it chooses the strength.",
        )
    number = np.bincount(labels)
    share = 1 / number[labels] / np.count_nonzero(number)
    accuracy = np.array([share @ (decide(logits, log_prior, strength) == labels) for strength in STRENGTHS])
    reach = round(3 * WIDTH / STEP)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * STEP / WIDTH) ** 2)
    smooth = np.convolve(np.pad(accuracy, reach, constant_values=accuracy.min()), kernel / kernel.sum(), "valid")
    return round(float(np.mean(np.array(STRENGTHS)[smooth > smooth.max() - 1e-9])), 3)
