"""Drawing maths of ``phantom``: dermoscopic patterns, each one kind of structure in one colour on a ground of another.

The kinds are basic elements of pattern analysis (Kittler 2007, Dermatopathology: Practical & Conceptual 13): reticular,
parallel and radial lines, circles, clods, and cells between lines. They are so coarse that images of 48 pixels show
them.
"""

from itertools import permutations
from typing import NamedTuple

import numpy as np
from numpy.random import Generator, default_rng

from moulage.sources._draw import EXTENT, Array, Layer, along, cells, dots, honeycomb, noise, plane, step

# Red, green and blue of what melanin, blood and keratin look like by their depth.
COLOURS = {
    "black": np.array([0.12, 0.09, 0.09], np.float32),
    "brown": np.array([0.44, 0.25, 0.13], np.float32),
    "blue": np.array([0.33, 0.41, 0.66], np.float32),
    "red": np.array([0.82, 0.18, 0.20], np.float32),
    "white": np.array([0.97, 0.94, 0.90], np.float32),
    "yellow": np.array([0.95, 0.76, 0.28], np.float32),
}
KINDS = ("reticular", "parallel", "radial", "circles", "clods", "cells")


class Pattern(NamedTuple):
    """A structure on a ground."""

    kind: str  # one of ``KINDS``
    structure: str  # its colour, one of ``COLOURS``
    ground: str  # another one


def families(num: int, taken: list[Pattern]) -> list[tuple[Pattern, ...]]:
    """So many families of six patterns, at most four: a family has each kind once, and a pattern two colours, in this
    order, that no other pattern of any family and none of ``taken`` has.

    What tells two families apart is therefore neither a kind nor a colour, and a pattern is known only by having been
    seen.
    """
    pairs = [pair for pair in permutations(COLOURS, 2) if pair not in [pattern[1:] for pattern in taken]]
    mixed = iter(default_rng(26).permutation(len(pairs)).tolist())
    return [tuple(Pattern(kind, *pairs[next(mixed)]) for kind in KINDS) for _ in range(num)]


def layers(pattern: Pattern, rng: Generator, depth: Array) -> list[Layer]:
    """Ground and structure of a lesion of this depth below its outline (``_draw.draw_lesion``), a little mottled."""
    side, body = len(depth), step(depth, 0.05)
    mottled = np.clip(0.85 + 0.1 * noise(rng, side, 0.1, 1.1), 0.5, 1)
    inked = np.clip(_structure(pattern.kind, rng, depth, body), 0, 1)
    return [(COLOURS[pattern.ground], mottled * body), (COLOURS[pattern.structure], mottled * body * inked)]


def _structure(kind: str, rng: Generator, depth: Array, body: Array) -> Array:
    """Where the structure lies, 0..1 [side, side]."""
    side, turn = len(depth), rng.uniform(0, 2 * np.pi)
    y, x = plane(side, EXTENT)
    if kind == "reticular":
        return step(honeycomb(rng, side, 0.14) - 0.1, 0.1)
    if kind == "parallel":
        return step(np.cos(2 * np.pi / 0.13 * along(turn, x, y)) - 0.1, 0.1)
    if kind == "radial":
        return step(np.cos(6 * np.arctan2(y, x) + turn) - 0.1, 0.1)
    if kind == "circles":
        return step(np.cos(2 * np.pi / 0.42 * depth + turn) - 0.1, 0.1)
    if kind == "clods":
        return 1.5 * dots(rng, body**4, 16, 0.04)
    wall, _ = cells(rng, side, 0.18, 0.4)
    return step(0.14 - wall, 0.02)
