"""Keeps some of the drawn images: features of all, then rule after rule, and a record of what was dropped and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moulage import plugins, runs
from moulage.data.catalog import REAL, Catalog
from moulage.errors import DataError, LeakError
from moulage.recipe import Recipe
from moulage.selection import ImageSet, Judgement
from moulage.tasks import witness
from moulage.tasks.gallery import some_of_each
from moulage.tasks.inputs import embed_all, pixels_of
from moulage.tasks.plan import Task, seed_of
from moulage.tasks.prepare import Prepared

NUM_SHOWN = 24
"""Dropped images of each rule that are kept for the report."""


@dataclass(frozen=True)
class Step:
    """What one rule of a selection did.

    Attributes:
        plugin: its name.
        rows: the candidates that came in, int64 [n].
        judgement: of those.
    """

    plugin: str
    rows: np.ndarray
    judgement: Judgement

    @property
    def dropped(self) -> np.ndarray:
        """The candidates that it dropped, int64."""
        return self.rows[~self.judgement.keep]


def extract_features(
    recipe: Recipe, prepared: Prepared, run: Path, task: Task, device: str, progress: runs.Progress
) -> None:
    """Forward each real image, or each sample, through the feature network; what ``embed_all`` writes."""
    from moulage.features import FeatureOptions, extract

    network = plugins.validate(FeatureOptions, task.settings["config"], "features")
    catalog, array = pixels_of(prepared, run, task.settings["of"], task.settings["size"])
    embed_all(run / task.folder, catalog, array, lambda rows: extract(network, rows, device=device), progress)


def select(recipe: Recipe, prepared: Prepared, run: Path, task: Task, device: str, progress: runs.Progress) -> None:
    """Apply the rules of one selection to the first samples of each class.

    Everything that a rule may look at beside the samples is the training part. Written are ``catalog.parquet`` (what is
    kept), ``decisions.parquet`` (a row a candidate), ``selection.json`` (numbers of each rule), ``dropped.npz`` (some
    of what each rule dropped), and the witness.
    """
    settings, folder, split = task.settings, run / task.folder, prepared.split(task.trial)
    samples_folder, *feature_folders = task.needs
    real_features, drawn_features = (_features_of(run / need) for need in feature_folders)
    train = split.part(prepared.catalog, "train")
    array = prepared.pixels.array(settings["size"])
    reference = ImageSet(train, array[prepared.pixels.rows(train.images)], real_features(train))
    samples, drawn = pixels_of(prepared, run, samples_folder, settings["size"])
    rows = first_seeds(samples, settings["drawn"])
    chosen = samples.take(rows)
    candidates = ImageSet(chosen, drawn[rows], drawn_features(chosen))
    steps = chain(settings["rules"], candidates, reference, settings["want"], settings["seed"], progress)
    kept = chosen.take(survivors(steps, len(chosen)))
    kept.save(folder / "catalog.parquet")
    with runs.atomic(folder / "decisions.parquet") as temporary:
        decisions(steps, candidates).to_parquet(temporary)
    with runs.atomic(folder / "dropped.npz") as temporary, temporary.open("wb") as stream:
        np.savez(stream, **pictures(steps, candidates, reference))
    runs.write_json(folder / "selection.json", summary(settings, steps, candidates, kept))
    witness.of_selection(folder, split.digest, train, kept)


def first_seeds(samples: Catalog, counts: dict[str, int]) -> np.ndarray:
    """The rows of the first ``counts[c]`` samples of each class ``c``, in the order of their seeds, int64."""
    seeds, labels = samples.table["seed"].to_numpy(), samples.table["label"].to_numpy()
    chosen = []
    for label, number in counts.items():
        rows = np.flatnonzero(labels == label)
        if len(rows) < number:
            raise DataError(f'{number} drawn images of "{label}" were to be judged, and there are {len(rows)}.')
        chosen.append(rows[np.argsort(seeds[rows], kind="stable")][:number])
    return np.concatenate([np.zeros(0, np.int64), *chosen])


def chain(
    rules: Sequence[dict[str, Any]],
    candidates: ImageSet,
    reference: ImageSet,
    want: dict[str, int],
    seed: int,
    progress: runs.Progress = runs.no_progress,
) -> list[Step]:
    """Apply rules one after the other, each to what those before it have kept.

    Args:
        rules: ``plugin`` and ``config`` (plain values) of each.
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
    rows, steps = np.arange(len(candidates)), []
    for number, rule in enumerate(rules):
        module = plugins.load("selection", rule["plugin"])
        config = plugins.configure("selection", rule["plugin"], rule["config"])
        rng = np.random.default_rng(seed_of(seed, number, rule["plugin"]))
        judgement = module.select(config, candidates.take(rows), reference, want, rng)
        if not len(judgement.keep) == len(judgement.score) == len(judgement.reasons) == len(rows):
            raise DataError(f"The selection rule {rule['plugin']} was given {len(rows)} images and judged others.")
        steps.append(Step(rule["plugin"], rows, judgement))
        rows = rows[judgement.keep]
        progress(number + 1, len(rules), f"rules, {len(rows)} images left")
    return steps


def survivors(steps: Sequence[Step], num_candidates: int) -> np.ndarray:
    """The rows that no rule dropped, int64."""
    return np.setdiff1d(np.arange(num_candidates), np.concatenate([np.zeros(0, int), *(s.dropped for s in steps)]))


def decisions(steps: Sequence[Step], candidates: ImageSet) -> pd.DataFrame:
    """A row for each candidate and each rule that judged it: image, label, rule, kept, score, reason."""
    tables = [
        candidates.catalog.table.iloc[step.rows][["image", "label"]].assign(
            rule=f"{number + 1} {step.plugin}",
            kept=step.judgement.keep,
            score=step.judgement.score,
            reason=step.judgement.reasons,
        )
        for number, step in enumerate(steps)
    ]
    return pd.concat(tables, ignore_index=True)


def pictures(steps: Sequence[Step], candidates: ImageSet, reference: ImageSet) -> dict[str, Any]:
    """Some images that each rule dropped, as many of one class as of another, drawn at random.

    Returns:
        ``images`` uint8 [n, S, S, 3]; ``nearest``, the real image that the reason speaks of (black where
        ``has_nearest`` is false); ``rule`` int64 [n] from 0; ``labels``, ``names``, ``reasons`` of str; ``score`` [n].
    """
    rows, rule, place = [], [], []
    for number, step in enumerate(steps):
        dropped = np.flatnonzero(~step.judgement.keep)
        labels = candidates.catalog.table["label"].to_numpy(object)[step.rows[dropped]]
        shown = dropped[some_of_each(labels, NUM_SHOWN)] if len(dropped) else dropped
        rows.append(step.rows[shown])
        rule.append(np.full(len(shown), number))
        place.append(shown)
    chosen, nearest = (
        np.concatenate(rows),
        np.concatenate([s.judgement.nearest[p] for s, p in zip(steps, place, strict=True)]),
    )
    beside = np.zeros_like(candidates.pixels[chosen])
    beside[nearest >= 0] = reference.pixels[nearest[nearest >= 0]]
    reasons = [step.judgement.reasons[row] for step, shown in zip(steps, place, strict=True) for row in shown]
    return {
        "images": candidates.pixels[chosen],
        "nearest": beside,
        "has_nearest": nearest >= 0,
        "rule": np.concatenate(rule),
        "labels": candidates.catalog.table["label"].to_numpy(str)[chosen],
        "names": candidates.catalog.images.astype(str)[chosen],
        "reasons": np.array(reasons, str),
        "score": np.concatenate([s.judgement.score[p] for s, p in zip(steps, place, strict=True)]),
    }


def summary(settings: dict[str, Any], steps: Sequence[Step], candidates: ImageSet, kept: Catalog) -> dict[str, Any]:
    """How many images came to each rule and how many it dropped, by class; what was wanted, and what is kept of it."""
    labels = candidates.catalog.table["label"]

    def counts(rows: np.ndarray) -> dict[str, int]:
        found = labels.iloc[rows].value_counts()
        return {label: int(found.get(label, 0)) for label in settings["want"]}

    rules = [
        {
            **rule,
            "came_in": counts(step.rows),
            "dropped": counts(step.dropped),
            "notes": step.judgement.notes,
        }
        for rule, step in zip(settings["rules"], steps, strict=True)
    ]
    about = {"generator": settings["generator"], "network": settings["network"], "want": settings["want"]}
    return {**about, "kept": {label: kept.counts[label] for label in settings["want"]}, "rules": rules}


def _features_of(folder: Path) -> Any:
    """Looks up the features of a catalog's images in what ``embed_all`` wrote: float32 [N, D]."""
    values = np.load(folder / "inputs.npy", mmap_mode="r")
    index = {name: row for row, name in enumerate(runs.read_json(folder / "images.json"))}
    return lambda catalog: np.array(values[[index[name] for name in catalog.images]])
