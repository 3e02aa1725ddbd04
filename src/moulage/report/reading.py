"""Loads a run folder into one typed structure. ``results.json`` must be there; what else is missing is empty."""

import re
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from moulage import results as recorded
from moulage.data.audit import Audit
from moulage.errors import RunError
from moulage.results import Results, explanations
from moulage.results import pairs as near_duplicates
from moulage.results.explanations import Explanation
from moulage.results.generated import GeneratorRun
from moulage.results.pairs import ShownPair
from moulage.runs import read_json, read_log

Log = list[dict[str, Any]]
"""The records of a ``log.jsonl``, in order of step or epoch."""

Shown = TypeVar("Shown", "Gallery", "Dropped", "Closest")


@dataclass(frozen=True)
class Gallery:
    """Images of one generator run to look at; images are uint8 [n, S, S, 3], distances are in grey levels 0..255.

    A distance is the root mean square difference per pixel value to the nearest training image, both at 32 px, over the
    eight flips and quarter turns. ``real_distance`` [M], that of real images of the other parts, is the yardstick.
    """

    real: np.ndarray
    real_labels: np.ndarray
    generated: np.ndarray
    generated_labels: np.ndarray
    generated_seeds: np.ndarray
    nearest: np.ndarray
    nearest_images: np.ndarray
    distance: np.ndarray
    real_distance: np.ndarray


@dataclass(frozen=True)
class Dropped:
    """Some images that the rules of a selection dropped, uint8 [n, S, S, 3], and why.

    ``rule`` [n] counts the rules from 0; ``nearest`` is the real image that the reason speaks of, if ``has_nearest``.
    """

    images: np.ndarray
    nearest: np.ndarray
    has_nearest: np.ndarray
    rule: np.ndarray
    labels: np.ndarray
    names: np.ndarray
    reasons: np.ndarray
    score: np.ndarray


@dataclass(frozen=True)
class Closest:
    """Generated images nearest to a training image, beside it: uint8 [n, S, S, 3]; the rest is [n]."""

    generated: np.ndarray
    nearest: np.ndarray
    label: np.ndarray
    distance: np.ndarray
    is_copy: np.ndarray


@dataclass(frozen=True)
class Run:
    """Everything that a report shows.

    Logs, galleries, previews and dropped images are keyed by the path that ``results`` gives.
    """

    results: Results
    audit: Audit | None
    environment: dict[str, Any]
    recipe: str
    logs: dict[str, Log]
    galleries: dict[str, Gallery]
    previews: dict[str, list[Path]]
    pairs: list[ShownPair] = field(default_factory=list)
    pair_sheet: Path | None = None
    dropped: dict[str, Dropped] = field(default_factory=dict)
    closest: dict[str, Closest] = field(default_factory=dict)
    explanations: list[Explanation] = field(default_factory=list)
    pictures: Path = Path()
    """The run folder, which the pictures of ``explanations`` lie in."""


def read(run: Path) -> Run:
    """Load what the report shows from a run folder.

    Raises:
        RunError: there is no ``results.json``, or a file is not what this version writes.
    """
    results = recorded.load(run)
    audit, environment, recipe = (run / name for name in ("audit.json", "environment.json", "recipe.toml"))
    generators = results.generators
    return Run(
        results=results,
        audit=Audit.load(audit) if audit.exists() else None,
        environment=read_json(environment) if environment.exists() else {},
        recipe=recipe.read_text(encoding="utf-8") if recipe.exists() else "",
        logs={fit.folder: read_log(run / fit.folder, "epoch") for fit in results.fits if fit.folder}
        | {made.folder: read_log(run / made.folder, "step") for made in generators if made.folder},
        galleries={
            made.folder: _arrays(Gallery, run / made.gallery)
            for made in generators
            if made.gallery and (run / made.gallery).exists()
        },
        previews={made.folder: _previews(run / made.folder) for made in generators if made.folder},
        pairs=near_duplicates.load(run),
        pair_sheet=run / "pairs.png" if (run / "pairs.png").exists() else None,
        dropped={
            made.pictures: _arrays(Dropped, run / made.pictures)
            for made in results.selections
            if made.pictures and (run / made.pictures).exists()
        },
        closest={
            made.closest: _arrays(Closest, run / made.closest)
            for made in results.fidelity
            if made.closest and (run / made.closest).exists()
        },
        explanations=_explanations(run, results),
        pictures=run,
    )


def _explanations(run: Path, results: Results) -> list[Explanation]:
    """What was explained of classifiers that are in the results; those of an earlier recipe are passed over."""
    known = {fit.folder for fit in results.fits}
    return [each for each in explanations.load(run) if known.issuperset(each.fits)]


def first_of_each(generators: Iterable[GeneratorRun], is_shown: Callable[[GeneratorRun], bool]) -> list[GeneratorRun]:
    """Of each generator the run of the lowest trial that can be shown; its images stand for the others."""
    first: dict[str, GeneratorRun] = {}
    for made in sorted(filter(is_shown, generators), key=lambda made: made.trial):
        first.setdefault(made.name, made)
    return list(first.values())


def _arrays(kind: type[Shown], path: Path) -> Shown:
    """A ``.npz`` as ``kind``; the error names the file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return kind(**{each.name: file[each.name] for each in fields(kind)})
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(
            f"{path} is no {kind.__name__.lower()}: {error}.", "Delete that file and run the study again."
        ) from None


def _previews(folder: Path) -> list[Path]:
    """Preview grids in the order of the numbers in their names: 900 before 1000."""
    return sorted(
        (folder / "previews").glob("*.png"),
        key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)],
    )
