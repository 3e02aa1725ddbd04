"""What the report shows of test images that ``moulage explain`` drew: bare, under each classifier's map, and beside
generated images."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from moulage.errors import RunError
from moulage.report.pictures import thumbnail
from moulage.report.reading import Run
from moulage.report.tables import NONE
from moulage.results.explanations import Check, ExplainedBy, ExplainedImage, Explanation
from moulage.results.record import Number

MOST_IMAGES = 48
"""Test images in one page, all explanations together; each has up to eight pictures of about 10 kB."""
FINE = 7
"""Cells a side, of ImageNet networks at 224 px; with fewer a lesion and the skin around it share a cell."""
PARTS = {"head": "head shuffled", "network": "head and backbone shuffled"}


class Picture(NamedTuple):
    """A picture as data URI, what is said below it, and what it shows."""

    uri: str
    caption: str
    alt: str


@dataclass(frozen=True)
class ImageShown:
    """One test image: ``said`` has a sentence for each arm, ``checks`` those of its maps."""

    image: str
    label: str
    change: str
    said: list[str]
    checks: str
    pictures: list[Picture]
    generated: list[Picture]


@dataclass(frozen=True)
class GroupShown:
    """Test images that were chosen for one reason."""

    title: str
    how: str
    images: list[ImageShown]


@dataclass(frozen=True)
class CheckShown:
    """Mean rank correlations of an arm's maps with those of shuffled weights, in the order of ``PARTS``."""

    arm: str
    means: list[str]
    num_maps: int


@dataclass(frozen=True)
class ExplanationShown:
    """One arm in one trial. ``cells``: how fine its maps are; ``coarse``: too coarse to point at a lesion."""

    made: Explanation
    cells: str
    coarse: bool
    checks: list[CheckShown]
    groups: list[GroupShown]


def shown(run: Run) -> list[ExplanationShown]:
    """All explanations of a run; fewer images of a kind where there are many kinds."""
    num_groups = sum(len(made.groups) for made in run.explanations)
    limit = max(1, MOST_IMAGES // max(1, num_groups))
    return [_explanation(made, run.pictures / made.folder, limit) for made in run.explanations]


def _explanation(made: Explanation, folder: Path, limit: int) -> ExplanationShown:
    known = {each.image: each for each in made.images}
    groups = [
        GroupShown(
            group.title,
            group.how,
            [_image(known[name], folder, beside=group.beside) for name in group.images[:limit] if name in known],
        )
        for group in made.groups
    ]
    sides = sorted(set(made.cells.values()))
    cells = " or ".join(f"{side} × {side}" for side in sides)
    coarse = bool(sides) and sides[0] < FINE
    return ExplanationShown(made, cells, coarse, [_check(arm, parts) for arm, parts in made.checks.items()], groups)


def _check(arm: str, parts: dict[str, Check]) -> CheckShown:
    found = [parts[part] for part in PARTS]
    return CheckShown(arm, [correlation(check.mean) for check in found], min(check.num_maps for check in found))


def _image(of: ExplainedImage, folder: Path, *, beside: bool) -> ImageShown:
    pictures = [Picture(_uri(folder / of.file), "as it is", f"test image {of.image} of {of.label}")]
    pictures += [
        Picture(
            _uri(folder / drawn.file),
            f"{by.arm}: {drawn.label}" + (" (empty)" if drawn.is_empty else ""),
            f"map of {by.arm} for {drawn.label} over {of.image}",
        )
        for by in of.arms
        for drawn in by.maps
    ]
    generated = [
        Picture(_uri(folder / near.file), f"{near.label}, {near.distance:.1f}", f"generated image {near.image}")
        for near in (of.neighbours if beside else [])
        if near.distance is not None
    ]
    change = "" if of.change is None else f"{of.change:+.2f}".replace("-", "−")
    checks = "; ".join(
        f"{by.arm} {' and '.join(correlation(by.checks.get(part)) for part in PARTS)}" for by in of.arms if by.maps
    )
    return ImageShown(of.image, of.label, change, [_said(by, of.label) for by in of.arms], checks, pictures, generated)


def _said(by: ExplainedBy, label: str) -> str:
    """What a classifier said: ``dcgan: NV 0.91 (AK 0.04)``."""
    text = f"{by.arm}: {by.predicted} {_probability(by.probability)}"
    return text if by.predicted == label else f"{text} ({label} {_probability(by.probability_true)})"


def _probability(value: Number) -> str:
    return NONE if value is None else f"{value:.2f}" if value >= 0.005 else "<\u00a00.01"


def correlation(value: Number) -> str:
    """A rank correlation as text."""
    return NONE if value is None else f"{round(value, 2) + 0.0:.2f}".replace("-", "−")


def _uri(path: Path) -> str:
    try:
        with Image.open(path) as picture:
            return thumbnail(np.asarray(picture.convert("RGB")))
    except OSError as error:
        raise RunError(
            f"{path} cannot be read: {error}.", f"Delete {path.parent} and run `moulage explain` again."
        ) from None
