"""The command line: verbs to calls. The only file that parses arguments, prints results or exits.

Results go to stdout, progress and messages to stderr. What is wrong with the user's input is one message and exit code
1. Nothing heavy is imported before a verb needs it: ``--help`` answers at once.
"""

import errno
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moulage.errors import DataError, MoulageError, RecipeError
from moulage.screen import Screen, show_table

if TYPE_CHECKING:
    from moulage.recipe import Recipe
    from moulage.study import Outcome

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Do generated images help a classifier of rare diseases? The whole experiment, with its controls.\n\n"
    "Not for clinical use.",
)

Source = Annotated[str, typer.Option(help="Layout of the data; `moulage list sources` names them.")]
Data = Annotated[Path | None, typer.Option(help="Folder or file of the data.")]
Out = Annotated[Path | None, typer.Option(help="Run folder; the same one goes on where it stopped.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes, one thread each.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Json = Annotated[bool, typer.Option("--json", help="Results as JSON on stdout.")]
Seed = Annotated[int, typer.Option(min=0, help="Every random number derives from it.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="An option of the plug-in, as key=value; repeatable.")
]
SourceSettings = Annotated[
    list[str] | None, typer.Option("--source-set", help="An option of the source, as key=value; repeatable.")
]


def main() -> None:
    """Run the command line; the entry point of the ``moulage`` script."""
    try:
        app()
    except MoulageError as error:
        _fail(str(error))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _fail(
                f"The disk is full ({error.filename or 'while writing'}).\n  Free some space; what is finished is kept."
            )
        if isinstance(error, PermissionError):
            _fail(f"No permission for {error.filename}.\n  Name another place with --out, or mend the permissions.")
        raise


@app.command()
def demo(out: Out = None, workers: Workers = 2, device: Device = "auto", as_json: Json = False) -> None:
    """Run a small study on images drawn by code, and write its report."""
    from moulage import recipe as recipes

    path = Path(__file__).parent / "demo.toml"
    _study(recipes.load(path), out or Path("runs/demo"), workers, device, as_json, "moulage demo")


@app.command()
def study(
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as studies/thesis2020.toml.")],
    data: Data = None,
    out: Out = None,
    budget: Annotated[
        str, typer.Option(help="A [budget.NAME] of the recipe; `auto` takes `cpu` where there is no GPU, `full` none.")
    ] = "auto",
    trials: Annotated[int | None, typer.Option(min=1, help="Trials, in place of the recipe's number.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the recipe, as table.key=value; repeatable.")
    ] = None,
    workers: Workers = 2,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Run a whole study by recipe, or go on with it, and write its report."""
    from moulage import recipe as recipes

    changes = _options(settings)
    if trials:
        changes["study.num_trials"] = trials
    if data:
        changes["data.path"] = str(data.absolute())
    chosen = _budget(budget, device, recipes.budgets(recipe) if recipe.is_file() else ())
    found = recipes.load(recipe, chosen, changes)
    command = shlex.join(["moulage", *_arguments()])
    _study(found, out or Path("runs") / found.study.name, workers, device, as_json, command)


@app.command()
def prepare(
    source: Source,
    data: Data = None,
    out: Out = None,
    fit: Annotated[str, typer.Option(help="How images become square: squash, crop or pad.")] = "squash",
    size: Annotated[int, typer.Option(min=8, max=1024, help="Side in pixels that is kept in the cache.")] = 64,
    validation: Annotated[float, typer.Option(help="Share of the images for validation.")] = 0.1,
    test: Annotated[float, typer.Option(help="Share of the images for the test.")] = 0.2,
    seed: Seed = 0,
    source_settings: SourceSettings = None,
    workers: Workers = 2,
    as_json: Json = False,
) -> None:
    """Read, decode, audit and split a data set; print what the audit found."""
    from moulage.data.audit import Audit

    values = _data_values("prepare", source, data, fit, seed, source_settings)
    values["split"] |= {"validation": validation, "test": test}
    values["data"]["sizes"] = [size]
    run = out or Path("runs") / f"prepare-{source}"
    prepared = _prepare_only(values, run, workers)
    report = Audit.load(run / "audit.json")
    counts = prepared.split.counts()
    if as_json:
        _print_json({"run": str(run), "digest": prepared.split.digest, "split": counts, "audit": report.rows()})
        return
    show_table("Audit", report.rows())
    rows = [
        {"class": name, **{part: f"{n[name]['images']} ({n[name]['lesions']})" for part, n in counts.items()}}
        for name in prepared.catalog.classes
    ]
    show_table("Split: images (lesions)", rows)
    if report.pairs:
        print(f"Near-duplicates to look at: {run / 'pairs.png'}")
    print(f"Split {prepared.split.digest}; everything is in {run}")


@app.command()
def fit(
    generator: Annotated[str, typer.Argument(help="A generator plug-in; `moulage list generators` names them.")],
    classes: Annotated[str, typer.Option(help="Classes to learn, separated by commas.")],
    source: Source = "phantom",
    data: Data = None,
    size: Annotated[int, typer.Option(min=8, max=1024, help="Side of the images in pixels.")] = 64,
    out: Out = None,
    seed: Seed = 0,
    settings: Settings = None,
    source_settings: SourceSettings = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Fit a generator on the training part of a data set."""
    values = _data_values("fit", source, data, "squash", seed, source_settings)
    names = [name.strip() for name in classes.split(",") if name.strip()]
    values["generators"] = {
        generator: {"plugin": generator, "classes": names, "size": size, "options": _options(settings)}
    }
    values["study"]["num_trials"] = 1
    outcome = _run(values, out or Path("runs") / f"fit-{generator}-{'-'.join(names)}", 1, device)
    folder = outcome.run / next(task.folder for task in outcome.tasks if task.kind == "generator")
    if as_json:
        _print_json({"generator": str(folder), "split": outcome.prepared.split.digest})
    else:
        print(f"Generator: {folder}\nPreviews:  {folder / 'previews'}\nDraw:      moulage sample {folder} --count 80")


@app.command()
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
    from moulage.tasks.execute import draw
    from moulage.training import pick_device

    about = runs.read_json(generator / "generator.json")
    folder = out or generator / f"samples-{first_seed}-{count}"
    with Screen() as screen:
        names = [label] if label else about["classes"]
        counts = dict.fromkeys(names, count)
        drawn = draw(generator, counts, first_seed, folder, device=str(pick_device(device)), progress=screen.progress)
    if as_json:
        _print_json({"samples": str(folder), "counts": {k: v for k, v in drawn.counts.items() if v}})
    else:
        print(f"{len(drawn)} images in {folder}")


@app.command()
def train(
    classifier: Annotated[str, typer.Argument(help="A classifier plug-in; `moulage list classifiers` names them.")],
    source: Source = "phantom",
    data: Data = None,
    samples: Annotated[Path | None, typer.Option(help="A folder of samples to add to the training part.")] = None,
    out: Out = None,
    seed: Seed = 0,
    settings: Settings = None,
    source_settings: SourceSettings = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train one classifier, with or without generated images, and score it on the test part."""
    from moulage.data.catalog import Catalog

    values = _data_values("train", source, data, "squash", seed, source_settings)
    values["study"]["num_trials"] = 1
    values["study"]["primary"] = "balanced_accuracy"
    values["classifier"] = {"plugin": classifier, "options": _options(settings)}
    arm: dict[str, Any] = {"balance": "none"}
    if samples:
        drawn = Catalog.load(samples / "catalog.parquet")
        add = {name: n for name, n in drawn.counts.items() if n}
        arm = {"balance": "synthesize", "samples": str(samples.absolute()), "add": add}
    values["arms"] = {"with_samples" if samples else "plain": arm}
    outcome = _run(values, out or Path("runs") / f"train-{classifier}", 1, device)
    [found] = outcome.results["fits"]
    _print_scores(found["scores"]["test"], str(outcome.run / found["folder"]), as_json)


@app.command()
def evaluate(
    predictions: Annotated[
        Path, typer.Argument(help="A predictions file (.parquet), or a run folder: every fit of its arms.")
    ],
    part: Annotated[str, typer.Option(help="Part to score in a run folder: test or validation.")] = "test",
    as_json: Json = False,
) -> None:
    """Score saved predictions; nothing is trained."""
    from moulage import runs
    from moulage.evaluation.predictions import Predictions
    from moulage.evaluation.scores import scores

    if predictions.is_file():
        found = Predictions.load(predictions)
        _print_scores(scores(found.labels, found.logits, found.classes), str(predictions), as_json)
        return
    if part not in ("test", "validation"):
        raise RecipeError(f'There is no part "{part}" to score.', "Use test or validation.")
    files = sorted(predictions.glob(f"classifiers/*/{part}.parquet"))
    if not files:
        raise DataError(f"{predictions} holds no predictions.", "Name a .parquet file or a folder that `study` wrote.")
    rows = []
    for file in (file for file in files if runs.is_done(file.parent)):
        found = Predictions.load(file)
        values = scores(found.labels, found.logits, found.classes)
        plain = {k: v for k, v in values.items() if not isinstance(v, dict | list)}
        rows.append({"arm": found.arm, "trial": found.trial, **plain})
    if as_json:
        _print_json(rows)
    else:
        show_table(f"Scores on the {part} part", rows)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="A run folder that `study` or `demo` wrote.")]) -> None:
    """Write the report of a finished study again."""
    from moulage.report import write

    print(write(run))


@app.command(name="list")
def list_plugins(
    kind: Annotated[str, typer.Argument(help="sources, generators, balance or classifiers; all if left out.")] = "",
    as_json: Json = False,
) -> None:
    """Name the plug-ins that are installed."""
    from moulage import plugins

    if kind and kind not in plugins.KINDS:
        from moulage.errors import nearest

        raise RecipeError(f'There is no kind of plug-in "{kind}".', nearest(kind, plugins.KINDS))
    found = {k: {n: plugins.summary(k, n) for n in plugins.names(k)} for k in ([kind] if kind else plugins.KINDS)}
    if as_json:
        _print_json(found)
        return
    for name, modules in found.items():
        if modules:
            show_table(name, [{"name": n, "what it is": text} for n, text in modules.items()])


def _study(recipe: "Recipe", run: Path, workers: int, device: str, as_json: bool, command: str) -> None:
    """Run a study, write its report, print its answer."""
    from moulage.report import write
    from moulage.study import run_study

    if not recipe.arms:
        raise RecipeError("The recipe has no arms.", 'Add at least [arms.none] with balance = "none".')
    with Screen() as screen:
        outcome = run_study(recipe, run, workers=workers, device=device, command=command, watch=screen.watch())
        screen.say("writing the report")
        page = write(run)
    if as_json:
        _print_json({"answer": outcome.results["answer"], "report": str(page), "results": str(run / "results.json")})
        return
    rows = [
        {
            "arm": c["arm"],
            "compared with": c["reference"],
            "difference (points)": _points(c["difference"]),
            "95 % interval": f"{_points(c['low'])} to {_points(c['high'])}" if c["low"] is not None else "too few fits",
        }
        for c in outcome.results["comparisons"]
        if c["measure"] == recipe.study.primary
    ]
    if rows:
        show_table(recipe.study.primary, rows)
    print(outcome.results["answer"])
    print(f"\nReport: {page}")


def _run(values: dict[str, Any], run: Path, workers: int, device: str) -> "Outcome":
    from moulage.recipe import parse
    from moulage.study import run_study

    with Screen() as screen:
        return run_study(parse(values), run, workers=workers, device=device, watch=screen.watch())


def _prepare_only(values: dict[str, Any], run: Path, workers: int) -> Any:
    from moulage import runs
    from moulage.recipe import parse
    from moulage.tasks import prepare as steps

    with Screen() as screen, runs.lock(run):
        watch = screen.watch()
        return steps.prepare(parse(values), run, num_workers=workers, progress=watch.progress, say=watch.say)


def _data_values(
    verb: str, source: str, data: Path | None, fit: str, seed: int, source_settings: list[str] | None
) -> dict[str, Any]:
    """The part of a recipe that says which data, for the verbs that take no recipe."""
    options = {"source": source, "fit": fit, "options": _options(source_settings)}
    if data:
        options["path"] = str(data.absolute())
    return {"study": {"name": verb, "seed": seed}, "data": options, "split": {"seed": seed}}


def _options(settings: list[str] | None) -> dict[str, Any]:
    """``["steps=200", "optimizer.lr=0.1"]`` as nested values; each value is TOML, else text."""
    import tomllib

    from moulage.recipe import merge

    found: dict[str, Any] = {}
    for setting in settings or []:
        key, separator, text = setting.partition("=")
        if not separator:
            raise RecipeError(f'--set takes key=value, not "{setting}".')
        try:
            value: Any = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        for part in reversed(key.strip().split(".")):
            value = {part: value}
        found = merge(found, value)
    return found


def _budget(name: str, device: str, known: tuple[str, ...]) -> str:
    """The budget to apply: ``auto`` is ``cpu`` where the recipe has one and there is no GPU to use."""
    if name == "full":
        return ""
    if name != "auto":
        return name
    if "cpu" not in known:
        return ""
    from moulage.training import pick_device

    return "cpu" if pick_device(device).type == "cpu" else ""


def _arguments() -> list[str]:
    return sys.argv[1:]


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, default=str))


def _print_scores(values: dict[str, Any], where: str, as_json: bool) -> None:
    if as_json:
        _print_json({"predictions": where, **values})
        return
    rows = [{"class": name, **numbers} for name, numbers in values["classes"].items()]
    show_table("By class", rows)
    plain = {k: v for k, v in values.items() if not isinstance(v, dict | list)}
    show_table(where, [{"measure": k, "value": v} for k, v in plain.items()])


def _fail(text: str, code: int = 1) -> None:
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True)
    console.print("error: ", style="bold red", end="", markup=False, highlight=False)
    console.print(text, markup=False, highlight=False)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
