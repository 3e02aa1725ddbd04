"""Folders that nobody may write to, for root as well: what else makes root an exception is put down meanwhile."""

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

_VERSION = 0x20080522
_PASSED_OVER = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, of capabilities(7)


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Set(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextlib.contextmanager
def binding() -> Iterator[None]:
    """Permissions bind this thread, whoever runs it; nothing is changed for users that they bind anyway."""
    if os.geteuid():
        yield
        return
    libc, header, sets = ctypes.CDLL(None, use_errno=True), _Header(_VERSION, 0), (_Set * 2)()
    if libc.capget(ctypes.byref(header), sets):
        raise OSError(ctypes.get_errno(), "capget")
    before = sets[0].effective
    try:
        sets[0].effective = before & ~_PASSED_OVER
        if libc.capset(ctypes.byref(header), sets):
            raise OSError(ctypes.get_errno(), "capset")
        yield
    finally:
        sets[0].effective = before
        libc.capset(ctypes.byref(header), sets)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """A folder, with all that is in it, that cannot be written to; afterwards it can be again."""
    known = [(path, path.stat().st_mode) for path in (folder, *folder.rglob("*")) if not path.is_symlink()]
    try:
        for path, mode in known:
            path.chmod(mode & ~0o222)
        with binding():
            yield folder
    finally:
        for path, mode in known:
            path.chmod(mode)
