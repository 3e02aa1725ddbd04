"""Softmax regression on numbers that describe an image: what the classifiers ``probe`` and ``metadata`` share."""

import math
import time
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from moulage import monitoring, plugins, randomness, runs
from moulage.classifiers import _fitting
from moulage.data.training_view import Examples, TrainingView
from moulage.epochs import State
from moulage.errors import DataError, RecipeError
from moulage.treatment import Treatment

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

    @torch.no_grad()
    def reset(self) -> None:
        """Weights and biases as at the start."""
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


class Classifier(_fitting.Base[Head]):
    """Softmax regression on embeddings and metadata.

    Metadata are further features beside the embedding (late fusion). An interrupted fit starts over: it takes seconds.
    The features are standardised by the real training images alone, so that they are the same in all arms.
    """

    def _num_features(self) -> int:
        """About how many numbers describe an image: for timing."""
        raise NotImplementedError

    def check_treatment(self, treatment: Treatment) -> None:
        """It refuses a treatment of pixels, and a frozen backbone: that is frozen anyway."""
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
        extra = _joined(job.view.extra) if job.view.extra is not None and len(job.view.extra) else None
        job = replace(job, view=replace(job.view, real=_joined(job.view.real), extra=extra))
        config, validation = self.config, _joined(job.validation)
        stages = _fitting.stages(config.epochs, job.treatment, len(self.classes))
        with randomness.reproducible("probe", job.seed, device=self.device):
            head = Head(job.view.real.inputs.shape[1], len(self.classes))
            if config.standardize:
                head.standardize(job.view.real.inputs)
            self.network = head.to(self.device)
            state = self._begin(head)
            for epoch in range(1, config.epochs + 1):
                start = time.perf_counter()
                stage = _fitting.stage_of(stages, epoch)
                if epoch == stage.first > 1:  # a fresh head, and none of the first stage can be kept
                    head.reset()
                    state = self._begin(head)
                torch.manual_seed(randomness.seed_from("probe", job.seed, epoch))
                trained = self._train(state, job, epoch, stage)
                scored = _fitting.scores(self._predict(validation.inputs), validation.labels)
                monitoring.check_finite(epoch, train_loss=trained["train_loss"], **scored)
                runs.log(job.folder, epoch=epoch, **trained, **scored, seconds=time.perf_counter() - start)
                state.keep_best(epoch, _fitting.merit(config.choose, epoch, scored))
                job.progress(epoch, config.epochs, f"validation {scored['validation_balanced_accuracy']:.3f}")
            head.load_state_dict(state.best)

    def _begin(self, head: Head) -> State[Head]:
        config = self.config
        if config.optimizer == "adam":
            # Adam moves every parameter by about the learning rate: D weights then outrun one bias, which would need
            # thousands of steps to learn how rare a class is. A constant feature as long as the others would not.
            bias_rate = config.learning_rate * math.sqrt(len(head.mean))
            groups = [
                {"params": [head.weight], "weight_decay": config.weight_decay},
                {"params": [head.bias], "lr": bias_rate, "weight_decay": 0.0},
            ]
            return State(head, torch.optim.AdamW(groups, lr=config.learning_rate, fused=True))
        sgd = {"lr": config.learning_rate, "momentum": config.momentum, "weight_decay": config.weight_decay}
        return State(head, torch.optim.SGD(head.parameters(), **sgd))

    def _train(self, state: State[Head], job: _fitting.Job, epoch: int, stage: _fitting.Stage) -> dict[str, float]:
        """One epoch; the mean loss and accuracy of its batches, each before its own step."""
        config, view, treatment = self.config, job.view, job.treatment
        num_steps = view.num_steps(config.batch_size, config.steps_per_epoch)
        tally = _fitting.Tally(self.device)
        batches = view.batches(job.seed, epoch, config.batch_size, config.steps_per_epoch, stage.class_weights)
        for step, batch in enumerate(batches, (epoch - 1) * num_steps):
            embeddings = torch.from_numpy(batch.inputs).to(self.device)
            targets = _fitting.soft_targets(batch.labels, len(self.classes), self.device)
            if treatment.mix is not None:
                embeddings, targets = treatment.mix(embeddings, targets)
            logits = state.network(embeddings)
            loss = _fitting.loss_of(logits, targets, treatment, step / (config.epochs * num_steps))
            state.optimizer.zero_grad()
            loss.backward()
            state.step(step)
            tally.add(loss, logits, targets)
        return tally.means()

    def predict(self, inputs: np.ndarray, metadata: np.ndarray | None = None) -> np.ndarray:
        return self._predict(self._features(inputs, metadata))

    @torch.inference_mode()
    def _predict(self, features: np.ndarray) -> np.ndarray:
        """Logits float32 [N, K] of what ``_features`` gives."""
        head = self._trained()
        logits = np.empty((len(features), len(self.classes)), np.float32)
        for start in range(0, len(features), PREDICT_BATCH):
            batch = slice(start, start + PREDICT_BATCH)
            logits[batch] = head(torch.from_numpy(np.array(features[batch])).to(self.device)).cpu().numpy()
        return logits

    def features(self, inputs: np.ndarray, metadata: np.ndarray | None = None) -> np.ndarray:
        """Embeddings and metadata, standardised."""
        head = self._trained()
        return (self._features(inputs, metadata) - head.mean.cpu().numpy()) / head.std.cpu().numpy()

    def _features(self, inputs: np.ndarray, metadata: np.ndarray | None) -> np.ndarray:
        """Checked embeddings, and metadata after them: float32 [N, D + M]."""
        _check_embeddings(inputs, len(self._trained().mean) - self.num_metadata)
        _fitting.check_metadata(metadata, len(inputs), self.num_metadata)
        return inputs if metadata is None else np.concatenate([inputs, metadata], axis=1)

    def _facts(self) -> dict[str, Any]:
        return {"num_features": len(self._trained().mean)}

    def _empty(self, saved: dict[str, Any]) -> Head:
        return Head(saved["num_features"], len(self.classes))

    def _seconds_a_step(self) -> float:
        num_features = self._num_features()
        labels: np.ndarray = np.arange(NUM_TIMED_STEPS * self.config.batch_size) % len(self.classes)
        view = TrainingView(Examples(np.zeros((len(labels), num_features), np.float32), labels), None, 0)
        state = self._begin(Head(num_features, len(self.classes)).to(self.device))
        start = time.perf_counter()
        self._train(state, _fitting.Job.timing(view), 1, _fitting.Stage(1, self.config.epochs, None, False))
        return (time.perf_counter() - start) / NUM_TIMED_STEPS


def _joined(examples: Examples) -> Examples:
    """The same examples with their metadata as further features: inputs [N, D + M]."""
    if examples.metadata is None:
        return examples
    return Examples(np.concatenate([examples.inputs, examples.metadata], axis=1), examples.labels)


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
