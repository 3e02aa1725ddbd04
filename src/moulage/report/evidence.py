"""What the verdict stands on, as rows and sentences for the page: verdicts, registration, controls, power, slices."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from moulage.evaluation.measure_names import is_lower_better
from moulage.report.roles import EXPECTED, MOST_SHOWN, with_role
from moulage.report.tables import NONE, amount, bounds, estimate, p_value, signed, word
from moulage.results import Registration, Results, SliceRow, Verdict

SIGNS = {
    "helps": "▲",
    "hurts": "▼",
    "practically equal": "=",
    "not enough data": "?",
    "behaves": "✓",
    "misbehaves": "✗",
    "not shown": "?",
}
"""What stands beside the word of an outcome or of a control's state, so that neither is told by colour alone."""

CONTROLS = {
    "noise": "textures without a lesion, which must not help",
    "permuted": "real images under labels of other classes, which must not help",
    "oracle": "held-back real images, which must help",
}
"""What a control is, for one that is missing."""


@dataclass(frozen=True)
class Card:
    """One verdict as it stands at the top: ``kind`` is the outcome as a style class, ``facts`` are (name, value)."""

    outcome: str
    sign: str
    kind: str
    change: str
    sentences: list[str]
    facts: list[tuple[str, str]]
    needed: str
    refused: str


class PowerRow(NamedTuple):
    """What one comparison could detect, and with how many trials or test lesions it would see the smallest effect."""

    arm: str
    reference: str
    standard_error: str
    detectable: str
    trials: str
    size: str


class SliceLine(NamedTuple):
    """One slice: ``cells`` are scores and differences as ``slice_columns`` has them; ``note`` is why there is none."""

    value: str
    num_images: int | None
    num_lesions: int | None
    cells: list[str]
    note: str


def typeset(text: str) -> str:
    """A recorded sentence with the minus sign that the tables have, and no line break before a percent sign."""
    return re.sub(r"(?<![\w.-])-(?=\d)", "−", text).replace(" %", "\u00a0%")


def warnings(results: Results) -> tuple[list[str], list[str]]:
    """What slices warn of: sentences to show, and more to fold away; the last says how many intervals there were."""
    found = [typeset(text) for text in results.slice_warnings]
    if len(found) <= MOST_SHOWN:
        return found, []
    return [*found[: MOST_SHOWN - 1], found[-1]], found[MOST_SHOWN - 1 : -1]


def cards(results: Results) -> list[Card]:
    """The verdicts; what a card shows under a heading of its own is not said once more in its sentences."""
    return [_card(results, verdict) for verdict in results.verdicts]


def _card(results: Results, verdict: Verdict) -> Card:
    study, change = results.study, verdict.change or verdict.arm
    known = {role: name for role, name in verdict.references.items() if name}
    against = [f"{name} (best rival)" if role == "rival" else name for role, name in known.items()]
    facts = [
        ("smallest effect that matters", amount(study.smallest_effect, study.primary)),
        (
            "effect that 80 % of such studies would find, whichever the reference",
            amount(verdict.detectable, study.primary),
        ),
        ("p of a difference, corrected for the family", p_value(verdict.p_adjusted)),
        ("p of equality, corrected for the family", p_value(verdict.equivalence_p_adjusted)),
        ("compared with", ", ".join(against) or NONE),
    ]
    return Card(
        outcome=verdict.outcome,
        sign=SIGNS.get(verdict.outcome, "?"),
        kind=verdict.outcome.replace(" ", "-") if verdict.outcome in SIGNS else "not-enough-data",
        change=change,
        sentences=[typeset(text) for text in (*verdict.comparisons, verdict.missing, *verdict.notes) if text],
        facts=[(name, value) for name, value in facts if not value.startswith(NONE)],
        needed=typeset(verdict.needed),
        refused=typeset(verdict.refused),
    )


def details(results: Results) -> list[str]:
    """The paragraphs under the answer."""
    return [typeset(detail) for detail in results.details]


def registered(registration: Registration) -> str:
    """In plain words: whether the question was fixed before the answer could be known."""
    mark = ", ".join(filter(None, [registration.date, f"digest {registration.digest}" if registration.digest else ""]))
    mark = f" ({mark})" if mark else ""
    if registration.before_test:
        return (
            f"Registered{mark}: measure, target classes, smallest effect and arms were fixed before any prediction for "
            "the test part was opened."
        )
    if registration.before_test is None:
        return f"Written down{mark}; whether that was before the test part was opened is not recorded."
    return (
        f"Exploratory{mark}: measure, target classes, smallest effect or arms were set after predictions for the test "
        "part had been opened. What is found here is a reason for a new study, and proves nothing by itself."
    )


def controls(results: Results) -> list[tuple[str, str, str, str, str]]:
    """Arm, what is expected of it, sign, state, and the sentence with the numbers; those that misbehave come first."""
    rows = [
        (row.arm, EXPECTED[row.role], SIGNS.get(row.state, "?"), row.state, typeset(row.text))
        for row in results.controls
    ]
    return sorted(rows, key=lambda row: ("misbehaves", "not shown", "behaves").index(row[3]) if row[3] in SIGNS else 0)


def missing_controls(results: Results) -> list[str]:
    """The controls that the study lacks, each with what it would be."""
    return [f"{name} ({CONTROLS[name]})" if name in CONTROLS else name for name in results.controls_missing]


def power_rows(results: Results) -> list[PowerRow]:
    """A row for each comparison whose power is known."""
    rows = []
    for row in results.power:
        measure = row.measure or results.study.primary
        effect, trials, size = results.study.smallest_effect, NONE, NONE
        if effect is not None:
            trials, size = enough(row.by_trials, effect), enough(row.by_size, effect)
        rows.append(
            PowerRow(
                row.arm,
                row.reference,
                estimate(row.standard_error, measure),
                estimate(row.detectable, measure),
                trials,
                size if size == NONE else f"{size} ×",
            )
        )
    return rows


def enough(points: Sequence[tuple[float, float | None]], effect: float) -> str:
    """The smallest number tried with which no more than ``effect`` is needed: "20", "at most 3", "more than 50"."""
    known = [(x, y) for x, y in points if y is not None]
    if not known:
        return NONE
    reached = [x for x, y in known if y <= effect]
    if not reached:
        return f"more than {max(x for x, _ in known):g}"
    return f"{'at most ' if min(reached) == min(x for x, _ in known) else ''}{min(reached):g}"


def slice_columns(results: Results) -> list[tuple[str, list[str]]]:
    """The arms with generated images that slices were computed for, each with its references."""
    found: dict[str, list[str]] = {name: [] for name in with_role(results, "synthetic")}
    for row in (row for part in results.slices for row in part.rows):
        if row.arm in found and row.reference not in found[row.arm]:
            found[row.arm].append(row.reference)
    return [(arm, references) for arm, references in found.items() if references]


def slice_tables(results: Results) -> list[tuple[str, list[tuple[str, list[SliceLine]]]]]:
    """For each measure, the primary one first, each column of attributes with its slices."""
    columns = slice_columns(results)
    measures = sorted(dict.fromkeys(part.measure for part in results.slices), key=lambda m: m != results.study.primary)
    tables = []
    for measure in measures:
        groups: dict[str, list[SliceLine]] = {}
        for part in results.slices:
            if part.measure == measure:
                cells = _slice_cells(part.rows, columns, measure)
                note = "" if part.rows else part.note
                line = SliceLine(part.value, part.num_images, part.num_lesions, cells, note)
                groups.setdefault(part.column, []).append(line)
        tables.append((measure, list(groups.items())))
    return tables


def _slice_cells(rows: list[SliceRow], columns: list[tuple[str, list[str]]], measure: str) -> list[str]:
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


def rival_choice(results: Results) -> str:
    """How the best rival was chosen, in a sentence; empty where none was."""
    chosen = results.best_rival
    if chosen is None:
        return ""
    measure = chosen.measure or results.study.primary
    known = {name: value for name, value in chosen.validation.items() if value is not None}
    tried = sorted(known, key=known.__getitem__, reverse=not is_lower_better(measure))
    scores = ", ".join(f"{name} {estimate(known[name], measure)}" for name in tried)
    told = f" ({scores})" if scores else ""
    return f"The best rival, {chosen.arm}, was chosen by {word(measure)} on the validation part{told}."
