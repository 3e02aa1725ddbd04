"""The verb that prepares data: read, decode, audit, split."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moulage.cli.common import data_values, options_of, print_json
from moulage.cli.options import Data, Json, Out, RecipeSettings, Seed, Source, SourceSettings, Test, Validation, Workers
from moulage.errors import RecipeError
from moulage.screen import Screen, show_table

if TYPE_CHECKING:
    from moulage.stages.data import Prepared


def prepare(
    recipe: Annotated[
        Path | None, typer.Argument(help="A recipe, for its data and split; budgets are not applied.")
    ] = None,
    source: Source = "",
    data: Data = None,
    out: Out = None,
    fit: Annotated[str, typer.Option(help="How images become square: squash, crop or pad.")] = "squash",
    size: Annotated[int, typer.Option(min=8, max=1024, help="Side in pixels that is kept in the cache.")] = 64,
    validation: Validation = 0.1,
    test: Test = 0.2,
    seed: Seed = 0,
    source_settings: SourceSettings = None,
    step: Annotated[
        list[str] | None,
        typer.Option(help="Pre-processing in place of the recipe's: hair, vignette ...; repeatable, in this order."),
    ] = None,
    preview: Annotated[
        int, typer.Option(min=0, max=200, help="Draw a sheet of so many images before and after each step.")
    ] = 0,
    settings: RecipeSettings = None,
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
    runs.claim(run)
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


def _data_set(row: dict[str, Any], parts: Iterable[str]) -> dict[str, Any]:
    """One data set as a row of a table."""
    about = {"data set": row["name"], "source": row["source"], "read": row["num_read"]}
    return {**about, "set aside": row["num_set_aside"], **{part: row["parts"].get(part, 0) for part in parts}}
