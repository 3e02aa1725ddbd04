"""Rows of marks with their intervals: what the figures of differences share."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from moulage.report.plot import BAND, BLUE, COLOURS, INK, MARKERS, VERMILLION, legend, short
from moulage.report.tables import scale, unit, word
from moulage.results import Comparison, SliceRow, Study


def rows(axes: Axes, labels: Sequence[str], bold: Sequence[bool]) -> None:
    """Axes with a labelled row for each entry, downward, and a line at zero."""
    frame(axes)
    axes.set_yticks(range(len(labels)), labels)
    for text, is_bold in zip(axes.get_yticklabels(), bold, strict=True):
        text.set_fontweight("bold" if is_bold else "normal")
    axes.set_ylim(len(labels) - 0.4, -0.6)


def frame(axes: Axes) -> None:
    """A line at zero, and nothing that draws the eye to the rows."""
    axes.axvline(0, color=INK, lw=1)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def band(axes: Axes, study: Study) -> None:
    """Differences that do not matter."""
    effect = scale(study.primary) * study.smallest_effect
    axes.axvspan(-effect, effect, color=BAND, lw=0)


def interval(axes: Axes, y: float, row: Comparison | SliceRow, factor: float, colour: str, marker: str) -> None:
    """A mark, its interval thick, the cautious one thin; a hollow mark where there is no interval."""
    face = "none"
    if isinstance(row, Comparison) and row.cautious_low is not None and row.cautious_high is not None:
        axes.plot([factor * row.cautious_low, factor * row.cautious_high], [y, y], color=colour, lw=0.9)
    if row.low is not None and row.high is not None:
        axes.plot([factor * row.low, factor * row.high], [y, y], color=colour, lw=2.2, solid_capstyle="butt")
        face = colour
    axes.plot(factor * row.difference, y, marker, ms=5.5 if marker == "o" else 5, color=colour, mfc=face)


def mark(k: int) -> tuple[str, str]:
    """Colour and marker of the k-th reference."""
    return (BLUE, VERMILLION, *COLOURS[2:])[k % len(COLOURS)], MARKERS[k % len(MARKERS)]


def offset(k: int, number: int) -> float:
    """Where in its row the k-th of several marks stands."""
    return (k - (number - 1) / 2) * 0.55 / number


def references(figure: Figure, names: Sequence[str]) -> None:
    """The legend of the references."""
    marks = [mark(k) for k in range(len(names))]
    handles = [Line2D([], [], color=colour, marker=marker, lw=2.2, ms=5) for colour, marker in marks]
    legend(figure, handles, [f"against {short(name)}" for name in names])


def label(axes: Axes, measure: str) -> None:
    """What the axis of differences shows, and its unit."""
    axes.set_xlabel(f"difference in {word(measure)}" + (" (points)" if unit(measure) == "points" else ""))
