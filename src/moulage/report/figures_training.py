"""Figures of what happened while classifiers and generators were trained, and of what the generators drew."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from moulage.report import plot
from moulage.report.plot import BLUE, COLOURS, MUTED, VERMILLION, Plot, finish, num_trials, short, slug
from moulage.report.reading import Gallery, Run
from moulage.results.generated import GeneratorRun


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
        f"Loss and accuracy over epochs of arm {arm}, {num_trials(len(logs))}.",
        f"{arm}: a thin line for each trial. Dashed: training part; solid: validation part.",
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
            label = (
                {"loss_d": "discriminator", "loss_g": "generator"}.get(key, key.replace("_", " ")) if t == 0 else None
            )
            axes.plot(*points.T, dash, lw=0.9, color=COLOURS[k % len(COLOURS)], label=label)
    axes.set(xlabel="step", ylabel="loss")
    axes.set_title(short(name), fontweight="bold")
    plot.legend(figure, *axes.get_legend_handles_labels())
    return finish(
        figure,
        folder,
        f"losses-{slug(name)}",
        f"Losses of generator {name} over its steps.",
        f"{name}: losses over the steps, a line for each trial; long logs are averaged in bins.",
    )


def distances(made: GeneratorRun, gallery: Gallery, folder: Path) -> Plot:
    """Cumulative distances to the nearest training image: generated beside real images."""
    figure = Figure(figsize=(4.2, 2.3), layout="constrained")
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
    plot.legend(figure, *axes.get_legend_handles_labels())
    return finish(
        figure,
        folder,
        f"distances-{slug(made.name)}",
        f"Cumulative distances of generated and of real images to the nearest training image, generator {made.name}.",
        f"{made.name}: share of images whose nearest training image is at most so far away. A curve of generated "
        "images far left of the real one speaks for copies.",
    )


def _dot(points: list) -> str | None:
    """A single epoch is no line: mark it."""
    return "o" if len(points) == 1 else None
