"""Drawing maths of ``phantom``: a dermoscope's photograph of a lesion's canvas."""

import math
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from moulage.sources._draw import Array, along, plane, step, strokes, walk

HAIR = np.array([0.22, 0.15, 0.11], np.float32)
"""Mean colour of a hair."""


class Camera(NamedTuple):
    """What a source's dermoscope adds to its photographs."""

    cast: tuple[float, float, float]  # gain of red, green and blue
    vignette: tuple[float, float]  # least and greatest radius of the black ring in view widths; from 0.71 on outside
    hairs: float  # mean number of hairs on a photograph with hairs
    ruler: float  # share of photographs with a ruler
    bubbles: float  # mean number of gel bubbles


def photograph(rng: Generator, canvas: Array, camera: Camera, size: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Look at a canvas through a dermoscope: any rotation, some zoom and shift, other light, hairs, gel, ruler.

    The photograph is uint8 [size, size, 3], its lesion mask bool [size, size].
    """
    y, x = plane(size, 1.0)
    angle, zoom = rng.uniform(0, 2 * np.pi), math.exp(rng.normal(0, 0.13))
    shift = rng.normal(0, 0.04), rng.normal(0, 0.04)
    scale, middle = size / zoom, (len(canvas) - 1) / 2
    rows = middle + scale * along(angle + np.pi / 2, x, y) + size * shift[0]
    columns = middle + scale * along(angle, x, y) + size * shift[1]
    seen = bilinear(canvas, rows, columns)
    image, mask = seen[..., :3], seen[..., 3] > 0
    image = _light(rng, image, x, y)
    image = _hairs(rng, image, camera, size)
    image = _gel(rng, image, camera, x, y)
    if rng.random() < camera.ruler:
        image *= 1 - 0.75 * _ruler(rng, size)[..., None]
    image *= (np.array(camera.cast) * np.exp(rng.normal(0, 0.025, 3))).astype(np.float32)
    image = _vignette(rng, image, camera, x, y)
    image = gaussian_filter(image, (*rng.uniform(0.3, 0.7, 2), 0), truncate=3)
    image += 0.008 * rng.standard_normal(image.shape, dtype=np.float32)
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8), mask


def bilinear(canvas: Array, rows: Array, columns: Array) -> Array:
    """A canvas [C, C, K] at pixel positions [S, S], interpolated linearly -> [S, S, K]; clamped at its edge."""
    last = len(canvas) - 1
    rows, columns = np.clip(rows, 0, last - 1e-3), np.clip(columns, 0, last - 1e-3)
    top, left = rows.astype(np.int64), columns.astype(np.int64)
    down, right = (rows - top).astype(np.float32)[..., None], (columns - left).astype(np.float32)[..., None]
    flat, corner = canvas.reshape(-1, canvas.shape[-1]), top * len(canvas) + left
    upper = flat[corner] * (1 - right) + flat[corner + 1] * right
    lower = flat[corner + len(canvas)] * (1 - right) + flat[corner + len(canvas) + 1] * right
    return upper * (1 - down) + lower * down


def _light(rng: Generator, image: Array, x: Array, y: Array) -> Array:
    """Exposure and light that falls from one side, and a little from the middle."""
    slope = rng.normal(0, 0.10) * along(rng.uniform(0, 2 * np.pi), x, y) - rng.uniform(0, 0.25) * (x**2 + y**2)
    return image * np.exp(slope + rng.normal(0, 0.07))[..., None]


def _hairs(rng: Generator, image: Array, camera: Camera, size: int) -> Array:
    """Hairs that mostly lie the same way; none on six photographs of ten."""
    num = rng.poisson(2 * camera.hairs * rng.random()) if rng.random() < 0.4 else 0
    way, colour = rng.uniform(0, 2 * np.pi), HAIR * rng.uniform(0.4, 1.6)
    paths = []
    for _ in range(num):
        start, length = rng.uniform(-0.1, 1.1, 2) * size, rng.uniform(0.3, 1.2) * size
        paths.append(walk(rng, start, way + rng.normal(0, 0.5), length, rng.normal(0, 0.8), 0.01))
    opacity = 0.85 * strokes(paths, size, rng.uniform(0.7, 1.2) * size / 96)[..., None]
    return image + opacity * (colour - image)


def _gel(rng: Generator, image: Array, camera: Camera, x: Array, y: Array) -> Array:
    """Air bubbles in the gel: thin bright rings with a dark outer side."""
    for _ in range(rng.poisson(camera.bubbles)):
        right, down = rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5)
        edge = (np.hypot(x - right, y - down) - rng.uniform(0.015, 0.05)) / 0.008
        image = image + (0.12 * np.exp(-(edge**2)) - 0.07 * np.exp(-((edge - 2) ** 2)))[..., None]
    return image


def _ruler(rng: Generator, size: int) -> Array:
    """A scale of ticks near one side of the picture, every fifth longer; opacity [size, size]."""
    gap, edge = rng.uniform(0.03, 0.05) * size, rng.uniform(0.86, 0.94) * size
    begin, num = rng.uniform(0.1, 0.5) * size, rng.integers(6, 12)
    paths = [
        walk(rng, np.array([edge, begin + k * gap]), -np.pi / 2, (0.05 if k % 5 == 0 else 0.03) * size, 0, 0)
        for k in range(num)
    ]
    scale = strokes(paths, size, 0.8 * size / 96)
    return np.rot90(scale, int(rng.integers(4)))


def _vignette(rng: Generator, image: Array, camera: Camera, x: Array, y: Array) -> Array:
    """The black ring of the dermoscope's tube."""
    radius, right, down = rng.uniform(*camera.vignette), rng.normal(0, 0.012), rng.normal(0, 0.012)
    return image * step(radius - np.hypot(x - right, y - down), rng.uniform(0.006, 0.02))[..., None]
