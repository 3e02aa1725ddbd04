"""The verb that says what generated images are worth in real photographs, as finished studies found it."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moulage.cli.common import print_json
from moulage.cli.options import Json
from moulage.errors import RunError
from moulage.screen import show_table

if TYPE_CHECKING:
    from moulage.results import Results


def worth(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders that `study` wrote, or one of the folders of several levels.")
    ],
    as_json: Json = False,
) -> None:
    """How many real photographs of new lesions would give what copies and generated images give.

    Of finished studies whose recipe has a curve over dose.
    """
    from moulage.evaluation.worth import of_largest_doses

    found = {str(run): results for folder in runs for run, results in _results(folder).items()}
    for run, results in found.items():
        if not results.worths:
            raise RunError(
                f"{run}: the study has no curve over dose, so no worth can be said.",
                "Add [curves.NAME] to its recipe, with generators; docs/curves.md has one to copy.",
            )
    if as_json:
        print_json([{"run": run, **asdict(row)} for run, results in found.items() for row in results.worths])
        return
    rows = [
        {
            **({"run": run} if len(found) > 1 else {}),
            "arm": row.arm,
            "images added": f"{row.num_images:,}",
            "worth": row.number,
            "95 % interval": row.interval,
            "answer": row.answer,
        }
        for run, results in found.items()
        for row in results.worths
    ]
    show_table("Worth in real photographs of new lesions", rows)
    for run, results in found.items():
        for row in of_largest_doses(results.worths):
            print(f"{run}: {row.statement}" if len(found) > 1 else row.statement)


def _results(folder: Path) -> dict[Path, "Results"]:
    """What a study found; where the folder is that of several levels, what each of them found."""
    from moulage.results import FILE, load

    levels = sorted(path.parent for path in folder.glob(f"*/{FILE}"))
    return {run: load(run) for run in ([folder] if (folder / FILE).exists() or not levels else levels)}
