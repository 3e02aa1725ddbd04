"""What it takes to repeat the study: command, versions, recipe."""

from typing import Any

from moulage import runs
from moulage.report.run_files import Run

TITLE = "Repeat it"


def show(run: Run) -> dict[str, Any] | None:
    path = run.folder / "recipe.toml"
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return {"versions": run.environment, "recipe": runs.shown(text, run.folder.absolute())}
