"""Verbs that run whole studies and write their reports."""

import shlex
import sys
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moulage.cli.common import difference, interval, options_of, print_json
from moulage.cli.options import Data, Device, Json, Out, RecipeSettings, Workers
from moulage.errors import RecipeError
from moulage.screen import Screen, show_table

if TYPE_CHECKING:
    from moulage.recipe import Recipe
    from moulage.results import Results

DEMO = Path(__file__).parents[1] / "demo.toml"


def demo(out: Out = None, workers: Workers = 2, device: Device = "auto", as_json: Json = False) -> None:
    """Run a small study on images drawn by code, and write its report."""
    from moulage import recipe as recipes

    _study(recipes.load(DEMO), out or Path("runs/demo"), workers, device, as_json, "moulage demo")


def study(
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as studies/thesis2020.toml.")],
    data: Data = None,
    out: Out = None,
    budget: Annotated[
        str, typer.Option(help="A [budget.NAME] of the recipe; `auto` takes `cpu` where there is no GPU, `full` none.")
    ] = "auto",
    trials: Annotated[int | None, typer.Option(min=1, help="Trials, in place of the recipe's number.")] = None,
    settings: RecipeSettings = None,
    workers: Workers = 2,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Run a whole study by recipe, or go on with it, and write its report."""
    from moulage import recipe as recipes
    from moulage import runs

    changes = options_of(settings)
    if trials:
        changes["study.num_trials"] = trials
    if data:
        changes["data.path"] = str(data.absolute())
    values = recipes.read(recipe)
    chosen = _budget(budget, device, recipes.budgets(values, recipe.name))
    found = recipes.parse(values, chosen, changes, recipe.name)
    command = shlex.join(["moulage", *(runs.shown(argument, Path.cwd()) for argument in sys.argv[1:])])
    _study(found, out or Path("runs") / found.study.name, workers, device, as_json, command)


def report(run: Annotated[Path, typer.Argument(help="A run folder that `study` or `demo` wrote.")]) -> None:
    """Write the report of a finished study again."""
    from moulage.report import write

    print(write(run))


def explain(
    run: Annotated[Path, typer.Argument(help="Folder of a finished study.")],
    arm: Annotated[str, typer.Option(help="Arm to explain; the first with generated images if left out.")] = "",
    against: Annotated[
        str, typer.Option(help="Arm to compare it with; if left out the one that adds nothing, else the best rival.")
    ] = "",
    trial: Annotated[int, typer.Option(min=0, help="Trial whose classifiers are shown.")] = 0,
    images: Annotated[int, typer.Option(min=1, max=24, help="Test images of each kind, at most.")] = 6,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Show what a study's classifiers looked at, and which test images an arm changed; a section of the report."""
    from moulage.finished.explain import explain as explain_run
    from moulage.report import write

    with Screen() as screen:
        found = explain_run(
            run,
            arm=arm,
            against=against,
            trial=trial,
            num_images=images,
            device=device,
            progress=screen.progress,
            say=screen.say,
        )
        screen.say("writing the report")
        page = write(run)
    if as_json:
        print_json(found)
        return
    if found["no_maps"]:
        print(f"No maps: {found['no_maps']}")
    rows = [
        {
            "classifier": name,
            "shuffled": part,
            "rank correlation": "-" if of["mean"] is None else f"{round(of['mean'], 2) + 0.0:.2f}",
            "maps": of["num_maps"],
        }
        for name, parts in found["checks"].items()
        for part, of in parts.items()
        if not found["no_maps"]
    ]
    if rows:
        show_table(
            "Maps beside those of networks with shuffled weights (1: they say nothing of what was learned)", rows
        )
    for group in found["groups"]:
        print(f"{group['title']}: {', '.join(group['images'])}")
    print(f"\nReport: {page}#explanations")


def _study(recipe: "Recipe", run: Path, workers: int, device: str, as_json: bool, command: str) -> None:
    """Run a study, write its report, print its answer; of each level of scarcity in a folder of its own."""
    Screen().say(f"{recipe.study.name}: {recipe.study.question or 'a study without a question'}")  # libraries load now
    from moulage import runs
    from moulage.report import write
    from moulage.study import run_study

    if not recipe.arms:
        raise RecipeError("The recipe has no arms.", 'Add at least [arms.none] with balance = "none".')
    levels = recipe.levels()
    if len(levels) > 1:
        runs.claim(run)
    found: dict[Path, tuple[Results, Path]] = {}  # run folder -> results, report
    for name, level in levels.items():
        with Screen() as screen:
            if name:
                screen.say(f"level {len(found) + 1} of {len(levels)}: {name}")
            folder, watch = run / name, screen.watch()
            outcome = run_study(
                level, folder, workers=workers, device=device, command=command, watch=watch, siblings=list(found)
            )
            screen.say("writing the report")
            page = write(folder)
        assert outcome.results is not None
        found[folder] = outcome.results, page
    seen = {arm.images_seen for of, _ in found.values() for arm in of.arms}
    if len(seen) > 1:
        numbers = ", ".join(f"{number:,}" for number in sorted(seen))
        print(
            f"The levels saw different numbers of images ({numbers}): some arms add more than is held back.",
            file=sys.stderr,
        )
    if as_json:
        said = [
            {"answer": of.answer, "report": str(page), "results": str(folder / "results.json")}
            for folder, (of, page) in found.items()
        ]
        print_json(said if len(levels) > 1 else said[0])
        return
    for folder, (of, page) in found.items():
        if len(levels) > 1:
            print(f"\n{folder.name}")
        _show(of)
        print(f"\n{of.answer}\nReport: {page}")


def _show(found: "Results") -> None:
    """Print the comparisons under the primary measure, the verdicts, how the controls did, and worths."""
    from moulage.evaluation.compare import MIN_TRIALS
    from moulage.evaluation.measure_names import parse
    from moulage.evaluation.worth import of_largest_doses

    primary, lacking = found.study.primary, "too few fits" if found.trials.num_trials < MIN_TRIALS else "none"
    unit = parse(primary).measure.unit
    rows = [
        {
            "arm": c.arm,
            "compared with": c.reference,
            f"difference ({unit})".replace(" ()", ""): difference(primary, c.difference),
            "95 % interval": lacking if c.low is None else interval(primary, c.low, c.high),
        }
        for c in found.comparisons
        if c.measure == primary
    ]
    if rows:
        show_table(primary, rows)
    for verdict in found.verdicts:
        print("\n".join(verdict.text), end="\n\n")
    for control in found.controls:
        print(control.text)
    for row in of_largest_doses(found.worths):
        print(row.statement)


def run_stage(
    run: Annotated[Path, typer.Argument(help="A run folder that `study` has begun.")],
    stage: Annotated[str, typer.Argument(help="A stage by its folder, such as classifiers/none-0-1a2b3c4d5e6f.")],
    device: Device = "auto",
) -> None:
    """Run one stage of a study by hand, on any machine that sees the run folder; what it needs must be done."""
    from moulage.errors import RunError
    from moulage.stages.plan import find
    from moulage.stages.stage import execute

    found = find(run, stage)
    for need in found.needs:
        if not need.is_done(run):
            raise RunError(f"{found.folder} needs {need.folder}, which is not done.", f"Run that first: {need.folder}.")
    execute(run, found, device)
    print(f"{found}: {run / found.folder}")


def _budget(name: str, device: str, known: Container[str]) -> str:
    """The budget to apply: ``auto`` is ``cpu`` where the recipe has one and there is no GPU to use."""
    if name == "full":
        return ""
    if name != "auto":
        return name
    if "cpu" not in known:
        return ""
    from moulage.devices import pick_device

    return "cpu" if pick_device(device).type == "cpu" else ""
