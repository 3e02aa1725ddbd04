"""Post-hoc logit adjustment: tau times the log of the class shares is taken off the logits (Menon et al. 2021).

A. K. Menon et al., Long-tail learning via logit adjustment, ICLR 2021, equation 9. Tau is chosen on the validation
part, never on the test part.
"""

from collections.abc import Sequence

import numpy as np

from moulage.errors import DataError

TAUS = tuple(round(0.1 * i, 1) for i in range(21))
"""Strengths to choose from: 0 (nothing) to 2; 1 is what the theory asks for where the logits are calibrated."""


def log_prior(counts: np.ndarray) -> np.ndarray:
    """Log of the class shares, float64 [K], of the numbers of images that a classifier trained on, all above 0."""
    counts = np.asarray(counts, np.float64)
    if counts.ndim != 1 or not len(counts) or counts.min() <= 0:
        raise DataError(
            f"Logits can only be adjusted where every class was trained on; the counts are {counts.tolist()}.",
            "Leave the class out of the recipe.",
        )
    return np.log(counts / counts.sum())


def adjust(logits: np.ndarray, log_prior: np.ndarray, tau: float) -> np.ndarray:
    """``logits - tau * log_prior`` of logits [N, K], in their type; ``DataError`` if shapes differ or a share is 0."""
    if logits.ndim != 2 or log_prior.shape != logits.shape[1:] or not np.isfinite(log_prior).all():
        raise DataError(f"Logits {list(logits.shape)} cannot be adjusted by a prior of {log_prior.tolist()}.")
    return (logits - tau * log_prior).astype(logits.dtype)


def choose_tau(logits: np.ndarray, labels: np.ndarray, log_prior: np.ndarray, taus: Sequence[float] = TAUS) -> float:
    """The strength with the highest balanced accuracy (mean recall of the classes that occur); the smallest of equals.

    Logits [N, K] and labels int64 [N] are those of the validation part. ``DataError``: there is no image or no strength
    to choose with, or shapes differ.
    """
    if not len(labels) or len(labels) != len(logits) or not len(taus):
        raise DataError(
            f"{len(labels)} labels of {len(logits)} images cannot choose one of {len(taus)} strengths.",
            "Give the split a validation part: it chooses the strength.",
        )
    classes = np.unique(labels)

    def balanced_accuracy(tau: float) -> float:
        right = adjust(logits, log_prior, tau).argmax(axis=1) == labels
        return round(float(np.mean([right[labels == k].mean() for k in classes])), 12)

    return float(max(sorted(taus), key=balanced_accuracy))
