"""Rows drawn from those that there are."""

from collections.abc import Iterator, Mapping

import numpy as np


def evenly(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` of these rows [n], each of them once before any is drawn again; none where there are none."""
    rounds = [rng.permutation(rows) for _ in range(-(-count // max(1, len(rows))))]
    return np.concatenate([*rounds, rows[:0]])[:count]


def by_class(
    labels: np.ndarray, add: Mapping[str, int], rng: np.random.Generator
) -> Iterator[tuple[str, int, np.ndarray]]:
    """Each class with how many rows were asked for, and so many of its rows, drawn evenly; none where it has none.

    Each class draws by itself, so that the rows of a smaller count are the first of a larger one, whatever is asked of
    the other classes. ``labels``: names of the rows' classes [N].
    """
    for (name, count), own in zip(add.items(), rng.spawn(len(add)), strict=True):
        yield name, count, evenly(np.flatnonzero(labels == name), count, own)
