"""Classical augmentation of a batch: flips, rotation, resized crop and colour, each image by its own random numbers.

Every image uses the same ``NUM_DRAWS`` numbers whatever is switched on and whatever it shows, so two arms that hold the
same image at the same step augment it alike.
"""

import math
from typing import Literal

import torch
from pydantic import Field
from torch.nn import functional

from moulage import plugins
from moulage.data.thumbnails import LUMINANCE

NUM_DRAWS = 11
MAX_LOG_ASPECT = math.log(4 / 3)


class Augment(plugins.Options):
    """Strengths; ``flip = false``, ``rotation = "none"``, ``crop_area = 1`` and zeros switch a change off."""

    flip: bool = Field(default=True, description="mirror left to right and top to bottom, each with probability 1/2")
    rotation: Literal["none", "right_angles", "any"] = Field(
        default="right_angles", description="rotate by a multiple of 90 degrees, or by any angle (borders are mirrored)"
    )
    crop_area: float = Field(
        default=0.7, gt=0, le=1, description="smallest share of the area that a random crop keeps (aspect 3:4 to 4:3)"
    )
    brightness: float = Field(default=0.1, ge=0, lt=1, description="brightness is multiplied by 1 +- this")
    contrast: float = Field(default=0.1, ge=0, lt=1, description="contrast is multiplied by 1 +- this")
    saturation: float = Field(default=0.1, ge=0, lt=1, description="saturation is multiplied by 1 +- this")
    hue_degrees: float = Field(default=5.0, ge=0, le=180, description="hue is turned by up to this angle")


def augment(images: torch.Tensor, draws: torch.Tensor, options: Augment) -> torch.Tensor:
    """Images float [n, 3, S, S] in 0..1, augmented by ``draws`` float [n, NUM_DRAWS], uniform in [0, 1).

    Both are on one device. Further planes, such as masks, follow where an image is moved.
    """
    warp = functional.affine_grid(_geometry(draws, options), list(images.shape), align_corners=False)
    images = functional.grid_sample(images, warp, padding_mode="reflection", align_corners=False)
    coloured = _recolour(images[:, :3], draws, options)
    return coloured if images.shape[1] == 3 else torch.cat([coloured, images[:, 3:]], 1)


def _geometry(draws: torch.Tensor, options: Augment) -> torch.Tensor:
    """Affine maps [n, 2, 3] from a place in the new image to one in the old: flip, then rotate, then crop."""
    flip_x, flip_y, angle, area, aspect, centre_x, centre_y = draws[:, :7].unbind(1)
    sign_x, sign_y = (1 - 2 * (flip >= 0.5 if options.flip else flip < 0).float() for flip in (flip_x, flip_y))
    turns = {"none": angle * 0, "right_angles": torch.floor(angle * 4) / 4, "any": angle}[options.rotation]
    cos, sin = torch.cos(2 * math.pi * turns), torch.sin(2 * math.pi * turns)
    area = 1 - (1 - options.crop_area) * area
    # An aspect within 1/area .. area keeps both sides of the crop inside the image.
    aspect = torch.exp((2 * aspect - 1) * (-torch.log(area)).clamp(max=MAX_LOG_ASPECT))
    width, height = torch.sqrt(area * aspect), torch.sqrt(area / aspect)
    to_x, to_y = (1 - width) * (2 * centre_x - 1), (1 - height) * (2 * centre_y - 1)
    rows = [width * cos * sign_x, -width * sin * sign_y, to_x, height * sin * sign_x, height * cos * sign_y, to_y]
    return torch.stack(rows, 1).view(-1, 2, 3)


def _recolour(images: torch.Tensor, draws: torch.Tensor, options: Augment) -> torch.Tensor:
    """Hue is a rotation about the grey axis of RGB and saturation a blend with grey: one 3x3 matrix an image."""
    brightness, contrast, saturation, hue = (2 * draws[:, 7:, None, None] - 1).unbind(1)
    turn = hue * math.radians(options.hue_degrees)
    grey_axis = images.new_full((3, 3), 1 / 3)
    cross = images.new_tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    rotation = grey_axis + torch.cos(turn) * (torch.eye(3, device=images.device) - grey_axis) + torch.sin(turn) * cross
    keep = 1 + options.saturation * saturation
    luminance = images.new_tensor(LUMINANCE)
    mixing = keep * rotation + (1 - keep) * luminance.expand(3, 3)
    coloured = (mixing @ images.flatten(2)).view(images.shape)
    mean = (luminance @ coloured.flatten(2)).mean(1)[:, None, None, None]
    stretched = mean + (1 + options.contrast * contrast)[..., None] * (coloured - mean)
    return (stretched * (1 + options.brightness * brightness)[..., None]).clamp(0, 1)
