"""Lesions that are held back from the training part, for the arms that are to show what new real images give.

Two ways to say how many: a share of a class's lesions goes (``hold_back``), or a number of them stays
(``make_scarce``). All images of the class that a lesion (a group) has go together. What a group has of other classes
stays: a microscope field may hold cells of many. So a group may be in the training part and in the reserve, but in no
other part beside them, and the reserve is for training alone. Validation and test part stay whole.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moulage.data.catalog import Catalog
from moulage.data.split import RESERVE, Split, digest_of
from moulage.errors import DataError, nearest

STREAM = 0x4E5E
"""Keeps the reserve's random numbers apart from those that other code draws from the same seed."""


def hold_back(split: Split, catalog: Catalog, classes: Sequence[str], share: float, seed: int) -> Split:
    """The same split with a share of the lesions of these classes held back from its training part.

    Of each class as many are drawn as come nearest to ``share`` of them (above 0 and below 1), but at least one goes
    and at least one stays. The same seed and split hold back the same lesions. ``DataError``: the share is out of
    range, there is no such class, or a class has fewer than 2 lesions. ``LeakError``: the catalog is not the one that
    was split.
    """
    if not 0 < share < 1:
        raise DataError(f"A reserve of {share:g} of the lesions cannot be made.", "Ask for a share between 0 and 1.")
    names, stay = list(dict.fromkeys(classes)), dict[str, int]()
    for name, lesions in _lesions(split, catalog, names).items():
        if len(lesions) < 2:
            raise DataError(
                f'The training part has {len(lesions)} lesions of "{name}" that could be held back, and one must stay.',
                "Leave the class out of the target classes, or set no reserve.",
            )
        stay[name] = len(lesions) - int(np.clip(round(share * len(lesions)), 1, len(lesions) - 1))
    return _without(split, catalog, stay, {"classes": names, "share": share, "seed": seed})


def make_scarce(split: Split, catalog: Catalog, lesions: Mapping[str, int], seed: int) -> Split:
    """The same split with so many lesions of a class left in its training part, the rest of them held back.

    A class's lesions are put into one random order, which the seed decides and the numbers do not, and the first of
    them stay: those that stay where fewer are asked for are some of those that stay where more are.

    Args:
        split: without a reserve.
        catalog: that was split.
        lesions: class -> lesions that stay, at least 1 and fewer than there are.
        seed: draws the order.

    Raises:
        DataError: there is no such class, or it has no more lesions than are to stay.
        LeakError: the catalog is not the one that was split.
    """
    for name, there in _lesions(split, catalog, list(lesions)).items():
        if lesions[name] >= len(there):
            raise DataError(
                f'split.scarcity: {lesions[name]:,} lesions of "{name}" are to stay, and the training part has '
                f"{len(there):,}.",
                f"Ask for 1 to {len(there) - 1:,}." if len(there) > 1 else "Leave the class out.",
            )
    return _without(split, catalog, lesions, {"lesions": dict(lesions), "seed": seed})


def _lesions(split: Split, catalog: Catalog, classes: list[str]) -> dict[str, np.ndarray]:
    """The groups in the training part that have images of each class, sorted."""
    for name in classes:
        if name not in catalog.classes:
            raise DataError(f'There is no class "{name}" to hold back.', nearest(name, catalog.classes))
    train = split.part(catalog, "train")
    labels = train.table["label"].to_numpy(object)
    return {name: np.unique(train.groups[labels == name].astype(str)) for name in classes}


def _without(split: Split, catalog: Catalog, stay: Mapping[str, int], how: dict[str, Any]) -> Split:
    """The split with all but so many lesions of each class in the reserve; ``how``: for its scheme."""
    table = split.table
    held = np.zeros(len(table), bool)
    for name, lesions in _lesions(split, catalog, list(stay)).items():
        order = np.random.default_rng([STREAM, how["seed"], catalog.classes.index(name)]).permutation(lesions)
        held |= ((table["label"] == name) & table["group"].isin(order[stay[name] :])).to_numpy()
    table = table.assign(part=table["part"].mask(held & (table["part"] == "train").to_numpy(), RESERVE)).astype(object)
    return Split(table, digest_of(table), {**split.scheme, "reserve": how})
