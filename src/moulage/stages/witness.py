"""What a stage saw of the images, as digests: ``witness.json``, written when it ends, and held against the splits.

No setting turns this off. A stage proves its own record (``Stage.check``) with the questions of ``Known``;
``check_run`` asks all stages of a run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from moulage import runs
from moulage.data.catalog import REAL, Catalog
from moulage.data.split import RESERVE, Split, prove
from moulage.errors import LeakError, RunError
from moulage.evaluation.predictions import facts_of

if TYPE_CHECKING:
    from moulage.stages.data import Prepared
    from moulage.stages.stage import Stage

FILE = "witness.json"
HELD_OUT: tuple[Literal["validation"], Literal["test"]] = ("validation", "test")
ROW = ["image", "label", "origin", "split_digest", "parent"]
"""Columns by which a row that an arm adds is known."""
IN_PLACE_OF = "in_place_of"
"""And the real image that left for it, empty where none did."""
AGAIN = "Do not use these results. Delete that folder, and run the same command again."


@dataclass(frozen=True)
class Witness:
    """Digests of what a stage was fitted, chosen and scored on; None for what a stage of its kind does not do."""

    split_digest: str  # of the split that it knows
    fitted_part: str | None = None  # the part that it was fitted on, and a digest of the images
    fitted_on: str | None = None
    num_images: int | None = None  # that it was fitted on, or that it drew
    # the part that chose an epoch, a threshold or a strength, and the digest of its images
    chosen_on: dict[str, str] | None = None
    # part -> digest of the images that were predicted
    scored_on: dict[str, str] = field(default_factory=dict[str, str])
    # names of the generator runs whose images it drew, kept or was given
    origins: list[str] = field(default_factory=list[str])
    drawn: str | None = None  # digests of the names of generated images
    kept: str | None = None
    parents: str | None = None  # digest of which training image each edited one was made of; None where none is edited
    extra: str | None = None  # digests of the rows that an arm added, and of the real images among them
    extra_real: str | None = None
    seed: int | None = None  # of a training
    images_seen: int | None = None

    def save(self, folder: Path) -> None:
        """Write ``witness.json``."""
        runs.write_json(folder / FILE, {name: value for name, value in asdict(self).items() if value is not None})

    @classmethod
    def load(cls, folder: Path) -> Witness:
        """What ``save`` wrote; ``RunError`` where it is missing or damaged."""
        try:
            return TypeAdapter(cls).validate_python(runs.read_json(folder / FILE))
        except ValidationError as error:
            raise RunError(f"{folder / FILE} is damaged: {error.errors()[0]['msg']}.", AGAIN) from None


def names_digest(images: Iterable[str]) -> str:
    """Digest of a set of image names, whatever their order."""
    return runs.digest(sorted(set(images)))


def rows_digest(table: pd.DataFrame) -> str:
    """Digest of added rows, in their order."""
    return runs.digest(table[[*ROW, IN_PLACE_OF]].to_numpy(object).tolist())


def parents_digest(samples: Catalog) -> str | None:
    """Digest of which training image each edited image was made of, whatever their order; None where none was."""
    edited = samples.table[samples.table["parent"] != ""]
    pairs = sorted(zip(edited["image"], edited["parent"], strict=True))
    return runs.digest([list(pair) for pair in pairs]) if pairs else None


def fitted(split_digest: str, images: Catalog, chosen_on: Catalog | None = None, **more: Any) -> Witness:
    """The witness of what was fitted on images of the training part; ``chosen_on``: those of the validation part that
    chose something, where any did.
    """
    chosen = None if chosen_on is None else {"part": "validation", "digest": names_digest(chosen_on.images)}
    about: dict[str, Any] = {"num_images": len(images), "chosen_on": chosen, **more}
    return Witness(split_digest, "train", names_digest(images.images), **about)


def origins_of(catalog: Catalog) -> list[str]:
    """The generator runs that a catalog's images come from, sorted."""
    return sorted(set(catalog.table["origin"]) - {REAL})


@dataclass
class Known:
    """What the splits and the records of a run say, each digest computed once; and what a stage's record is asked."""

    prepared: Prepared
    run: Path
    seen: Mapping[str, Witness]
    digests: dict[tuple[str, ...], str] = field(default_factory=dict[tuple[str, ...], str])

    def of(self, stage: Stage) -> Witness:
        """The record of a stage."""
        return self.seen[stage.folder]

    def split(self, stage: Stage) -> Split:
        """The split of the stage's trial."""
        return self.prepared.split(stage.trial)

    def part(self, stage: Stage, name: str, classes: Iterable[str] = ()) -> Catalog:
        """A part of that split, of these classes alone where any are named."""
        part = self.split(stage).part(self.prepared.catalog, name)
        return part.only(label=list(classes)) if classes else part

    def digest(self, stage: Stage, name: str, classes: Iterable[str] = ()) -> str:
        """Digest of the names of its images."""
        key = (self.split(stage).digest, name, *classes)
        if key not in self.digests:
            self.digests[key] = names_digest(self.part(stage, name, classes).images)
        return self.digests[key]

    def same_split(self, stage: Stage) -> None:
        """The stage knows the split of its trial."""
        expected, found = self.split(stage).digest, self.of(stage).split_digest
        if found != expected:
            raise LeakError(
                f"{stage.folder} is of the split {found}, and trial {stage.trial} has the split {expected}.", AGAIN
            )

    def was_fitted(self, stage: Stage, verb: str = "fitted", classes: Sequence[str] = ()) -> None:
        """It was fitted on the training part of its split, and on no other image."""
        self.same_split(stage)
        seen, what = self.of(stage), f"the {stage.kind} was {verb} on"
        if seen.fitted_part != "train":
            raise LeakError(f"{stage.folder}: {what} the part {seen.fitted_part}.", AGAIN)
        self.same_images(stage, seen.fitted_on, "train", what, classes)

    def was_chosen(self, stage: Stage, what: str, classes: Sequence[str] = (), *, must: bool = False) -> None:
        """Whatever was chosen was chosen on the validation part; ``must``: something has to be."""
        chosen = self.of(stage).chosen_on
        if chosen is None and not must:
            return
        if not chosen or chosen["part"] != "validation":
            raise LeakError(f"{stage.folder}: {what} the part {chosen and chosen['part']}, not on validation.", AGAIN)
        self.same_images(stage, chosen["digest"], "validation", what, classes)

    def same_images(self, stage: Stage, digest: str | None, part: str, what: str, classes: Sequence[str] = ()) -> None:
        """``digest`` is of the images of this part; the error says which part it is of instead."""
        expected = self.digest(stage, part, classes)
        if digest == expected:
            return
        parts = {self.digest(stage, name, classes): name for name in (*HELD_OUT, "train", RESERVE)}
        found = f"the {parts[digest]} part" if digest in parts else f"other images ({digest})"
        raise LeakError(
            f"{stage.folder}: {what} {found}, not the {part} part of trial {stage.trial} ({expected}).", AGAIN
        )


def check_run(prepared: Prepared, run: Path, stages: Sequence[Stage]) -> None:
    """Prove of a finished run that nothing scored was seen before; a run that passes is silent.

    Found are: a group in two parts; a generator or selection fitted on another split or on images beyond the training
    part; images drawn by another split's generator; a selection that kept what it was not given; added rows that are
    neither training images nor drawn by the arm's own generator, or that its selection did not keep; other images
    that left for them than the trial's order says; held-back images in any arm but the positive control; synthetic or
    foreign rows among predictions; an epoch, a threshold or an operating point chosen on the test part; arms of a trial
    that differ in split, seed or images seen; a file that is not the one which its stage wrote (weights, predictions,
    samples), or a folder that holds another stage.

    Args:
        prepared: the data of the run, with all splits.
        run: the run folder.
        stages: all stages of ``plan``, finished.

    Raises:
        LeakError: naming the folder and what differs.
        RunError: arms of a trial saw unequal numbers of images, or a record is missing.
    """
    for split in prepared.splits:
        prove(split, prepared.catalog)
    seen = {stage.folder: Witness.load(run / stage.folder) for stage in stages if stage.is_witnessed}
    known = Known(prepared, run, seen)
    for stage in stages:
        stage.check(known)
        runs.prove_files(run / stage.folder)
        stage.prove_settings(run)
    for kind in dict.fromkeys(type(stage) for stage in stages):
        kind.check_together(known, [stage for stage in stages if type(stage) is kind])


def prove_predictions(path: Path, expected: Catalog, facts: Mapping[str, Any], real: Collection[str] = ()) -> None:
    """Prove that a file of predictions is of these images, with their labels and groups.

    Args:
        path: the file.
        expected: a part of the split.
        facts: what the file must say of itself: ``arm``, ``trial``, ``part``, ``split_digest``.
        real: all real images of the data; others are named as what they are.

    Raises:
        LeakError: naming the file and the first thing that differs.
        RunError: the file cannot be read.
    """
    found = read_columns(path, ["image", "group", "label"]).set_index("image")
    if real and (synthetic := sorted(set(found.index) - set(real))):
        raise LeakError(f'{path}: "{synthetic[0]}" is no real image of the data, but it is scored.', AGAIN)
    if strange := sorted(set(found.index) ^ set(expected.images)):
        where = f'its images are not the {facts["part"]} part: "{strange[0]}" is in one only'
        raise LeakError(f"{path}: {where}.", AGAIN)
    truth = expected.table.set_index("image").loc[found.index]
    for column in ("label", "group"):
        wrong = np.flatnonzero(found[column].to_numpy() != truth[column].to_numpy())
        if len(wrong):
            there, here = found[column].iloc[wrong[0]], truth[column].iloc[wrong[0]]
            image = found.index[wrong[0]]
            raise LeakError(f'{path}: the {column} of "{image}" is {there} there, and {here} in the data.', AGAIN)
    said = facts_of(path)
    for key, value in facts.items():
        if said.get(key) != value:
            raise LeakError(f"{path} says that its {key.replace('_', ' ')} is {said.get(key)}, not {value}.", AGAIN)


def read_columns(path: Path, columns: list[str]) -> pd.DataFrame:
    """Columns of a Parquet file as Python objects; ``RunError`` where it cannot be read."""
    with runs.reading(path, NotImplementedError):
        return pd.read_parquet(path, columns=columns).astype(object)
