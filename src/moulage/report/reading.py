"""Loads a run folder into one typed structure. ``results.json`` must be there; what else is missing is empty."""

import math
import re
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError

from moulage.errors import RunError
from moulage.runs import read_json, read_log

Number = Annotated[float | None, AfterValidator(lambda value: value if value is None or math.isfinite(value) else None)]
"""A finite number, or None where it could not be computed (JSON ``null`` or ``NaN``)."""

Text = Annotated[str, BeforeValidator(lambda value: value or "")]
"""Text that is empty where the file says ``null``."""

Log = list[dict[str, Any]]
"""The records of a ``log.jsonl``, in order of step or epoch."""


class Record(BaseModel):
    """Base of all that stands in the JSON files; keys that the report does not show are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)


Kind = TypeVar("Kind", bound=Record)


class Data(Record):
    """The data set as the source described it."""

    name: str = "data"
    source: str = ""
    num_images: int | None = None
    note: str = ""


class Study(Record):
    """What was asked. ``smallest_effect`` is a fraction in 0..1, like every difference."""

    name: str
    question: str = ""
    seed: int | None = None
    num_trials: int = 1
    target_classes: list[str] = []
    primary: str = ""
    smallest_effect: Number = None
    classes: list[str]
    budget: Any = None
    data: Data = Data()


class Arm(Record):
    """One way to treat imbalance. ``extra`` is the number of added images of each class."""

    name: str
    balance: str = ""
    generator: str | None = None
    extra: dict[str, int] = {}
    num_real: int | None = None
    num_slots: int | None = None
    images_seen: int | None = None


class ClassScores(Record):
    """Scores of one class, fractions in 0..1; ``support`` is its number of images."""

    precision: Number = None
    recall: Number = None
    f1: Number = None
    support: int = 0
    auc: Number = None
    average_precision: Number = None


class Scores(Record):
    """Scores of one fit on one part; ``confusion[true][predicted]`` counts images, in the order of the classes."""

    num_images: int = 0
    accuracy: Number = None
    balanced_accuracy: Number = None
    auc: Number = None
    average_precision: Number = None
    expected_calibration_error: Number = None
    log_loss: Number = None
    classes: dict[str, ClassScores] = {}
    confusion: list[list[int]] = []


class Fit(Record):
    """One classifier: an arm in one trial."""

    arm: str
    trial: int
    folder: str = ""
    scores: dict[str, Scores] = {}


class Comparison(Record):
    """An arm against a reference under one measure; all but ``p_value`` in the unit of the measure."""

    arm: str
    reference: str
    measure: str
    estimate_arm: Number = None
    estimate_reference: Number = None
    difference: Number = None
    standard_error: Number = None
    degrees_of_freedom: Number = None
    low: Number = None
    high: Number = None
    p_value: Number = None
    num_trials: int | None = None
    num_images: int | None = None
    num_lesions: int | None = None
    method: str = ""
    notes: list[str] = []


class Count(Record):
    """Images and lesions of one class in one part."""

    images: int = 0
    lesions: int = 0


class GeneratorRun(Record):
    """One generator in one trial, fitted on ``num_images``; ``gallery`` is the ``.npz`` with images to look at."""

    name: str
    plugin: str = ""
    trial: int = 0
    folder: str = ""
    classes: list[str] = []
    num_images: int | None = None
    gallery: Text = ""


class Cost(Record):
    """What one finished task took."""

    kind: str
    name: str = ""
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    device: str = "cpu"


class Results(Record):
    """``results.json``."""

    study: Study
    command: str = ""
    date: str = ""
    answer: str = ""
    details: list[str] = []
    arms: list[Arm] = []
    fits: list[Fit] = []
    comparisons: list[Comparison] = []
    split: dict[str, dict[str, Count]] = {}
    split_digest: str = ""
    generators: list[GeneratorRun] = []
    cost: list[Cost] = []


class Finding(Record):
    """One thing that the audit found."""

    kind: str
    severity: str = ""
    num_images: int | None = None
    images: list[str] = []
    message: str = ""
    advice: str = ""


class NearDuplicate(Record):
    """Two images that may be one; an ``accepted`` pair stays in one part of the split."""

    first: str
    second: str
    accepted: bool = False


class ShownPair(NearDuplicate):
    """A near-duplicate of ``pairs.json``, with its number on the sheet ``pairs.png``."""

    number: int
    first_label: str
    second_label: str
    detail: float


class Audit(Record):
    """``audit.json``: ``quarantined`` maps an image to the reason, ``pairs`` are candidates for near-duplicates."""

    findings: list[Finding] = []
    quarantined: dict[str, str] = {}
    pairs: list[NearDuplicate] = []


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
class Run:
    """Everything that a report shows. Logs, galleries and previews are keyed by the path that ``results`` gives."""

    results: Results
    audit: Audit | None
    environment: dict[str, Any]
    recipe: str
    logs: dict[str, Log]
    galleries: dict[str, Gallery]
    previews: dict[str, list[Path]]
    pairs: list[ShownPair] = field(default_factory=list)
    pair_sheet: Path | None = None


def read(run: Path) -> Run:
    """Load what the report shows from a run folder.

    Raises:
        RunError: there is no ``results.json``, or a file is not what this version writes.
    """
    if not (run / "results.json").exists():
        raise RunError(
            f"{run} has no results.json, so there is nothing to report yet.",
            "Run `moulage study` with this folder until it ends; it resumes where it stopped.",
        )
    results = _record(Results, run / "results.json")
    audit, environment, recipe = run / "audit.json", run / "environment.json", run / "recipe.toml"
    generators = results.generators
    return Run(
        results=results,
        audit=_record(Audit, audit) if audit.exists() else None,
        environment=read_json(environment) if environment.exists() else {},
        recipe=recipe.read_text(encoding="utf-8") if recipe.exists() else "",
        logs={fit.folder: read_log(run / fit.folder, "epoch") for fit in results.fits if fit.folder}
        | {made.folder: read_log(run / made.folder, "step") for made in generators if made.folder},
        galleries={
            made.gallery: _gallery(run / made.gallery)
            for made in generators
            if made.gallery and (run / made.gallery).exists()
        },
        previews={made.folder: _previews(run / made.folder) for made in generators if made.folder},
        pairs=_pairs(run / "pairs.json"),
        pair_sheet=run / "pairs.png" if (run / "pairs.png").exists() else None,
    )


def first_of_each(generators: Iterable[GeneratorRun], is_shown: Callable[[GeneratorRun], bool]) -> list[GeneratorRun]:
    """Of each generator the run of the lowest trial that can be shown; its images stand for the others."""
    first: dict[str, GeneratorRun] = {}
    for made in sorted(filter(is_shown, generators), key=lambda made: made.trial):
        first.setdefault(made.name, made)
    return list(first.values())


def _record(kind: type[Kind], path: Path) -> Kind:
    try:
        return kind.model_validate(read_json(path))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise RunError(
            f"{path}: {place}: {problem['msg']}.", "Run the study again with this version of moulage to rewrite it."
        ) from None


def _gallery(path: Path) -> Gallery:
    try:
        with np.load(path, allow_pickle=False) as file:
            return Gallery(**{name: file[name] for name in Gallery.__dataclass_fields__})
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{path} is no gallery: {error}.", "Delete that file and run the study again.") from None


def _pairs(path: Path) -> list[ShownPair]:
    """The near-duplicates that were chosen to be shown; none where an older run did not choose."""
    if not path.exists():
        return []
    try:
        return [ShownPair.model_validate(pair) for pair in read_json(path)]
    except ValidationError as error:
        raise RunError(f"{path} lists no pairs: {error.errors()[0]['msg']}.", "Run the study again.") from None


def _previews(folder: Path) -> list[Path]:
    """Preview grids in the order of the numbers in their names: 900 before 1000."""
    return sorted(
        (folder / "previews").glob("*.png"),
        key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)],
    )
