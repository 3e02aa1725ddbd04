"""What each arm with generated images did to every class."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from moulage.report import intervals
from moulage.report.plot import BAND, LINE, Plot, finish, short, slug
from moulage.report.roles import with_role
from moulage.report.run_files import Run
from moulage.report.tables import told, word
from moulage.results import Results

TITLE = "Effects on each class"


def show(run: Run) -> dict[str, Any] | None:
    drawn = [class_effects(run.results, arm, run.folder) for arm in with_role(run.results, "synthetic")]
    return {"plots": plots} if (plots := list(filter(None, drawn))) else None


def class_effects(results: Results, arm: str, folder: Path) -> Plot | None:
    """Differences of one arm to its references in average precision and recall of every class."""
    found = {(*c.measure.split(":", 1), c.reference): c for c in results.class_effects if c.arm == arm}
    if not found:
        return None
    study, measures = results.study, list(dict.fromkeys(key[0] for key in found))
    names, references = study.classes, list(dict.fromkeys(key[2] for key in found))
    figure = Figure(figsize=(4.9, 1.2 + 0.34 * len(names)), layout="constrained")
    panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    intervals.rows(panels[0], [short(name, 16) for name in names], [name in study.target_classes for name in names])
    for axes, measure in zip(panels, measures, strict=True):
        intervals.frame(axes)
        for y, name in enumerate(names):
            if name in study.target_classes:
                axes.axhspan(y - 0.5, y + 0.5, color=BAND, lw=0)
            if y:
                axes.axhline(y - 0.5, color=LINE, lw=0.6)
        for k, reference in enumerate(references):
            for y, name in enumerate(names):
                if row := found.get((measure, name, reference)):
                    place = y + intervals.offset(k, len(references))
                    intervals.interval(axes, place, row, 100, *intervals.mark(k))
        axes.set(title=word(measure), xlabel="difference (points)")
    intervals.references(figure, references)
    figure.suptitle(short(arm), fontsize=9, fontweight="bold")
    text = "; ".join(f"{name} {word(kind)} {told(c, kind)} against {of}" for (kind, name, of), c in found.items())
    targets = " Target classes stand on a band, in bold." if study.target_classes else ""
    caption = (
        f"{arm}: difference in each class, with 95\u00a0% intervals.{targets} Of so many intervals, which are not "
        "corrected for their number, about one in twenty misses."
    )
    return finish(figure, folder, f"class-effects-{slug(arm)}", f"Effects of {arm} on each class: {text}.", caption)
