"""How true generated images are: scores beside real images and copies, and the closest pairs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from moulage.report import plot
from moulage.report.pictures import thumbnail
from moulage.report.plot import BLUE, MUTED, VERMILLION, Plot, finish, short
from moulage.report.run_files import Run
from moulage.report.tables import NONE
from moulage.results.generated import FidelityRun

TITLE = "How true the generated images are"
SETS = {"generated": "generated", "floor": "other real images", "copies": "copies of training images"}
"""The three sets that are scored, as the table calls them."""
COLUMNS = {"kid": "KID", "frechet": "Fréchet"}
COLUMNS |= {name: name for name in ("precision", "recall", "density", "coverage")}
COLUMNS |= {"accuracy": "told from real", "colour_pixels": "colour", "colour_variety": "colour variety"}
COLUMNS |= {"near_copies": "near-copies", "authenticity": "authentic", "data_copying": "C_T"}
"""Scores that the table shows, in this order."""
SHARES = ("precision", "recall", "coverage", "accuracy", "near_copies", "authenticity")
"""Shown in percent."""


@dataclass(frozen=True)
class Closest:
    """Generated images nearest to a training image, beside it: uint8 [n, S, S, 3]; the rest is [n]."""

    generated: np.ndarray
    nearest: np.ndarray
    label: np.ndarray
    distance: np.ndarray
    is_copy: np.ndarray


def show(run: Run) -> dict[str, Any] | None:
    if not run.results.fidelity:
        return None
    generators = []
    for fits in _by_generator(run.results.fidelity).values():
        closest = run.arrays(Closest, fits[0].closest)
        classes = {}
        for label, of in fits[0].classes.items():
            rows = [(key, title, [cell(fits, label, key, name) for name in COLUMNS]) for key, title in SETS.items()]
            near = _mean(fits, label, "generated", "near_parents")
            pairs = _pairs(closest, label) if closest else []
            classes[label] = {"of": of, "rows": rows, "pairs": pairs, "near_parents": near}
        generators.append({"first": fits[0], "num_fits": len(fits), "classes": classes})
    return {"generators": generators, "columns": COLUMNS, "figure": kid_plot(run.results.fidelity, run.folder)}


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
    alt = "Kernel distance of each generator and class, beside that of real images of other lesions and of copies."
    caption = (
        "Kernel distance to test images of the class, with 95 % intervals; left is better. A generator is as good "
    )
    caption += "as real images of other lesions where it reaches their mark; copies of training images reach it too."
    return finish(figure, folder, "fidelity", alt, caption)


def _by_generator(fidelity: Iterable[FidelityRun]) -> dict[str, list[FidelityRun]]:
    found: dict[str, list[FidelityRun]] = {}
    for made in sorted(fidelity, key=lambda made: made.trial):
        found.setdefault(made.name, []).append(made)
    return found


def _mean(fits: list[FidelityRun], label: str, key: str, column: str) -> float | None:
    """Mean over the fits that have the score."""
    scores = [getattr(of, key) for fit in fits if (of := fit.classes.get(label))]
    known = [value for score in scores if score and (value := getattr(score, column)) is not None]
    return float(np.mean(known)) if known else None


def cell(fits: list[FidelityRun], label: str, key: str, column: str) -> str:
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


def _pairs(closest: Closest, label: str) -> list[dict[str, Any]]:
    """Pictures as data URIs."""
    return [
        {"generated": thumbnail(closest.generated[row]), "nearest": thumbnail(closest.nearest[row])}
        | {"distance": closest.distance[row], "is_copy": closest.is_copy[row]}
        for row in np.flatnonzero(closest.label == label)
    ]
