"""What a source writes once, into a folder of the cache, and finds there from then on."""

from collections.abc import Callable
from pathlib import Path

from moulage.errors import RunError
from moulage.runs import lock


def make(folder: Path, is_there: Callable[[], bool], write: Callable[[], None], what: str, advice: str) -> None:
    """Write what is not there, while other processes wait; nothing is written, nor locked, where it is.

    ``RunError``, which begins with ``what`` and ends with ``advice``, where the folder cannot be written.
    """
    try:
        if not is_there():
            with lock(folder, waiting=lambda: None):
                if not is_there():  # another process may have done it meanwhile
                    write()
    except OSError as error:
        raise RunError(f"{what} cannot be written to {folder}: {error.strerror or error}.", advice) from error
