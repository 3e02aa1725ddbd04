"""How many images and lesions of each class are in which part."""

from typing import Any

from moulage.report.run_files import Run

TITLE = "Split"


def show(run: Run) -> dict[str, Any] | None:
    return {}
