"""What the audit found in the data before anything was trained."""

from typing import Any

from moulage.data.audit import Audit
from moulage.report.pictures import shrunk
from moulage.report.run_files import Run
from moulage.results import pairs

TITLE = "Audit of the data"
MOST_NAMES = 60
"""Names of quarantined images in the page; the audit file has all."""


def show(run: Run) -> dict[str, Any] | None:
    path, sheet = run.folder / "audit.json", run.folder / "pairs.png"
    if not path.exists():
        return None
    shown = pairs.load(run.folder) if sheet.exists() else []
    return {"audit": Audit.load(path), "pairs": shown, "sheet": shrunk(sheet) if shown else "", "most": MOST_NAMES}
