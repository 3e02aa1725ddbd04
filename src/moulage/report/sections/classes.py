"""Scores of every class in every arm."""

from typing import Any

from moulage.report.figures_scores import class_scores
from moulage.report.run_files import Run
from moulage.report.tables import class_reports, scored_part

TITLE = "Classes"


def show(run: Run) -> dict[str, Any] | None:
    part = scored_part(run.results)
    reports = class_reports(run.results, part)
    return {"reports": reports, "part": part, "figure": class_scores(run, run.folder)} if reports else None
