"""Cuts the image to its lesion and a margin around it, by the lesion mask of the data."""

from typing import Literal

import numpy as np
from pydantic import Field

from moulage import plugins
from moulage.data.steps import Step
from moulage.errors import DataError


class Config(plugins.Options):
    """Options of the crop."""

    margin: float = Field(0.15, ge=0, le=2, description="skin on each side, as a share of the lesion's longer side")
    without_mask: Literal["refuse", "keep"] = Field(
        "refuse", description="what to do with an image that has no mask, or an empty one: an error, or left as it is"
    )


def needs_mask(config: Config) -> bool:
    """Whether an image without a mask is an error."""
    return config.without_mask == "refuse"


def apply(config: Config, image: np.ndarray, mask: np.ndarray | None) -> Step:
    """The square around the lesion, as far as it lies in the image.

    Raises:
        DataError: there is no mask, and ``without_mask`` is ``"refuse"``.
    """
    inside = mask is not None and mask > 127
    if mask is None or not np.any(inside):
        if config.without_mask == "refuse":
            what = "has no lesion mask" if mask is None else "has an empty lesion mask"
            raise DataError(f"The image {what}.", 'Predict masks (docs/masks.md), or set without_mask = "keep".')
        return Step(image)
    rows, columns = np.flatnonzero(np.any(inside, 1)), np.flatnonzero(np.any(inside, 0))
    centre_y, centre_x = (rows[0] + rows[-1] + 1) / 2, (columns[0] + columns[-1] + 1) / 2
    half = max(len(rows), rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1) * (0.5 + config.margin)
    height, width = image.shape[:2]
    box = (
        max(0, round(centre_x - half)),
        max(0, round(centre_y - half)),
        min(width, round(centre_x + half)),
        min(height, round(centre_y + half)),
    )
    kept = (box[2] - box[0]) * (box[3] - box[1]) / (width * height)
    return Step(image, 1 - kept, box)
