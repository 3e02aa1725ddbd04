"""The options that several verbs have, declared once."""

from pathlib import Path
from typing import Annotated

import typer

from moulage.errors import DataError


def _is_there(device: str) -> str:
    """A device that is named is looked for before anything else is done; nothing heavy is imported for the usual."""
    if device not in ("auto", "cpu"):
        from moulage.devices import pick_device

        pick_device(device)
    return device


def _exists(data: Path | None) -> Path | None:
    if data is not None and not data.exists():
        raise DataError(f"{data} does not exist.", "--data names a folder or a file of the data.")
    return data


Source = Annotated[str, typer.Option(help="Layout of the data; `moulage list sources` names them.")]
OtherSource = Annotated[str, typer.Option(help="Layout of these data; `moulage list sources` names them.")]
Data = Annotated[Path | None, typer.Option(help="Folder or file of the data.", callback=_exists)]
Out = Annotated[Path | None, typer.Option(help="Run folder; the same one goes on where it stopped.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes, one thread each.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.", callback=_is_there)]
Json = Annotated[bool, typer.Option("--json", help="Results as JSON on stdout.")]
Seed = Annotated[int, typer.Option(min=0, help="Every random number derives from it.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="An option of the plug-in, as key=value; repeatable.")
]
SourceSettings = Annotated[
    list[str] | None, typer.Option("--source-set", help="An option of the source, as key=value; repeatable.")
]
Targets = Annotated[str, typer.Option(help="Target classes, separated by commas.")]
SmallestEffect = Annotated[
    float, typer.Option(min=1e-9, max=0.5, help="Smallest difference that matters (0.02 = 2 points).")
]
RecipeSettings = Annotated[
    list[str] | None, typer.Option("--set", help="A setting of the recipe, as table.key=value; repeatable.")
]
Measures = Annotated[
    list[str] | None, typer.Option(help="balanced_accuracy, mean_average_precision, recall:AK ...; repeatable.")
]
Validation = Annotated[float, typer.Option(help="Share of the images for validation.")]
Test = Annotated[float, typer.Option(help="Share of the images for the test.")]
