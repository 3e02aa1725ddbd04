"""Copies of real training images of any class, under the labels that are to be added: a control.

The arm sees as many images under each label as the one that it mirrors, and they are real dermoscopy, but label and
picture have nothing to do with each other. It must not help: where it does, the gain is owed to the mere number of
labels, or to something that the study measures wrongly.
"""

import numpy as np

from moulage.balance._draw import evenly
from moulage.data.catalog import Catalog
from moulage.plugins import Options

ROLE = "null"


class Config(Options):
    """No options."""


def extend(
    config: Config, train: Catalog, samples: Catalog | None, add: dict[str, int], rng: np.random.Generator
) -> Catalog:
    """``add[c]`` rows labelled ``c`` for each class ``c``, drawn from the whole training part.

    Every training image is drawn once before any is drawn again. By chance an image may get its own label. A row keeps
    the image's name, so that its pixels are found, and its lesion and group; only the label changes.
    """
    rows = evenly(np.arange(len(train)), sum(add.values()), rng)
    return train.take(rows).with_columns(label=np.repeat(np.array(list(add), object), list(add.values())))
