"""Views of an image at prediction: symmetries, ordered crops and resolutions, whose predictions are averaged.

Evaluation-time augmentation as the ISIC teams used it: flips and quarter turns, a grid of crops in fixed order (Gessert
et al. 2020, arXiv:1910.03910, "ordered multi-crop"), several resolutions. Nothing is random.
"""

import itertools
from collections.abc import Iterator
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch.nn import functional

from moulage import plugins

Number = Literal[1, 2, 4, 8]


class Views(plugins.Options):
    """Which views of each image are predicted; by default the image as it is. All combinations are taken."""

    symmetries: Number = Field(
        default=1, description="1: as it is; 2: also mirrored; 4: the quarter turns; 8: all symmetries of the square"
    )
    crops: int = Field(
        default=1,
        ge=1,
        le=8,
        description="side of a grid of crops, evenly placed from corner to corner, in place of the whole",
    )
    crop_share: float = Field(default=0.8, gt=0.1, lt=1, description="side of a crop as a share of the image's")
    sizes: tuple[int, ...] = Field(
        default=(), description="pixels a side at which the network sees each view; none: the backbone's input size"
    )
    average: Literal["probabilities", "logits"] = Field(
        default="probabilities", description="what is averaged over the views"
    )

    @model_validator(mode="after")
    def _sizes_are_sides(self) -> Self:
        if any(not 16 <= side <= 1024 for side in self.sizes) or len(set(self.sizes)) < len(self.sizes):
            raise ValueError("sizes are different numbers of pixels from 16 to 1024")
        return self

    @property
    def number(self) -> int:
        return self.symmetries * self.crops**2 * max(1, len(self.sizes))


AS_IT_IS = Views()


def each(images: torch.Tensor, options: Views) -> Iterator[tuple[torch.Tensor, int | None]]:
    """The views of a batch in a fixed order, each with the size at which the network sees it (None: its own).

    All are float [n, 3, S, S], crops enlarged to S; the first view of the default options is ``images`` itself.
    """
    for crop in _crops(images, options):
        for view in symmetries(crop, options.symmetries):
            for side in options.sizes or (None,):
                yield view, side


def averaged(logits: list[torch.Tensor], average: str) -> torch.Tensor:
    """Logits float [n, K] of those of each view: of a single one as they are, else means, or logarithms of means."""
    if len(logits) == 1:
        return logits[0]
    if average == "logits":
        return torch.stack(logits).mean(0)
    logs = torch.stack([functional.log_softmax(row.float(), 1) for row in logits])
    return logs.logsumexp(0) - torch.tensor(float(len(logits))).log()


def _crops(images: torch.Tensor, options: Views) -> Iterator[torch.Tensor]:
    if options.crops == 1:
        yield images
        return
    size = images.shape[-1]
    side = max(1, round(options.crop_share * size))
    places = [round(i * (size - side) / (options.crops - 1)) for i in range(options.crops)]
    for top, left in itertools.product(places, places):
        part = images[..., top : top + side, left : left + side]
        yield functional.interpolate(part, (size, size), mode="bilinear", antialias=True)


def symmetries(images: torch.Tensor, number: int) -> Iterator[torch.Tensor]:
    """A batch [n, 3, S, S] as so many symmetries of the square show it, itself first; see ``Views.symmetries``."""
    yield images
    if number == 2:
        yield images.flip(3)
    for turns in range(1, 4 if number > 2 else 1):
        yield torch.rot90(images, turns, (2, 3))
    for turns in range(4 if number == 8 else 0):
        yield torch.rot90(images.flip(3), turns, (2, 3))
