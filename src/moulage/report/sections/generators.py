"""Losses of the generators, and what they drew while they were trained."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from moulage.report import plot
from moulage.report.pictures import shrunk
from moulage.report.plot import COLOURS, Plot, finish, short, slug
from moulage.report.run_files import Run, first_of_each
from moulage.results.generated import GeneratorRun
from moulage.runs import read_log

TITLE = "Generator training"
MOST_PREVIEWS = 8
"""In one page, all generators together."""
PREVIEW_SIZE = (512, 256)
"""Pixels of a preview grid at most, in width and height: grids of several classes are wide and low."""


def show(run: Run) -> dict[str, Any] | None:
    names = sorted({made.generator for made in run.results.generators})
    plots, grids = list(filter(None, (losses(run, name) for name in names))), previews(run)
    return {"plots": plots, "previews": grids} if plots or grids else None


def losses(run: Run, name: str) -> Plot | None:
    """All losses that a generator logged, over its steps, a thin line a trial."""
    folders = dict.fromkeys(run.folder / made.folder for made in run.results.generators if made.generator == name)
    logs = [log for folder in folders if (log := read_log(folder, "step"))]
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
            label = None if t else {"loss_d": "discriminator", "loss_g": "generator"}.get(key, key.replace("_", " "))
            axes.plot(*points.T, dash, lw=0.9, color=COLOURS[k % len(COLOURS)], label=label)
    axes.set(xlabel="step", ylabel="loss")
    axes.set_title(short(name), fontweight="bold")
    plot.legend(figure, *axes.get_legend_handles_labels())
    alt = f"Losses of generator {name} over its steps."
    caption = f"{name}: losses over the steps, a line for each trial; long logs are averaged in bins."
    return finish(figure, run.folder, f"losses-{slug(name)}", alt, caption)


def previews(run: Run) -> list[tuple[GeneratorRun, list[tuple[str, str]]]]:
    """Of each generator some preview grids of one run, evenly spaced from first to last: (file name, data URI)."""
    grids = {made.folder: _grids(run.folder / made.folder / "previews") for made in run.results.generators}
    shown = first_of_each((made for made in run.results.generators if grids[made.folder]), lambda made: made.generator)
    limit = max(2, MOST_PREVIEWS // max(1, len(shown)))
    chosen = []
    for made in shown:
        paths = grids[made.folder]
        rows = np.unique(np.linspace(0, len(paths) - 1, min(limit, len(paths))).round().astype(int))
        chosen.append((made, [(paths[row].stem, shrunk(paths[row], PREVIEW_SIZE)) for row in rows]))
    return chosen


def _grids(folder: Path) -> list[Path]:
    """Preview grids in the order of the numbers in their names: 900 before 1000."""

    def numbered(path: Path) -> list[int | str]:
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]

    return sorted(folder.glob("*.png"), key=numbered)
