"""Scores how well the classifiers of a finished study recognise images of classes that they never learned."""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moulage import plugins, runs
from moulage.data import pixels as pixel_cache
from moulage.data.catalog import Catalog
from moulage.data.metadata import Encoder
from moulage.errors import DataError, RecipeError
from moulage.evaluation import unknown
from moulage.evaluation.adjust import adjust
from moulage.evaluation.predictions import Predictions
from moulage.recipe import Recipe
from moulage.tasks import prepare
from moulage.tasks.external import finished_results
from moulage.tasks.inputs import Inputs, encode
from moulage.tasks.plan import Task, plan, seed_of
from moulage.tasks.prepare import Prepared

CHUNK = 1024
"""Images whose inputs are held at once."""
SCORES = (*unknown.OF_LOGITS, *unknown.OF_FEATURES)


def score_unknown(
    run: Path,
    *,
    device: str = "auto",
    progress: runs.Progress = runs.no_progress,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Score images of ``data.unknown`` beside the test part, with every classifier of the run.

    Unknown images whose lesion (or duplicate) has an image of a known class in the training or validation part are left
    out. The scores of each image are kept in ``<run>/unknown/<fit>-<hash>.parquet``, so that an interrupted call goes
    on, and what comes of them in ``<run>/unknown/summary.json``.

    Returns:
        ``classes`` (the unknown ones, with their number of images), ``num_known``, ``num_unknown``, ``num_lesions``
        (unknown ones), ``fits`` (``arm``, ``trial``, and a row of ``unknown.Detection`` for each score), ``means``
        (arm -> score -> mean AUROC and false positive rate over trials), ``folder``.

    Raises:
        RecipeError: the study left no class unknown.
        RunError: the study is not finished.
        DataError: no unknown image is left.
    """
    recipe, prepared = prepare.load(run)
    if not recipe.data.unknown:
        raise RecipeError(
            f"The study in {run} left no class unknown.", 'Set data.unknown = ["VASC"] in its recipe, and run it anew.'
        )
    results = finished_results(run, prepared)
    size = plugins.configure("classifiers", recipe.classifier.plugin, recipe.classifier.options).size
    strange, pixels = _unknown_images(recipe, prepared, size, progress)
    say(f"{len(strange):,} images of {', '.join(recipe.data.unknown)}, {len(set(strange.groups)):,} lesions")
    tasks = {task.folder: task for task in plan(recipe, prepared)}
    folder = run / "unknown"
    key = runs.digest(runs.FORMAT, pixels.folder.name, size, strange.digest())
    fits = []
    for number, fit in enumerate(results["fits"]):
        path = folder / f"{Path(fit['folder']).name}-{key}.parquet"
        if not path.exists():
            told = partial(_of_fit, progress, f"classifier {number + 1} of {len(results['fits'])}")
            table = _scored(
                recipe, prepared, run, tasks[fit["folder"]], strange, pixels.array(size), pixels, device, told
            )
            with runs.atomic(path) as temporary:
                table.to_parquet(temporary)
        detections = _detections(pd.read_parquet(path), seed_of(recipe.study.seed, "unknown", fit["folder"]))
        fits.append({"arm": fit["arm"], "trial": fit["trial"], "scores": path.name, "detections": detections})
    summary = {
        "classes": {name: count for name, count in strange.counts.items() if count},
        "num_known": len(prepared.split(0).part(prepared.catalog, "test")),
        "num_unknown": len(strange),
        "num_lesions": len(set(strange.groups)),
        "fits": fits,
        "means": _means(fits),
    }
    runs.write_json(folder / "summary.json", summary)
    return {**summary, "folder": str(folder)}


def _of_fit(progress: runs.Progress, fit: str, done: int, total: int, note: str) -> None:
    progress(done, total, f"{note}, {fit}")


def _unknown_images(
    recipe: Recipe, prepared: Prepared, size: int, progress: runs.Progress
) -> tuple[Catalog, pixel_cache.Pixels]:
    """The usable images of unknown classes that share no lesion with what was trained or chosen on."""
    _, found = prepare.parted(recipe)
    groups = dict(zip(prepared.catalog.images, prepared.catalog.groups, strict=True))
    tables = [split.table for split in prepared.splits]
    used = {groups[image] for table in tables for image in table.loc[table["part"] != "test", "image"]}
    pixels = prepare.pixels_of(recipe, found, (size,), progress=progress)
    usable = set(pixels.scan.loc[pixels.scan["status"] == "ok", "image"])
    kept = found.take(
        np.array([i in usable and g not in used for i, g in zip(found.images, found.groups, strict=True)])
    )
    if not len(kept):
        raise DataError(f"No image of {', '.join(recipe.data.unknown)} is left that can be read and was never seen.")
    return kept, pixels


def _scored(
    recipe: Recipe,
    prepared: Prepared,
    run: Path,
    task: Task,
    strange: Catalog,
    array: np.ndarray,
    pixels: pixel_cache.Pixels,
    device: str,
    progress: runs.Progress,
) -> pd.DataFrame:
    """All scores of the test part and of the unknown images by one classifier."""
    from moulage.devices import pick_device
    from moulage.randomness import reproducible

    where, folder = str(pick_device(device)), run / task.folder
    module = plugins.load("classifiers", task.settings["plugin"])
    config = plugins.configure("classifiers", task.settings["plugin"], task.settings["config"])
    split, inputs = prepared.split(task.trial), Inputs(prepared, run, task, config.size)
    train, test = (split.part(prepared.catalog, part) for part in ("train", "test"))
    rows, encoder = pixels.rows(strange.images), Encoder.load(folder)
    with reproducible():
        classifier = module.Classifier.load(folder, device=where)

        done, total = 0, len(strange) + len(test) + len(train)

        def own(catalog: Catalog) -> np.ndarray:
            nonlocal done
            found = []
            for start in range(0, len(catalog), CHUNK):
                part = catalog.take(_chunk(start, catalog))
                found.append(classifier.features(inputs(part), **encode(encoder, part)))
                done += len(part)
                progress(done, total, "images")
            return np.concatenate(found)

        features, logits = [], []
        for start in range(0, len(strange), CHUNK):
            values = array[rows[start : start + CHUNK]]
            values = module.embed(config, values, device=where) if hasattr(module, "embed") else values
            known = encode(encoder, strange.take(_chunk(start, strange)))
            features.append(classifier.features(values, **known))
            logits.append(classifier.predict(values, **known))
            done += len(values)
            progress(done, total, "images")
        of_test, of_train = own(test), own(train)
    view = runs.read_json(folder / "view.json")
    theirs = np.concatenate(logits)
    if view["logit_adjustment"] is not None:
        theirs = adjust(theirs, np.array(view["log_prior"]), view["logit_adjustment"])
    known = Predictions.load(folder / "test.parquet")
    if not np.array_equal(known.images, test.images):
        raise DataError(f"{folder} predicted other images than the test part.", "Run the study again.")
    both = np.concatenate([of_test, *features])
    columns = {name: unknown.of_logits(np.concatenate([known.logits, theirs]), name) for name in unknown.OF_LOGITS}
    columns |= unknown.of_features(of_train, train.labels, both)
    about = {
        "image": np.concatenate([test.images, strange.images]),
        "group": np.concatenate([test.groups, strange.groups]),
        "label": np.concatenate([test.table["label"], strange.table["label"]]),
        "unknown": np.arange(len(both)) >= len(test),
    }
    return pd.DataFrame({**about, **columns})


def _chunk(start: int, catalog: Catalog) -> np.ndarray:
    return np.arange(start, min(start + CHUNK, len(catalog)))


def _detections(table: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    strange = table["unknown"].to_numpy(bool)
    groups = table["group"].to_numpy(object)
    found = []
    for name in SCORES:
        values = table[name].to_numpy(np.float64)
        rng = np.random.default_rng(seed)  # the same lesions are drawn for every score
        parts = (values[~strange], values[strange], groups[~strange], groups[strange])
        found.append(asdict(unknown.detection(name, *parts, rng)))
    return found


def _means(fits: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    table = pd.DataFrame([{"arm": fit["arm"], **row} for fit in fits for row in fit["detections"]])
    means: dict[str, dict[str, dict[str, float]]] = {}
    for (arm, score), rows in table.groupby(["arm", "score"], sort=False):
        values = {key: float(rows[key].mean()) for key in ("auroc", "false_positives")}
        means.setdefault(str(arm), {})[str(score)] = values
    return means
