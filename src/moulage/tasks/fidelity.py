"""How true a generator's images are: on the validation part while it trains, on the test part when it is done."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from moulage import plugins, runs
from moulage.data.catalog import Catalog
from moulage.data.pixels import build
from moulage.errors import DataError
from moulage.evaluation import fidelity
from moulage.evaluation.set_distances import squared_mmd
from moulage.recipe import Recipe
from moulage.tasks.arms import feature_network
from moulage.tasks.plan import Task, seed_of
from moulage.tasks.prepare import Prepared

FIRST_SEED = 1_000_000_000
"""Images that are scored come from the seeds from here on: other ones than those that arms add."""
FIRST_JUDGED_SEED = 2_000_000_000
"""Images by which a fit chooses among its weights come from the seeds from here on."""
MIN_JUDGED = 20
"""Validation images of a class without which a fit is not judged by that class."""
MOST_REAL = 2000
"""Real images of a class and part that are compared; of more, some are drawn at random."""
SHOWN_PAIRS = 12
"""Closest pairs of each class that are kept for the report."""


class ValidationJudge:
    """Kernel distance (KID) of drawn to validation images, class by class: what a fit chooses its weights by.

    Args:
        prepared: the data.
        task: a generator task whose settings have ``judge``.
        device: where the feature network runs.
    """

    def __init__(self, prepared: Prepared, task: Task, device: str) -> None:
        self.device, self.num_images = device, task.settings["judge"]["num_images"]
        self.network, self.classes = task.settings["judge"]["features"], tuple(task.settings["classes"])
        validation = prepared.split(task.trial).part(prepared.catalog, "validation")
        self.chosen_on = validation.only(label=self.classes)
        self.pixels = prepared.pixels.array(task.settings["size"])[prepared.pixels.rows(self.chosen_on.images)]
        self._features: np.ndarray | None = None

    def __call__(self, sample: Callable[[int, np.ndarray], np.ndarray]) -> dict[str, float]:
        """The distance of each class; NaN for a class with too few validation images."""
        labels, found = self.chosen_on.table["label"].to_numpy(object), dict.fromkeys(self.classes, float("nan"))
        for k, name in enumerate(self.classes):
            rows = np.flatnonzero(labels == name)
            if len(rows) < MIN_JUDGED:
                continue
            if self._features is None:
                self._features = _extract(self.network, self.pixels, self.device)
            drawn = sample(k, np.arange(FIRST_JUDGED_SEED, FIRST_JUDGED_SEED + self.num_images))
            found[name] = squared_mmd(self._features[rows], _extract(self.network, drawn, self.device)).value
        return found


def judge_of(prepared: Prepared, task: Task, device: str) -> ValidationJudge | None:
    """The judge of a generator task; None where its recipe wants none or no class has enough validation images."""
    if not task.settings.get("judge"):
        return None
    judge = ValidationJudge(prepared, task, device)
    counts = judge.chosen_on.counts
    return judge if any(counts[name] >= MIN_JUDGED for name in judge.classes) else None


def score_generator(
    recipe: Recipe, prepared: Prepared, run: Path, task: Task, device: str, progress: runs.Progress
) -> None:
    """Draw images of a finished generator, score them against the test part, and keep the closest pairs.

    Writes ``fidelity.json`` (see ``evaluation.fidelity``) and ``closest.npz``. Of a class with too few real images
    nothing is drawn: it is recorded with what it lacks.
    """
    settings, [folder] = task.settings, task.needs
    about = runs.read_json(run / folder / "generator.json")
    size, num, split = about["size"], settings["num_images"], prepared.split(task.trial)
    parts = [split.part(prepared.catalog, part).only(label=about["classes"]) for part in ("train", "test")]
    short = {name: _shortage(parts, name, num) for name in about["classes"]}
    classes = tuple(name for name, lack in short.items() if not lack)
    report: dict[str, Any] = {"num_drawn": num, "size": size, "too_few": {n: lack for n, lack in short.items() if lack}}
    report |= fidelity.Fidelity(settings["network"], {}, {}, None, True).as_dict()
    pairs: list[dict[str, Any]] = []
    if classes:
        rng = np.random.default_rng(seed_of(settings["seed"], "fidelity"))
        generator = plugins.load("generators", about["plugin"]).Generator.load(run / folder, device=device)
        drawn = []
        for done, name in enumerate(classes, 1):
            drawn.append(generator.sample(about["classes"].index(name), np.arange(FIRST_SEED, FIRST_SEED + num)))
            progress(done, 2 * len(classes), f"drawn {name}")
        pixels, labels = np.concatenate(drawn), np.repeat(np.arange(len(classes)), num)
        generated = fidelity.Images(pixels, _extract(settings["features"], pixels, device), labels)
        real = [_real(prepared, part, classes, size, settings["features"], device, rng) for part in parts]

        def scored(done: int, total: int, note: str) -> None:
            progress(total + done, 2 * total, f"scored {note}")

        found = fidelity.judge(
            generated, *real, classes=classes, features=settings["network"], rng=rng, progress=scored
        )
        report |= found.as_dict()
        pairs = _closest(found, generated, real[0], classes)
    columns = {
        name: np.array([pair[name] for pair in pairs])
        for name in ("generated", "nearest", "label", "distance", "is_copy")
    }
    with runs.atomic(run / task.folder / "closest.npz") as temporary, temporary.open("wb") as stream:
        np.savez(stream, **columns)  # pyright: ignore[reportArgumentType]
    runs.write_json(run / task.folder / "fidelity.json", report)


def score_folders(
    generated: Path,
    train: Path,
    held_out: Path,
    size: int,
    network: dict[str, Any],
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
    source = plugins.load("sources", "folder")
    catalogs = [source.read(path, source.Config()) for path in (generated, train, held_out)]
    classes = tuple(name for name in catalogs[0].classes if all(name in catalog.classes for catalog in catalogs))
    if not classes:
        raise DataError(
            f"{generated}, {train} and {held_out} have no class in common.", "Name their class folders alike."
        )
    catalogs = [catalog.only(label=classes) for catalog in catalogs]
    short = {name: _shortage(catalogs[1:], name, catalogs[0].counts[name]) for name in classes}
    judged = tuple(name for name in classes if not short[name])
    options = feature_network(network, "features")
    report: dict[str, Any] = {"too_few": {name: lack for name, lack in short.items() if lack}}
    report |= fidelity.Fidelity(options["network"], {}, {}, None, True).as_dict()
    if judged:
        rng = np.random.default_rng(seed_of(seed, "fidelity"))
        sets = [_read_folder(catalog, judged, size, options["features"], device, progress) for catalog in catalogs]
        sets[0] = replace(sets[0], groups=None)
        report |= fidelity.judge(*sets, classes=judged, features=options["network"], rng=rng).as_dict()
    return report


def _shortage(parts: list[Catalog], name: str, num_drawn: int) -> str:
    own = [part.only(label=name) for part in parts]
    return fidelity.shortage(num_drawn, *map(len, own), *(len(set(part.groups)) for part in own))


def _real(
    prepared: Prepared,
    part: Catalog,
    classes: tuple[str, ...],
    size: int,
    network: dict[str, Any],
    device: str,
    rng: np.random.Generator,
) -> fidelity.Images:
    """Real images of one part with their features, at most ``MOST_REAL`` of each class."""
    names = part.table["label"].to_numpy(object)
    rows = [rng.permutation(np.flatnonzero(names == name))[:MOST_REAL] for name in classes]
    chosen = part.take(np.sort(np.concatenate(rows)))
    pixels = prepared.pixels.array(size)[prepared.pixels.rows(chosen.images)]
    return fidelity.Images(pixels, _extract(network, pixels, device), labels_of(chosen, classes), chosen.groups)


def _read_folder(
    catalog: Catalog, classes: tuple[str, ...], size: int, network: dict[str, Any], device: str, progress: runs.Progress
) -> fidelity.Images:
    """Images of a folder with their features; a broken one is an error, and an image without lesion stands alone."""
    chosen = catalog.only(label=classes)
    pixels = build(chosen, (size,), "squash", runs.cache_folder(), progress=progress)
    broken = pixels.scan[pixels.scan["status"] != "ok"]
    if len(broken):
        first = broken.iloc[0]
        raise DataError(f"{catalog.root}: {first['image']} cannot be read: {first['message']}.", "Take it out.")
    array = np.asarray(pixels.array(size)[pixels.rows(chosen.images)])
    return fidelity.Images(array, _extract(network, array, device), labels_of(chosen, classes), chosen.groups)


def labels_of(catalog: Catalog, classes: tuple[str, ...]) -> np.ndarray:
    """Indices into ``classes`` of a catalog's images, int64 [N]."""
    return np.array([classes.index(name) for name in catalog.table["label"]], np.int64)


def _extract(network: dict[str, Any], pixels: np.ndarray, device: str) -> np.ndarray:
    from moulage.features import FeatureOptions, extract

    return extract(plugins.validate(FeatureOptions, network, "fidelity.features"), pixels, device=device)


def _closest(
    found: fidelity.Fidelity, generated: fidelity.Images, train: fidelity.Images, classes: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The generated images of each class that are nearest to a training image, beside it."""
    pairs = []
    for k, name in enumerate(classes):
        copies = found.classes[name].near_copies
        own, real = (images.pixels[images.labels == k] for images in (generated, train))
        for row, nearest, distance in copies.pairs(SHOWN_PAIRS) if copies else ():
            pair = {"generated": own[row], "nearest": real[nearest], "label": name}
            pairs.append({**pair, "distance": distance, "is_copy": bool(copies and copies.is_copy[row])})
    return pairs
