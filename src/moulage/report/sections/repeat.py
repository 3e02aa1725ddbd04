"""What it takes to repeat the study: command, versions, recipe."""

from typing import Any

from moulage.report.run_files import Run

TITLE = "Repeat it"


def show(run: Run) -> dict[str, Any] | None:
    path = run.folder / "recipe.toml"
    return {"versions": run.environment, "recipe": path.read_text(encoding="utf-8") if path.exists() else ""}
