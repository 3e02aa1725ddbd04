"""Figures of the arms' scores: classes, confusions, reliability."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from moulage.report import plot
from moulage.report.plot import BLUE, COLOURS, INK, LINE, MARKERS, MUTED, Plot, short
from moulage.report.roles import MOST_SHOWN, by_importance
from moulage.report.run_files import Run
from moulage.report.tables import estimate, scored_part, scores_of, total_confusion
from moulage.results import Reliability, Results


def class_scores(run: Run, folder: Path) -> Plot | None:
    """Precision, recall and F1 of each class, a mark an arm: the mean over the trials, and a line for their range.

    With many arms only the most important ones.
    """
    part, names = scored_part(run.results), run.results.study.classes
    arms = by_importance(run.results)
    more, arms = len(arms[MOST_SHOWN:]), arms[:MOST_SHOWN]
    if part is None or not arms:
        return None
    figure = Figure(figsize=(5, 0.9 + len(names) * (0.16 + 0.1 * len(arms))), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    marks = [
        {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)], "ms": 4} for k in range(len(arms))
    ]
    for axes, score in zip(panels, ("precision", "recall", "f1"), strict=True):
        for k, arm in enumerate(arms):
            fits = [scores.classes for scores in scores_of(run.results, arm, part)]
            for y, name in enumerate(names):
                values = [getattr(fit[name], score) for fit in fits if name in fit]
                height = y + (k - (len(arms) - 1) / 2) * 0.75 / len(arms)
                _range(axes, height, [100 * value for value in values if value is not None], marks[k])
        axes.set(title="F1" if score == "f1" else score, xlim=(-4, 104), xticks=(0, 50, 100), xlabel="%")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        for y in range(1, len(names)):
            axes.axhline(y - 0.5, color=LINE, lw=0.6)
    panels[0].set_yticks(range(len(names)), [short(name, 16) for name in names])
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    handles = [Line2D([], [], ls="", **mark) for mark in marks]
    plot.legend(figure, handles, [short(arm) for arm in arms])
    alt = "Precision, recall and F1 of each class and arm; the numbers stand in the tables below."
    caption = f"Scores of each class on the {part} part. A mark is the mean over the trials, the line runs from the "
    caption += "lowest to the highest trial." + plot.left_out(more, "the tables")
    return plot.finish(figure, folder, "classes", alt, caption)


def _range(axes: Axes, height: float, values: Sequence[float], mark: dict) -> None:
    if values:
        axes.plot([min(values), max(values)], [height, height], color=mark["color"], lw=1)
        axes.plot(float(np.mean(values)), height, **mark)


def confusion(run: Run, arm: str, folder: Path) -> Plot | None:
    """Confusion matrix of an arm: counts summed over the trials, colour by share of the true class."""
    part = scored_part(run.results)
    counts, num_fits = total_confusion(run.results, arm, part)
    if counts is None:
        return None
    names, size = [short(name, 12) for name in run.results.study.classes], len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(1.2 + 0.34 * max(size, 5), 1.1 + 0.3 * max(size, 5)), layout="constrained")
    axes = figure.add_subplot()
    for i, j in zip(*np.nonzero(counts), strict=True):
        axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, color=BLUE, alpha=shares[i, j], lw=0))
        if size <= 20:
            colour = "#ffffff" if shares[i, j] > 0.85 else INK
            axes.text(j, i, f"{counts[i, j]}", ha="center", va="center", fontsize=7, color=colour, in_layout=False)
    axes.set_xticks(range(size), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(size), names)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xlabel="predicted", ylabel="true", title=short(arm))
    axes.title.set_fontweight("bold")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set(visible=True, color=LINE)
    right = ", ".join(f"{n} {100 * shares[k, k]:.0f} %" for k, n in enumerate(run.results.study.classes))
    alt = f"Confusion matrix of arm {arm}: share of each true class that was predicted right: {right}."
    counted = f"images of the {part} part, counts summed over {plot.num_trials(num_fits)}"
    caption = f"{arm}: {counted}; colour is the share of the row."
    return plot.finish(figure, folder, f"confusion-{plot.slug(arm)}", alt, caption)


def reliability(results: Results, folder: Path) -> Plot | None:
    """Accuracy over confidence in bins, a panel for each of the most important arms."""
    order = {name: k for k, name in enumerate(by_importance(results))}
    chosen = [row for row in results.reliability if any(_known(row))]
    chosen = sorted(chosen, key=lambda row: order.get(row.arm, len(order)))[:MOST_SHOWN]
    if not chosen:
        return None
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = Figure(figsize=(0.5 + 1.5 * columns, 0.4 + 1.75 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for k, (axes, row) in enumerate(zip(panels, chosen, strict=False)):
        _reliability_panel(axes, row)
        if k % columns == 0:
            axes.set_ylabel("accuracy (%)")
        if k + columns >= len(chosen):  # no panel below it, though the last row may be shorter
            axes.set_xlabel("confidence (%)")
            axes.tick_params(labelbottom=True)
    for axes in panels[len(chosen) :]:
        axes.set_visible(False)
    gaps = "; ".join(f"{row.arm} {estimate(row.error, 'expected_calibration_error')}" for row in chosen)
    alt = f"Reliability diagrams; mean gap between confidence and accuracy in points: {gaps}."
    caption = (
        "Accuracy of images of like confidence, all trials pooled. Marks below the line: more confident than right. "
        "The area of a mark goes with its number of images; ECE, the calibration error, is the mean gap in points."
    ) + plot.left_out(len(results.reliability) - len(chosen), "the table")
    return plot.finish(figure, folder, "reliability", alt, caption)


def _reliability_panel(axes: Axes, row: Reliability) -> None:
    points = np.array(_known(row), np.float64)
    axes.plot([0, 100], [0, 100], "--", color=MUTED, lw=0.9)
    axes.plot(100 * points[:, 0], 100 * points[:, 1], color=BLUE, lw=1)
    axes.scatter(100 * points[:, 0], 100 * points[:, 1], s=4 + 70 * points[:, 2] / points[:, 2].max(), color=BLUE, lw=0)
    axes.set(xlim=(0, 103), ylim=(0, 103), aspect="equal")
    axes.set_title(short(row.arm, 18), fontsize=8.5, fontweight="bold")
    if row.error is not None:
        axes.text(4, 95, f"ECE {100 * row.error:.1f}", va="top", fontsize=8)


def _known(row: Reliability) -> list[tuple[float, float, int]]:
    """The bins that hold images."""
    return [(x, y, size) for x, y, size in row.bins if x is not None and y is not None and size]
