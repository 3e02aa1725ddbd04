"""What stands under the question: worths, a card for each verdict, and whether the question was registered."""

from typing import Any

from moulage.evaluation.worth import of_largest_doses
from moulage.report import figures_worth
from moulage.report.run_files import Run
from moulage.report.tables import NONE, amount, p_value
from moulage.results import Registration, Results, Verdict

SIGNS = {"helps": "▲", "hurts": "▼", "practically equal": "=", "not enough data": "?"}
"""What stands beside the word of an outcome, so that it is not told by colour alone."""


def show(run: Run) -> dict[str, Any]:
    """What ``answer.html.j2`` shows."""
    results = run.results
    return {
        "worths": [worth.statement for worth in of_largest_doses(results.worths)],
        "gains": figures_worth.worth(results, run.folder),
        "cards": [_card(results, verdict) for verdict in results.verdicts],
        "registered": registered(results.registration) if results.registration else "",
    }


def _card(results: Results, verdict: Verdict) -> dict[str, Any]:
    """One verdict; ``facts`` are (name, value)."""
    study = results.study
    against = [f"{name} (hardest rival)" if role == "rival" else name for role, name in verdict.references.items()]
    detectable = "gain that 80 % of such studies would call “helps”"
    facts = [
        ("smallest effect that matters", amount(study.smallest_effect, study.primary)),
        (detectable, amount(verdict.detectable, study.primary)),
        ("p of a difference, corrected for the family", p_value(verdict.p_adjusted)),
        ("p of equality, corrected for the family", p_value(verdict.equivalence_p_adjusted)),
        ("compared with", ", ".join(against) or NONE),
    ]
    return {
        "verdict": verdict,
        "sign": SIGNS[verdict.outcome],
        "sentences": [text for text in (*verdict.comparisons, verdict.missing, *verdict.notes) if text],
        "facts": [(name, value) for name, value in facts if not value.startswith(NONE)],
    }


def registered(registration: Registration) -> str:
    """In plain words: whether the question was fixed before the answer could be known."""
    mark = f"({registration.date}, digest {registration.digest})"
    if registration.before_test:
        return (
            f"Registered {mark}: measure, target classes, smallest effect and arms were fixed before any prediction "
            "for the test part was opened."
        )
    return (
        f"Exploratory {mark}: measure, target classes, smallest effect or arms were set after predictions for the test "
        "part had been opened. What is found here is a reason for a new study, and proves nothing by itself."
    )
