"""What the filters that look at the lesion mask share: their option, and what they do where there is none."""

from typing import Literal

import numpy as np
from pydantic import Field

from moulage import plugins
from moulage.errors import DataError


class LesionOptions(plugins.Options):
    """Options of every filter that looks at the lesion mask."""

    without_mask: Literal["refuse", "keep"] = Field(
        "refuse", description="what to do with an image that has no mask, or an empty one: an error, or left as it is"
    )


def needs_mask(config: LesionOptions) -> bool:
    """Whether an image without a mask is an error."""
    return config.without_mask == "refuse"


def find(config: LesionOptions, mask: np.ndarray | None) -> tuple[np.ndarray, tuple[int, int, int, int]] | None:
    """Where the lesion is, bool [H, W], and its box: left, top, right, bottom; None: the image is left as it is.

    ``DataError`` where there is no lesion, and ``without_mask`` is ``"refuse"``.
    """
    found = None if mask is None else mask > 127
    if found is not None and found.any():
        rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
        return found, (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    if needs_mask(config):
        what = "has no lesion mask" if mask is None else "has an empty lesion mask"
        raise DataError(f"The image {what}.", 'Predict masks (docs/masks.md), or set without_mask = "keep".')
    return None
