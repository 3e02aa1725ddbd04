"""All arms against their references: the primary measure as a figure, every measure as a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from moulage.evaluation.measure_names import is_lower_better
from moulage.report import intervals
from moulage.report.plot import BLUE, MUTED, Plot, finish, short
from moulage.report.roles import TITLES, best_rival, plain_arm, with_role
from moulage.report.run_files import Run
from moulage.report.tables import amount, comparisons_by_measure, estimate, scale, told, word
from moulage.results import Comparison, Results, Study

TITLE = "Comparison"
Row = tuple[str, Comparison | None]
"""Label and what is drawn in one row of the forest; without anything to draw, the label is a heading."""


def show(run: Run) -> dict[str, Any] | None:
    results = run.results
    if not results.comparisons:
        return None
    return {
        "forest": forest(results, run.folder),
        "rival_choice": rival_choice(results),
        "groups": comparisons_by_measure(results),
        "generated": with_role(results, "synthetic"),
        "cautious": any(row.cautious_low is not None for row in results.comparisons),
        "ways": list(dict.fromkeys(row.method for row in results.comparisons if row.method)),
        "notes": list(dict.fromkeys(note for row in results.comparisons for note in row.notes)),
    }


def rival_choice(results: Results) -> str:
    """How the best rival was chosen, in a sentence; empty where none was."""
    chosen = results.best_rival
    if chosen is None:
        return ""
    known = chosen.validation
    tried = sorted(known, key=known.__getitem__, reverse=not is_lower_better(chosen.measure))
    scores = ", ".join(f"{name} {estimate(known[name], chosen.measure)}" for name in tried)
    return f"The best rival, {chosen.arm}, was chosen by {word(chosen.measure)} on the validation part ({scores})."


def forest(results: Results, folder: Path) -> Plot | None:
    """Differences in the primary measure: every arm with ``none``; below, generated images with other references."""
    study = results.study
    panels = _panels(results)
    if not panels:
        return None
    sizes = [len(rows) for _, rows in panels]
    figure = Figure(figsize=(5, 0.6 + 0.35 * len(panels) + 0.25 * sum(sizes)), layout="constrained")
    drawn = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=[n + 1 for n in sizes])[:, 0]
    for axes, (title, rows) in zip(drawn, panels, strict=True):
        intervals.band(axes, study)
        intervals.rows(axes, [label for label, _ in rows], [row is None for _, row in rows])
        axes.set_title(title, loc="left", fontweight="bold")
        for y, (_, row) in enumerate(rows):
            if row is not None:
                look = (BLUE, "o") if row.arm in with_role(results, "synthetic") else (MUTED, "s")
                intervals.interval(axes, y, row, scale(study.primary), *look)
                place = ("axes fraction", "data")
                text = told(row, study.primary)
                axes.annotate(text, (1.02, y), xycoords=place, va="center", fontsize=8, annotation_clip=False)
    intervals.label(drawn[-1], study.primary)
    shown = [row for _, rows in panels for _, row in rows if row is not None]
    words = "; ".join(f"{row.arm} against {row.reference} {told(row, study.primary)}" for row in shown)
    return finish(figure, folder, "differences", f"Differences with intervals: {words}.", _caption(study, shown))


def _panels(results: Results) -> list[tuple[str, list[Row]]]:
    """Title and rows of each panel; those without a row are left out."""
    chosen = [c for c in results.comparisons if c.measure == results.study.primary]
    plain, rival, generated = plain_arm(results), best_rival(results), with_role(results, "synthetic")
    roles = {arm.name: arm.role for arm in results.arms}
    panels: list[tuple[str, list[Row]]] = []
    first: list[Row] = []
    for role, title in TITLES.items():
        rows = [c for c in chosen if c.reference == plain and roles[c.arm] == role]
        rows.sort(key=lambda c: c.arm != rival)
        first += [(title, None)] if rows else []
        first += [(short(c.arm) + (" (best rival)" if c.arm == rival else ""), c) for c in rows]
    if first:
        panels.append((f"against {short(plain or '')}", first))
    others = [c for c in chosen if c.reference != plain]
    judged = [c for c in others if c.arm in generated]
    second: list[Row] = []
    for arm in dict.fromkeys(c.arm for c in judged or others):
        second.append((short(arm), None))
        rows = [c for c in others if c.arm == arm]
        second += [(short(c.reference) + (" (best rival)" if c.reference == rival else ""), c) for c in rows]
    if second:
        panels.append(("against other references", second))
    return panels


def _caption(study: Study, shown: Sequence[Comparison]) -> str:
    caption = f"Difference in {word(study.primary)}, with 95\u00a0% intervals."
    if any(row.cautious_low is not None for row in shown):
        caption += " The thin line is the cautious interval of Nadeau and Bengio."
    caption += f" The band is the smallest effect that matters, ±{amount(study.smallest_effect, study.primary)}."
    return caption + " A hollow mark has no interval."
