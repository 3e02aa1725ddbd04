"""The verb `fidelity`: how true images are that anything has generated, from folders of images."""

from pathlib import Path
from typing import Annotated, Any

import typer

from moulage.cli.common import print_json
from moulage.cli.options import Device, Json, Seed
from moulage.screen import Screen, show_table


def fidelity(
    generated: Annotated[Path, typer.Argument(help="Generated images: a sub-folder for each class, or such a ZIP.")],
    train: Annotated[Path, typer.Option(help="The real images that the generator learned from, laid out alike.")],
    real: Annotated[Path, typer.Option(help="Real images of other lesions, laid out alike.")],
    size: Annotated[int, typer.Option(min=8, max=1024, help="All images are compared at this side in pixels.")] = 64,
    network: Annotated[
        str, typer.Option(help='Feature network: "inception", or a timm network with its weights from the hub.')
    ] = "",
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Score generated images beside real images and copies of training images, and count near-copies."""
    from moulage.devices import pick_device
    from moulage.image_folders import score_folders

    options: dict[str, Any] = {}
    if network:
        hub = {"network": "backbone", "backbone": {"name": network, "weights": "hub", "input_size": None}}
        options = {"network": "inception"} if network == "inception" else hub
    with Screen() as screen:
        chosen = str(pick_device(device))
        found = score_folders(generated, train, real, size, options, seed=seed, device=chosen, progress=screen.progress)
    if as_json:
        print_json(found)
        return
    for note in found["notes"]:
        print(f"- {note}")
    for name, lack in found["too_few"].items():
        print(f"{name} is not judged: {lack}.")
    for name, scores in found["classes"].items():
        columns = ("kid", "frechet", "precision", "recall", "density", "coverage", "accuracy", "near_copies")
        rows = [{"images": of, **{key: scores[of][key] for key in columns}} for of in ("generated", "floor", "copies")]
        show_table(f"{name}: {scores['num_generated']} images against {scores['num_held_out']} real ones", rows)
    print(f"Features: {found['features']}. floor: other real images; copies: training images. See docs/fidelity.md.")
