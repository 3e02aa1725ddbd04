"""Lesions that are held back from the training part, for the arms that are to show what new real images give.

Two ways to say how many: a share of the lesions goes (``hold_back``), or a number of them stays (``make_scarce``).
Whole groups move, and only those all of whose images are of the classes in question. Validation and test part stay
whole.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from moulage.data.catalog import Catalog
from moulage.data.split import RESERVE, Split, digest_of
from moulage.errors import DataError, nearest

SHARE_STREAM = 0x4E5E
"""Keeps the random numbers of ``hold_back`` apart from those that other code draws from the same seed."""
SCARCITY_STREAM = 0x5CA2
"""The same for ``make_scarce``."""


def hold_back(split: Split, catalog: Catalog, classes: Sequence[str], share: float, seed: int) -> Split:
    """The same split with a share of the lesions of these classes held back from its training part.

    Of each class that many groups are drawn as come nearest to ``share`` of them (above 0 and below 1), but at least
    one goes and at least one stays. The same seed and split hold back the same groups. ``DataError``: the share is out
    of range, there is no such class, or a class has fewer than 2 groups to choose from. ``LeakError``: the catalog is
    not the one that was split.
    """
    if not 0 < share < 1:
        raise DataError(f"A reserve of {share:g} of the lesions cannot be made.", "Ask for a share between 0 and 1.")
    names = list(dict.fromkeys(classes))
    groups, has, _ = _groups_of(split.part(catalog, "train"), names)
    there = has.sum(axis=0)
    wanted = np.clip(np.round(share * there), 1, np.maximum(1, there - 1))
    taken, gone = np.zeros(len(groups), bool), np.zeros(len(names), np.int64)
    rng = np.random.default_rng([SHARE_STREAM, seed])
    for k in np.argsort(there, kind="stable"):
        for group in rng.permutation(np.flatnonzero(has[:, k])):
            # A group of two classes must not be the last of the other one.
            spares = (there - gone)[has[group]].min() > 1
            if gone[k] < wanted[k] and not taken[group] and spares:
                taken[group], gone = True, gone + has[group]
    for name, number, went in zip(names, there, gone, strict=True):
        if not 0 < went < number:
            raise DataError(
                f'The training part has {number} lesions of "{name}" that could be held back, and one must stay.',
                "Hold back at least one of at least two: leave the class out of the target classes, or set no reserve.",
            )
    return _without(split, groups[taken], {"classes": names, "share": share, "seed": seed})


def make_scarce(split: Split, catalog: Catalog, lesions: Mapping[str, int], seed: int) -> Split:
    """The same split with so many lesions of a class left in its training part, the rest of them held back.

    A class's groups are put into one random order, which the seed decides and the numbers do not, and the first of them
    stay: the lesions that stay where fewer are asked for are some of those that stay where more are. Groups that hold
    images of other classes as well cannot be held back; they stay and are counted first. A group of several of these
    classes goes by the rarest of them.

    Args:
        split: without a reserve.
        catalog: that was split.
        lesions: class -> lesions that stay, at least 1 and fewer than there are.
        seed: draws the order.

    Raises:
        DataError: there is no such class, or it has no more lesions than are to stay.
        LeakError: the catalog is not the one that was split.
    """
    names = list(lesions)
    groups, has, bound = _groups_of(split.part(catalog, "train"), names)
    there = has.sum(axis=0)
    rarest = np.where(has, there, there.max(initial=0) + 1).argmin(axis=1)
    gone: list[np.ndarray] = []
    for k, name in enumerate(names):
        stay, number = lesions[name], int(there[k] + bound[k])
        if not bound[k] <= stay < number:
            tied = f", {bound[k]} of which hold images of other classes too and cannot be held back" * bool(bound[k])
            raise DataError(
                f'split.scarcity: {stay} lesions of "{name}" are to stay, and the training part has {number}{tied}.',
                f"Ask for {max(1, bound[k])} to {number - 1}." if number > 1 else "Leave the class out.",
            )
        rng = np.random.default_rng([SCARCITY_STREAM, seed, catalog.classes.index(name)])
        gone.append(rng.permutation(np.flatnonzero(rarest == k))[stay - bound[k] :])
    return _without(split, groups[np.concatenate(gone)], {"lesions": dict(lesions), "seed": seed})


def _without(split: Split, groups: np.ndarray, how: dict[str, Any]) -> Split:
    """The split with these groups in the reserve; ``how``: for its scheme."""
    held = split.table["group"].isin(groups)
    table = split.table.assign(part=split.table["part"].mask(held, RESERVE)).astype(object)
    return Split(table, digest_of(table), {**split.scheme, "reserve": how})


def _groups_of(catalog: Catalog, classes: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups that hold nothing but these classes, sorted [G]; which of the classes each has, bool [G, len(classes)];
    and how many other groups each class is in [len(classes)].
    """
    for name in classes:
        if name not in catalog.classes:
            raise DataError(f'There is no class "{name}" to hold back.', nearest(name, catalog.classes))
    found = pd.crosstab(catalog.groups, catalog.table["label"].to_numpy(object)).sort_index() > 0
    found = found.reindex(columns=list(catalog.classes), fill_value=False)
    mixed = found.drop(columns=classes).any(axis=1).to_numpy(bool)
    has = found[classes].to_numpy(bool)
    return found.index.to_numpy(object)[~mixed], has[~mixed], has[mixed].sum(axis=0)
