"""PNG files that say in their text chunks what they are and where they are from."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from moulage.errors import DataError, RunError
from moulage.runs import atomic

XMP = "XML:com.adobe.xmp"
"""Keyword of the chunk that holds XMP metadata."""


def write(path: Path, pixels: np.ndarray, text: Mapping[str, str], *, xmp: str = "", compress_level: int = 6) -> None:
    """Write one PNG whole or not at all, but for a power cut: one that it left broken is to be made again.

    ``pixels`` are uint8 [H, W, 3] or [H, W], ``text`` maps keywords to texts, ``xmp`` is an XMP packet,
    ``compress_level`` zlib's, 0..9. ``RunError`` where it cannot be written.
    """
    info = PngImagePlugin.PngInfo()
    for keyword, value in text.items():
        info.add_text(keyword, value)
    if xmp:
        info.add_itxt(XMP, xmp)
    try:
        with atomic(path, flush=False) as temporary:
            Image.fromarray(pixels).save(temporary, "PNG", pnginfo=info, compress_level=compress_level)
    except OSError as error:
        raise RunError(
            f"Cannot write {path}: {error.strerror or error}.",
            "Free some space or fix the permissions, then run the same command: finished images are kept.",
        ) from None


def read(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    """Pixels, uint8 [H, W, 3] or [H, W], and texts by keyword; ``DataError`` where the file is no readable image."""
    try:
        with Image.open(path) as image:
            return np.array(image), {key: str(value) for key, value in getattr(image, "text", {}).items()}
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
