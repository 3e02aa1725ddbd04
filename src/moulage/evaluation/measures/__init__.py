"""Measures of a classifier, one file a measure: ``measures/auc.py`` *is* the measure ``auc``; nothing is registered.

A file holds ``MEASURE``, the one object that knows how the measure is computed, how it changes with the lesions, how
users name it, and how its numbers are written. ``evaluation.measure_names`` finds it. Most need ``weighted`` alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from typing import ClassVar, Literal, Self

import numpy as np

from moulage.evaluation.predictions import ARGMAX, log_softmax
from moulage.evaluation.resampling import CHUNK, Weighted, ratio

Form = Literal["overall", "class", "targets"]
"""How a measure is named: ``NAME`` (of all images, or the mean over the classes that occur), ``NAME:CLASS``, and
``mean_NAME`` (the mean over the target classes)."""


@dataclass(frozen=True, eq=False)
class Outputs:
    """What one set of predictions says of N images with K classes."""

    labels: np.ndarray  # true class indices, [N] int64
    logits: np.ndarray  # [N, K] float
    predicted: np.ndarray = ARGMAX  # class that is said, [N] int64; ``ARGMAX``: the first of the largest logit

    def __post_init__(self) -> None:
        if self.predicted is ARGMAX:
            object.__setattr__(self, "predicted", self.logits.argmax(axis=1))

    @cached_property
    def probabilities(self) -> np.ndarray:
        """[N, K] float64."""
        return np.exp(log_softmax(self.logits))


@dataclass(frozen=True)
class Measure(ABC):
    """A measure. Its methods take ``k``, the class that is held against the rest, or None for all images at once."""

    # what stands behind ``@`` in its name, between 0 and 1; None for a measure that takes none
    level: float | None = None
    words: ClassVar[str]  # its name in a sentence; ``{level}`` stands for the level in percent
    heading: ClassVar[str] = ""  # its name in a table, where that is another one
    abbreviation: ClassVar[str] = ""  # its name where there is hardly room
    forms: ClassVar[tuple[Form, ...]] = ("class", "targets")  # how it can be named
    # whether it is of a class; its overall form is then the mean over the classes that occur
    by_class: ClassVar[bool] = True
    decided: ClassVar[bool] = False  # whether it is of the classes that are said; of the logits otherwise
    needs_others: ClassVar[bool] = False  # whether it is undefined where every image is of the class
    lower_is_better: ClassVar[bool] = False  # direction
    # numbers are shown times ``scale`` with so many digits; ``unit`` is said behind differences
    unit: ClassVar[str] = "points"
    scale: ClassVar[float] = 100.0
    digits: ClassVar[int] = 1
    # of the lesion bootstrap that gives its variance unless a user wants another number; 0: the jackknife, also of a
    # class with few lesions whatever a user wants
    resamples: ClassVar[int] = 0
    warns: ClassVar[bool] = False  # whether slices warn of it although it is not the primary measure

    @abstractmethod
    def weighted(self, outputs: Outputs, k: int | None, lesions: np.ndarray) -> Weighted:
        """The measure as a function of lesion weights.

        Args:
            outputs: of N images.
            k: the class.
            lesions: index of each image's lesion, [N] int64, 0..L-1, every index used.
        """

    def value(self, outputs: Outputs, k: int | None) -> float | None:
        """The measure; None where it is undefined."""
        with np.errstate(divide="ignore", invalid="ignore"):
            whole = self.weighted(outputs, k, np.zeros(len(outputs.labels), np.int64))
            found = whole.value(whole.total())[0]
        return float(found) if np.isfinite(found) else None

    def without_each(self, outputs: Outputs, k: int | None, lesions: np.ndarray) -> tuple[float, np.ndarray]:
        """The measure, and its exact values without each lesion, [L] float64; NaN where it is undefined without it.

        Args: those of ``weighted``; each lesion is of one class.
        """
        weighted = self.weighted(outputs, k, lesions)
        without = np.empty(int(lesions.max()) + 1)
        total = weighted.total()
        with np.errstate(divide="ignore", invalid="ignore"):
            for first in range(0, len(without), CHUNK):
                chunk = slice(first, first + CHUNK)
                without[chunk] = weighted.value(total - weighted.counts(chunk))
            value = float(weighted.value(total)[0])
        return value, np.where(np.isfinite(without), without, np.nan)

    def linearised(self, outputs: Outputs, k: int | None, lesions: np.ndarray) -> tuple[float, np.ndarray]:
        """As ``without_each``, to first order: for a measure whose exact values jump."""
        return self.without_each(outputs, k, lesions)

    def at(self, level: float) -> Self:
        """The same measure at another level."""
        return replace(self, level=level)

    def named(self, short: bool = False) -> str:
        """Its words, or its heading, with the level filled in."""
        level = "" if self.level is None else f"{100 * self.level:g}"
        return (self.heading if short and self.heading else self.words).format(level=level)

    def number(self, value: float, *, signed: bool = False) -> str:
        """A value or a difference as text; a rounded zero has no sign but +."""
        return f"{round(self.scale * value, self.digits) + 0.0:{'+' if signed else ''}.{self.digits}f}"

    def amount(self, value: float, *, signed: bool = False) -> str:
        """A difference with its unit: ``2.0 points``, ``+0.020 nats``."""
        return f"{self.number(value, signed=signed)} {self.unit}".rstrip()


def sklearn_metric(name: str) -> Callable[..., float]:
    """A function of scikit-learn, which comes without types."""
    return getattr(import_module("sklearn.metrics"), name)


class ImageMean(Measure):
    """A measure that is the mean of a value of each image, over the images of a class or over all.

    A class-weighted mean of these has a closed form for its variance (``lesion_variance``).
    """

    @abstractmethod
    def image_values(self, outputs: Outputs) -> np.ndarray:
        """What is averaged, [N]."""

    def value(self, outputs: Outputs, k: int | None) -> float | None:
        values = self.image_values(outputs)
        values = values if k is None else values[outputs.labels == k]
        return float(values.mean()) if len(values) else None

    def weighted(self, outputs: Outputs, k: int | None, lesions: np.ndarray) -> Weighted:
        counted = np.ones(len(outputs.labels), bool) if k is None else outputs.labels == k
        return ratio(self.image_values(outputs) * counted, counted, lesions)
