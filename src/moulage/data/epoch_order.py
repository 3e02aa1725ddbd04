"""How often an epoch draws each example, and where in its order the example then stands."""

import numpy as np


def rounded(shares: np.ndarray, labels: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """How often each example is drawn, int64 [n], sum ``total``: in proportion to its share, rounded up or down.

    The mean over the random numbers is exact, and classes are rounded once (systematic sampling, class by class).
    """
    order = np.lexsort((rng.random(len(labels)), labels))
    edges = np.cumsum(shares[order])
    edges = np.floor(edges / edges[-1] * total + rng.random()).astype(np.int64)
    times = np.empty(len(labels), np.int64)
    times[order] = np.diff(edges, prepend=0)
    return times


def keep_in_place(content: np.ndarray, times: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Content [n] in which example i stands ``times[i]`` times: where it stands already, and else at random places.

    ``content``: indices of examples, int64 [n]; ``times``: int64 [num_examples], sum n.
    """
    by_example = np.argsort(content, kind="stable")
    grouped = content[by_example]
    occurrence = np.empty(len(content), np.int64)  # the how-manieth time that an example stands here, from 0
    occurrence[by_example] = np.arange(len(content)) - np.searchsorted(grouped, grouped)
    kept = occurrence < times[content]
    missing = times - np.bincount(content[kept], minlength=len(times))
    result = content.copy()
    result[~kept] = rng.permutation(np.repeat(np.arange(len(times)), missing))
    return result


def at_even_distances(
    order: np.ndarray, share: float, weights: np.ndarray, labels: np.ndarray, num_real: int, rng: np.random.Generator
) -> np.ndarray:
    """An order of real examples with extra ones in between, at even distances from a random place on.

    Of any n places in a row, n times the share hold extra examples, rounded up or down. Real and extra examples are
    each drawn in proportion to their weights, and real ones stay where they stand, as often as they still do.

    Args:
        order: indices of real examples, int64 [n].
        share: of extra examples, between 0 and 1.
        weights: of all real and then all extra examples, float64 [num_examples], above 0.
        labels: of these, int64 [num_examples].
        num_real: how many of them are real.
        rng: draws the first place, and what is drawn how often.
    """
    is_extra = np.diff(np.floor(np.arange(len(order) + 1) * share + rng.random())) > 0
    found = order.copy()
    # Real ones first, so that they are the same whatever is extra.
    for of, where in ((slice(num_real), ~is_extra), (slice(num_real, None), is_extra)):
        times = np.zeros(len(labels), np.int64)
        times[of] = rounded(weights[of], labels[of], int(where.sum()), rng)
        found[where] = keep_in_place(order[where], times, rng)
    return found
