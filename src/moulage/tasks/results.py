"""Turns what the tasks left into scores, comparisons and an answer; from saved predictions alone."""

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from moulage import runs
from moulage.errors import RunError
from moulage.evaluation.predictions import Predictions
from moulage.evaluation.scores import scores
from moulage.recipe import Recipe
from moulage.tasks import data_sets, registration
from moulage.tasks.evidence import Design, best_rival, evidence, headline
from moulage.tasks.plan import Task, roles
from moulage.tasks.prepare import Prepared

HELD_OUT = ("validation", "test")
RANDOM = {
    "holdout": "Between trials vary: the generators' weights and the seeds that are drawn from, which training images "
    "are copied, and the classifiers' initial weights, order and augmentation. The parts are the same.",
    "folds": "Between trials vary: the parts, the generators' weights and the seeds that are drawn from, which "
    "training images are copied, and the classifiers' initial weights, order and augmentation.",
}


def collect(recipe: Recipe, prepared: Prepared, run: Path, tasks: Iterable[Task], command: str) -> dict[str, Any]:
    """Score and compare all arms, and write ``results.json`` and ``results.parquet``.

    The best rival is picked on the validation part before the test part is read.

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
    known, split = roles(recipe), prepared.split(0)
    predictions = {"validation": load_predictions(run, trained, "validation")}
    rival = best_rival(recipe, known, predictions["validation"])
    predictions["test"] = load_predictions(run, trained, "test")
    fits = [
        {
            "arm": task.name,
            "trial": task.trial,
            "folder": task.folder,
            "scores": {part: _scores(predictions[part][task.name][task.trial]) for part in HELD_OUT},
        }
        for task in trained
    ]
    counts = split.part(prepared.catalog, "train").counts
    selections = _selections(run, tasks)
    design = Design(recipe, known, counts, rival["arm"] if rival else "", kept_of_arms(selections))
    found = evidence(design, predictions["test"], prepared.catalog.table)
    results = {
        "study": _about(recipe, prepared, run),
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "answer": headline(found["verdicts"]),
        "details": too_few(selections),
        "registration": _registration(run),
        "best_rival": rival,
        "trials": _trials(recipe),
        "arms": [_arm(run, trained, name, recipe, known[name]) for name in recipe.arms],
        "fits": fits,
        **found,
        "split": split.counts,
        "split_digest": split.digest,
        "generators": [_generator(run, tasks, task) for task in tasks if task.kind == "generator"],
        "selections": selections,
        "fidelity": [_fidelity(run, task) for task in tasks if task.kind == "fidelity"],
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


def _about(recipe: Recipe, prepared: Prepared, run: Path) -> dict[str, Any]:
    catalog = prepared.catalog
    data = {"name": catalog.name, "source": recipe.data.source, "num_images": len(catalog), "note": catalog.note}
    data["data_sets"] = data_sets.load(run)
    study = recipe.study.model_dump(mode="json")
    return {**study, "classes": catalog.classes, "budget": recipe.budget_name, "data": data}


def _registration(run: Path) -> dict[str, Any] | None:
    path = run / registration.FILE
    return runs.read_json(path) if path.exists() else None


def _trials(recipe: Recipe) -> dict[str, Any]:
    folds = recipe.split.scheme == "folds"
    return {
        "scheme": "folds" if folds else "holdout",
        "num_folds": recipe.split.num_folds if folds else 1,
        "num_repeats": recipe.split.num_repeats if folds else 1,
        "num_trials": recipe.num_trials,
        "random": RANDOM["folds" if folds else "holdout"],
    }


def _arm(run: Path, trained: list[Task], name: str, recipe: Recipe, role: str) -> dict[str, Any]:
    options, own = recipe.arms[name], [task for task in trained if task.name == name]
    views = [runs.read_json(run / task.folder / "view.json") for task in own]
    seen = sum(record["num_images"] for record in runs.read_log(run / own[0].folder, "epoch"))
    strengths = [view.get("logit_adjustment") for view in views]
    return {
        **views[0],
        "name": name,
        "role": role,
        "balance": options.balance,
        "treatment": options.treatment,
        "generator": options.generator or None,
        "selection": options.selection or None,
        "images_seen": seen,
        "logit_adjustment": strengths if any(tau is not None for tau in strengths) else None,
    }


def _generator(run: Path, tasks: list[Task], task: Task) -> dict[str, Any]:
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


def _fidelity(run: Path, task: Task) -> dict[str, Any]:
    about = {"name": task.name, "trial": task.trial, "folder": task.folder, "closest": f"{task.folder}/closest.npz"}
    return {**about, **runs.read_json(run / task.folder / "fidelity.json")}


def _selections(run: Path, tasks: list[Task]) -> list[dict[str, Any]]:
    """What each selection did in each trial, and for which arms."""
    return [
        {
            "name": task.name,
            "trial": task.trial,
            "folder": task.folder,
            "arms": [other.name for other in tasks if other.kind == "classifier" and task.folder in other.needs],
            "pictures": f"{task.folder}/dropped.npz",
            **runs.read_json(run / task.folder / "selection.json"),
        }
        for task in tasks
        if task.kind == "selection"
    ]


def kept_of_arms(selections: list[dict[str, Any]]) -> dict[str, dict[str, tuple[int, int]]]:
    """Arm -> class -> fewest and most images that a selection left it over the trials, where they were too few."""
    found: dict[str, dict[str, list[int]]] = {}
    short = {
        (arm, label) for r in selections for arm in r["arms"] for label, n in r["want"].items() if r["kept"][label] < n
    }
    for record in selections:
        for arm in record["arms"]:
            for label, wanted in record["want"].items():
                if (arm, label) in short:
                    found.setdefault(arm, {}).setdefault(label, []).append(min(wanted, record["kept"][label]))
    return {arm: {label: (min(n), max(n)) for label, n in of.items()} for arm, of in found.items()}


def too_few(selections: list[dict[str, Any]]) -> list[str]:
    """A sentence for each selection and class of which fewer images were kept than its arms wanted."""
    found: dict[tuple[str, str, str], list[tuple[int, int]]] = {}
    for record in selections:
        for label, wanted in record["want"].items():
            key = (", ".join(record["arms"]), record["name"], label)
            found.setdefault(key, []).append((record["kept"][label], wanted))
    sentences = []
    for (arms, name, label), counts in found.items():
        short = [(kept, wanted) for kept, wanted in counts if kept < wanted]
        if short:
            kept, wanted = min(short, key=lambda pair: pair[0] / pair[1])
            times = f" (the fewest of {len(short)} such trials)" if len(short) > 1 else ""
            sentences.append(
                f"{arms}: {wanted} images of {label} were wanted, and the selection {name} kept {kept}{times}. The "
                "arm added what was kept, and saw as many images in training as all others."
            )
    return sentences


def _cost(run: Path, tasks: list[Task]) -> list[dict[str, Any]]:
    prepared = {"kind": "prepare", "name": "data", "device": "cpu", **runs.read_json(run / "prepare.json")}
    done = [{**runs.read_json(run / task.folder / "done.json"), "name": str(task)} for task in tasks]
    return [prepared, *({k: d[k] for k in ("kind", "name", "wall_seconds", "cpu_seconds", "device")} for d in done)]
