"""How an image file was written: format, compression, camera. None of it is disease, and all of it may tell a class.

Images of two classes that come from two clinics, or were saved by two programs, differ here, and leave traces in the
pixels that a classifier finds.
"""

import io
from dataclasses import dataclass

from PIL import Image, JpegImagePlugin

from moulage.data import images

STANDARD_SUM = 3688
"""Sum of the luminance table that means quality 50 (ITU T.81, table K.1)."""
_MAKE, _MODEL, _SOFTWARE = 0x010F, 0x0110, 0x0131
_SAMPLING = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
_MOST_LETTERS = 60


@dataclass(frozen=True)
class Storage:
    """What is known of a file; empty where it does not say."""

    format: str = ""  # Pillow's name, such as JPEG
    compression: str = ""  # of a JPEG ``quality 75, 4:2:0``, and ``progressive``; of a TIFF Pillow's name of it
    camera: str = ""  # make and model, else the program that wrote it


def read(data: bytes) -> Storage:
    """How this encoded image, whose header can be read, was written."""
    try:
        image = Image.open(io.BytesIO(data), formats=images.FORMATS)
        return Storage(image.format or "", _compression(image), _camera(image))
    except (*images.BROKEN, AttributeError):
        return Storage()


def _compression(image: Image.Image) -> str:
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return str(image.info.get("compression", ""))
    tables = image.quantization
    quality = f"quality {_quality(list(tables[min(tables)]))}" if tables else ""
    sampling = _SAMPLING.get(JpegImagePlugin.get_sampling(image), "")
    progressive = "progressive" if image.info.get("progressive") else ""
    return ", ".join(filter(None, (quality, sampling, progressive)))


def _quality(table: list[int]) -> int:
    """The quality, 1 to 100, for which libjpeg makes a table of this sum; roughly, below 20."""
    if max(table) == 1:
        return 100
    scale = 100 * sum(table) / STANDARD_SUM
    return max(1, min(100, round((200 - scale) / 2 if scale <= 100 else 5000 / scale)))


def _camera(image: Image.Image) -> str:
    exif = image.getexif()
    words = [str(exif.get(tag) or "").strip("\0 ") for tag in (_MAKE, _MODEL)]
    made_by = " ".join(filter(None, words)) or str(exif.get(_SOFTWARE) or "").strip("\0 ")
    return "".join(letter for letter in made_by if letter.isprintable())[:_MOST_LETTERS]
