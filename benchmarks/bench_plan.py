"""How long planning takes: 100 arms x 10 trials on 400,000 images.

    python benchmarks/bench_plan.py [NUM_IMAGES]

No image is read: the catalog is a table of made-up names, and the pixels are a folder's name. Printed are CPU seconds
of what ``study`` does between the data and the first stage: digests, parts, the plan, the cost of its stages, and
``plan.json``.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd

from moulage import recipe as recipes
from moulage.data.catalog import Catalog
from moulage.data.filters import Filters
from moulage.data.split import holdout
from moulage.stages import plan as plans
from moulage.stages.data import Prepared

NUM_ARMS, NUM_TRIALS = 100, 10
SHARES = {"NV": 0.6, "MEL": 0.2, "BKL": 0.15, "AK": 0.04, "DF": 0.01}
SCRATCH = {"name": "test_resnet", "weights": "scratch"}


def catalog_of(num_images: int) -> Catalog:
    """Images of five classes, two of a lesion."""
    rng = np.random.default_rng(0)
    lesion_labels = rng.choice(list(SHARES), num_images // 2 + 1, p=list(SHARES.values()))
    lesions = np.arange(num_images) // 2
    names = np.array([f"ISIC_{n:07d}" for n in range(num_images)], object)
    table = pd.DataFrame({"image": names, "label": lesion_labels[lesions], "location": names})
    table["lesion"] = [f"IL_{n:07d}" for n in lesions]
    return Catalog.build(table, tuple(SHARES), "made up")


def recipe_of() -> recipes.Recipe:
    """Ten generators, and arms that add more and more of their images, every third one through a selection."""
    generators = {f"g{n}": {"plugin": "noise", "classes": ["AK", "DF"], "size": 32} for n in range(10)}
    arms: dict[str, dict[str, Any]] = {"none": {"balance": "none"}}
    for number in range(NUM_ARMS - 1):
        arms[f"a{number}"] = {"balance": "synthesize", "generator": f"g{number % 10}", "add": {"AK": 10 + number}}
        if number % 3 == 0:
            arms[f"a{number}"]["selection"] = "some"
    return recipes.parse(
        {
            "study": {"name": "many", "num_trials": NUM_TRIALS, "target_classes": ["AK", "DF"]},
            "generators": generators,
            "fidelity": {"features": {"backbone": SCRATCH}},
            "selections": {"some": {"rules": [{"plugin": "random"}], "features": {"backbone": SCRATCH}}},
            "classifier": {"plugin": "probe", "options": {"size": 32, "backbone": SCRATCH}},
            "arms": arms,
        }
    )


def main() -> None:
    num_images = int(sys.argv[1]) if len(sys.argv) > 1 else 400_000
    catalog, recipe = catalog_of(num_images), recipe_of()
    split = holdout(catalog, validation=0.1, test=0.2, seed=0)
    pixels = cast("Any", SimpleNamespace(folder=Path("pixels-0")))
    plans.check(recipe)

    def timed(what: str, call: Callable[[], Any]) -> Any:
        start = time.process_time()
        found = call()
        print(f"{what:28} {time.process_time() - start:6.2f} s")
        return found

    prepared = Prepared(catalog, (split,), pixels, "squash", Filters.of([]))
    start = time.process_time()
    timed("digest of the data", lambda: prepared.digest)
    stages = timed("plan", lambda: plans.plan(recipe, prepared))
    timed("images of each stage", lambda: [stage.num_images(prepared) for stage in stages])
    with tempfile.TemporaryDirectory() as folder:
        timed("plan.json", lambda: plans.save(stages, Path(folder)))
        print(f"{'size of plan.json':28} {(Path(folder) / plans.FILE).stat().st_size / 1e6:6.2f} MB")
    total, what = time.process_time() - start, f"{NUM_ARMS} arms x {NUM_TRIALS} trials"
    print(f"{'all':28} {total:6.2f} s: {len(stages):,} stages, {what}, {num_images:,} images")


if __name__ == "__main__":
    main()
