"""Turns what the tasks left into scores, comparisons and an answer; from saved predictions alone."""

import datetime
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from moulage import runs
from moulage.errors import RunError
from moulage.evaluation import verdict
from moulage.evaluation.compare import Comparison, compare_all
from moulage.evaluation.predictions import Predictions
from moulage.evaluation.scores import scores
from moulage.recipe import Recipe
from moulage.tasks.plan import Task
from moulage.tasks.prepare import Prepared

REFERENCES = ("none", "duplicates")
"""Balance plug-ins whose arms the others are compared with."""
HELD_OUT = ("validation", "test")
ONE_FIT = " All trials share one fit of the generator: the intervals leave out its luck."


def collect(recipe: Recipe, prepared: Prepared, run: Path, tasks: Iterable[Task], command: str) -> dict[str, Any]:
    """Score and compare all arms, and write ``results.json`` and ``results.parquet``.

    Raises:
        RunError: a task is not finished.
    """
    tasks = list(tasks)
    unfinished = [task for task in tasks if not task.is_done(run)]
    if unfinished:
        raise RunError(
            f"{len(unfinished)} tasks are not finished, the first is {unfinished[0]}.", "Run the study again."
        )
    trained = [task for task in tasks if task.kind == "classifier"]
    predictions = {part: load_predictions(run, trained, part) for part in HELD_OUT}
    fits = [
        {
            "arm": task.name,
            "trial": task.trial,
            "folder": task.folder,
            "scores": {part: _scores(predictions[part][task.name][task.trial]) for part in HELD_OUT},
        }
        for task in trained
    ]
    comparisons = compare_arms(recipe, prepared, predictions["test"])
    answer, details = answer_of(recipe, prepared, comparisons)
    results = {
        "study": _about(recipe, prepared),
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "answer": answer,
        "details": details,
        "arms": [_arm(recipe, run, trained, name) for name in recipe.arms],
        "fits": fits,
        "comparisons": [asdict(c) for c in comparisons],
        "split": prepared.split.counts(),
        "split_digest": prepared.split.digest,
        "generators": [_generator(recipe, run, tasks, task) for task in tasks if task.kind == "generator"],
        "cost": _cost(run, tasks),
    }
    runs.write_json(run / "results.json", results)
    with runs.atomic(run / "results.parquet") as temporary:
        long_table(fits).to_parquet(temporary)
    return results


def load_predictions(run: Path, trained: list[Task], part: str) -> dict[str, list[Predictions]]:
    """Predictions of each arm for one part, in the order of trials."""
    found: dict[str, list[Predictions]] = {}
    for task in sorted(trained, key=lambda task: task.trial):
        found.setdefault(task.name, []).append(Predictions.load(run / task.folder / f"{part}.parquet"))
    return found


def measures(recipe: Recipe) -> list[str]:
    """The measures that arms are compared by, the primary one first."""
    targets = recipe.study.target_classes
    each = [f"{measure}:{name}" for name in targets for measure in ("average_precision", "recall", "auc")]
    means = ["mean_average_precision", "mean_recall"] if len(targets) > 1 else []
    usual = [recipe.study.primary, "balanced_accuracy", "accuracy", "auc", *means, *each]
    return list(dict.fromkeys(usual))


def references(recipe: Recipe, prepared: Prepared, arm: str) -> dict[str, str]:
    """The arms that an arm is judged against, by role: ``none``, and the ``duplicates`` that add the same counts."""
    counts = prepared.split.part(prepared.catalog, "train").counts
    added = recipe.additions(arm, counts)
    found = {}
    for name, options in recipe.arms.items():
        matched = options.balance == "none" or recipe.additions(name, counts) == added
        if options.balance in REFERENCES and options.balance != recipe.arms[arm].balance and matched:
            found.setdefault(options.balance, name)
    return found if recipe.arms[arm].balance != "none" else {}


def compare_arms(recipe: Recipe, prepared: Prepared, predictions: dict[str, list[Predictions]]) -> list[Comparison]:
    """Every arm with each of its references, under each measure."""
    pairs = [(arm, other) for arm in recipe.arms for other in references(recipe, prepared, arm).values()]
    targets = recipe.study.target_classes
    return [found for measure in measures(recipe) for found in compare_all(predictions, pairs, measure, targets)]


def answer_of(recipe: Recipe, prepared: Prepared, comparisons: list[Comparison]) -> tuple[str, list[str]]:
    """The study's answer in one sentence, and a paragraph for each arm that adds generated images."""
    counts = prepared.split.part(prepared.catalog, "train").counts
    found = {(c.arm, c.reference): c for c in comparisons if c.measure == recipe.study.primary}
    answers, details = [], []
    for arm, options in recipe.arms.items():
        roles = references(recipe, prepared, arm)
        against = {role: found[arm, name] for role, name in roles.items() if (arm, name) in found}
        if options.balance in REFERENCES or not against:
            continue
        added = " and ".join(f"{n} generated {label}" for label, n in recipe.additions(arm, counts).items())
        change = f"Adding {added} images ({arm})"
        fixed = options.generator and recipe.generators[options.generator].refit == "study"
        details.append(verdict.answer(against, recipe.study.smallest_effect, change) + (ONE_FIT if fixed else ""))
        outcome = verdict.outcome(against, recipe.study.smallest_effect)
        answers.append(f"{change}: {outcome.value}")
    return (". ".join(answers) + "." if answers else "No arm adds generated images, so nothing is answered."), details


def long_table(fits: list[dict[str, Any]]) -> pd.DataFrame:
    """One row for each number: arm, trial, part, class (empty for all classes), measure, value."""
    rows = []
    for fit in fits:
        for part, values in fit["scores"].items():
            head = {"arm": fit["arm"], "trial": fit["trial"], "part": part}
            plain = {k: v for k, v in values.items() if not isinstance(v, dict | list)}
            rows += [{**head, "class": "", "measure": k, "value": v} for k, v in plain.items()]
            for name, numbers in values["classes"].items():
                rows += [{**head, "class": name, "measure": k, "value": v} for k, v in numbers.items()]
    return pd.DataFrame(rows).astype({"value": "float64"})


def _scores(predictions: Predictions) -> dict[str, Any]:
    return scores(predictions.labels, predictions.logits, predictions.classes)


def _about(recipe: Recipe, prepared: Prepared) -> dict[str, Any]:
    catalog = prepared.catalog
    data = {"name": catalog.name, "source": recipe.data.source, "num_images": len(catalog), "note": catalog.note}
    study = recipe.study.model_dump(mode="json")
    return {**study, "classes": catalog.classes, "budget": recipe.budget_name, "data": data}


def _arm(recipe: Recipe, run: Path, trained: list[Task], name: str) -> dict[str, Any]:
    options = recipe.arms[name]
    task = next(task for task in trained if task.name == name)
    view = runs.read_json(run / task.folder / "view.json")
    seen = sum(record["num_images"] for record in runs.read_log(run / task.folder, "epoch"))
    return {
        "name": name,
        "balance": options.balance,
        "generator": options.generator or None,
        **view,
        "images_seen": seen,
    }


def _generator(recipe: Recipe, run: Path, tasks: list[Task], task: Task) -> dict[str, Any]:
    about = runs.read_json(run / task.folder / "generator.json")
    drawn = next((t for t in tasks if t.kind == "samples" and t.needs == (task.folder,)), None)
    gallery = next((t for t in tasks if t.kind == "gallery" and t.needs[0] == task.folder), None)
    return {
        "name": task.name,
        "plugin": about["plugin"],
        "trial": task.trial,
        "folder": task.folder,
        "classes": about["classes"],
        "num_images": about["num_images"],
        "samples": drawn.folder if drawn else None,
        "gallery": f"{gallery.folder}/gallery.npz" if gallery else None,
    }


def _cost(run: Path, tasks: list[Task]) -> list[dict[str, Any]]:
    prepared = {"kind": "prepare", "name": "data", "device": "cpu", **runs.read_json(run / "prepare.json")}
    done = [{**runs.read_json(run / task.folder / "done.json"), "name": str(task)} for task in tasks]
    return [prepared, *({k: d[k] for k in ("kind", "name", "wall_seconds", "cpu_seconds", "device")} for d in done)]
