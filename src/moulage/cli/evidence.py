"""Verbs that turn predictions into numbers and words; they train nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from moulage.cli.common import (
    difference,
    interval,
    names_of,
    options_of,
    p_value,
    pairs_of,
    plain,
    print_json,
    print_scores,
)
from moulage.cli.options import Device, Json, Measures, OtherSource, SmallestEffect, SourceSettings, Targets
from moulage.errors import DataError, RecipeError, nearest
from moulage.screen import Screen, show_table


def evaluate(
    predictions: Annotated[
        Path, typer.Argument(help="A predictions file (.parquet), or a run folder: every fit of its arms.")
    ],
    part: Annotated[str, typer.Option(help="Part to score in a run folder: test or validation.")] = "test",
    data: Annotated[Path | None, typer.Option(help="Other data to score the run's classifiers on.")] = None,
    source: OtherSource = "",
    source_settings: SourceSettings = None,
    class_map: Annotated[
        str, typer.Option(help="Their classes as the run's, such as akiec=AK,bcc=BCC; `x=` leaves x out.")
    ] = "",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score saved predictions; or a run's classifiers on another data set (--data, --source)."""
    if data is not None or source:
        _evaluate_on(predictions, data, source, source_settings, class_map, device, as_json)
        return
    from moulage import runs
    from moulage.evaluation.predictions import Predictions
    from moulage.evaluation.scores import scores_of

    if predictions.is_file():
        found = Predictions.load(predictions)
        print_scores(scores_of(found), str(predictions), as_json)
        return
    if part not in ("test", "validation"):
        raise RecipeError(f'There is no part "{part}" to score.', "Use test or validation.")
    files = sorted(predictions.glob(f"classifiers/*/{part}.parquet"))
    if not files:
        raise DataError(f"{predictions} holds no predictions.", "Name a .parquet file or a folder that `study` wrote.")
    fits = [Predictions.load(file) for file in files if runs.is_done(file.parent)]
    if part == "test" and not (predictions / "results.json").exists():
        said = "The test part of an unfinished study is open now: changes of its question or its data come after that."
        typer.echo(said, err=True)
    rows = [{"arm": f.arm, "trial": f.trial, **plain(scores_of(f))} for f in fits]
    if as_json:
        print_json(rows)
    else:
        show_table(f"Scores on the {part} part", rows)


def _evaluate_on(
    run: Path, data: Path | None, source: str, settings: list[str] | None, class_map: str, device: str, as_json: bool
) -> None:
    from moulage.finished.external import evaluate_on

    if not source:
        raise RecipeError("The layout of the other data is not named.", "Add --source; `moulage list sources`.")
    if not run.is_dir():
        raise RecipeError(f"{run} is no run folder.", "Other data are scored by the classifiers of a finished study.")
    classes, options = pairs_of("--class-map", class_map), options_of(settings)
    with Screen() as screen:
        found = evaluate_on(
            run, source, data, options, classes, device=device, progress=screen.progress, say=screen.say
        )
    if as_json:
        print_json(found)
        return
    rows = [{"arm": fit["arm"], "trial": fit["trial"], **plain(fit["scores"])} for fit in found["fits"]]
    show_table(f"Scores on {found['data']['name']}: {found['num_images']:,} images", rows)
    if found["comparisons"]:
        rows = [{"arm": c["arm"], "compared with": c["reference"], **_difference(c)} for c in found["comparisons"]]
        show_table(found["measure"], rows)
    for note in found["notes"]:
        print(f"- {note}")
    print(f"\nEverything is in {found['folder']}")


def compare(
    models: Annotated[list[str], typer.Argument(help="Predictions: FILE, or NAME=FILE,FILE2. CSV, TSV or Parquet.")],
    reference: Annotated[str, typer.Option(help="Model to compare with; the first if left out.")] = "",
    measure: Measures = None,
    targets: Targets = "",
    smallest_effect: SmallestEffect = 0.02,
    resamples: Annotated[
        int | None,
        typer.Option(
            min=0, help="Lesion bootstrap for measures without a closed form; 0: lesion jackknife; else as suits them."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the tables as CSV.")] = None,
    as_json: Json = False,
) -> None:
    """Compare predictions of any models, from anywhere.

    Columns: image, label, prob_<class> or logit_<class> for every class; group (or lesion), trial, model and fold where
    they apply. docs/compare.md says more.
    """
    from moulage import runs
    from moulage.evaluation.compare import FEWEST_RESAMPLES
    from moulage.evaluation.model_comparison import compare_models
    from moulage.evaluation.prediction_files import read

    if out:
        runs.claim(out)
    if resamples and resamples < FEWEST_RESAMPLES:
        hint = "A variance of so few is noise: 0 takes the lesion jackknife."
        raise RecipeError(f"--resamples is {resamples}; at least {FEWEST_RESAMPLES} are needed.", hint)
    with Screen() as screen:
        found = read(models)
        for name, fits in found.fits.items():
            screen.say(f"{name}: {len(fits)} {'fit' if len(fits) == 1 else 'fits'}")
        result = compare_models(
            found.fits,
            reference=reference,
            measures=measure or (),
            targets=names_of(targets),
            smallest_effect=smallest_effect,
            num_resamples=resamples,
        )
    result["notes"] = [*found.notes, *result["notes"]]
    if out:
        _write_tables(out, result)
    if as_json:
        print_json(result)
    else:
        _print_comparison(result, out)


def ensemble(
    runs: Annotated[list[Path], typer.Argument(help="Folders that `study` wrote, or of single classifiers in them.")],
    out: Annotated[Path, typer.Option(help="Folder for the ensembles' predictions.")],
    arms: Annotated[str, typer.Option(help="Arms whose fits are members, separated by commas; else all.")] = "",
    method: Annotated[
        list[str] | None, typer.Option(help="mean, weighted, greedy or stacking; repeatable. Else all four.")
    ] = None,
    by: Annotated[
        str, typer.Option(help="trial: one ensemble of the arms in each trial; split: one of all fits on a split.")
    ] = "trial",
    average: Annotated[str, typer.Option(help="What is averaged: probabilities or logits.")] = "probabilities",
    measure: Measures = None,
    targets: Targets = "",
    smallest_effect: SmallestEffect = 0.02,
    as_json: Json = False,
) -> None:
    """Combine a study's classifiers; weights are fitted on the validation part, never on the test part."""
    from moulage.finished.ensemble import METHODS, ensemble_runs

    _one_of("--by", by, ("trial", "split"))
    _one_of("--average", average, ("probabilities", "logits"))
    result = ensemble_runs(
        runs,
        out,
        arms=names_of(arms),
        methods=method or METHODS,
        by=cast("Any", by),
        average=cast("Any", average),
        measures=measure or (),
        targets=names_of(targets),
        smallest_effect=smallest_effect,
    )
    if as_json:
        print_json(result)
        return
    rows = [
        {
            "ensemble": made["method"],
            "fit": made["trial"],
            "balanced accuracy, validation": f"{100 * made['scores']['validation']['balanced_accuracy']:.1f}",
            "test": f"{100 * made['scores']['test']['balanced_accuracy']:.1f}",
            "AUC, test": f"{100 * made['scores']['test']['auc']:.1f}",
            "of": ", ".join(f"{name} {weight:.2f}" for name, weight in made["weights"].items() if weight >= 0.005),
        }
        for made in result["ensembles"]
    ]
    show_table("Ensembles and the best single classifier, chosen on the validation part", rows)
    for note in dict.fromkeys(note for made in result["ensembles"] for note in made["notes"]):
        print(f"- {note}")
    _print_comparison(result["comparison"], None)
    print(f"\nPredictions, for `moulage compare` and `moulage evaluate`: {out}/METHOD-FIT/test.parquet")


def unknown(
    run: Annotated[Path, typer.Argument(help="Folder of a finished study whose recipe has data.unknown.")],
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """How well a study's classifiers recognise images of classes that they never learned."""
    from moulage.finished.unknown import score_unknown

    with Screen() as screen:
        found = score_unknown(run, device=device, progress=screen.progress, say=screen.say)
    if as_json:
        print_json(found)
        return
    rows = [
        {
            "arm": fit["arm"],
            "trial": fit["trial"],
            "score": row["score"],
            "AUROC": f"{100 * row['auroc']:.1f}",
            "95 % interval": f"{100 * row['low']:.1f} to {100 * row['high']:.1f}",
            "known images doubted where 95 % are found": f"{100 * row['false_positives']:.1f} %",
        }
        for fit in found["fits"]
        for row in fit["detections"]
    ]
    of = ", ".join(f"{name} ({count:,} images)" for name, count in found["classes"].items())
    show_table(f"Unknown: {of}, beside {found['num_known']:,} test images", rows)
    print(f"Intervals: over lesions, the classifier taken as fixed. Scores of each image: {found['folder']}")


def _one_of(option: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise RecipeError(f'{option} is "{value}".', nearest(value, valid))


def _print_comparison(result: dict[str, Any], out: Path | None) -> None:
    of = result["num_lesions_by_class"]
    print(
        f"{result['num_images']:,} images, {result['num_lesions']:,} lesions "
        f"({', '.join(f'{name} {count}' for name, count in of.items())}), "
        f"{result['num_trials']} {'fit' if result['num_trials'] == 1 else 'fits'} a model"
    )
    several = len(result["models"]) > 2
    shown = [_compared(values, several) for values in result["comparisons"]]
    show_table(f"Compared with {result['reference']}", shown)
    if result["fixed_pairs"]:
        shown = [
            {**{key: row[key] for key in ("model", "test", "measure")}, **_difference(row), "p": p_value(row["p"])}
            for row in result["fixed_pairs"]
        ]
        show_table(f"For {result['fixed_pairs'][0]['holds_for']}: nothing here is said of the methods", shown)
    for sentence in result["sentences"]:
        print(sentence)
    if result["notes"]:
        print()
    for note in result["notes"]:
        print(f"- {note}")
    if out:
        print(f"\nTables: {out}")


def _compared(values: Mapping[str, Any], several: bool) -> dict[str, Any]:
    measure = values["measure"]
    row = {"measure": measure, "model": values["arm"], "score": _score(measure, values["estimate_arm"])}
    row |= {"reference": _score(measure, values["estimate_reference"]), **_difference(values)}
    if values["scheme"] == "folds":
        row["cautious"] = interval(measure, values["cautious_low"], values["cautious_high"])
    row["p"] = p_value(values["p_value"])
    return {**row, **({"p, Holm": p_value(values["p_adjusted"])} if several else {}), "reading": values["reading"]}


def _difference(row: Mapping[str, Any]) -> dict[str, str]:
    measure = row["measure"]
    between = interval(measure, row["low"], row["high"])
    return {"difference": difference(measure, row["difference"]), "95 % interval": between}


def _score(measure: str, value: float) -> str:
    from moulage.evaluation.measure_names import parse

    return parse(measure).measure.number(value)


def _write_tables(folder: Path, result: Mapping[str, Any]) -> None:
    """``comparisons.csv`` and, with one fit a model, ``fixed_pairs.csv``."""
    import pandas as pd

    from moulage import runs

    flat = []
    for values in result["comparisons"]:
        row = {name: value for name, value in values.items() if name != "num_lesions_by_class"}
        row |= {"classes": " ".join(values["classes"]), "notes": " ".join(values["notes"])}
        flat.append(row | {f"lesions_{name}": count for name, count in values["num_lesions_by_class"].items()})
    for name, rows in (("comparisons", flat), ("fixed_pairs", result["fixed_pairs"])):
        if rows:
            with runs.atomic(folder / f"{name}.csv") as temporary:
                pd.DataFrame(rows).to_csv(temporary, index=False)
