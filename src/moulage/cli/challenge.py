"""``moulage challenge``: predictions in the form of the ISIC-2019 challenge, and its measures."""

from pathlib import Path
from typing import Annotated

import typer

from moulage.cli.common import print_json
from moulage.cli.options import Json
from moulage.errors import RecipeError, nearest
from moulage.screen import show_table

challenge = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Write a submission to the ISIC-2019 challenge, or score one by its measures.",
)


@challenge.command()
def write(
    predictions: Annotated[Path, typer.Argument(help="A predictions file, such as classifiers/NAME/test.parquet.")],
    out: Annotated[Path, typer.Option(help="The CSV file to write.")],
    unknown: Annotated[
        str, typer.Option(help="Fill UNK by max_softmax, entropy or energy; needs validation.parquet beside the file.")
    ] = "",
    doubted: Annotated[
        float, typer.Option(min=0.0001, max=0.5, help="Share of known images that UNK may doubt.")
    ] = 0.05,
) -> None:
    """Predictions as a submission."""
    from moulage.evaluation import challenge as form
    from moulage.evaluation.predictions import Predictions
    from moulage.evaluation.unknown import OF_LOGITS

    if unknown and unknown not in OF_LOGITS:
        raise RecipeError(f'--unknown is "{unknown}".', nearest(unknown, OF_LOGITS))
    if out.exists() and not form.is_submission(out):
        raise RecipeError(f"{out} is there already, and is no submission.", "Name another file with --out.")
    found = Predictions.load(predictions)
    usual = Predictions.load(predictions.with_name("validation.parquet")) if unknown else None
    table = form.table_of(found, usual, unknown, doubted)
    form.write(table, out)
    absent = [name for name in form.CLASSES if name not in found.classes]
    print(f"{out}: {len(table):,} images" + (f"; 0 for {', '.join(absent)}, never learned" if absent else ""))


@challenge.command()
def score(
    submission: Annotated[Path, typer.Argument(help="A submission, as CSV.")],
    truth: Annotated[Path, typer.Option(help="The challenge's ground truth, as CSV.")],
    as_json: Json = False,
) -> None:
    """Balanced accuracy; and by class AUC, average precision, sensitivity and specificity at 0.5."""
    from moulage.evaluation import challenge as form

    found = form.score(form.read(submission), form.read(truth, truth=True))
    if as_json:
        print_json(found)
        return
    show_table("By class", [{"class": name, **values} for name, values in found["classes"].items()])
    rows = [{"measure": "balanced accuracy", "value": found["balanced_accuracy"]}]
    rows += [{"measure": f"mean {key.replace('_', ' ')}", "value": value} for key, value in found["mean"].items()]
    show_table(f"{found['num_images']:,} images", rows)
