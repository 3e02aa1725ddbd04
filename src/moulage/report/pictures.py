"""Small pictures for the page, as data URIs."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from moulage.errors import RunError

SIDE = 64
"""Pixels a side of a thumbnail."""


def thumbnail(image: np.ndarray) -> str:
    """Data URI of a PNG of at most ``SIDE`` pixels a side, of a uint8 [S, S, 3] image."""
    return _uri(Image.fromarray(image), (SIDE, SIDE))


def shrunk(path: Path, size: tuple[int, int] | None = None) -> str:
    """Data URI of a picture in a file, of at most ``size`` pixels (width, height); ``RunError``: it is no picture."""
    try:
        with Image.open(path) as picture:
            return _uri(picture.convert("RGB"), size or picture.size)
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}.", "Delete its folder and make it again.") from None


def _uri(picture: Image.Image, size: tuple[int, int]) -> str:
    picture.thumbnail(size, Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
