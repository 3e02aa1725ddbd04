"""Small pictures for the page: thumbnails as data URIs, chosen so that the page stays small."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from moulage.report.reading import Gallery, Run, first_of_each
from moulage.results.generated import GeneratorRun

SIDE = 64
"""Pixels a side of a thumbnail."""

MOST_THUMBNAILS = 280
"""In one page, all galleries together: 12 kB each as base64, so about 3.4 MB."""

MOST_PREVIEWS = 8
"""In one page, all generators together."""

PREVIEW_SIZE = (512, 256)
"""Pixels of a preview grid at most, in width and height: grids of several classes are wide and low."""


@dataclass(frozen=True)
class Pair:
    """A generated image beside the training image that is nearest to it; ``distance`` in grey levels."""

    generated: str
    nearest: str
    seed: int
    nearest_image: str
    distance: float


@dataclass(frozen=True)
class ClassPictures:
    """Pictures of one class from one generator, as data URIs. ``num_nearer`` generated images lie nearer to a training
    image than 95 % of the real images do."""

    label: str
    real: list[str]
    generated: list[str]
    pairs: list[Pair]
    num_generated: int
    num_nearer: int
    median_distance: float


@dataclass(frozen=True)
class GeneratorPictures:
    """What is shown of one generator. ``near`` is the 5th percentile of the distances of real images, if known."""

    made: GeneratorRun
    classes: list[ClassPictures]
    near: float | None
    median_real: float | None


def galleries(run: Run) -> list[GeneratorPictures]:
    """Pictures of one run of each generator, at most 24 of a kind, fewer where there are many classes."""
    shown = first_of_each(run.results.generators, lambda made: made.folder in run.galleries)
    labels = {made.folder: list(dict.fromkeys(run.galleries[made.folder].generated_labels.tolist())) for made in shown}
    num_rows = 4 * sum(len(names) for names in labels.values())  # real, generated, and both of each pair
    limit = min(24, max(1, MOST_THUMBNAILS // max(1, num_rows)))
    pictures = []
    for made in shown:
        gallery = run.galleries[made.folder]
        real = gallery.real_distance
        near = float(np.quantile(real, 0.05)) if len(real) else None
        classes = [_class_pictures(gallery, label, near, limit) for label in labels[made.folder]]
        pictures.append(GeneratorPictures(made, classes, near, float(np.median(real)) if len(real) else None))
    return pictures


def _class_pictures(gallery: Gallery, label: str, near: float | None, limit: int) -> ClassPictures:
    rows = np.flatnonzero(gallery.generated_labels == label)
    closest = rows[np.argsort(gallery.distance[rows], kind="stable")][:limit]
    return ClassPictures(
        label=label,
        real=[thumbnail(image) for image in gallery.real[gallery.real_labels == label][:limit]],
        generated=[thumbnail(image) for image in gallery.generated[rows][:limit]],
        pairs=[
            Pair(
                thumbnail(gallery.generated[row]),
                thumbnail(gallery.nearest[row]),
                int(gallery.generated_seeds[row]),
                str(gallery.nearest_images[row]),
                float(gallery.distance[row]),
            )
            for row in closest
        ],
        num_generated=len(rows),
        num_nearer=int((gallery.distance[rows] < near).sum()) if near is not None else 0,
        median_distance=float(np.median(gallery.distance[rows])),
    )


def previews(run: Run) -> list[tuple[GeneratorRun, list[tuple[str, str]]]]:
    """Of each generator some preview grids of one run, evenly spaced from first to last: (file name, data URI)."""
    shown = first_of_each(run.results.generators, lambda made: bool(run.previews.get(made.folder)))
    limit = max(2, MOST_PREVIEWS // max(1, len(shown)))
    chosen = []
    for made in shown:
        paths = run.previews[made.folder]
        rows = np.unique(np.linspace(0, len(paths) - 1, min(limit, len(paths))).round().astype(int))
        chosen.append((made, [(paths[row].stem, _preview(paths[row])) for row in rows]))
    return chosen


def thumbnail(image: np.ndarray) -> str:
    """Data URI of a PNG of at most ``SIDE`` pixels a side, of a uint8 [S, S, 3] image."""
    return _shrunk(Image.fromarray(image), (SIDE, SIDE))


def sheet(path: Path) -> str:
    """Data URI of a sheet of small pictures, as large as it is."""
    with Image.open(path) as picture:
        return _shrunk(picture.convert("RGB"), picture.size)


def _preview(path: Path) -> str:
    with Image.open(path) as picture:
        return _shrunk(picture.convert("RGB"), PREVIEW_SIZE)


def _shrunk(picture: Image.Image, size: tuple[int, int]) -> str:
    picture.thumbnail(size, Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
