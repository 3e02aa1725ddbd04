"""What all figures share: style and colours, shortened names, and how a figure becomes files and a part of the page.

Colours: Okabe and Ito (2008), told apart by the colour-blind; lines differ in dash or marker too.
"""

import contextlib
import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from moulage.runs import atomic, digest, write_text

FOLDER = "figures"
"""Beside the page."""
INK, MUTED, LINE, BAND = "#1b1f24", "#67707b", "#d4d9df", "#e4eaf1"
BLUE, VERMILLION = "#0072b2", "#d55e00"
ON_PAGE = {INK: "currentColor", MUTED: "var(--muted)", LINE: "var(--line)", BAND: "var(--band)", BLUE: "var(--blue)"}
"""What stands in the page for a colour of the files, so that it follows the light or dark scheme."""
COLOURS = (BLUE, VERMILLION, "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d1f", "#7f7f7f")
MARKERS = "osD^vPX*"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.1,
    "svg.fonttype": "none",
    "svg.hashsalt": "moulage",
    "text.parse_math": False,  # a class may be called "$x$"
    "grid.color": LINE,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), MUTED),
}
NO_METADATA = {"Date": None, "Creator": None, "Type": None, "Format": None}


@dataclass(frozen=True)
class Plot:
    """A finished figure: ``name`` of its files, ``svg`` for the page, ``alt`` and ``caption`` in words."""

    name: str
    svg: Markup
    alt: str
    caption: str


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw and save figures inside this block.

    A script that DejaVu Sans lacks shows as boxes in the PNG only, without a warning: in SVG text stays text.
    """
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def finish(figure: Figure, folder: Path, name: str, alt: str, caption: str) -> Plot:
    """Write ``name.svg`` and ``.png`` into the figures of a run folder, and make the plot for the page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata=NO_METADATA)
    write_text(folder / FOLDER / f"{name}.svg", text.getvalue())
    figure.set_layout_engine("none")  # it has been laid out: the PNG need not do it again
    with atomic(folder / FOLDER / f"{name}.png") as path:
        figure.savefig(path, format="png", dpi=200, facecolor="white")
    return Plot(name, _inline(text.getvalue(), name, alt), alt, caption)


def _inline(svg: str, name: str, alt: str) -> Markup:
    """An SVG file's text made fit to stand inside a page: no prolog, ids of its own, colours of the page."""

    def adapt(tag: re.Match[str]) -> str:
        text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", tag[0])
        for colour, variable in ON_PAGE.items():
            text = text.replace(colour, variable)
        return text

    svg = re.sub(r"<style.*?</style>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r"<[^>]+>", adapt, svg)
    svg = re.sub(r'width="([\d.]+)pt" height="[\d.]+pt"', r'style="--natural: \1pt"', svg, count=1)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1))


def legend(figure: Figure, handles: Sequence[Artist], names: Sequence[str]) -> None:
    """A legend below all panels, in as many columns as its longest name lets stand side by side."""
    width = 30 + 4.6 * max(map(len, names))  # points: a handle with its gaps, and letters of 8 points
    columns = max(1, min(4, len(names), int(72 * figure.get_figwidth() / width)))
    figure.legend(handles, names, loc="outside lower center", ncols=columns)


def left_out(number: int, where: str) -> str:
    """The end of a caption of a figure that does not show every arm."""
    if number < 1:
        return ""
    return f" {number} more {'arm stands' if number == 1 else 'arms stand'} in {where} only."


def thin(points: np.ndarray, limit: int = 150) -> np.ndarray:
    """Averages of [n, 2] points in at most ``limit`` bins of equal size, so that a long log stays a small file."""
    size = max(1, math.ceil(len(points) / limit))
    means = [points[start : start + size].mean(axis=0) for start in range(0, len(points), size)]
    return np.array(means).reshape(-1, 2)


def short(name: str, limit: int = 28) -> str:
    """A name that fits beside an axis: its start and its end, in which long names differ most often."""
    start = 2 * limit // 3
    return name if len(name) <= limit else f"{name[:start]}…{name[start + 1 - limit :]}"


def slug(name: str) -> str:
    """A file name that any system takes; names that differ keep different files."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:40]
    return plain if name and plain == name else f"{plain or 'x'}-{digest(name, length=6)}"


def num_trials(number: int) -> str:
    """A number of trials in words."""
    return "1 trial" if number == 1 else f"{number} trials"
