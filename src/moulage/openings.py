"""The history of a study's test part: what was declared of it, and who opened it; a file that only ever grows.

``registration.jsonl`` in a run folder has one JSON object a line, each with the digest of the one before it, so that a
line which was changed or taken out is noticed. Two events stand there: ``declared`` (see ``registration``) and
``opened``: ``Predictions.load`` writes it before it reads predictions for the test part of a run, whoever asks, and so
does whatever reads test images while the study runs.
"""

import contextlib
import datetime
import fcntl
import json
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

from moulage import runs
from moulage.errors import LeakError, RunError

FILE = "registration.jsonl"
DECLARED, OPENED = "declared", "opened"
TEST = "test.parquet"
"""A classifier's predictions for the test part, in ``RUN/classifiers/FIT``."""
IN_A_RUN = ("plan.json", FILE)
"""Files by which a run folder is known."""
READER: ContextVar[str] = ContextVar("reader", default="python")
"""The verb that reads, for the history; ``python`` where it is no verb of the command line."""


def now() -> str:
    """The date that registrations and results bear; later ones are greater as text."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def history(run: Path) -> list[dict[str, Any]]:
    """All entries, the oldest first; none where there is no file.

    ``LeakError``: a line was changed or taken out. A line without an end, which a power cut leaves, never counted.
    """
    path = run / FILE
    return _read(path, path.read_bytes()) if path.exists() else []


def append(run: Path, event: str, **facts: Any) -> dict[str, Any]:
    """Write one more entry; ``facts`` are plain values. Errors are those of ``history``; ``RunError``: read-only."""
    try:
        with _locked(run / FILE) as stream:
            data = stream.read()
            entries = _read(run / FILE, data)
            entry = {"event": event, "at": now(), **facts, "previous": entries[-1]["entry"] if entries else ""}
            entry["entry"] = runs.digest(entry)
            stream.truncate(data.rfind(b"\n") + 1)
            stream.write(json.dumps(entry).encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise RunError(
            f"{run / FILE} cannot be written ({error.strerror}), and it has to say who opened the test part.",
            "Make the run folder writable, or copy it to where it is.",
        ) from None
    return entry


def opened(path: Path) -> None:
    """Note that predictions for the test part are about to be read; nothing for any other file. Errors of ``note``."""
    path = path.resolve()
    run = path.parents[2] if len(path.parents) > 2 else path.parent
    if path.name != TEST or not path.exists() or not any((run / name).exists() for name in IN_A_RUN):
        return
    note(run, READER.get(), path.relative_to(run).as_posix())


def note(run: Path, by: str, what: str) -> None:
    """Enter who is about to read ``what`` of the test part, once after each declaration.

    ``RunError``: it is the first to read, and cannot be entered.
    """
    known = _since_declared(history(run))
    if not any(entry["by"] == by for entry in known):
        with contextlib.suppress(*([RunError] if known else [])):  # a finished run may be read where it is read-only
            append(run, OPENED, by=by, what=what)


def _since_declared(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The openings after the last declaration."""
    last = max((number for number, entry in enumerate(entries) if entry["event"] == DECLARED), default=-1)
    return entries[last + 1 :]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """The file, at its beginning, held against other processes; a link is not followed."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666), "r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream


def _read(path: Path, data: bytes) -> list[dict[str, Any]]:
    """The entries in these bytes, proven to be chained."""
    entries: list[dict[str, Any]] = []
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), 1):
        previous = entries[-1]["entry"] if entries else ""
        try:
            entry = json.loads(line)
            rest = {key: value for key, value in entry.items() if key != "entry"}
            intact = (entry["entry"], entry["previous"]) == (runs.digest(rest), previous)
        except (ValueError, KeyError, AttributeError, TypeError):
            entry, intact = {}, False
        if not intact:
            raise LeakError(
                f"{path}: line {number} was changed, or one before it was taken out: the history of the test part is "
                "only ever added to.",
                "Put back the file as it was. Where it is lost, nothing can be said to have been registered in time: "
                "run the study in another folder.",
            )
        entries.append(entry)
    return entries
