"""Proves of a finished run, from what its folders recorded, that nothing scored was seen before.

Every task writes a witness (``tasks.witness``): digests of the images that it was fitted, chosen and scored on. Here
they are held against the split of the task's trial, and the arms of a trial against each other. No setting turns this
off.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from moulage import runs
from moulage.data.catalog import REAL, Catalog
from moulage.data.samples import check_provenance
from moulage.data.split import RESERVE, Split, prove
from moulage.errors import LeakError, RunError
from moulage.recipe import Recipe
from moulage.tasks import witness
from moulage.tasks.plan import Task, roles
from moulage.tasks.prepare import Prepared

HELD_OUT = ("validation", "test")
WITNESSED = ("generator", "selection", "samples", "classifier")
"""Kinds of task that write a witness; embeddings, features and galleries decide nothing."""
AGAIN = "Do not use these results. Delete that folder, and run the same command again."


def check_run(recipe: Recipe, prepared: Prepared, run: Path, tasks: Iterable[Task]) -> None:
    """Check every finished task of a run; a run that passes is silent.

    Found are: a group in two parts; a generator or selection fitted on another split or on images beyond the training
    part; images drawn by another split's generator; a selection that kept what it was not given; added rows that are
    neither training images nor drawn by the arm's own generator, or that its selection did not keep; held-back images
    in any arm but the positive control; synthetic or foreign rows among predictions; an epoch, a threshold or an
    adjustment chosen on the test part; arms of a trial that differ in split, seed or images seen.

    Args:
        recipe: of the run.
        prepared: its data, with all splits.
        run: the run folder.
        tasks: all tasks of ``plan``, finished.

    Raises:
        LeakError: naming the folder and what differs.
        RunError: arms of a trial saw unequal numbers of images, or a record is missing.
    """
    known = _Known(prepared)
    for split in prepared.splits:
        prove(split, prepared.catalog)
    positive = {arm for arm, role in roles(recipe).items() if role == "positive"}
    tasks = list(tasks)
    found = {task.folder: runs.read_json(run / task.folder / witness.FILE) for task in tasks if task.kind in WITNESSED}
    for task in tasks:
        if task.kind in ("generator", "selection"):
            _check_fit(known, task, found[task.folder])
            if task.kind == "selection" and task.needs:
                _check_kept(run, task, found[task.folder])
        elif task.kind == "samples":
            _check_samples(known, run, task, found[task.folder])
        elif task.kind == "classifier":
            _check_trained(known, task, found[task.folder])
            _check_extra(known, run, task, found, task.name in positive)
            _check_predictions(known, run, task, found[task.folder])
    _check_arms([(task, found[task.folder]) for task in tasks if task.kind == "classifier"])


@dataclass
class _Known:
    """What the splits say, each digest computed once."""

    prepared: Prepared
    digests: dict[tuple[str, ...], str] = field(default_factory=dict)

    def split(self, task: Task) -> Split:
        return self.prepared.split(task.trial)

    def part(self, task: Task, name: str, classes: Iterable[str] = ()) -> Catalog:
        part = self.split(task).part(self.prepared.catalog, name)
        return part.only(label=list(classes)) if classes else part

    def digest(self, task: Task, name: str, classes: Iterable[str] = ()) -> str:
        key = (self.split(task).digest, name, *classes)
        if key not in self.digests:
            self.digests[key] = witness.names_digest(self.part(task, name, classes).images)
        return self.digests[key]


def _check_fit(known: _Known, task: Task, record: dict[str, Any]) -> None:
    """A generator or selection saw training images of its trial's split and no others."""
    _same_split(known, task, record)
    if record["fitted_part"] != "train":
        raise LeakError(f"{task.folder}: the {task.kind} was fitted on the part {record['fitted_part']}.", AGAIN)
    _same_images(known, task, record["fitted_on"], "train", f"the {task.kind} was fitted on", _classes(task))
    _chosen(known, task, record, _classes(task))


def _check_samples(known: _Known, run: Path, task: Task, record: dict[str, Any]) -> None:
    """Samples were drawn by the generator that they need, and that one knows this split alone."""
    _same_split(known, task, record)
    samples = Catalog.load(run / task.folder / "catalog.parquet")
    check_provenance(samples, known.split(task).digest)
    real = samples.only(origin=REAL)
    if len(real):
        raise LeakError(f'{task.folder}: the real image "{real.images[0]}" is among the samples.', AGAIN)
    expected, names = [Path(task.needs[0]).name], sorted(set(samples.table["origin"]))
    if record["origins"] != expected or names != expected:
        strange = sorted({*record["origins"], *names} - set(expected))
        raise LeakError(f"{task.folder}: samples were drawn by {', '.join(strange)}, not by {expected[0]}.", AGAIN)
    if record["drawn"] != witness.names_digest(samples.images):
        raise LeakError(f"{task.folder}: its catalog lists other images than were drawn.", AGAIN)


def _check_kept(run: Path, task: Task, record: dict[str, Any]) -> None:
    """What a selection kept is among the samples that it needs, row by row, and nothing else is."""
    kept, drawn = (Catalog.load(run / folder / "catalog.parquet") for folder in (task.folder, task.needs[0]))
    columns = [*witness.EXTRA_COLUMNS, "seed"]
    known = set(drawn.table[columns].itertuples(index=False, name=None))
    strangers = [row[0] for row in kept.table[columns].itertuples(index=False, name=None) if row not in known]
    if strangers:
        raise LeakError(f'{task.folder}: it kept "{strangers[0]}", which is not among {task.needs[0]}.', AGAIN)
    if record["kept"] != witness.names_digest(kept.images):
        raise LeakError(f"{task.folder}: its catalog lists other images than were kept.", AGAIN)


def _check_trained(known: _Known, task: Task, record: dict[str, Any]) -> None:
    """A classifier was trained on the training part, chosen on the validation part, and scored on both others."""
    _same_split(known, task, record)
    if record["fitted_part"] != "train":
        raise LeakError(f"{task.folder}: the classifier was trained on the part {record['fitted_part']}.", AGAIN)
    _same_images(known, task, record["fitted_on"], "train", "the classifier was trained on")
    _chosen(known, task, record)
    for part in HELD_OUT:
        _same_images(known, task, record["scored_on"].get(part, ""), part, f"{part} scores are of")


def _check_extra(known: _Known, run: Path, task: Task, found: dict[str, dict[str, Any]], positive: bool) -> None:
    """What an arm added is allowed there, row by row."""
    record = found[task.folder]
    added = _read(run / task.folder / witness.EXTRA, witness.EXTRA_COLUMNS)
    real = set(added["image"][added["origin"] == REAL])
    if record["extra"] != witness.rows_digest(added) or record["extra_real"] != witness.names_digest(real):
        raise LeakError(f"{task.folder}: {witness.EXTRA} holds other rows than the arm added.", AGAIN)
    held_back = real & set(known.part(task, RESERVE).images)
    if held_back and not positive:
        raise LeakError(
            f'{task.folder}: the arm {task.name} adds "{min(held_back)}", held back for the positive control.',
            AGAIN,
        )
    strangers = real - held_back - set(known.part(task, "train").images)
    if strangers:
        raise LeakError(
            f'{task.folder}: the arm {task.name} adds "{min(strangers)}" from outside its training part.', AGAIN
        )
    drawn = added[added["origin"] != REAL]
    other = drawn[drawn["split_digest"] != known.split(task).digest]
    if len(other):
        raise LeakError(
            f'{task.folder}: "{other["image"].iloc[0]}" was drawn by a generator fitted on the split '
            f"{other['split_digest'].iloc[0]}, not on {known.split(task).digest}.",
            AGAIN,
        )
    origins = sorted(set(drawn["origin"]))
    if record["origins"] != origins:
        raise LeakError(f"{task.folder}: {witness.EXTRA} names other generators than the arm drew from.", AGAIN)
    for need in (need for need in task.needs if need.startswith("selections/")):
        unselected = sorted(set(drawn["image"]) - set(_read(run / need / "catalog.parquet", ["image"])["image"]))
        if unselected:
            raise LeakError(f'{task.folder}: the arm {task.name} adds "{unselected[0]}", which {need} dropped.', AGAIN)
    sources = {name for need in task.needs if need in found for name in found[need].get("origins", [])}
    given = bool(task.settings["given"][0])  # a folder from elsewhere: its rows alone tell the split
    strange = [name for name in origins if name not in sources and not given]
    if strange:
        raise LeakError(
            f"{task.folder}: the arm {task.name} adds images of {strange[0]}, which is not its generator.", AGAIN
        )


def _check_predictions(known: _Known, run: Path, task: Task, record: dict[str, Any]) -> None:
    """What was predicted is the part, and real."""
    real = set(known.prepared.catalog.images)
    for part in HELD_OUT:
        path = run / task.folder / f"{part}.parquet"
        images = _read(path, ["image"])["image"]
        synthetic = sorted(set(images) - real)
        if synthetic:
            raise LeakError(f'{path}: "{synthetic[0]}" is no real image of the data, but it is scored.', AGAIN)
        if witness.names_digest(images) != known.digest(task, part):
            strange = sorted(set(images) ^ set(known.part(task, part).images))
            raise LeakError(f'{path}: its images are not the {part} part: "{strange[0]}" is in one only.', AGAIN)


def _check_arms(trained: list[tuple[Task, dict[str, Any]]]) -> None:
    """The arms of a trial are paired: one split, one seed, the same images scored, as many images seen."""
    first: dict[int, tuple[Task, dict[str, Any]]] = {}
    for task, record in trained:
        reference, expected = first.setdefault(task.trial, (task, record))
        for key in ("split_digest", "seed", "scored_on"):
            if record[key] != expected[key]:
                raise LeakError(f"{task.folder} and {reference.folder} are of one trial, but differ in {key}.", AGAIN)
        if record["images_seen"] != expected["images_seen"]:
            raise RunError(
                f"{task.folder} saw {record['images_seen']} images in training, {reference.folder} "
                f"{expected['images_seen']}: a difference between them could be one of steps.",
                "Delete both folders, and run the same command again.",
            )


def _classes(task: Task) -> tuple[str, ...]:
    return tuple(task.settings.get("classes", ()))


def _same_split(known: _Known, task: Task, record: dict[str, Any]) -> None:
    expected = known.split(task).digest
    if record["split_digest"] != expected:
        raise LeakError(
            f"{task.folder} is of the split {record['split_digest']}, and trial {task.trial} has the split {expected}.",
            AGAIN,
        )


def _same_images(known: _Known, task: Task, digest: str, part: str, what: str, classes: tuple[str, ...] = ()) -> None:
    expected = known.digest(task, part, classes)
    if digest == expected:
        return
    parts = {known.digest(task, name, classes): name for name in (*HELD_OUT, "train", RESERVE)}
    found = f"the {parts[digest]} part" if digest in parts else f"other images ({digest})"
    raise LeakError(f"{task.folder}: {what} {found}, not the {part} part of trial {task.trial} ({expected}).", AGAIN)


def _chosen(known: _Known, task: Task, record: dict[str, Any], classes: tuple[str, ...] = ()) -> None:
    """Whatever was chosen was chosen on the validation part; a generator chooses nothing."""
    chosen = record["chosen_on"]
    if chosen is None and task.kind != "classifier":
        return
    what = "the classifier's epoch was chosen on" if task.kind == "classifier" else "a choice was made on"
    if not chosen or chosen["part"] != "validation":
        raise LeakError(f"{task.folder}: {what} the part {chosen and chosen['part']}, not on validation.", AGAIN)
    _same_images(known, task, chosen["digest"], "validation", what, classes)


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    try:
        return pq.read_table(path, columns=columns).to_pandas().astype(object)
    except (OSError, pa.ArrowInvalid) as error:
        raise RunError(
            f"{path} cannot be read: {error}.", "Delete that folder, and run the same command again."
        ) from None
