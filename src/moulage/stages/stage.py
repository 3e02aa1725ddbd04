"""What a stage is: typed settings, the folder that they hash to, what it needs, what it does, what it saw."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from moulage import runs
from moulage.errors import LeakError, RunError
from moulage.recipe import Recipe
from moulage.stages.data import Prepared
from moulage.stages.witness import AGAIN, Known, Witness

STAGE = "stage.json"
"""In a stage's folder: the stage itself, all that it takes to do it again."""


APART = {"apart": True}
"""Metadata of a field that goes along without deciding the folder: what it says is in another field already."""


@dataclass(frozen=True)
class Context:
    """Where a stage is done."""

    run: Path  # a run folder that ``stages.data`` has prepared
    prepared: Prepared  # its data, with the split of the stage's trial
    device: str = "cpu"  # of torch, such as ``cpu`` or ``cuda:0``
    progress: runs.Progress = runs.no_progress  # told how far the stage is


@dataclass(frozen=True)
class Stage:
    """One thing to compute: frozen, typed, serialisable. A kind of stage is a subclass in a file of its own.

    Its fields are all that it depends on; fields that are stages are what it needs. The same settings hash to the same
    folder, so the same command finds what is there, and a changed setting recomputes what depends on it alone.
    """

    kind: ClassVar[str]
    """What the cost table, the screen and the folders call it."""
    place: ClassVar[str]
    """The folder in the run folder that holds all stages of the kind."""
    of_trial: ClassVar[bool] = True
    """Whether its words name the trial."""
    is_witnessed: ClassVar[bool] = True
    """Whether it leaves a witness; what decides nothing leaves none."""

    name: str  # of the generator or arm, or what is embedded
    trial: int  # which trial it belongs to; 0 for what serves the whole study
    data: str  # digest of the data (``Prepared.digest``)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f", trial {self.trial}" if self.of_trial else "")

    @property
    def label(self) -> str:
        """How its folder's name begins."""
        return f"{self.name}-{self.trial}"

    @cached_property
    def folder(self) -> str:
        """Where its result goes, relative to the run folder; ends in a hash of everything that it depends on."""
        return f"{self.place}/{self.label}-{runs.digest(runs.FORMAT, self.kind, self.identity())}"

    def identity(self) -> dict[str, Any]:
        """What decides the folder: every field that is not ``apart``; a stage counts by its folder."""
        return _values(self)

    @cached_property
    def needs(self) -> tuple[Stage, ...]:
        """The stages that must be done before: those among the fields."""
        found: list[Stage] = []
        for each in fields(self):
            value: Any = getattr(self, each.name)
            for one in value if isinstance(value, tuple) else (value,):  # pyright: ignore[reportUnknownVariableType]
                found += [one] if isinstance(one, Stage) else []
        return tuple(found)

    def is_done(self, run: Path) -> bool:
        """Whether its folder is finished."""
        return runs.is_done(run / self.folder)

    def run(self, at: Context) -> Witness | None:
        """Do it, into ``at.run / self.folder``; what was begun there is gone on with.

        Returns:
            What it saw of the images; None for a stage that decides nothing.
        """
        raise NotImplementedError

    def check(self, known: Known) -> None:
        """Prove from what the run's folders recorded that nothing was seen that must not be.

        Raises:
            LeakError: naming the folder and what differs.
        """

    def prove_settings(self, run: Path) -> None:
        """Raise ``LeakError`` where its folder holds another stage than this, whatever the folder is called."""
        if type(self).load(run / self.folder).folder != self.folder:
            raise LeakError(f"{run / self.folder} holds another {self.kind} than its name says.", AGAIN)

    @classmethod
    def check_together(cls, known: Known, stages: Sequence[Stage]) -> None:
        """The same for what only all stages of the kind show together."""

    def num_images(self, prepared: Prepared) -> int:
        """Images that its cost grows with; 0 where it cannot be told beforehand."""
        return 0

    def alike(self) -> tuple[Any, ...]:
        """What decides how long an image takes: stages that agree in it are timed once."""
        return ()

    def seconds(self, num_images: int, device: str) -> float:
        """Seconds that it will take, from a few steps of it."""
        raise NotImplementedError

    @property
    def takes_time(self) -> str:
        """The plug-in or network that takes the time, for the estimate."""
        return ""

    @classmethod
    def check_recipe(cls, recipe: Recipe) -> None:
        """Check what needs no data: plug-ins exist and take their options, weights can be had.

        Raises:
            RecipeError: naming the place and the nearest valid name.
        """

    def save(self, folder: Path) -> None:
        """Write ``stage.json``."""
        runs.write_json(folder / STAGE, {"kind": self.kind, **to_json(self)})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The stage that a folder holds.

        Raises:
            RunError: the folder holds none, or one of another kind.
        """
        saved = runs.read_json(folder / STAGE, "kind")
        if saved.pop("kind", None) != cls.kind:
            raise RunError(f"{folder} holds no {cls.kind}.", "Run the study again; finished parts are kept.")
        return from_json(cls, saved, str(folder / STAGE))


Kind = TypeVar("Kind", bound=Stage)


@cache
def _adapter(kind: type[Kind]) -> TypeAdapter[Kind]:
    return TypeAdapter(kind)


def to_json(stage: Stage) -> dict[str, Any]:
    """A stage, with all that it needs, as plain values."""
    return _adapter(type(stage)).dump_python(stage, mode="json")


def from_json(kind: type[Kind], values: Mapping[str, Any], where: str) -> Kind:
    """What ``to_json`` gave, as a stage of this kind; ``where`` is named if it is damaged."""
    try:
        return _adapter(kind).validate_python(values)
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"]))
        raise RunError(f"{where}: {place}: {problem['msg']}.", "Delete that folder and run the study again.") from None


def _values(of: Any) -> dict[str, Any]:
    """The fields of a dataclass that decide a folder."""
    return {each.name: _plain(getattr(of, each.name)) for each in fields(of) if not each.metadata.get("apart")}


def _plain(value: Any) -> Any:
    """A field as a hash sees it."""
    if isinstance(value, Stage):
        return value.folder
    if isinstance(value, tuple):
        return [_plain(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
    return _values(value) if is_dataclass(value) else value


def execute(run: Path, stage: Stage, device: str = "auto") -> None:
    """Compute one stage into its folder, wherever this is called; what is done already, or was begun, is used.

    Args:
        run: a folder that ``stages.data.prepare`` has written.
        stage: one of ``plan``.
        device: ``auto``, ``cpu``, ``cuda`` or another name of torch.

    Raises:
        MoulageError: whatever stops the stage, in the user's words.
    """
    from moulage.devices import pick_device
    from moulage.randomness import reproducible

    folder = run / stage.folder
    with runs.lock(folder):
        if runs.is_done(folder):
            return
        for leftover in folder.glob(".*.tmp"):  # of an attempt that was killed while it wrote
            leftover.unlink()
        prepared = Prepared.load(run, stage.trial)
        chosen = str(pick_device(device))
        stage.save(folder)
        with reproducible(), _meter(folder, chosen) as (progress, cost):
            saw = stage.run(Context(run, prepared, chosen, progress))
            if saw is not None:
                saw.save(folder)
            facts = cost()
        files = runs.file_digests(folder)
        runs.finish(folder, kind=stage.kind, name=stage.name, trial=stage.trial, **facts, files=files)


@contextlib.contextmanager
def _meter(folder: Path, device: str) -> Generator[tuple[runs.Progress, Callable[[], dict[str, Any]]]]:
    """Progress that is written to ``progress.json`` at most twice a second, with what all attempts together cost and,
    where it can be told from this attempt, the seconds that are left.
    """
    path = folder / "progress.json"
    before = dict.fromkeys(("wall_seconds", "cpu_seconds"), 0.0)
    if path.exists():
        with runs.reading(path):
            found = runs.read_json(path, *before)
            before = {key: float(found[key]) for key in before}
    wall, cpu = time.perf_counter(), time.process_time()
    last, pace = -np.inf, runs.Pace()

    def cost() -> dict[str, Any]:
        return {
            "wall_seconds": before["wall_seconds"] + time.perf_counter() - wall,
            "cpu_seconds": before["cpu_seconds"] + time.process_time() - cpu,
            "device": device,
        }

    def progress(done: int, total: int, note: str = "") -> None:
        nonlocal last
        left = pace.seconds_left(done, total, time.perf_counter())
        if time.perf_counter() - last > 0.5:
            last = time.perf_counter()
            runs.write_json(path, {"done": done, "total": total, "note": note, "seconds_left": left, **cost()})

    progress(0, 1, "starting")
    yield progress, cost
