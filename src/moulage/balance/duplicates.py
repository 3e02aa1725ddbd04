"""Copies of real training images, to the same counts as another arm: the control that generated images have to beat.

With a fixed number of images seen, adding copies changes the balance of the classes exactly as adding generated images
does, and brings no new picture. A gain that duplicates reach as well is owed to the balance, not to the generator
(Pink & Sykes 2026, PMLR 318).
"""

import numpy as np

from moulage.balance._draw import by_class
from moulage.data.catalog import Catalog, concatenate
from moulage.errors import DataError
from moulage.plugins import Options

ROLE = "reference"


class Config(Options):
    """No options."""


def extend(
    config: Config, train: Catalog, samples: Catalog | None, add: dict[str, int], rng: np.random.Generator
) -> Catalog:
    """``add[c]`` images of each class ``c``, drawn from the training part as evenly as whole copies allow."""
    chosen: list[Catalog] = []
    for name, count, rows in by_class(train.table["label"].to_numpy(object), add, rng):
        if count and not len(rows):
            raise DataError(f'Class "{name}" has no training image to duplicate.', "Leave it out of the arm's counts.")
        chosen.append(train.take(rows))
    return concatenate(train.take([]), *chosen)
