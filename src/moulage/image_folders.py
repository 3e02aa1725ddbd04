"""How true images are that anything has generated, from folders of images."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from moulage import contracts, runs
from moulage.data.catalog import Catalog
from moulage.data.pixels import build
from moulage.errors import DataError
from moulage.evaluation import fidelity
from moulage.runs import seed_of
from moulage.stages.fidelity import shortage
from moulage.stages.network import Network
from moulage.stages.stored import labels_of


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

    Raises:
        DataError: a folder cannot be read, an image is broken, or the folders have no class in common.
        LeakError: a lesion, or the same file, is in both real folders.
    """
    source = contracts.source("folder")
    catalogs = [source.read(path, source.configure({})) for path in (generated, train, held_out)]
    classes = tuple(name for name in catalogs[0].classes if all(name in catalog.classes for catalog in catalogs))
    if not classes:
        raise DataError(
            f"{generated}, {train} and {held_out} have no class in common.", "Name their class folders alike."
        )
    catalogs = [catalog.only(label=classes) for catalog in catalogs]
    short = {name: shortage(catalogs[1:], name, catalogs[0].counts[name]) for name in classes}
    judged = tuple(name for name in classes if not short[name])
    measured = Network.of(network, "features")
    report: dict[str, Any] = {"too_few": {name: lack for name, lack in short.items() if lack}}
    report |= fidelity.Fidelity(measured.name, {}, {}, None, True).as_dict()
    if judged:
        rng = np.random.default_rng(seed_of(seed, "fidelity"))
        sets = [_read_folder(catalog, judged, size, measured, device, progress) for catalog in catalogs]
        sets[0] = replace(sets[0], groups=None)
        report |= fidelity.judge(*sets, classes=judged, features=measured.name, rng=rng).as_dict()
    return report


def _read_folder(
    catalog: Catalog, classes: tuple[str, ...], size: int, network: Network, device: str, progress: runs.Progress
) -> fidelity.Images:
    """Images of a folder with their features; a broken one is an error, and an image without lesion stands alone."""
    chosen = catalog.only(label=classes)
    pixels = build(chosen, (size,), "squash", runs.cache_folder(), progress=progress)
    broken = pixels.scan[pixels.scan["status"] != "ok"]
    if len(broken):
        first = broken.iloc[0]
        raise DataError(f"{catalog.root}: {first['image']} cannot be read: {first['message']}.", "Take it out.")
    array = np.asarray(pixels.array(size)[pixels.rows(chosen.images)])
    return fidelity.Images(array, network.extract(array, device), labels_of(chosen, classes), chosen.groups)
