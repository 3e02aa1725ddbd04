"""Which generated images were kept: a table of the rules, and pictures of what each rule dropped."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from moulage.report.pictures import thumbnail
from moulage.report.run_files import Run
from moulage.results.generated import Rule, SelectionRun

TITLE = "Selection of generated images"
MOST_PICTURES = 96
"""Dropped images in one page, all rules together."""


@dataclass(frozen=True)
class Dropped:
    """Some images that the rules of a selection dropped, uint8 [n, S, S, 3], and why.

    ``rule`` [n] counts the rules from 0; ``nearest`` is the real image that the reason speaks of, if ``has_nearest``.
    """

    images: np.ndarray
    nearest: np.ndarray
    has_nearest: np.ndarray
    rule: np.ndarray
    labels: np.ndarray
    names: np.ndarray
    reasons: np.ndarray
    score: np.ndarray


def show(run: Run) -> dict[str, Any] | None:
    found: dict[tuple[str, tuple[str, ...]], list[SelectionRun]] = {}  # under other counts or arms it is another one
    for made in sorted(run.results.selections, key=lambda made: made.trial):
        found.setdefault((made.name, tuple(made.arms)), []).append(made)
    if not found:
        return None
    limit = min(24, max(1, MOST_PICTURES // sum(len(trials[0].rules) for trials in found.values())))
    return {"selections": [_selection(run, trials, limit) for trials in found.values()]}


def _selection(run: Run, trials: list[SelectionRun], limit: int) -> dict[str, Any]:
    """One selection: tallies over all its trials, and what the first trial says and shows of each rule.

    A tally is (images that came in, those of them that were dropped); ``kept`` are (kept, wanted) of each class.
    """
    first, classes = trials[0], list(trials[0].want)
    dropped = run.arrays(Dropped, first.pictures)
    rules = [
        {
            "rule": rule,
            "options": ", ".join(f"{key} = {value}" for key, value in rule.config.items() if value is not None),
            "total": _tally((made.rules[number] for made in trials), classes),
            "by_class": [_tally((made.rules[number] for made in trials), [label]) for label in classes],
            "pictures": _pictures(dropped, number, limit) if dropped else [],
        }
        for number, rule in enumerate(first.rules)
    ]
    kept = [(sum(made.kept[name] for made in trials), sum(made.want[name] for made in trials)) for name in classes]
    is_short = any(made.kept[label] < wanted for made in trials for label, wanted in made.want.items())
    return {"first": first, "num_trials": len(trials), "rules": rules, "kept": kept, "is_short": is_short}


def _tally(rules: Iterable[Rule], classes: list[str]) -> tuple[int, int]:
    pairs = [(rule.came_in[label], rule.dropped[label]) for rule in rules for label in classes]
    return sum(came_in for came_in, _ in pairs), sum(dropped for _, dropped in pairs)


def _pictures(dropped: Dropped, number: int, limit: int) -> list[dict[str, Any]]:
    """Of the pictures of one rule ``limit`` at even distances, so that each class keeps its share; as data URIs."""
    rows = np.flatnonzero(dropped.rule == number)
    shown = rows[np.unique(np.linspace(0, len(rows) - 1, min(limit, len(rows))).round().astype(int))]
    return [
        {"image": thumbnail(dropped.images[row]), "label": dropped.labels[row], "name": dropped.names[row]}
        | {"nearest": thumbnail(dropped.nearest[row]) if dropped.has_nearest[row] else ""}
        | {"reason": dropped.reasons[row]}
        for row in shown
    ]
