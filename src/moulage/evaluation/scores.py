"""Scores of one set of predictions, and one number of it by name.

Probabilities are the softmax of the logits (for probabilities, pass their logarithm). What is undefined is ``None``:

- recall, AUC and average precision of a class without images; AUC where every image is of one class,
- precision of a class that is never predicted; F1 of a class that has no image and is never predicted.

Averages over classes (balanced accuracy, macro AUC and average precision) run over the classes for which
the score is defined.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moulage.errors import DataError, RecipeError, nearest
from moulage.evaluation.predictions import log_softmax

NUM_BINS = 15
"""Bins of the expected calibration error, as in Guo et al. 2017."""

OVERALL = ("accuracy", "balanced_accuracy", "auc", "log_loss", "expected_calibration_error")
OF_TARGETS = {"mean_recall": "recall", "mean_average_precision": "average_precision"}
OF_CLASS = ("recall", "average_precision", "auc", "f1")
LOWER_IS_BETTER = ("log_loss", "expected_calibration_error")


@dataclass(frozen=True)
class Measure:
    """A measure whose name has been understood.

    Attributes:
        kind: accuracy, recall, average_precision, auc, f1, log_loss or expected_calibration_error.
        indices: the classes whose ``kind`` is averaged; empty where the kind is one of all images at once.
        named: the classes that the user named (by ``kind:CLASS`` or as targets); empty for an overall measure.
    """

    kind: str
    indices: tuple[int, ...]
    named: tuple[str, ...] = ()


def scores(labels: np.ndarray, logits: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """All scores as plain numbers, lists and ``None``, ready for JSON.

    Args:
        labels: true class indices, [N] int64, N >= 1.
        logits: [N, K] float.
        classes: K names.

    Returns:
        ``num_images``, ``accuracy``, ``balanced_accuracy``, ``auc`` (macro, one against rest), ``average_precision``
        (macro), ``expected_calibration_error``, ``log_loss`` (nats), ``classes`` (name -> precision, recall, f1,
        support, auc, average_precision) and ``confusion`` (K x K counts, rows are the true classes).
    """
    from sklearn.metrics import confusion_matrix

    _check(labels, logits, classes)
    log_probabilities = log_softmax(logits)
    probabilities = np.exp(log_probabilities)
    confusion = confusion_matrix(labels, logits.argmax(axis=1), labels=np.arange(len(classes)))
    hits, support, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    of_class = {
        name: {
            "precision": _ratio(hits[k], predicted[k]),
            "recall": _ratio(hits[k], support[k]),
            "f1": _ratio(2 * hits[k], support[k] + predicted[k]),
            "support": int(support[k]),
            "auc": _auc(labels == k, probabilities[:, k]),
            "average_precision": _average_precision(labels == k, probabilities[:, k]),
        }
        for k, name in enumerate(classes)
    }
    return {
        "num_images": len(labels),
        "accuracy": float(hits.sum() / len(labels)),
        "balanced_accuracy": _mean(of_class, "recall"),
        "auc": _mean(of_class, "auc"),
        "average_precision": _mean(of_class, "average_precision"),
        "expected_calibration_error": expected_calibration_error(labels, probabilities),
        "log_loss": float(-log_probabilities[np.arange(len(labels)), labels].mean()),
        "classes": of_class,
        "confusion": confusion.tolist(),
    }


def measure(
    name: str, labels: np.ndarray, logits: np.ndarray, classes: Sequence[str], targets: Sequence[str] = ()
) -> float:
    """One number by name; ``resolve`` says which names there are.

    Raises:
        RecipeError: the name, its class or a target is unknown.
        DataError: the measure is undefined here because a class has no image.
    """
    _check(labels, logits, classes)
    wanted = resolve(name, labels, classes, targets)
    if wanted.kind == "log_loss":
        return float(-log_softmax(logits)[np.arange(len(labels)), labels].mean())
    predicted = logits.argmax(axis=1)
    if wanted.kind == "accuracy":
        return float((predicted == labels).mean())
    if wanted.kind == "recall":
        return float(np.mean([(predicted[labels == k] == k).mean() for k in wanted.indices]))
    if wanted.kind == "f1":
        return float(np.mean([_f1(labels == k, predicted == k) for k in wanted.indices]))
    probabilities = np.exp(log_softmax(logits))
    if wanted.kind == "expected_calibration_error":
        return expected_calibration_error(labels, probabilities)
    score = _auc if wanted.kind == "auc" else _average_precision
    found = (score(labels == k, probabilities[:, k]) for k in wanted.indices)
    return float(np.mean([value for value in found if value is not None]))


def resolve(name: str, labels: np.ndarray, classes: Sequence[str], targets: Sequence[str] = ()) -> Measure:
    """Understand the name of a measure.

    Overall: ``accuracy``, ``balanced_accuracy``, ``auc``, ``log_loss``, ``expected_calibration_error``. Over the target
    classes: ``mean_recall``, ``mean_average_precision``. Of one class: ``recall:AK``, ``average_precision:AK``,
    ``auc:AK``, ``f1:AK``.

    Raises:
        RecipeError: the name, its class or a target is unknown, or targets are missing.
        DataError: a class that the measure needs has no image.
    """
    kind, separator, of = name.partition(":")
    if separator and kind in OF_CLASS:
        named = (of,)
    elif name in OF_TARGETS:
        kind, named = OF_TARGETS[name], tuple(dict.fromkeys(targets))
        if not named:
            raise RecipeError(f'The measure "{name}" needs target classes.', "Set `target_classes` in [study].")
    elif name in OVERALL:
        return _overall(name, labels)
    else:
        valid = [*OVERALL, *OF_TARGETS, *(f"{kind}:{known}" for kind in OF_CLASS for known in classes)]
        raise RecipeError(f'There is no measure "{name}".', nearest(name, valid))
    for known in named:
        if known not in classes:
            raise RecipeError(f'The measure "{name}" asks for the class "{known}".', nearest(known, classes))
    indices = tuple(list(classes).index(known) for known in named)
    for k in indices:
        _needs(name, classes[k], labels == k, kind == "auc")
    return Measure(kind, indices, named)


def is_lower_better(name: str) -> bool:
    """Whether a smaller value of this measure is the better one."""
    return name in LOWER_IS_BETTER


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """Mean gap between confidence and accuracy over equal-width bins of the top probability (Guo et al. 2017, eq. 3).

    Bin b holds the confidences in ``(b / num_bins, (b + 1) / num_bins]``.

    Args:
        labels: [N] int64.
        probabilities: [N, K], rows sum to 1.
    """
    gaps = np.bincount(confidence_bins(probabilities, num_bins), confidence_gaps(labels, probabilities), num_bins)
    return float(np.abs(gaps).sum() / len(labels))


def confidence_bins(probabilities: np.ndarray, num_bins: int = NUM_BINS) -> np.ndarray:
    """The bin of each image's top probability, [N] int64."""
    return np.clip(np.ceil(probabilities.max(axis=1) * num_bins).astype(np.int64) - 1, 0, num_bins - 1)


def confidence_gaps(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Confidence minus correctness of each image, [N] float64 in -1..1."""
    return probabilities.max(axis=1) - (probabilities.argmax(axis=1) == labels)


def _check(labels: np.ndarray, logits: np.ndarray, classes: Sequence[str]) -> None:
    if not len(labels) or logits.shape != (len(labels), len(classes)):
        raise DataError(
            f"{len(labels)} labels and logits of shape {logits.shape} cannot be scored over {len(classes)} classes.",
            "Give at least one image, and for each image one logit for each class.",
        )


def _overall(name: str, labels: np.ndarray) -> Measure:
    present = tuple(int(k) for k in np.unique(labels))
    if name == "auc" and len(present) < 2:
        raise DataError("The AUC is undefined: all images are of one class.")
    if name == "auc":
        return Measure("auc", present)
    return Measure("recall", present) if name == "balanced_accuracy" else Measure(name, ())


def _needs(name: str, of: str, positive: np.ndarray, others_too: bool) -> None:
    if not positive.any():
        raise DataError(
            f'The measure "{name}" is undefined: there is no image of {of}.', "Choose another class or split."
        )
    if others_too and positive.all():
        raise DataError(f'The measure "{name}" is undefined: every image is of {of}.', "Choose another class or split.")


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _f1(positive: np.ndarray, predicted: np.ndarray) -> float:
    return float(2 * (positive & predicted).sum() / (positive.sum() + predicted.sum()))


def _mean(of_class: dict[str, dict[str, Any]], key: str) -> float | None:
    values = [entry[key] for entry in of_class.values() if entry[key] is not None]
    return math.fsum(values) / len(values) if values else None


def _auc(positive: np.ndarray, score: np.ndarray) -> float | None:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, score)) if positive.any() and not positive.all() else None


def _average_precision(positive: np.ndarray, score: np.ndarray) -> float | None:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(positive, score)) if positive.any() else None
