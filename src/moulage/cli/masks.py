"""``moulage masks``: learn to find lesions, and predict the masks of any images."""

from pathlib import Path
from typing import Annotated, Any

import typer

from moulage.cli.common import options_of, print_json
from moulage.cli.options import Data, Device, Json, Out, Seed, Source, SourceSettings, Test, Validation
from moulage.screen import Screen, show_table

masks = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Train a U-Net on lesion masks, or predict masks of images that have none.",
)

Settings = Annotated[
    list[str] | None, typer.Option("--set", help="An option of the segmenter, as key=value; repeatable.")
]
Decoders = Annotated[int, typer.Option("--workers", min=1, help="Processes that decode images.")]


@masks.command()
def learn(
    source: Source = "ham10000",
    data: Data = None,
    out: Out = None,
    validation: Validation = 0.1,
    test: Test = 0.2,
    seed: Seed = 0,
    settings: Settings = None,
    source_settings: SourceSettings = None,
    workers: Decoders = 1,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train on the masks of a source; Dice and Jaccard on lesions held out, by class too."""
    Screen().say(f"masks of {source}")  # libraries load now
    from moulage.masks.learn import learn_masks

    folder = out or Path("runs") / "masks"
    with Screen() as screen:
        found = learn_masks(
            source,
            data,
            options_of(source_settings),
            folder,
            settings=options_of(settings),
            validation=validation,
            test=test,
            seed=seed,
            device=device,
            num_workers=workers,
            progress=screen.progress,
            say=screen.say,
        )
    if as_json:
        print_json({"folder": str(folder), **found})
        return
    scores = found["test"]
    named = {"all": scores["all"], **scores["classes"], "same outline for all": scores["same_outline"]}
    show_table("Test lesions", [_row(name, values) for name, values in named.items()])
    print(
        f"Segmenter: {folder}\nExamples:  {folder / 'examples.png'}\n"
        f"Predict:   moulage masks predict {folder} --source SOURCE --data FOLDER"
    )


@masks.command()
def predict(
    segmenter: Annotated[Path, typer.Argument(help="A folder that `masks learn` wrote.")],
    source: Source = "isic2019",
    data: Data = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the masks; default: predicted-SOURCE/ in the segmenter's.")
    ] = None,
    source_settings: SourceSettings = None,
    workers: Decoders = 1,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Write a mask of each image as PNG, and a table of them; the same command goes on where it stopped."""
    from moulage.masks.predict import predict_masks

    folder = out or segmenter / f"predicted-{source}"
    with Screen() as screen:
        found = predict_masks(
            segmenter,
            source,
            data,
            options_of(source_settings),
            folder,
            device=device,
            num_workers=workers,
            progress=screen.progress,
            say=screen.say,
        )
    if as_json:
        print_json(found)
        return
    print(f"{found['num_images']:,} masks in {folder} ({found['num_new']:,} new), listed in {folder / 'masks.csv'}")
    print(
        f"Median area: {found['median_area_share']:.0%} of the image. Empty: {found['num_empty']:,}. "
        f"In several pieces: {found['num_in_pieces']:,}."
    )
    if found["num_seen"]:
        print(
            f"{found['num_seen']:,} of the images trained the segmenter: their masks are better than those of others."
        )


def _row(name: str, values: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"images of": name, "lesions": values["num_lesions"], "images": values["num_images"]}
    for measure in ("dice", "jaccard"):
        low, high = values[f"{measure}_interval"] or (None, None)
        row |= {measure: values[measure], f"{measure} 95 %": "-" if low is None else f"{low:.3f} to {high:.3f}"}
    return row
