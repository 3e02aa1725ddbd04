"""Whether the classifiers are as sure as they are right."""

from typing import Any

from moulage.report.figures_scores import reliability
from moulage.report.roles import by_importance
from moulage.report.run_files import Run
from moulage.report.tables import estimate

TITLE = "Calibration"


def show(run: Run) -> dict[str, Any] | None:
    results, order = run.results, by_importance(run.results)
    rows = sorted(results.reliability, key=lambda row: order.index(row.arm))
    errors = [(row.arm, estimate(row.error, "expected_calibration_error")) for row in rows]
    return {"errors": errors, "figure": reliability(results, run.folder)} if rows else None
