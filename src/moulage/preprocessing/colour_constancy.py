"""Takes the colour of the light out of an image: shades of grey (Finlayson and Trezzi 2004)."""

import numpy as np
from pydantic import Field

from moulage import plugins
from moulage.data.filters import Filtered


class Config(plugins.Options):
    """Options of shades of grey."""

    power: float = Field(6.0, ge=1, le=20, description="of the Minkowski mean; 1 is grey world")
    skip_dark: float = Field(0.16, ge=0, lt=1, description="pixels darker than this share of full light do not count")


def light(image: np.ndarray, config: Config) -> np.ndarray:
    """The colour of the light, float64 [3], of Euclidean length 1: the Minkowski mean of each channel.

    Finlayson and Trezzi 2004, Shades of gray and colour constancy, Color and Imaging Conference 12. Barata et al. 2015
    (IEEE JBHI 19), who used it for dermoscopy, take a gamma off first; here values are taken as they are stored.
    """
    values = image.reshape(-1, 3).astype(np.float64) / 255
    lit = values[values.max(axis=1) >= config.skip_dark]
    if len(lit):
        values = lit
    mean = np.maximum((values**config.power).mean(axis=0) ** (1 / config.power), 1e-6)
    return mean / np.linalg.norm(mean)


def apply(config: Config, image: np.ndarray, mask: np.ndarray | None) -> Filtered:
    """The image as under white light: each channel divided by sqrt(3) times the light's. ``share`` is how far the light
    was from white: 1 less the cosine of the angle, times 10, at most 1."""
    colour = light(image, config)
    changed = np.clip(np.rint(image / (np.sqrt(3) * colour)), 0, 255).astype(np.uint8)
    return Filtered(changed, float(min(1.0, 10 * (1 - colour.sum() / np.sqrt(3)))))
