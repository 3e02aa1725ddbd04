"""What there is: source, classes, lesions, sizes, masks, copies. Labels and lists of files are read, and few pixels."""

import hashlib
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moulage import contracts, plugins
from moulage.data import locations, pixels
from moulage.data.catalog import Catalog
from moulage.data.pixel_writer import OK
from moulage.data.reader import Reader
from moulage.errors import DataError

FEW, MANY = 32, 224
"""Images that are decoded to see their sizes and how long it takes: many where the few take no second."""
HEAD_BYTES = 4096
"""Files of one length are compared by so many bytes before they are read whole."""


@dataclass(frozen=True)
class OfClass:
    """How much there is of a class."""

    name: str
    images: int
    lesions: int  # groups that a split keeps together; each image is one where nothing is known


@dataclass(frozen=True)
class Survey:
    """What a data set holds."""

    source: str  # the plug-in that reads it
    options: Mapping[str, Any]  # of the source
    catalog: Catalog
    classes: tuple[OfClass, ...]  # in the order of the catalog's
    num_without_lesion: int  # images without a lesion or patient id
    num_masks: int
    # images with the same bytes as another one, and those of them whose label differs; None where not looked for
    num_copies: int | None
    num_contradicting: int | None
    side: int  # pixels: median of the shorter sides of the images that were looked at
    num_unusable: int  # of those that were looked at: missing, unreadable, tiny
    num_looked_at: int
    seconds_an_image: float  # to read and decode one

    def __len__(self) -> int:
        return len(self.catalog)


def survey(path: Path, source: str, options: Mapping[str, Any]) -> Survey:
    """Look at the data at ``path``; ``source`` names their layout, or is empty: it is recognised then.

    ``DataError``: nothing there, no image, or none that can be used; else as the source's own ``read``.
    """
    source = source or source_of(path)
    plug = contracts.source(source)
    catalog = plug.read(path, plug.configure(options, f"the source {source}"))
    table = catalog.table
    classes = _classes(catalog)
    same, contradicting = _copies(catalog)
    side, bad, looked_at, seconds = _look(catalog)
    no_lesion, masks = int((table["lesion"] == "").sum()), int((table["mask"] != "").sum())
    return Survey(
        source, options, catalog, classes, no_lesion, masks, same, contradicting, side, bad, looked_at, seconds
    )


def _classes(catalog: Catalog) -> tuple[OfClass, ...]:
    lesions = catalog.table[["label", "group"]].drop_duplicates()["label"].value_counts()
    return tuple(OfClass(name, number, int(lesions.get(name, 0))) for name, number in catalog.counts.items())


def source_of(path: Path) -> str:
    """The source that recognises what lies there; ``folder`` where none does. ``DataError`` where nothing is there."""
    if not path.exists():
        raise DataError(f"{path} does not exist.", "Name a folder or a file of the data.")
    for name in plugins.names("sources"):
        recognises = contracts.source(name).recognises
        if recognises and recognises(path):
            return name
    return "folder"


def _look(catalog: Catalog) -> tuple[int, int, int, float]:
    """Median shorter side, how many of how many cannot be used, and seconds an image; of images drawn at random."""
    rows = np.random.default_rng(0).permutation(len(catalog))
    with tempfile.TemporaryDirectory() as folder:
        seconds, seen = 0.0, np.zeros(0)
        for number, last in ((FEW, False), (MANY, True)):
            chosen = catalog.take(np.sort(rows[:number]))
            start = time.process_time()
            found = pixels.build(chosen, (64,), "squash", Path(folder) / str(number)).scan
            seconds = (time.process_time() - start) / len(chosen)
            usable = (found["status"] == OK).to_numpy()
            seen = found[["width", "height"]].to_numpy().min(axis=1)[usable]
            if last or seconds * MANY > 5 or len(catalog) <= number:
                break
    if not len(seen):
        status, message = found[["status", "message"]].iloc[0]
        raise DataError(
            f"None of {len(found)} images that were looked at can be used; the first is {status}: {message}.",
            "`moulage prepare` names all of them.",
        )
    return int(np.median(seen)), int((~usable).sum()), len(found), seconds


def _copies(catalog: Catalog) -> tuple[int | None, int | None]:
    """Images whose bytes another has, too, and those of them under several labels; None for rows of arrays."""
    places = [catalog.resolve(location) for location in catalog.table["location"]]
    if any(map(locations.is_array, places)):
        return None, None
    labels = catalog.table["label"].to_numpy(object)
    groups = list(_same_bytes(places))
    across = [group for group in groups if len({labels[row] for row in group}) > 1]
    return sum(len(group) - 1 for group in groups), sum(map(len, across))


def _same_bytes(places: list[str]) -> Iterable[list[int]]:
    """Rows whose files hold the same bytes; members of archives by length and CRC-32, which their directory has."""
    packed = [row for row, place in enumerate(places) if locations.split(place)[1] and not _is_missing(place)]
    plain = [row for row, place in enumerate(places) if not locations.split(place)[1] and not _is_missing(place)]
    with Reader() as reader:
        yield from _alike(packed, lambda row: reader.fingerprint(places[row]))
    for one_length in _alike(plain, lambda row: _length(places[row])):
        for one_head in _alike(one_length, lambda row: _digest(places[row], HEAD_BYTES)):
            yield from _alike(one_head, lambda row: _digest(places[row], -1))


def _alike(rows: Iterable[int], key: Callable[[int], Hashable]) -> list[list[int]]:
    """Groups of two rows or more that agree in a key; those whose key is None are in none."""
    found: dict[Hashable, list[int]] = defaultdict(list)
    for row in rows:
        found[key(row)].append(row)
    return [group for value, group in found.items() if value is not None and len(group) > 1]


def _is_missing(place: str) -> bool:
    return place.startswith(locations.MISSING)


def _length(place: str) -> int | None:
    try:
        return Path(place).stat().st_size
    except OSError:
        return None


def _digest(place: str, most: int) -> bytes | None:
    """Digest of the first bytes of a file, or of all (-1); None where it cannot be read."""
    try:
        with Path(place).open("rb") as stream:
            return hashlib.sha256(stream.read(most)).digest()
    except OSError:
        return None
