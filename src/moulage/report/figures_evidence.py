"""Figures of what the verdict stands on: differences with intervals, classes, power, slices."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from moulage.report.plot import (
    BAND,
    BLUE,
    COLOURS,
    INK,
    LINE,
    MARKERS,
    MUTED,
    VERMILLION,
    Plot,
    finish,
    left_out,
    legend,
    short,
    slug,
)
from moulage.report.roles import MOST_SHOWN, TITLES, best_rival, plain_arm, with_role
from moulage.report.tables import amount, scale, slices_of_primary, told, unit, word
from moulage.results import Comparison, Power, Results, SliceRow, Study

Row = tuple[str, Comparison | None]
"""Label and what is drawn in one row of the forest; without anything to draw, the label is a heading."""


def forest(results: Results, folder: Path) -> Plot | None:
    """Differences in the primary measure: every arm with ``none``; below, generated images with other references."""
    study = results.study
    panels = _forest_panels(results)
    if not panels:
        return None
    sizes = [len(rows) for _, rows in panels]
    figure = Figure(figsize=(5, 0.6 + 0.35 * len(panels) + 0.25 * sum(sizes)), layout="constrained")
    drawn = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=[n + 1 for n in sizes])[:, 0]
    for axes, (title, rows) in zip(drawn, panels, strict=True):
        _band(axes, study)
        _rows(axes, [label for label, _ in rows], [row is None for _, row in rows])
        axes.set_title(title, loc="left", fontweight="bold")
        for y, (_, row) in enumerate(rows):
            if row is not None:
                generated = row.arm in with_role(results, "synthetic")
                _interval(axes, y, row, scale(study.primary), BLUE if generated else MUTED, "o" if generated else "s")
                place = ("axes fraction", "data")
                text = told(row, study.primary)
                axes.annotate(text, (1.02, y), xycoords=place, va="center", fontsize=8, annotation_clip=False)
    _label(drawn[-1], study.primary)
    shown = [row for _, rows in panels for _, row in rows if row is not None]
    words = "; ".join(f"{row.arm} against {row.reference} {told(row, study.primary)}" for row in shown)
    return finish(figure, folder, "differences", f"Differences with intervals: {words}.", _forest_caption(study, shown))


def _forest_panels(results: Results) -> list[tuple[str, list[Row]]]:
    """Title and rows of each panel; those without a row are left out."""
    chosen = [c for c in results.comparisons if c.measure == results.study.primary and c.difference is not None]
    plain, rival, generated = plain_arm(results), best_rival(results), with_role(results, "synthetic")
    roles = {arm.name: arm.role for arm in results.arms}
    panels: list[tuple[str, list[Row]]] = []
    first: list[Row] = []
    for role, title in TITLES.items():
        rows = [c for c in chosen if c.reference == plain and roles.get(c.arm, "rival") == role]
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


def _forest_caption(study: Study, shown: Sequence[Comparison]) -> str:
    caption = f"Difference in {word(study.primary)}, with 95\u00a0% intervals."
    if any(row.cautious_low is not None for row in shown):
        caption += " The thin line is the cautious interval of Nadeau and Bengio."
    if study.smallest_effect:
        caption += f" The band is the smallest effect that matters, ±{amount(study.smallest_effect, study.primary)}."
    return caption + " A hollow mark has no interval."


def class_effects(results: Results, arm: str, folder: Path) -> Plot | None:
    """Differences of one arm to its references in average precision and recall of every class."""
    found = {
        (c.measure.partition(":")[0], c.measure.partition(":")[2], c.reference): c
        for c in results.class_effects
        if c.arm == arm and c.difference is not None
    }
    measures = [name for name in ("average_precision", "recall") if any(key[0] == name for key in found)]
    if not measures:
        return None
    study, references = results.study, list(dict.fromkeys(key[2] for key in found))
    figure = Figure(figsize=(4.9, 1.2 + 0.34 * len(study.classes)), layout="constrained")
    panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    _rows(
        panels[0], [short(name, 16) for name in study.classes], [name in study.target_classes for name in study.classes]
    )
    for axes, measure in zip(panels, measures, strict=True):
        _frame(axes)
        for y, name in enumerate(study.classes):
            if name in study.target_classes:
                axes.axhspan(y - 0.5, y + 0.5, color=BAND, lw=0)
            if y:
                axes.axhline(y - 0.5, color=LINE, lw=0.6)
        for k, reference in enumerate(references):
            for y, name in enumerate(study.classes):
                if row := found.get((measure, name, reference)):
                    _interval(axes, y + _offset(k, len(references)), row, 100, *_mark(k))
        axes.set(title=word(measure), xlabel="difference (points)")
    _legend(figure, references)
    figure.suptitle(short(arm), fontsize=9, fontweight="bold")
    text = "; ".join(
        f"{name} {word(measure)} {told(c, measure)} against {reference}"
        for (measure, name, reference), c in found.items()
    )
    targets = " Target classes stand on a band, in bold." if study.target_classes else ""
    return finish(
        figure,
        folder,
        f"class-effects-{slug(arm)}",
        f"Effects of {arm} on each class: {text}.",
        f"{arm}: difference in each class, with 95\u00a0% intervals.{targets} Of so many intervals, which are not "
        "corrected for their number, about one in twenty misses.",
    )


def power(results: Results, folder: Path) -> Plot | None:
    """The smallest difference that would be found in 80 % of studies, over trials and over test lesions."""
    lines = _hardest(results)
    if not lines:
        return None
    measure = lines[0].measure or results.study.primary
    figure = Figure(figsize=(5, 2.4 + 0.17 * len(lines)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for k, row in enumerate(lines):
        for axes, points in ((left, row.by_trials), (right, row.by_size)):
            known = [(x, scale(measure) * y) for x, y in points if y is not None]
            if known:
                mark = {"color": COLOURS[k % len(COLOURS)], "marker": MARKERS[k % len(MARKERS)], "ms": 4}
                axes.plot(*zip(*known, strict=True), **mark)
    for axes, points in ((left, [row.by_trials for row in lines]), (right, [row.by_size for row in lines])):
        if effect := results.study.smallest_effect:
            axes.axhline(scale(measure) * effect, color=INK, ls="--", lw=1)
        ticks = sorted({x for row in points for x, _ in row})
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.set_ylim(bottom=0)
    left.set_xlabel("trials")
    right.set_xlabel("multiple of the test lesions")
    left.set_ylabel("detectable" + (" (points)" if unit(measure) == "points" else ""))
    handles = [
        Line2D([], [], color=COLOURS[k % len(COLOURS)], marker=MARKERS[k % len(MARKERS)]) for k in range(len(lines))
    ]
    names = [f"{short(row.arm, 20)} against {short(row.reference, 20)}" for row in lines]
    legend(figure, handles, names)
    text = "; ".join(f"{row.arm} against {row.reference} {amount(row.detectable, measure)}" for row in lines)
    dashed = " The dashed line is the smallest effect that matters." if results.study.smallest_effect else ""
    return finish(
        figure,
        folder,
        "power",
        f"Detectable difference in {word(measure)}, now: {text}.",
        f"The true difference in {word(measure)} that 80\u00a0% of studies like this would find, over the number of "
        f"trials and of test lesions; of each arm the comparison that is hardest to decide.{dashed}"
        + left_out(len({row.arm for row in results.power}) - len(lines), "the table"),
    )


def _hardest(results: Results) -> list[Power]:
    """Of each arm the comparison with the largest detectable difference; at most as many arms as can be told apart."""
    rows = [row for row in results.power if row.by_trials or row.by_size]
    hardest = {row.arm: row for row in sorted(rows, key=lambda row: row.detectable or 0)}
    return [hardest[arm] for arm in dict.fromkeys(row.arm for row in rows)][:MOST_SHOWN]


def slices(results: Results, arm: str, folder: Path) -> Plot | None:
    """Differences of one arm to its references in the primary measure, on each slice of the test images."""
    rows: list[tuple[str, list[SliceRow]]] = []
    measure, found = slices_of_primary(results)
    references = list(dict.fromkeys(row.reference for part in found for row in part.rows if row.arm == arm))
    for column in dict.fromkeys(part.column for part in found):
        parts = [(part.value, [row for row in part.rows if row.arm == arm]) for part in found if part.column == column]
        known = [
            (short(value, 20), of_arm) for value, of_arm in parts if any(row.difference is not None for row in of_arm)
        ]
        rows += [(column, []), *known] if known else []
    if not rows:
        return None
    figure = Figure(figsize=(4.9, 1.1 + 0.25 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    headings = [label for label, of_arm in rows if not of_arm]
    if measure == results.study.primary:
        _band(axes, results.study)
    _rows(axes, [label for label, _ in rows], [not of_arm for _, of_arm in rows])
    for y, (_, of_arm) in enumerate(rows):
        for row in of_arm:
            k = references.index(row.reference)
            _interval(axes, y + _offset(k, len(references)), row, scale(measure), *_mark(k))
    _label(axes, measure)
    axes.set_title(short(arm), fontweight="bold")
    _legend(figure, references)
    text = "; ".join(
        f"{label} {told(row, measure)} against {row.reference}" for label, of_arm in rows for row in of_arm
    )
    return finish(
        figure,
        folder,
        f"slices-{slug(arm)}",
        f"Differences of {arm} by {', '.join(headings)}: {text}.",
        f"{arm}: difference in {word(measure)} on parts of the test images, with 95\u00a0% intervals. Slices are small "
        "and many: they raise questions, they are no results.",
    )


def _rows(axes: Axes, labels: Sequence[str], bold: Sequence[bool]) -> None:
    """Axes with a labelled row for each entry, downward, and a line at zero."""
    _frame(axes)
    axes.set_yticks(range(len(labels)), labels)
    for text, is_bold in zip(axes.get_yticklabels(), bold, strict=True):
        text.set_fontweight("bold" if is_bold else "normal")
    axes.set_ylim(len(labels) - 0.4, -0.6)


def _frame(axes: Axes) -> None:
    """A line at zero, and nothing that draws the eye to the rows."""
    axes.axvline(0, color=INK, lw=1)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _band(axes: Axes, study: Study) -> None:
    """Differences that do not matter."""
    if study.smallest_effect:
        effect = scale(study.primary) * study.smallest_effect
        axes.axvspan(-effect, effect, color=BAND, lw=0)


def _interval(axes: Axes, y: float, row: Comparison | SliceRow, factor: float, colour: str, marker: str) -> None:
    """A mark, its interval thick, the cautious one thin; a hollow mark where there is no interval."""
    face = "none"
    if isinstance(row, Comparison) and row.cautious_low is not None and row.cautious_high is not None:
        axes.plot([factor * row.cautious_low, factor * row.cautious_high], [y, y], color=colour, lw=0.9)
    if row.low is not None and row.high is not None:
        axes.plot([factor * row.low, factor * row.high], [y, y], color=colour, lw=2.2, solid_capstyle="butt")
        face = colour
    if row.difference is not None:
        axes.plot(factor * row.difference, y, marker, ms=5.5 if marker == "o" else 5, color=colour, mfc=face)


def _mark(k: int) -> tuple[str, str]:
    """Colour and marker of the k-th reference."""
    return (BLUE, VERMILLION, *COLOURS[2:])[k % len(COLOURS)], MARKERS[k % len(MARKERS)]


def _offset(k: int, number: int) -> float:
    """Where in its row the k-th of several marks stands."""
    return (k - (number - 1) / 2) * 0.55 / number


def _legend(figure: Figure, references: Sequence[str]) -> None:
    marks = [_mark(k) for k in range(len(references))]
    handles = [Line2D([], [], color=colour, marker=marker, lw=2.2, ms=5) for colour, marker in marks]
    legend(figure, handles, [f"against {short(name)}" for name in references])


def _label(axes: Axes, measure: str) -> None:
    axes.set_xlabel(f"difference in {word(measure)}" + (" (points)" if unit(measure) == "points" else ""))
