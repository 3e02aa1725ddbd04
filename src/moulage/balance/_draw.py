"""Rows drawn from those that there are."""

import numpy as np


def evenly(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` of these rows [n], each of them once before any is drawn again; none where there are none."""
    rounds = [rng.permutation(rows) for _ in range(-(-count // max(1, len(rows))))]
    return np.concatenate([*rounds, rows[:0]])[:count]
