"""Held-back real images of the classes that are added: a control that must help, and the bound of any generator.

The study holds them back from the training part before anything else sees them (``split.reserve`` or
``split.scarcity``), and only this arm gets them. They are what a perfect generator would draw: new lesions of the same
population. Where they do not help, no generated image can, or the study is too small to show it.
"""

import numpy as np

from moulage.balance._draw import by_class
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
    """``add[c]`` images of each class ``c`` from the reserve; ``DataError`` where it has not so many."""
    if not any(add.values()):
        return train.take([])
    if samples is None or not len(samples):
        raise DataError("The oracle arm adds held-back real images, but none were held back.", HINT)
    if (samples.table["origin"] != REAL).any():
        raise DataError(f"{samples.name} holds generated images; the oracle adds real ones only.", HINT)
    chosen: list[Catalog] = []
    labels = samples.table["label"].to_numpy(object)
    for name, count, rows in by_class(labels, add, rng):
        if len(set(rows)) < count:
            held = int((labels == name).sum())
            raise DataError(f'The oracle arm adds {count} images of "{name}", and {held} were held back.', HINT)
        chosen.append(samples.take(rows))
    return concatenate(train.take([]), *chosen)
