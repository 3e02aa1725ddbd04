"""The bytes of an image, and the picture inside: files, ZIP members and rows of ``.npz`` arrays, read in place.

A picture is taken as every viewer shows it: turned as its EXIF orientation says, what is transparent over black, the
first page of several; a colour profile is ignored. Grey levels of 16 bits are taken to fill 8, 10, 12, 14 or 16 bits,
the fewest that hold the brightest one. What was done, and what is odd about the picture, is said (``REMARKS``).

A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that leaves at least twice the side asked for, or where it is too
large otherwise, and one filter, LANCZOS, does the rest. It is whole where its last scan has an end marker, whatever
comes behind that.
"""

import io
import re
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFile

from moulage.errors import DataError, RecipeError, nearest

MAX_PIXELS = 64_000_000
"""More are never decoded: 256 MB. Larger images are refused from their header, but for JPEG."""
MAX_JPEG_PIXELS = 256_000_000
"""A JPEG of so many is decoded at a part of its size (phones write 200 Mpx)."""
MAX_PROGRESSIVE_PIXELS = 128_000_000
"""The same for a progressive one, whose coefficients are held whatever the scale: up to 6 bytes a pixel."""

FRAMINGS = ("squash", "crop", "pad")
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "JPEG2000")
JPEG = ("JPEG", "MPO")
"""What Pillow calls JPEG; the second is one of several pictures."""

TURNED, SEVERAL_PAGES, TRANSPARENT = "turned", "several pages", "transparent"
BLANK, LOW_RANGE = "blank image", "low range"
REMARKS = (BLANK, LOW_RANGE, SEVERAL_PAGES, TRANSPARENT, TURNED, *(f"{bits} bits in 16" for bits in (8, 10, 12, 14)))
"""What may be said of a picture that was read, see ``data.picture_remarks``."""
BLANK_RANGE, LEAST_RANGE = 8, 32
"""Of 256 levels, how many a picture spans (but for one pixel in 500) at most that is blank, or of low range."""

_ORIENTATION = 0x0112
_MIN_DECODED_SIDE = 64
_REDUCING_GAP = 3.0
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
"""What Pillow raises on broken bytes."""


class ImageError(DataError):
    """One image cannot be used; ``status`` is the word for it: missing, unreadable, truncated, tiny or bomb."""

    def __init__(self, message: str, status: str = "unreadable") -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Header:
    """What an image says of itself."""

    width: int  # pixels, as shown: after turning
    height: int
    mode: str  # Pillow's names
    format: str
    orientation: int = 1  # of its EXIF, 1 to 8; 1 is upright
    several_pages: bool = False  # or frames

    def scale(self, side: int) -> int:
        """The largest of 1, 2, 4, 8 by which a JPEG shrinks while its shorter side keeps twice ``side``; else 1.

        A larger one where more than ``MAX_PIXELS`` would be decoded otherwise.
        """
        if self.format not in JPEG:
            return 1
        wanted = 2 * max(side, _MIN_DECODED_SIDE)
        chosen = next((s for s in (8, 4, 2) if min(self.width, self.height) >= s * wanted), 1)
        while self.width * self.height > MAX_PIXELS * chosen**2 and chosen < 8:
            chosen *= 2
        return chosen


def header(data: bytes) -> Header:
    """The header of an encoded image; nothing is decoded.

    ``ImageError``: unreadable, or a bomb: more pixels than ``MAX_PIXELS``, or those that a JPEG may have.
    """
    image = _open(data)
    width, height = image.size
    progressive = "progressive " if image.info.get("progressive") else ""
    most = MAX_PIXELS
    if image.format in JPEG:
        most = MAX_PROGRESSIVE_PIXELS if progressive else MAX_JPEG_PIXELS
    if width * height > most:
        kind = f"{progressive}{image.format}"
        raise ImageError(f"{width} x {height} pixels are more than the {most // 10**6} million of a {kind}", "bomb")
    mode, name, orientation = image.mode, image.format or "", _orientation(image)
    turned_size = (height, width) if orientation >= 5 else (width, height)
    return Header(*turned_size, mode, name, orientation, _has_second_page(image))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 where there is none, or the EXIF is broken."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except BROKEN:
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _has_second_page(image: Image.Image) -> bool:
    """Whether there is more than a first page or frame; the pictures of a JPEG of several are one photograph's."""
    if image.format not in ("TIFF", "GIF", "WEBP", "PNG"):
        return False
    try:
        image.seek(1)
    except BROKEN:  # an EOFError where there is none
        return False
    return True


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
    return examined(data, found, sides)[0]


def examined(data: bytes, found: Header, sides: Sequence[int]) -> tuple[list[Image.Image], tuple[str, ...]]:
    """``pictures``, and what is to be said of them (``REMARKS``); the range is that of the picture for the first side.

    Remarks of a picture whose first side is the same are the same.
    """
    scales = [found.scale(side) for side in sides]
    decoded = {scale: _decode(data, found, scale) for scale in dict.fromkeys(scales)}
    remarks = [name for name, holds in ((SEVERAL_PAGES, found.several_pages), (TURNED, found.orientation > 1)) if holds]
    for scale in scales[:1]:
        remarks += [remark for remark in REMARKS if remark in decoded[scale].info]
        remarks += range_remarks(decoded[scale])
    return [decoded[scale] for scale in scales], tuple(remarks)


def range_remarks(picture: Image.Image) -> list[str]:
    """Whether an RGB picture is blank or uses few of its levels, but for one pixel in 1,000 at either end."""
    counts = np.array(picture.histogram()).reshape(3, 256)
    share = counts.cumsum(axis=1) / max(1, picture.width * picture.height)
    spans = (share < 0.999).sum(axis=1) - (share <= 0.001).sum(axis=1)
    return [BLANK] if spans.max() <= BLANK_RANGE else [LOW_RANGE] if spans.max() <= LEAST_RANGE else []


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


def content(head: bytes) -> str:
    """What a file is by its first bytes (``HEAD_BYTES`` are enough): ``READABLE``, the name of a format, or empty."""
    if head[128:132] == b"DICM":
        return "DICOM"
    if head[:4] == b"RIFF" and head[8:12] != b"WEBP":
        return ""
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 64, 108, 124):
        return READABLE
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "")
    return next((name for start, name in _SIGNATURES if head.startswith(start)), "")


READABLE, HEAD_BYTES = "an image", 132
_SIGNATURES = (
    *((start, READABLE) for start in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"RIFF")),
    *((start, READABLE) for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")),
    *((b"P%d%s" % (kind, space), READABLE) for kind in range(1, 7) for space in (b"\n", b" ", b"\t", b"\r")),
    (b"8BPS", "Photoshop"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"%PDF", "PDF"),
    (b"\x89HDF", "HDF5"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
)
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys((b"heic", b"heix", b"mif1", b"msf1", b"hevc"), "HEIC")


def _open(data: bytes) -> Image.Image:
    if not data:
        raise ImageError("the file is empty")
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # ``header`` has limits of its own
    try:
        with warnings.catch_warnings():  # Pillow warns of broken EXIF
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        kind = content(data)
        said = f"this is {kind}, which is not read here" if kind not in ("", READABLE) else "this is no image"
        raise ImageError(f"{said}; formats: {', '.join(FORMATS)}") from None
    except BROKEN as error:
        raise ImageError(f"the image is damaged: {error}") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _decode(data: bytes, found: Header, scale: int) -> Image.Image:
    """The RGB picture at 1/scale of its size; what was done to it are keys of its ``info``, ``REMARKS``."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # another library may have set it: a cut file would then decode to grey
    image = _open(data)
    if scale > 1:
        image.draft(None, (image.width // scale, image.height // scale))
    try:
        image.load()
        picture = _rgb(image)
    except BROKEN as error:
        truncated = "truncated" in str(error).lower()
        raise ImageError(f"the image is damaged: {error}", "truncated" if truncated else "unreadable") from None
    if found.format in JPEG and not has_end(data):
        raise ImageError("the end of the JPEG is missing", "truncated")
    return turned(picture, found.orientation)


def has_end(data: bytes) -> bool:
    """Whether a JPEG has its end marker: segments are walked by their lengths, scans to their end (ITU T.81, B.1.1).

    Bytes behind it are no part of the picture: motion photos hold a video there.
    """
    if data.rfind(b"\xff\xd9") > data.rfind(b"\xff\xda"):  # no scan begins behind it; much faster than walking
        return True
    place = 2
    while marker := _MARKER.search(data, place):
        code, place = data[marker.end() - 1], marker.end()
        if code == 0xD9:
            return True
        if code != 0x01 and not 0xD0 <= code <= 0xD8:  # those have no length
            place += int.from_bytes(data[place : place + 2], "big")
    return False


_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
"""A JPEG marker; stuffed zeros and restart markers, which occur inside scans, are none."""


def turned(picture: Image.Image, orientation: int) -> Image.Image:
    """A picture turned and mirrored as its EXIF orientation (1 to 8) says."""
    method = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    if method is None:
        return picture
    shown = picture.transpose(method)
    shown.info = picture.info
    return shown


def _rgb(image: Image.Image) -> Image.Image:
    """The picture as RGB; the keys of its ``info`` are what was done to it."""
    done: dict[str | tuple[int, int], Any] = {}
    if image.mode.startswith("I"):
        picture, remark = _eight_bits(np.asarray(image))
        done = {remark: True} if remark else {}
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no known range: save them in 8 or 16 bits")
    elif image.has_transparency_data:
        picture = image.convert("RGBA")
        if picture.getchannel("A").getextrema() != (255, 255):
            done = {TRANSPARENT: True}
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, (0, 0, 0, 255)), picture)
        picture = picture.convert("RGB")
    else:
        picture = image.convert("RGB")
    picture.info = done
    return picture


def _eight_bits(values: np.ndarray) -> tuple[Image.Image, str]:
    """Grey levels [H, W] of up to 16 bits as RGB, and the remark on how many they were taken to have."""
    brightest = int(values.max())
    if values.min() < 0 or brightest >= 2**16:
        raise ValueError(f"grey levels from {values.min()} to {brightest} have no known range: save them in 16 bits")
    bits = next(bits for bits in (8, 10, 12, 14, 16) if brightest < 2**bits)
    picture = Image.fromarray((values >> (bits - 8)).astype(np.uint8)).convert("RGB")
    return picture, f"{bits} bits in 16" if bits < 16 else ""


def _resize(
    picture: Image.Image, size: list[int] | tuple[int, int], box: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=_REDUCING_GAP))
