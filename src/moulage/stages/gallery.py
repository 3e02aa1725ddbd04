"""Real and generated images side by side, with what they are nearest to; for the report."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from moulage import runs
from moulage.data.catalog import concatenate
from moulage.stages.samples import Samples
from moulage.stages.stage import Context, Stage
from moulage.stages.stored import pixels_of
from moulage.stages.witness import HELD_OUT

FILE = "gallery.npz"
GALLERY_IMAGES = 48
"""Generated images of a gallery, each beside its nearest training image."""
YARDSTICK_IMAGES = 480
"""Held-out real images whose distances to the training part say what distance is usual."""


@dataclass(frozen=True)
class Gallery(Stage):
    """Real and generated images for the report, each generated one with its nearest training image.

    Distances are root mean squares over the values of a pixel (0..255) of images scaled down to 32 px, over all eight
    flips and rotations. The yardstick: distances of real validation and test images to their nearest training image.
    """

    kind: ClassVar[str] = "gallery"
    place: ClassVar[str] = "galleries"
    is_witnessed: ClassVar[bool] = False

    samples: Samples

    def run(self, at: Context) -> None:
        prepared, size, classes = at.prepared, self.samples.generator.size, self.samples.generator.classes
        samples, drawn = pixels_of(prepared, at.run, self.samples.folder, size)
        train, *held_out = (prepared.part(self.trial, part).only(label=classes) for part in ("train", *HELD_OUT))
        others = concatenate(*held_out)
        chosen = some_of_each(samples.table["label"].to_numpy(object), GALLERY_IMAGES)
        real = prepared.images(train, size)
        distance, nearest = nearest_images(drawn[chosen], real)
        compared = others.take(some_of_each(others.table["label"].to_numpy(object), YARDSTICK_IMAGES))
        yardstick, _ = nearest_images(prepared.images(compared, size), real)
        shown = some_of_each(train.table["label"].to_numpy(object), GALLERY_IMAGES)
        with runs.atomic(at.run / self.folder / FILE) as temporary, temporary.open("wb") as stream:
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


def some_of_each(labels: np.ndarray, num_images: int) -> np.ndarray:
    """Rows of at most ``num_images`` images, drawn at random (always the same), as many of one class as of another."""
    names, rng = sorted(set(labels)), np.random.default_rng(0)
    share = max(1, num_images // max(1, len(names)))
    drawn = [rng.permutation(np.flatnonzero(labels == name))[:share] for name in names]
    return np.concatenate(drawn or [np.zeros(0, np.int64)])
