"""The figures of the report, drawn with matplotlib's object API: no display, no global figure, no clock.

Each function draws one figure and returns a ``Plot``, or None where the run has no data for it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from moulage.report import plot
from moulage.report.plot import BAND, BLUE, COLOURS, INK, LINE, MARKERS, MUTED, VERMILLION, Plot, finish, short, slug
from moulage.report.reading import Comparison, Gallery, GeneratorRun, Run, first_of_each
from moulage.report.tables import caption_of_measure, scale, scored_part, signed, total_confusion, word


@dataclass(frozen=True)
class Plots:
    """The figures of a run; what there is no data for is empty or None. ``distances`` are keyed by generator."""

    differences: Plot | None
    classes: Plot | None
    curves: list[Plot]
    confusions: list[Plot]
    losses: list[Plot]
    distances: dict[str, Plot]


def all_plots(run: Run, folder: Path) -> Plots:
    """Draw every figure, write ``folder/<name>.svg`` and ``.png``, and return them for the page."""
    arms, generators = [arm.name for arm in run.results.arms], run.results.generators
    epochs = [record for fit in run.results.fits for record in run.logs.get(fit.folder, [])]
    found = [r[key] for r in epochs for key in ("train_loss", "validation_loss") if r.get(key)]
    highest_loss = max(filter(math.isfinite, found), default=1.0)
    shown = first_of_each(generators, lambda made: made.gallery in run.galleries)
    with plot.style():
        return Plots(
            differences=differences(run, folder),
            classes=class_scores(run, folder),
            curves=_existing(curves(run, arm, folder, highest_loss) for arm in arms),
            confusions=_existing(confusion(run, arm, folder) for arm in arms),
            losses=_existing(losses(run, name, folder) for name in sorted({made.name for made in generators})),
            distances={
                made.name: distances(made, run.galleries[made.gallery], folder)
                for made in shown
                if len(run.galleries[made.gallery].distance)
            },
        )


def differences(run: Run, folder: Path) -> Plot | None:
    """Each arm's difference to its reference in the primary measure, with its 95 % interval and the smallest effect."""
    study = run.results.study
    chosen = [c for c in run.results.comparisons if c.measure == study.primary and c.difference is not None]
    if not chosen:
        return None
    references = list(dict.fromkeys(c.reference for c in chosen))
    rows: list[str | Comparison] = []
    for reference in references:
        rows += [f"against {short(reference)}", *(c for c in chosen if c.reference == reference)]
    figure = Figure(figsize=(4.9, 0.75 + 0.27 * len(rows)), layout="constrained")
    axes, factor = figure.add_subplot(), scale(study.primary)
    if study.smallest_effect:
        axes.axvspan(-factor * study.smallest_effect, factor * study.smallest_effect, color=BAND, lw=0)
    axes.axvline(0, color=INK, lw=1)
    for y, row in enumerate(rows):
        if isinstance(row, Comparison):
            _interval(axes, y, row, factor)
    axes.set_yticks(range(len(rows)), [row if isinstance(row, str) else short(row.arm) for row in rows])
    for label, row in zip(axes.get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if isinstance(row, str) else "normal")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    unit = " (points)" if factor == 100 else ""
    axes.set_xlabel(f"difference in {word(study.primary)}{unit}")
    told = "; ".join(f"{c.arm} against {c.reference} {_told(c, factor)}" for c in chosen)
    return finish(figure, folder, "differences", f"Differences with intervals: {told}.", caption_of_measure(study))


def _interval(axes: Axes, y: int, row: Comparison, factor: int) -> None:
    """A point and its interval in one row; a hollow point where there is no interval."""
    face = "none"
    if row.low is not None and row.high is not None:
        axes.plot([factor * row.low, factor * row.high], [y, y], color=BLUE, lw=2.2, solid_capstyle="butt")
        face = BLUE
    if row.difference is not None:
        axes.plot(factor * row.difference, y, "o", ms=6, color=BLUE, mfc=face)
    place = ("axes fraction", "data")
    axes.annotate(_told(row, factor), (1.02, y), xycoords=place, va="center", fontsize=8, annotation_clip=False)


def _told(row: Comparison, factor: int) -> str:
    if row.low is None or row.high is None:
        return signed(row.difference, factor)
    return f"{signed(row.difference, factor)} [{signed(row.low, factor)}, {signed(row.high, factor)}]"


def class_scores(run: Run, folder: Path) -> Plot | None:
    """Precision, recall and F1 of each class, a mark an arm: the mean over the trials, and a line for their range."""
    part, names = scored_part(run.results), run.results.study.classes
    arms = [arm.name for arm in run.results.arms]
    if part is None or not arms:
        return None
    figure = Figure(figsize=(6.2, 0.9 + len(names) * (0.16 + 0.1 * len(arms))), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    marks = [
        {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)], "ms": 4} for k in range(len(arms))
    ]
    for axes, score in zip(panels, ("precision", "recall", "f1"), strict=True):
        for k, arm in enumerate(arms):
            fits = [fit.scores[part].classes for fit in run.results.fits if fit.arm == arm and part in fit.scores]
            for y, name in enumerate(names):
                values = [getattr(fit[name], score) for fit in fits if name in fit]
                height = y + (k - (len(arms) - 1) / 2) * 0.75 / len(arms)
                _range(axes, height, [100 * value for value in values if value is not None], marks[k])
        axes.set(title="F1" if score == "f1" else score, xlim=(-3, 103), xlabel="%")
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        for y in range(1, len(names)):
            axes.axhline(y - 0.5, color=LINE, lw=0.6)
    panels[0].set_yticks(range(len(names)), [short(name, 16) for name in names])
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    handles = [Line2D([], [], ls="", **mark) for mark in marks]
    figure.legend(handles, [short(arm) for arm in arms], loc="outside lower center", ncols=min(4, len(arms)))
    return finish(
        figure,
        folder,
        "classes",
        "Precision, recall and F1 of each class and arm; the numbers stand in the tables below.",
        f"Scores of each class on the {part} part. A mark is the mean over the trials, the line runs from the lowest "
        "to the highest trial.",
    )


def _range(axes: Axes, height: float, values: Sequence[float], mark: dict) -> None:
    if values:
        axes.plot([min(values), max(values)], [height, height], color=mark["color"], lw=1)
        axes.plot(float(np.mean(values)), height, **mark)


def curves(run: Run, arm: str, folder: Path, highest_loss: float) -> Plot | None:
    """Loss and accuracy over the epochs of all fits of an arm: a thin line a trial. All arms have the same axes."""
    logs = [log for fit in run.results.fits if fit.arm == arm and (log := run.logs.get(fit.folder))]
    if not logs:
        return None
    figure = Figure(figsize=(4.6, 2.1), layout="constrained")
    for axes, what, factor in zip(figure.subplots(1, 2), ("loss", "accuracy"), (1, 100), strict=True):
        for part, colour, dash in (("train", VERMILLION, "--"), ("validation", BLUE, "-")):
            for t, log in enumerate(logs):
                points = [(r["epoch"], factor * r[key]) for r in log if r.get(key := f"{part}_{what}") is not None]
                if points:
                    label = part if t == 0 else None
                    axes.plot(*zip(*points, strict=True), dash, color=colour, lw=0.9, marker=_dot(points), label=label)
        axes.set(xlabel="epoch", ylabel="accuracy (%)" if what == "accuracy" else what)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(0, 1.05 * highest_loss if what == "loss" else 100)
        if what == "accuracy":
            axes.legend(loc="lower right")
    figure.suptitle(short(arm), fontsize=9, fontweight="bold")
    return finish(
        figure,
        folder,
        f"curves-{slug(arm)}",
        f"Loss and accuracy over epochs of arm {arm}, {_trials(len(logs))}.",
        f"{arm}: a thin line for each trial. Dashed: training part; solid: validation part.",
    )


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
    return finish(
        figure,
        folder,
        f"confusion-{slug(arm)}",
        f"Confusion matrix of arm {arm}: share of each true class that was predicted right: "
        + ", ".join(f"{n} {100 * shares[k, k]:.0f} %" for k, n in enumerate(run.results.study.classes))
        + ".",
        f"{arm}: images of the {part} part, counts summed over {_trials(num_fits)}; colour is the share of the row.",
    )


def losses(run: Run, name: str, folder: Path) -> Plot | None:
    """All losses that a generator logged, over its steps, a thin line a trial."""
    logs = [log for made in run.results.generators if made.name == name and (log := run.logs.get(made.folder))]
    keys = sorted({key for log in logs for record in log for key in record if key.startswith("loss")})
    if not keys:
        return None
    figure = Figure(figsize=(4.6, 2.1), layout="constrained")
    axes = figure.add_subplot()
    for k, key in enumerate(keys):
        for t, log in enumerate(logs):
            points = np.array([(r["step"], r[key]) for r in log if isinstance(r.get(key), int | float)], np.float64)
            points = plot.thin(points.reshape(-1, 2))
            dash = ("-", "--", ":", "-.")[k % 4]
            label = {"loss_d": "discriminator", "loss_g": "generator"}.get(key, word(key)) if t == 0 else None
            axes.plot(*points.T, dash, lw=0.9, color=COLOURS[k % len(COLOURS)], label=label)
    axes.set(xlabel="step", ylabel="loss")
    axes.set_title(short(name), fontweight="bold")
    figure.legend(loc="outside lower center", ncols=4)
    return finish(
        figure,
        folder,
        f"losses-{slug(name)}",
        f"Losses of generator {name} over its steps.",
        f"{name}: losses over the steps, a line for each trial; long logs are averaged in bins.",
    )


def distances(made: GeneratorRun, gallery: Gallery, folder: Path) -> Plot:
    """Cumulative distances to the nearest training image: generated beside real images."""
    figure = Figure(figsize=(4.2, 2.2), layout="constrained")
    axes = figure.add_subplot()
    for values, colour, dash, label in (
        (gallery.real_distance, MUTED, "--", "held-out real images"),
        (gallery.distance, BLUE, "-", "generated images"),
    ):
        if len(values):
            axes.step(
                np.sort(values), 100 * np.arange(1, len(values) + 1) / len(values), dash, color=colour, label=label
            )
    axes.set(xlabel="distance to the nearest training image (grey levels)", ylabel="images (%)", ylim=(0, 102))
    axes.set_xlim(left=0)
    axes.legend(loc="upper left")
    return finish(
        figure,
        folder,
        f"distances-{slug(made.name)}",
        f"Cumulative distances of generated and of real images to the nearest training image, generator {made.name}.",
        f"{made.name}: share of images whose nearest training image is at most so far away. A curve of generated "
        "images far left of the real one speaks for copies.",
    )


def _existing(plots: Iterable[Plot | None]) -> list[Plot]:
    return [drawn for drawn in plots if drawn is not None]


def _dot(points: list) -> str | None:
    """A single epoch is no line: mark it."""
    return "o" if len(points) == 1 else None


def _trials(number: int) -> str:
    return "1 trial" if number == 1 else f"{number} trials"
