"""How the controls did, and which ones the study lacks."""

from typing import Any

from moulage.report.roles import EXPECTED
from moulage.report.run_files import Run

TITLE = "Controls"
SIGNS = {"misbehaves": "✗", "cannot be judged": "–", "not shown": "?", "behaves": "✓"}
"""What stands beside the word of a control's state, so that it is not told by colour alone; the worst state first."""
KNOWN = {
    "noise": "textures without a lesion, which must not help",
    "permuted": "real images under labels of other classes, which must not help",
    "oracle": "held-back real images, which must help",
}
"""What a control is, for one that is missing."""


def show(run: Run) -> dict[str, Any] | None:
    found, missing = run.results.controls, run.results.controls_missing
    if not found and not missing:
        return None
    worst = list(SIGNS)
    return {
        "rows": sorted(found, key=lambda row: worst.index(row.state)),
        "signs": SIGNS,
        "expected": EXPECTED,
        "missing": [f"{name} ({KNOWN[name]})" for name in missing],
    }
