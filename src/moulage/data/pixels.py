"""Every image read, checked and decoded once, then kept as memory-mapped arrays: the pixel cache.

    cache/pixels-<key>/     scan.parquet   thumbnails.npy   size-64.npy   done.json

The key is made of the images' fingerprints in their order and of the framing (squash, crop or pad; ``data.fit`` of a
recipe). Names, labels and the sizes asked for are not in it, so another table over the same images finds the same
folder. ``array(size)`` depends on the images, the size and the framing alone, never on what else was asked for.

A pass writes chunks of rows into arrays of their final size; a file ``pass-.../<first row>.json`` says that a chunk is
on the disk. After a crash the chunks without one are made again. Rows are written as a file is, not through a memory
map, so that a full disk is an error and not a signal that ends the process.
"""

import errno
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import PIL

from moulage.data import images
from moulage.data.catalog import Catalog
from moulage.data.filters import NO_FILTERS, Filters
from moulage.data.pixel_writer import OK, THUMBNAILS, Item, Pass, Row, file_name, work
from moulage.data.reader import Reader
from moulage.errors import DataError, RecipeError, RunError, nearest
from moulage.runs import FORMAT, Progress, atomic, digest, finish, is_done, lock, no_progress, read_json, reading

VERSION = 3
"""Raise it when the same image would give other pixels or another scan: old caches are then left alone."""

CHUNK = 128
SCAN = "scan.parquet"
_SPARE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Pixels:
    """The pixels of a catalog's images."""

    folder: Path  # where the cache is
    scan: pd.DataFrame  # one row an image, in catalog order: ``image`` and the fields of ``Row``

    def array(self, size: int) -> np.ndarray:
        """uint8 RGB [N, size, size, 3], memory-mapped, in catalog order; zeros where the status is not ok."""
        return self._load(file_name(size))

    @property
    def thumbnails(self) -> np.ndarray:
        """uint8 RGB [N, 32, 32, 3], memory-mapped, like ``array``."""
        return self._load(THUMBNAILS)

    def rows(self, images: Sequence[str] | np.ndarray) -> np.ndarray:
        """Positions [n] int64 of these images, by name; repeats allowed."""
        names = np.asarray(images, object)
        found = pd.Index(self.scan["image"].astype(object)).get_indexer(pd.Index(names, dtype=object))
        if (found < 0).any():
            raise DataError(f'Image "{names[np.argmin(found)]}" is not among the {len(self.scan)} of {self.folder}.')
        return found.astype(np.int64)

    def _load(self, name: str) -> np.ndarray:
        if not (self.folder / name).exists():
            raise RunError(f"{self.folder} holds no {name}.", "Build the pixels with this size.")
        with reading(self.folder / name, EOFError):
            return np.load(self.folder / name, mmap_mode="r")


def build(
    catalog: Catalog,
    sizes: Sequence[int],
    framing: str,
    cache: Path,
    *,
    filters: Filters = NO_FILTERS,
    of_masks: bool = False,
    num_workers: int = 1,
    progress: Progress = no_progress,
) -> Pixels:
    """Read, hash and check every image of a catalog and keep it at these sizes; what is in the cache is not done again.

    Args:
        catalog: images; each name once.
        sizes: pixels a side; may be empty, which gives scan and thumbnails.
        framing: see ``images.square``.
        cache: folder that holds ``pixels-<key>``.
        filters: pre-processing between decoding and resizing; other filters are another cache.
        of_masks: keep the lesion masks, cut as the filters cut their images, in place of the images.
        num_workers: processes that decode; the result does not depend on it.

    ``DataError``: an archive is not there, or a file may not be read. ``RunError``: the cache cannot be written, or the
    disk is too full.
    """
    sizes = tuple(sorted(set(sizes)))
    _check_request(catalog, sizes, framing)
    items = _items(catalog, filters, of_masks)
    folder = cache / f"pixels-{_key(items, framing, filters, of_masks)}"
    whole = Pass(folder, framing, sizes, True, filters, of_masks)
    try:
        if _next_pass(whole):
            waits = partial(progress, 0, len(catalog), "images: another process is at it, waiting")
            with lock(folder, waits):
                task = _next_pass(whole)  # whoever held the folder may have done it
                if task:
                    _run(task, items, num_workers, progress)
    except OSError as error:
        raise _cannot_write(folder, error) from None
    with reading(folder / SCAN, NotImplementedError):
        scan = pd.read_parquet(folder / SCAN)
        scan.insert(0, "image", catalog.images)
    return Pixels(folder, scan)


def _items(catalog: Catalog, filters: Filters, of_masks: bool) -> list[Item]:
    """Where each image is, and its mask where a filter looks at it or masks are what is kept."""
    places = [catalog.resolve(location) for location in catalog.table["location"]]
    if not (of_masks or filters.use_masks):
        return [Item(place) for place in places]
    if of_masks or filters.need_masks:
        missing = (catalog.table["mask"] == "").to_numpy()
        if missing.any():
            raise DataError(
                f'{catalog.name} has no lesion mask of image "{catalog.images[missing][0]}" '
                f"({missing.sum()} of {len(catalog)} images have none), and a step asks for it.",
                'Predict masks and name their folder as data.masks (docs/masks.md), or set without_mask = "keep".',
            )
    masks = [catalog.resolve(location) if location else "" for location in catalog.table["mask"]]
    return [Item(*pair) for pair in zip(places, masks, strict=True)]


def key(locations: Sequence[str], framing: str) -> str:
    """Digest of the images behind absolute locations, in their order, and of ``framing``; no image is read."""
    return _key([Item(location) for location in locations], framing, NO_FILTERS, of_masks=False)


def _key(items: Sequence[Item], framing: str, filters: Filters, of_masks: bool) -> str:
    with Reader() as reader:
        of_images = [reader.fingerprint(item.image) for item in items]
        with_masks = filters or of_masks
        masks = [reader.fingerprint(item.mask) if item.mask else "" for item in items] if with_masks else []
        more = (filters.key, masks, of_masks) if with_masks else ()
        return digest(FORMAT, VERSION, framing, of_images, *more, length=16)


def _check_request(catalog: Catalog, sizes: tuple[int, ...], framing: str) -> None:
    if framing not in images.FRAMINGS:
        raise RecipeError(f'There is no fit "{framing}".', nearest(framing, images.FRAMINGS))
    if sizes and sizes[0] < 1:
        raise RecipeError(f"A size of {sizes[0]} pixels cannot be.")
    repeated = catalog.table["image"][catalog.table["image"].duplicated()]
    if len(repeated):
        raise DataError(
            f'{catalog.name}: image "{repeated.iloc[0]}" is listed more than once.',
            "Build the pixels of each image once and find its row with Pixels.rows.",
        )


def _next_pass(whole: Pass) -> Pass | None:
    """What is still to do of a whole pass."""
    folder = whole.folder
    if not (is_done(folder) and (folder / SCAN).exists() and (folder / THUMBNAILS).exists()):
        return whole
    have = _finished_sizes(folder)
    wanted = tuple(size for size in whole.sizes if size not in have)
    return replace(whole, sizes=wanted, first=False) if wanted else None


def _finished_sizes(folder: Path) -> list[int]:
    sizes = read_json(folder / "done.json", "sizes")["sizes"]
    with reading(folder / "done.json"):
        return [size for size in sizes if (folder / file_name(size)).exists()]


def _run(task: Pass, items: Sequence[Item], num_workers: int, progress: Progress) -> None:
    """Do what is left of a pass, then write the scan and, last, ``done.json``."""
    wanted: Sequence[Item | None] = items
    if not task.first:  # what the scan found bad stays zero
        with reading(task.folder / SCAN, NotImplementedError):
            good = pd.read_parquet(task.folder / SCAN)["status"] == OK
        wanted = [item if ok else None for item, ok in zip(items, good, strict=True)]
    starts = range(0, len(wanted), CHUNK)
    _create_arrays(task, len(wanted))
    chunks = {start: wanted[start : start + CHUNK] for start in starts if not task.part(start).exists()}
    done = len(wanted) - sum(map(len, chunks.values()))
    progress(done, len(wanted), "images")
    for num_images in work(task, chunks, num_workers):
        done += num_images
        progress(done, len(wanted), "images")
    if task.first:
        rows = [row for start in starts for row in read_json(task.part(start))]
        with atomic(task.folder / SCAN) as temporary:
            columns = [name for name in Row.__dataclass_fields__ if task.filters or name != "changed"]
            pd.DataFrame(rows, columns=columns).to_parquet(temporary, index=False)
    sizes = sorted({*task.sizes, *([] if task.first else _finished_sizes(task.folder))})
    finish(task.folder, sizes=sizes, framing=task.framing, num_images=done, pillow=PIL.__version__)
    for parts in task.folder.glob("pass-*"):
        shutil.rmtree(parts)
    for temporary in task.folder.glob(".*.tmp"):  # of a process that was killed
        temporary.unlink()


def _create_arrays(task: Pass, num_images: int) -> None:
    """Files of the final size, without data yet; asks first whether the disk can hold them."""
    missing = {name: side for name, side in task.arrays.items() if not (task.folder / name).exists()}
    if not missing:
        return
    needed = sum(num_images * side * side * 3 for side in missing.values()) + _SPARE_BYTES
    free = shutil.disk_usage(task.folder).free
    if free < needed:
        raise RunError(
            f"{task.folder} needs {needed / 2**20:,.0f} MiB and the disk has {free / 2**20:,.0f} MiB free.",
            "Make room, or name a cache on another disk with MOULAGE_CACHE.",
        )
    for parts in task.folder.glob("pass-*"):  # they may speak of a file that is gone
        shutil.rmtree(parts)
    for name, side in missing.items():
        with atomic(task.folder / name) as temporary:
            shape = (num_images, side, side, 3)
            np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)


def _cannot_write(folder: Path, error: OSError) -> RunError:
    hint = "Name another cache with MOULAGE_CACHE."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "Make room, or name a cache on another disk with MOULAGE_CACHE. What is done is kept."
    return RunError(f"The pixel cache {folder} cannot be written: {error.strerror or error}.", hint)
