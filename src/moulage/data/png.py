"""PNG files that say in their text chunks what they are and where they are from."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from moulage.errors import DataError, RunError
from moulage.runs import atomic

XMP = "XML:com.adobe.xmp"
"""Keyword of the chunk that holds XMP metadata."""
ORIGIN = "moulage:origin"
"""Keyword of the run that drew an image."""
OTHER_TOOL = "another tool"
GENERATED = (b"trainedAlgorithmicMedia", b"compositeWithTrainedAlgorithmicMedia")
"""IPTC's terms for an image made by a model, and for one of which a part was, in metadata."""
HEAD = 2**16
"""Bytes at either end of a file where metadata are looked for."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"


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


def texts(data: bytes) -> dict[str, str]:
    """The uncompressed texts before the pixels of an encoded PNG, by keyword; none of any other file. Never raises."""
    found: dict[str, str] = {}
    place = len(SIGNATURE)
    while data.startswith(SIGNATURE) and place + 8 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        if kind in (b"IDAT", b"IEND"):
            break
        keyword, _, text = data[place + 8 : place + 8 + length].partition(b"\0")
        if kind == b"tEXt":
            found[keyword.decode("latin-1")] = text.decode("latin-1")
        elif kind == b"iTXt" and text[:1] == b"\0":  # neither compressed nor, here, in a language
            found[keyword.decode("latin-1")] = text[2:].split(b"\0", 2)[-1].decode(errors="replace")
        place += length + 12
    return found


def drawn_by(data: bytes) -> str:
    """Who generated an encoded image: the run of moulage, ``OTHER_TOOL``, or empty where it says nothing of that.

    Other tools mark what they generate with IPTC's terms, in the metadata of any format.
    """
    own = texts(data).get(ORIGIN, "")
    ends = (data[:HEAD], data[-HEAD:])
    return own or (OTHER_TOOL if any(term in end for term in GENERATED for end in ends) else "")


def read(path: Path) -> tuple[np.ndarray, dict[str, str]]:
    """Pixels, uint8 [H, W, 3] or [H, W], and texts by keyword; ``DataError`` where the file is no readable image."""
    try:
        with Image.open(path) as image:
            return np.array(image), {key: str(value) for key, value in getattr(image, "text", {}).items()}
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
