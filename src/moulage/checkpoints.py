"""What a fit leaves on the disk: checkpoints to resume from exactly, the best weights on the way, and the last ones."""

import contextlib
import hashlib
import io
import pickle
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moulage import runs
from moulage.errors import CheckpointError, RunError

_BROKEN = (
    zipfile.BadZipFile,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    pickle.UnpicklingError,
    OSError,
)
NUM_CHECKPOINTS = 2  # how many checkpoints are kept: the newest, and one to fall back on


def save(folder: Path, step: int, state: Mapping[str, Any], settings: str) -> None:
    """Write ``checkpoint-<step>.pt`` whole or not at all, then drop all but the two newest; ``step`` steps are done.

    The state is a plain dict of tensors, numbers, texts, lists and dicts (``state_dict()`` s, ``random_state()``);
    ``settings`` a digest of everything that it depends on: a checkpoint of other settings is refused.
    """
    for left in folder.glob(".checkpoint-*.tmp"):  # of a process that was killed while writing
        left.unlink(missing_ok=True)
    buffer = io.BytesIO()
    torch.save({"format": runs.FORMAT, "settings": settings, "step": step, "state": dict(state)}, buffer)
    try:
        with runs.atomic(folder / f"checkpoint-{step:08d}.pt") as temporary:
            temporary.write_bytes(buffer.getbuffer())
    except OSError as error:
        raise RunError(
            f"Cannot write a checkpoint to {folder}: {error.strerror}.",
            "Free some space or fix the permissions, then run the same command: it goes on from the last checkpoint.",
        ) from None
    for path in _newest_first(folder)[NUM_CHECKPOINTS:]:
        path.unlink()


def load(folder: Path, settings: str) -> tuple[int, dict[str, Any]] | None:
    """``(step, state)`` of the newest readable checkpoint, on the CPU, or None where there is none yet.

    A truncated or corrupt one is passed over for the one before, and ``log.jsonl`` gets a record with ``warning``.
    ``CheckpointError`` where none is readable, or the newest is of another version or other settings.
    """
    paths = _newest_first(folder)
    for path in paths:
        try:
            data = _read(path)
        except _BROKEN as error:
            runs.log(folder, warning=f"{path.name} is damaged and was passed over: {error}")
            continue
        advice = "Give this run another folder, or delete the folder to start again."
        if data["format"] != runs.FORMAT:
            raise CheckpointError(
                f"{path} is of format {data['format']}; this moulage reads format {runs.FORMAT}.", advice
            )
        if data["settings"] != settings:
            raise CheckpointError(
                f"{path} belongs to other settings ({data['settings']}, not {settings}).",
                f"Options, data or seed have changed since. {advice}",
            )
        return data["step"], data["state"]
    if paths:
        raise CheckpointError(
            f"All checkpoints in {folder} are damaged ({', '.join(path.name for path in paths)}).",
            "Delete them to start this run from its beginning.",
        )
    return None


def newest(folder: Path) -> dict[str, Any] | None:
    """The state of the newest readable checkpoint, whatever its settings, on the CPU; None where there is none."""
    for path in _newest_first(folder):
        with contextlib.suppress(*_BROKEN):
            return _read(path)["state"]
    return None


class Clock:
    """Says when so many minutes have passed since it last said so, or since it was made."""

    def __init__(self, minutes: float) -> None:
        self.seconds, self._last = 60 * minutes, time.perf_counter()

    def strikes(self) -> bool:
        now = time.perf_counter()
        due = now - self._last >= self.seconds
        self._last = now if due else self._last
        return due


def _read(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:  # torch.load does not look at the checksums
        damaged = archive.testzip()
        if damaged:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
    data = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(data, dict) or not {"format", "settings", "step", "state"} <= set(data):
        raise ValueError("it lacks what a checkpoint has")
    return data


def _newest_first(folder: Path) -> list[Path]:
    """Checkpoints by their steps; a file that is called like none of ours is somebody else's."""
    ours = [path for path in folder.glob("checkpoint-*.pt") if path.stem.partition("-")[2].isdecimal()]
    return sorted(ours, key=lambda p: int(p.stem.partition("-")[2]), reverse=True)


def save_weights(path: Path, model: torch.nn.Module) -> None:
    """Write a model's weights and buffers as safetensors, whole or not at all."""
    import safetensors.torch

    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with runs.atomic(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors))


def weights_of(path: Path) -> Path:
    """The file of weights that ``path`` is, or that the folder of a finished fit holds."""
    return path / "weights.safetensors" if path.is_dir() else path


def weights_digest(path: Path) -> str:
    """SHA-256 of that file; ``RunError`` where it cannot be read."""
    try:
        return hashlib.sha256(weights_of(path).read_bytes()).hexdigest()
    except OSError as error:
        raise RunError(
            f"The weights to start from cannot be read: {weights_of(path)}: {error.strerror}.",
            "Name a generator's folder, which a finished fit has written, or a file of weights in safetensors.",
        ) from None


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read what ``save_weights`` wrote; ``RunError`` where the file is missing or damaged."""
    import safetensors.torch

    try:
        return safetensors.torch.load(path.read_bytes())
    except (OSError, safetensors.SafetensorError, LookupError, ValueError, TypeError) as error:
        raise RunError(f"{path} cannot be loaded: {error}.", "Run the command that makes it again.") from None


def load_weights(path: Path, model: torch.nn.Module) -> None:
    """Give a model what ``save_weights`` wrote; ``RunError``: damaged, of another network, or not finite."""
    values = read_weights(path)
    try:
        model.load_state_dict(values)
    except (RuntimeError, LookupError, ValueError, TypeError) as error:
        raise RunError(f"{path} cannot be loaded: {error}.", "Run the command that makes it again.") from None
    for name, value in values.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise RunError(f"{path}: {name} holds numbers that are not finite.", "The fit diverged: repeat it.")


class Best:
    """The weights that a judge found best so far, in a file beside the checkpoints.

    A resumed fit comes by the same steps again and writes the same file, so a file newer than the checkpoint is fine.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.step, self.score, self.last = path, 0, float("inf"), float("nan")

    def judged(self, step: int, scores: Mapping[str, float], network: torch.nn.Module) -> dict[str, float]:
        """Take scores by class (lower is better) into account; returns what to log: ``kid`` (mean), ``kid_CLASS``.

        A class whose score is NaN (too few images to judge) does not count; nothing is kept where all are.
        """
        known = [value for value in scores.values() if np.isfinite(value)]
        self.last = float(np.mean(known)) if known else float("nan")
        if self.last < self.score:
            self.step, self.score = step, self.last
            save_weights(self.path, network)
        return {"kid": self.last} | {f"kid_{name}": float(value) for name, value in scores.items()}

    @property
    def note(self) -> str:
        """For the line of progress."""
        return f", KID {self.last:.4f} (best {self.score:.4f} at {self.step})" if self.step else ""

    def restore(self, network: torch.nn.Module) -> None:
        """Give a network the best weights, where any were kept."""
        if self.step:
            load_weights(self.path, network)

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "score": self.score, "last": self.last}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step, self.score, self.last = state["step"], state["score"], state["last"]
