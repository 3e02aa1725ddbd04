"""Lesion masks as people store them: black and white, 0 and 1, palettes, labels, transparency, 16 bits, probabilities.

What is above the background is lesion, whatever number or colour it is written with; the background is the lowest one.
Labels (whole numbers up to ``LABELS``, colours of a palette) are lesion where they are not background; of all else the
upper half of the levels is. A JPEG of labels has lost them, and colours that are equally bright say nothing: errors.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from moulage.data import images, locations
from moulage.data.images import ImageError
from moulage.data.reader import Reader

LABELS = 31
"""Whole numbers up to this one are labels, not shades of grey."""
MOST_COLOURS = 16
"""Colours, not greys, up to which a picture is of labels."""
ASPECT = 0.02
"""How much the aspect ratio of a mask may differ from its image's, beside the rounding of a small mask."""
PREDICTED_BY = "moulage:segmenter"
"""Keyword in a PNG of ``moulage masks predict``, which are squares whatever the image."""
MISFIT = "mask"
"""Status of an image whose mask has another aspect ratio."""
USUAL = "0 and 255"


@dataclass(frozen=True)
class Mask:
    """One mask as it was read."""

    inside: np.ndarray  # bool [H, W], upright: turned as the EXIF orientation says
    levels: str  # how it was written: ``USUAL``, ``0 and 1``, ``labels 0 to 4``, ``transparency`` ...
    squashed: bool = False  # whether it is of a photograph that was made a square, and fits it when stretched

    def fits(self, width: int, height: int) -> bool:
        """Whether an image of so many pixels has the mask's aspect ratio."""
        rows, columns = self.inside.shape
        allowed = max(ASPECT, 1.5 / min(rows, columns))
        return self.squashed or abs(np.log(columns * height / (rows * width))) <= allowed

    @property
    def stored(self) -> np.ndarray:
        """uint8 [H, W], 255 on the lesion."""
        return self.inside.astype(np.uint8) * np.uint8(255)


def read(reader: Reader, location: str) -> Mask:
    """The mask at an absolute location; ``ImageError`` where it is not there, broken, or says nothing."""
    if locations.is_array(location):
        return _told(reader.array(location), "array", False)
    return decode(reader.bytes(location))


def read_for(reader: Reader, location: str, width: int, height: int) -> Mask:
    """The mask of an image of so many pixels; ``ImageError`` of status ``MISFIT`` where it has another aspect ratio."""
    mask = read(reader, location)
    if not mask.fits(width, height):
        rows, columns = mask.inside.shape
        raise ImageError(f"its mask is {columns} x {rows} pixels, the image {width} x {height}", MISFIT)
    return mask


def decode(data: bytes) -> Mask:
    """The mask in an encoded image; ``ImageError`` where it is broken or says nothing."""
    header = images.header(data)
    try:
        image = Image.open(io.BytesIO(data), formats=images.FORMATS)
        image.load()
        squashed = PREDICTED_BY in getattr(image, "text", {})
        mask = _told(*_levels(image), squashed, lossy=header.format in images.JPEG)
    except ImageError:
        raise
    except images.BROKEN as error:
        raise ImageError(f"the mask is damaged: {error}") from None
    upright = np.asarray(images.turned(Image.fromarray(mask.inside), header.orientation))
    return Mask(upright, mask.levels, mask.squashed)


def _levels(image: Image.Image) -> tuple[np.ndarray, str]:
    """Levels [H, W] or colours [H, W, 3], and what they are: grey, colours, labels, transparency."""
    if image.mode == "1" or image.mode in ("L", "F") or image.mode.startswith("I"):
        return np.asarray(image).astype(np.float64 if image.mode == "F" else np.int64), "grey"
    kind = "labels" if image.mode in ("P", "PA") else "colours"
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB")), kind
    shown = np.asarray(image.convert("RGBA"))
    colours, alpha = shown[..., :3], shown[..., 3]
    if alpha.min() == alpha.max():
        return colours, kind
    visible = colours[alpha > 0]
    if (visible == visible[0]).all():
        return alpha.astype(np.int64), "transparency"
    return colours * (alpha > alpha.max() // 2)[..., None], kind


def _told(found: np.ndarray, kind: str, squashed: bool, *, lossy: bool = False) -> Mask:
    """Lesion and background told apart."""
    levels = found
    if found.ndim == 3:
        grey = (found == found[..., :1]).all()
        levels = found.max(axis=2).astype(np.int64)
        few = not grey and not lossy and len(np.unique(found.reshape(-1, 3), axis=0)) <= MOST_COLOURS
        if few and levels.min() == levels.max():
            raise ImageError("the colours of the mask are equally bright: which are lesion cannot be told")
        kind = "labels" if few else "grey"
    low, high = levels.min(), levels.max()
    if not np.isfinite((low, high)).all():
        raise ImageError("the mask holds numbers that are not finite")
    if low == high:
        return Mask(np.full(levels.shape, high > 0), f"{high:g} alone", squashed)
    whole = np.array_equal(levels, np.round(levels))
    if lossy and high <= LABELS:
        raise ImageError(f"the mask is a JPEG of levels {low:g} to {high:g}, which JPEG does not keep: save it as PNG")
    background = low if kind == "labels" or (whole and high <= LABELS) else (low + high) / 2
    return Mask(levels > background, _words(levels, kind), squashed)


def _words(levels: np.ndarray, kind: str) -> str:
    """How a mask was written."""
    low, high = levels.min(), levels.max()
    if kind in ("labels", "transparency"):
        return "colours of a palette" if kind == "labels" else kind
    if high == 255 and low == 0:
        return USUAL
    return f"{low:g} {'and' if len(np.unique(levels)) == 2 else 'to'} {high:g}"
