"""Which classes are taken for which."""

from typing import Any

from moulage.report import figures_scores
from moulage.report.roles import by_importance
from moulage.report.run_files import Run

TITLE = "Confusion matrices"


def show(run: Run) -> dict[str, Any] | None:
    drawn = [figures_scores.confusion(run, arm, run.folder) for arm in by_importance(run.results)]
    return {"plots": plots} if (plots := list(filter(None, drawn))) else None
