"""Images that are drawn by changing real ones: how much of them changes, and where.

Noise is added to an image up to some level, and the model takes it away again (SDEdit, Meng et al. 2022,
arXiv:2108.01073). Where only a region changes, what the model says of the rest is replaced at every step by the image
that is there (Avrahami et al. 2022, arXiv:2206.02779); in the end the rest is the image itself, to the last bit.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from moulage import plugins
from moulage.data.masks import LESION, binary, signed_distance
from moulage.errors import RecipeError
from moulage.generators import _learner

SEAM = 1 / 32
"""Share of a side within which a changed region passes into what stays, on its own side of the outline."""


class Editing(plugins.Options):
    """Options of drawing of a generator that also changes training images."""

    strength: float | None = Field(
        None,
        gt=0,
        le=1,
        description="how much of a training image is changed: share of the way to noise from which it is drawn anew; "
        "left out: images are drawn from noise alone, or, where edit names a region, that region is",
    )
    edit: Literal["whole", "lesion", "surround"] = Field(
        "whole",
        description="which part of the training image changes: all of it, what is inside its lesion mask, or outside",
    )

    @property
    def changes(self) -> str:
        """Which part of a training image changes; empty where images are drawn from noise alone."""
        return self.edit if self.strength is not None or self.edit != "whole" else ""

    @property
    def way(self) -> float:
        """Share of the way from noise to an image that is gone, above 0; 1 where it begins with noise alone."""
        return 1.0 if self.strength is None else self.strength


@dataclass(frozen=True)
class Given:
    """Images that are changed."""

    images: Tensor  # float32 [B, 3, S, S] in -1..1
    region: Tensor | None  # bool [B, 1, S, S], true where they change; None: everywhere


C = TypeVar("C", bound=_learner.Options)


class Editor(_learner.Learner[C]):
    """A ``Learner`` that draws from noise, or from images that it is given; its ``DRAWING`` is an ``Editing``."""

    @abstractmethod
    def edit(self, network: Any, labels: Tensor, seeds: np.ndarray, given: Given | None) -> Tensor:
        """As ``Learner.draw``; from what is given where anything is. Outside of its region anything may be drawn."""

    def draw(self, network: Any, labels: Tensor, seeds: np.ndarray) -> Tensor:
        if self.drawing.changes:
            raise RecipeError(
                f"{self.NAME} is to change training images, and was given none.", "Leave strength and edit out."
            )
        return self.edit(network, labels, seeds, None)

    def edited(self, label: int, seeds: np.ndarray, parents: np.ndarray, masks: np.ndarray | None) -> np.ndarray:
        """See ``contracts.Edits``."""
        weights = None if masks is None else weights_of(masks, self.drawing.edit)

        def draw(labels: Tensor, rows: np.ndarray) -> Tensor:
            region = None if weights is None else torch.from_numpy(weights[rows] > 0)[:, None].to(self.device)
            return self.edit(self.network, labels, seeds[rows], Given(self._inputs(parents[rows]), region))

        drawn = self.in_batches(label, len(seeds), draw)
        return drawn if weights is None else blended(parents, drawn, weights)


def weights_of(masks: np.ndarray, edit: str) -> np.ndarray:
    """How much of each pixel is drawn, float32 [N, S, S] in 0..1, for lesion masks uint8 [N, S, S].

    It is 0 outside of the region (``lesion`` or ``surround``) and rises from its outline inwards: no seam shows.
    """
    inside = binary((masks > LESION // 2) == (edit == "lesion"))
    rise = max(1.0, SEAM * masks.shape[1])
    found = [(signed_distance(one) / rise).clip(0, 1) for one in inside]
    return np.stack(found).astype(np.float32) if found else inside.astype(np.float32)


def blended(parents: np.ndarray, drawn: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Images uint8 [N, S, S, 3] between ``parents`` (weight 0) and ``drawn`` (weight 1), by weights [N, S, S]."""
    return np.rint(parents + weights[..., None] * (drawn.astype(np.float32) - parents)).astype(np.uint8)
