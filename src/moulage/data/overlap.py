"""Images that two data sets share: one photograph (``identity``), the same image name, the same lesion.

Archives of dermoscopy hold the same photographs at several sizes: HAM10000 is a part of ISIC-2019. Names and lesion ids
say so at once, where both data sets use the archive's. But other names are counted from one in every data set, and then
the images of one name have nothing to do with each other; whether they do is read off their pictures.
"""

import numpy as np
import pandas as pd

from moulage.data import identity
from moulage.data.identity import COLUMNS, Shown
from moulage.data.thumbnails import luminance
from moulage.runs import Progress, no_progress

ALIKE = 0.95
"""Correlation of the thumbnails' luminance above which two images of one name are taken for one photograph."""
MEANT = 0.5
"""Share of the images of one name that must be alike for names, and lesion ids, to mean the same in both data sets."""
SAME_NAME, SAME_LESION = "same name", "same lesion"
"""Evidence, in the column ``why``, beside ``identity.SAME_BYTES`` and ``identity.NEAR``."""


def find(theirs: Shown, ours: Shown, progress: Progress = no_progress) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Every image of the one data set that is in the other too.

    Near-duplicates are looked for among images that nothing else has found (``identity.near``).

    A table of ``image`` (of theirs), ``same_as`` (of ours) and ``why`` (``SAME_BYTES``, ``SAME_NAME``, ``SAME_LESION``
    or ``NEAR``), a row a pair; and sentences on what was not taken as evidence, and what may have been missed.
    """
    left, right = theirs.catalog.table, ours.catalog.table
    found, notes = [identity.same_bytes(theirs, ours)], ()
    same_name = _same(left, right, "image", SAME_NAME)
    alike = _alike(theirs, ours, same_name)
    if alike >= MEANT:
        found += [same_name, _same(left, right, "lesion", SAME_LESION)]
    else:
        notes = (
            f"{len(same_name):,} images have a name that the other data set uses too, but {1 - alike:.0%} of them show "
            "something else: neither names nor lesion ids were taken as evidence of an overlap.",
        )
    named = pd.concat(found, ignore_index=True)
    rest = theirs.take(~np.isin(theirs.catalog.images, named["image"].to_numpy(object)))
    alike_too, missed = identity.near(rest, ours, progress)
    found.append(alike_too)
    table = pd.concat(found, ignore_index=True).drop_duplicates(["image", "same_as"], ignore_index=True)
    return table.astype(object), (*notes, *missed)


def _same(left: pd.DataFrame, right: pd.DataFrame, column: str, why: str) -> pd.DataFrame:
    """Pairs that share a value of this column, empty values left out."""
    ours = pd.DataFrame({"key": right[column], "same_as": right["image"]})
    theirs = pd.DataFrame({"key": left[column], "image": left["image"]})
    pairs = theirs[theirs["key"] != ""].merge(ours, on="key")
    return pairs.assign(why=why)[list(COLUMNS)]


def _alike(theirs: Shown, ours: Shown, pairs: pd.DataFrame) -> float:
    """The share of these pairs that show the same picture, by the correlation of their thumbnails; 1 for no pairs."""
    if not len(pairs):
        return 1.0
    first = theirs.thumbnails[pd.Index(theirs.catalog.images).get_indexer(pd.Index(pairs["image"]))]
    second = ours.thumbnails[pd.Index(ours.catalog.images).get_indexer(pd.Index(pairs["same_as"]))]
    flat = [luminance(x).reshape(len(x), -1) for x in (first, second)]
    unit = [x - x.mean(axis=1, keepdims=True) for x in flat]
    unit = [x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6) for x in unit]
    return float(((unit[0] * unit[1]).sum(axis=1) > ALIKE).mean())
