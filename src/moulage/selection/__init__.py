"""Which drawn images are kept: rules, one a file. Here is what a rule is shown, and what it answers.

A rule is a ``contracts.SelectionModule``. Of its arguments ``candidates`` are drawn images, ``reference`` the real
images of the training part, and ``want`` how many images of each class an arm adds. It judges each candidate, and never
sees a real image of another part.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from moulage.data.catalog import Catalog
from moulage.errors import DataError


@dataclass(frozen=True)
class ImageSet:
    """Rows of a catalog with what is seen of them, all in one order; ``DataError`` where the three do not fit."""

    catalog: Catalog  # one row an image, N in all
    pixels: np.ndarray  # uint8 [N, S, S, 3]
    features: np.ndarray  # float32 [N, D], of one feature network

    def __post_init__(self) -> None:
        for name, shape, num_axes in (("pixels", self.pixels.shape, 4), ("features", self.features.shape, 2)):
            if len(shape) != num_axes or shape[0] != len(self.catalog):
                raise DataError(f"There are {len(self.catalog)} images, and {name} of shape {list(shape)}.")

    def __len__(self) -> int:
        return len(self.catalog)

    @property
    def groups(self) -> np.ndarray:
        """The lesion of each image, [N] of str."""
        return self.catalog.groups

    def rows_of(self, label: str) -> np.ndarray:
        """The rows of one class, int64 [n]."""
        return np.flatnonzero((self.catalog.table["label"] == label).to_numpy())

    def take(self, rows: np.ndarray) -> "ImageSet":
        """These rows (int64) in this order."""
        return ImageSet(self.catalog.take(rows), self.pixels[rows], self.features[rows])

    def by_class(self) -> Iterator[tuple[str, np.ndarray]]:
        """Each class that has images, in the order of the catalog's classes, with its rows."""
        for label, count in self.catalog.counts.items():
            if count:
                yield label, self.rows_of(label)


@dataclass(frozen=True)
class Judgement:
    """What a rule says of N candidates."""

    keep: np.ndarray  # bool [N]
    score: np.ndarray  # float64 [N]; the higher, the sooner a candidate is kept. Each rule says what it measures.
    reasons: list[str]  # N sentences, one a candidate: the number that decided, and what it was held against
    nearest: np.ndarray  # the row of the reference that the reason speaks of, int64 [N]; -1 for none
    # sentences about the rule on these data: what it could not judge, how many real images it would drop
    notes: list[str] = field(default_factory=list)

    @classmethod
    def undecided(cls, num_candidates: int) -> "Judgement":
        """All are kept, none has a score or a reason yet: what a rule starts from, and fills in class by class."""
        return cls(
            np.ones(num_candidates, bool),
            np.zeros(num_candidates),
            ["There is nothing to judge it by."] * num_candidates,
            np.full(num_candidates, -1, np.int64),
        )

    def say(self, rows: np.ndarray, keep: np.ndarray, score: np.ndarray, reasons: list[str]) -> None:
        """Fill in the verdict on the candidates at ``rows``; the other arguments are in their order."""
        self.keep[rows], self.score[rows] = keep, score
        for row, reason in zip(rows, reasons, strict=True):
            self.reasons[row] = reason
