"""What the classifiers share: the call of a fit, its checks and stages, the loss, the choice of an epoch, files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

import numpy as np
import torch
from pydantic import BaseModel
from torch import nn
from torch.nn import functional

from moulage import checkpoints, devices, plugins, randomness, runs
from moulage.data.training_view import Examples, TrainingView, require_classes
from moulage.errors import DataError, RecipeError, RunError
from moulage.treatment import PLAIN, Treatment
from moulage.use import Use

Net = TypeVar("Net", bound=nn.Module)
Choice = Literal["balanced_accuracy", "loss", "last"]
CHOICE = (
    "which epoch's weights are kept: the best by balanced accuracy or by loss on the validation part (the first of "
    "equals), or the last"
)
CALIBRATE = "divide the logits by the temperature that makes the validation part most likely (Guo et al. 2017)"


@dataclass(frozen=True)
class Job:
    """What one fit is given; see ``Base.fit``."""

    view: TrainingView
    validation: Examples
    seed: int
    folder: Path
    progress: runs.Progress
    treatment: Treatment

    @classmethod
    def timing(cls, view: TrainingView, progress: runs.Progress = runs.no_progress) -> Self:
        """A plain one whose epochs are only timed: nothing is written."""
        return cls(view, view.real, 0, Path(), progress, PLAIN)

    def drawn_in(self, epoch: int, epochs: int) -> TrainingView:
        """What an epoch (from 1) of so many is drawn from: the view, or what is left of it in the last epochs."""
        return self.view if epoch <= self.view.use.num_epochs(epochs) else self.view.last

    def forgets_after(self, epoch: int, epochs: int) -> bool:
        """Whether no epoch up to this one may be kept: the last ones are on other images, and they are what counts."""
        return epoch == self.view.use.num_epochs(epochs) < epochs


@dataclass(frozen=True)
class Stage:
    """Epochs ``first`` to ``last`` (from 1, both included) that are trained alike."""

    first: int
    last: int
    class_weights: tuple[float, ...] | None  # what the epochs draw by; None: every image once
    head_only: bool  # whether the backbone is frozen


class Base(Generic[Net]):
    """What all classifiers do alike of ``contracts.Classifier``; one trains in ``_fit``, and predicts.

    Inputs are pixels uint8 [N, size, size, 3], or embeddings float32 [N, D] where the plug-in's module has ``embed``.
    Metadata are float32 [N, M], or None where the classifier was trained without. What takes either raises
    ``DataError`` where they are of another kind or size than in training, and ``RunError`` before ``fit`` or ``load``.
    """

    config: Any
    CONFIG: ClassVar[type[BaseModel]]

    def __init__(self, config: Any, classes: tuple[str, ...]) -> None:
        self.config, self.classes = config, tuple(classes)
        self.device = torch.device("cpu")
        self.network: Net | None = None
        self.num_metadata = 0  # columns that it was trained with

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
        """Train, and keep what the options ask for. The same call again gives the same, also after a break.

        Initial weights, order, augmentation and dropout come from ``seed`` and the epoch alone: all arms share them,
        and all see equally many images, whatever the treatment and the use. ``DataError`` also where there is no
        validation image, a class has no training image, or one side alone has metadata.
        """
        self.check_treatment(treatment)
        self.check_use(view.use)
        check(view, validation, self.classes)
        self._check_inputs(view, validation)
        self.num_metadata = view.num_metadata
        check_metadata(validation.metadata, len(validation), self.num_metadata)
        self.device = devices.pick_device(device)
        self._fit(Job(view, validation, seed, folder, progress, treatment))

    def check_treatment(self, treatment: Treatment) -> None:
        """Raise ``RecipeError`` where this classifier cannot do what the treatment asks for; nothing is loaded."""
        stages(self.config.epochs, treatment, len(self.classes))

    def check_use(self, use: Use) -> None:
        """Raise ``RecipeError`` where this classifier cannot use an arm's images so; nothing is loaded."""
        use.num_epochs(self.config.epochs)

    def steps_and_seconds(self, num_images: int, *, device: str = "cpu") -> tuple[int, float]:
        """See ``contracts``; embeddings and validation (about a third of training's time an image) are not in it."""
        self.device = devices.pick_device(device)
        steps = -(-num_images // self.config.batch_size)
        return self.config.epochs * min(steps, self.config.steps_per_epoch or steps), self._seconds_a_step()

    def save(self, folder: Path) -> None:
        """Write ``weights.safetensors``, and ``config.json``: options, classes, and what else ``load`` needs."""
        if self.network is None:
            raise RunError("The classifier was not trained, so there is nothing to save.", "Call fit first.")
        checkpoints.save_weights(folder / "weights.safetensors", self.network)
        known = {"config": self.config.model_dump(mode="json"), "classes": list(self.classes)}
        runs.write_json(folder / "config.json", {**known, **self._facts(), "num_metadata": self.num_metadata})

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:
        """Read what ``save`` wrote, and no other weights; ``RunError`` where a file is missing, damaged, or another."""
        saved = runs.read_json(folder / "config.json", "config", "classes", "num_metadata")
        classifier = cls(plugins.validate(cls.CONFIG, saved["config"], str(folder)), tuple(saved["classes"]))
        classifier.device, classifier.num_metadata = devices.pick_device(device), saved["num_metadata"]
        with randomness.reproducible("load"):  # the random weights that are overwritten take nothing from the caller
            network = classifier._empty(saved)
        checkpoints.load_weights(folder / "weights.safetensors", network)
        classifier.network = network.to(classifier.device)
        return classifier

    def _check_inputs(self, view: TrainingView, validation: Examples) -> None:
        raise NotImplementedError

    def _fit(self, job: Job) -> None:
        raise NotImplementedError

    def _seconds_a_step(self) -> float:
        raise NotImplementedError

    def _facts(self) -> dict[str, Any]:
        """What ``_empty`` needs beside options and classes."""
        raise NotImplementedError

    def _empty(self, saved: dict[str, Any]) -> Net:
        """The network of these facts, with any weights."""
        raise NotImplementedError

    def _trained(self) -> Net:
        if self.network is None:
            raise RunError("The classifier was not trained.", "Call fit or Classifier.load first.")
        return self.network


def stages(epochs: int, treatment: Treatment, num_classes: int) -> tuple[Stage, ...]:
    """One stage, or two where the head is retrained: together ``epochs``, so that all arms see equally many images.

    The second is class-balanced (Kang et al. 2020, section 4, cRT) and takes ``treatment.retrain_head`` of the epochs,
    rounded, but at least one, and leaves at least one. ``RecipeError``: too few epochs, or weights of other classes.
    """
    check_class_weights(treatment, num_classes)
    if not treatment.retrain_head:
        return (Stage(1, epochs, treatment.class_weights, treatment.freeze_backbone),)
    if epochs < 2:
        raise RecipeError(
            "The head cannot be retrained in a training of one epoch.", "Set the classifier's epochs to 2 or more."
        )
    last = epochs - min(max(1, round(treatment.retrain_head * epochs)), epochs - 1)
    of_head = weights_of_head(treatment, num_classes)
    return Stage(1, last, treatment.class_weights, False), Stage(last + 1, epochs, of_head, True)


def check_class_weights(treatment: Treatment, num_classes: int) -> None:
    """Raise ``RecipeError`` where a treatment weighs another number of classes."""
    weights = treatment.class_weights
    if weights is not None and len(weights) != num_classes:
        raise RecipeError(f"The treatment weighs {len(weights)} classes, and the classifier has {num_classes}.")


def weights_of_head(treatment: Treatment, num_classes: int) -> tuple[float, ...] | None:
    """What images are drawn by when the head gets the weights it ends with: where it is retrained, all classes alike.

    On features that nothing trains that is all there is to fit, and cRT is class-balanced drawing.
    """
    return (1.0,) * num_classes if treatment.retrain_head else treatment.class_weights


def stage_of(found: tuple[Stage, ...], epoch: int) -> Stage:
    """The stage that an epoch (from 1) belongs to."""
    return next(stage for stage in found if epoch <= stage.last)


def soft_targets(
    labels: np.ndarray, num_classes: int, device: torch.device, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Targets float32 [n, K] of labels int64 [n]: 1 for the class, a share of it spread evenly over all classes."""
    targets = functional.one_hot(torch.tensor(labels), num_classes).to(device, torch.float32)
    return (1 - label_smoothing) * targets + label_smoothing / num_classes if label_smoothing else targets


def losses_of(logits: torch.Tensor, targets: torch.Tensor, treatment: Treatment, progress: float) -> torch.Tensor:
    """What is minimised of each image [n]: the loss of the treatment (see there), or cross-entropy."""
    if treatment.loss is not None:
        return treatment.loss(logits, targets, progress)
    return functional.cross_entropy(logits, targets, reduction="none")


def loss_of(
    logits: torch.Tensor,
    targets: torch.Tensor,
    treatment: Treatment,
    progress: float,
    weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """The mean of ``losses_of`` over a batch, each times its weight [n] where there are some; logits [n, K] as float32.

    It is not divided by the sum of the weights: an image counts the same whatever its neighbours.
    """
    losses = losses_of(logits.float(), targets, treatment, progress)
    return (losses if weights is None else losses * weights).mean()


def mixed(
    treatment: Treatment,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    metadata: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """A batch as the treatment mixes it: metadata [n, M] and weights [n] as further columns of the targets [n, K]."""
    if treatment.mix is None:
        return inputs, targets, metadata, weights
    beside = [targets, metadata, None if weights is None else weights[:, None]]
    columns = [0 if each is None else each.shape[1] for each in beside]
    inputs, mixed = treatment.mix(inputs, torch.cat([each for each in beside if each is not None], 1))
    targets, known, weight = mixed.split(columns, 1)
    return inputs, targets, None if metadata is None else known, None if weights is None else weight[:, 0]


def on_device(weights: np.ndarray | None, device: torch.device) -> torch.Tensor | None:
    """Weights of a batch's losses, if there are some."""
    return None if weights is None else torch.from_numpy(weights).to(device)


class Tally:
    """Means over an epoch's batches, each before its own step, and the number of images seen."""

    def __init__(self, device: torch.device) -> None:
        self.zero = torch.zeros((), device=device)
        self.sums: dict[str, tuple[torch.Tensor, int]] = {}

    def add(self, loss: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Count a batch: its mean loss, logits [n, K] and targets [n, K]; of a mixed one the larger part is right."""
        self.add_sum("train_loss", loss.detach() * len(targets), len(targets))
        self.add_sum("train_accuracy", (logits.argmax(1) == targets.argmax(1)).sum(), len(targets))

    def add_sum(self, name: str, value: torch.Tensor, number: int) -> None:
        """Count something else, of which ``value`` is the sum over ``number`` images."""
        sum_, counted = self.sums.get(name, (self.zero, 0))
        self.sums[name] = sum_ + value.detach(), counted + number

    def means(self) -> dict[str, float]:
        means = {name: float(sum_) / max(1, number) for name, (sum_, number) in self.sums.items()}
        return {**means, "num_images": self.sums["train_loss"][1]}


def check(view: TrainingView, validation: Examples, classes: tuple[str, ...]) -> None:
    """Raise ``DataError`` for a class without a training image, no validation image, or labels beyond the classes."""
    require_classes(view.last.labels, classes, "the training images")
    if not len(validation):
        raise DataError(
            "There is no validation image.", "Give the split a validation part: it chooses the epoch or the penalty."
        )
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
    """For the log and the choice of an epoch, of logits float [N, K] and labels int64 [N] of the validation part.

    The mean cross-entropy in nats, the accuracy, and the mean recall of the classes that occur in ``labels``.
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
    """The number that logits [N, K] are divided by to make labels [N] most likely (Guo et al. 2017, section 4.2).

    From 0.05 to 20; above 1 where the classifier was too sure.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return scores(logits / np.exp(log_temperature), labels)["validation_loss"]

    found: Any = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
    return float(np.exp(found.x))


def merit(choose: Choice, epoch: int, scored: dict[str, float]) -> float:
    """What the kept epoch has most of."""
    if choose == "last":
        return float(epoch)
    return -scored["validation_loss"] if choose == "loss" else scored["validation_balanced_accuracy"]


def check_pixels(inputs: np.ndarray, size: int) -> None:
    """Raise ``DataError`` unless inputs are uint8 [N, size, size, 3]."""
    if inputs.dtype != np.uint8 or inputs.shape[1:] != (size, size, 3):
        raise DataError(
            f"The classifier was made for pixels uint8 [N, {size}, {size}, 3] and got {inputs.dtype} "
            f"{list(inputs.shape)}.",
            "Set the classifier's option size to the size of the images.",
        )
