"""Paints over dark hairs: black-hat along lines, then inpainting (after DullRazor, Lee et al. 1997)."""

import numpy as np
from pydantic import Field
from scipy import ndimage

from moulage import plugins
from moulage.data.filters import Filtered
from moulage.preprocessing._tools import check_installed, library, painted_over, pieces

__all__ = ["Config", "apply", "check_installed"]


class Config(plugins.Options):
    """Options of the search for hairs."""

    width: float = Field(0.015, gt=0, lt=0.2, description="widest hair, as a share of the shorter side")
    length: float = Field(0.2, gt=0, lt=1, description="shortest hair, as a share of the shorter side")
    contrast: float = Field(
        0.07, gt=0, lt=1, description="a hair is darker than its surroundings by this share of white"
    )
    most: float = Field(0.3, gt=0, le=1, description="where more of the area would be hair, nothing is changed")


MOST_TURNS = 2.5
"""Length of a hair at most, in diagonals of the box around it; of hairs that cross, of all together."""


def hairs(image: np.ndarray, config: Config) -> np.ndarray:
    """Pixels of hairs, bool [H, W].

    Black-hat: the closing of the luminance less itself is large where something is darker than both its sides and
    narrower than the element. A closing by segments across a hair, in each of four directions, finds the hairs that run
    at a right angle to it. A piece that is short, or covers much of the box around it, is no hair but a dot, the rim of
    a lesion or its pigment network.
    """
    cv2 = library()
    height, width = image.shape[:2]
    side = min(height, width)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    reach = 2 * max(1, round(config.width * side)) + 1
    strength = np.zeros((height, width), np.uint8)
    for element in _segments(reach):
        strength = np.maximum(strength, cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, element))
    labelled, number = pieces(strength > 255 * config.contrast)
    keep = np.zeros(number + 1, bool)
    for label, place in enumerate(ndimage.find_objects(labelled), 1):
        piece = labelled[place] == label
        extent = float(np.hypot(*piece.shape))
        keep[label] = extent >= config.length * side and piece.sum() <= MOST_TURNS * reach / 2 * extent
    return ndimage.binary_dilation(keep[labelled])


def _segments(length: int) -> list[np.ndarray]:
    across, diagonal = np.zeros((length, length), np.uint8), np.eye(length, dtype=np.uint8)
    across[length // 2] = 1
    return [across, across.T.copy(), diagonal, diagonal[::-1].copy()]


def apply(config: Config, image: np.ndarray, mask: np.ndarray | None) -> Filtered:
    """The image without hairs; ``share`` of the pixels that were painted over."""
    found = hairs(image, config)
    share = float(found.mean())
    if not 0 < share <= config.most:
        return Filtered(image)
    return Filtered(painted_over(image, found, 3), share)
