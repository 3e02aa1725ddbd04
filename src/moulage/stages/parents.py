"""The training images that edited images are made of: which one each seed has, and drawing from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moulage import contracts, runs
from moulage.data import masks
from moulage.data.catalog import Catalog
from moulage.data.samples import Parents
from moulage.errors import DataError, LeakError, RunError
from moulage.stages.data import Prepared
from moulage.stages.mask_needs import WITHOUT_MASKS


class Chooser:
    """Which training image of a class each seed has: the same one whatever other images are drawn.

    They stand in one order, and consecutive seeds have consecutive images, round and round: each is a parent once
    before any is again, from whatever seed on. Where a region is changed, those with such a region can be parents.
    """

    def __init__(self, prepared: Prepared, trial: int, edit: contracts.Edit, size: int) -> None:
        self.prepared, self.trial, self.edit, self.size = prepared, trial, edit, size
        self._found: dict[str, tuple[Catalog, np.ndarray | None]] = {}

    def rows(self, label: str, seeds: np.ndarray) -> Catalog:
        """The parent of each seed (int64 [n]); ``DataError`` where the class has none."""
        known, _ = self._candidates(label)
        return known.take(seeds % len(known))

    def masks(self, label: str, seeds: np.ndarray) -> np.ndarray | None:
        """Their lesion masks uint8 [n, S, S]; None where no region is changed."""
        known, found = self._candidates(label)
        return None if found is None else found[seeds % len(known)]

    def parents(self, label: str, seeds: np.ndarray) -> Parents:
        """The same with the digests of the files."""
        rows, pixels = self.rows(label, seeds), self.prepared.pixels
        return Parents(rows, pixels.scan["sha256"].to_numpy(object)[pixels.rows(rows.images)])

    def _candidates(self, label: str) -> tuple[Catalog, np.ndarray | None]:
        if label not in self._found:
            train = self.prepared.part(self.trial, "train").only(label=label)
            if not len(train):
                raise DataError(
                    f'There is no training image of "{label}" to edit.', "Leave that class out, or draw from noise."
                )
            train = train.take(in_order(train.images))
            self._found[label] = (train, None) if self.edit == "whole" else self._with_region(train, label)
        return self._found[label]

    def _with_region(self, train: Catalog, label: str) -> tuple[Catalog, np.ndarray]:
        """Those training images of which a region can be changed, and their masks."""
        catalog, prepared = masks.with_masks(self.prepared.catalog), self.prepared
        found = masks.unknown(len(train), self.size)
        if len(catalog):
            kept = masks.build(catalog, self.size, prepared.framing, filters=prepared.filters)
            found = masks.read_known(kept, self.size, train.images)
        region = found == (masks.LESION if self.edit == "lesion" else 0)
        good = np.flatnonzero(region.any((1, 2)))
        if not len(good):
            raise DataError(
                f'edit = "{self.edit}" goes by lesion masks, and none of the {len(train)} training images of "{label}" '
                "has one with such a region.",
                WITHOUT_MASKS,
            )
        return train.take(good), found[good]


class Editor:
    """A generator that changes the training images which a ``Chooser`` names, called as if it drew from noise."""

    def __init__(self, generator: contracts.Edits, classes: tuple[str, ...], chooser: Chooser) -> None:
        self.generator, self.classes, self.chooser = generator, classes, chooser

    def sample(self, label: int, seeds: np.ndarray) -> np.ndarray:
        """As ``contracts.Generator``."""
        name, chooser = self.classes[label], self.chooser
        parents = chooser.prepared.images(chooser.rows(name, seeds), chooser.size)
        return self.generator.edited(label, seeds, parents, chooser.masks(name, seeds))


def in_order(names: Sequence[str] | np.ndarray) -> np.ndarray:
    """Rows of images in the order in which they are parents, int64: by chance, and the same among fewer of them."""
    return np.argsort([runs.digest("parent", str(name)) for name in names], kind="stable")


def data_of(generator: Path, trial: int, split_digest: str) -> tuple[Prepared, int]:
    """The data that the generator of a folder was fitted on, of the run that the folder lies in, and its trial.

    Raises:
        RunError: it lies in none, or its data are gone.
        LeakError: the split there is another one.
    """
    run = generator.absolute().parent.parent
    if not (run / "catalog.parquet").exists():
        raise RunError(
            f"{generator} lies in no run folder, and images are edited from the training images of its run.",
            "Name the generator's folder in its run.",
        )
    prepared = Prepared.load(run, trial)
    if prepared.split(trial).digest != split_digest:
        raise LeakError(
            f"{generator} was fitted on the split {split_digest}, and {run} has {prepared.split(trial).digest}.",
            "Draw from a generator that was fitted on the split of its run.",
        )
    return prepared, trial
