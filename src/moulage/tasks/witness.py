"""What each folder of a run says of the images that it has seen, as digests: ``witness.json``, read by ``guards``."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from moulage import runs
from moulage.data.catalog import REAL, Catalog
from moulage.tasks.plan import Task

FILE = "witness.json"
EXTRA = "extra.parquet"
"""Beside a classifier: the rows that its arm added, with their columns ``EXTRA_COLUMNS``."""
EXTRA_COLUMNS = ["image", "label", "origin", "split_digest"]


def names_digest(images: Iterable[str]) -> str:
    """Digest of a set of image names, whatever their order."""
    return runs.digest(sorted(set(images)))


def rows_digest(table: pd.DataFrame) -> str:
    """Digest of added rows, in their order."""
    return runs.digest(table[EXTRA_COLUMNS].to_numpy(object).tolist())


def of_fit(folder: Path, kind: str, split_digest: str, images: Catalog, chosen_on: Catalog | None = None) -> None:
    """A generator or selection (``kind``) was fitted on these images of the training part.

    Args:
        folder: where it lies.
        kind: ``generator`` or ``selection``.
        split_digest: digest of the split.
        images: what it was fitted on.
        chosen_on: the validation images that chose a threshold, where any did.
    """
    about = {"kind": kind, "split_digest": split_digest, "fitted_part": "train", "num_images": len(images)}
    about |= {"fitted_on": names_digest(images.images), "origins": [], "images_seen": None, "scored_on": {}}
    chosen = None if chosen_on is None else {"part": "validation", "digest": names_digest(chosen_on.images)}
    runs.write_json(folder / FILE, {**about, "chosen_on": chosen})


def of_selection(folder: Path, split_digest: str, train: Catalog, kept: Catalog) -> None:
    """A selection looked at the training part, and kept these images of the drawn ones."""
    of_fit(folder, "selection", split_digest, train)
    about = {"origins": sorted(set(kept.table["origin"])), "kept": names_digest(kept.images)}
    runs.write_json(folder / FILE, {**runs.read_json(folder / FILE), **about})


def of_samples(folder: Path, samples: Catalog) -> None:
    """These images were drawn."""
    table = samples.table
    about = {"kind": "samples", "split_digest": _one(table["split_digest"]), "origins": sorted(set(table["origin"]))}
    runs.write_json(folder / FILE, {**about, "num_images": len(samples), "drawn": names_digest(samples.images)})


def of_classifier(
    folder: Path, task: Task, split_digest: str, train: Catalog, extra: Catalog, parts: dict[str, Catalog]
) -> None:
    """A classifier was trained on these rows, chosen on the validation part of ``parts``, and scored on both parts."""
    added, real = extra.table[EXTRA_COLUMNS], extra.only(origin=REAL)
    with runs.atomic(folder / EXTRA) as temporary:
        added.to_parquet(temporary)
    validation = names_digest(parts["validation"].images)
    about = {
        "kind": "classifier",
        "arm": task.name,
        "trial": task.trial,
        "split_digest": split_digest,
        "seed": task.settings["seed"],
        "fitted_part": "train",
        "fitted_on": names_digest(train.images),
        "extra": rows_digest(added),
        "extra_real": names_digest(real.images),
        "origins": sorted(set(added["origin"]) - {REAL}),
        "images_seen": sum(record.get("num_images", 0) for record in runs.read_log(folder, "epoch")),
        "chosen_on": {"part": "validation", "digest": validation},
        "scored_on": {part: names_digest(rows.images) for part, rows in parts.items()},
    }
    runs.write_json(folder / FILE, about)


def _one(values: pd.Series) -> str:
    """The value that all have; several are told apart by a comma, which matches no digest."""
    return ",".join(sorted(set(values)))
