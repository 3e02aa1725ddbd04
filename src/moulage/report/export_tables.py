"""The tables of a run that are written as files. Numbers in CSV are those of ``results.json``: fractions, and nats."""

from collections.abc import Sequence
from typing import Any

from moulage.report.exports import Table
from moulage.report.roles import EXPECTED
from moulage.report.tables import (
    MEASURES,
    NONE,
    SCORES,
    bounds,
    class_reports,
    estimate,
    overview,
    p_value,
    scored_part,
    signed,
    spreads,
    unit,
    units,
    word,
)
from moulage.results import Comparison, Results, SliceRow

COMPARED = ["arm", "reference", "measure", "estimate_arm", "estimate_reference", "difference", "standard_error"]
COMPARED += ["degrees_of_freedom", "low", "high", "cautious_low", "cautious_high", "p_value", "num_trials"]
COMPARED += ["num_images", "num_lesions", "method"]
"""Fields of a comparison that stand in the CSV."""

SLICED = ["arm", "reference", "score", "reference_score", "difference", "low", "high"]
"""Fields of a comparison on a slice."""


def tables(results: Results) -> list[Table]:
    """The tables of a run; those without a row are left out."""
    makers = (_verdicts, _worths, _comparisons, _arms, _classes, _class_effects, _controls, _slices)
    return [table for table in (make(results) for make in makers) if table.rows]


def _verdicts(results: Results) -> Table:
    primary, found = results.study.primary, results.verdicts
    detected = f" in {unit(primary)}" if unit(primary) else ""
    caption = f"Verdict on each arm with generated images; gain{detected} that 80 % of such studies would call helps."
    columns = ["arm", "outcome", "p_adjusted", "equivalence_p_adjusted", "detectable", "needed", "refused"]
    heads = ["arm", "outcome", "p", "p of equality", "detectable"]
    shown = [
        [v.arm, v.outcome, p_value(v.p_adjusted), p_value(v.equivalence_p_adjusted), estimate(v.detectable, primary)]
        for v in found
    ]
    return Table("verdicts", caption, columns, _fields(found, columns), heads, shown, 3)


def _worths(results: Results) -> Table:
    caption = f"Real photographs of new lesions that would give the same {word(results.study.primary)}."
    columns = ["curve", "series", "arm", "dose", "num_images", "measure", "answer", "estimate", "low", "high"]
    heads = ["arm", "images added", "worth", "95 % interval"]
    shown = [[row.arm, f"{row.num_images:,}", row.number, row.interval] for row in results.worths]
    columns += ["largest", "statement"]
    return Table("worths", caption, columns, _fields(results.worths, columns), heads, shown, 3)


def _comparisons(results: Results) -> Table:
    found = results.comparisons
    caption = f"Differences between arms, in {units(row.measure for row in found)}; p is not corrected for "
    caption += "several comparisons."
    heads = ["arm", "reference", "measure", "score", "reference's", "difference", "95 % interval", "p"]
    return Table(
        "comparisons", caption, COMPARED, _fields(found, COMPARED), heads, [_compared(row) for row in found], 5
    )


def _fields(rows: Sequence[object], columns: Sequence[str]) -> list[list[Any]]:
    return [[getattr(row, name) for name in columns] for row in rows]


def _compared(row: Comparison) -> list[str]:
    scores = [estimate(value, row.measure) for value in (row.estimate_arm, row.estimate_reference)]
    return [row.arm, row.reference, word(row.measure), *scores, *_difference(row, row.measure), p_value(row.p_value)]


def _difference(row: Comparison | SliceRow, measure: str) -> list[str]:
    return [signed(row.difference, measure), bounds(row.low, row.high, measure)]


def _arms(results: Results) -> Table:
    part, roles = scored_part(results), {arm.name: arm.role for arm in results.arms}
    caption = f"Scores on the {part} part in {units(MEASURES, 'percent')}: mean ± standard deviation over the trials."
    columns = ["arm", "role", "measure", "mean", "standard_deviation", "num_trials"]
    rows = [
        [arm, roles[arm], measure, *spread, number]
        for arm, number, found in spreads(results, part)
        for measure, spread in found.items()
        if spread
    ]
    shown = [[arm, *cells] for arm, cells in overview(results, part)]
    return Table("arms", caption, columns, rows, ["arm", *MEASURES.values()], shown, len(MEASURES))


def _classes(results: Results) -> Table:
    part = scored_part(results)
    caption = f"Scores of each class on the {part} part in percent: mean ± standard deviation over the trials."
    ends = ("mean", "standard_deviation")
    columns = ["arm", "class", "support", *(f"{what}_{end}" for what in SCORES for end in ends)]
    heads = ["arm", "class", "images", "precision", *(word(what) for what in SCORES[1:])]
    rows, shown = [], []
    for arm, row in ((arm, row) for arm, _, found in class_reports(results, part) for row in found if row.num_fits):
        numbers = [number for spread in row.scores.values() for number in (spread or (None, None))]
        rows.append([arm, row.name, row.support, *numbers])
        texts = [spread.text() if spread else NONE for spread in row.scores.values()]
        shown.append([arm, row.name, f"{row.support:,}", *texts])
    return Table("classes", caption, columns, rows, heads, shown, 1 + len(SCORES))


def _class_effects(results: Results) -> Table:
    caption = "Differences between arms in each class, in points; not corrected for the number of intervals."
    heads = ["arm", "reference", "class", "measure", "difference", "95 % interval"]
    rows, shown = [], []
    for row, fields in zip(results.class_effects, _fields(results.class_effects, COMPARED), strict=True):
        kind, _, name = row.measure.partition(":")
        rows.append([name, kind, *fields])
        shown.append([row.arm, row.reference, name, word(kind), *_difference(row, row.measure)])
    return Table("class_effects", caption, ["class", "kind", *COMPARED], rows, heads, shown, 2)


def _controls(results: Results) -> Table:
    missing = f" Not in the study: {', '.join(results.controls_missing)}." if results.controls_missing else ""
    columns, heads = ["arm", "role", "expected", "state", "text"], ["arm", "expected", "state"]
    rows = [[row.arm, row.role, EXPECTED[row.role], row.state, row.text] for row in results.controls]
    shown = [[arm, expected, state] for arm, _, expected, state, _ in rows]
    return Table("controls", f"Whether the controls behaved.{missing}", columns, rows, heads, shown, 0)


def _slices(results: Results) -> Table:
    found = [(part, row) for part in results.slices for row in part.rows]
    caption = f"Differences between arms on parts of the test images, in {units(part.measure for part, _ in found)}."
    about = ["column", "value", "measure", "num_images", "num_lesions"]
    heads = ["by", "value", "measure", "arm", "reference", "images", "lesions", "difference", "95 % interval"]
    rows, shown = [], []
    for part, row in found:
        rows.append([getattr(part, name) for name in about] + [getattr(row, name) for name in SLICED])
        sizes = [NONE if n is None else f"{n:,}" for n in (part.num_images, part.num_lesions)]
        names = [part.column, part.value, word(part.measure), row.arm, row.reference]
        shown.append([*names, *sizes, *_difference(row, part.measure)])
    return Table("slices", caption, [*about, *SLICED], rows, heads, shown, 4)
