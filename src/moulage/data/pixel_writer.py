"""A pass over the images, chunk by chunk, in one process or several: read, hash, check, decode, resize, write rows.

Worker processes import this file and not ``pixels``, because they need neither tables nor pandas.
"""

import functools
import hashlib
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from moulage.data import images, locations, mask_files, png, storage
from moulage.data.filters import NO_FILTERS, Filtered, Filters
from moulage.data.reader import Reader
from moulage.errors import DataError, RunError
from moulage.runs import start_worker, write_json

OK = "ok"
THUMBNAILS = "thumbnails.npy"
THUMBNAIL_SIDE = 32
TINY_SIDE = 16
"""Images whose shorter side is below this many pixels get the status ``tiny``."""


def file_name(size: int) -> str:
    """The file that holds the squares of this size."""
    return f"size-{size}.npy"


@dataclass(frozen=True)
class Row:
    """One row of the scan."""

    sha256: str = ""  # of the file's bytes (of the row's, for arrays); empty where there is none
    width: int = 0  # pixels, as shown; 0 where unknown
    height: int = 0
    mode: str = ""  # Pillow's name for what is stored: RGB, L, RGBA, CMYK, P, I;16 ...
    format: str = ""  # these three as in ``storage.Storage``
    compression: str = ""
    camera: str = ""
    status: str = OK  # ``ok``, ``missing``, ``unreadable``, ``truncated``, ``tiny`` or ``bomb``
    message: str = ""  # what is wrong, for a person
    remarks: str = ""  # of ``images.REMARKS``, those that hold, joined by ``"; "``
    drawn: str = ""  # who generated it, see ``png.drawn_by``; empty for what does not say so
    # how much each pre-processing filter changed, see ``filters.Filtered.share``; empty without filters
    changed: tuple[float, ...] = ()


class Item(NamedTuple):
    """Where an image is, and its lesion mask (empty: it has none, or no filter asks for it); absolute locations."""

    image: str
    mask: str = ""


@dataclass(frozen=True)
class Pass:
    """What one pass over the images writes: arrays of these sizes, and in the first pass thumbnails and the scan.

    With ``of_masks`` the arrays are of the lesion masks, cut as ``filters`` cut the images.
    """

    folder: Path
    framing: str
    sizes: tuple[int, ...]
    first: bool
    filters: Filters = NO_FILTERS
    of_masks: bool = False

    @property
    def arrays(self) -> dict[str, int]:
        """File name and side of every array that is written."""
        sides = {file_name(size): size for size in self.sizes}
        return {THUMBNAILS: THUMBNAIL_SIDE, **sides} if self.first else sides

    @property
    def parts(self) -> Path:
        return self.folder / "-".join(["pass", *(["scan"] if self.first else []), *map(str, self.sizes)])

    def part(self, start: int) -> Path:
        """The file that says that the chunk from this row on is on the disk; it holds the chunk's scan."""
        return self.parts / f"{start:09d}.json"


def write_chunk(task: Pass, reader: Reader, start: int, items: Sequence[Item | None]) -> int:
    """Write the rows of one chunk, flush them, then say so; returns the number of images."""
    rows: list[Row] = []
    with ExitStack() as stack:
        files = {name: stack.enter_context((task.folder / name).open("r+b")) for name in task.arrays}
        for name, file in files.items():
            rows_of_file = np.load(task.folder / name, mmap_mode="r")
            file.seek(rows_of_file.offset + rows_of_file[:start].nbytes)
        for item in items:
            row, squares = look(reader, item, task) if item else (Row(), {})
            if not task.first and row.status != OK:
                place = item.image if item else ""
                raise DataError(
                    f"{place} could be read when its pixels were first kept and cannot now: {row.message}.",
                    "Was it changed just now? Run the command again.",
                )
            rows.append(row)
            for name, side in task.arrays.items():
                file = files[name]
                file.write(squares[name].tobytes() if name in squares else bytes(side * side * 3))
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    write_json(task.part(start), [asdict(row) for row in rows] if task.first else [])
    return len(rows)


def look(reader: Reader, item: Item, task: Pass) -> tuple[Row, dict[str, np.ndarray]]:
    """Read, hash and check one image, take it through the filters, and resize it.

    Thumbnails show the image as it is, so that duplicates are found alike whatever the filters. Gives its row of the
    scan, and its squares, uint8 [side, side, 3] by name; none where the status is not ok.
    """
    if task.of_masks and not task.filters:
        return _look_at_mask(reader, item, task)
    row = Row()
    # A filter may cut much of the image away, so more of it is decoded.
    sides = [2 * side if task.filters and name != THUMBNAILS else side for name, side in task.arrays.items()]
    try:
        if locations.is_array(item.image):
            array = reader.array(item.image)
            mode = "L" if array.ndim == 2 else "RGB"
            row = Row(hashlib.sha256(array.tobytes()).hexdigest(), array.shape[1], array.shape[0], mode)
            pictures = [Image.fromarray(array).convert("RGB")] * len(sides)
            remarks = images.range_remarks(pictures[0]) if pictures else ()
        else:
            data = reader.bytes(item.image)
            row = Row(hashlib.sha256(data).hexdigest(), drawn=png.drawn_by(data))
            header = images.header(data)
            row = replace(row, width=header.width, height=header.height, mode=header.mode, **asdict(storage.read(data)))
            pictures, remarks = images.examined(data, header, sides)
        if min(row.width, row.height) < TINY_SIDE:
            raise images.ImageError(f"{row.width} x {row.height} pixels: a side is under {TINY_SIDE}", "tiny")
        shown, changed = _filtered(reader, item, task, dict(zip(task.arrays, pictures, strict=True)))
    except images.ImageError as error:
        return replace(row, status=error.status, message=error.message), {}
    squares = {name: images.square(shown[name], side, task.framing) for name, side in task.arrays.items()}
    return replace(row, remarks="; ".join(remarks), changed=changed), squares


def _look_at_mask(reader: Reader, item: Item, task: Pass) -> tuple[Row, dict[str, np.ndarray]]:
    """The same for a lesion mask on its own."""
    try:
        mask = mask_files.read(reader, item.mask)
    except images.ImageError as error:
        return Row(status=error.status, message=error.message), {}
    picture = Image.fromarray(mask.stored).convert("RGB")
    squares = {name: images.square(picture, side, task.framing) for name, side in task.arrays.items()}
    return Row(width=picture.width, height=picture.height, mode="L"), squares


def _filtered(
    reader: Reader, item: Item, task: Pass, pictures: dict[str, Image.Image]
) -> tuple[dict[str, Image.Image | np.ndarray], tuple[float, ...]]:
    """The pictures, all but the thumbnail processed, and how much each filter changed the largest of them."""
    shown: dict[str, Image.Image | np.ndarray] = dict(pictures)
    if not task.filters:
        return shown, ()
    mask = None
    if item.mask and pictures:
        largest_picture = max(pictures.values(), key=lambda picture: picture.width)
        mask = mask_files.read_for(reader, item.mask, *largest_picture.size).stored
    known: dict[int, list[tuple[Filtered, np.ndarray | None]]] = {}  # sizes that share a decode are filtered once
    for name, picture in pictures.items():
        if name == THUMBNAILS:
            continue
        if id(picture) not in known:
            try:
                known[id(picture)] = task.filters.apply(np.asarray(picture), mask)
            except DataError as error:
                raise DataError(f"{item.image}: {error.message}", error.hint) from None
        after, cut = known[id(picture)][-1]
        shown[name] = np.repeat(cut[..., None], 3, 2) if task.of_masks and cut is not None else after.image
    largest = max(known.values(), key=lambda found: found[0][0].image.size, default=[])
    return shown, tuple(after.share for after, _ in largest)


def work(task: Pass, chunks: Mapping[int, Sequence[Item | None]], num_workers: int) -> Iterator[int]:
    """Work through the chunks in this process or in several; yields the number of images as each is on the disk."""
    if num_workers <= 1 or len(chunks) <= 1:
        with Reader() as reader:
            for start, items in chunks.items():
                yield write_chunk(task, reader, start, items)
        return
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(num_workers, len(chunks)), spawn, initializer=start_worker)
    try:
        futures = [pool.submit(_write_in_worker, task, start, chunk) for start, chunk in chunks.items()]
        for future in as_completed(futures):
            yield future.result()
    except BrokenProcessPool:
        raise RunError(
            "A process that decodes images was ended from outside.",
            "The memory may have run out: use fewer workers. What is done is kept.",
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_process_reader = functools.cache(Reader)
"""One reader a worker process, so that archives are opened once."""


def _write_in_worker(task: Pass, start: int, items: Sequence[Item | None]) -> int:
    return write_chunk(task, _process_reader(), start, items)
