"""Encoded pictures for tests: as files hold them, and as broken or hostile files do."""

import io
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def encoded(picture: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    stream, image = io.BytesIO(), picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(stream, kind, **({"quality": 92} if kind == "JPEG" else {}) | options)
    return stream.getvalue()


def write_pictures(folder: Path, pictures: Mapping[str, bytes | Image.Image | np.ndarray]) -> Path:
    """Files of these names, such as ``AK/one.png``, in a folder; bytes as they are, all else as PNG."""
    for name, picture in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture if isinstance(picture, bytes) else encoded(picture))
    return folder


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
