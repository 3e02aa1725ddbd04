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
    """Log of the class shares, float64 [K], of the numbers of images that a classifier trained on.

    Raises:
        DataError: a class has no image.
    """
    counts = np.asarray(counts, np.float64)
    if counts.ndim != 1 or not len(counts) or counts.min() <= 0:
        raise DataError(
            f"Logits can only be adjusted where every class was trained on; the counts are {counts.tolist()}.",
            "Leave the class out of the recipe.",
        )
    return np.log(counts / counts.sum())


def adjust(logits: np.ndarray, log_prior: np.ndarray, tau: float) -> np.ndarray:
    """``logits - tau * log_prior``.

    Args:
        logits: float [N, K].
        log_prior: float [K], log of the class shares of the training.
        tau: strength; 0 leaves the logits as they are.

    Returns:
        [N, K], of the type of ``logits``.

    Raises:
        DataError: shapes differ, or a share is 0.
    """
    if logits.ndim != 2 or log_prior.shape != logits.shape[1:] or not np.isfinite(log_prior).all():
        raise DataError(f"Logits {list(logits.shape)} cannot be adjusted by a prior of {log_prior.tolist()}.")
    return (logits - tau * log_prior).astype(logits.dtype)


def choose_tau(logits: np.ndarray, labels: np.ndarray, log_prior: np.ndarray, taus: Sequence[float] = TAUS) -> float:
    """The strength with the highest balanced accuracy (mean recall of the classes that occur); the smallest of equals.

    Args:
        logits: float [N, K] of the validation part.
        labels: int64 [N].
        log_prior: float [K], log of the class shares of the training.
        taus: strengths to choose from.

    Raises:
        DataError: no image or no strength to choose with, or shapes differ.
    """
    if not len(labels) or len(labels) != len(logits) or not len(taus):
        raise DataError(
            f"{len(labels)} labels of {len(logits)} images cannot choose one of {len(taus)} strengths.",
            "Give the split a validation part: it chooses the strength.",
        )
    classes = np.unique(labels)
    ordered = sorted(taus)
    recalls = []
    for tau in ordered:
        right = adjust(logits, log_prior, tau).argmax(axis=1) == labels
        recalls.append(round(float(np.mean([right[labels == k].mean() for k in classes])), 12))
    return float(ordered[int(np.argmax(recalls))])
