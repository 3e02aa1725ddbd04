"""How true images are that anything has generated, from folders of images."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moulage import contracts, runs
from moulage.data import generated as generated_images
from moulage.data import identity, overlap
from moulage.data.catalog import Catalog
from moulage.data.identity import Shown
from moulage.data.pixels import build
from moulage.errors import DataError, LeakError
from moulage.evaluation import fidelity
from moulage.runs import seed_of
from moulage.stages.fidelity import shortage
from moulage.stages.network import Network
from moulage.stages.stored import labels_of

NUM_NAMED = 5
"""Shared photographs that an error names."""


def score_folders(
    generated: Path,
    train: Path,
    held_out: Path,
    size: int,
    network: Mapping[str, Any],
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: runs.Progress = runs.no_progress,
) -> dict[str, Any]:
    """Score images of any generator, from folders that the source ``folder`` reads; see ``evaluation.fidelity.judge``.

    Args:
        generated: the images in question.
        train: what the generator learned from.
        held_out: real images of other lesions.
        size: pixels a side at which all are compared.
        network: options of the feature network.

    Returns the fields of ``evaluation.fidelity.Fidelity``, ``too_few`` (class -> what it lacks) and ``notes``.

    Raises:
        DataError: a folder cannot be read, an image is broken, the folders have no class in common, or images that are
            called real were generated (``data.generated``).
        LeakError: two of the folders hold the same photographs: those of training are held out, or what is held out is
            called generated.
    """
    source = contracts.source("folder")
    catalogs = [source.read(path, source.configure({})) for path in (generated, train, held_out)]
    classes = tuple(name for name in catalogs[0].classes if all(name in catalog.classes for catalog in catalogs))
    if not classes:
        raise DataError(
            f"{generated}, {train} and {held_out} have no class in common.", "Name their class folders alike."
        )
    catalogs, notes = _apart(catalogs, classes, progress)
    short = {name: shortage(catalogs[1:], name, catalogs[0].counts[name]) for name in classes}
    judged = tuple(name for name in classes if not short[name])
    measured = Network.of(network, "features")
    report: dict[str, Any] = {"too_few": {name: lack for name, lack in short.items() if lack}, "notes": notes}
    report |= fidelity.Fidelity(measured.name, {}, {}, None, True).as_dict()
    if judged:
        rng = np.random.default_rng(seed_of(seed, "fidelity"))
        sets = [_read_folder(catalog, judged, size, measured, device, progress) for catalog in catalogs]
        sets[0] = replace(sets[0], groups=None)
        report |= fidelity.judge(*sets, classes=judged, features=measured.name, rng=rng).as_dict()
    return report


def _apart(
    catalogs: list[Catalog], classes: tuple[str, ...], progress: runs.Progress
) -> tuple[list[Catalog], list[str]]:
    """Generated, training and held-out images of these classes, and what is worth knowing.

    No held-out image is a training image, of whatever class. Groups are joined over copies within a folder, and told
    apart by folder, since names are counted from one in each.
    """
    (generated, _), (train, of_train), (held_out, of_held_out) = (
        _look(catalog, called, progress) for catalog, called in zip(catalogs, ("", "training", "held-out"), strict=True)
    )
    generated, held_out = (each.of_classes(classes) for each in (generated, held_out))
    seen, notes = overlap.find(held_out, train, progress)
    notes = (*of_train, *of_held_out, *notes)
    _refuse(seen, held_out, train, "held-out images are training images, or of their lesions")
    _refuse(identity.same_bytes(generated, held_out), generated, held_out, "generated images are held-out files")
    for other, what in ((held_out, "held-out"), (train, "training")):
        known, missed = identity.shared(generated, other, progress)
        notes = (*notes, *missed)
        if number := known["image"].nunique():
            pair = f"{known['image'].iloc[0]} and {known['same_as'].iloc[0]}"
            meaning = "the generator has seen what is held out" if other is held_out else "see near_copies"
            said = f"{number:,} generated images are copies of {what} images ({pair} first): {meaning}."
            notes = (*notes, said)
    apart = []
    for place, each in (("generated", generated), ("train", train.of_classes(classes)), ("held out", held_out)):
        united, missed = identity.joined(each, progress)
        notes = (*notes, *missed)
        groups = [f"{place}:{group}" for group in united]
        apart.append(each.catalog.with_columns(group=groups))
    return apart, list(dict.fromkeys(notes))


def _look(catalog: Catalog, called: str, progress: runs.Progress) -> tuple[Shown, list[str]]:
    """What tells a folder's images apart; of those that are ``called`` something real, notes on generated ones."""
    pixels = identity.look(catalog, progress)
    notes = generated_images.refuse(catalog, pixels, called) if called else []
    return Shown.of(catalog, pixels), notes


def _refuse(pairs: pd.DataFrame, theirs: Shown, ours: Shown, what: str) -> None:
    """Raise ``LeakError`` where two folders share photographs or lesions."""
    first = pairs.drop_duplicates("image")
    if not len(first):
        return
    why = ", ".join(f"{reason} {number:,}" for reason, number in first["why"].value_counts().items())
    named = "; ".join(f"{row.image} = {row.same_as}" for row in first.head(NUM_NAMED).itertuples())
    raise LeakError(
        f"{len(first):,} {what} ({why}): {named}. The folders are {theirs.catalog.root} and {ours.catalog.root}.",
        "Split by lesion, and take copies out of one of the folders. Lesion ids count where both tables have them.",
    )


def _read_folder(
    catalog: Catalog, classes: tuple[str, ...], size: int, network: Network, device: str, progress: runs.Progress
) -> fidelity.Images:
    """Images of a folder with their features; a broken one is an error."""
    chosen = catalog.only(label=classes)
    pixels = build(chosen, (size,), "squash", runs.cache_folder(), progress=progress)
    identity.check_readable(chosen, pixels)
    array = np.asarray(pixels.array(size)[pixels.rows(chosen.images)])
    return fidelity.Images(array, network.extract(array, device), labels_of(chosen, classes), chosen.groups)
