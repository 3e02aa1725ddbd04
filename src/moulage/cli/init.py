"""The verb that writes the first recipe for a data set."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moulage.cli.common import names_of, options_of, print_json
from moulage.cli.options import Device, Json, SmallestEffect, Source, SourceSettings, Targets, Workers
from moulage.errors import RecipeError
from moulage.screen import Screen, show_table

if TYPE_CHECKING:
    from moulage.proposal import Proposal


def init(
    data: Annotated[Path, typer.Argument(help="Folder or file of the data.")],
    hours: Annotated[float, typer.Option(help="Hours that the study may take on this machine.")],
    out: Annotated[Path | None, typer.Option(help="The recipe to write; NAME.toml here if left out.")] = None,
    source: Source = "",
    source_settings: SourceSettings = None,
    targets: Targets = "",
    smallest_effect: SmallestEffect = 0.02,
    workers: Workers = 2,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Look at data, time this machine, and write a commented recipe that fits into some hours.

    It says which effect the study can find and which it cannot. Nothing is trained, and no file is overwritten.
    """
    path = out or Path(f"{data.absolute().name.removesuffix('.zip').removesuffix('.npz') or 'study'}.toml")
    if path.exists():
        raise RecipeError(f"{path} exists, and is not overwritten.", "Name another file with --out.")
    screen = Screen()
    screen.say("starting")  # libraries load now
    from moulage.proposal import propose

    found = propose(
        data,
        hours,
        source=source,
        options=options_of(source_settings),
        targets=names_of(targets),
        smallest_effect=smallest_effect,
        workers=workers,
        device=device,
        file=path.name,
        say=screen.say,
    )
    if found.text:
        _write(path, found.text)
    if as_json:
        print_json(_plain(found, path))
        return
    _show(found, path)


def _write(path: Path, text: str) -> None:
    """A new file; one that appeared meanwhile is left alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise RecipeError(f"{path} exists, and is not overwritten.", "Name another file with --out.") from None


def _show(found: "Proposal", path: Path) -> None:
    rows = [{"class": each.name, "images": each.images, "lesions": each.lesions} for each in found.there.classes]
    targets = found.choice.targets if found.choice else ()
    show_table("What is there", [row | {"": "target" if row["class"] in targets else ""} for row in rows])
    if found.paces:
        shown = [{"timed": name, "CPU-milliseconds": f"{1000 * seconds:.2f}"} for name, seconds in found.paces.items()]
        show_table("This machine", shown)
    print(*(f"- {line}" for line in found.findings), sep="\n")
    if not found.text:
        print("\nNo recipe was written.")
        return
    print(*(f"- {line}" for line in (*found.costs, *found.finds)), sep="\n")
    print(f"\nThe recipe: {path}\nRun it:     moulage study {path}")


def _plain(found: "Proposal", path: Path) -> dict[str, Any]:
    """Everything that was found, as plain values."""
    there, taken, reach = found.there, found.taken, found.reach
    about: dict[str, Any] = {"recipe": str(path) if found.text else None, "source": there.source}
    about["classes"] = {each.name: {"images": each.images, "lesions": each.lesions} for each in there.classes}
    about |= {"images": len(there), "without_lesion": there.num_without_lesion, "masks": there.num_masks}
    about |= {"copies": there.num_copies, "side": there.side, "paces": found.paces}
    if found.choice:
        about |= {"targets": found.choice.targets, "scarcity": found.choice.scarcity}
        about |= {"too_few": found.choice.too_few, "left_out": found.choice.left_out}
    if taken and reach:
        about |= {"hours": taken.cost.hours, "core_seconds": taken.cost.core_seconds}
        about |= {"detectable": reach.seen, "helps": reach.helps, "lesions_needed": reach.lesions_needed}
    return about | {"sentences": [*found.findings, *found.costs, *found.finds]}
