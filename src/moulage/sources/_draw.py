"""Drawing maths of ``phantom``: a lesion on skin from a few numbers.

Skin is drawn as chromophore maps: melanin and blood absorb light by Beer and Lambert's law, so that browns, pinks and
reds mix as they do in skin; a blue-white veil, scars and keratin lie above them. Lengths are in view widths (1 is the
side of an unzoomed photograph). A lesion's canvas is wider than one view, so that it can be turned and shifted under
the lens (``_camera.photograph``).
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, cast

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.fft import irfft2, next_fast_len, rfft2
from scipy.ndimage import gaussian_filter
from scipy.special import expit

Array = NDArray[np.floating]
"""Float32 or float64 values of a canvas or a view."""
EXTENT = 1.4
"""Width of a canvas in view widths."""
FAINT = 0.1
"""Structures weaker than this are not drawn."""

# Red, green and blue: of skin without pigment, absorbed by one unit of melanin and of blood, added by one of greying.
BARE_SKIN = np.array([0.97, 0.87, 0.81], np.float32)
MELANIN = np.array([0.41, 0.64, 0.98], np.float32)
BLOOD = np.array([0.15, 1.05, 0.68], np.float32)
GREYING = np.array([1.0, 0.1, -0.8], np.float32)
# Red, green and blue of what lies above the skin.
BLUE = np.array([0.40, 0.45, 0.56], np.float32)
WHITE = np.array([0.96, 0.91, 0.88], np.float32)
KERATIN = np.array([0.93, 0.87, 0.77], np.float32)
PLUG = np.array([0.33, 0.22, 0.14], np.float32)


class Traits(NamedTuple):
    """What a lesion looks like. Strengths are 0 (absent) to about 1 (marked)."""

    radius: float = 0.25  # view widths
    elongation: float = 0.1
    irregularity: float = 0.15
    softness: float = 0.12  # width of the border, in radii
    asymmetry: float = 0.1
    variegation: float = 0.2
    melanin: float = 0.0  # optical density; 1 is brown, 2 nearly black
    blood: float = 0.0  # optical density; 0.4 is pink, 1 red
    core: float = 0.0  # darker (above 0) or paler (below 0) in the middle
    halo: float = 0.0  # a red (above 0) or pale (below 0) ring around the lesion
    grey: float = 0.0  # ashen (above 0) or golden (below 0) tint of the pigment
    rim: float = 0.0  # share of the melanin that lies at the border
    network: float = 0.0
    globules: float = 0.0
    veil: float = 0.0
    scar: float = 0.0
    nests: float = 0.0
    vessels: float = 0.0
    follicles: float = 0.0
    keratin: float = 0.0
    cysts: float = 0.0
    lacunae: float = 0.0


Layer = tuple[Array, Array]
"""A colour [3] and its opacity [side, side]."""
Structure = Callable[[Generator, Array], list[Layer]]
"""What lies above the skin beside the traits' own: from ``rng`` and the depth below the outline [side, side]."""


def draw_lesion(rng: Generator, traits: Traits, size: int, structure: Structure | None = None) -> Array:
    """Skin with one lesion in its middle, all of it drawn from ``rng``; ``size``: pixels a side of one view.

    The canvas is float32 [C, C, 4], C at least ``EXTENT * size``: red, green, blue in 0..1, and the depth below the
    outline, which is positive inside the lesion.
    """
    side = cast(int, next_fast_len(round(EXTENT * size), real=True))
    y, x = plane(side, EXTENT)
    depth = _depth(rng, traits, x, y)
    body = step(depth, traits.softness)
    shade = traits.asymmetry / traits.radius * along(rng.uniform(0, 2 * np.pi), x, y)
    amount = np.clip(1 + shade + 0.6 * traits.variegation * noise(rng, side, 0.12, 1.1), 0.08, 2.5)
    melanin, blood = _skin(rng, side)
    ring = np.exp(-(((depth + 0.3) / 0.25) ** 2))
    pigment = _pigment(rng, traits, depth, body, amount)
    blood = np.maximum(blood + 0.35 * traits.halo * ring, 0) + _redness(rng, traits, depth, body)
    melanin = np.maximum(melanin + min(0.2 * traits.halo, 0) * ring, 0)
    tint = MELANIN * np.exp(0.35 * np.clip(traits.grey, -1.5, 1.5) * GREYING)
    absorbed = melanin[..., None] * MELANIN + pigment[..., None] * tint + blood[..., None] * BLOOD
    colours = BARE_SKIN * np.exp(-absorbed)
    layers = _overlays(rng, traits, depth, body) + (structure(rng, depth) if structure else [])
    for colour, opacity in layers:
        colours += np.clip(opacity, 0, 1)[..., None] * (colour - colours)
    return np.dstack([colours, depth]).astype(np.float32)


def noise(rng: Generator, side: int, wavelength: float, power: float = 1.5) -> Array:
    """A smooth random field [side, side] of mean 0 and variance 1, periodic over the canvas: filtered white noise.

    Features longer than ``wavelength`` (view widths) are all equally strong; shorter ones fall off as frequency ** (-2
    * power): 1 is cloudy, 2 is smooth.
    """
    white = rng.standard_normal((side, side), dtype=np.float32)
    return np.asarray(irfft2(np.asarray(rfft2(white)) * _filter(side, wavelength, power), s=(side, side)))


@lru_cache(maxsize=64)
def _filter(side: int, wavelength: float, power: float) -> Array:
    """Response of ``noise``'s filter over the frequencies of ``rfft2``; white noise keeps its variance."""
    rows, columns = np.fft.fftfreq(side, EXTENT / side), np.fft.rfftfreq(side, EXTENT / side)
    response = (1 + (rows[:, None] ** 2 + columns**2) * wavelength**2) ** -power
    response[0, 0] = 0
    twice = np.where((columns == 0) | (columns == columns[-1] * (side % 2 == 0)), 1, 2)
    return (response * side / np.sqrt((twice * response**2).sum())).astype(np.float32)


@lru_cache(maxsize=8)
def plane(side: int, extent: float) -> Array:
    """Coordinates (y, x) of the pixels' centres, 0 in the middle, [2, side, side]."""
    return ((np.mgrid[:side, :side] - (side - 1) / 2) * (extent / side)).astype(np.float32)


def along(angle: float, x: Array, y: Array) -> Array:
    """Coordinate along the direction ``angle``."""
    return math.cos(angle) * x + math.sin(angle) * y


def step(values: Array, width: float) -> Array:
    """A soft step from 0 to 1 where values cross 0 (the logistic function)."""
    return expit(values / width)


def _depth(rng: Generator, traits: Traits, x: Array, y: Array) -> Array:
    """How far inside the lesion: 1 in the middle, 0 on the outline, negative outside; in radii."""
    angle, stretch = rng.uniform(0, np.pi), math.exp(0.5 * traits.elongation)
    u, v = along(angle, x, y), along(angle + np.pi / 2, x, y)
    rough = np.clip(noise(rng, len(x), 0.35, 1.3), -2.2, 2.2)
    return 1 - np.hypot(u / stretch, v * stretch) / traits.radius + traits.irregularity * rough


def _skin(rng: Generator, side: int) -> tuple[Array, Array]:
    """Melanin and blood of the skin around: blotches, fine relief, at times freckles."""
    relief = 0.014 * noise(rng, side, 0.05, 1.0)
    melanin = rng.gamma(2.0, 0.08) + 0.04 * noise(rng, side, 0.3) + relief
    blood = rng.gamma(3.0, 0.045) + 0.05 * noise(rng, side, 0.2, 1.1) + relief
    if rng.random() < 0.25:
        melanin += 0.3 * dots(rng, np.ones((side, side)), rng.poisson(12), 0.02)
    return melanin, blood


def _pigment(rng: Generator, traits: Traits, depth: Array, body: Array, amount: Array) -> Array:
    """Melanin of the lesion: mottled, as a rim, a network or globules."""
    at_rim = np.exp(-(((depth - 0.2) / 0.22) ** 2))
    melanin = traits.melanin * amount * body * (1 - traits.rim + 1.3 * traits.rim * at_rim)
    melanin *= np.exp(0.8 * np.clip(traits.core, -1.5, 1.5) * (2 * step(depth - 0.55, 0.08) - 0.6))
    if traits.network > FAINT:
        lines = honeycomb(rng, len(depth), rng.uniform(0.036, 0.05))
        melanin *= 1 + traits.network * np.clip(1.4 - depth, 0.3, 1) * lines
    if traits.globules > FAINT:
        spots = dots(
            rng, body**4 * np.clip(1.3 - depth, 0.1, 1), rng.poisson(45 * traits.globules), rng.uniform(0.011, 0.017)
        )
        melanin += (0.5 + 0.6 * traits.melanin) * spots
    return melanin


def _redness(rng: Generator, traits: Traits, depth: Array, body: Array) -> Array:
    """Blood of the lesion and around it: flush, branching vessels, strawberry pattern, lacunae."""
    side = len(depth)
    flush = step(depth + 0.1, traits.softness + 0.1)
    blood = traits.blood * flush * np.clip(1 + 0.3 * noise(rng, side, 0.1, 1.1), 0.2, 2)
    if traits.vessels > FAINT:
        blood += 0.75 * min(traits.vessels, 1.3) * _vessels(rng, traits, side) * body
    if traits.follicles > FAINT:
        blood *= 1 + 0.8 * traits.follicles * honeycomb(rng, side, rng.uniform(0.07, 0.09))
    if traits.lacunae > FAINT:
        wall, tone = cells(rng, side, traits.radius * rng.uniform(0.35, 0.5), 1.4 * traits.radius)
        blood *= 1 + traits.lacunae * (np.clip(wall * 2.2, 0, 1) * (0.7 + 0.8 * tone) - 0.6)
    return np.maximum(blood, 0)


def _overlays(rng: Generator, traits: Traits, depth: Array, body: Array) -> list[Layer]:
    """Colours that lie above the skin, with their opacity maps, in the order in which they are laid."""
    side = len(depth)
    layers = []
    if traits.veil > FAINT:
        layers.append((BLUE, traits.veil * body * np.clip(depth + 0.7 * noise(rng, side, 0.25), 0, 0.8)))
    if traits.nests > FAINT:
        nests = dots(rng, body**4, 1 + rng.poisson(7 * traits.nests), rng.uniform(0.022, 0.035))
        layers.append((BLUE * 0.8, 0.85 * min(traits.nests, 1) * nests))
    if traits.scar > FAINT:
        streaks = np.clip(1 + 0.4 * noise(rng, side, 0.05, 1.0), 0, 1.6)
        layers.append((WHITE, traits.scar * 0.8 * streaks * step(depth - 0.5, 0.1)))
    if traits.follicles > FAINT:
        layers.append((KERATIN, 0.4 * traits.follicles * dots(rng, body**4, rng.poisson(30), 0.011)))
    if traits.keratin > FAINT:
        crust = step(noise(rng, side, 0.12, 1.4) + 1.5 * depth - 1.3 + 0.6 * traits.keratin, 0.35)
        layers.append((KERATIN, 0.8 * min(traits.keratin, 1) * crust * body))
    if traits.cysts > FAINT:
        layers.append((PLUG, 0.8 * dots(rng, body**4, rng.poisson(14 * traits.cysts), 0.013)))
        layers.append((WHITE, 0.85 * dots(rng, body**4, rng.poisson(16 * traits.cysts), 0.010)))
    return layers


def dots(rng: Generator, weight: Array, num: int, radius: float) -> Array:
    """Soft round spots [side, side] in 0..1, placed with probability in proportion to ``weight``."""
    side, chance = len(weight), np.cumsum(weight)
    places = np.searchsorted(chance, rng.random(num) * chance[-1])
    field = np.bincount(places, rng.uniform(0.5, 1.2, num), side * side).astype(np.float32).reshape(side, side)
    sigma = radius * side / EXTENT
    return np.clip(gaussian_filter(field, sigma, truncate=3) * 2 * np.pi * sigma**2 * 1.3, 0, 1)


def honeycomb(rng: Generator, side: int, period: float) -> Array:
    """A bent honeycomb [side, side] of three plane waves: about +1 on its lines, about -1 in its holes."""
    y, x = plane(side, EXTENT)
    x, y = x + 0.5 * period * noise(rng, side, 0.15), y + 0.5 * period * noise(rng, side, 0.15)
    turn = rng.uniform(0, np.pi)
    waves = [np.cos(2 * np.pi / period * along(turn + k * 2 * np.pi / 3, x, y)) for k in range(3)]
    return np.clip(0.4 - 0.45 * np.sum(waves, axis=0), -1, 1)


def cells(rng: Generator, side: int, spacing: float, reach: float) -> tuple[Array, Array]:
    """Voronoi cells in the middle of a canvas, as two maps [side, side].

    They have the distance to the nearest wall in units of ``spacing``, and one random tone in 0..1 a cell.
    """
    num = min(40, max(4, round((2 * reach / spacing) ** 2)))
    centres, tones = rng.uniform(-reach, reach, (num, 2)).astype(np.float32), rng.random(num)
    y, x = plane(side, EXTENT)
    squared = (y - centres[:, 0, None, None]) ** 2 + (x - centres[:, 1, None, None]) ** 2
    nearest = squared.argmin(axis=0)
    two = np.sqrt(np.partition(squared, 1, axis=0)[:2])
    return (two[1] - two[0]) / spacing, tones[nearest]


def strokes(paths: list[Array], side: int, width: float) -> Array:
    """Lines through points (y, x) in pixels, half a pixel apart; opacity [side, side] in 0..1; ``width`` in pixels."""
    points = np.concatenate([*paths, np.empty((0, 2))])
    corner = np.floor(points).astype(int)
    part = points - corner
    field = np.zeros(side * side)
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = corner[:, 0] + dy, corner[:, 1] + dx
        share = np.abs(1 - dy - part[:, 0]) * np.abs(1 - dx - part[:, 1])
        inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
        field += np.bincount((row * side + column)[inside], share[inside], side * side)
    sigma = 0.4 * width
    return np.clip(
        gaussian_filter(field.astype(np.float32).reshape(side, side), sigma, truncate=3) * 0.5 * max(sigma * 2.5, 1),
        0,
        1,
    )


def walk(rng: Generator, start: Array, heading: float, length: float, bend: float, wobble: float) -> Array:
    """Points [n, 2] half a pixel apart on a path of ``length`` pixels that turns by ``bend`` radians in all."""
    num = max(2, int(2 * length))
    angle = heading + np.linspace(0, bend, num) + np.cumsum(rng.normal(0, wobble, num))
    return start + 0.5 * np.cumsum(np.stack([np.sin(angle), np.cos(angle)], axis=1), axis=0)


def _vessels(rng: Generator, traits: Traits, side: int) -> Array:
    """Branching vessels: stems that cross the lesion and twigs that leave them."""
    radius, stems, twigs = traits.radius * side / EXTENT, [], []
    for _ in range(1 + rng.poisson(3)):
        start = side / 2 + rng.normal(0, 0.5 * radius, 2)
        stem = walk(rng, start, rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.6) * radius, rng.normal(0, 1), 0.12)
        stems.append(stem)
        for at in rng.integers(0, len(stem), rng.poisson(3)):
            twigs.append(walk(rng, stem[at], rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.7) * radius, 0.0, 0.15))
    unit = side / EXTENT / 96
    return np.maximum(strokes(stems, side, 1.6 * unit), 0.7 * strokes(twigs, side, 1.0 * unit))
