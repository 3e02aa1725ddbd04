"""Scores how well the classifiers of a finished study recognise images of classes that they never learned."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moulage import runs
from moulage.data import generated, joined_sets
from moulage.data import pixels as pixel_cache
from moulage.data.catalog import Catalog
from moulage.data.overlap import Shown
from moulage.data.pixel_writer import OK
from moulage.errors import DataError, RecipeError
from moulage.evaluation import unknown
from moulage.evaluation.predictions import Predictions
from moulage.finished.run import Finished
from moulage.runs import seed_of
from moulage.stages import data
from moulage.stages.classifier import Classifier
from moulage.stages.predicting import chunks
from moulage.stages.trained import CHUNK, Trained

SCORES = (*unknown.OF_LOGITS, *unknown.OF_FEATURES)


def score_unknown(
    run: Path,
    *,
    device: str = "auto",
    progress: runs.Progress = runs.no_progress,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Score images of ``data.unknown`` beside the test part, with every classifier of the run.

    Unknown images that are, or whose lesion has, an image of a known class (by lesion id, by bytes, or as a near-
    duplicate) are left out. The scores of each image are kept in ``<run>/unknown/<fit>-<hash>.parquet``, so that an
    interrupted call goes on, and what comes of them in ``<run>/unknown/summary.json``.

    Returns:
        ``classes`` (the unknown ones, with their number of images), ``num_known``, ``num_unknown``, ``num_lesions``
        (unknown ones), ``left_out`` (why -> images), ``fits`` (``arm``, ``trial``, and a row of ``unknown.Detection``
        for each score), ``means`` (arm -> score -> mean AUROC and false positive rate over trials), ``folder``.

    Raises:
        RecipeError, RunError, DataError: the study left no class unknown, is not finished, or no unknown image is left.
    """
    recipe = data.recipe_of(run)
    if not recipe.data.unknown:
        raise RecipeError(
            f"The study in {run} left no class unknown.", 'Set data.unknown = ["VASC"] in its recipe, and run it anew.'
        )
    done = Finished.load(run)
    strange, pixels, left_out = _unknown_images(done, progress)
    say(f"{len(strange):,} images of {', '.join(recipe.data.unknown)}, {len(set(strange.groups)):,} lesions")
    for why, number in left_out.items():
        say(f"{number:,} images left out: {why}")
    folder = run / "unknown"
    key = runs.digest(runs.FORMAT, pixels.folder.name, done.size, strange.digest)
    fits = []
    for number, stage in enumerate(done.stages, 1):
        path = folder / f"{Path(stage.folder).name}-{key}.parquet"
        if not path.exists():
            note = f"images, classifier {number} of {len(done.stages)}"
            table = _scored(done, stage, strange, pixels, progress, note, device)
            with runs.atomic(path) as temporary:
                table.to_parquet(temporary)
        seed = seed_of(recipe.study.seed, "unknown", stage.name, stage.trial)
        with runs.reading(path, NotImplementedError):
            detections = _detections(pd.read_parquet(path), seed)
        fits.append({"arm": stage.name, "trial": stage.trial, "scores": path.name, "detections": detections})
    summary = {
        "classes": {name: count for name, count in strange.counts.items() if count},
        "num_known": len(done.prepared.part(0, "test")),
        "num_unknown": len(strange),
        "num_lesions": len(set(strange.groups)),
        "left_out": left_out,
        "fits": fits,
        "means": _means(fits),
    }
    runs.write_json(folder / "summary.json", summary)
    return {**summary, "folder": str(folder)}


def _unknown_images(done: Finished, progress: runs.Progress) -> tuple[Catalog, pixel_cache.Pixels, dict[str, int]]:
    """The usable images of unknown classes that nothing of the study shows, nor their lesions; and why others go.

    Left out is what has the same lesion id, the same bytes, or is a near-duplicate (mirrored, turned, saved again).
    """
    _, found = data.parted(done.recipe)
    known = done.prepared.catalog.table
    used = known.loc[known["image"].isin(done.learned), "group"]
    pixels = data.pixels_of(done.recipe, found, (done.size,), progress=progress)
    drawn = generated.find(found, pixels)
    usable = pixels.scan.loc[pixels.scan["status"] == OK, "image"]
    usable = usable[~usable.isin([*drawn.marked, *drawn.stripped])]
    clean = found.take((found.table["image"].isin(usable) & ~found.table["group"].isin(used)).to_numpy())
    ours = joined_sets.members(done.prepared.catalog, done.prepared.pixels)
    shared, _ = joined_sets.find(Shown.of(clean, pixels), ours, progress)
    copies = clean.table.loc[clean.table["image"].isin(shared["image"]), "group"]
    kept = clean.take(~clean.table["group"].isin(copies).to_numpy())
    left_out = {"cannot be read, or generated": len(found) - len(usable)}
    left_out |= {"lesion of an image that was learned from": len(usable) - len(clean)}
    left_out |= {"photograph of a known class too, or of its lesion": len(clean) - len(kept)}
    left_out = {why: number for why, number in left_out.items() if number}
    if not len(kept):
        names, why = ", ".join(done.recipe.data.unknown), "; ".join(f"{n:,}: {why}" for why, n in left_out.items())
        raise DataError(f"No image of {names} is left that can be read and was never seen ({why}).")
    return kept, pixels, left_out


def _scored(
    done: Finished,
    stage: Classifier,
    strange: Catalog,
    pixels: pixel_cache.Pixels,
    progress: runs.Progress,
    note: str,
    device: str,
) -> pd.DataFrame:
    """All scores of the test part and of the unknown images by one classifier."""
    from moulage.randomness import reproducible

    folder = done.run / stage.folder
    train, test = (done.prepared.part(stage.trial, part) for part in ("train", "test"))
    number, total = 0, len(strange) + len(test) + len(train)

    def tell(more: int) -> None:
        nonlocal number
        number += more
        progress(number, total, note)

    features: list[np.ndarray] = []
    logits: list[np.ndarray] = []
    with reproducible():
        trained, inputs = Trained.load(folder, device), stage.inputs(done.prepared, done.run)
        for rows in chunks(strange, CHUNK):
            values = trained.embed(pixels.array(trained.size)[pixels.rows(rows.images)])
            features.append(trained.features(lambda _, values=values: values, rows, tell))
            logits.append(trained.predict(values, rows))
        of_test, of_train = trained.features(inputs, test, tell), trained.features(inputs, train, tell)
    known = Predictions.load(folder / "test.parquet")
    if not np.array_equal(known.images, test.images):
        raise DataError(f"{folder} predicted other images than the test part.", "Run the study again.")
    both, said = np.concatenate([of_test, *features]), np.concatenate([known.logits, *logits])
    columns = {name: unknown.of_logits(said, name) for name in unknown.OF_LOGITS}
    columns |= unknown.of_features(of_train, train.labels, both)
    about = {
        "image": np.concatenate([test.images, strange.images]),
        "group": np.concatenate([test.groups, strange.groups]),
        "label": np.concatenate([test.table["label"], strange.table["label"]]),
        "unknown": np.arange(len(both)) >= len(test),
    }
    return pd.DataFrame({**about, **columns})


def _detections(table: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    parts = table[~table["unknown"]], table[table["unknown"]]
    groups, found = [part["group"].to_numpy(object) for part in parts], []
    for name in SCORES:
        known, strange = (part[name].to_numpy(np.float64) for part in parts)
        rng = np.random.default_rng(seed)  # the same lesions are drawn for every score
        found.append(asdict(unknown.detection(name, known, strange, groups[0], groups[1], rng)))
    return found


def _means(fits: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    table = pd.DataFrame([{"arm": fit["arm"], **row} for fit in fits for row in fit["detections"]])
    means: dict[str, dict[str, dict[str, float]]] = {}
    for (arm, score), rows in table.groupby(["arm", "score"], sort=False):
        values = {key: float(rows[key].mean()) for key in ("auroc", "false_positives")}
        means.setdefault(str(arm), {})[str(score)] = values
    return means
