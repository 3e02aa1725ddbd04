"""Finds what was laid or drawn on the skin - stickers, ink, rulers - and paints it over if asked."""

from typing import Literal

import numpy as np
from pydantic import Field
from scipy import ndimage

from moulage import plugins
from moulage.data.filters import Filtered
from moulage.preprocessing._ruler import ticks_of_rulers
from moulage.preprocessing._tools import check_installed, library, painted_over, pieces

__all__ = ["Config", "apply", "check_installed"]


class Config(plugins.Options):
    """Options of the search for marks."""

    do: Literal["flag", "paint"] = Field(
        "flag", description="flag: count them in the scan, change nothing; paint: paint them over too"
    )
    ruler: bool = Field(True, description="look for rulers, too: rows of dark ticks with equal gaps")
    saturation: float = Field(0.25, gt=0, lt=1, description="least saturation of a sticker or of ink")
    distance: float = Field(
        22.0, gt=0, le=180, description="and least distance of its colour to the image's median, in a and b of CIELAB"
    )
    least: float = Field(0.004, gt=0, lt=1, description="share of the area that a coloured mark has at least")
    most: float = Field(0.4, gt=0, le=1, description="where more of the area would be marks, none is painted over")


DARK = 60
"""Lightness, of 255, below which colours are not told apart."""


def marks(image: np.ndarray, config: Config) -> np.ndarray:
    """Pixels of stickers and ink, bool [H, W]: pieces of green to violet that reach the image's edge.

    That is, of a hue from 70 to 300 degrees, which skin has not, and vivid: far from the image's median in a and b
    of CIELAB. Blue naevi and blue-white veils have such colours too, but lie within the image. Orange stickers,
    whose colour skin and lesions have as well, are not found.
    """
    cv2 = library()
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hue, saturation = 2.0 * hsv[..., 0], hsv[..., 1] / 255
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    lit = lab[..., 0] > DARK
    usual = np.median(lab[lit], axis=0) if lit.any() else np.zeros(3)
    distance = np.hypot(*(lab[..., i] - usual[i] for i in (1, 2)))
    coloured = (hue > 70) & (hue < 300) & (saturation > config.saturation) & lit & (distance > config.distance)
    coloured = ndimage.binary_opening(coloured, np.ones((2, 2)))
    labelled, number = pieces(coloured)
    keep = np.bincount(labelled.ravel(), minlength=number + 1) >= config.least * coloured.size
    rim = np.concatenate(
        [labelled[:2].ravel(), labelled[-2:].ravel(), labelled[:, :2].ravel(), labelled[:, -2:].ravel()]
    )
    keep &= np.isin(np.arange(number + 1), rim)
    keep[0] = False
    return ndimage.binary_dilation(keep[labelled], iterations=max(1, min(image.shape[:2]) // 100))


def apply(config: Config, image: np.ndarray, mask: np.ndarray | None) -> Filtered:
    """The image as it is, or with its marks painted over; ``share`` of the pixels that are marks."""
    found = marks(image, config)
    if config.ruler:
        found |= ndimage.binary_dilation(ticks_of_rulers(image))
    share = float(found.mean())
    if config.do == "flag" or not 0 < share <= config.most:
        return Filtered(image, share)
    return Filtered(painted_over(image, found, 5), share)
