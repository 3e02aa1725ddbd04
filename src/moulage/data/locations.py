"""Where the bytes of an image are, as text: a path, ``archive.zip::member``, ``file.npz::array::index``.

``missing::name`` is the location of a label whose image is not there. Only a path that ends in ``.zip`` or ``.npz`` has
something inside, so that a file may be called ``a::b.png``.
"""

import re
import sys

MISSING = "missing::"
"""Prefix of the location of a label whose image is not there."""

_INSIDE = re.compile(r"(.*?\.(?:zip|npz))::(.*)", re.IGNORECASE | re.DOTALL)


def split(location: str) -> tuple[str, str]:
    """The path of a file, and what is meant inside it: empty where it is the file itself."""
    found = _INSIDE.fullmatch(location)
    return (found[1], found[2]) if found else (location, "")


def join(path: str, inside: str) -> str:
    """The location that ``split`` takes apart."""
    return f"{path}::{inside}" if inside else path


def is_array(location: str) -> bool:
    """Whether a location is a row of a ``.npz`` array rather than an encoded image."""
    path, inside = split(location)
    return bool(inside) and path.lower().endswith(".npz")


def why_not(name: str) -> str:
    """Why a file of this name cannot be a location, as part of a sentence; empty where it can."""
    try:
        name.encode()
    except UnicodeEncodeError:
        if sys.getfilesystemencoding().lower().replace("-", "") != "utf8":
            return f"cannot be read in this locale, whose file names are {sys.getfilesystemencoding()}"
        return "is not UTF-8"
    if name.startswith(MISSING) or _INSIDE.fullmatch(name):
        return "looks like a place inside an archive"
    return ""


def shown(name: str) -> str:
    """A file name that can be printed and written: what is not UTF-8 in it stands as ``\\xe9``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
