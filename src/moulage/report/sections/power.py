"""What the study could detect, and what it would take to see the smallest effect that matters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from moulage.report.plot import COLOURS, INK, MARKERS, Plot, finish, left_out, legend, short
from moulage.report.roles import MOST_SHOWN
from moulage.report.run_files import Run
from moulage.report.tables import NONE, amount, scale, unit, word
from moulage.results import Power, Results

TITLE = "Power"


def show(run: Run) -> dict[str, Any] | None:
    found, effect = run.results.power, run.results.study.smallest_effect
    if not found:
        return None
    rows = [(power, enough(power.by_trials, effect), enough(power.by_size, effect)) for power in found]
    return {"rows": rows, "figure": figure(run.results, run.folder)}


def enough(points: Sequence[tuple[float, float | None]], effect: float) -> str:
    """The smallest number tried with which no more than ``effect`` is needed: "20", "at most 3", "more than 50"."""
    known = [(x, y) for x, y in points if y is not None]
    if not known:
        return NONE
    reached = [x for x, y in known if y <= effect]
    if not reached:
        return f"more than {max(x for x, _ in known):g}"
    return f"{'at most ' if min(reached) == min(x for x, _ in known) else ''}{min(reached):g}"


def figure(results: Results, folder: Path) -> Plot:
    """The smallest difference that would be found in 80 % of studies, over trials and over test lesions."""
    lines = _hardest(results.power)
    measure, effect = lines[0].measure, results.study.smallest_effect
    drawn = Figure(figsize=(5, 2.4 + 0.17 * len(lines)), layout="constrained")
    left, right = drawn.subplots(1, 2, sharey=True)
    marks = list(zip(COLOURS, MARKERS, strict=True))[: len(lines)]
    for axes, all_points in ((left, [row.by_trials for row in lines]), (right, [row.by_size for row in lines])):
        for points, (colour, marker) in zip(all_points, marks, strict=True):
            known = [(x, scale(measure) * y) for x, y in points if y is not None]
            if known:
                axes.plot(*zip(*known, strict=True), color=colour, marker=marker, ms=4)
        axes.axhline(scale(measure) * effect, color=INK, ls="--", lw=1)
        ticks = sorted({x for points in all_points for x, _ in points})
        axes.set_xscale("log")
        axes.minorticks_off()
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    left.set_ylim(bottom=0)  # both: they share the axis
    left.set_xlabel("trials")
    right.set_xlabel("multiple of the test lesions")
    left.set_ylabel("detectable" + (" (points)" if unit(measure) == "points" else ""))
    names = [f"{short(row.arm, 20)} against {short(row.reference, 20)}" for row in lines]
    legend(drawn, [Line2D([], [], color=colour, marker=marker) for colour, marker in marks], names)
    text = "; ".join(f"{row.arm} against {row.reference} {amount(row.detectable, measure)}" for row in lines)
    alt = f"Detectable difference in {word(measure)}, now: {text}."
    caption = (
        f"The true difference in {word(measure)} that 80\u00a0% of studies like this would find, over the number of "
        "trials and of test lesions; of each arm the comparison that is hardest to decide. The dashed line is the "
        f"smallest effect that matters.{left_out(len({row.arm for row in results.power}) - len(lines), 'the table')}"
    )
    return finish(drawn, folder, "power", alt, caption)


def _hardest(rows: Sequence[Power]) -> list[Power]:
    """Of each arm the comparison with the largest detectable difference; at most as many arms as can be told apart."""
    hardest = {row.arm: row for row in sorted(rows, key=lambda row: row.detectable or 0)}
    return [hardest[arm] for arm in dict.fromkeys(row.arm for row in rows)][:MOST_SHOWN]
