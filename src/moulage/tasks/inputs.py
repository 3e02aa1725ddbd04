"""What a classifier reads for an image: pixels of the cache, drawn samples, kept embeddings; and its metadata."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from moulage import runs
from moulage.data import masks as lesion_masks
from moulage.data import pixels as pixel_cache
from moulage.data.catalog import REAL, Catalog
from moulage.data.metadata import Encoder
from moulage.data.training_view import Examples
from moulage.errors import DataError
from moulage.recipe import Recipe
from moulage.tasks import prepare
from moulage.tasks.plan import Task
from moulage.tasks.prepare import Prepared

EMBED_CHUNK = 4096
"""Images embedded between two writes to disk; an interrupted embedding goes on at the last whole chunk."""


def samples_folder(task: Task) -> str:
    """Where a classifier task finds its samples: in the run, or in the folder that the recipe gives; empty for none."""
    return next((need for need in task.needs if need.startswith("samples/")), task.settings["given"][0])


def selection_folder(task: Task) -> str:
    """Where a classifier task finds which of its samples were kept; empty where nothing was selected."""
    return next((need for need in task.needs if need.startswith("selections/")), "")


class Inputs:
    """What the classifier reads for an image: its pixels, or its embedding where the plug-in embeds; by image name."""

    def __init__(self, prepared: Prepared, run: Path, task: Task, size: int) -> None:
        self.stores: list[tuple[dict[str, int], np.ndarray | Rows]] = []
        if task.settings["embedded"]:
            for folder in (need for need in task.needs if need.startswith("embeddings/")):
                names = runs.read_json(run / folder / "images.json")
                self._add(names, np.load(run / folder / "inputs.npy", mmap_mode="r"))
        else:
            for of in ("real", *filter(None, [samples_folder(task)])):
                catalog, array = pixels_of(prepared, run, of, size)
                self._add(catalog.images.tolist(), array)

    def _add(self, names: list[str], array: "np.ndarray | Rows") -> None:
        self.stores.append(({name: row for row, name in enumerate(names)}, array))

    def __call__(self, catalog: Catalog) -> np.ndarray:
        """Inputs of these images in this order, copied into memory."""
        rows = np.empty((len(catalog), *self.stores[0][1].shape[1:]), self.stores[0][1].dtype)
        missing = np.ones(len(catalog), bool)
        for index, array in self.stores:
            found = np.array([index.get(name, -1) for name in catalog.images], np.int64)
            rows[found >= 0] = array[found[found >= 0]]
            missing &= found < 0
        if missing.any():
            raise DataError(f'There are no pixels of "{catalog.images[missing][0]}".', "Run the command again.")
        return rows


def examples_of(inputs: Inputs, catalog: Catalog, encoder: Encoder | None, masks: np.ndarray | None = None) -> Examples:
    """Inputs, labels and, where the classifier reads them, metadata of these images; with the masks that it learns."""
    return Examples(inputs(catalog), catalog.labels, encode(encoder, catalog).get("metadata"), masks)


def masks_for(
    recipe: Recipe, catalog: Catalog, size: int, train: Catalog, extra: Catalog
) -> tuple[np.ndarray, np.ndarray]:
    """Lesion masks uint8 [N, size, size] of the training images and of what an arm adds; unknown for drawn images.

    ``catalog``: all of the study, whose masks ``prepare`` has decoded.
    """
    filters = prepare.filters_of(recipe)
    kept = lesion_masks.build(lesion_masks.with_masks(catalog), size, recipe.data.fit, filters=filters)
    real = np.where(extra.table["origin"] == REAL, extra.images, "")
    return lesion_masks.read_known(kept, size, train.images), lesion_masks.read_known(kept, size, real)


def encode(encoder: Encoder | None, catalog: Catalog) -> dict[str, np.ndarray]:
    """What ``predict`` and ``features`` are given beside the inputs: ``metadata``, or nothing where none are read."""
    return {} if encoder is None else {"metadata": encoder.encode(catalog)}


def pixels_of(prepared: Prepared, run: Path, of: str, size: int) -> "tuple[Catalog, np.ndarray | Rows]":
    """A catalog and its pixels, row by row: the real images, or those in a folder of samples."""
    if of == "real":
        rows = prepared.pixels.rows(prepared.catalog.images)
        return prepared.catalog, Rows(prepared.pixels.array(size), rows)
    samples = Catalog.load(run / of / "catalog.parquet")
    return samples, pixel_cache.build(samples, (size,), "squash", run / "cache").array(size)


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
    start = runs.read_json(marker)["num_rows"] if marker.exists() and partial.exists() else 0
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
    runs.write_json(folder / "images.json", catalog.images.tolist())
    partial.replace(folder / "inputs.npy")


class Rows:
    """Chosen rows of a memory-mapped array, read only where they are asked for."""

    def __init__(self, array: np.ndarray, rows: np.ndarray) -> None:
        self.array, self.rows, self.dtype = array, rows, array.dtype
        self.shape = (len(rows), *array.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.array[self.rows[index]]
