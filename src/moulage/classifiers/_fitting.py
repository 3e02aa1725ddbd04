"""What the classifiers share: the call of a fit, its checks and stages, the loss, the choice of an epoch, files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel
from torch.nn import functional

from moulage import devices, runs
from moulage.data.view import Examples, TrainingView, require_classes
from moulage.errors import DataError, RecipeError, RunError
from moulage.treatment import PLAIN, Treatment

Choice = Literal["balanced_accuracy", "loss", "last"]
CHOICE = (
    "which epoch's weights are kept: the best by balanced accuracy or by loss on the validation part (the first of "
    "equals), or the last"
)
CALIBRATE = "divide the logits by the temperature that makes the validation part most likely (Guo et al. 2017)"


@dataclass(frozen=True)
class Job:
    """All that one fit is given; see ``Base.fit``."""

    view: TrainingView
    validation: Examples
    seed: int
    folder: Path
    device: torch.device
    progress: runs.Progress
    treatment: Treatment


@dataclass(frozen=True)
class Stage:
    """Epochs ``first`` to ``last`` (from 1, both included) that are trained alike.

    Attributes:
        first: its first epoch.
        last: its last epoch.
        class_weights: what the epochs draw by; None: every image once.
        head_only: whether the backbone is frozen.
    """

    first: int
    last: int
    class_weights: tuple[float, ...] | None
    head_only: bool


class Base:
    """The call of every classifier: a subclass trains in ``_fit`` and refuses inputs in ``_check_inputs``.

    Args:
        config: the options, with ``epochs``.
        classes: class names in the order of their indices.
    """

    config: Any

    def __init__(self, config: Any, classes: tuple[str, ...]) -> None:
        self.config, self.classes = config, tuple(classes)
        self.num_metadata = 0
        """Columns of metadata that the classifier was trained with."""

    def fit(
        self,
        view: TrainingView,
        validation: Examples,
        *,
        seed: int,
        folder: Path,
        device: str = "cpu",
        progress: runs.Progress = runs.no_progress,
        treatment: Treatment = PLAIN,
    ) -> None:
        """Train, and keep the epoch that validates best. The same call again gives the same, also after a break.

        Initial weights, order, augmentation and dropout come from ``seed`` and the epoch alone: all arms share them,
        and all see equally many images, whatever the treatment.

        Args:
            view: what is trained on.
            validation: what chooses the epoch.
            seed: of everything random.
            folder: where log and checkpoints go.
            device: "cpu", "cuda:0" ...
            progress: called while training.
            treatment: loss, sampling, mixing and what is trained; plain by default.

        Raises:
            RecipeError: this classifier cannot do what the treatment asks for.
            DataError: inputs of the wrong kind or size, no validation image, a class without a training image, or
                metadata on one side alone.
            DivergedError: the loss is not finite any more.
            CheckpointError: ``folder`` holds checkpoints of other options, data, treatment or seed.
        """
        self.check_treatment(treatment)
        check(view, validation, self.classes)
        self._check_inputs(view, validation)
        self.num_metadata = view.num_metadata
        check_metadata(validation.metadata, len(validation), self.num_metadata)
        self._fit(Job(view, validation, seed, folder, devices.pick_device(device), progress, treatment))

    def check_treatment(self, treatment: Treatment) -> None:
        """Raise ``RecipeError`` where this classifier cannot do what the treatment asks for; nothing is loaded."""
        stages(self.config.epochs, treatment, len(self.classes))

    def _check_inputs(self, view: TrainingView, validation: Examples) -> None:
        raise NotImplementedError

    def _fit(self, job: Job) -> None:
        raise NotImplementedError


def stages(epochs: int, treatment: Treatment, num_classes: int) -> tuple[Stage, ...]:
    """One stage, or two where the head is retrained: together ``epochs``, so that all arms see equally many images.

    The second is class-balanced (Kang et al. 2020, section 4, cRT) and takes ``treatment.retrain_head`` of the
    epochs, rounded, but at least one, and leaves at least one.

    Raises:
        RecipeError: there are too few epochs, or class weights for another number of classes.
    """
    weights = treatment.class_weights
    if weights is not None and len(weights) != num_classes:
        raise RecipeError(f"The treatment weighs {len(weights)} classes, and the classifier has {num_classes}.")
    if not treatment.retrain_head:
        return (Stage(1, epochs, weights, treatment.freeze_backbone),)
    if epochs < 2:
        raise RecipeError(
            "The head cannot be retrained in a training of one epoch.", "Set the classifier's epochs to 2 or more."
        )
    last = epochs - min(max(1, round(treatment.retrain_head * epochs)), epochs - 1)
    return Stage(1, last, weights, False), Stage(last + 1, epochs, (1.0,) * num_classes, True)


def stage_of(found: tuple[Stage, ...], epoch: int) -> Stage:
    """The stage that an epoch (from 1) belongs to."""
    return next(stage for stage in found if epoch <= stage.last)


def soft_targets(
    labels: np.ndarray, num_classes: int, device: torch.device, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Targets float32 [n, K] of labels int64 [n]: 1 for the class, a share of it spread evenly over all classes."""
    targets = functional.one_hot(torch.from_numpy(labels), num_classes).to(device, torch.float32)
    return (1 - label_smoothing) * targets + label_smoothing / num_classes if label_smoothing else targets


def loss_of(logits: torch.Tensor, targets: torch.Tensor, treatment: Treatment, progress: float) -> torch.Tensor:
    """What is minimised: the treatment's loss, or the mean cross-entropy.

    Args:
        logits: float [n, K]; taken as float32.
        targets: float32 [n, K], rows sum to 1.
        treatment: of this arm.
        progress: share of the training that lies behind.
    """
    if treatment.loss is not None:
        return treatment.loss(logits.float(), targets, progress)
    return functional.cross_entropy(logits.float(), targets)


def mixed(
    treatment: Treatment, inputs: torch.Tensor, targets: torch.Tensor, metadata: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """A batch as the treatment mixes it: metadata [n, M] as further columns of the targets [n, K]."""
    if treatment.mix is None:
        return inputs, targets, metadata
    if metadata is None:
        return *treatment.mix(inputs, targets), None
    inputs, both = treatment.mix(inputs, torch.cat([targets, metadata], 1))
    num_classes = targets.shape[1]
    return inputs, both[:, :num_classes], both[:, num_classes:]


class Tally:
    """Mean loss and accuracy of an epoch's batches, each before its own step, and the number of images seen."""

    def __init__(self, device: torch.device) -> None:
        self.loss, self.num_correct = torch.zeros((), device=device), torch.zeros((), device=device)
        self.num_images = 0
        self.others: dict[str, tuple[torch.Tensor, int]] = {}

    def add(self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Count a batch: its mean loss, logits [n, K] and targets [n, K]; of a mixed one the larger part is right."""
        self.loss += loss.detach() * len(targets)
        self.num_correct += (logits.argmax(1) == targets.argmax(1)).sum()
        self.num_images += len(targets)

    def add_other(self, name: str, loss: torch.Tensor, number: int) -> None:
        """Count another loss, the mean over ``number`` images of a batch."""
        sum_, counted = self.others.get(name, (torch.zeros_like(self.loss), 0))
        self.others[name] = sum_ + loss.detach() * number, counted + number

    def means(self) -> dict[str, float]:
        """For the log."""
        of_all = {"train_loss": self.loss, "train_accuracy": self.num_correct}
        sums = {**{name: (sum_, self.num_images) for name, sum_ in of_all.items()}, **self.others}
        means = {name: float(sum_) / max(1, number) for name, (sum_, number) in sums.items()}
        return {**means, "num_images": self.num_images}


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


def check_metadata(metadata: np.ndarray | None, number: int, num_metadata: int) -> None:
    """Raise ``DataError`` unless metadata are float32 [number, num_metadata], or None where that is 0."""
    if metadata is None and not num_metadata:
        return
    got = "none" if metadata is None else f"{metadata.dtype} {list(metadata.shape)}"
    if metadata is None or metadata.dtype != np.float32 or metadata.shape != (number, num_metadata):
        raise DataError(
            f"The classifier reads {num_metadata or 'no'} columns of metadata and got {got} for {number} images.",
            "Encode them as for its training: data.metadata.Encoder.load on its folder.",
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


def temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The number that logits are divided by to make the labels most likely (Guo et al. 2017, section 4.2).

    Args:
        logits: float [N, K] of the validation part.
        labels: int64 [N].

    Returns:
        From 0.05 to 20; above 1 where the classifier was too sure.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return scores(logits / np.exp(log_temperature), labels)["validation_loss"]

    found: Any = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
    return float(np.exp(found.x))


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


def check_pixels(inputs: np.ndarray, size: int) -> None:
    """Raise ``DataError`` unless inputs are uint8 [N, size, size, 3]."""
    if inputs.dtype != np.uint8 or inputs.shape[1:] != (size, size, 3):
        raise DataError(
            f"The classifier was made for pixels uint8 [N, {size}, {size}, 3] and got {inputs.dtype} "
            f"{list(inputs.shape)}.",
            "Set the classifier's option size to the size of the images.",
        )
