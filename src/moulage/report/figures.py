"""All figures of a report, drawn with matplotlib's object API: no display, no global figure, no clock.

Each function draws one figure and returns a ``Plot``, or None where the run has no data for it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from moulage.report import fidelity, plot
from moulage.report import figures_evidence as evidence
from moulage.report import figures_scores as scores
from moulage.report import figures_training as training
from moulage.report.plot import Plot
from moulage.report.reading import Run, first_of_each
from moulage.report.roles import by_importance, with_role


@dataclass(frozen=True)
class Plots:
    """The figures of a run; what there is no data for is empty or None. ``distances`` are keyed by generator.

    Where there is one for each arm, the most important arms come first.
    """

    differences: Plot | None
    class_effects: list[Plot]
    power: Plot | None
    slices: list[Plot]
    classes: Plot | None
    reliability: Plot | None
    curves: list[Plot]
    confusions: list[Plot]
    losses: list[Plot]
    distances: dict[str, Plot]
    fidelity: Plot | None = None


def all_plots(run: Run, folder: Path) -> Plots:
    """Draw every figure, write ``folder/<name>.svg`` and ``.png``, and return them for the page."""
    results, arms = run.results, by_importance(run.results)
    generated = with_role(results, "synthetic")
    epochs = [record for fit in results.fits for record in run.logs.get(fit.folder, [])]
    found = [r[key] for r in epochs for key in ("train_loss", "validation_loss") if r.get(key)]
    highest_loss = max(filter(math.isfinite, found), default=1.0)
    shown = first_of_each(results.generators, lambda made: made.folder in run.galleries)
    with plot.style():
        return Plots(
            differences=evidence.forest(results, folder),
            class_effects=_existing(evidence.class_effects(results, arm, folder) for arm in generated),
            power=evidence.power(results, folder),
            slices=_existing(evidence.slices(results, arm, folder) for arm in generated),
            classes=scores.class_scores(run, folder),
            reliability=scores.reliability(results, folder),
            curves=_existing(training.curves(run, arm, folder, highest_loss) for arm in arms),
            confusions=_existing(scores.confusion(run, arm, folder) for arm in arms),
            losses=_existing(
                training.losses(run, name, folder) for name in sorted({made.name for made in results.generators})
            ),
            distances={
                made.name: training.distances(made, run.galleries[made.folder], folder)
                for made in shown
                if len(run.galleries[made.folder].distance)
            },
            fidelity=fidelity.kid_plot(results.fidelity, folder),
        )


def _existing(plots: Iterable[Plot | None]) -> list[Plot]:
    return [drawn for drawn in plots if drawn is not None]
