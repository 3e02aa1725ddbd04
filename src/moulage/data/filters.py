"""Pre-processing: filters that an image goes through after it is decoded and before it becomes a square.

A filter is a plug-in (``preprocessing/<name>.py``) that sees one image and its lesion mask. Where it cuts the image,
the mask is cut alike, so that both go on fitting each other. Recipes and the command line call a filter a *step*.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from moulage import contracts, runs
from moulage.errors import DataError

MIN_SIDE = 8
"""A filter that would leave fewer pixels a side leaves the image as it was."""


@dataclass(frozen=True)
class Filtered:
    """What a filter has made of an image."""

    image: np.ndarray  # uint8 [H, W, 3], of the size that came in; where ``box`` is given it is cut out of this
    share: float = 0.0  # of the pixels that were changed or cut away, 0..1; 0: the image is as it was
    box: tuple[int, int, int, int] | None = None  # left, top, right, bottom in pixels of what is kept; None: everything


@dataclass(frozen=True)
class Filters:
    """Filters in their order: (plug-in, options) each; plain values, so that a worker process can be told."""

    chosen: tuple[tuple[str, dict[str, Any]], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.chosen)

    @classmethod
    def of(cls, chosen: Sequence[tuple[str, dict[str, Any]]]) -> "Filters":
        """Checked filters with all their options; a missing library is said at once.

        ``RecipeError``: an unknown plug-in or option.
        """
        found = []
        for number, (name, options) in enumerate(chosen):
            plug = contracts.preprocessing(name)
            config = plug.configure(options, f"data.steps.{number}.options")
            plug.check_installed()
            found.append((name, config.model_dump(mode="json")))
        return cls(tuple(found))

    def __reduce__(self) -> tuple[type["Filters"], tuple[Any]]:
        return Filters, (self.chosen,)  # plug-ins, which `_loaded` keeps, do not travel to other processes

    @cached_property
    def _loaded(self) -> list[tuple[contracts.PreprocessingPlugin, Any]]:
        """Plug-in and ``Config`` of each filter; made once, not for every image."""
        plugs = [(contracts.preprocessing(name), options) for name, options in self.chosen]
        return [(plug, plug.configure(options)) for plug, options in plugs]

    @property
    def use_masks(self) -> bool:
        """Whether a filter looks at lesion masks; the others never cause one to be read."""
        return any(plug.needs_mask for plug, _ in self._loaded)

    @property
    def need_masks(self) -> bool:
        """Whether a filter refuses images without a lesion mask."""
        return any(plug.needs_mask(config) for plug, config in self._loaded if plug.needs_mask)

    @property
    def key(self) -> tuple[str, ...]:
        """Names everything that the result depends on beside the image; empty for no filters."""
        return tuple(
            runs.digest(plug.name, config.model_dump(mode="json"), plug.version) for plug, config in self._loaded
        )

    def apply(self, image: np.ndarray, mask: np.ndarray | None = None) -> list[tuple[Filtered, np.ndarray | None]]:
        """Each filter's image, already cut, and the mask that fits it, in order.

        ``image`` is uint8 [H, W, 3]; ``mask`` uint8 of any size, 255 on the lesion; it is stretched to the image.
        """
        if mask is not None and mask.shape != image.shape[:2]:
            size = (image.shape[1], image.shape[0])
            mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        found = []
        for plug, config in self._loaded:
            after = plug.apply(config, image, mask)
            if after.image.shape != image.shape or after.image.dtype != np.uint8:
                raise DataError(
                    f"The step {plug.name} made {after.image.dtype} {list(after.image.shape)} of {image.shape}."
                )
            after, mask = _cut(after, mask)
            image = after.image
            found.append((after, mask))
        return found


NO_FILTERS = Filters()


def _cut(after: Filtered, mask: np.ndarray | None) -> tuple[Filtered, np.ndarray | None]:
    if after.box is None:
        return after, mask
    left, top, right, bottom = after.box
    if min(right - left, bottom - top) < MIN_SIDE:
        return Filtered(after.image), mask
    place = slice(top, bottom), slice(left, right)
    return Filtered(after.image[place], after.share, after.box), None if mask is None else mask[place]
