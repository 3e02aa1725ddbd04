"""Variance components of finished studies, in the units of the planning constants of ``moulage.evaluation.power``.

    python benchmarks/components.py runs/rivals-pixels runs/pilot

For each study and measure the median over its comparisons with the arm that adds nothing; squared points. Of a class:
lesions and interaction times its test lesions, so that they hold for one lesion; of balanced accuracy: times the test
images, over 5,000. Studies on a hold-out only: with one repeat of folds the interaction is not told apart.

Interaction and trials are of the pairs whose fits differ (``varying``): a convex head that draws nothing gives one fit
for the same rows, and what is planned for are arms that draw, copy or generate.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moulage import runs
from moulage.evaluation.power import BALANCED_IMAGES, Plan

SQUARED_POINTS = 1e4
NOISE = 1e-3
"""Of the lesions' part: what fits add below this is rounding."""


def components(comparison: Mapping[str, Any]) -> tuple[float, float, float]:
    """Lesions, interaction and trials of one difference: of one lesion (or 5,000 images), and of one fit."""
    plan, measure = Plan.read(comparison), comparison["measure"]
    size = comparison["num_images"] / BALANCED_IMAGES
    if ":" in measure:
        size = comparison["num_lesions_by_class"][measure.partition(":")[2]]
    sets = plan.num_sets
    return tuple(SQUARED_POINTS * x for x in (size * plan.lesions, size * sets * plan.interaction, sets * plan.trials))


def of_study(run: Path) -> list[dict[str, Any]]:
    """A row a measure; the median over the comparisons with ``none``."""
    results = runs.read_json(run / "results.json")
    if results["trials"]["scheme"] == "folds":
        raise SystemExit(f"{run} is a study on folds: take one on a hold-out.")
    kinds = ("balanced_accuracy", "recall:", "average_precision:")
    found: dict[str, list[tuple[float, float, float]]] = {}
    for comparison in results["comparisons"]:
        measured = comparison["standard_error"] is not None  # not where two arms say the same of a class
        if measured and comparison["reference"] == "none" and comparison["measure"].startswith(kinds):
            found.setdefault(comparison["measure"], []).append(components(comparison))
    return [{"run": run.name, "measure": measure, **medians(np.array(rows))} for measure, rows in found.items()]


def medians(rows: np.ndarray) -> dict[str, Any]:
    """Of lesions over all pairs [P, 3], of the rest over those whose fits differ; 0 where none do."""
    varying = rows[(rows[:, 1:] > NOISE * rows[:, :1]).any(axis=1)]
    of_fits = np.median(varying[:, 1:], axis=0) if len(varying) else np.zeros(2)
    return {"pairs": len(rows), "varying": len(varying), "values": [float(np.median(rows[:, 0])), *of_fits.tolist()]}


def mean_of(rows: Sequence[Mapping[str, Any]], kind: str) -> list[float]:
    """The constants of one class, as the mean over the classes of a study."""
    return np.mean([row["values"] for row in rows if row["measure"].startswith(kind)], axis=0).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of finished studies on a hold-out")
    for run in parser.parse_args().runs:
        rows = of_study(run)
        rows += [
            {
                "run": run.name,
                "measure": f"mean of {kind}",
                "pairs": 0,
                "varying": 0,
                "values": mean_of(rows, f"{kind}:"),
            }
            for kind in ("recall", "average_precision")
        ]
        print(f"{'study':16}{'measure':28}{'pairs':>6}{'varying':>9}{'lesions':>12}{'interaction':>12}{'trials':>10}")
        for row in rows:
            lesions, interaction, trials = row["values"]
            print(
                f"{row['run']:16}{row['measure']:28}{row['pairs']:>6}{row['varying']:>9}"
                f"{lesions:12.2f}{interaction:12.2f}{trials:10.2f}"
            )


if __name__ == "__main__":
    main()
