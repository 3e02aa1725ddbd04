"""What the report shows of how true generated images are: scores beside real images and copies, and closest pairs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from moulage.report import plot
from moulage.report.pictures import thumbnail
from moulage.report.plot import BLUE, MUTED, VERMILLION, Plot, finish, short
from moulage.report.reading import Closest, Run
from moulage.report.tables import NONE
from moulage.results.generated import FidelityRun

SETS = {"generated": "generated", "floor": "other real images", "copies": "copies of training images"}
"""The three sets that are scored, as the table calls them."""
COLUMNS = {
    "kid": "KID",
    "frechet": "Fréchet",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "accuracy": "told from real",
    "colour_pixels": "colour",
    "colour_variety": "colour variety",
    "near_copies": "near-copies",
    "authenticity": "authentic",
    "data_copying": "C_T",
}
"""Scores that the table shows, in this order."""
SHARES = ("precision", "recall", "coverage", "accuracy", "near_copies", "authenticity")
"""Shown in percent."""


class Row(NamedTuple):
    """One set of one class: its name, whether it is the generated one, and its scores as text."""

    name: str
    is_generated: bool
    cells: list[str]


class Pair(NamedTuple):
    """A generated image and its nearest training image, as data URIs."""

    generated: str
    nearest: str
    distance: str
    is_copy: bool


@dataclass(frozen=True)
class ClassShown:
    """One class of one generator: a row for each set, and the closest pairs of the first fit."""

    label: str
    num_generated: int
    num_held_out: int
    num_lesions: int
    rows: list[Row]
    expected_false_alarms: str
    pairs: list[Pair]


@dataclass(frozen=True)
class GeneratorShown:
    """One generator over its fits; ``too_few``: what the classes lack that are not judged."""

    name: str
    num_fits: int
    features: str
    num_drawn: int
    size: int
    small_sample: bool
    classes: list[ClassShown]
    too_few: dict[str, str]


def shown(run: Run) -> list[GeneratorShown]:
    """The generators of a run whose images were scored."""
    found = []
    for name, fits in _by_generator(run.results.fidelity).items():
        first = fits[0]
        pairs = run.closest.get(first.closest)
        classes = [_class(label, fits, pairs) for label in first.classes]
        facts = (first.features, first.num_drawn, first.size, first.small_sample)
        found.append(GeneratorShown(name, len(fits), *facts, classes, first.too_few))
    return found


def kid_plot(fidelity: Sequence[FidelityRun], folder: Path) -> Plot | None:
    """The kernel distance of every generator and class beside that of real images and of copies."""
    rows = [(name, label, fits) for name, fits in _by_generator(fidelity).items() for label in fits[0].classes]
    if not rows:
        return None
    rows.sort(key=lambda row: (row[1], _mean(row[2], row[1], "generated", "kid") or 0))
    figure = Figure(figsize=(4.6, 0.9 + 0.28 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    names = []
    for y, (name, label, fits) in enumerate(rows):
        names.append(f"{short(name)}, {label}")
        for key, colour, marker in (("floor", MUTED, "|"), ("copies", VERMILLION, "x"), ("generated", BLUE, "o")):
            value = _mean(fits, label, key, "kid")
            if value is None:
                continue
            axes.plot(value, y, marker, color=colour, ms=5 if marker == "o" else 7, label=SETS[key] if y == 0 else None)
            if key == "generated":
                low, high = (_mean(fits, label, key, f"kid_{end}") for end in ("low", "high"))
                axes.hlines(y, low if low is not None else value, high if high is not None else value, color=colour)
    axes.set(yticks=range(len(rows)), yticklabels=names, xlabel="kernel distance (KID) to held-out real images")
    axes.set_ylim(len(rows) - 0.5, -0.5)
    plot.legend(figure, *axes.get_legend_handles_labels())
    return finish(
        figure,
        folder,
        "fidelity",
        "Kernel distance of each generator and class, beside that of real images of other lesions and of copies.",
        "Kernel distance to test images of the class, with 95 % intervals; left is better. A generator is as good as "
        "real images of other lesions where it reaches their mark; copies of training images reach it too.",
    )


def _by_generator(fidelity: Iterable[FidelityRun]) -> dict[str, list[FidelityRun]]:
    found: dict[str, list[FidelityRun]] = {}
    for made in sorted(fidelity, key=lambda made: made.trial):
        found.setdefault(made.name, []).append(made)
    return found


def _class(label: str, fits: list[FidelityRun], closest: Closest | None) -> ClassShown:
    of = fits[0].classes[label]
    rows = [
        Row(title, key == "generated", [_cell(fits, label, key, column) for column in COLUMNS])
        for key, title in SETS.items()
    ]
    counts = (of.num_generated, of.num_held_out, of.num_held_out_lesions)
    alarms = NONE if of.expected_false_alarms is None else f"{100 * of.expected_false_alarms:.1f}\u00a0%"
    return ClassShown(label, *counts, rows, alarms, _pairs(closest, label) if closest else [])


def _mean(fits: list[FidelityRun], label: str, key: str, column: str) -> float | None:
    """Mean over the fits that have the score."""
    scores = [getattr(of, key) for fit in fits if (of := fit.classes.get(label))]
    known = [value for score in scores if score and (value := getattr(score, column)) is not None]
    return float(np.mean(known)) if known else None


def _cell(fits: list[FidelityRun], label: str, key: str, column: str) -> str:
    value = _mean(fits, label, key, column)
    if value is None:
        return NONE
    if column in SHARES:
        return f"{100 * value:.1f}\u00a0%" if column == "near_copies" else f"{100 * value:.0f}\u00a0%"
    if column != "kid":
        return f"{value:.2f}".replace("-", "−")
    low, high = (_mean(fits, label, key, f"kid_{end}") for end in ("low", "high"))
    text = f"{value:.4f}" if low is None or high is None else f"{value:.4f} [{low:.4f}, {high:.4f}]"
    return text.replace("-", "−")


def _pairs(closest: Closest, label: str) -> list[Pair]:
    return [
        Pair(
            thumbnail(closest.generated[row]),
            thumbnail(closest.nearest[row]),
            f"{closest.distance[row]:.2f}",
            bool(closest.is_copy[row]),
        )
        for row in np.flatnonzero(closest.label == label)
    ]
