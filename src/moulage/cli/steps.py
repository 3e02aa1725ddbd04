"""Verbs that do one step of the road: prepare data, fit a generator, draw, train a classifier; and `list`."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moulage.cli.common import (
    Data,
    Device,
    Json,
    Out,
    PluginRun,
    Seed,
    Source,
    SourceSettings,
    Workers,
    data_values,
    names_of,
    options_of,
    print_json,
    print_scores,
    spread,
)
from moulage.errors import RecipeError, nearest
from moulage.screen import Screen, show_table

if TYPE_CHECKING:
    from moulage.stages.data import Prepared
    from moulage.study import Outcome


def prepare(
    recipe: Annotated[
        Path | None, typer.Argument(help="A recipe, for its data and split; budgets are not applied.")
    ] = None,
    source: Source = "",
    data: Data = None,
    out: Out = None,
    fit: Annotated[str, typer.Option(help="How images become square: squash, crop or pad.")] = "squash",
    size: Annotated[int, typer.Option(min=8, max=1024, help="Side in pixels that is kept in the cache.")] = 64,
    validation: Annotated[float, typer.Option(help="Share of the images for validation.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of the images for the test.")] = 0.2,
    seed: Seed = 0,
    source_settings: SourceSettings = None,
    step: Annotated[
        list[str] | None,
        typer.Option(help="Pre-processing in place of the recipe's: hair, vignette ...; repeatable, in this order."),
    ] = None,
    preview: Annotated[
        int, typer.Option(min=0, max=200, help="Draw a sheet of so many images before and after each step.")
    ] = 0,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the recipe, as table.key=value; repeatable.")
    ] = None,
    workers: Workers = 2,
    as_json: Json = False,
) -> None:
    """Read, decode, audit and split data; print what the audit found."""
    from moulage import preview as previews
    from moulage import recipe as recipes
    from moulage import runs
    from moulage.stages import data as stage

    if (recipe is None) == (not source):
        raise RecipeError("Name a recipe or --source, one of the two.", "`moulage list sources` names the sources.")
    changes = options_of(settings)
    if step:
        changes |= {"data.steps": [{"plugin": name} for name in step]}
    if recipe:
        changes |= {"data.path": str(data.absolute())} if data else {}
        chosen = recipes.load(recipe, changes=changes)
    else:
        values = data_values("prepare", source, data, fit, seed, source_settings)
        values["split"] |= {"validation": validation, "test": test}
        values["data"]["sizes"] = [size]
        chosen = recipes.parse(values, changes=changes)
    if preview and not chosen.data.steps:
        raise RecipeError("There is nothing to preview: no pre-processing is asked for.", "Add --step NAME.")
    run = out or Path("runs") / (chosen.study.name if recipe else f"prepare-{source}")
    with Screen() as screen, runs.lock(run):
        watch = screen.watch()
        prepared = stage.prepare(chosen, run, num_workers=workers, progress=watch.progress, say=watch.say)
    sheet = previews.preview(chosen, prepared, run, preview, seed) if preview else None
    _show_prepared(prepared, run, previews.changes(chosen, prepared), sheet, as_json)


def _show_prepared(
    prepared: "Prepared", run: Path, changed: list[dict[str, Any]], sheet: Path | None, as_json: bool
) -> None:
    """Audit, data sets, split and pre-processing of a prepared run, as JSON or tables."""
    from moulage.data import data_sets
    from moulage.data.audit import Audit

    split, report, several = prepared.split(0), Audit.load(run / "audit.json"), data_sets.load(run)
    counts = split.counts
    if as_json:
        found = {"run": str(run), "digest": split.digest, "split": counts, "audit": report.rows()}
        more = {"data_sets": several, "steps": changed, "preview": sheet and str(sheet)}
        print_json(found | {name: value for name, value in more.items() if value})
        return
    show_table("Audit", report.rows())
    if several:
        show_table("Data sets: images", [_data_set(row, counts) for row in several])
    rows = [
        {"class": name, **{part: f"{n[name]['images']} ({n[name]['lesions']})" for part, n in counts.items()}}
        for name in prepared.catalog.classes
    ]
    show_table("Split: images (lesions)", rows)
    if changed:
        show_table("Pre-processing", changed)
    if sheet:
        print(f"Before and after: {sheet}")
    if report.pairs:
        print(f"Near-duplicates to look at: {run / 'pairs.png'}")
    print(f"Split {split.digest}; everything is in {run}")


@spread
def fit(
    generator: Annotated[str, typer.Argument(help="A generator plug-in; `moulage list generators` names them.")],
    classes: Annotated[str, typer.Option(help="Classes to learn, separated by commas.")],
    on: PluginRun,
    size: Annotated[int, typer.Option(min=8, max=1024, help="Side of the images in pixels.")] = 64,
) -> None:
    """Fit a generator on the training part of a data set."""
    names = names_of(classes)
    options = {"plugin": generator, "classes": names, "size": size, "options": options_of(on.settings)}
    values = {**on.values("fit"), "generators": {generator: options}}
    values["study"]["num_trials"] = 1
    outcome = _run(values, on.folder(f"fit-{generator}-{'-'.join(names)}"), on.device)
    folder = outcome.run / outcome.stages[0].folder  # what others need comes first
    if on.as_json:
        print_json({"generator": str(folder), "split": outcome.prepared.split(0).digest})
    else:
        print(f"Generator: {folder}\nPreviews:  {folder / 'previews'}\nDraw:      moulage sample {folder} --count 80")


def sample(
    generator: Annotated[Path, typer.Argument(help="A generator folder that `fit` or `study` wrote.")],
    count: Annotated[int, typer.Option(min=1, help="Images of each class.")] = 80,
    label: Annotated[str, typer.Option("--class", help="One class; all that it learned if left out.")] = "",
    first_seed: Annotated[int, typer.Option(min=0, help="Images come from this seed and those after it.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the images; default: samples/ in the generator's.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Draw images: lossless PNG with their provenance inside, and a catalog of them."""
    from moulage import runs
    from moulage.devices import pick_device
    from moulage.stages.generator import draw

    about = runs.read_json(generator / "generator.json")
    folder = out or generator / f"samples-{first_seed}-{count}"
    with Screen() as screen:
        names = [label] if label else about["classes"]
        counts = dict.fromkeys(names, count)
        drawn = draw(generator, counts, first_seed, folder, device=str(pick_device(device)), progress=screen.progress)
    if as_json:
        print_json({"samples": str(folder), "counts": {k: v for k, v in drawn.counts.items() if v}})
    else:
        print(f"{len(drawn)} images in {folder}")


@spread
def train(
    classifier: Annotated[str, typer.Argument(help="A classifier plug-in; `moulage list classifiers` names them.")],
    on: PluginRun,
    samples: Annotated[Path | None, typer.Option(help="A folder of samples to add to the training part.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(help="What it reads of the patient as well: age, sex or site; repeatable.")
    ] = None,
) -> None:
    """Train one classifier, with or without generated images, and score it on the test part."""
    from moulage.data.catalog import Catalog

    values = {**on.values("train"), "classifier": {"plugin": classifier, "options": options_of(on.settings)}}
    values["classifier"]["metadata"] = metadata or []
    values["study"] |= {"num_trials": 1, "primary": "balanced_accuracy"}
    arm: dict[str, Any] = {"balance": "none"}
    if samples:
        drawn = Catalog.load(samples / "catalog.parquet")
        add = {name: n for name, n in drawn.counts.items() if n}
        arm = {"balance": "synthesize", "samples": str(samples.absolute()), "add": add}
    values["arms"] = {"with_samples" if samples else "plain": arm}
    outcome = _run(values, on.folder(f"train-{classifier}"), on.device)
    assert outcome.results is not None
    [found] = outcome.results.fits
    print_scores(found.scores["test"].model_dump(), str(outcome.run / found.folder), on.as_json)


def list_plugins(
    kind: Annotated[
        str, typer.Argument(help="sources, generators, selection, balance or classifiers; all if left out.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Name the plug-ins that are installed."""
    from moulage import plugins

    if kind and kind not in plugins.KINDS:
        raise RecipeError(f'There is no kind of plug-in "{kind}".', nearest(kind, plugins.KINDS))
    found = {k: {n: plugins.summary(k, n) for n in plugins.names(k)} for k in ([kind] if kind else plugins.KINDS)}
    if as_json:
        print_json(found)
        return
    for name, modules in found.items():
        if modules:
            show_table(name, [{"name": n, "what it is": text} for n, text in modules.items()])


def _run(values: dict[str, Any], run: Path, device: str) -> "Outcome":
    from moulage.recipe import parse
    from moulage.study import run_study

    with Screen() as screen:
        return run_study(parse(values), run, workers=1, device=device, watch=screen.watch())


def _data_set(row: dict[str, Any], parts: Iterable[str]) -> dict[str, Any]:
    """One data set as a row of a table."""
    about = {"data set": row["name"], "source": row["source"], "read": row["num_read"]}
    return {**about, "set aside": row["num_set_aside"], **{part: row["parts"].get(part, 0) for part in parts}}
