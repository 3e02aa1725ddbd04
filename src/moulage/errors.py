"""Everything that moulage raises on purpose.

    MoulageError
    ├── RecipeError        a recipe or an option is wrong (also: unknown key, unknown plug-in)
    ├── DataError          files, labels or images are missing or wrong
    ├── LeakError          something would cross from one part of a split into another
    ├── RunError           a run folder is locked, of another version, or not finished
    │   └── CheckpointError    a checkpoint cannot be read or belongs to other settings
    └── TrainingError      a training run cannot go on
        ├── DivergedError      losses or weights are not finite any more
        └── CollapsedError     the generator draws the same image whatever its input

A message says what is wrong and where; ``hint`` says what to do next. The command line prints both and exits with 1.
"""

import difflib
from collections.abc import Iterable


class MoulageError(Exception):
    """Base of all errors that speak to the user.

    Args:
        message: what is wrong, and where (file, row, key).
        hint: what to do next, one sentence; empty if the message says it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class RecipeError(MoulageError):
    """A recipe or an option is wrong."""


class DataError(MoulageError):
    """Files, labels or images are missing or wrong."""


class LeakError(MoulageError):
    """Something would cross from one part of a split into another."""


class RunError(MoulageError):
    """A run folder is locked, of another version, or not finished."""


class CheckpointError(RunError):
    """A checkpoint cannot be read or belongs to other settings."""


class TrainingError(MoulageError):
    """A training run cannot go on."""


class DivergedError(TrainingError):
    """Losses or weights are not finite any more."""


class CollapsedError(TrainingError):
    """The generator draws the same image whatever its input."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint that names the closest valid spelling, or all of them where none is close."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    if close:
        return f'Did you mean "{close[0]}"?'
    return f"Valid: {', '.join(valid)}." if valid else "There is none to choose from."
