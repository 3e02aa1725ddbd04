"""Which images are one photograph: by their bytes, then by what they show, never by their names.

Every verb that is given folders asks here: file names are counted from one in every folder, and a copy may be called
anything. Near-duplicates are those that the audit joins (``duplicates``): saved again, cut, framed, mirrored, turned,
re-coloured.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from moulage import runs
from moulage.data import duplicates
from moulage.data import pixels as pixel_cache
from moulage.data.catalog import Catalog
from moulage.data.pixel_writer import OK
from moulage.data.pixels import Pixels
from moulage.errors import DataError
from moulage.runs import Progress, no_progress

COLUMNS = ("image", "same_as", "why")
SAME_BYTES, NEAR = "same bytes", "near-duplicate"
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

    def of_classes(self, classes: Sequence[str]) -> "Shown":
        """The images of these classes."""
        return self.take(self.catalog.table["label"].isin(classes).to_numpy())


def look(catalog: Catalog, progress: Progress = no_progress) -> Pixels:
    """Scan and thumbnails of a catalog's images, from the pixel cache; ``DataError`` names one that cannot be read."""
    pixels = pixel_cache.build(catalog, (), "squash", runs.cache_folder(), progress=progress)
    check_readable(catalog, pixels)
    return pixels


def check_readable(catalog: Catalog, pixels: Pixels) -> None:
    """Raise ``DataError`` for the first image of these pixels that cannot be used."""
    broken = pixels.scan[pixels.scan["status"] != OK]
    if len(broken):
        first = broken.iloc[0]
        raise DataError(f"{catalog.root}: {first['image']} cannot be read: {first['message']}.", "Take it out.")


def shared(theirs: Shown, ours: Shown, progress: Progress = no_progress) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The photographs that both hold: first the same bytes, then near-duplicates among the images that are left.

    A table of ``image`` (of theirs), ``same_as`` (of ours) and ``why`` (``SAME_BYTES`` or ``NEAR``), a row a pair; and
    sentences on what may have been missed.
    """
    found = same_bytes(theirs, ours)
    rest = theirs.take(~np.isin(theirs.catalog.images, found["image"].to_numpy(object)))
    more, notes = near(rest, ours, progress)
    return pd.concat([found, more], ignore_index=True).astype(object), notes


def same_bytes(theirs: Shown, ours: Shown) -> pd.DataFrame:
    """The pairs of files that are equal byte for byte; columns as of ``shared``."""
    left = pd.DataFrame({"key": theirs.sha256, "image": theirs.catalog.images})
    right = pd.DataFrame({"key": ours.sha256, "same_as": ours.catalog.images})
    return left[left["key"] != ""].merge(right, on="key").assign(why=SAME_BYTES)[list(COLUMNS)]


def near(theirs: Shown, ours: Shown, progress: Progress = no_progress) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Accepted near-duplicates, one image of each side, and sentences on what may have been missed; as ``shared``."""
    if not len(theirs.sha256):
        return pd.DataFrame(columns=list(COLUMNS), dtype=object), ()
    names = np.array([f"t{n}" for n in range(len(theirs.sha256))] + [f"o{n}" for n in range(len(ours.sha256))], object)
    sides = np.repeat([0, 1], [len(theirs.sha256), len(ours.sha256)])
    pairs = duplicates.search(names, np.concatenate([theirs.thumbnails, ours.thumbnails]), progress, sides=sides)
    rows = [
        (theirs.catalog.images[int(pair.first[1:])], ours.catalog.images[int(pair.second[1:])], NEAR)
        for pair in pairs
        if pair.accepted
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype=object), _notes(pairs)


def joined(shown: Shown, progress: Progress = no_progress) -> tuple[np.ndarray, tuple[str, ...]]:
    """The groups [N] of str of these images, united where two are one photograph; and what may have been missed."""
    row = {name: i for i, name in enumerate(shown.catalog.images)}
    pairs = duplicates.search(shown.catalog.images, shown.thumbnails, progress)
    edges = [(row[pair.first], row[pair.second]) for pair in pairs if pair.accepted]
    return unite(shown.catalog.groups, shown.sha256, extra=edges), _notes(pairs)


def _notes(pairs: duplicates.Pairs) -> tuple[str, ...]:
    return () if pairs.is_complete else (duplicates.INCOMPLETE,)


def unite(groups: np.ndarray, *keys: np.ndarray, extra: Sequence[tuple[int, int]] = ()) -> np.ndarray:
    """Groups [N] of str, united where they share a value of a key [N] or an extra edge; named after their first row."""
    edges = [np.array(extra, np.int64).reshape(-1, 2)]
    for key in (groups, *keys):
        _, first, member_of = np.unique(key, return_index=True, return_inverse=True)
        edges.append(np.stack([np.arange(len(key)), first[member_of]], axis=1))
    start, end = np.concatenate(edges).T
    graph = coo_array((np.ones(len(start), bool), (start, end)), shape=(len(groups), len(groups)))
    _, component = connected_components(graph, directed=False)
    _, first, member_of = np.unique(component, return_index=True, return_inverse=True)
    return groups[first[member_of]]
