"""Predictions of one fit on one part: the sufficient statistic of every score, interval and figure."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from moulage import openings, runs
from moulage.errors import DataError, RunError
from moulage.runs import FORMAT, atomic, check_format

PARTS = ("validation", "test")
ARGMAX: Any = None
"""In place of the classes that are said: the most probable ones."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one classifier said about N images with K classes; ``DataError`` where a shape, value or name is wrong."""

    images: np.ndarray  # names of the images, [N] of str, each once
    groups: np.ndarray  # lesion (joined with duplicates) of each image, [N] of str
    labels: np.ndarray  # true class indices, [N] int64 in ``range(K)``
    logits: np.ndarray  # unnormalised log-probabilities, [N, K] float32, finite
    classes: tuple[str, ...]  # the K class names in the order of their indices
    arm: str  # name of the arm
    trial: int  # number of the fit; fits of different arms with the same number are paired
    part: Literal["validation", "test"]  # ``"validation"`` or ``"test"``
    split_digest: str  # digest of the split that the classifier was trained and scored on
    # index of the class that is said of each image, [N] int64; ``ARGMAX``: that of the largest logit, of equals the
    # first. Where an operating point was set (``operating_point``) it is another one for some images
    predicted: np.ndarray = ARGMAX

    def __post_init__(self) -> None:
        for name in ("labels", "predicted"):
            if (given := getattr(self, name)) is not ARGMAX and np.asarray(given).dtype.kind not in "iu":
                raise DataError(f"{self}: {name} are {np.asarray(given).dtype}, not integer class indices.")
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused below
            logits = np.asarray(self.logits, np.float32)
        object.__setattr__(self, "images", np.asarray(self.images, object))
        object.__setattr__(self, "groups", np.asarray(self.groups, object))
        object.__setattr__(self, "labels", np.asarray(self.labels).astype(np.int64))
        object.__setattr__(self, "logits", logits)
        object.__setattr__(self, "classes", tuple(self.classes))
        if self.predicted is not ARGMAX:
            object.__setattr__(self, "predicted", np.asarray(self.predicted).astype(np.int64))
        elif logits.ndim == 2 and logits.size:  # what else it may be is refused below
            object.__setattr__(self, "predicted", logits.argmax(axis=1))
        self._check()

    def _check(self) -> None:
        num_images, num_classes = len(self.images), len(self.classes)
        if not num_images or self.images.ndim != 1:
            raise DataError(f"{self}: images must be a list of at least one name.")
        if num_classes < 2 or len(set(self.classes)) < num_classes:
            raise DataError(f"{self}: at least two classes with different names are needed, not {self.classes}.")
        expected = dict.fromkeys(("groups", "labels"), (num_images,))
        expected |= {"logits": (num_images, num_classes), "predicted": (num_images,)}
        for name, shape in expected.items():
            found = getattr(self, name).shape
            if found != shape:
                raise DataError(f"{self}: {name} have the shape {found}; the images and classes ask for {shape}.")
        for name in ("images", "groups"):
            for row, value in enumerate(getattr(self, name)):
                if not isinstance(value, str) or not value:
                    raise DataError(f"{self}: row {row} of {name} is {value!r}, no name.")
        if (row := first_true(pd.Index(self.images).duplicated())) is not None:
            raise DataError(f'{self}: image "{self.images[row]}" stands there twice.')
        for name, values in (("label", self.labels), ("predicted class", self.predicted)):
            if (row := first_true((values < 0) | (values >= num_classes))) is not None:
                raise DataError(f"{self}: {name} {values[row]} of row {row} is none of 0..{num_classes - 1}.")
        if (row := first_true(~np.isfinite(self.logits).all(axis=1))) is not None:
            image = self.images[row]
            raise DataError(f'{self}: the logits of image "{image}" are not finite.', "The fit diverged: repeat it.")
        if self.part not in PARTS:
            raise DataError(f'{self}: part is "{self.part}".', f"Valid: {', '.join(PARTS)}.")

    def __str__(self) -> str:
        return f"Predictions of arm {self.arm}, trial {self.trial}"

    def __len__(self) -> int:
        return len(self.images)

    @property
    def probabilities(self) -> np.ndarray:
        """Softmax of the logits, [N, K] float64, rows sum to 1."""
        return np.exp(log_softmax(self.logits))

    def save(self, path: Path) -> None:
        """Write Parquet: columns ``image``, ``group``, ``label`` and ``predicted`` (names), ``logit_<class>``.

        The rest is metadata.
        """
        names = np.array(self.classes, object)
        columns = {"image": self.images, "group": self.groups}
        columns |= {"label": names[self.labels], "predicted": names[self.predicted]}
        columns |= {f"logit_{name}": self.logits[:, k] for k, name in enumerate(self.classes)}
        about = {"arm": self.arm, "trial": int(self.trial), "part": self.part, "split_digest": self.split_digest}
        meta = {"format": FORMAT, "classes": list(self.classes), **about}
        table = pa.table({name: pa.array(values) for name, values in columns.items()})
        with atomic(path) as temporary:
            pq.write_table(table.replace_schema_metadata({b"moulage": json.dumps(meta).encode()}), temporary)

    @classmethod
    def load(cls, path: Path) -> "Predictions":
        """Read what ``save`` wrote; whoever reads what a run predicts for its test part is noted there (``openings``).

        ``RunError`` for any other file, ``DataError`` where what stands in it is wrong, ``LeakError`` where it is not
        what its stage wrote.
        """
        openings.opened(path)
        runs.prove_file(path)
        try:
            table = pq.read_table(path)
            meta = json.loads((table.schema.metadata or {})[b"moulage"])
            check_format(meta["format"], path)
            classes = tuple(meta["classes"])
            names = (*classes, meta["arm"], meta["split_digest"])
            if not all(isinstance(name, str) for name in names) or len(set(classes)) < len(classes):
                raise ValueError(f"classes, arm and split_digest are not different names: {names}")
            if type(meta["trial"]) is not int:
                raise TypeError(f"trial is {meta['trial']!r}, no number")
            labels, predicted = (
                pd.Index(classes).get_indexer(pd.Index(table[name].to_numpy())) for name in ("label", "predicted")
            )
            return cls(
                images=table["image"].to_numpy(),
                groups=table["group"].to_numpy(),
                labels=labels,
                predicted=predicted,
                logits=np.column_stack([table[f"logit_{name}"].to_numpy() for name in classes]),
                classes=classes,
                **{name: meta[name] for name in ("arm", "trial", "part", "split_digest")},
            )
        except (OSError, pa.ArrowException, LookupError, ValueError, TypeError, AttributeError) as error:
            raise RunError(
                f"{path} holds no predictions that can be read: {error}.", "Run the command that makes it again."
            ) from None


def facts_of(path: Path) -> dict[str, Any]:
    """What a file of predictions says of itself: ``arm``, ``trial``, ``part`` ...; what is predicted is not read."""
    metadata: dict[bytes, bytes] = pq.read_schema(path).metadata or {}
    return json.loads(metadata.get(b"moulage", b"{}"))


def first_true(values: np.ndarray | np.bool_) -> int | None:
    """Row of the first true one of bool [N]; None where none is."""
    return int(values.argmax()) if values.any() else None


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities, [N, K] float64, for logits [N, K]; never overflows."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
