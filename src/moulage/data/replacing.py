"""Which real images leave the training where an arm puts others in their place.

Lesions leave in an order that the trial's seed draws, all images of one before any of the next, so that what has left
is not still seen from another side. The order is the same for all arms of a trial, and whoever replaces more replaces
the same images and further ones.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from moulage.data.catalog import Catalog


def in_place_of(labels: Sequence[str] | np.ndarray, train: Catalog, rng: np.random.Generator) -> np.ndarray:
    """The row of ``train`` whose place each of the images takes that come; -1 where none of its class is left.

    Args:
        labels: class names of the images that come, in their order.
        train: the training part.
        rng: draws the order in which lesions leave; of the trial, not of the arm.

    Returns:
        int64 [len(labels)]; a row of the same class, no row twice.
    """
    order, came = _order(train, rng), np.asarray(labels, object)
    theirs = train.table["label"].to_numpy()[order]
    found = np.full(len(came), -1)
    for name in dict.fromkeys(came):
        leave, come = order[theirs == name], np.flatnonzero(came == name)
        number = min(len(leave), len(come))
        found[come[:number]] = leave[:number]
    return found


def staying(train: Catalog, add: Mapping[str, int], rng: np.random.Generator) -> Catalog:
    """The training part without the images that leave for ``add[c]`` new ones of each class ``c``."""
    leave = in_place_of(np.repeat(np.array(list(add), object), list(add.values())), train, rng)
    return train.take(np.setdiff1d(np.arange(len(train)), leave))


def _order(train: Catalog, rng: np.random.Generator) -> np.ndarray:
    """All rows in the order in which they leave, int64 [N]."""
    lesions, of_row = np.unique(train.groups.astype(str), return_inverse=True)
    return np.lexsort((np.arange(len(train)), rng.permutation(len(lesions))[of_row]))
