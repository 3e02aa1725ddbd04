"""Keeps some of the drawn images: features of all, then rule after rule, and a record of what was dropped and why."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from moulage import contracts, runs
from moulage.data.catalog import REAL, Catalog
from moulage.errors import DataError, LeakError
from moulage.recipe import Recipe
from moulage.runs import seed_of
from moulage.selection import ImageSet, Judgement
from moulage.stages.features import Features
from moulage.stages.network import Network
from moulage.stages.samples import Samples
from moulage.stages.stage import Context, Stage
from moulage.stages.stored import ByName, embedded, pixels_of, some_of_each
from moulage.stages.witness import AGAIN, ROW, Known, Witness, fitted, names_digest, origins_of

FILE = "selection.json"
DROPPED = "dropped.npz"
NUM_SHOWN = 24
"""Dropped images of each rule that are kept for the report."""


@dataclass(frozen=True)
class Rule:
    """One rule of a selection, with its options as plain values."""

    plugin: str
    config: dict[str, Any]


@dataclass(frozen=True)
class Selection(Stage):
    """What is kept of the first samples of each class; arms that want as many of one selection share it."""

    kind: ClassVar[str] = "selection"
    place: ClassVar[str] = "selections"

    # what is chosen from. The folder goes by their series: it sees the first samples, however many others ask for.
    samples: Samples
    real: Features  # features of the real images, and of the samples
    drawn: Features
    rules: tuple[Rule, ...]  # applied in this order, each to what those before it have kept
    want: dict[str, int]  # images of each class that are wanted in the end
    first: dict[str, int]  # images of each class that are judged
    seed: int  # of the rules' random numbers
    split: str  # digest of the split whose training part they are held against

    @classmethod
    def check_recipe(cls, recipe: Recipe) -> None:
        for name, selection in recipe.selections.items():
            for number, rule in enumerate(selection.rules):
                contracts.rule(rule.plugin).configure(rule.options, f"selections.{name}.rules.{number}.options")
            Network.of(selection.features, f"selections.{name}.features")

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "samples": self.samples.series, "drawn": ""}

    def run(self, at: Context) -> Witness:
        """Everything that a rule may look at beside the samples is the training part.

        Written are ``catalog.parquet`` (what is kept), ``decisions.parquet`` (a row a candidate), ``selection.json``
        (numbers of each rule), and ``dropped.npz`` (some of what each rule dropped).
        """
        folder, size = at.run / self.folder, self.samples.generator.size
        train = at.prepared.part(self.trial, "train")
        real, of_drawn = (ByName([embedded(at.run / stage.folder)]) for stage in (self.real, self.drawn))
        reference = ImageSet(train, at.prepared.images(train, size), real(train))
        samples, drawn = pixels_of(at.prepared, at.run, self.samples.folder, size)
        rows = first_seeds(samples, self.first)
        chosen = samples.take(rows)
        candidates = ImageSet(chosen, drawn[rows], of_drawn(chosen))
        applied = chain(self.rules, candidates, reference, self.want, self.seed, at.progress)
        kept = chosen.take(survivors(applied, len(chosen)))
        kept.save(folder / "catalog.parquet")
        with runs.atomic(folder / "decisions.parquet") as temporary:
            decisions(applied, candidates).to_parquet(temporary)
        with runs.atomic(folder / DROPPED) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **pictures(applied, candidates, reference))
        about = {"generator": self.samples.name, "network": self.real.network.name, "want": self.want}
        runs.write_json(folder / FILE, {**about, **summary(applied, candidates, kept, self.want)})
        return fitted(self.split, train, origins=origins_of(kept), kept=names_digest(kept.images))

    def check(self, known: Known) -> None:
        """Besides: what it kept is among the samples, row by row, and nothing else is."""
        known.was_fitted(self)
        known.was_chosen(self, "a choice was made on")
        kept, drawn = (Catalog.load(known.run / of.folder / "catalog.parquet") for of in (self, self.samples))
        there = set(drawn.table[[*ROW, "seed"]].itertuples(index=False, name=None))
        strangers = [
            row[0] for row in kept.table[[*ROW, "seed"]].itertuples(index=False, name=None) if row not in there
        ]
        if strangers:
            raise LeakError(
                f'{self.folder}: it kept "{strangers[0]}", which is not among {self.samples.folder}.', AGAIN
            )
        if known.of(self).kept != names_digest(kept.images):
            raise LeakError(f"{self.folder}: its catalog lists other images than were kept.", AGAIN)


@dataclass(frozen=True)
class Applied:
    """What one rule did to the candidates at ``rows`` (int64 [n])."""

    rule: Rule
    rows: np.ndarray
    judgement: Judgement

    @property
    def dropped(self) -> np.ndarray:
        """The candidates that it dropped, int64."""
        return self.rows[~self.judgement.keep]


def first_seeds(samples: Catalog, counts: Mapping[str, int]) -> np.ndarray:
    """The rows of the first ``counts[c]`` samples of each class ``c``, in the order of their seeds, int64."""
    seeds, labels = samples.table["seed"].to_numpy(), samples.table["label"].to_numpy()
    chosen: list[np.ndarray] = []
    for label, number in counts.items():
        rows = np.flatnonzero(labels == label)
        if len(rows) < number:
            raise DataError(f'{number} drawn images of "{label}" were to be judged, and there are {len(rows)}.')
        chosen.append(rows[np.argsort(seeds[rows], kind="stable")][:number])
    return np.concatenate([np.zeros(0, np.int64), *chosen])


def chain(
    rules: Sequence[Rule],
    candidates: ImageSet,
    reference: ImageSet,
    want: dict[str, int],
    seed: int,
    progress: runs.Progress = runs.no_progress,
) -> list[Applied]:
    """Apply rules one after the other, each to what those before it have kept.

    Args:
        rules: in order.
        candidates: drawn images.
        reference: real images of the training part.
        want: images of each class that are wanted in the end.
        seed: of the rules' random numbers.

    Raises:
        LeakError: a candidate is a real image, or an image of the reference is not.
        DataError: a rule judged another number of images than it was given.
    """
    for images, is_real in ((candidates, False), (reference, True)):
        wrong = images.catalog.images[(images.catalog.table["origin"] == REAL).to_numpy() != is_real]
        if len(wrong):
            raise LeakError(f'A selection takes "{wrong[0]}" for a {"real" if is_real else "drawn"} image.')
    rows, applied = np.arange(len(candidates)), list[Applied]()
    for number, rule in enumerate(rules):
        plug = contracts.rule(rule.plugin)
        rng = np.random.default_rng(seed_of(seed, number, rule.plugin))
        judgement = plug.select(plug.configure(rule.config), candidates.take(rows), reference, want, rng)
        if not len(judgement.keep) == len(judgement.score) == len(judgement.reasons) == len(rows):
            raise DataError(f"The selection rule {rule.plugin} was given {len(rows)} images and judged others.")
        applied.append(Applied(rule, rows, judgement))
        rows = rows[judgement.keep]
        progress(number + 1, len(rules), f"rules, {len(rows)} images left")
    return applied


def survivors(applied: Sequence[Applied], num_candidates: int) -> np.ndarray:
    """The rows that no rule dropped, int64."""
    return np.setdiff1d(
        np.arange(num_candidates), np.concatenate([np.zeros(0, int), *(one.dropped for one in applied)])
    )


def decisions(applied: Sequence[Applied], candidates: ImageSet) -> pd.DataFrame:
    """A row for each candidate and each rule that judged it: image, label, rule, kept, score, reason."""
    tables = [
        candidates.catalog.table.iloc[one.rows][["image", "label"]].assign(
            rule=f"{number + 1} {one.rule.plugin}",
            kept=one.judgement.keep,
            score=one.judgement.score,
            reason=one.judgement.reasons,
        )
        for number, one in enumerate(applied)
    ]
    return pd.concat(tables, ignore_index=True)


def pictures(applied: Sequence[Applied], candidates: ImageSet, reference: ImageSet) -> dict[str, Any]:
    """Some images that each rule dropped, as many of one class as of another, drawn at random.

    Returns:
        ``images`` uint8 [n, S, S, 3]; ``nearest``, the real image that the reason speaks of (black where
        ``has_nearest`` is false); ``rule`` int64 [n] from 0; ``labels``, ``names``, ``reasons`` of str; ``score`` [n].
    """
    rows, rule, place = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    for number, one in enumerate(applied):
        dropped = np.flatnonzero(~one.judgement.keep)
        labels = candidates.catalog.table["label"].to_numpy(object)[one.rows[dropped]]
        shown = dropped[some_of_each(labels, NUM_SHOWN)] if len(dropped) else dropped
        rows.append(one.rows[shown])
        rule.append(np.full(len(shown), number))
        place.append(shown)
    chosen, nearest = (
        np.concatenate(rows),
        np.concatenate([one.judgement.nearest[p] for one, p in zip(applied, place, strict=True)]),
    )
    beside = np.zeros_like(candidates.pixels[chosen])
    beside[nearest >= 0] = reference.pixels[nearest[nearest >= 0]]
    reasons = [one.judgement.reasons[int(row)] for one, rows in zip(applied, place, strict=True) for row in rows]
    return {
        "images": candidates.pixels[chosen],
        "nearest": beside,
        "has_nearest": nearest >= 0,
        "rule": np.concatenate(rule),
        "labels": candidates.catalog.table["label"].to_numpy(str)[chosen],
        "names": candidates.catalog.images.astype(str)[chosen],
        "reasons": np.array(reasons, str),
        "score": np.concatenate([one.judgement.score[p] for one, p in zip(applied, place, strict=True)]),
    }


def summary(applied: Sequence[Applied], candidates: ImageSet, kept: Catalog, want: Mapping[str, int]) -> dict[str, Any]:
    """How many images came to each rule and how many it dropped, by class; and what is kept of what was wanted."""
    labels = candidates.catalog.table["label"]

    def counts(rows: np.ndarray) -> dict[str, int]:
        found = labels.iloc[rows].value_counts()
        return {label: int(found.get(label, 0)) for label in want}

    rules = [
        {**asdict(one.rule), "came_in": counts(one.rows), "dropped": counts(one.dropped), "notes": one.judgement.notes}
        for one in applied
    ]
    return {"kept": {label: kept.counts[label] for label in want}, "rules": rules}
