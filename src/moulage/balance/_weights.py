"""Weights of classes by their counts, for losses and samplers."""

import numpy as np

from moulage.treatment import check_counts


def inverse(counts: np.ndarray) -> np.ndarray:
    """Weights w_k ~ 1 / n_k, float64 [K], that sum to K."""
    weights = 1 / check_counts(counts)
    return weights * len(weights) / weights.sum()


def effective_number(counts: np.ndarray, beta: float) -> np.ndarray:
    """Weights w_k ~ (1 - beta) / (1 - beta^n_k), float64 [K], that sum to K.

    Cui et al. 2019 (arXiv:1901.05555), section 4, with its normalisation. Beta = 0 gives equal weights, near 1 those of
    ``inverse``.
    """
    counts = check_counts(counts)
    weights = (1 - beta) / (1 - beta**counts)
    return weights * len(weights) / weights.sum()
