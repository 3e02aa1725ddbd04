"""Cuts away the dark round frame of a dermatoscope: the largest rectangle of the image's shape inside the lit disc."""

import numpy as np
from pydantic import Field
from scipy import ndimage

from moulage import plugins
from moulage.data.filters import Filtered
from moulage.preprocessing._tools import pieces


class Config(plugins.Options):
    """Options of the search for a frame."""

    darkness: float = Field(0.16, gt=0, lt=1, description="pixels darker than this share of full light may be frame")
    least: float = Field(0.02, ge=0, lt=1, description="share of the area that must be frame, or nothing is cut")
    corners: int = Field(2, ge=1, le=4, description="corners that must be frame, or nothing is cut")
    margin: float = Field(0.01, ge=0, lt=0.2, description="share of each side that is cut off beside the frame")


def frame(image: np.ndarray, config: Config) -> np.ndarray:
    """The frame: dark pixels that hang together with a corner, bool [H, W]."""
    dark = ndimage.median_filter(image.max(axis=2), 3) < 255 * config.darkness
    labelled, _ = pieces(dark)
    at_corners = {labelled[y, x] for y in (0, -1) for x in (0, -1)} - {0}
    return np.isin(labelled, list(at_corners))


def apply(config: Config, image: np.ndarray, mask: np.ndarray | None) -> Filtered:
    """The image cut to the frame's inside.

    The rectangle grows from the centre, with the image's aspect, until a pixel in fifty of one of its sides is frame.
    """
    found = frame(image, config)
    height, width = found.shape
    num_corners = sum(bool(found[y, x]) for y in (0, -1) for x in (0, -1))
    if found.mean() < config.least or num_corners < config.corners:
        return Filtered(image)
    inside = ~found
    centre_y, centre_x = (float(np.mean(np.flatnonzero(inside.any(axis)))) for axis in (1, 0))
    best = None
    for share in np.linspace(0.3, 1, 141):
        half_y, half_x = share * height / 2, share * width / 2
        top, bottom = round(max(0, centre_y - half_y)), round(min(height, centre_y + half_y))
        left, right = round(max(0, centre_x - half_x)), round(min(width, centre_x + half_x))
        part = found[top:bottom, left:right]
        if not part.size or max(side.mean() for side in (part[0], part[-1], part[:, 0], part[:, -1])) > 0.02:
            break
        best = left, top, right, bottom
    if best is None:
        return Filtered(image)
    left, top, right, bottom = best
    trim_x, trim_y = round(config.margin * (right - left)), round(config.margin * (bottom - top))
    box = left + trim_x, top + trim_y, right - trim_x, bottom - trim_y
    kept = (box[2] - box[0]) * (box[3] - box[1]) / (width * height)
    return Filtered(image, 1 - kept, box)
