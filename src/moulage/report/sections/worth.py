"""What added images are worth in real photographs of new lesions, at each dose; the figure stands under the answer."""

from typing import Any

from moulage.report.run_files import Run

TITLE = "Worth in photographs"


def show(run: Run) -> dict[str, Any] | None:
    return {} if run.results.worths else None
