"""What the sections of a report read of a run folder beside its results."""

import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from moulage import results
from moulage.errors import RunError
from moulage.results import Results
from moulage.results.generated import GeneratorRun
from moulage.runs import read_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Arrays = TypeVar("Arrays", bound="DataclassInstance")


@dataclass(frozen=True)
class Run:
    """A run folder and what stands in its ``results.json``."""

    folder: Path
    results: Results

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions and machine; empty where they are not known."""
        path = self.folder / "environment.json"
        return read_json(path) if path.exists() else {}

    def arrays(self, kind: type[Arrays], name: str | None) -> Arrays | None:
        """The arrays of a ``.npz`` as a dataclass of them; None where there is no such file.

        ``RunError`` where it is broken, or lacks one of the arrays.
        """
        if name is None or not (path := self.folder / name).exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                return kind(**{each.name: file[each.name] for each in fields(kind)})
        except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            message = f"{path} is no {kind.__name__.lower()}: {error}."
            raise RunError(message, "Delete that file and run the study again.") from None


def read(folder: Path) -> Run:
    """A run folder; errors are those of ``results.load``."""
    return Run(folder, results.load(folder))


def first_of_each(
    generators: Iterable[GeneratorRun], by: Callable[[GeneratorRun], str] = lambda made: made.name
) -> list[GeneratorRun]:
    """Of each generator, as it is drawn from, the run of the lowest trial; its images stand for the others."""
    first: dict[str, GeneratorRun] = {}
    for made in sorted(generators, key=lambda made: made.trial):
        first.setdefault(by(made), made)
    return list(first.values())
