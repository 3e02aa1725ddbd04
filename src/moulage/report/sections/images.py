"""Real and generated images side by side, and the training images that generated ones are nearest to."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from moulage.report import plot
from moulage.report.pictures import thumbnail
from moulage.report.plot import BLUE, MUTED, Plot, finish, slug
from moulage.report.run_files import Run, first_of_each
from moulage.results.generated import GeneratorRun

TITLE = "Real and generated images"
MOST_THUMBNAILS = 280
"""In one page, all galleries together: 12 kB each as base64, so about 3.4 MB."""


@dataclass(frozen=True)
class Gallery:
    """Images of one generator run to look at; images are uint8 [n, S, S, 3], distances are in grey levels 0..255.

    A distance is the root mean square difference per pixel value to the nearest training image, both at 32 px, over the
    eight flips and quarter turns. ``real_distance`` [M], that of real images of the other parts, is the yardstick.
    """

    real: np.ndarray
    real_labels: np.ndarray
    generated: np.ndarray
    generated_labels: np.ndarray
    generated_seeds: np.ndarray
    nearest: np.ndarray
    nearest_images: np.ndarray
    distance: np.ndarray
    real_distance: np.ndarray

    @property
    def classes(self) -> list[str]:
        """Those of the generated images, in their order."""
        return list(dict.fromkeys(self.generated_labels.tolist()))


def show(run: Run) -> dict[str, Any] | None:
    drawn = [made for made in run.results.generators if made.gallery and (run.folder / made.gallery).exists()]
    galleries = [(made, gallery) for made in first_of_each(drawn) if (gallery := run.arrays(Gallery, made.gallery))]
    num_rows = 4 * sum(len(gallery.classes) for _, gallery in galleries)  # real, generated, and both of each pair
    limit = min(24, max(1, MOST_THUMBNAILS // max(1, num_rows)))
    generators = [_generator(run, made, gallery, limit) for made, gallery in galleries]
    return {"generators": generators} if generators else None


def _generator(run: Run, made: GeneratorRun, gallery: Gallery, limit: int) -> dict[str, Any]:
    """At most ``limit`` pictures of a kind; ``near``: the 5th percentile of the distances of real images, if known."""
    real = gallery.real_distance
    near = float(np.quantile(real, 0.05)) if len(real) else None
    return {
        "made": made,
        "near": None if made.edit else near,
        "median_real": float(np.median(real)) if len(real) else None,
        "distances": distances(run, made, gallery) if len(gallery.distance) else None,
        "beside": "photograph that it was made of" if made.edit else "nearest training image",
        "classes": [_class(gallery, label, None if made.edit else near, limit) for label in gallery.classes],
    }


def _class(gallery: Gallery, label: str, near: float | None, limit: int) -> dict[str, Any]:
    """Pictures as data URIs; ``num_nearer`` generated images lie nearer than 95 % of the real images do."""
    rows = np.flatnonzero(gallery.generated_labels == label)
    closest = rows[np.argsort(gallery.distance[rows], kind="stable")][:limit]
    return {
        "label": label,
        "real": [thumbnail(image) for image in gallery.real[gallery.real_labels == label][:limit]],
        "generated": [thumbnail(image) for image in gallery.generated[rows][:limit]],
        "pairs": [
            {"generated": thumbnail(gallery.generated[row]), "nearest": thumbnail(gallery.nearest[row])}
            | {"seed": gallery.generated_seeds[row], "nearest_image": gallery.nearest_images[row]}
            | {"distance": gallery.distance[row]}
            for row in closest
        ],
        "num_generated": len(rows),
        "num_nearer": 0 if near is None else int((gallery.distance[rows] < near).sum()),
        "median_distance": float(np.median(gallery.distance[rows])),
    }


def distances(run: Run, made: GeneratorRun, gallery: Gallery) -> Plot:
    """Cumulative distances to the nearest training image, of edited ones to their own: generated beside real images."""
    figure = Figure(figsize=(4.2, 2.3), layout="constrained")
    axes = figure.add_subplot()
    for values, colour, dash, label in (
        (gallery.real_distance, MUTED, "--", "held-out real images"),
        (gallery.distance, BLUE, "-", "generated images"),
    ):
        if len(values):
            share = 100 * np.arange(1, len(values) + 1) / len(values)
            axes.step(np.sort(values), share, dash, color=colour, label=label)
    to = "the photograph it was made of" if made.edit else "the nearest training image"
    axes.set(xlabel=f"distance to {to} (grey levels)", ylabel="images (%)", ylim=(0, 102))
    axes.set_xlim(left=0)
    plot.legend(figure, *axes.get_legend_handles_labels())
    alt = f"Cumulative distances of generated and of real images to {to}, generator {made.name}."
    caption = f"{made.name}: share of images whose nearest training image is at most so far away. A curve of generated "
    caption += "images far left of the real one speaks for copies."
    if made.edit:
        caption = f"{made.name}: how far edited images are from the photograph that each was made of, and held-out "
        caption += "real images from their nearest training image. Far left of them, little was changed."
    return finish(figure, run.folder, f"distances-{slug(made.name)}", alt, caption)
