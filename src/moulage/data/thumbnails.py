"""What is seen in thumbnails: how alike two photographs are, whatever their colours, orientation and slight crop.

Thumbnails are uint8 [N, 32, 32, 3]. The dark vignette is masked, because round vignettes make all images alike.
"""

import numpy as np
from scipy import fft, ndimage

from moulage.data.pixel_writer import THUMBNAIL_SIDE as SIDE

ORIENTATIONS = (
    *("as is", "mirrored left-right", "mirrored top-bottom", "turned by 180 degrees"),
    *("transposed", "turned right", "turned left", "transposed and turned by 180 degrees"),
)
"""How the second image of a pair is turned to lie on the first; bits of the index: 4 transpose, 2 rows, 1 columns."""

INVERSE = np.array([0, 1, 2, 3, 4, 6, 5, 7])
"""The orientation that undoes each."""

DARK = 40
"""Largest channel value (of 255) of a vignette's pixels."""

_FREQUENCIES = 9
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # weights of R, G, B in grey (ITU-R BT.601)
_SIGN = np.where(np.arange(_FREQUENCIES) % 2, -1, 1).astype(np.float32)
_ROWS, _COLUMNS = np.mgrid[:SIDE, :SIDE].astype(np.float32) - (SIDE - 1) / 2


def luminance(images: np.ndarray) -> np.ndarray:
    """Grey (ITU-R BT.601), float32 [...] in 0..255, of pixels uint8 [..., 3]."""
    return images.astype(np.float32) @ LUMINANCE


def inside(thumbnails: np.ndarray) -> np.ndarray:
    """The pixels of thumbnails uint8 [N, 32, 32, 3] inside the vignette: bool [N, 32, 32], all where there is none.

    The vignette is what is dark and connected with a corner, and a rim of two pixels.
    """
    dark = thumbnails.max(axis=3) < DARK
    corners = np.zeros_like(dark)
    corners[:, :: SIDE - 1, :: SIDE - 1] = True
    within_image = ndimage.generate_binary_structure(2, 1)[None]
    border = ndimage.binary_propagation(corners & dark, structure=within_image, mask=dark)
    return np.logical_not(ndimage.binary_dilation(border, structure=within_image, iterations=2))


def centred(images: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Images minus their weighted mean, zero where the weight [N, 32, 32] is."""
    total = np.maximum(weight.sum(axis=(1, 2), keepdims=True), 1)
    return (images - (images * weight).sum(axis=(1, 2), keepdims=True) / total) * weight


def descriptors(grey: np.ndarray, power: float) -> np.ndarray:
    """DCT coefficients of frequency 0 to 8 each way, [N, 9, 9], float32, of unit length; zero for a flat image.

    Of luminances float32 [N, 32, 32]. Coefficients are weighted with their frequency to ``power``, against the 1/f
    spectrum of photographs.
    """
    basis = np.asarray(fft.dct(np.eye(SIDE), axis=0, norm="ortho"), np.float32)[:_FREQUENCIES]
    frequency = np.hypot(*np.mgrid[:_FREQUENCIES, :_FREQUENCIES]).astype(np.float32)
    found = (basis @ grey @ basis.T) * frequency**power
    return found / np.maximum(np.sqrt((found**2).sum(axis=(1, 2), keepdims=True)), 1e-6)


def oriented(found: np.ndarray, index: int) -> np.ndarray:
    """``descriptors`` [N, 9, 9] of the images in another orientation: coefficients change their signs and places."""
    turned = found.swapaxes(1, 2) if index & 4 else found
    return turned * (_SIGN[:, None] if index & 2 else 1) * (_SIGN if index & 1 else 1)


def orient(images: np.ndarray, index: int) -> np.ndarray:
    """Images [..., S, S] in the orientation ``ORIENTATIONS[index]``."""
    if index & 4:
        images = images.swapaxes(-2, -1)
    return images[..., :: -1 if index & 2 else 1, :: -1 if index & 1 else 1]


def compare(
    first: np.ndarray, first_weight: np.ndarray, second: np.ndarray, second_weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """``detail`` and ``overlap`` [n] of pairs of luminances [n, 32, 32] once the second is aligned with the first.

    Weights [n, 32, 32] are 1 inside the vignette and 0 outside.
    """
    warp = align(first, second, first_weight * second_weight)
    weight = first_weight * (warped(second_weight, warp) > 0.99)
    return correlated_detail(first, warped(second, warp), weight), weight.mean(axis=(1, 2))


def correlated_detail(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Correlation [n] of the fine structure of luminances [n, 32, 32] that lie on each other."""
    fine = [_unit(_fine(image, weight), weight) for image in (first, second)]
    return (fine[0] * fine[1]).sum(axis=(1, 2))


def align(
    first: np.ndarray, second: np.ndarray, weight: np.ndarray, *, start: np.ndarray | None = None, num_steps: int = 3
) -> np.ndarray:
    """Affine maps [n, 2, 3] (row, column; pixels from the centre) that lay ``second`` on ``first``: Gauss-Newton.

    From ``start`` [n, 2, 3] on, near which they stay; else from the identity.
    """
    origin = np.tile(np.eye(2, 3, dtype=np.float32), (len(first), 1, 1)) if start is None else start
    near = [[0.3, 0.25, 5], [0.25, 0.3, 5]] if start is None else [[0.15, 0.15, 2.5], [0.15, 0.15, 2.5]]
    warp, limit = origin, np.array(near, np.float32)
    inner = ndimage.binary_erosion(weight > 0, structure=np.ones((1, 3, 3)))
    target = _unit(first, weight)
    for _ in range(num_steps):
        moved = _unit(warped(second, warp), weight)
        down, right = (np.gradient(moved, axis=axis) * inner for axis in (1, 2))
        slopes = np.stack([down * _ROWS, down * _COLUMNS, down, right * _ROWS, right * _COLUMNS, right], axis=1)
        slopes = slopes.reshape(len(first), 6, -1)
        normal = slopes @ slopes.swapaxes(1, 2)
        damping = 1e-3 * np.trace(normal, axis1=1, axis2=2) / 6 + 1e-6
        gap = slopes @ (target - moved).reshape(len(first), -1, 1)
        step = np.linalg.solve(normal + damping[:, None, None] * np.eye(6), gap).reshape(-1, 2, 3)
        turn = warp[:, :, :2]
        warp = warp + np.concatenate([turn @ step[:, :, :2], turn @ step[:, :, 2:]], axis=2)
        warp = np.clip(warp, origin - limit, origin + limit).astype(np.float32)
    return warp


def warped(images: np.ndarray, warp: np.ndarray) -> np.ndarray:
    """Images [n, S, S] sampled (bilinear, zero outside) where the maps [n, 2, 3] point."""
    side = images.shape[1]
    rows, columns = np.mgrid[:side, :side].astype(np.float32) - (side - 1) / 2
    place = (warp @ np.stack([rows, columns, np.ones_like(rows)]).reshape(3, -1)).reshape(-1, 2, side, side)
    place += (side - 1) / 2
    which = np.broadcast_to(np.arange(len(images), dtype=np.float32)[:, None, None], images.shape)
    coordinates = np.stack([which, place[:, 0], place[:, 1]])
    return ndimage.map_coordinates(images, coordinates, order=1, mode="constant", prefilter=False)


def _fine(images: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Signed square root of what a Gaussian blur (0.8 px, over the weighted pixels alone) takes away."""
    blurred = ndimage.gaussian_filter(images * weight, (0, 0.8, 0.8))
    high = images - blurred / np.maximum(ndimage.gaussian_filter(weight, (0, 0.8, 0.8)), 0.05)
    return np.sign(high) * np.sqrt(np.abs(high))


def _unit(images: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Centred images of unit length; a flat image stays zero."""
    found = centred(images, weight)
    return found / np.sqrt(np.maximum((found**2).sum(axis=(1, 2), keepdims=True), 1e-3))
