"""What the report shows of selections: a table of their rules, and pictures of what each rule dropped."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from moulage.report.evidence import typeset
from moulage.report.pictures import thumbnail
from moulage.report.reading import Dropped, Run
from moulage.report.tables import NONE
from moulage.results.generated import Rule, SelectionRun

MOST_PICTURES = 96
"""Dropped images in one page, all rules together."""


class Tally(NamedTuple):
    """Images that came in, and those of them that were dropped."""

    came_in: int
    dropped: int

    @property
    def share(self) -> str:
        """Dropped ones in percent."""
        return f"{100 * self.dropped / self.came_in:.1f}\u00a0%" if self.came_in else NONE


class Picture(NamedTuple):
    """A dropped image and the real image that the reason speaks of (empty for none), as data URIs."""

    image: str
    nearest: str
    label: str
    name: str
    reason: str


@dataclass(frozen=True)
class RuleShown:
    """One rule: its tallies over all trials, and what the first trial says and shows of it."""

    name: str
    options: str
    total: Tally
    by_class: list[Tally]
    notes: list[str]
    pictures: list[Picture]


@dataclass(frozen=True)
class SelectionShown:
    """One selection over its trials. ``kept`` holds what was kept and what was wanted of each class, all trials summed.

    ``is_short``: in some trial fewer were kept than wanted.
    """

    first: SelectionRun
    num_trials: int
    classes: list[str]
    rules: list[RuleShown]
    kept: list[tuple[int, int]]
    is_short: bool


def shown(run: Run) -> list[SelectionShown]:
    """The selections of a run; the same selection under other counts or arms is another one."""
    found: dict[tuple[str, tuple[str, ...]], list[SelectionRun]] = {}
    for made in sorted(run.results.selections, key=lambda made: made.trial):
        found.setdefault((made.name, tuple(made.arms)), []).append(made)
    num_rules = sum(len(trials[0].rules) for trials in found.values())
    limit = min(24, max(1, MOST_PICTURES // max(1, num_rules)))
    return [_selection(trials, run.dropped.get(trials[0].pictures), limit) for trials in found.values()]


def _selection(trials: list[SelectionRun], dropped: Dropped | None, limit: int) -> SelectionShown:
    first, classes = trials[0], list(trials[0].want)
    rules = [
        RuleShown(
            name=rule.plugin,
            options=", ".join(f"{key} = {value}" for key, value in rule.config.items() if value is not None),
            total=_tally((made.rules[number] for made in trials), classes),
            by_class=[_tally((made.rules[number] for made in trials), [label]) for label in classes],
            notes=[typeset(note) for note in rule.notes],
            pictures=_pictures(dropped, number, limit) if dropped else [],
        )
        for number, rule in enumerate(first.rules)
    ]
    kept = [
        (sum(made.kept.get(label, 0) for made in trials), sum(made.want.get(label, 0) for made in trials))
        for label in classes
    ]
    is_short = any(made.kept.get(label, 0) < wanted for made in trials for label, wanted in made.want.items())
    return SelectionShown(first, len(trials), classes, rules, kept, is_short)


def _tally(rules: Iterable[Rule], classes: list[str]) -> Tally:
    rules = list(rules)
    return Tally(*(sum(getattr(r, what).get(c, 0) for r in rules for c in classes) for what in ("came_in", "dropped")))


def _pictures(dropped: Dropped, number: int, limit: int) -> list[Picture]:
    """Of the pictures of one rule ``limit`` at even distances, so that each class keeps its share."""
    rows = np.flatnonzero(dropped.rule == number)
    rows = (
        rows[np.unique(np.linspace(0, len(rows) - 1, min(limit, len(rows))).round().astype(int))] if len(rows) else rows
    )
    return [
        Picture(
            thumbnail(dropped.images[row]),
            thumbnail(dropped.nearest[row]) if dropped.has_nearest[row] else "",
            str(dropped.labels[row]),
            str(dropped.names[row]),
            typeset(str(dropped.reasons[row])),
        )
        for row in rows
    ]
