"""Real and generated images side by side, with what they are nearest to; for the report."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from moulage import runs
from moulage.data.catalog import concatenate
from moulage.data.neighbours import nearest_images
from moulage.stages.samples import Samples
from moulage.stages.stage import Context, Stage
from moulage.stages.stored import pixels_of, some_of_each
from moulage.stages.witness import HELD_OUT

FILE = "gallery.npz"
GALLERY_IMAGES = 48
"""Generated images of a gallery, each beside its nearest training image."""
YARDSTICK_IMAGES = 480
"""Held-out real images whose distances to the training part say what distance is usual."""


@dataclass(frozen=True)
class Gallery(Stage):
    """Real and generated images for the report, each generated one with its nearest training image.

    Beside an edited image stands its parent. Distances are root mean squares over the values of a pixel (0..255) of
    images scaled down to 32 px, over all eight flips and rotations. The yardstick: distances of real validation and
    test images to their nearest training image.
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
        rows = {name: row for row, name in enumerate(train.images)}
        for i, parent in enumerate(samples.table["parent"].to_numpy(object)[chosen]):
            if parent:
                nearest[i] = rows[parent]
                distance[i] = nearest_images(drawn[chosen[[i]]], real[nearest[[i]]])[0][0]
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
