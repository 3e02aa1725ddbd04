"""Understands the names of measures, as they stand in recipes, on the command line and in results.

    accuracy  auc  NAME      overall
    recall:AK  NAME:CLASS    of a class against the rest
    mean_recall  mean_NAME   mean over the target classes

A measure with a level has it behind its name: ``NAME@0.9``, ``NAME@0.9:CLASS``, ``mean_NAME@0.9``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from moulage import plugins
from moulage.errors import DataError, RecipeError, nearest
from moulage.evaluation.measures import Form, Measure, Outputs
from moulage.evaluation.predictions import ARGMAX

MEAN = "mean_"


@dataclass(frozen=True)
class Named:
    """What a name says, whatever the data: the measure, how it is named, and the class in it (or nothing)."""

    measure: Measure
    form: Form
    of: str

    def words(self, classes: Sequence[str] = (), *, short: bool = False) -> str:
        """In words, such as ``mean average precision of AK and DF``; ``short`` for a table.

        ``classes`` are those that it was taken of, where the name has none.
        """
        classes = (self.of,) if self.of else classes
        listed = " and ".join(filter(None, [", ".join(classes[:-1]), *classes[-1:]]))
        return f"{'mean ' * (self.form == 'targets')}{self.measure.named(short)}{' of ' * bool(listed)}{listed}"


@dataclass(frozen=True)
class Wanted:
    """A measure on certain data."""

    measure: Measure  # what is computed
    # the classes whose values are averaged; empty where the measure is one of all images at once
    indices: tuple[int, ...]
    # the classes that the user named (by ``NAME:CLASS`` or as targets); empty for an overall measure
    named: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[int | None, ...]:
        """What ``Measure``'s methods take as ``k``, in turn; the mean over them is the wanted number."""
        return self.indices or (None,)


def find(kind: str) -> Measure:
    """The measure of a file's name."""
    return plugins.load("evaluation.measures", kind).MEASURE


def parse(name: str, classes: Sequence[str] = ()) -> Named:
    """Understand a name; ``RecipeError`` where it or its level is wrong, with a hint at names of known ``classes``."""
    found = _parse(name)
    if found is None:
        raise RecipeError(f'There is no measure "{name}".', nearest(name, _valid(classes)))
    return found


def resolve(name: str, labels: np.ndarray, classes: Sequence[str], targets: Sequence[str] = ()) -> Wanted:
    """Understand a name on data whose images have these labels, [N] int64.

    ``RecipeError``: the name, its class or a target is unknown, or targets are missing. ``DataError``: a class that the
    measure needs has no image, or all images.
    """
    found = parse(name, classes)
    if found.form == "overall":
        return _overall(found.measure, labels)
    named = (found.of,) if found.form == "class" else tuple(dict.fromkeys(targets))
    if not named:
        raise RecipeError(f'The measure "{name}" needs target classes.', "Set `target_classes` in [study].")
    indices = []
    for known in named:
        if known not in classes:
            raise RecipeError(f'The measure "{name}" asks for the class "{known}".', nearest(known, classes))
        indices.append(list(classes).index(known))
        positive = labels == indices[-1]
        if not positive.any() or (found.measure.needs_others and positive.all()):
            why = f"every image is of {known}" if positive.any() else f"there is no image of {known}"
            raise DataError(f'The measure "{name}" is undefined: {why}.', "Choose another class or split.")
    return Wanted(found.measure, tuple(indices), named)


def measure(
    name: str,
    labels: np.ndarray,
    logits: np.ndarray,
    classes: Sequence[str],
    targets: Sequence[str] = (),
    predicted: np.ndarray = ARGMAX,
) -> float:
    """One number by name; raises what ``resolve`` raises. Arrays as of ``scores.scores``."""
    check(labels, logits, classes)
    wanted, outputs = resolve(name, labels, classes, targets), Outputs(labels, logits, predicted)
    found = (wanted.measure.value(outputs, k) for k in wanted.classes)
    return float(np.mean([value for value in found if value is not None]))


def read(name: str) -> Named:
    """``parse``, and the bare name of a measure's file, as the scores of a fit are called."""
    return _parse(name) or Named(find(name), "overall", "")


def is_lower_better(name: str) -> bool:
    """Whether a smaller value of this measure is the better one."""
    return read(name).measure.lower_is_better


def check(labels: np.ndarray, logits: np.ndarray, classes: Sequence[str]) -> None:
    """Refuse what cannot be scored, with ``DataError``."""
    if not len(labels) or logits.shape != (len(labels), len(classes)):
        raise DataError(
            f"{len(labels)} labels and logits of shape {logits.shape} cannot be scored over {len(classes)} classes.",
            "Give at least one image, and for each image one logit for each class.",
        )


@cache
def _parse(name: str) -> Named | None:
    text, colon, of = name.partition(":")
    kind, at, level = text.partition("@")
    form: Form = "class" if colon else "targets" if kind.startswith(MEAN) else "overall"
    kind = kind.removeprefix(MEAN) if form == "targets" else kind
    if kind not in plugins.names("evaluation.measures"):
        return None
    found = find(kind)
    if form not in found.forms or (at and found.level is None):
        return None
    return Named(found.at(_level(name, level)) if at else found, form, of)


def _level(name: str, text: str) -> float:
    try:
        level = float(text)
    except ValueError:
        level = 0.0
    if not 0 < level < 1:
        raise RecipeError(
            f'The measure "{name}" has the level "{text}".', "Give a number between 0 and 1, such as 0.9."
        )
    return level


def _valid(classes: Sequence[str]) -> list[str]:
    """All names of measures without a level."""
    valid: list[str] = []
    for kind in plugins.names("evaluation.measures"):
        ways = {"overall": [kind], "targets": [MEAN + kind], "class": [f"{kind}:{known}" for known in classes]}
        valid += [name for form in find(kind).forms for name in ways[form]]
    return valid


def _overall(found: Measure, labels: np.ndarray) -> Wanted:
    if not found.by_class:
        return Wanted(found, ())
    present = tuple(int(k) for k in np.unique(labels))
    if found.needs_others and len(present) < 2:
        raise DataError(f"The {found.named()} is undefined: all images are of one class.")
    return Wanted(found, present)
