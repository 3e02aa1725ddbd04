"""The eight symmetries of the square, of arrays of pictures."""

import numpy as np


def in_symmetry(stack: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Each picture of a stack [n, S, S, ...] in symmetry ``which`` [n] of 0..7.

    It is turned by a quarter ``which % 4`` times, anticlockwise; from 4 on it is put upside down before.
    """
    found = np.empty_like(stack)
    for symmetry in range(8):
        rows = which == symmetry
        chosen = stack[rows][:, :: -1 if symmetry >= 4 else 1]
        found[rows] = np.rot90(chosen, symmetry % 4, axes=(1, 2))
    return found
