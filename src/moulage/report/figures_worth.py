"""The figure of a curve: gains over the number of images that are added, of real photographs, copies and drawn ones."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from moulage.curves import COPIES, REAL
from moulage.report.plot import BLUE, COLOURS, INK, MARKERS, MUTED, Plot, finish, legend, short
from moulage.report.roles import MOST_SHOWN, plain_arm
from moulage.report.tables import scale, told, unit, word
from moulage.results import Comparison, Results

APART = 1.4
"""Factor between numbers that do not run into each other below the figure."""
Look = tuple[str, str]
"""Colour and marker of a series."""


def worth(results: Results, folder: Path) -> Plot | None:
    """Gain over nothing added, over the images that are added: a panel a curve, a line with a band a series."""
    series = _series(results)
    if not series:
        return None
    names = list(dict.fromkeys(name for of_curve in series.values() for name in of_curve))
    names = [name for name in names if name not in (REAL, COPIES)]
    shown = [REAL, COPIES, *names[: MOST_SHOWN - 2]]
    looks: dict[str, Look] = {REAL: (BLUE, "o"), COPIES: (MUTED, "s")}
    looks |= dict(zip(names, zip(COLOURS[1:], MARKERS[2:], strict=False), strict=False))
    drawn = Figure(figsize=(2.2 + 2.8 * len(series), 3.1), layout="constrained")
    panels = drawn.subplots(1, len(series), sharey=True, squeeze=False)[0]
    primary = results.study.primary
    for axes, (curve, of_curve) in zip(panels, series.items(), strict=True):
        _panel(axes, {name: of_curve[name] for name in shown if name in of_curve}, looks, primary)
        axes.set_xlabel("images added")
        if len(series) > 1:
            axes.set_title(short(curve), fontweight="bold")
    panels[0].set_ylabel(f"difference ({unit(primary)})" if unit(primary) else "difference")
    handles = [Line2D([], [], color=looks[name][0], marker=looks[name][1], ms=4) for name in shown]
    words = {REAL: "real photographs of new lesions", COPIES: "copies of real images"}
    legend(drawn, handles, [words.get(name, short(name)) for name in shown])
    text = "; ".join(
        f"{name} {number:,} {told(row, primary)}"
        for of_curve in series.values()
        for name, points in of_curve.items()
        for number, row in points
    )
    caption = (
        f"Difference in {word(primary)} from nothing added, over the number of images added; bands are 95\u00a0% "
        "intervals of each point. What an arm is worth is the number of real photographs at which the blue line, made "
        "to rise, is as high as the arm; its interval counts what both vary by together."
    )
    left = len(names) - len(names[: MOST_SHOWN - 2])
    caption += f" {left} more series in the table below." if left else ""
    return finish(drawn, folder, "worth", f"Difference from nothing added, over images added: {text}.", caption)


def _panel(
    axes: Axes, series: Mapping[str, list[tuple[int, Comparison]]], looks: Mapping[str, Look], primary: str
) -> None:
    axes.axhline(0, color=INK, lw=1)
    factor, numbers = scale(primary), set[int]()
    for name, points in series.items():
        colour, marker = looks[name]
        known = [(number, row) for number, row in points if row.low is not None and row.high is not None]
        ends = np.array([(number, factor * (row.low or 0), factor * (row.high or 0)) for number, row in known])
        if known:
            axes.fill_between(*ends.T, color=colour, alpha=0.15, lw=0)
        line = np.array([(number, factor * row.difference) for number, row in points])
        axes.plot(*line.T, color=colour, marker=marker, ms=4)
        numbers |= {number for number, _ in points}
    axes.set_xscale("log")
    axes.minorticks_off()
    ticks: list[int] = []
    for number in sorted(numbers):
        if not ticks or number >= APART * ticks[-1]:
            ticks.append(number)
    axes.set_xticks(ticks, [f"{number:,}" for number in ticks])


def _series(results: Results) -> dict[str, dict[str, list[tuple[int, Comparison]]]]:
    """Curve -> series -> (images added, comparison with nothing added) of each dose, rising."""
    plain, primary = plain_arm(results), results.study.primary
    rows = {c.arm: c for c in results.comparisons if c.measure == primary and c.reference == plain}
    found: dict[str, dict[str, list[tuple[int, Comparison]]]] = {}
    for arm in sorted(results.arms, key=lambda arm: arm.dose):
        if arm.curve and arm.name in rows and (number := sum(arm.extra.values())):
            found.setdefault(arm.curve, {}).setdefault(arm.series, []).append((number, rows[arm.name]))
    return found
