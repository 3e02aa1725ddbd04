"""Patient metadata as numbers: age, sex and site of each image, for classifiers that read them beside the image.

The vocabulary and the scale of age come from the training part alone. Missing is a value of its own, and so is counted
whatever the training part never named; what counts as missing in a table is for ``table_values`` to say.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from moulage import runs
from moulage.data.catalog import REAL, Catalog
from moulage.errors import DataError, RunError
from moulage.recipe_tables import METADATA

FILE = "metadata.json"
"""Beside a classifier that reads metadata: how they become numbers."""


@dataclass(frozen=True)
class Encoder:
    """How metadata become numbers; each column of the catalog is a block of columns, the last of them "missing"."""

    columns: tuple[str, ...]  # of the catalog, each one of ``recipe_tables.METADATA``
    words: dict[str, tuple[str, ...]]  # the values that the training part names, for each column but age, sorted
    mean: float = 0.0  # of the ages of the training part, in years
    std: float = 1.0  # their standard deviation; 1 where they do not vary

    @classmethod
    def fit(cls, train: Catalog, columns: Sequence[str]) -> "Encoder":
        """Take vocabulary and scale from the training part; ``DataError`` where no image has a value of a column."""
        check(train, columns)
        words = {name: tuple(sorted(set(_words(train, name)) - {""})) for name in columns if name != "age"}
        if "age" not in columns:
            return cls(tuple(columns), words)
        ages = _ages(train)
        ages = ages[~np.isnan(ages)]
        return cls(tuple(columns), words, float(ages.mean()), float(ages.std()) or 1.0)

    @property
    def names(self) -> tuple[str, ...]:
        """What each of the M columns says: ``age``, ``age missing``, ``sex female`` ..."""
        values = {"age": ("age",), **{name: [f"{name} {word}" for word in words] for name, words in self.words.items()}}
        return tuple(part for name in self.columns for part in (*values[name], f"{name} missing"))

    def encode(self, catalog: Catalog) -> np.ndarray:
        """Metadata of these images in this order, float32 [N, M].

        Age has mean 0 and standard deviation 1 over the training part, and is 0 where it is missing; every other column
        is 0 or 1.
        """
        parts = [self._age(catalog) if name == "age" else self._one_hot(catalog, name) for name in self.columns]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def unseen(self, catalog: Catalog) -> dict[str, dict[str, int]]:
        """Values that the training part never named, which count as missing: column -> value -> number of images."""
        found = {}
        for name, known in self.words.items():
            counts = pd.Series(_words(catalog, name)).value_counts()
            strange = {str(word): int(number) for word, number in counts.items() if word and word not in known}
            found |= {name: strange} if strange else {}
        return found

    def _age(self, catalog: Catalog) -> np.ndarray:
        ages = _ages(catalog)
        missing = np.isnan(ages)
        return np.stack([np.where(missing, 0, (ages - self.mean) / self.std), missing], axis=1)

    def _one_hot(self, catalog: Catalog, name: str) -> np.ndarray:
        index = {word: place for place, word in enumerate(self.words[name])}
        places = [index.get(word, len(index)) for word in _words(catalog, name)]
        return np.eye(len(index) + 1)[places]

    def save(self, folder: Path) -> None:
        """Write ``metadata.json``."""
        about = {"columns": self.columns, "words": self.words, "mean": self.mean, "std": self.std}
        runs.write_json(folder / FILE, {**about, "names": self.names})

    @classmethod
    def load(cls, folder: Path) -> "Encoder | None":
        """Read what ``save`` wrote; None for a classifier that reads no metadata. ``RunError``: the file is damaged."""
        if not (folder / FILE).exists():
            return None
        saved = runs.read_json(folder / FILE, "words", "columns", "mean", "std")
        try:
            words = {name: tuple(values) for name, values in saved["words"].items()}
            return cls(tuple(saved["columns"]), words, float(saved["mean"]), float(saved["std"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(f"{folder / FILE} is damaged: {error!r}.", "Train the classifier again.") from None


def check(catalog: Catalog, columns: Sequence[str]) -> None:
    """Raise ``DataError`` for the first column that has no value for any image."""
    for name in columns:
        if not (~missing(catalog, name)).any():
            has = ", ".join(other for other in METADATA if (~missing(catalog, other)).any())
            hint = f"The data have {has}." if has else "The data have no metadata: leave classifier.metadata out."
            raise DataError(f'classifier.metadata: no image of {catalog.name} has a value of "{name}".', hint)


def missing(catalog: Catalog, name: str) -> np.ndarray:
    """Whether each image lacks this column, bool [N]."""
    return np.isnan(_ages(catalog)) if name == "age" else np.array([not word for word in _words(catalog, name)], bool)


def lend(rows: Catalog, train: Catalog, rng: np.random.Generator) -> Catalog:
    """The same rows, with metadata for the synthetic ones: those of a random training image of the same class, or of
    the parent where they have one.

    A synthetic image is of no patient. With its metadata missing, "missing" would say that an image is synthetic. All
    columns come from one training image, so that they go together as they do in patients. Real rows keep their own.
    ``DataError`` where a synthetic image is of a class without a training image.
    """
    labels = rows.table["label"].to_numpy(object)
    synthetic = (rows.table["origin"] != REAL).to_numpy()
    columns = {name: rows.table[name].to_numpy(copy=True) for name in METADATA}
    parents, places = rows.table["parent"].to_numpy(object), {name: row for row, name in enumerate(train.images)}
    for label in sorted(set(labels[synthetic])):
        lenders = np.flatnonzero((train.table["label"] == label).to_numpy())
        if not len(lenders):
            raise DataError(
                f"Generated images of {label} borrow metadata from training images, and there is none of {label}.",
                "Leave classifier.metadata out, or split so that the training part holds some of its groups.",
            )
        chosen = np.flatnonzero(synthetic & (labels == label))
        drawn = lenders[rng.integers(len(lenders), size=len(chosen))]
        drawn = [places.get(parents[row], lender) for row, lender in zip(chosen, drawn, strict=True)]
        for name, values in columns.items():
            values[chosen] = train.table[name].to_numpy()[drawn]
    return rows.with_columns(**columns)


def _words(catalog: Catalog, name: str) -> list[str]:
    return [word.strip().lower() for word in catalog.table[name]]


def _ages(catalog: Catalog) -> np.ndarray:
    """Years, float64 [N]; NaN where unknown."""
    return catalog.table["age"].to_numpy(np.float64)
