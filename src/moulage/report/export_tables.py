"""The tables of a run that are written as files. Numbers in CSV are those of ``results.json``: fractions, and nats."""

from moulage.report.exports import Table
from moulage.report.roles import EXPECTED, by_importance
from moulage.report.tables import (
    MEASURES,
    NONE,
    Spread,
    bounds,
    estimate,
    p_value,
    scored_part,
    signed,
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

SCORES = {"precision": "precision", **{name: word(name) for name in ("recall", "f1", "average_precision", "auc")}}
"""Scores of a class, with their words."""


def tables(results: Results) -> list[Table]:
    """The tables of a run; those without a row are left out."""
    makers = (_verdicts, _comparisons, _arms, _classes, _class_effects, _controls, _slices)
    return [table for table in (make(results) for make in makers) if table.rows]


def _verdicts(results: Results) -> Table:
    rows = [
        [v.arm, v.outcome, v.p_adjusted, v.equivalence_p_adjusted, v.detectable, v.needed, v.refused]
        for v in results.verdicts
    ]
    detected = f" in {unit(results.study.primary)}" if unit(results.study.primary) else ""
    return Table(
        "verdicts",
        f"Verdict on each arm with generated images; detectable difference{detected}.",
        ["arm", "outcome", "p_adjusted", "equivalence_p_adjusted", "detectable", "needed", "refused"],
        rows,
        ["arm", "outcome", "p", "p of equality", "detectable"],
        [
            [
                v.arm,
                v.outcome,
                p_value(v.p_adjusted),
                p_value(v.equivalence_p_adjusted),
                estimate(v.detectable, results.study.primary),
            ]
            for v in results.verdicts
        ],
        3,
    )


def _comparisons(results: Results) -> Table:
    heads = ["arm", "reference", "measure", "score", "reference's", "difference", "95 % interval", "p"]
    return Table(
        "comparisons",
        f"Differences between arms, in {units(row.measure for row in results.comparisons)}; p is not corrected for "
        "several comparisons.",
        COMPARED,
        [[getattr(row, name) for name in COMPARED] for row in results.comparisons],
        heads,
        [_compared(row) for row in results.comparisons],
        5,
    )


def _compared(row: Comparison) -> list[str]:
    scores = [estimate(value, row.measure) for value in (row.estimate_arm, row.estimate_reference)]
    return [row.arm, row.reference, word(row.measure), *scores, *_difference(row, row.measure), p_value(row.p_value)]


def _difference(row: Comparison | SliceRow, measure: str) -> list[str]:
    return [signed(row.difference, measure), bounds(row.low, row.high, measure)]


def _arms(results: Results) -> Table:
    part = scored_part(results)
    rows, shown, roles = [], [], {arm.name: arm.role for arm in results.arms}
    for arm in by_importance(results):
        scores = [fit.scores[part] for fit in results.fits if fit.arm == arm and part in fit.scores]
        spreads = {measure: Spread.of(getattr(score, measure) for score in scores) for measure in MEASURES}
        rows += [
            [arm, roles[arm], measure, spread.mean, spread.deviation, len(scores)]
            for measure, spread in spreads.items()
            if spread
        ]
        cells = [spread.text(measure) if spread else NONE for measure, spread in spreads.items()]
        shown += [[arm, *cells]] if scores else []
    return Table(
        "arms",
        f"Scores on the {part} part in {units(MEASURES, 'percent')}: mean ± standard deviation over the trials.",
        ["arm", "role", "measure", "mean", "standard_deviation", "num_trials"],
        rows,
        ["arm", *MEASURES.values()],
        shown,
        len(MEASURES),
    )


def _classes(results: Results) -> Table:
    part = scored_part(results)
    rows, shown = [], []
    for arm in by_importance(results):
        fits = [fit.scores[part].classes for fit in results.fits if fit.arm == arm and part in fit.scores]
        for name in results.study.classes:
            found = [fit[name] for fit in fits if name in fit]
            spreads = [Spread.of(getattr(scores, what) for scores in found) for what in SCORES]
            support = max((scores.support for scores in found), default=0)
            numbers = [number for spread in spreads for number in (spread or (None, None))]
            rows += [[arm, name, support, *numbers]] if found else []
            shown += [[arm, name, f"{support:,}", *(s.text() if s else NONE for s in spreads)]] if found else []
    ends = ("mean", "standard_deviation")
    return Table(
        "classes",
        f"Scores of each class on the {part} part in percent: mean ± standard deviation over the trials.",
        ["arm", "class", "support", *(f"{what}_{end}" for what in SCORES for end in ends)],
        rows,
        ["arm", "class", "images", *SCORES.values()],
        shown,
        1 + len(SCORES),
    )


def _class_effects(results: Results) -> Table:
    rows = []
    shown = []
    for row in results.class_effects:
        kind, _, name = row.measure.partition(":")
        fields = [getattr(row, field) for field in COMPARED]
        rows.append([name, kind, *fields])
        shown.append([row.arm, row.reference, name, word(kind), *_difference(row, row.measure)])
    return Table(
        "class_effects",
        "Differences between arms in each class, in points; not corrected for the number of intervals.",
        ["class", "kind", *COMPARED],
        rows,
        ["arm", "reference", "class", "measure", "difference", "95 % interval"],
        shown,
        2,
    )


def _controls(results: Results) -> Table:
    rows = [[row.arm, row.role, EXPECTED[row.role], row.state, row.text] for row in results.controls]
    missing = f" Not in the study: {', '.join(results.controls_missing)}." if results.controls_missing else ""
    return Table(
        "controls",
        f"Whether the controls behaved.{missing}",
        ["arm", "role", "expected", "state", "text"],
        rows,
        ["arm", "expected", "state"],
        [[arm, expected, state] for arm, _, expected, state, _ in rows],
        0,
    )


def _slices(results: Results) -> Table:
    found = [(part, row) for part in results.slices for row in part.rows]
    return Table(
        "slices",
        f"Differences between arms on parts of the test images, in {units(part.measure for part, _ in found)}.",
        ["column", "value", "measure", "num_images", "num_lesions", *SLICED],
        [
            [part.column, part.value, part.measure, part.num_images, part.num_lesions]
            + [getattr(row, name) for name in SLICED]
            for part, row in found
        ],
        ["by", "value", "measure", "arm", "reference", "images", "lesions", "difference", "95 % interval"],
        [
            [part.column, part.value, word(part.measure), row.arm, row.reference]
            + [NONE if n is None else f"{n:,}" for n in (part.num_images, part.num_lesions)]
            + _difference(row, part.measure)
            for part, row in found
        ],
        4,
    )
