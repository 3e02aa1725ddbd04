"""Frames around thumbnails: bands of one colour along the edges, which a copy may have and its original not.

A shift leaves such bands too. What is inside is compared; how it lies in the thumbnail is kept as a map.
"""

import numpy as np
from scipy import ndimage

from moulage.data.thumbnails import SIDE, warped

NONE = np.eye(2, 3, dtype=np.float32)
"""The map of a thumbnail without a frame."""

FLAT = 10
"""Largest difference (of 255) of a channel within a band, which compression leaves."""
JUMP = 12
"""Least step from the band to what is behind it, in the middle of its pixels: plain water and vignettes fade in."""
RIM = 2
"""Pixels along the edges that are not compared where a corner is dark."""
WIDEST = 3 * SIDE // 8


def find(thumbnails: np.ndarray) -> np.ndarray:
    """How what is inside the frame lies in each of the thumbnails uint8 [N, 32, 32, 3]: maps float32 [N, 2, 3].

    A map takes (row, column), in pixels from the centre, of the inside filling a thumbnail to the place where it is;
    it is the identity where there is no frame.
    """
    turned = thumbnails.swapaxes(1, 2)
    top, bottom, left, right = (_width(lines) for lines in (thumbnails, thumbnails[:, ::-1], turned, turned[:, ::-1]))
    maps = np.zeros((len(thumbnails), 2, 3), np.float32)
    for axis, (before, after) in enumerate(((top, bottom), (left, right))):
        maps[:, axis, axis] = 1 - (before + after) / SIDE
        maps[:, axis, 2] = (before - after) / 2
    return maps


def inside(thumbnails: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """The thumbnails with what is inside the frames filling them; the same array where there are none."""
    rows = np.flatnonzero((maps != NONE).any(axis=(1, 2)))
    if not len(rows):
        return thumbnails
    found = thumbnails.copy()
    for channel in range(3):
        shown = warped(thumbnails[rows, :, :, channel].astype(np.float32), maps[rows])
        found[rows, :, :, channel] = shown.round().clip(0, 255)
    return found


def compared(inside: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """What of the thumbnails can be compared, bool [N, 32, 32]: not the frames, nor what mixes with something dark.

    ``inside`` bool [N, 32, 32] is what is not dark, of the inside filling a thumbnail.
    """
    rows = np.flatnonzero((maps != NONE).any(axis=(1, 2)))
    found, back = inside.copy(), np.zeros((len(rows), 2, 3), np.float32)
    for axis in (0, 1):
        back[:, axis, axis] = 1 / maps[rows, axis, axis]
        back[:, axis, 2] = -maps[rows, axis, 2] / maps[rows, axis, axis]
    laid = warped(inside[rows].astype(np.float32), back) > 0.99
    # making a thumbnail lets the frame ring into what it holds
    found[rows] = ndimage.binary_erosion(laid, structure=np.ones((1, 3, 3)), border_value=True)
    # the dark corners of a turned image end in wedges along its edges that are narrower than a pixel
    wedged = ~inside[:, :: SIDE - 1, :: SIDE - 1].all(axis=(1, 2))
    middle = np.zeros((SIDE, SIDE), bool)
    middle[RIM:-RIM, RIM:-RIM] = True
    found[wedged] &= middle
    return found


def _width(lines: np.ndarray) -> np.ndarray:
    """Width in pixels of the band at the start of lines uint8 [N, 32, 32, 3], int64 [N], and a pixel for its edge."""
    near = lines[:, : WIDEST + 3].astype(np.int16)
    colour = np.median(near[:, 0], axis=1)[:, None, None]
    apart = np.abs(near - colour).max(axis=3)
    width = np.cumprod(apart[:, : WIDEST + 1].max(axis=2) <= FLAT, axis=1).sum(axis=1)
    each = np.arange(len(lines))
    last, behind = (np.median(apart[each, np.clip(line, 0, WIDEST + 2)], axis=1) for line in (width - 1, width + 1))
    return np.where((width > 0) & (width <= WIDEST) & (behind - last >= JUMP), width + 1, 0)
