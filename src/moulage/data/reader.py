"""The bytes of images, read in place: files, members of ZIP archives, rows of the arrays in a ``.npz`` file."""

import lzma
import math
import os
import stat
import zipfile
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from moulage.data import dicom, locations
from moulage.data.images import MAX_PIXELS, ImageError
from moulage.errors import DataError

MISSING = "missing"
"""Status, and fingerprint, of an image that is not there."""
BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError)
"""What a member of a ZIP raises that is damaged, encrypted or packed in a way that is not known."""
MAX_FILE_BYTES = 512 * 2**20
"""A larger file or member of an archive is no image."""
MAX_RATIO, _MIN_BOMB_BYTES = 200, 16 * 2**20
"""A member of an archive of at least so many bytes that shrank more than that is not unpacked."""


class Reader:
    """Reads what absolute locations point to and keeps archives open; for one thread. A context manager.

    An image that is not there is an ``ImageError`` with status ``missing``. An archive that is not there, or a file
    that may not be read, is a ``DataError``, because it says nothing of the image.
    """

    def __init__(self) -> None:
        self._open = ExitStack()
        self._archives: dict[str, zipfile.ZipFile] = {}
        self._arrays: dict[tuple[str, str], _Rows] = {}

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._archives.clear()
        self._arrays.clear()

    def bytes(self, location: str) -> bytes:
        """The encoded image at a path or at ``archive.zip::member``; of a DICOM file its picture (``data.dicom``)."""
        path, member = locations.split(location)
        if location.startswith(locations.MISSING):
            raise ImageError("there is a label but no image", MISSING)
        if not member:
            return dicom.as_image(_read_file(Path(path)))
        archive = self._archive(path)
        try:
            return dicom.as_image(archive.read(_bounded(_member(archive, member))))
        except BROKEN as error:
            raise ImageError(f"the archive is damaged here, or encrypted: {error}") from None
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from None

    def array(self, location: str) -> np.ndarray:
        """The row at ``file.npz::array::index``: uint8 [H, W] or [H, W, 3]. Ascending rows are fastest."""
        path, name, index = _array_parts(location)
        if (path, name) not in self._arrays:
            archive = self._archive(path)
            try:
                stream = self._open.enter_context(archive.open(_member(archive, f"{name}.npy")))
            except BROKEN as error:
                raise DataError(f"{path}::{name} cannot be read: {error}.") from None
            self._arrays[path, name] = _Rows.read_header(stream, f"{path}::{name}")
        return self._arrays[path, name].row(index)

    def fingerprint(self, location: str) -> str:
        """A text that changes when the image does, from directory entries alone.

        A ZIP member: its CRC-32 and size, so that a moved archive keeps it. A row of an array: those of the array, and
        the index. A file: its path, size and modification time.
        """
        path, member = locations.split(location)
        if location.startswith(locations.MISSING):
            return MISSING
        try:
            if not member:
                status = Path(path).stat()
                return f"{path}:{status.st_size}:{status.st_mtime_ns}"
            if locations.is_array(location):
                path, name, index = _array_parts(location)
                info = _member(self._archive(path), f"{name}.npy")
                return f"{info.CRC:08x}:{info.file_size}:{index}"
            info = _member(self._archive(path), member)
            return f"{info.CRC:08x}:{info.file_size}"
        except (FileNotFoundError, NotADirectoryError, ImageError):
            return MISSING
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from None

    def _archive(self, path: str) -> zipfile.ZipFile:
        if path not in self._archives:
            try:
                self._archives[path] = self._open.enter_context(zipfile.ZipFile(path))
            except zipfile.BadZipFile:
                raise DataError(
                    f"{path} is damaged: it has no ZIP directory.", "Its download may have been cut off: get it again."
                ) from None
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror}.") from None
        return self._archives[path]


@dataclass(frozen=True)
class _Rows:
    """The rows of a ``.npy`` stream, found by seeking: forward, ZIP reads on; backward, it starts again."""

    stream: IO[bytes]
    name: str
    first_byte: int
    shape: tuple[int, ...]

    @classmethod
    def read_header(cls, stream: IO[bytes], name: str) -> "_Rows":
        try:
            shape, fortran, dtype = array_header(stream)
        except (ValueError, *BROKEN) as error:
            raise DataError(f"{name} is no array: {error}.") from None
        if dtype != np.uint8 or fortran or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3):
            order = " in Fortran order" if fortran else ""
            raise DataError(
                f"{name} holds {dtype} {list(shape)}{order}.", "Images are uint8 [N, H, W] or [N, H, W, 3] in C order."
            )
        if math.prod(shape[1:3]) > MAX_PIXELS:
            raise DataError(f"{name} holds images of {shape[2]} x {shape[1]} pixels.", "Are these its real sides?")
        return cls(stream, name, stream.tell(), shape)

    def row(self, index: int) -> np.ndarray:
        if index >= self.shape[0]:
            raise ImageError(f"{self.name} has {self.shape[0]} rows, none with index {index}", MISSING)
        row_shape = self.shape[1:]
        num_bytes = math.prod(row_shape)
        try:
            self.stream.seek(self.first_byte + index * num_bytes)
            data = self.stream.read(num_bytes)
        except BROKEN as error:
            raise ImageError(f"{self.name} is damaged at row {index}: {error}") from None
        if len(data) < num_bytes:
            raise ImageError(f"{self.name} ends before row {index}", "truncated")
        return np.frombuffer(data, np.uint8).reshape(row_shape)


def array_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether it is in Fortran order, and type of an array in a ``.npy`` stream, up to its values."""
    version = np.lib.format.read_magic(stream)
    return (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(stream)


def _array_parts(location: str) -> tuple[str, str, int]:
    path, inside = locations.split(location)
    name, _, index = inside.partition("::")
    if not name or not index.isdecimal():
        raise DataError(f"{location} does not name a row.", "Write file.npz::array::index.")
    return path, name, int(index)


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    try:
        return archive.getinfo(name)
    except KeyError:
        raise ImageError(f"{archive.filename} has no {name}", MISSING) from None


def _bounded(info: zipfile.ZipInfo) -> zipfile.ZipInfo:
    """The member, if it may be unpacked; it is read to the size that it states, and no further."""
    ratio = info.file_size / max(1, info.compress_size)
    if info.file_size > MAX_FILE_BYTES or (info.file_size > _MIN_BOMB_BYTES and ratio > MAX_RATIO):
        size = f"{info.compress_size:,} bytes would unpack to {info.file_size:,}"
        raise ImageError(f"{size}, which no image does", "bomb")
    return info


def _read_file(path: Path) -> bytes:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as stream:  # a named pipe would be waited for
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(f"{path} is no regular file")
            if status.st_size > MAX_FILE_BYTES:
                raise ImageError(f"{status.st_size:,} bytes are more than an image has", "bomb")
            return stream.read()
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"{path} is not there", MISSING) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
