"""Every image read, checked and decoded once, then kept as memory-mapped arrays: the pixel cache.

    cache/pixels-<key>/     scan.parquet   thumbnails.npy   size-64.npy   done.json

The key is made of the images' fingerprints in their order and of ``fit``. Names, labels and the sizes asked for are not
in it, so another table over the same images finds the same folder. ``array(size)`` depends on the images, the size and
``fit`` alone, never on what else was asked for.

A pass writes chunks of rows into arrays of their final size; a file ``pass-.../<first row>.json`` says that a chunk is
on the disk. After a crash the chunks without one are made again. Rows are written as a file is, not through a memory
map, so that a full disk is an error and not a signal that ends the process.
"""

import errno
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import PIL

from moulage.data import images
from moulage.data.catalog import Catalog
from moulage.data.chunks import OK, THUMBNAILS, Pass, Row, file_name, work
from moulage.errors import DataError, RecipeError, RunError, nearest
from moulage.runs import FORMAT, Progress, atomic, digest, finish, is_done, lock, no_progress, read_json

VERSION = 1
"""Raise it when the same image would give other pixels or another scan: old caches are then left alone."""

CHUNK = 128
SCAN = "scan.parquet"
_SPARE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Pixels:
    """The pixels of a catalog's images.

    Attributes:
        folder: where the cache is.
        scan: one row an image, in catalog order: ``image`` and the fields of ``Row``.
    """

    folder: Path
    scan: pd.DataFrame

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
        try:
            return np.load(self.folder / name, mmap_mode="r")
        except FileNotFoundError:
            raise RunError(f"{self.folder} holds no {name}.", "Build the pixels with this size.") from None


def build(
    catalog: Catalog,
    sizes: Sequence[int],
    fit: str,
    cache: Path,
    *,
    num_workers: int = 1,
    progress: Progress = no_progress,
) -> Pixels:
    """Read, hash and check every image of a catalog and keep it at these sizes; what is in the cache is not done again.

    Args:
        catalog: images; each name once.
        sizes: pixels a side; may be empty, which gives scan and thumbnails.
        fit: ``"squash"``, ``"crop"`` or ``"pad"``, see ``images.square``.
        cache: folder that holds ``pixels-<key>``.
        num_workers: processes that decode; the result does not depend on it.
        progress: called with the number of images done.

    Raises:
        DataError: an archive is not there, or a file may not be read.
        RunError: the cache cannot be written, or the disk is too full.
    """
    sizes = tuple(sorted(set(sizes)))
    _check_request(catalog, sizes, fit)
    locations = [catalog.resolve(location) for location in catalog.table["location"]]
    folder = cache / f"pixels-{key(locations, fit)}"
    try:
        if _next_pass(folder, sizes, fit):
            with _turn(folder, len(catalog), progress):
                task = _next_pass(folder, sizes, fit)  # whoever held the folder may have done it
                if task:
                    _run(task, locations, num_workers, progress)
    except OSError as error:
        raise _cannot_write(folder, error) from None
    scan = pd.read_parquet(folder / SCAN)
    scan.insert(0, "image", catalog.images)
    return Pixels(folder, scan)


def key(locations: Sequence[str], fit: str) -> str:
    """Digest of the images behind absolute locations, in their order, and of ``fit``; no image is read."""
    with images.Reader() as reader:
        return digest(FORMAT, VERSION, fit, [reader.fingerprint(location) for location in locations], length=16)


def _check_request(catalog: Catalog, sizes: tuple[int, ...], fit: str) -> None:
    if fit not in images.FITS:
        raise RecipeError(f'There is no fit "{fit}".', nearest(fit, images.FITS))
    if sizes and sizes[0] < 1:
        raise RecipeError(f"A size of {sizes[0]} pixels cannot be.")
    repeated = catalog.table["image"][catalog.table["image"].duplicated()]
    if len(repeated):
        raise DataError(
            f'{catalog.name}: image "{repeated.iloc[0]}" is listed more than once.',
            "Build the pixels of each image once and find its row with Pixels.rows.",
        )


def _next_pass(folder: Path, sizes: tuple[int, ...], fit: str) -> Pass | None:
    """What is still to do for these sizes."""
    if not (is_done(folder) and (folder / SCAN).exists() and (folder / THUMBNAILS).exists()):
        return Pass(folder, fit, sizes, first=True)
    have = _finished_sizes(folder)
    wanted = tuple(size for size in sizes if size not in have)
    return Pass(folder, fit, wanted, first=False) if wanted else None


def _finished_sizes(folder: Path) -> list[int]:
    return [size for size in read_json(folder / "done.json")["sizes"] if (folder / file_name(size)).exists()]


def _run(task: Pass, locations: Sequence[str], num_workers: int, progress: Progress) -> None:
    """Do what is left of a pass, then write the scan and, last, ``done.json``."""
    wanted: Sequence[str | None] = locations
    if not task.first:  # what the scan found bad stays zero
        good = pd.read_parquet(task.folder / SCAN)["status"] == OK
        wanted = [location if ok else None for location, ok in zip(locations, good, strict=True)]
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
            pd.DataFrame(rows, columns=list(Row.__dataclass_fields__)).to_parquet(temporary, index=False)
    kept = [] if task.first else _finished_sizes(task.folder)
    finish(task.folder, sizes=sorted({*kept, *task.sizes}), fit=task.fit, num_images=done, pillow=PIL.__version__)
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


@contextmanager
def _turn(folder: Path, num_images: int, progress: Progress) -> Iterator[None]:
    """Hold the folder; while another process builds the same cache, wait for it."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(lock(folder))
                break
            except RunError:
                progress(0, num_images, "images: another process is at it, waiting")
                time.sleep(0.2)
        yield


def _cannot_write(folder: Path, error: OSError) -> RunError:
    hint = "Name another cache with MOULAGE_CACHE."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "Make room, or name a cache on another disk with MOULAGE_CACHE. What is done is kept."
    return RunError(f"The pixel cache {folder} cannot be written: {error.strerror or error}.", hint)
