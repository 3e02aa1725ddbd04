"""Turns what the stages left into scores, comparisons and an answer; from saved predictions alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from moulage import contracts, openings, registration, results, runs
from moulage.arm import Design, roles
from moulage.conclusions import best_rival, conclude, headline
from moulage.data import data_sets
from moulage.data.split import Split
from moulage.errors import RunError
from moulage.evaluation.predictions import Predictions
from moulage.evaluation.scores import scores_of
from moulage.recipe import Recipe
from moulage.results import FidelityRun, GeneratorRun, Results, SelectionRun
from moulage.results.record import checked
from moulage.stages import fidelity, gallery, selection
from moulage.stages.classifier import Classifier
from moulage.stages.data import Prepared
from moulage.stages.fidelity import Fidelity
from moulage.stages.gallery import Gallery
from moulage.stages.generator import Generator
from moulage.stages.plan import of_kind
from moulage.stages.predicting import VIEW
from moulage.stages.samples import Samples
from moulage.stages.selection import Selection
from moulage.stages.stage import Stage
from moulage.stages.witness import HELD_OUT

RANDOM = {
    "holdout": "Between trials vary: the generators' weights and the seeds that are drawn from, which training images "
    "are copied, and the classifiers' initial weights, order and augmentation. The parts are the same.",
    "folds": "Between trials vary: the parts, the generators' weights and the seeds that are drawn from, which "
    "training images are copied, and the classifiers' initial weights, order and augmentation.",
}


def collect(recipe: Recipe, prepared: Prepared, run: Path, stages: Sequence[Stage], command: str) -> Results:
    """Score and compare all arms, and write ``results.json`` and ``results.parquet``.

    The best rival is picked on the validation part before the test part is read.

    Raises:
        RunError: a stage is not finished.
    """
    unfinished = [stage for stage in stages if not stage.is_done(run)]
    if unfinished:
        raise RunError(
            f"{len(unfinished)} tasks are not finished, the first is {unfinished[0]}.", "Run the study again."
        )
    trained, split = of_kind(stages, Classifier), prepared.split(0)
    predictions = {"validation": load_predictions(run, trained, "validation")}
    rival = best_rival(recipe, roles(recipe), predictions["validation"])
    predictions["test"] = load_predictions(run, trained, "test")
    fits = [_fit(stage, {part: predictions[part][stage.name][stage.trial] for part in HELD_OUT}) for stage in trained]
    selections = [_selection(run, stages, stage) for stage in of_kind(stages, Selection)]
    counts = prepared.part(0, "train").counts
    design = Design(recipe, counts, rival.arm if rival else "", kept_of_arms(selections))
    found = conclude(design, predictions["test"], prepared.catalog.table)
    declared, date = registration.current(run), openings.now()
    if declared and date < declared["date"]:
        raise RunError(
            f"It is {date}, and the study was registered on {declared['date']}: no result comes before its question.",
            "Set the clock of this machine right, and run the study again.",
        )
    study = results.Results(
        study=_study(recipe, prepared, run),
        command=command,
        date=date,
        answer=headline(found["verdicts"]),
        details=too_few(selections, {name: design.additions(name) for name in recipe.arms}),
        registration=checked(results.Registration, declared, run / openings.FILE) if declared else None,
        best_rival=rival,
        trials=_trials(recipe),
        arms=[_arm(run, trained, name, design) for name in recipe.arms],
        fits=fits,
        **found,
        split=_sizes(split),
        split_digest=split.digest,
        generators=[made for stage in of_kind(stages, Generator) for made in _generators(run, stages, stage)],
        selections=selections,
        fidelity=[_fidelity(run, stage) for stage in of_kind(stages, Fidelity)],
        cost=_cost(run, stages),
    )
    study.save(run)
    with runs.atomic(run / "results.parquet") as temporary:
        long_table(fits).to_parquet(temporary)
    return study


def load_predictions(run: Path, trained: Sequence[Classifier], part: str) -> dict[str, list[Predictions]]:
    """Predictions of each arm for one part, in the order of trials."""
    found: dict[str, list[Predictions]] = {}
    for stage in sorted(trained, key=lambda stage: stage.trial):
        found.setdefault(stage.name, []).append(Predictions.load(run / stage.folder / f"{part}.parquet"))
    return found


def long_table(fits: Sequence[results.Fit]) -> pd.DataFrame:
    """One row for each number: arm, trial, part, class (empty for all classes), measure, value."""
    rows: list[dict[str, Any]] = []
    for fit in fits:
        for part, values in fit.scores.items():
            head = {"arm": fit.arm, "trial": fit.trial, "part": part}
            plain = values.model_dump(exclude={"classes", "confusion"})
            rows += [{**head, "class": "", "measure": key, "value": value} for key, value in plain.items()]
            for name, numbers in values.classes.items():
                of_class = numbers.model_dump().items()
                rows += [{**head, "class": name, "measure": key, "value": value} for key, value in of_class]
    return pd.DataFrame(rows).astype({"value": "float64"})


def _fit(stage: Classifier, predicted: dict[str, Predictions]) -> results.Fit:
    found = {part: results.Scores(**scores_of(p)) for part, p in predicted.items()}
    return results.Fit(arm=stage.name, trial=stage.trial, folder=stage.folder, scores=found)


def _study(recipe: Recipe, prepared: Prepared, run: Path) -> results.Study:
    catalog = prepared.catalog
    about: dict[str, Any] = {"name": catalog.name, "source": recipe.data.source, "num_images": len(catalog)}
    data = results.Data(**about, note=catalog.note, data_sets=[results.DataSet(**row) for row in data_sets.load(run)])
    return results.Study(**recipe.study.model_dump(), classes=catalog.classes, budget=recipe.budget_name, data=data)


def _sizes(split: Split) -> dict[str, dict[str, results.Count]]:
    counts = split.counts.items()
    return {part: {label: results.Count(**size) for label, size in of.items()} for part, of in counts}


def _trials(recipe: Recipe) -> results.Trials:
    folds = recipe.split.scheme == "folds"
    return results.Trials(
        scheme="folds" if folds else "holdout",
        num_folds=recipe.split.num_folds if folds else 1,
        num_repeats=recipe.split.num_repeats if folds else 1,
        num_trials=recipe.num_trials,
        random=RANDOM["folds" if folds else "holdout"],
    )


def _arm(run: Path, trained: Sequence[Classifier], name: str, design: Design) -> results.Arm:
    options, own = design.recipe.arms[name], [stage for stage in trained if stage.name == name]
    views = [runs.read_json(run / stage.folder / VIEW, "strength") for stage in own]
    about = {
        "name": name,
        "role": design.roles[name],
        "balance": options.balance,
        "treatment": options.treatment,
        "use": design.arms[name].use.words,
        "generator": options.generator or None,
        "selection": options.selection or None,
        "curve": options.curve,
        "series": options.series,
        "dose": options.dose,
        "images_seen": sum(epoch.get("num_images", 0) for epoch in runs.read_log(run / own[0].folder, "epoch")),
        "strength": [view["strength"] for view in views],
    }
    return checked(results.Arm, {**views[0], **about}, run / own[0].folder / VIEW)


def _generators(run: Path, stages: Sequence[Stage], stage: Generator) -> list[GeneratorRun]:
    """A fit with each way in which it is drawn from; its first samples stand for those of further trials."""
    first: dict[str, Samples] = {}
    for drawn in of_kind(stages, Samples):
        if drawn.generator == stage:
            first.setdefault(drawn.name, drawn)
    galleries = {shown.samples.folder: shown for shown in of_kind(stages, Gallery)}
    found = [(drawn, galleries.get(drawn.folder)) for drawn in first.values()]
    return [_generator(run, stage, *each) for each in found or [(None, None)]]


def _generator(run: Path, stage: Generator, drawn: Samples | None, shown: Gallery | None) -> GeneratorRun:
    plug = contracts.generator(stage.plugin)
    return GeneratorRun(
        name=drawn.name if drawn else stage.name,
        generator=stage.name,
        drawing=plug.changed(drawn.drawing) if drawn else {},
        edit=plug.edit(drawn.drawing) if drawn else "",
        plugin=stage.plugin,
        trial=stage.trial,
        folder=stage.folder,
        classes=list(stage.classes),
        num_images=runs.read_json(run / stage.folder / "generator.json", "num_images")["num_images"],
        samples=drawn.folder if drawn else None,
        gallery=f"{shown.folder}/{gallery.FILE}" if shown else None,
    )


def _fidelity(run: Path, stage: Fidelity) -> FidelityRun:
    about = {"name": stage.name, "trial": stage.trial, "folder": stage.folder}
    about["closest"] = f"{stage.folder}/{fidelity.CLOSEST}"
    path = run / stage.folder / fidelity.FILE
    with runs.reading(path):
        return FidelityRun(**about, **runs.read_json(path))


def _selection(run: Path, stages: Sequence[Stage], stage: Selection) -> SelectionRun:
    """What a selection did in one trial, and for which arms."""
    path = run / stage.folder / selection.FILE
    with runs.reading(path):
        return SelectionRun(
            name=stage.name,
            trial=stage.trial,
            folder=stage.folder,
            arms=[each.name for each in of_kind(stages, Classifier) if each.selection == stage],
            pictures=f"{stage.folder}/{selection.DROPPED}",
            **runs.read_json(path),
        )


def kept_of_arms(selections: Sequence[SelectionRun]) -> dict[str, dict[str, tuple[int, int]]]:
    """Arm -> class -> fewest and most images that a selection left it over the trials, where they were too few."""
    found: dict[str, dict[str, list[int]]] = {}
    short = {
        (arm, label) for one in selections for arm in one.arms for label, n in one.want.items() if one.kept[label] < n
    }
    for record in selections:
        for arm in record.arms:
            for label, wanted in record.want.items():
                if (arm, label) in short:
                    found.setdefault(arm, {}).setdefault(label, []).append(min(wanted, record.kept[label]))
    return {arm: {label: (min(n), max(n)) for label, n in of.items()} for arm, of in found.items()}


def too_few(selections: Sequence[SelectionRun], additions: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A sentence for each selection and class of which fewer images were kept than its arms wanted.

    ``additions``: arm -> class -> images, of which arms that want no more than were kept are not told.
    """
    found: dict[tuple[tuple[str, ...], str, str], list[tuple[int, int]]] = {}
    for record in selections:
        for label, wanted in record.want.items():
            found.setdefault((tuple(record.arms), record.name, label), []).append((record.kept[label], wanted))
    sentences: list[str] = []
    for (arms, name, label), counts in found.items():
        short = [(kept, wanted) for kept, wanted in counts if kept < wanted]
        if short:
            kept, wanted = min(short, key=lambda pair: pair[0] / pair[1])
            times = f" (the fewest of {len(short)} such trials)" if len(short) > 1 else ""
            told = [arm for arm in arms if additions[arm].get(label, 0) > kept] or arms
            sentences.append(
                f"{', '.join(told)}: {wanted} images of {label} were wanted, and the selection {name} kept "
                f"{kept}{times}. The arm added what was kept, and saw as many images in training as all others."
            )
    return sentences


def _cost(run: Path, stages: Sequence[Stage]) -> list[results.Cost]:
    kept = ("kind", "wall_seconds", "cpu_seconds", "device")
    with runs.reading(run / "prepare.json"):
        found = [results.Cost(kind="prepare", name="data", device="cpu", **runs.read_json(run / "prepare.json"))]
    for stage in stages:
        path = run / stage.folder / "done.json"
        done = runs.read_json(path, *kept)
        found.append(checked(results.Cost, {"name": str(stage), **{key: done[key] for key in kept}}, path))
    return found
