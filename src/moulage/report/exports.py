"""Tables of a run as files for other programs: CSV with every digit, LaTeX as a paper shows it.

CSV is for programs, and an empty field is a number that does not exist. LaTeX needs ``booktabs``, and ``longtable`` for
tables longer than a page; names in a script other than Latin need LuaLaTeX or XeLaTeX.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moulage.runs import write_text

FOLDER = "tables"
"""Beside the page."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet begins to compute at
PAGE_ROWS = 40
"""A longer LaTeX table breaks over pages."""

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\symbol{34}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # a row that starts with one would be read as an option of the line break before it
    "]": "{]}",
    "*": "{*}",
    "-": "-{}",  # before another one, with which it would become a dash
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
} | {sign: f"\\{sign}" for sign in "&%$#_{}"}
"""What stands in LaTeX for a sign that means something there."""


@dataclass(frozen=True)
class Table:
    """A table twice over: ``rows`` for CSV, one value a column, and ``shown`` for LaTeX, as text under ``heads``."""

    name: str  # of its files
    caption: str  # a sentence, plain text
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]  # None is an empty field
    heads: Sequence[str]
    shown: Sequence[Sequence[str]]
    numbers: int  # so many columns, the last ones, stand to the right


def write(tables: Iterable[Table], folder: Path) -> list[tuple[str, list[str]]]:
    """Write ``folder/<table>.csv`` and ``.tex`` of each table; for the page, its caption and the names of its files."""
    links = []
    for table in tables:
        write_text(folder / f"{table.name}.csv", to_csv(table))
        write_text(folder / f"{table.name}.tex", to_latex(table))
        links.append((table.caption, [f"{table.name}.csv", f"{table.name}.tex"]))
    return links


def to_csv(table: Table) -> str:
    """The table as CSV (RFC 4180, but with plain line ends); floats have every digit."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows([_inert(cell) for cell in row] for row in table.rows)
    return stream.getvalue()


def _inert(cell: Any) -> Any:
    """A cell that no spreadsheet computes: text that begins like a formula gets an apostrophe before it (OWASP)."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def to_latex(table: Table) -> str:
    """The table for ``booktabs``; a long one for ``longtable``."""
    columns = "l" * (len(table.heads) - table.numbers) + "r" * table.numbers
    head = _line(table.heads)
    body = "\n".join(_line(row) for row in table.shown)
    caption, label = escape(table.caption), f"tab:{table.name}"
    if len(table.shown) > PAGE_ROWS:
        return (
            "% \\usepackage{booktabs, longtable}\n"
            f"\\begin{{longtable}}{{{columns}}}\n\\caption{{{caption}}}\\label{{{label}}}\\\\\n"
            f"\\toprule\n{head}\n\\midrule\n\\endfirsthead\n\\toprule\n{head}\n\\midrule\n\\endhead\n"
            f"\\bottomrule\n\\endfoot\n{body}\n\\end{{longtable}}\n"
        )
    return (
        "% \\usepackage{booktabs}\n"
        f"\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\\label{{{label}}}\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{head}\n\\midrule\n{body}\n\\bottomrule\n"
        "\\end{tabular}\n\\end{table}\n"
    )


def escape(text: str) -> str:
    """Any text as LaTeX that prints it; line ends and control signs become spaces."""
    plain = re.sub(r"[\x00-\x1f\x7f\s]+", " ", text)
    return re.sub(r"-(?=-)|[^-]", lambda sign: LATEX.get(sign[0], sign[0]), plain)


def _line(cells: Iterable[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"
