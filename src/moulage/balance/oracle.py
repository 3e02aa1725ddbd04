"""Held-back real images of the classes that are added: a control that must help, and the bound of any generator.

The study holds them back from the training part before anything else sees them (``split.reserve``), and only this arm
gets them. They are what a perfect generator would draw: new lesions of the same population. Where they do not help, no
generated image can, or the study is too small to show it.
"""

import numpy as np

from moulage.balance._draw import evenly
from moulage.data.catalog import REAL, Catalog, concatenate
from moulage.errors import DataError
from moulage.plugins import Options

ROLE = "positive"
HINT = "Set split.reserve, the share of the target classes' training lesions that is held back for this arm."


class Config(Options):
    """No options."""


def extend(
    config: Config, train: Catalog, samples: Catalog | None, add: dict[str, int], rng: np.random.Generator
) -> Catalog:
    """``add[c]`` images of each class ``c`` from the reserve, each of them once before any is drawn again."""
    wanted = {name: count for name, count in add.items() if count}
    if not wanted:
        return train.take([])
    if samples is None or not len(samples):
        raise DataError("The oracle arm adds held-back real images, but none were held back.", HINT)
    if (samples.table["origin"] != REAL).any():
        raise DataError(f"{samples.name} holds generated images; the oracle adds real ones only.", HINT)
    chosen: list[Catalog] = []
    for name, count in wanted.items():
        rows = np.flatnonzero((samples.table["label"] == name).to_numpy())
        if not len(rows):
            raise DataError(f'No image of the class "{name}" was held back for the oracle arm.', HINT)
        chosen.append(samples.take(evenly(rows, count, rng)))
    return concatenate(train.take([]), *chosen)
