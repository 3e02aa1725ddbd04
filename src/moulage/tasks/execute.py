"""Does one task: a function of the run folder and the task, wherever it is called."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from moulage import plugins, runs
from moulage.data import pixels as pixel_cache
from moulage.data import samples as sampling
from moulage.data.catalog import REAL, Catalog, concatenate
from moulage.data.view import Examples, TrainingView
from moulage.errors import DataError, LeakError
from moulage.evaluation.predictions import Predictions
from moulage.recipe import Recipe
from moulage.tasks import prepare
from moulage.tasks.plan import Task, seed_of
from moulage.tasks.prepare import Prepared

EMBED_CHUNK = 4096
"""Images embedded between two writes to disk; an interrupted embedding goes on at the last whole chunk."""
GALLERY_IMAGES = 48
"""Generated images of a gallery, each beside its nearest training image."""
YARDSTICK_IMAGES = 480
"""Held-out real images whose distances to the training part say what distance is usual."""
HELD_OUT: tuple[Literal["validation", "test"], ...] = ("validation", "test")


def execute(run: Path, task: Task, device: str = "auto") -> None:
    """Compute one task into its folder; what is done already, or was begun, is used.

    Args:
        run: a folder that ``prepare`` has written.
        task: one of ``plan``.
        device: ``auto``, ``cpu``, ``cuda`` or another name of torch.

    Raises:
        MoulageError: whatever stops the task, in the user's words.
    """
    from moulage.training import pick_device, reproducible

    folder = run / task.folder
    with runs.lock(folder):
        if runs.is_done(folder):
            return
        for leftover in folder.glob(".*.tmp"):  # of an attempt that was killed while it wrote
            leftover.unlink()
        recipe, prepared = prepare.load(run)
        chosen = str(pick_device(device))
        runs.write_json(folder / "task.json", {"kind": task.kind, "name": task.name, **task.settings})
        with reproducible(), _meter(folder, chosen) as (progress, cost):
            DO[task.kind](recipe, prepared, run, task, chosen, progress)
            facts = cost()
        runs.finish(folder, kind=task.kind, name=task.name, trial=task.trial, **facts)


@contextlib.contextmanager
def _meter(folder: Path, device: str) -> Iterator[tuple[runs.Progress, Callable[[], dict[str, Any]]]]:
    """Progress that is written to ``progress.json`` at most twice a second, with what all attempts together cost."""
    path = folder / "progress.json"
    before = runs.read_json(path) if path.exists() else {}
    wall, cpu = time.perf_counter(), time.process_time()
    last = -np.inf

    def cost() -> dict[str, Any]:
        return {
            "wall_seconds": before.get("wall_seconds", 0.0) + time.perf_counter() - wall,
            "cpu_seconds": before.get("cpu_seconds", 0.0) + time.process_time() - cpu,
            "device": device,
        }

    def progress(done: int, total: int, note: str = "") -> None:
        nonlocal last
        if time.perf_counter() - last > 0.5:
            last = time.perf_counter()
            runs.write_json(path, {"done": done, "total": total, "note": note, **cost()})

    progress(0, 1, "starting")
    yield progress, cost


def fit_generator(
    recipe: Recipe, prepared: Prepared, run: Path, task: Task, device: str, progress: runs.Progress
) -> None:
    """Fit a generator on its classes' images of the training part, and of no other part."""
    settings, folder = task.settings, run / task.folder
    module = plugins.load("generators", settings["plugin"])
    config = plugins.configure("generators", settings["plugin"], settings["config"])
    classes = tuple(settings["classes"])
    train = prepared.split.part(prepared.catalog, "train").only(label=classes)
    images = prepared.pixels.array(settings["size"])[prepared.pixels.rows(train.images)]
    labels = np.array([classes.index(name) for name in train.table["label"]], np.int64)
    generator = module.Generator(config, classes, settings["size"])
    generator.fit(images, labels, seed=settings["seed"], folder=folder, device=device, progress=progress)
    generator.save(folder)
    about = {"plugin": settings["plugin"], "classes": classes, "size": settings["size"], "origin": origin(task.folder)}
    about |= {"split_digest": prepared.split.digest, "num_images": len(train), "all_classes": prepared.catalog.classes}
    runs.write_json(folder / "generator.json", about)


def origin(folder: str) -> str:
    """The name by which synthetic rows call the generator run that drew them: its folder's name."""
    return Path(folder).name


def draw(
    folder: Path, counts: dict[str, int], first_seed: int, out: Path, *, device: str = "cpu", **options: Any
) -> Catalog:
    """Draw images from a finished generator folder: ``counts[c]`` of each class from consecutive seeds.

    Raises:
        RunError: the folder holds no finished generator.
        DataError: it never learned a class that is asked for.
    """
    about = runs.read_json(folder / "generator.json")
    for name in counts:
        if name not in about["classes"]:
            raise DataError(f'{folder} draws {", ".join(about["classes"])}, not "{name}".', "Ask for one of those.")
    generator = plugins.load("generators", about["plugin"]).Generator.load(folder, device=device)
    seeds = {name: np.arange(first_seed, first_seed + count) for name, count in counts.items()}
    return sampling.draw(
        generator,
        seeds,
        out,
        classes=tuple(about["all_classes"]),
        origin=about["origin"],
        split_digest=about["split_digest"],
        **options,
    )


def draw_samples(
    recipe: Recipe, prepared: Prepared, run: Path, task: Task, device: str, progress: runs.Progress
) -> None:
    """Draw the images that the arms add."""
    out = run / task.folder
    draw(
        run / task.needs[0], task.settings["counts"], task.settings["first_seed"], out, device=device, progress=progress
    )


def embed(recipe: Recipe, prepared: Prepared, run: Path, task: Task, device: str, progress: runs.Progress) -> None:
    """Forward each image of one set through the frozen network, once; ``inputs.npy`` holds a row an image."""
    catalog, array = _pixels(prepared, run, task.settings["of"], _config(recipe).size)
    module, config = plugins.load("classifiers", recipe.classifier.plugin), _config(recipe)
    partial, path = run / task.folder / "partial.npy", run / task.folder / "inputs.npy"
    marker = run / task.folder / "partial.json"
    start = runs.read_json(marker)["num_rows"] if marker.exists() and partial.exists() else 0
    kept = np.lib.format.open_memmap(partial, mode="r+") if start else None
    for first in range(start, len(catalog), EMBED_CHUNK):
        rows = array[first : first + EMBED_CHUNK]
        values = module.embed(config, rows, device=device)
        progress(first + len(rows), len(catalog), "images embedded")
        if kept is None:
            kept = np.lib.format.open_memmap(partial, "w+", np.float32, (len(catalog), values.shape[1]))
        kept[first : first + len(rows)] = values
        kept.flush()
        runs.write_json(marker, {"num_rows": first + len(rows)})
    runs.write_json(run / task.folder / "images.json", catalog.images.tolist())
    partial.replace(path)


def train_classifier(
    recipe: Recipe, prepared: Prepared, run: Path, task: Task, device: str, progress: runs.Progress
) -> None:
    """Train one arm's classifier in one trial, and keep what it predicts for validation and test part."""
    settings, folder, catalog, split = task.settings, run / task.folder, prepared.catalog, prepared.split
    module = plugins.load("classifiers", settings["plugin"])
    config = plugins.configure("classifiers", settings["plugin"], settings["config"])
    train = split.part(catalog, "train")
    samples = samples_of(run, samples_folder(task), split.digest)
    balance = plugins.load("balance", settings["balance"])
    rng = np.random.default_rng(seed_of(settings["seed"], "balance"))
    options = plugins.configure("balance", settings["balance"], settings["balance_config"])
    extra = balance.extend(options, train, samples, settings["add"], rng)
    check_extra(extra, train, split.digest)
    inputs = _Inputs(prepared, run, task, config.size)
    added = Examples(inputs(extra), extra.labels) if len(extra) else None
    view = TrainingView(Examples(inputs(train), train.labels), added, settings["num_slots"])
    parts = {part: split.part(catalog, part) for part in HELD_OUT}
    classifier = module.Classifier(config, catalog.classes)
    validation = Examples(inputs(parts["validation"]), parts["validation"].labels)
    classifier.fit(view, validation, seed=settings["seed"], folder=folder, device=device, progress=progress)
    classifier.save(folder)
    about = {"arm": task.name, "trial": task.trial, "split_digest": split.digest, "classes": catalog.classes}
    for part in HELD_OUT:
        rows = parts[part]
        logits = classifier.predict(inputs(rows))
        Predictions(rows.images, rows.groups, rows.labels, logits, part=part, **about).save(folder / f"{part}.parquet")
    added_counts = {name: count for name, count in extra.counts.items() if count}
    seen = {"num_real": len(train), "num_slots": settings["num_slots"], "extra": added_counts}
    runs.write_json(folder / "view.json", seen)


def samples_folder(task: Task) -> str:
    """Where a classifier task finds its samples: in the run, or in the folder that the recipe gives; empty for none."""
    return next((need for need in task.needs if need.startswith("samples/")), task.settings["given"][0])


def samples_of(run: Path, folder: str, split_digest: str) -> Catalog | None:
    """The samples in a folder (of the run, or anywhere), proven to come from this split; None for no folder."""
    if not folder:
        return None
    samples = Catalog.load(run / folder / "catalog.parquet")
    sampling.check_provenance(samples, split_digest)
    return samples


def check_extra(extra: Catalog, train: Catalog, split_digest: str) -> None:
    """What an arm adds is either a real image of the training part or was drawn by a generator that saw only that.

    Raises:
        LeakError: naming an image that is neither.
    """
    sampling.check_provenance(extra.take((extra.table["origin"] != REAL).to_numpy()), split_digest)
    strangers = set(extra.only(origin=REAL).images) - set(train.images)
    if strangers:
        raise LeakError(f'The arm adds the real image "{min(strangers)}", which is not in the training part.')


def make_gallery(
    recipe: Recipe, prepared: Prepared, run: Path, task: Task, device: str, progress: runs.Progress
) -> None:
    """Real and generated images for the report, each generated one with its nearest training image.

    Distances are root mean squares over the values of a pixel (0..255) of images scaled down to 32 px, over all eight
    flips and rotations. The yardstick: distances of real validation and test images to their nearest training image.
    """
    about = runs.read_json(run / task.needs[0] / "generator.json")
    samples = Catalog.load(run / task.needs[1] / "catalog.parquet")
    _, drawn = _pixels(prepared, run, task.needs[1], about["size"])
    classes, array = tuple(about["classes"]), prepared.pixels.array(about["size"])
    train = prepared.split.part(prepared.catalog, "train").only(label=classes)
    others = concatenate(*(prepared.split.part(prepared.catalog, part).only(label=classes) for part in HELD_OUT))
    chosen = _some(samples.table["label"].to_numpy(object), GALLERY_IMAGES)
    real = array[prepared.pixels.rows(train.images)]
    distance, nearest = nearest_images(drawn[chosen], real)
    compared = others.take(_some(others.table["label"].to_numpy(object), YARDSTICK_IMAGES))
    yardstick, _ = nearest_images(array[prepared.pixels.rows(compared.images)], real)
    shown = _some(train.table["label"].to_numpy(object), GALLERY_IMAGES)
    with runs.atomic(run / task.folder / "gallery.npz") as temporary, temporary.open("wb") as stream:
        np.savez(
            stream,
            real=real[shown],
            real_labels=train.table["label"].to_numpy(str)[shown],
            generated=drawn[chosen],
            generated_labels=samples.table["label"].to_numpy(str)[chosen],
            generated_seeds=samples.table["seed"].to_numpy(np.int64)[chosen],
            nearest=real[nearest],
            nearest_images=train.images.astype(str)[nearest],
            distance=distance,
            real_distance=yardstick,
        )


def nearest_images(images: np.ndarray, among: np.ndarray, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Distance to, and row of, the nearest of ``among`` for each image, over the eight flips and quarter turns.

    Args:
        images: uint8 [N, S, S, 3].
        among: uint8 [M, S, S, 3], M >= 1.
        side: both are averaged down to about this many pixels a side first.

    Returns:
        Root mean square difference a value, float64 [N], in 0..255; rows of ``among``, int64 [N].
    """
    step = max(1, images.shape[1] // side)

    def small(batch: np.ndarray) -> np.ndarray:
        edge = batch.shape[1] // step * step
        blocks = batch[:, :edge, :edge].reshape(len(batch), edge // step, step, edge // step, step, 3)
        return blocks.mean((2, 4), dtype=np.float32) - 127.5  # centred: small norms lose less when they are subtracted

    reference = small(among).reshape(len(among), -1)
    norms = (reference**2).sum(1)
    best, row = np.full(len(images), np.inf), np.zeros(len(images), np.int64)
    queries = small(images)
    for turned in (np.rot90(q, k, (1, 2)) for q in (queries, queries[:, :, ::-1]) for k in range(4)):
        flat = turned.reshape(len(images), -1)
        squared = (flat**2).sum(1)[:, None] + norms - 2 * flat @ reference.T
        found = squared.argmin(1)
        value = squared[np.arange(len(images)), found]
        row = np.where(value < best, found, row)
        best = np.minimum(best, value)
    return np.sqrt(np.maximum(best, 0) / reference.shape[1]).astype(np.float64), row


class _Inputs:
    """What the classifier reads for an image: its pixels, or its embedding where the plug-in embeds; by image name."""

    def __init__(self, prepared: Prepared, run: Path, task: Task, size: int) -> None:
        self.stores: list[tuple[dict[str, int], np.ndarray | _Rows]] = []
        if task.settings["embedded"]:
            for folder in (need for need in task.needs if need.startswith("embeddings/")):
                names = runs.read_json(run / folder / "images.json")
                self._add(names, np.load(run / folder / "inputs.npy", mmap_mode="r"))
        else:
            for of in ("real", *filter(None, [samples_folder(task)])):
                catalog, array = _pixels(prepared, run, of, size)
                self._add(catalog.images.tolist(), array)

    def _add(self, names: list[str], array: "np.ndarray | _Rows") -> None:
        self.stores.append(({name: row for row, name in enumerate(names)}, array))

    def __call__(self, catalog: Catalog) -> np.ndarray:
        """Inputs of these images in this order, copied into memory."""
        rows = np.empty((len(catalog), *self.stores[0][1].shape[1:]), self.stores[0][1].dtype)
        missing = np.ones(len(catalog), bool)
        for index, array in self.stores:
            found = np.array([index.get(name, -1) for name in catalog.images], np.int64)
            rows[found >= 0] = array[found[found >= 0]]
            missing &= found < 0
        if missing.any():
            raise DataError(f'There are no pixels of "{catalog.images[missing][0]}".', "Run the command again.")
        return rows


def _pixels(prepared: Prepared, run: Path, of: str, size: int) -> "tuple[Catalog, np.ndarray | _Rows]":
    """A catalog and its pixels, row by row: the real images, or those in a folder of samples."""
    if of == "real":
        rows = prepared.pixels.rows(prepared.catalog.images)
        return prepared.catalog, _Rows(prepared.pixels.array(size), rows)
    samples = Catalog.load(run / of / "catalog.parquet")
    return samples, pixel_cache.build(samples, (size,), "squash", run / "cache").array(size)


class _Rows:
    """Chosen rows of a memory-mapped array, read only where they are asked for."""

    def __init__(self, array: np.ndarray, rows: np.ndarray) -> None:
        self.array, self.rows, self.dtype = array, rows, array.dtype
        self.shape = (len(rows), *array.shape[1:])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.array[self.rows[index]]


def _config(recipe: Recipe) -> Any:
    return plugins.configure("classifiers", recipe.classifier.plugin, recipe.classifier.options, "classifier.options")


def _some(labels: np.ndarray, num_images: int) -> np.ndarray:
    """Rows of at most ``num_images`` images, drawn at random (always the same), as many of one class as of another."""
    names, rng = sorted(set(labels)), np.random.default_rng(0)
    share = max(1, num_images // max(1, len(names)))
    drawn = [rng.permutation(np.flatnonzero(labels == name))[:share] for name in names]
    return np.concatenate(drawn or [np.zeros(0, np.int64)])


DO: dict[str, Callable[[Recipe, Prepared, Path, Task, str, runs.Progress], None]] = {
    "generator": fit_generator,
    "samples": draw_samples,
    "embedding": embed,
    "classifier": train_classifier,
    "gallery": make_gallery,
}
