"""Images that two data sets share: the same bytes, near-duplicates, the same image name, the same lesion.

Archives of dermoscopy hold the same photographs at several sizes: HAM10000 is a part of ISIC-2019. Names and lesion ids
say so at once, where both data sets use the archive's. But other names are counted from one in every data set, and then
the images of one name have nothing to do with each other; whether they do is read off their pictures.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from moulage.data import duplicates
from moulage.data.catalog import Catalog
from moulage.data.pixels import Pixels
from moulage.data.thumbnails import luminance
from moulage.runs import Progress, no_progress

ALIKE = 0.95
"""Correlation of the thumbnails' luminance above which two images of one name are taken for one photograph."""
MEANT = 0.5
"""Share of the images of one name that must be alike for names, and lesion ids, to mean the same in both data sets."""
COLUMNS = ("image", "same_as", "why")
SAME_BYTES, SAME_NAME, SAME_LESION, NEAR = "same bytes", "same name", "same lesion", "near-duplicate"
"""Evidence, in the column ``why``."""


@dataclass(frozen=True)
class Shown:
    """Images and what tells them apart."""

    catalog: Catalog  # N images
    sha256: np.ndarray  # of their bytes, [N] of str
    thumbnails: np.ndarray  # uint8 [N, 32, 32, 3]

    @classmethod
    def of(cls, catalog: Catalog, pixels: Pixels) -> "Shown":
        """These images of ``pixels``, found by name."""
        rows = pixels.rows(catalog.images)
        return cls(catalog, pixels.scan["sha256"].to_numpy(object)[rows], np.asarray(pixels.thumbnails[rows]))

    def take(self, rows: np.ndarray) -> "Shown":
        """The images at these positions, or where a mask is true."""
        return Shown(self.catalog.take(rows), self.sha256[rows], self.thumbnails[rows])


def find(theirs: Shown, ours: Shown, progress: Progress = no_progress) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Every image of the one data set that is in the other too.

    Near-duplicates are looked for among images that nothing else has found. The search sees at most
    ``duplicates.MAX_CANDIDATES`` pairs, those within a data set among them; what it does not find may still be a copy.

    A table of ``image`` (of theirs), ``same_as`` (of ours) and ``why`` (``same bytes``, ``same name``, ``same lesion``
    or ``near-duplicate``), a row a pair; and sentences on what was not taken as evidence.
    """
    left = theirs.catalog.table[["image", "lesion"]].assign(sha256=theirs.sha256)
    right = ours.catalog.table[["image", "lesion"]].assign(sha256=ours.sha256)
    found, notes = [_same(left, right, "sha256", SAME_BYTES)], ()
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
    found.append(_near(rest, ours, progress))
    table = pd.concat(found, ignore_index=True).drop_duplicates(["image", "same_as"], ignore_index=True)
    return table.astype(object), notes


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


def _near(theirs: Shown, ours: Shown, progress: Progress) -> pd.DataFrame:
    """Accepted near-duplicates of one image of each data set."""
    if not len(theirs.sha256):
        return pd.DataFrame(columns=list(COLUMNS), dtype=object)
    names = np.array([f"t{n}" for n in range(len(theirs.sha256))] + [f"o{n}" for n in range(len(ours.sha256))], object)
    pairs = duplicates.search(names, np.concatenate([theirs.thumbnails, ours.thumbnails]), progress)
    rows = [
        (theirs.catalog.images[int(pair.first[1:])], ours.catalog.images[int(pair.second[1:])], NEAR)
        for pair in pairs
        if pair.accepted and (pair.first[0], pair.second[0]) == ("t", "o")
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)
