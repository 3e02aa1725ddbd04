"""Softmax regression on numbers that describe an image: what the classifiers ``probe`` and ``metadata`` share."""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from moulage import checkpoints, devices, monitoring, plugins, randomness, runs
from moulage.classifiers import _fitting
from moulage.data.view import Examples, TrainingView
from moulage.errors import DataError, RecipeError, RunError
from moulage.treatment import PLAIN, Treatment

PREDICT_BATCH = 4096
NUM_TIMED_STEPS = 8
CONSTANT = 1e-5
"""A feature that varies by less than this share of its mean is taken as constant: what is left is rounding."""


class Options(plugins.Options):
    """Options of a softmax regression."""

    standardize: bool = Field(
        True, description="bring each feature to mean 0 and standard deviation 1 over the real training images"
    )
    optimizer: Literal["adam", "sgd"] = Field("adam", description="Adam with decoupled weight decay, or plain SGD")
    learning_rate: float = Field(1e-3, gt=0, description="constant learning rate")
    momentum: float = Field(0.0, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(1e-2, ge=0, description="weight decay (Adam: decoupled, SGD: L2)")
    batch_size: int = Field(64, ge=1, description="images a step, at most")
    epochs: int = Field(20, ge=1, description="number of epochs")
    steps_per_epoch: int | None = Field(
        None, ge=1, description="at most this many steps an epoch, the first of its order; none: all images"
    )
    choose: _fitting.Choice = Field("balanced_accuracy", description=_fitting.CHOICE)


class Head(nn.Module):
    """Softmax regression on standardised features: logits [N, K] of embeddings [N, D]."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("std", torch.ones(num_features))
        # The loss is convex: zeros need no symmetry to be broken, and nobody is lucky in the start.
        self.weight = nn.Parameter(torch.zeros(num_classes, num_features))
        self.bias = nn.Parameter(torch.zeros(num_classes))

    def reset(self) -> None:
        """Weights and biases as at the start."""
        with torch.no_grad():
            self.weight.zero_()
            self.bias.zero_()

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        scaled = self.weight / self.std  # K x D numbers instead of N x D
        return functional.linear(embeddings, scaled, self.bias - scaled @ self.mean)

    def standardize(self, embeddings: np.ndarray) -> None:
        """Take mean and standard deviation of these embeddings; a feature that does not vary is only centred."""
        mean, std = np.asarray(embeddings.mean(axis=0)), np.asarray(embeddings.std(axis=0))
        std = np.where(std > CONSTANT * np.abs(mean), std, np.float32(1))
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(std))


class Classifier(_fitting.Base):
    """Softmax regression on embeddings and metadata; see ``docs/architecture.md`` for the methods.

    Metadata are further features beside the embedding (late fusion). An interrupted fit starts over: it takes seconds.
    The features are standardised by the real training images alone, so that they are the same in all arms.
    """

    config: Any
    CONFIG: type[Options]

    def __init__(self, config: Any, classes: tuple[str, ...]) -> None:
        super().__init__(config, classes)
        self.head: Head | None = None

    def _num_features(self) -> int:
        """About how many numbers describe an image: for timing."""
        raise NotImplementedError

    def check_treatment(self, treatment: Treatment) -> None:
        """Raise ``RecipeError`` for a treatment of pixels, and for a frozen backbone: it is frozen anyway."""
        super().check_treatment(treatment)
        if treatment.needs_pixels:
            raise RecipeError(
                "The treatment changes pixels, and the probe is given embeddings.", "Use the classifier finetune."
            )
        if treatment.freeze_backbone:
            raise RecipeError(
                "The probe is a linear probe already: freezing its backbone is the same as the arm none.",
                "Leave the arm out, or use the classifier finetune.",
            )

    def _check_inputs(self, view: TrainingView, validation: Examples) -> None:
        _check_embeddings(view.real.inputs)
        _check_embeddings(validation.inputs, view.real.inputs.shape[1])

    def _fit(self, job: _fitting.Job) -> None:
        job = replace(job, view=_joined_view(job.view), validation=_joined(job.validation))
        config, validation = self.config, job.validation
        stages = _fitting.stages(config.epochs, job.treatment, len(self.classes))
        with randomness.reproducible("probe", job.seed, device=job.device):
            head = Head(job.view.real.inputs.shape[1], len(self.classes))
            if config.standardize:
                head.standardize(job.view.real.inputs)
            self.head = head.to(job.device)
            optimizer, best, kept = self._optimizer(head), -np.inf, head.state_dict()
            for epoch in range(1, config.epochs + 1):
                start = time.perf_counter()
                stage = _fitting.stage_of(stages, epoch)
                if epoch == stage.first > 1:  # a fresh head, and none of the first stage can be kept
                    head.reset()
                    optimizer, best = self._optimizer(head), -np.inf
                torch.manual_seed(randomness.seed_from("probe", job.seed, epoch))
                trained = self._train(head, optimizer, job.view, job.seed, epoch, stage, job.treatment)
                scored = _fitting.scores(self._predict(validation.inputs), validation.labels)
                monitoring.check_finite(epoch, train_loss=trained["train_loss"], **scored)
                runs.log(job.folder, epoch=epoch, **trained, **scored, seconds=time.perf_counter() - start)
                merit = _fitting.merit(config.choose, epoch, scored)
                if merit > best:
                    best, kept = merit, {name: value.clone() for name, value in head.state_dict().items()}
                job.progress(epoch, config.epochs, f"validation {scored['validation_balanced_accuracy']:.3f}")
            head.load_state_dict(kept)

    def _train(
        self,
        head: Head,
        optimizer: torch.optim.Optimizer,
        view: TrainingView,
        seed: int,
        epoch: int,
        stage: _fitting.Stage,
        treatment: Treatment,
    ) -> dict[str, float]:
        """One epoch; the mean loss and accuracy of its batches, each before its own step."""
        config, device = self.config, head.mean.device
        num_steps = view.num_steps(config.batch_size, config.steps_per_epoch)
        tally = _fitting.Tally(device)
        batches = view.batches(seed, epoch, config.batch_size, config.steps_per_epoch, stage.class_weights)
        for step, batch in enumerate(batches, (epoch - 1) * num_steps):
            embeddings = torch.from_numpy(batch.inputs).to(device)
            targets = _fitting.soft_targets(batch.labels, len(self.classes), device)
            if treatment.mix is not None:
                embeddings, targets = treatment.mix(embeddings, targets)
            logits = head(embeddings)
            loss = _fitting.loss_of(logits, targets, treatment, step / (config.epochs * num_steps))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tally.add(loss, logits, targets)
        return tally.means()

    def _optimizer(self, head: Head) -> torch.optim.Optimizer:
        config = self.config
        if config.optimizer == "adam":
            # Adam moves every parameter by about the learning rate: D weights then outrun one bias, which would need
            # thousands of steps to learn how rare a class is. A constant feature as long as the others would not.
            bias_rate = config.learning_rate * math.sqrt(len(head.mean))
            groups = [
                {"params": [head.weight], "weight_decay": config.weight_decay},
                {"params": [head.bias], "lr": bias_rate, "weight_decay": 0.0},
            ]
            return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
        return torch.optim.SGD(
            head.parameters(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )

    def predict(self, inputs: np.ndarray, metadata: np.ndarray | None = None) -> np.ndarray:
        """Logits float32 [N, K] of embeddings float32 [N, D] and, where it was trained with them, metadata [N, M].

        Raises:
            RunError: neither ``fit`` nor ``load`` was called.
            DataError: inputs are no embeddings, or of another backbone; metadata are missing, or not as in training.
        """
        return self._predict(self._features(inputs, metadata))

    @torch.inference_mode()
    def _predict(self, features: np.ndarray) -> np.ndarray:
        """Logits float32 [N, K] of what ``_features`` gives."""
        head = self._trained()
        logits = np.empty((len(features), len(self.classes)), np.float32)
        for start in range(0, len(features), PREDICT_BATCH):
            batch = slice(start, start + PREDICT_BATCH)
            logits[batch] = head(torch.from_numpy(np.array(features[batch])).to(head.mean.device)).cpu().numpy()
        return logits

    def features(self, inputs: np.ndarray, metadata: np.ndarray | None = None) -> np.ndarray:
        """What the softmax regression is given, float32 [N, D + M]: embeddings and metadata, standardised."""
        head = self._trained()
        return (self._features(inputs, metadata) - head.mean.cpu().numpy()) / head.std.cpu().numpy()

    def _features(self, inputs: np.ndarray, metadata: np.ndarray | None) -> np.ndarray:
        """Checked embeddings, and metadata after them: float32 [N, D + M]."""
        _check_embeddings(inputs, len(self._trained().mean) - self.num_metadata)
        _fitting.check_metadata(metadata, len(inputs), self.num_metadata)
        return inputs if metadata is None else np.concatenate([inputs, metadata], axis=1)

    def _trained(self) -> Head:
        if self.head is None:
            raise RunError("The classifier was not trained.", "Call fit or Classifier.load first.")
        return self.head

    def save(self, folder: Path) -> None:
        """Write ``weights.safetensors`` and ``config.json``."""
        if self.head is None:
            raise RunError("The classifier was not trained, so there is nothing to save.", "Call fit first.")
        checkpoints.save_weights(folder / "weights.safetensors", self.head)
        facts = {"num_features": len(self.head.mean), "num_metadata": self.num_metadata}
        _fitting.write_config(folder, self.config, self.classes, **facts)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:
        """Read what ``save`` wrote."""
        saved = _fitting.read_config(folder)
        config = plugins.validate(cls.CONFIG, saved["config"], str(folder))
        classifier = cls(config, tuple(saved["classes"]))
        classifier.num_metadata = saved.get("num_metadata", 0)
        head = Head(saved["num_features"], len(classifier.classes))
        checkpoints.load_weights(folder / "weights.safetensors", head)
        classifier.head = head.to(devices.pick_device(device))
        return classifier

    def steps_and_seconds(self, num_images: int, *, device: str = "cpu") -> tuple[int, float]:
        """Number of steps of a fit on epochs of ``num_images``, and seconds a step, timed on a few.

        The features are not in it: see ``embed_seconds``.
        """
        config, num_features = self.config, self._num_features()
        labels = np.arange(NUM_TIMED_STEPS * config.batch_size) % len(self.classes)
        view = TrainingView(Examples(np.zeros((len(labels), num_features), np.float32), labels), None, 0)
        head = Head(num_features, len(self.classes)).to(devices.pick_device(device))
        start = time.perf_counter()
        stage = _fitting.stage_of(_fitting.stages(config.epochs, PLAIN, len(self.classes)), 1)
        self._train(head, self._optimizer(head), view, 0, 1, stage, PLAIN)
        seconds = (time.perf_counter() - start) / NUM_TIMED_STEPS
        steps = -(-num_images // config.batch_size)
        return config.epochs * min(steps, config.steps_per_epoch or steps), seconds


def _joined(examples: Examples) -> Examples:
    """The same examples with their metadata as further features: inputs [N, D + M]."""
    if examples.metadata is None:
        return examples
    return Examples(np.concatenate([examples.inputs, examples.metadata], axis=1), examples.labels)


def _joined_view(view: TrainingView) -> TrainingView:
    return replace(
        view, real=_joined(view.real), extra=_joined(view.extra) if view.extra is not None and len(view.extra) else None
    )


def _check_embeddings(inputs: np.ndarray, num_features: int | None = None) -> None:
    if inputs.dtype != np.float32 or inputs.ndim != 2:
        raise DataError(
            f"The probe trains on embeddings, float32 [N, D], and got {inputs.dtype} {list(inputs.shape)}.",
            "Turn pixels into embeddings with probe.embed first.",
        )
    if num_features is not None and inputs.shape[1] != num_features:
        raise DataError(
            f"Embeddings have {inputs.shape[1]} features instead of {num_features}.", "They are of another backbone."
        )
