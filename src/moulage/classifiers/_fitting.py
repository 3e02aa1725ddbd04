"""What the classifiers share: checks before a fit, scores of an epoch, the choice of an epoch, files."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel

from moulage import runs
from moulage.data.view import Examples, TrainingView, require_classes
from moulage.errors import DataError, RunError

Choice = Literal["balanced_accuracy", "loss", "last"]
CHOICE = (
    "which epoch's weights are kept: the best by balanced accuracy or by loss on the validation part (the first of "
    "equals), or the last"
)


def check(view: TrainingView, validation: Examples, classes: tuple[str, ...]) -> None:
    """Check labels before a fit: every class is trained on, and there is something to validate on.

    Raises:
        DataError: a class without a training image, no validation image, or labels beyond the classes.
    """
    require_classes(view.labels, classes, "the training images")
    if not len(validation):
        raise DataError("There is no validation image.", "Give the split a validation part: it chooses the epoch.")
    if validation.labels.max() >= len(classes):
        raise DataError(
            f"A validation image has the label {validation.labels.max()}, but there are {len(classes)} classes."
        )


def scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Loss, accuracy and balanced accuracy of the validation part, for the log and the choice of an epoch.

    Args:
        logits: float [N, K].
        labels: int64 [N] in range(K).

    Returns:
        ``validation_loss``: mean cross-entropy in nats. ``validation_accuracy``. ``validation_balanced_accuracy``:
        mean recall of the classes that occur in ``labels``.
    """
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    log_likelihood = values[np.arange(len(labels)), labels] - np.log(np.exp(values).sum(axis=1))
    correct = logits.argmax(axis=1) == labels
    return {
        "validation_loss": float(-log_likelihood.mean()),
        "validation_accuracy": float(correct.mean()),
        "validation_balanced_accuracy": float(np.mean([correct[labels == k].mean() for k in np.unique(labels)])),
    }


def merit(choose: Choice, epoch: int, scored: dict[str, float]) -> float:
    """What the kept epoch has most of."""
    merits = {
        "balanced_accuracy": scored["validation_balanced_accuracy"],
        "loss": -scored["validation_loss"],
        "last": float(epoch),
    }
    return merits[choose]


def write_config(folder: Path, config: BaseModel, classes: tuple[str, ...], **facts: Any) -> None:
    """Write ``config.json``: the resolved options, the classes, and what else ``load`` needs."""
    options = json.loads(config.model_dump_json())
    runs.write_json(folder / "config.json", {"config": options, "classes": list(classes), **facts})


def read_config(folder: Path) -> dict[str, Any]:
    """Read what ``write_config`` wrote.

    Raises:
        RunError: the file is missing, damaged, or something else.
    """
    saved = runs.read_json(folder / "config.json")
    if not {"config", "classes"} <= set(saved):
        raise RunError(f"{folder / 'config.json'} is not that of a classifier.", "Name the folder of a classifier.")
    return saved
