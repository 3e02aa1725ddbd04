"""The data sets, and whom they are to be attributed to."""

from typing import Any

from moulage.report.run_files import Run

TITLE = "Data and attribution"


def show(run: Run) -> dict[str, Any] | None:
    return {}
