"""The tables of the page as files for other programs."""

from typing import Any

from moulage.report import export_tables, exports
from moulage.report.run_files import Run

TITLE = "Tables as files"


def show(run: Run) -> dict[str, Any] | None:
    files = exports.write(export_tables.tables(run.results), run.folder / exports.FOLDER)
    return {"files": files, "folder": exports.FOLDER} if files else None
