"""Run folders: ids from content, atomic writes, a done marker that is written last, a log, a lock.

Whatever is computed lives in a folder whose name ends in a hash of everything that it depends on. The same settings
find the same folder, so running a command again resumes it; other settings find another, so nothing is overwritten.
"""

import contextlib
import errno
import fcntl
import fnmatch
import hashlib
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from moulage.errors import LeakError, RunError

FORMAT = 3
"""Version of what stands in a run folder. A folder of another version is refused, never half understood."""

LOCK = ".lock"
DAMAGED = "Delete it and run the command that makes it again; finished parts are kept."

Progress = Callable[[int, int, str], None]
"""``progress(done, total, note)``: how far long work is. Called often; must be cheap."""


def no_progress(done: int, total: int, note: str = "") -> None:
    """A ``Progress`` that nobody looks at."""


class Pace:
    """How long work will still take at the mean pace of this process, whatever earlier attempts did and took.

    Steps that cost more than those so far, as of progressive sizes, are not foreseen.
    """

    def __init__(self) -> None:
        self.first, self.start, self.last, self.total = 0, 0.0, 0, 0

    def seconds_left(self, done: int, total: int, now: float) -> float | None:
        """Seconds that ``total - done`` will take; None before the second report, and where other work begins.

        ``now`` is a clock's; other work has another ``total``, or less of it is ``done`` than before.
        """
        if total != self.total or done < self.last:
            self.first, self.start, self.total = done, now, total
        self.last = done
        return (now - self.start) * (total - done) / (done - self.first) if done > self.first else None


def digest(*parts: Any, length: int = 12) -> str:
    """Hex digest (BLAKE2b) of JSON-like values, bytes and paths' texts; the same values give the same digest."""
    hasher = hashlib.blake2b(digest_size=32)
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, default=str).encode()
        hasher.update(len(data).to_bytes(8, "little") + data)
    return hasher.hexdigest()[:length]


def seed_of(*parts: Any) -> int:
    """A seed in 0..2**31 - 1 for one purpose, from the study's seed and the purpose's name."""
    return int(digest(*parts), 16) % 2**31


@contextlib.contextmanager
def atomic(path: Path, *, flush: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well, and goes when it does not.

    Without ``flush`` a power cut may leave a broken file under the name; it costs less than making a small image.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        if flush and temporary.is_file():  # the bytes are to be on the disk before the name is
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def to_json(value: Any, indent: int | None = 1, default: Callable[[Any], Any] = str) -> str:
    """Standard JSON, which has no word for NaN and infinity: such numbers become null."""
    return json.dumps(_finite(value), indent=indent, default=default, allow_nan=False)


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _finite(each) for key, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
    return value


def write_json(path: Path, value: Any) -> None:
    """Write standard JSON whole or not at all; see ``to_json``."""
    write_text(path, to_json(value) + "\n")


def read_json(path: Path, *keys: str) -> Any:
    """Read JSON; ``RunError`` names a file that is missing or broken, or is no table of at least these keys."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing.", "Run the command that makes it again; finished parts are kept.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is not valid JSON: {error}.", "Delete that file and run the command again.") from None
    except (RecursionError, ValueError) as error:  # nested without end, or a number of more digits than Python reads
        raise RunError(f"{path} is not JSON that can be read: {error}.", DAMAGED) from None
    lacks = [key for key in keys if not isinstance(values, dict) or key not in values]
    if lacks:
        raise RunError(f"{path} lacks {', '.join(lacks)}: it is not what moulage writes.", DAMAGED)
    return values


@contextlib.contextmanager
def reading(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """``RunError`` where what stands in a file of a run turns out, on use, not to be what moulage writes there.

    ``errors`` are those of the file's own format, beside the usual ones of a wrong type, key or value.
    """
    try:
        yield
    except (TypeError, KeyError, ValueError, AttributeError, IndexError, OverflowError, OSError, *errors) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise RunError(f"{path} is not what moulage writes ({said}).", DAMAGED) from None


def is_done(folder: Path) -> bool:
    """Whether the work of this folder was finished, by a version whose files this one understands."""
    marker = folder / "done.json"
    if not marker.exists():
        return False
    check_format(read_json(marker, "format")["format"], folder)
    return True


def check_format(found: object, where: Path) -> None:
    """Refuse what was written in another format than ``FORMAT``; ``found`` is the one that it states."""
    if found != FORMAT:
        raise RunError(
            f"{where} was written in format {found}; this moulage reads format {FORMAT}.",
            "Use the moulage version that wrote it, or name another run folder with --out.",
        )


_IN_PASSING = (".*", "checkpoint*", "best.*", "partial.*", "log.jsonl", *("progress.json", "done.json", "witness.json"))
"""Files of a finished folder that nothing reads as its result, or that say themselves what they are of."""


def file_digests(folder: Path) -> dict[str, str]:
    """A digest of each file that the work in a folder left, sub-folders and what was left in passing aside."""
    names = [path.name for path in sorted(folder.iterdir()) if path.is_file()]
    kept = [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in _IN_PASSING)]
    return {name: _digest_of(folder / name) for name in kept}


def prove_files(folder: Path) -> None:
    """Raise ``LeakError`` where a file in a finished folder is not what its work left; ``RunError``: unfinished."""
    if not is_done(folder):
        raise RunError(f"{folder} is not finished.", "Run the command that makes it again.")
    for name in read_json(folder / "done.json", "files")["files"]:
        prove_file(folder / name)


def prove_file(path: Path) -> None:
    """The same for one file; nothing is said of a file that no finished folder answers for."""
    marker = path.parent / "done.json"
    expected = read_json(marker, "files")["files"].get(path.name) if is_done(path.parent) else None
    if expected and (not path.exists() or _digest_of(path) != expected):
        raise LeakError(
            f"{path} is not the file that was written there: it was {'changed' if path.exists() else 'taken away'} or "
            "exchanged since, and nobody knows what it has seen.",
            "Put the file back, or delete that folder and run the same command again.",
        )


def _digest_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def finish(folder: Path, **facts: Any) -> None:
    """Mark a folder's work as done. Call it last."""
    write_json(folder / "done.json", {"format": FORMAT, **facts})


def log(folder: Path, **record: Any) -> None:
    """Append one line of JSON to the folder's ``log.jsonl``."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(to_json(record, None, float) + "\n")


def read_log(folder: Path, key: str = "step") -> list[dict[str, Any]]:
    """The records of ``log.jsonl``, one for each value of ``key`` (the last one written), in order of ``key``.

    After an interruption the steps since the last checkpoint are logged again; a half-written last line is passed over.
    """
    path, records = folder / "log.jsonl", {}
    if not path.exists():
        return []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get(key), int):
                records[record[key]] = record
    return [records[k] for k in sorted(records)]


@contextlib.contextmanager
def lock(folder: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a folder for this process; a crash frees the lock.

    A second process gets a ``RunError``, or waits for the first where it gives ``waiting``, which is called meanwhile.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _lock_file(folder) as stream:
        while not _is_locked(stream):
            if waiting is None:
                stream.seek(0)
                owner = stream.read().strip() or "unknown"
                raise RunError(
                    f"{folder} is in use by another process ({owner}).",
                    "Wait for it, stop it, or name another run folder with --out.",
                )
            waiting()
            time.sleep(0.2)
        stream.seek(0)
        stream.truncate()
        stream.write(f"pid {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        stream.flush()
        yield


def _lock_file(folder: Path) -> IO[str]:
    """The folder's lock, open for reading and writing; ``RunError`` where it is a link: its target is not ours."""
    try:
        return os.fdopen(os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644), "r+")
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise RunError(
            f"{folder / LOCK} is a link, and moulage writes through none.", "Remove it, or name another --out."
        ) from None


def claim(folder: Path) -> None:
    """Make a folder for results, or take one that a run has begun; what is somebody else's is left alone.

    ``RunError``: it is a file, cannot be made, or holds files but no lock of a run.
    """
    hint = "Name a new or an empty folder with --out."
    try:
        folder.mkdir(parents=True, exist_ok=True)
        entries = sorted(entry.name for entry in folder.iterdir())
    except (FileExistsError, NotADirectoryError):
        raise RunError(f"{folder} is a file, or lies below one.", hint) from None
    except PermissionError:
        raise RunError(f"No permission to make or read the folder {folder}.", hint) from None
    except OSError as error:
        raise RunError(f"The folder {str(folder)[:200]} cannot be made: {error.strerror}.", hint) from None
    if entries and LOCK not in entries:
        shown = ", ".join(entries[:3])
        raise RunError(f"{folder} holds files of something else ({shown}); a run would mix its own with them.", hint)
    with _lock_file(folder):  # a link is refused, and so is a folder that cannot be written
        pass


def _is_locked(stream: IO[str]) -> bool:
    """Lock an open file for this process, if no other one has."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def start_worker() -> None:
    """What a worker process does first: it leaves interrupts to its parent, and ends with it, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def shown(text: str, base: Path) -> str:
    """Text, such as an argument or a line of a recipe, for others to read: absolute paths, which say whose machine
    it is, become relative to ``base``, or to the home folder ``~``.
    """

    def relative(found: re.Match[str]) -> str:
        path, home = Path(found[0]), Path.home()
        if not path.is_relative_to(base) and path.is_relative_to(home) and not base.is_relative_to(home):
            return str(Path("~") / path.relative_to(home))
        return os.path.relpath(path, base)

    return re.sub(r"(?<![^\s\"'=,])/[^\s\"'=,]+", relative, text)


def cache_folder() -> Path:
    """Where decoded pixels are kept between runs: ``$MOULAGE_CACHE``, else ``$XDG_CACHE_HOME/moulage``."""
    named = os.environ.get("MOULAGE_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moulage"
