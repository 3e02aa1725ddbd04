"""Cuts the image to its lesion and a margin around it, by the lesion mask of the data."""

import numpy as np
from pydantic import Field

from moulage.data.filters import Filtered
from moulage.preprocessing import _lesion
from moulage.preprocessing._lesion import needs_mask

__all__ = ["Config", "apply", "needs_mask"]


class Config(_lesion.LesionOptions):
    """Options of the crop."""

    margin: float = Field(0.15, ge=0, le=2, description="skin on each side, as a share of the lesion's longer side")


def apply(config: Config, image: np.ndarray, mask: np.ndarray | None) -> Filtered:
    """The square around the lesion, as far as it lies in the image; errors are those of ``_lesion.find``."""
    found = _lesion.find(config, mask)
    if found is None:
        return Filtered(image)
    _, (left, top, right, bottom) = found
    centre_y, centre_x = (top + bottom) / 2, (left + right) / 2
    half = max(bottom - top, right - left) * (0.5 + config.margin)
    height, width = image.shape[:2]
    box = (
        max(0, round(centre_x - half)),
        max(0, round(centre_y - half)),
        min(width, round(centre_x + half)),
        min(height, round(centre_y + half)),
    )
    kept = (box[2] - box[0]) * (box[3] - box[1]) / (width * height)
    return Filtered(image, 1 - kept, box)
