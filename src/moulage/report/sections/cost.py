"""What the study's tasks took."""

from typing import Any

from moulage.report.run_files import Run
from moulage.report.tables import costs

TITLE = "Cost"


def show(run: Run) -> dict[str, Any] | None:
    rows = costs(run.results.cost)
    return {"rows": rows} if rows else None
