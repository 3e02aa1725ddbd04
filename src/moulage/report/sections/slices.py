"""The comparisons on parts of the test images, and what they warn of."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from moulage.report import intervals
from moulage.report.plot import Plot, finish, short, slug
from moulage.report.roles import MOST_SHOWN, with_role
from moulage.report.run_files import Run
from moulage.report.tables import NONE, bounds, estimate, scale, signed, slices_of_primary, told, word
from moulage.results import Results, Slice, SliceRow

TITLE = "Slices"
Line = tuple[Slice, list[str]]
"""One slice; scores and differences as ``compared`` has them."""


def show(run: Run) -> dict[str, Any] | None:
    results, columns = run.results, compared(run.results)
    found = results.slice_warnings
    if not columns and not found:
        return None
    some = len(found) > MOST_SHOWN  # the last one says how many intervals there were
    return {
        "warnings": [*found[: MOST_SHOWN - 1], found[-1]] if some else found,
        "more_warnings": found[MOST_SHOWN - 1 : -1] if some else [],
        "plots": list(filter(None, (figure(results, arm, run.folder) for arm in with_role(results, "synthetic")))),
        "columns": columns,
        "num_columns": 3 + sum(1 + len(references) for _, references in columns),
        "tables": lines(results, columns) if columns else {},
    }


def compared(results: Results) -> list[tuple[str, list[str]]]:
    """The arms with generated images that slices were computed for, each with its references."""
    found: dict[str, list[str]] = {name: [] for name in with_role(results, "synthetic")}
    for row in (row for part in results.slices for row in part.rows):
        if row.arm in found and row.reference not in found[row.arm]:
            found[row.arm].append(row.reference)
    return [(arm, references) for arm, references in found.items() if references]


def lines(results: Results, columns: list[tuple[str, list[str]]]) -> dict[str, dict[str, list[Line]]]:
    """Measure, the primary one first -> column of attributes -> its slices."""
    tables: dict[str, dict[str, list[Line]]] = {}
    for part in sorted(results.slices, key=lambda part: part.measure != results.study.primary):
        line = (part, _cells(part.rows, columns, part.measure))
        tables.setdefault(part.measure, {}).setdefault(part.column, []).append(line)
    return tables


def _cells(rows: list[SliceRow], columns: list[tuple[str, list[str]]], measure: str) -> list[str]:
    """Of each arm its score, then difference and interval against each of its references."""
    found = {(row.arm, row.reference): row for row in rows}
    cells = []
    for arm, references in columns:
        scores = [row.score for row in rows if row.arm == arm]
        cells.append(estimate(scores[0] if scores else None, measure))
        for reference in references:
            row = found.get((arm, reference))
            difference = signed(row.difference, measure) if row else NONE
            interval = bounds(row.low, row.high, measure) if row else NONE
            cells.append(difference if interval == NONE else f"{difference} ({interval})")
    return cells


def figure(results: Results, arm: str, folder: Path) -> Plot | None:
    """Differences of one arm to its references in the primary measure, on each slice of the test images."""
    rows: list[tuple[str, list[SliceRow]]] = []
    measure, found = slices_of_primary(results)
    references = list(dict.fromkeys(row.reference for part in found for row in part.rows if row.arm == arm))
    for column in dict.fromkeys(part.column for part in found):
        parts = [(part.value, [row for row in part.rows if row.arm == arm]) for part in found if part.column == column]
        known = [(short(value, 20), of_arm) for value, of_arm in parts if of_arm]
        rows += [(column, []), *known] if known else []
    if not rows:
        return None
    drawn = Figure(figsize=(4.9, 1.1 + 0.25 * len(rows)), layout="constrained")
    axes = drawn.add_subplot()
    headings = [label for label, of_arm in rows if not of_arm]
    if measure == results.study.primary:
        intervals.band(axes, results.study)
    intervals.rows(axes, [label for label, _ in rows], [not of_arm for _, of_arm in rows])
    for y, (_, of_arm) in enumerate(rows):
        for row in of_arm:
            k = references.index(row.reference)
            place = y + intervals.offset(k, len(references))
            intervals.interval(axes, place, row, scale(measure), *intervals.mark(k))
    intervals.label(axes, measure)
    axes.set_title(short(arm), fontweight="bold")
    intervals.references(drawn, references)
    drawn_rows = [(label, row) for label, of_arm in rows for row in of_arm]
    text = "; ".join(f"{label} {told(row, measure)} against {row.reference}" for label, row in drawn_rows)
    alt = f"Differences of {arm} by {', '.join(headings)}: {text}."
    caption = f"{arm}: difference in {word(measure)} on parts of the test images, with 95\u00a0% intervals. Slices are "
    caption += "small and many: they raise questions, they are no results."
    return finish(drawn, folder, f"slices-{slug(arm)}", alt, caption)
