"""What each arm trained on, and its scores."""

from typing import Any

from moulage.report.roles import by_role
from moulage.report.run_files import Run
from moulage.report.tables import MEASURES, overview, scored_part

TITLE = "Arms"


def show(run: Run) -> dict[str, Any] | None:
    results, part = run.results, scored_part(run.results)
    if not results.arms:
        return None
    return {
        "arms_by_role": by_role(results),
        "same_seen": len({arm.images_seen for arm in results.arms}) == 1,
        "adjusted": any(any(arm.strength) for arm in results.arms),
        "overview": overview(results, part),
        "measures": MEASURES,
        "part": part,
    }
