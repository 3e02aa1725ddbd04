"""Real and generated images side by side, with what they are nearest to; for the report."""

from pathlib import Path

import numpy as np

from moulage import runs
from moulage.data.catalog import Catalog, concatenate
from moulage.data.neighbours import nearest_images
from moulage.recipe import Recipe
from moulage.tasks.inputs import pixels_of
from moulage.tasks.plan import Task
from moulage.tasks.prepare import Prepared

GALLERY_IMAGES = 48
"""Generated images of a gallery, each beside its nearest training image."""
YARDSTICK_IMAGES = 480
"""Held-out real images whose distances to the training part say what distance is usual."""
HELD_OUT = ("validation", "test")


def make_gallery(
    recipe: Recipe, prepared: Prepared, run: Path, task: Task, device: str, progress: runs.Progress
) -> None:
    """Real and generated images for the report, each generated one with its nearest training image.

    Distances are root mean squares over the values of a pixel (0..255) of images scaled down to 32 px, over all eight
    flips and rotations. The yardstick: distances of real validation and test images to their nearest training image.
    """
    about = runs.read_json(run / task.needs[0] / "generator.json")
    samples = Catalog.load(run / task.needs[1] / "catalog.parquet")
    _, drawn = pixels_of(prepared, run, task.needs[1], about["size"])
    split = prepared.split(task.trial)
    classes, array = tuple(about["classes"]), prepared.pixels.array(about["size"])
    train = split.part(prepared.catalog, "train").only(label=classes)
    others = concatenate(*(split.part(prepared.catalog, part).only(label=classes) for part in HELD_OUT))
    chosen = some_of_each(samples.table["label"].to_numpy(object), GALLERY_IMAGES)
    real = array[prepared.pixels.rows(train.images)]
    distance, nearest = nearest_images(drawn[chosen], real)
    compared = others.take(some_of_each(others.table["label"].to_numpy(object), YARDSTICK_IMAGES))
    yardstick, _ = nearest_images(array[prepared.pixels.rows(compared.images)], real)
    shown = some_of_each(train.table["label"].to_numpy(object), GALLERY_IMAGES)
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


def some_of_each(labels: np.ndarray, num_images: int) -> np.ndarray:
    """Rows of at most ``num_images`` images, drawn at random (always the same), as many of one class as of another."""
    names, rng = sorted(set(labels)), np.random.default_rng(0)
    share = max(1, num_images // max(1, len(names)))
    drawn = [rng.permutation(np.flatnonzero(labels == name))[:share] for name in names]
    return np.concatenate(drawn or [np.zeros(0, np.int64)])
