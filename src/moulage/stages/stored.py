"""What a run has stored of images, row by row: decoded pixels, and what a frozen network made of them."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moulage import runs
from moulage.data import pixels as pixel_cache
from moulage.data.catalog import Catalog
from moulage.data.samples import DRAW_AGAIN, check_provenance, prove_files
from moulage.errors import DataError, LeakError
from moulage.stages.data import Prepared

EMBED_CHUNK = 4096
"""Images embedded between two writes to disk; an interrupted embedding goes on at the last whole chunk."""
ROWS, IMAGES = "inputs.npy", "images.json"


def labels_of(catalog: Catalog, classes: tuple[str, ...]) -> np.ndarray:
    """Indices into ``classes`` of a catalog's images, int64 [N]."""
    return np.array([classes.index(name) for name in catalog.table["label"]], np.int64)


def some_of_each(labels: np.ndarray, num_images: int) -> np.ndarray:
    """Rows of at most ``num_images`` images, drawn at random (always the same), as many of one class as of another."""
    names, rng = sorted(set(labels)), np.random.default_rng(0)
    share = max(1, num_images // max(1, len(names)))
    drawn = [rng.permutation(np.flatnonzero(labels == name))[:share] for name in names]
    return np.concatenate(drawn or [np.zeros(0, np.int64)])


class ByName:
    """Rows of several arrays, looked up by the names of the images that they are of."""

    def __init__(self, stores: "Iterable[tuple[list[str], np.ndarray | Rows | Beside]]") -> None:
        self.stores = [({name: row for row, name in enumerate(names)}, array) for names, array in stores]

    def __call__(self, catalog: Catalog) -> np.ndarray:
        """The rows of these images in this order, copied into memory."""
        first = self.stores[0][1]
        rows = np.empty((len(catalog), *first.shape[1:]), first.dtype)
        missing = np.ones(len(catalog), bool)
        for index, array in self.stores:
            found = np.array([index.get(name, -1) for name in catalog.images], np.int64)
            rows[found >= 0] = array[found[found >= 0]]
            missing &= found < 0
        if missing.any():
            raise DataError(f'There are no pixels of "{catalog.images[missing][0]}".', "Run the command again.")
        return rows


def pixels_of(prepared: Prepared, run: Path, samples_folder: str, size: int) -> "tuple[Catalog, np.ndarray | Rows]":
    """A catalog and its pixels, row by row: the real images, or those of a folder of samples, anywhere."""
    if not samples_folder:
        rows = prepared.pixels.rows(prepared.catalog.images)
        return prepared.catalog, Rows(prepared.pixels.array(size), rows)
    samples = Catalog.load(run / samples_folder / "catalog.parquet")
    pixels = pixel_cache.build(samples, (size,), "squash", run / "cache")
    strange = np.flatnonzero((pixels.scan["drawn"] != samples.table["origin"]).to_numpy())
    if len(strange):
        place, origin = (str(samples.table[name].to_numpy(object)[strange[0]]) for name in ("location", "origin"))
        raise LeakError(f"{samples.resolve(place)} is not the image that {origin} drew.", DRAW_AGAIN)
    return samples, pixels.array(size)


def given_digest(folder: Path, split_digest: str) -> str:
    """Digest of what a folder of given samples lists and of what its files show.

    Raises:
        LeakError: they were drawn by a generator that saw another split, or a file is not the one that was drawn.
    """
    samples = Catalog.load(folder / "catalog.parquet")
    check_provenance(samples, split_digest)
    return runs.digest(samples.digest, prove_files(samples))


def embed_all(
    folder: Path,
    catalog: Catalog,
    array: "np.ndarray | Rows",
    network: Callable[[np.ndarray], np.ndarray],
    progress: runs.Progress,
) -> None:
    """Forward each image through a network, once: ``inputs.npy`` holds a row an image, ``images.json`` their names.

    Args:
        folder: where both go, and what an interrupted call has left.
        catalog: N images.
        array: their pixels, uint8 [N, S, S, 3].
        network: uint8 [n, S, S, 3] -> float32 [n, D].
        progress: told after each chunk.
    """
    partial, marker = folder / "partial.npy", folder / "partial.json"
    start = runs.read_json(marker, "num_rows")["num_rows"] if marker.exists() and partial.exists() else 0
    with runs.reading(partial):
        kept = np.lib.format.open_memmap(partial, mode="r+") if start else None
    for first in range(start, len(catalog), EMBED_CHUNK):
        values = network(array[first : first + EMBED_CHUNK])
        done = first + len(values)
        progress(done, len(catalog), "images embedded")
        if kept is None:
            kept = np.lib.format.open_memmap(partial, "w+", np.float32, (len(catalog), values.shape[1]))
        kept[first:done] = values
        kept.flush()
        runs.write_json(marker, {"num_rows": done})
    runs.write_json(folder / IMAGES, catalog.images.tolist())
    partial.replace(folder / ROWS)


def embedded(*folders: Path) -> "tuple[list[str], Beside]":
    """What ``embed_all`` wrote of the same images: their names, and a row of numbers for each, of all folders."""
    arrays, names = list[np.ndarray](), list[str]()
    for folder in folders:
        with runs.reading(folder / ROWS, EOFError):
            names, rows = runs.read_json(folder / IMAGES), np.load(folder / ROWS, mmap_mode="r")
            if rows.ndim != 2 or len(rows) != len(names) or not all(isinstance(name, str) for name in names):
                raise ValueError(f"{len(names)} images and numbers of shape {rows.shape}")
        arrays.append(rows)
    return names, Beside(arrays)


class Beside:
    """Arrays [N, D], memory-mapped, whose columns stand side by side in the rows that are asked for."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays, self.dtype = arrays, arrays[0].dtype
        self.shape = (len(arrays[0]), sum(array.shape[1] for array in arrays))

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.concatenate([array[index] for array in self.arrays], axis=1)


class Rows:
    """Chosen rows of a memory-mapped array, read only where they are asked for."""

    def __init__(self, array: np.ndarray, rows: np.ndarray) -> None:
        self.array, self.rows, self.dtype = array, rows, array.dtype
        self.shape = (len(rows), *array.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.array[self.rows[index]]
