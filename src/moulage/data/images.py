"""The bytes of an image, and the picture inside: files, ZIP members and rows of ``.npz`` arrays, read in place.

A picture is taken as it is stored. An EXIF orientation is not applied, because masks are drawn on the stored pixels and
a skin lesion has no upper side; an alpha channel is dropped; a colour profile is ignored. JPEG is decoded at 1/2, 1/4
or 1/8 of its size where that leaves at least twice the side asked for, and one filter, LANCZOS, does the rest.
"""

import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageFile

from moulage.errors import DataError, RecipeError, nearest

MISSING = "missing"
"""``missing::name`` is the location of a label whose image is not there."""

MAX_PIXELS = 64_000_000
"""Larger images are refused from their header. 64 Mpx is twice the largest image of ISIC and 256 MB when decoded."""

FRAMINGS = ("squash", "crop", "pad")
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM")

_MIN_DECODED_SIDE = 64
_REDUCING_GAP = 3.0
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
"""What Pillow raises on broken bytes."""


class ImageError(DataError):
    """One image cannot be used; ``status`` is the word for it: missing, unreadable, truncated, tiny or bomb."""

    def __init__(self, message: str, status: str = "unreadable") -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Header:
    """What an image says of itself: ``width`` and ``height`` in pixels, Pillow's ``mode`` and ``format``."""

    width: int
    height: int
    mode: str
    format: str

    def scale(self, side: int) -> int:
        """The largest of 1, 2, 4, 8 by which a JPEG shrinks while its shorter side keeps twice ``side``; else 1."""
        if self.format not in ("JPEG", "MPO"):
            return 1
        wanted = 2 * max(side, _MIN_DECODED_SIDE)
        return next((s for s in (8, 4, 2) if min(self.width, self.height) >= s * wanted), 1)


def header(data: bytes) -> Header:
    """The header of an encoded image; nothing is decoded. ``ImageError``: unreadable, or a bomb: > ``MAX_PIXELS``."""
    image = _open(data)
    found = Header(*image.size, image.mode, image.format or "")
    if found.width * found.height > MAX_PIXELS:
        size = f"{found.width} x {found.height} pixels"
        raise ImageError(f"{size} are more than {MAX_PIXELS // 10**6} million", "bomb")
    return found


def decode(data: bytes, smallest_side: int) -> np.ndarray:
    """Decode an image so that its shorter side has at least twice ``smallest_side`` pixels, or all that it has.

    ``smallest_side`` is that of the square that it will be resized to. The result is uint8 RGB [H, W, 3];
    ``ImageError``: unreadable, truncated or a bomb.
    """
    return np.asarray(pictures(data, header(data), [smallest_side])[0])


def pictures(data: bytes, found: Header, sides: Sequence[int]) -> list[Image.Image]:
    """``decode`` for several sides at once, as RGB Pillow images; ``found`` is the header of ``data``.

    Sides that want the same JPEG scale share one decode; the picture for a side never depends on the other sides.
    """
    scales = [found.scale(side) for side in sides]
    decoded = {scale: _decode(data, found, scale) for scale in set(scales)}
    return [decoded[scale] for scale in scales]


def square(image: Image.Image | np.ndarray, size: int, framing: str) -> np.ndarray:
    """A picture, or uint8 [H, W, 3], as a square of ``size`` pixels a side: uint8 [size, size, 3].

    Resized with the LANCZOS filter (after a box reduction to three times the size, where larger). The framing
    ``"squash"`` ignores the aspect ratio, ``"crop"`` keeps the centre, ``"pad"`` puts black bars around.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    width, height = picture.size
    if framing == "squash":
        return _resize(picture, (size, size))
    if framing == "crop":
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return _resize(picture, (size, size), (left, top, left + side, top + side))
    if framing == "pad":
        inner = _resize(picture, [max(1, round(size * side / max(width, height))) for side in (width, height)])
        top, left = ((size - side) // 2 for side in inner.shape[:2])
        canvas = np.zeros((size, size, 3), np.uint8)
        canvas[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
        return canvas
    raise RecipeError(f'There is no fit "{framing}".', nearest(framing, FRAMINGS))


def is_array(location: str) -> bool:
    """Whether a location is a row of a ``.npz`` array rather than an encoded image."""
    return location.partition("::")[0].lower().endswith(".npz")


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
        """The encoded image at a path or at ``archive.zip::member``."""
        path, _, member = location.partition("::")
        if path == MISSING:
            raise ImageError("there is a label but no image", MISSING)
        if not member:
            return _read_file(Path(path))
        archive = self._archive(path)
        try:
            return archive.read(_member(archive, member))
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise ImageError(f"the archive is damaged here, or encrypted: {error}") from None
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from None

    def array(self, location: str) -> np.ndarray:
        """The row at ``file.npz::array::index``: uint8 [H, W] or [H, W, 3]. Ascending rows are fastest."""
        path, name, index = _array_parts(location)
        if (path, name) not in self._arrays:
            archive = self._archive(path)
            stream = self._open.enter_context(archive.open(_member(archive, f"{name}.npy")))
            self._arrays[path, name] = _Rows.read_header(stream, f"{path}::{name}")
        return self._arrays[path, name].row(index)

    def fingerprint(self, location: str) -> str:
        """A text that changes when the image does, from directory entries alone.

        A ZIP member: its CRC-32 and size, so that a moved archive keeps it. A row of an array: those of the array, and
        the index. A file: its path, size and modification time.
        """
        path, _, member = location.partition("::")
        if path == MISSING:
            return MISSING
        try:
            if not member:
                status = Path(path).stat()
                return f"{path}:{status.st_size}:{status.st_mtime_ns}"
            if is_array(location):
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
        except (ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise DataError(f"{name} is no array: {error}.") from None
        if dtype != np.uint8 or fortran or len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] != 3):
            order = " in Fortran order" if fortran else ""
            raise DataError(
                f"{name} holds {dtype} {list(shape)}{order}.", "Images are uint8 [N, H, W] or [N, H, W, 3] in C order."
            )
        return cls(stream, name, stream.tell(), shape)

    def row(self, index: int) -> np.ndarray:
        if index >= self.shape[0]:
            raise ImageError(f"{self.name} has {self.shape[0]} rows, none with index {index}", MISSING)
        row_shape = self.shape[1:]
        num_bytes = int(np.prod(row_shape))
        try:
            self.stream.seek(self.first_byte + index * num_bytes)
            data = self.stream.read(num_bytes)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ImageError(f"{self.name} is damaged at row {index}: {error}") from None
        if len(data) < num_bytes:
            raise ImageError(f"{self.name} ends before row {index}", "truncated")
        return np.frombuffer(data, np.uint8).reshape(row_shape)


def array_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether it is in Fortran order, and type of an array in a ``.npy`` stream, up to its values."""
    version = np.lib.format.read_magic(stream)
    return (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(stream)


def _array_parts(location: str) -> tuple[str, str, int]:
    path, name, index = [*location.split("::"), "", ""][:3]
    if not name or not index.isdecimal():
        raise DataError(f"{location} does not name a row.", "Write file.npz::array::index.")
    return path, name, int(index)


def _member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    try:
        return archive.getinfo(name)
    except KeyError:
        raise ImageError(f"{archive.filename} has no {name}", MISSING) from None


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError(f"{path} is not there", MISSING) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ImageError("the file is empty")
    try:
        with warnings.catch_warnings():  # Pillow warns of large images, which are refused here, and of broken EXIF
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ImageError(f"there are more than {MAX_PIXELS // 10**6} million pixels", "bomb") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"this is no image in a format that is read here ({', '.join(FORMATS)})") from None
    except _BROKEN as error:
        raise ImageError(f"the image is damaged: {error}") from None


def _decode(data: bytes, found: Header, scale: int) -> Image.Image:
    """The RGB picture at 1/scale of its size."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # another library may have set it: a cut file would then decode to grey
    image = _open(data)
    if scale > 1:
        image.draft(None, (found.width // scale, found.height // scale))
    try:
        image.load()
        picture = _rgb(image)
    except _BROKEN as error:
        truncated = "truncated" in str(error).lower()
        raise ImageError(f"the image is damaged: {error}", "truncated" if truncated else "unreadable") from None
    # The end marker must follow the last scan: neither marker can occur inside one, and a thumbnail's lie before it.
    if found.format in ("JPEG", "MPO") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise ImageError("the end of the JPEG is missing", "truncated")
    return picture


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known range")
    image.info.pop("transparency", None)  # alpha is dropped, also that of a palette
    return image.convert("RGB")


def _resize(
    picture: Image.Image, size: list[int] | tuple[int, int], box: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=_REDUCING_GAP))
