"""All scores of one set of predictions.

What is undefined is ``None``:

- recall, AUC and average precision of a class without images; AUC where every image is of one class,
- precision of a class that is never said; F1 of a class that has no image and is never said.

Averages over classes (balanced accuracy, macro AUC and average precision) run over the classes for which
the score is defined.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from moulage.evaluation.measure_names import check, find
from moulage.evaluation.measures import Outputs
from moulage.evaluation.predictions import ARGMAX, Predictions

SHOWN = ("accuracy", "balanced_accuracy", "auc", "average_precision", "expected_calibration_error", "log_loss")
"""Measures of all classes together that ``scores`` has."""


def scores(
    labels: np.ndarray, logits: np.ndarray, classes: Sequence[str], predicted: np.ndarray = ARGMAX
) -> dict[str, Any]:
    """All scores as plain numbers, lists and ``None``, ready for JSON.

    Labels are true class indices, [N] int64, N >= 1; the softmax of the logits [N, K] are the probabilities (for
    probabilities, pass their logarithm). ``predicted``, [N] int64, are the classes that are said, by which accuracy,
    recall, precision, F1 and confusion are counted; by default the most probable ones.

    Returns:
        ``num_images``, those of ``SHOWN`` (AUC and average precision: macro, one against rest; log-loss in nats),
        ``classes`` (name -> precision, recall, f1, support, auc, average_precision) and ``confusion`` (K x K counts,
        rows are the true classes).
    """
    from sklearn.metrics import confusion_matrix

    check(labels, logits, classes)
    outputs = Outputs(labels, logits, predicted)
    confusion = confusion_matrix(labels, outputs.predicted, labels=np.arange(len(classes)))
    support, predicted = confusion.sum(axis=1), confusion.sum(axis=0)

    def of(k: int) -> dict[str, Any]:
        found = {kind: find(kind).value(outputs, k) for kind in ("recall", "f1")}
        ranked = {kind: find(kind).value(outputs, k) for kind in ("auc", "average_precision")}
        precision = float(confusion[k, k] / predicted[k]) if predicted[k] else None
        return {"precision": precision, **found, "support": int(support[k]), **ranked}

    of_class = {name: of(k) for k, name in enumerate(classes)}
    means = {"balanced_accuracy": "recall", "auc": "auc", "average_precision": "average_precision"}
    return {
        "num_images": len(labels),
        **{name: _mean(of_class, means[name]) if name in means else find(name).value(outputs, None) for name in SHOWN},
        "classes": of_class,
        "confusion": confusion.tolist(),
    }


def scores_of(said: Predictions) -> dict[str, Any]:
    """``scores`` of saved predictions."""
    return scores(said.labels, said.logits, said.classes, said.predicted)


def _mean(of_class: dict[str, dict[str, Any]], key: str) -> float | None:
    values = [entry[key] for entry in of_class.values() if entry[key] is not None]
    return math.fsum(values) / len(values) if values else None
