"""Paints over what lies around the lesion, so that the classifier is told by its mask where to look.

Hairs, rulers, stickers, frames and dark corners on the skin go with it, and so does what they tell of where an image
was taken (Bissoto et al. 2019, (De)constructing bias on skin lesion datasets, CVPR workshops).
"""

from typing import Literal

import numpy as np
from pydantic import Field
from scipy import ndimage

from moulage.data.filters import Filtered
from moulage.preprocessing import _lesion
from moulage.preprocessing._lesion import needs_mask

__all__ = ["Config", "apply", "needs_mask"]


class Config(_lesion.LesionOptions):
    """Options of the background."""

    margin: float = Field(0.1, ge=0, le=2, description="skin that is kept, as a share of the lesion's longer side")
    fill: Literal["skin", "black"] = Field(
        "skin", description="the colour: the median of what is painted over, channel by channel, or black"
    )


def apply(config: Config, image: np.ndarray, mask: np.ndarray | None) -> Filtered:
    """The lesion and the skin near it on one colour; errors are those of ``_lesion.find``."""
    found = _lesion.find(config, mask)
    if found is None:
        return Filtered(image)
    lesion, (left, top, right, bottom) = found
    away = np.asarray(ndimage.distance_transform_edt(~lesion))
    around = away > config.margin * max(bottom - top, right - left)
    if not around.any():
        return Filtered(image)
    colour = np.median(image[around], axis=0) if config.fill == "skin" else np.zeros(3)
    changed = image.copy()
    changed[around] = np.round(colour).astype(np.uint8)
    return Filtered(changed, float(around.mean()))
