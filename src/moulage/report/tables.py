"""Turns what a run recorded into the rows of the report's tables, and numbers into text."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from moulage.evaluation import verdict
from moulage.evaluation.measure_names import read
from moulage.evaluation.scores import SHOWN
from moulage.report.roles import by_importance
from moulage.results import Comparison, Cost, Results, Scores, Slice, SliceRow

MEASURES = {name: read(name).words(short=True) for name in SHOWN}
"""The scores of a fit that the overview shows, in this order, with their words."""

SCORES = ("precision", "recall", "f1", "average_precision", "auc")
"""Scores of a class."""

NONE = "–"
"""What stands where there is no number."""


class Spread(NamedTuple):
    """Mean and standard deviation over trials (None for fewer than two), in the unit of the measure."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread | None":
        known = [value for value in values if value is not None]
        if not known:
            return None
        return cls(float(np.mean(known)), float(np.std(known, ddof=1)) if len(known) > 1 else None)

    def text(self, measure: str = "accuracy") -> str:
        """As a measure's numbers are written."""
        number = read(measure).measure.number
        return number(self.mean) + ("" if self.deviation is None else f" ± {number(self.deviation)}")


class ClassRow(NamedTuple):
    """One class in one arm."""

    name: str
    is_target: bool
    num_fits: int  # those that scored it
    scores: dict[str, Spread | None]  # each of ``SCORES`` over them, as fractions
    support: int  # test images


class CostRow(NamedTuple):
    """All tasks of one kind on one kind of device, in minutes."""

    kind: str
    device: str
    num_tasks: int
    wall: float
    core: float
    gpu: float | None


def word(measure: str) -> str:
    """A measure's name in words: ``balanced_accuracy`` is "balanced accuracy", ``recall:AK`` is "recall of AK"."""
    return read(measure).words(short=True)


def scale(measure: str) -> float:
    """What a measure is multiplied by to be shown: 100 for fractions (percent, points), 1 for the log-loss."""
    return read(measure).measure.scale


def unit(measure: str) -> str:
    """The unit of a measure's differences; empty where it has none."""
    return read(measure).measure.unit


def units(measures: Iterable[str], usual: str = "points") -> str:
    """What differences, or scores (``percent``), are in: "points (log-loss in nats)"."""
    others = dict.fromkeys(read(name).measure for name in measures if unit(name) != "points")
    said = [f"{other.named(short=True)} {f'in {other.unit}' if other.unit else 'as it is'}" for other in others]
    return f"{usual} ({', '.join(said)})" if said else usual


def signed(value: float | None, measure: str) -> str:
    """A difference with its sign, in the unit of the measure: "+1.2", "−0.4", "0.0"."""
    if value is None:
        return NONE
    text = read(measure).measure.number(value, signed=True)
    return text[1:] if not float(text) else text.replace("-", "−")


def bounds(low: float | None, high: float | None, measure: str) -> str:
    """An interval as text."""
    return NONE if low is None or high is None else f"{signed(low, measure)} to {signed(high, measure)}"


def told(row: Comparison | SliceRow, measure: str) -> str:
    """A difference and its interval, short enough to stand beside a mark: "+1.2 [−0.4, +2.8]"."""
    if row.low is None or row.high is None:
        return signed(row.difference, measure)
    return f"{signed(row.difference, measure)} [{signed(row.low, measure)}, {signed(row.high, measure)}]"


def estimate(value: float | None, measure: str) -> str:
    """A value of a measure: percent with one digit, or the number itself."""
    return NONE if value is None else read(measure).measure.number(value)


def amount(value: float | None, measure: str) -> str:
    """An effect without sign, with its unit: "2.0 points", "0.020 nats"."""
    return f"{estimate(value, measure)} {unit(measure)}".rstrip()


def p_value(value: float | None) -> str:
    """A p-value with three digits."""
    return NONE if value is None else verdict.p_value(value)


def strength(values: Sequence[float]) -> str:
    """Strengths of the trials as a range: "0.50 to 1.25"."""
    known = sorted({f"{value + 0.0:.2f}" for value in values}, key=float)
    return " to ".join(dict.fromkeys((known[0], known[-1])))


def scored_part(results: Results) -> str | None:
    """The part whose scores are shown: the test part, else validation, else none."""
    parts = {part for fit in results.fits for part in fit.scores}
    return next((part for part in ("test", "validation") if part in parts), None)


def comparisons_by_measure(results: Results) -> list[tuple[str, list[Comparison]]]:
    """Each measure with its comparisons: the primary measure first, the order of the study otherwise."""
    measures = dict.fromkeys(row.measure for row in results.comparisons)
    return [
        (measure, [row for row in results.comparisons if row.measure == measure])
        for measure in sorted(measures, key=lambda measure: measure != results.study.primary)
    ]


def scores_of(results: Results, arm: str, part: str | None) -> list[Scores]:
    """The scores of an arm's fits on a part."""
    return [fit.scores[part] for fit in results.fits if fit.arm == arm and part in fit.scores]


def spreads(results: Results, part: str | None) -> list[tuple[str, int, dict[str, Spread | None]]]:
    """Each arm that was scored on a part, its number of fits, and each of ``MEASURES`` over them."""
    found = [(arm, scores_of(results, arm, part)) for arm in by_importance(results)]
    return [
        (arm, len(scores), {measure: Spread.of(getattr(each, measure) for each in scores) for measure in MEASURES})
        for arm, scores in found
        if scores
    ]


def overview(results: Results, part: str | None) -> list[tuple[str, list[str]]]:
    """Each arm with its scores on a part over the trials, in the order of ``MEASURES``, as text."""
    return [
        (arm, [spread.text(measure) if spread else NONE for measure, spread in found.items()])
        for arm, _, found in spreads(results, part)
    ]


def class_reports(results: Results, part: str | None) -> list[tuple[str, int, list[ClassRow]]]:
    """For each arm its number of trials and a row a class."""
    reports = []
    for arm in by_importance(results):
        fits, rows = scores_of(results, arm, part), []
        for name in results.study.classes:
            scores = [fit.classes[name] for fit in fits if name in fit.classes]
            values = {what: Spread.of(getattr(each, what) for each in scores) for what in SCORES}
            support = max((each.support for each in scores), default=0)
            rows.append(ClassRow(name, name in results.study.target_classes, len(scores), values, support))
        if fits:
            reports.append((arm, len(fits), rows))
    return reports


def total_confusion(results: Results, arm: str, part: str | None) -> tuple[np.ndarray | None, int]:
    """Confusion counts [true, predicted] of an arm summed over its fits, and the number of fits."""
    size = len(results.study.classes)
    found = (np.array(scores.confusion, np.int64) for scores in scores_of(results, arm, part))
    matrices = [matrix for matrix in found if matrix.shape == (size, size)]
    return (np.sum(matrices, axis=0) if matrices else None), len(matrices)


def costs(cost: Sequence[Cost]) -> list[CostRow]:
    """Tasks joined by kind and device. A task that ran on a GPU held it for its whole wall-clock time."""
    rows = []
    for kind, device in dict.fromkeys((task.kind, task.device) for task in cost):
        tasks = [task for task in cost if (task.kind, task.device) == (kind, device)]
        wall, core = (sum(getattr(task, f"{what}_seconds") for task in tasks) / 60 for what in ("wall", "cpu"))
        rows.append(CostRow(kind, device, len(tasks), wall, core, None if device.startswith("cpu") else wall))
    return rows


def slices_of_primary(results: Results) -> tuple[str, list[Slice]]:
    """The measure that slices are shown under, the primary one where they have it, and its slices."""
    measures = dict.fromkeys(part.measure for part in results.slices)
    shown = results.study.primary if results.study.primary in measures else next(iter(measures), "")
    return shown, [part for part in results.slices if part.measure == shown]
