"""Loss and accuracy of the classifiers while they were trained."""

import math
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from moulage.report.plot import BLUE, VERMILLION, Plot, finish, num_trials, short, slug
from moulage.report.roles import by_importance
from moulage.report.run_files import Run
from moulage.runs import read_log

TITLE = "Learning curves"
Log = list[dict[str, Any]]
"""The records of a ``log.jsonl``, in order of epochs."""


def show(run: Run) -> dict[str, Any] | None:
    logs: dict[str, list[Log]] = {arm: [] for arm in by_importance(run.results)}
    for fit in run.results.fits:
        if len(log := read_log(run.folder / fit.folder, "epoch")) > 1:  # a fit at the optimum has no curve
            logs[fit.arm].append(log)
    epochs = [record for of_arm in logs.values() for log in of_arm for record in log]
    losses = [r[key] for r in epochs for key in ("train_loss", "validation_loss") if r.get(key)]
    highest = max(filter(math.isfinite, losses), default=1.0)
    plots = [figure(arm, of_arm, run.folder, highest) for arm, of_arm in logs.items() if of_arm]
    return {"plots": plots} if plots else None


def figure(arm: str, logs: list[Log], folder: Path, highest_loss: float) -> Plot:
    """Loss and accuracy over the epochs of all fits of an arm: a thin line a trial. All arms have the same axes."""
    drawn = Figure(figsize=(4.6, 2.1), layout="constrained")
    for axes, what, factor in zip(drawn.subplots(1, 2), ("loss", "accuracy"), (1, 100), strict=True):
        for part, colour, dash in (("train", VERMILLION, "--"), ("validation", BLUE, "-")):
            for t, log in enumerate(logs):
                points = [(r["epoch"], factor * r[key]) for r in log if r.get(key := f"{part}_{what}") is not None]
                if points:
                    label, dot = part if t == 0 else None, "o" if len(points) == 1 else None  # one epoch is no line
                    axes.plot(*zip(*points, strict=True), dash, color=colour, lw=0.9, marker=dot, label=label)
        axes.set(xlabel="epoch", ylabel="accuracy (%)" if what == "accuracy" else what)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(0, 1.05 * highest_loss if what == "loss" else 100)
        if what == "accuracy":
            axes.legend(loc="lower right")
    drawn.suptitle(short(arm), fontsize=9, fontweight="bold")
    alt = f"Loss and accuracy over epochs of arm {arm}, {num_trials(len(logs))}."
    caption = f"{arm}: a thin line for each trial. Dashed: training part; solid: validation part."
    return finish(drawn, folder, f"curves-{slug(arm)}", alt, caption)
