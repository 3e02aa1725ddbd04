"""Verbs that run one plug-in: fit a generator, draw, train a classifier; and `list`."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moulage.cli.common import data_values, folder_name, names_of, options_of, print_json, print_scores
from moulage.cli.options import Data, Device, Json, Out, Seed, Settings, Source, SourceSettings
from moulage.errors import RecipeError, nearest
from moulage.screen import Screen, show_table

if TYPE_CHECKING:
    from moulage.study import Outcome


@dataclass(frozen=True)
class PluginRun:
    """Options of the verbs that run one plug-in on a data set."""

    source: Source = "phantom"
    data: Data = None
    out: Out = None
    seed: Seed = 0
    settings: Settings = None
    source_settings: SourceSettings = None
    device: Device = "auto"
    as_json: Json = False

    def values(self, verb: str) -> dict[str, Any]:
        """The part of a recipe that says which data; see ``data_values``."""
        return data_values(verb, self.source, self.data, "squash", self.seed, self.source_settings)

    def folder(self, default: str) -> Path:
        """The run folder."""
        return self.out or Path("runs") / default


def spread(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb whose parameter of a dataclass type becomes one option for each field, for Typer to see."""
    parameters: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    for parameter in inspect.signature(verb, eval_str=True).parameters.values():
        group = parameter.annotation
        if isinstance(group, type) and dataclasses.is_dataclass(group):
            groups[parameter.name] = group
            parameters += inspect.signature(group, eval_str=True).parameters.values()
        else:
            parameters.append(parameter)
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]

    @functools.wraps(verb)
    def call(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field: values.pop(field) for field in inspect.signature(group).parameters})
        verb(**values)

    call.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


@spread
def fit(
    generator: Annotated[str, typer.Argument(help="A generator plug-in; `moulage list generators` names them.")],
    classes: Annotated[str, typer.Option(help='Classes to learn, separated by commas; "a, b" in quotes is one.')],
    on: PluginRun,
    size: Annotated[int, typer.Option(min=8, max=1024, help="Side of the images in pixels.")] = 64,
    start: Annotated[
        Path | None, typer.Option(help="Weights to go on from: a generator's folder, or its weights.safetensors.")
    ] = None,
) -> None:
    """Fit a generator on the training part of a data set."""
    names = names_of(classes, _classes(on.values("fit")) if ", " in classes else ())
    options: dict[str, Any] = {"plugin": generator, "classes": names, "size": size, "options": options_of(on.settings)}
    if start:
        options["start"] = str(start.absolute())
    values = {**on.values("fit"), "generators": {generator: options}}
    values["study"]["num_trials"] = 1
    outcome = _run(values, on.folder(folder_name("fit", generator, *names)), on.device)
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
        Path | None, typer.Option(help="Folder for the images; default: one in the generator's, named after all this.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="An option of drawing of the plug-in, such as guidance=2; repeatable."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=16, help="Images drawn at once, at most; on a GPU more are faster. It changes no image.")
    ] = 16,
    interpolate: Annotated[
        int,
        typer.Option(
            min=0, help="Draw no images but a grid of --count rows, each from one seed to the next in so many steps."
        ),
    ] = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Draw images: lossless PNG with their provenance inside, and a catalog of them."""
    from moulage import contracts, runs
    from moulage.devices import pick_device
    from moulage.stages import generator as stage

    about = runs.read_json(generator / stage.FILE, "classes", "plugin")
    plug, names = contracts.generator(about["plugin"]), [label] if label else about["classes"]
    how: dict[str, Any] = {"drawing": plug.drawing(options_of(settings), "--set"), "device": str(pick_device(device))}
    kind = f"interpolation-{first_seed}-{count}-{interpolate}" if interpolate else f"samples-{first_seed}-{count}"
    folder = out or generator / "-".join([kind, *stage.words(plug.changed(how["drawing"]))])
    with Screen() as screen:
        how["progress"] = screen.progress
        if interpolate:
            grids = stage.interpolate(generator, names, first_seed, count, interpolate, folder, **how)
            print_json({"grids": list(map(str, grids))}) if as_json else print("\n".join(map(str, grids)))
            return
        counts = dict.fromkeys(names, count)
        drawn = stage.draw(generator, counts, first_seed, folder, batch_size=batch_size, **how)
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


def _classes(values: dict[str, Any]) -> tuple[str, ...]:
    """The classes of the data, whose labels are read for it."""
    from moulage.data.data_sets import read_main
    from moulage.recipe import parse

    return read_main(parse(values)).classes


def _run(values: dict[str, Any], run: Path, device: str) -> "Outcome":
    from moulage.recipe import parse
    from moulage.study import run_study

    with Screen() as screen:
        return run_study(parse(values), run, workers=1, device=device, watch=screen.watch())
