"""The catalog: a table with one row an image, real or synthetic, and where its bytes are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from moulage.data import locations, parquet, table_values
from moulage.data.findings import Finding
from moulage.errors import DataError
from moulage.runs import digest

COLUMNS = {
    "image": "name of the image, as the data set spells it",
    "label": "class name",
    "lesion": "lesion (or patient) id; empty where unknown",
    "group": "what must stay together in a split: the lesion, else the image; joined with duplicates after the audit; "
    "that of its parent for an edited image",
    "source": "where it was acquired, such as HAM or BCN; empty where unknown",
    "sex": "empty where unknown",
    "site": "place on the body; empty where unknown",
    "location": "where the bytes are: a path, 'archive.zip::member', 'file.npz::array::index', or 'missing::name'",
    "mask": "where the lesion mask is, written like `location`; empty where there is none",
    "origin": "'real', or the id of the generator run that drew it",
    "split_digest": "digest of the split that the generator was fitted on; empty for real images",
    "official_part": "official part of the data set (train, validation, test); empty where it has none",
    "data_set": "which further data set of the study it comes from; empty for the main one",
    "only_part": "'train' for an image that may be trained on and nothing else; empty for one that is split",
    "age": "years, NaN where unknown",
    "parent": "the training image that an edited image was made of; empty for any other",
    "seed": "the seed that drew a synthetic image, -1 for real ones",
}
TEXT = tuple(name for name in COLUMNS if name not in ("age", "seed"))
REAL = "real"


@dataclass(frozen=True, eq=False)
class Catalog:
    """Images, labels and what is known of them; no pixels. Never changed: what is derived from it is kept."""

    table: pd.DataFrame  # one row an image, with the columns of ``COLUMNS``
    classes: tuple[str, ...]  # class names in the order of their indices
    name: str = "data"  # the data set's name, for reports
    root: Path = field(default_factory=Path)  # folder that relative locations start from
    note: str = ""  # attribution, licence or remarks of the source, for the report
    unlabelled: tuple[str, ...] = ()  # files that look like images but that no label names; for the audit
    findings: tuple[Finding, ...] = ()  # what its source found wrong or worth knowing; for the audit, not saved

    @classmethod
    def build(
        cls,
        rows: pd.DataFrame,
        classes: Iterable[str],
        name: str,
        root: Path | str = ".",
        note: str = "",
        unlabelled: Iterable[str] = (),
        findings: Iterable[Finding] = (),
    ) -> "Catalog":
        """Complete a table: what is missing gets its 'unknown' value (``table_values``), types are fixed, rows checked.

        ``rows`` has at least ``image``, ``label`` and ``location``; ``group`` defaults to the lesion, else the image.
        ``DataError``: no rows, an empty or repeated image name, a label that is not in ``classes``.
        """
        classes, (table, read) = tuple(classes), table_values.read(rows)
        for column in TEXT:
            if column not in table:
                table[column] = REAL if column == "origin" else ""
            table[column] = table[column].astype(object).where(table[column].notna(), "").astype(str).astype(object)
        table["age"] = table.get("age", np.nan)
        table["seed"] = table["seed"].astype(np.int64) if "seed" in table else np.int64(-1)
        unknown = table["group"] == ""
        own = np.where(table["lesion"] == "", "image:" + table["image"], "lesion:" + table["lesion"])
        table.loc[unknown, "group"] = own[unknown.to_numpy()]
        _check(table, classes, name)
        return cls(
            table[list(COLUMNS)].reset_index(drop=True),
            classes,
            name,
            Path(root),
            note,
            tuple(unlabelled),
            (*findings, *read),
        )

    def __len__(self) -> int:
        return len(self.table)

    @property
    def images(self) -> np.ndarray:
        """Image names, [N] of str."""
        return self.table["image"].to_numpy(object)

    @property
    def labels(self) -> np.ndarray:
        """Class indices, [N] int64, in ``range(len(classes))``."""
        index = {name: k for k, name in enumerate(self.classes)}
        return self.table["label"].map(index).to_numpy(np.int64)

    @property
    def groups(self) -> np.ndarray:
        """Groups that must not be parted, [N] of str."""
        return self.table["group"].to_numpy(object)

    @property
    def counts(self) -> dict[str, int]:
        """Number of images of each class, in the order of ``classes``."""
        found = self.table["label"].value_counts()
        return {name: int(found.get(name, 0)) for name in self.classes}

    def take(self, rows: Sequence[int] | np.ndarray) -> "Catalog":
        """The rows at these positions (repeats allowed) or where a boolean mask is true."""
        rows = np.asarray(rows)
        table = self.table[rows] if rows.dtype == bool else self.table.iloc[rows.astype(np.int64)]
        return replace(self, table=table.reset_index(drop=True))

    def only(self, **values: str | Iterable[str]) -> "Catalog":
        """The rows whose columns have (one of) these values: ``catalog.only(label="AK", origin="real")``."""
        keep = np.ones(len(self), bool)
        for column, wanted in values.items():
            keep &= self.table[column].isin([wanted] if isinstance(wanted, str) else list(wanted)).to_numpy()
        return self.take(keep)

    def with_columns(self, **columns: np.ndarray | Sequence[str] | str) -> "Catalog":
        """The same rows with some columns replaced."""
        return replace(self, table=self.table.assign(**columns))

    def resolve(self, location: str) -> str:
        """A location with its path made absolute; 'missing::<name>' (a label without an image) stays as it is."""
        if location.startswith(locations.MISSING):
            return location
        path, inside = locations.split(location)
        return locations.join(str(self.root / path), inside) if location else ""

    @cached_property
    def digest(self) -> str:
        """Digest of everything but where the files happen to lie."""
        kept = self.table.drop(columns=["location", "mask"])
        return digest(self.classes, *((name, values.tolist()) for name, values in kept.items()))

    def save(self, path: Path) -> None:
        """Write a Parquet file that keeps classes, name and root beside the table.

        Locations below the file's folder are kept relative to it, so that a run folder can be moved.
        """
        base, table = path.parent.resolve(), self.table.copy()
        for column in ("location", "mask"):
            table[column] = [_relative(self.resolve(value), base) for value in table[column]]
        about = {"classes": self.classes, "name": self.name, "note": self.note, "unlabelled": self.unlabelled}
        parquet.write(path, "catalog", table, **about)

    @classmethod
    def load(cls, path: Path) -> "Catalog":
        """Read what ``save`` wrote; errors are those of ``parquet.read``."""
        table, about = parquet.read(path, "catalog")
        classes, unlabelled = tuple(about["classes"]), tuple(about["unlabelled"])
        table = table.astype(dict.fromkeys(TEXT, object))
        return cls(table, classes, about["name"], path.parent.resolve(), about["note"], unlabelled)


def concatenate(first: Catalog, *others: Catalog) -> Catalog:
    """One catalog of several over the same classes; locations become absolute. Rows may repeat an image."""
    tables = []
    for catalog in (first, *others):
        if catalog.classes != first.classes:
            raise DataError(
                f"{catalog.name} has the classes {', '.join(catalog.classes)}.",
                f"{first.name} has {', '.join(first.classes)}: both must name the same classes in the same order.",
            )
        table = catalog.table.copy()
        for column in ("location", "mask"):
            table[column] = [catalog.resolve(value) for value in table[column]]
        tables.append(table)
    filled = [table for table in tables if len(table)] or tables[:1]
    return replace(first, table=pd.concat(filled, ignore_index=True), root=Path("/"))


def _check(table: pd.DataFrame, classes: tuple[str, ...], name: str) -> None:
    if not len(table):
        raise DataError(f"{name} holds no image.", "Check the path and the layout of the data set.")
    if len(set(classes)) < len(classes):
        raise DataError(f"{name}: a class is named twice in {', '.join(classes)}.", "Name each class once.")
    for column in ("image", "location"):
        if (table[column] == "").any():
            raise DataError(f"{name}: row {int(np.argmax(table[column] == ''))} has no {column}.")
    for image in table["image"][table["image"].duplicated()]:
        raise DataError(f'{name}: image "{image}" is listed {int((table["image"] == image).sum())} times.')
    strange = sorted(set(table["label"]) - set(classes))
    if strange:
        raise DataError(f'{name}: label "{strange[0]}" is none of the classes {", ".join(classes)}.')


def _relative(location: str, base: Path) -> str:
    if location.startswith(locations.MISSING) or not location:
        return location
    path, inside = locations.split(location)
    full = Path(path).absolute()
    return locations.join(str(full.relative_to(base) if full.is_relative_to(base) else full), inside)
