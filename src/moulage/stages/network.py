"""The feature network that images are measured in, as part of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from moulage import plugins
from moulage.stages.stage import APART

if TYPE_CHECKING:
    from moulage.features import FeatureOptions


@dataclass(frozen=True)
class Network:
    """A feature network. A weights file counts by its content, which the name tells, and not by its path."""

    name: str  # network, weights and input size in words; equal names, equal features
    options: dict[str, Any] = field(metadata=APART)  # of ``features.FeatureOptions``

    @classmethod
    def of(cls, options: Mapping[str, Any], where: str) -> Network:
        """The network that a recipe's table ``where`` names.

        Raises:
            RecipeError: a wrong option, or its weights are not installed.
        """
        from moulage.features import FeatureOptions, check_installed, features_name

        network = plugins.validate(FeatureOptions, dict(options), where)
        check_installed(network)
        return cls(features_name(network), network.model_dump(mode="json"))

    @property
    def _options(self) -> FeatureOptions:
        from moulage.features import FeatureOptions

        return plugins.validate(FeatureOptions, self.options, "features")

    def extract(self, pixels: np.ndarray, device: str) -> np.ndarray:
        """Features float32 [N, D] of images uint8 [N, S, S, 3]."""
        from moulage.features import extract

        return extract(self._options, pixels, device=device)

    def seconds(self, num_images: int, size: int, device: str) -> float:
        """Seconds that ``extract`` will take for images of ``size`` pixels a side."""
        from moulage.features import seconds

        return seconds(self._options, num_images, size, device=device)
