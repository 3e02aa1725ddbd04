"""The verb that says what a study can find, before and after it is run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moulage.cli.common import names_of, options_of, pairs_of, print_json
from moulage.cli.options import Data, Json, OtherSource, SourceSettings, Targets
from moulage.errors import RecipeError
from moulage.screen import show_table

if TYPE_CHECKING:
    from moulage.data.catalog import Catalog


def power(
    run: Annotated[Path | None, typer.Option(help="A finished study: its own variances.")] = None,
    images: Annotated[int | None, typer.Option(min=20, help="Images of the whole data set.")] = None,
    lesions: Annotated[str, typer.Option(help="Its lesions by class, such as AK=53,DF=20.")] = "",
    source: OtherSource = "",
    data: Data = None,
    source_settings: SourceSettings = None,
    targets: Targets = "",
    measure: Annotated[str, typer.Option(help="With --run: the measure; the study's primary if left out.")] = "",
    test: Annotated[float, typer.Option(help="Share of the images that a hold-out tests.")] = 0.2,
    folds: Annotated[int, typer.Option(min=2, max=20, help="Folds, which test every image.")] = 5,
    arms: Annotated[int, typer.Option(min=2, help="Arms of the study; their fits are pooled.")] = 5,
    family: Annotated[int, typer.Option(min=1, help="Arms with generated images; Holm corrects over them.")] = 1,
    rivals: Annotated[int, typer.Option(min=0, help="Rivals, each of which such an arm has to beat.")] = 1,
    classifier: Annotated[
        str, typer.Option(help="Without --run: finetune (a trained network) or probe (frozen features).")
    ] = "finetune",
    smallest_effect: Annotated[
        float | None, typer.Option(help="Smallest difference that matters (0.02 = 2 points).")
    ] = None,
    as_json: Json = False,
) -> None:
    """What effects a study can find, before it is run.

    From counts (--images, --lesions, or --source and --data), or from the variances of a finished study (--run).
    """
    ways = [run is not None, images is not None or bool(lesions), bool(source) or data is not None]
    if sum(ways) != 1:
        raise RecipeError(
            "Say what to plan with, in one way.",
            "Give --run FOLDER, or --images NUMBER (and --lesions AK=53,DF=20), or --source NAME --data FOLDER.",
        )
    if smallest_effect is not None and not 0 < smallest_effect < 1:
        raise RecipeError(f"The smallest effect is {smallest_effect}.", "Give a number from 0 to 1: 0.02, 2 points.")
    if run is not None:
        result = _after(run, measure, smallest_effect)
    else:
        from moulage.evaluation.power_tables import forecast

        if images is None and not source:
            raise RecipeError("The number of images is not said.", "Add --images, or --source.")
        counts = _counts(source, data, source_settings) if images is None else (images, _whole(lesions))
        result = forecast(
            *counts,
            names_of(targets),
            test=test,
            num_folds=folds,
            num_arms=arms,
            family=family,
            rivals=rivals,
            smallest_effect=smallest_effect or 0.02,
            classifier=classifier,
        )
    if as_json:
        print_json(result)
        return
    (_show_after if run is not None else _show_forecast)(result)
    print(*result["sentences"], "", *(f"- {note}" for note in result["notes"]), sep="\n")


def _after(run: Path, measure: str, smallest_effect: float | None) -> dict[str, Any]:
    from moulage.evaluation.power_tables import after
    from moulage.results import load

    results = load(run)
    study, comparisons = results.study, [asdict(comparison) for comparison in results.comparisons]
    found = after(comparisons, measure or study.primary, smallest_effect or study.smallest_effect)
    if found["primary"] == study.primary:
        said = [f"The verdict on {verdict.arm}: {verdict.needed}" for verdict in results.verdicts if verdict.needed]
        found["sentences"] = [*said, *found["sentences"]]
    return found


def _counts(source: str, data: Path | None, source_settings: list[str] | None) -> tuple[int, dict[str, int]]:
    """Images, and lesions by class, of a data set; its labels are read and no pixel."""
    from moulage import plugins

    if not source:
        raise RecipeError("The layout of the data is not named.", "Add --source; `moulage list sources` names them.")
    config = plugins.configure("sources", source, options_of(source_settings))
    catalog: Catalog = plugins.load("sources", source).read(data, config)
    table = catalog.table[["label", "group"]].drop_duplicates()
    found = table["label"].value_counts()
    return len(catalog), {name: int(found.get(name, 0)) for name in catalog.classes}


def _whole(lesions: str) -> dict[str, int]:
    found = {}
    for name, text in pairs_of("--lesions", lesions).items():
        if not text.isdecimal() or not int(text):
            raise RecipeError(f'--lesions {name}={text}: "{text}" is no whole number from 1 on.', "Write AK=53,DF=20.")
        found[name] = int(text)
    return found


def _show_forecast(result: Mapping[str, Any]) -> None:
    if result["classes"]:
        show_table("Lesions", result["classes"])
    by_design: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in result["rows"]:
        by_design.setdefault((row["design"], row["num_trials"]), []).append(row)
    each = ("average_precision:",) if len(result["classes"]) <= 4 else ()  # what fits on a screen; --json has all
    shown = []
    for (design, number), rows in by_design.items():
        line: dict[str, Any] = {"design": design, "fits": number, "test images": f"{rows[0]['num_images']:,}"}
        for row in rows:
            if ":" not in row["measure"] or row["measure"].startswith(each):
                line[_short(row["measure"])] = _unsigned(row["detectable_1x"])
        shown.append(line)
    show_table("True difference found in 80 % of studies, in points", shown)
    rows = [row for row in result["rows"] if row["measure"] == result["primary"]]
    columns = {"one comparison": "detectable_1x", '"helps"': "verdict"}
    columns |= {"2 x images": "detectable_2x", "4 x images": "detectable_4x"}
    columns |= {"found equal within": "margin"}
    shown = [
        {"design": row["design"], "fits": row["num_trials"], **{k: _unsigned(row[v]) for k, v in columns.items()}}
        for row in rows
    ]
    show_table(f"{result['primary']}: with more images", shown)


def _show_after(result: Mapping[str, Any]) -> None:
    from moulage.evaluation.measure_names import parse

    show_table("Test lesions", result["classes"])
    measure = parse(result["primary"]).measure

    def shown(row: Mapping[str, Any], pairs: Sequence[Sequence[float]], text: str) -> dict[str, str]:
        error = f"{measure.scale * row['standard_error']:.{measure.digits + 1}f}"
        head = {"arm": row["arm"], "against": row["reference"], "SE": error}
        return head | {text.format(int(number)): measure.number(value) for number, value in pairs}

    title = f"{result['primary']}: true difference found in 80 % of studies"
    title += f", in {measure.unit}" if measure.unit else ""
    fits = [
        shown(row, row["by_trials"], "{} fits") | {"fits needed": row["trials_needed"] or "no number"}
        for row in result["rows"]
    ]
    show_table(f"{title}, by fits an arm (now {result['rows'][0]['num_trials']})", fits)
    sizes = [
        shown(row, row["by_size"], "{} x")
        | {"needed": f"{row['factor_needed']:.1f} x" if row["factor_needed"] else "no"}
        for row in result["rows"]
    ]
    show_table(f"{title}, by test lesions", sizes)


def _short(name: str) -> str:
    from moulage.evaluation.measure_names import parse

    found = parse(name)
    short = found.measure.abbreviation or found.measure.named()
    return " ".join(filter(None, ["mean" * (found.form == "targets"), short, found.of]))


def _unsigned(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
