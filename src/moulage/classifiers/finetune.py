"""Fine-tunes any timm backbone with a softmax head, at two learning rates and with classical augmentation."""

import copy
import math
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from moulage import plugins, runs, training
from moulage.classifiers import _augment, _backbone, _fitting
from moulage.data.view import Examples, TrainingView
from moulage.errors import RunError

PREDICT_BATCH = 128
NUM_TIMED_STEPS = 3


class Config(plugins.Options):
    """Options of a fine-tuning."""

    size: int = Field(64, ge=16, le=1024, description="pixels a side of the images handed in")
    backbone: _backbone.Backbone = Field(
        default=_backbone.Backbone(), description="the network and the weights it starts from"
    )
    augment: _augment.Augment = Field(default=_augment.Augment(), description="classical augmentation")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="AdamW, or SGD with Nesterov momentum 0.9")
    backbone_learning_rate: float = Field(3e-4, ge=0, description="highest learning rate of the backbone")
    head_learning_rate: float = Field(3e-3, gt=0, description="highest learning rate of the head")
    weight_decay: float = Field(0.02, ge=0, description="weight decay of matrices and filters, not of biases and norms")
    warmup_epochs: float = Field(1.0, ge=0, description="epochs in which learning rates rise; a cosine to 0 follows")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target that is spread over all classes")
    batch_size: int = Field(
        64, ge=3, description="images a step, at most; 3 or more, so that none is alone in a batch normalisation"
    )
    epochs: int = Field(15, ge=1, description="number of epochs")
    steps_per_epoch: int | None = Field(
        None, ge=1, description="at most this many steps an epoch, the first of its order; none: all images"
    )
    ema_decay: float = Field(0.0, ge=0, lt=1, description="decay of the average of the weights; 0: no average")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the hardware has it")
    channels_last: bool = Field(True, description="memory layout of images and filters; faster for most networks")
    choose: _fitting.Choice = Field("balanced_accuracy", description=_fitting.CHOICE)


class Network(nn.Module):
    """Logits [N, K] of images float [N, 3, S, S] in 0..1."""

    def __init__(self, backbone: _backbone.Features, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.num_features, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(images))


class Classifier:
    """A fine-tuned network; see ``docs/architecture.md`` for the methods.

    Args:
        config: the options.
        classes: class names in the order of their indices.
    """

    def __init__(self, config: Config, classes: tuple[str, ...]) -> None:
        self.config, self.classes = config, tuple(classes)
        self.device = torch.device("cpu")
        self.network: nn.Module | None = None

    def fit(
        self,
        view: TrainingView,
        validation: Examples,
        *,
        seed: int,
        folder: Path,
        device: str = "cpu",
        progress: runs.Progress = runs.no_progress,
    ) -> None:
        """Train on pixels and keep the epoch that validates best. The same call again resumes after the last epoch.

        Initial weights, order, augmentation and dropout come from ``seed`` and the epoch alone: all arms share them.

        Raises:
            DataError: pixels of another size, or a class without a training image.
            DivergedError: the loss is not finite any more.
            CheckpointError: ``folder`` holds checkpoints of other options, data or seed.
        """
        _fitting.check(view, validation, self.classes)
        for inputs in (view.real.inputs, validation.inputs):
            _backbone.check_pixels(inputs, self.config.size)
        config, self.device = self.config, training.pick_device(device)
        num_steps = view.num_steps(config.batch_size, config.steps_per_epoch)
        with training.reproducible("finetune", seed, device=self.device):
            network = self._build(config.backbone)
            settings = self._settings(view, validation, seed, network)
            state, done = _State(config, network, num_steps), 0
            resumed = training.load_checkpoint(folder, settings)
            if resumed:
                done = resumed[0]
                state.load(resumed[1])
            self.network = state.evaluated
            with training.Board(folder, done + 1) as board:
                for epoch in range(done + 1, config.epochs + 1):
                    start = time.perf_counter()
                    torch.manual_seed(training.seed_from("finetune", seed, epoch))
                    trained = self._train(state, view, seed, epoch, progress)
                    scored = _fitting.scores(self.predict(validation.inputs), validation.labels)
                    training.check_finite(epoch * num_steps, train_loss=trained["train_loss"], **scored)
                    state.keep_best(_fitting.merit(config.choose, epoch, scored))
                    runs.log(folder, epoch=epoch, **trained, **scored, seconds=time.perf_counter() - start)
                    board.scalars(epoch, **trained, **scored)
                    training.save_checkpoint(folder, epoch, state.dump(), settings)
            self.network.load_state_dict(state.best)

    def _settings(self, view: TrainingView, validation: Examples, seed: int, initial: Network) -> str:
        """Digest of what a checkpoint depends on; the pixels themselves are named by the run folder."""
        options = (self.config.model_dump(), _backbone.digest(initial.backbone), self.classes, seed)
        labels = (view.labels.tobytes(), validation.labels.tobytes())
        return runs.digest(*options, *labels, view.num_real, view.num_slots)

    def _build(self, options: _backbone.Backbone) -> Network:
        network = Network(_backbone.build(options, self.config.size), len(self.classes))
        if self.config.channels_last:
            network.to(memory_format=torch.channels_last)
        return network.to(self.device)

    def _train(
        self, state: "_State", view: TrainingView, seed: int, epoch: int, progress: runs.Progress
    ) -> dict[str, float]:
        """One epoch; the mean loss and accuracy of its (augmented) batches, each before its own step."""
        config = self.config
        num_steps = view.num_steps(config.batch_size, config.steps_per_epoch)
        draws = torch.rand(len(view), _augment.NUM_DRAWS, generator=training.generator_for("augment", seed, epoch))
        loss_sum, num_correct, num_seen = torch.zeros((), device=self.device), 0, 0
        state.network.train()
        batches = view.batches(seed, epoch, config.batch_size, config.steps_per_epoch)
        for step, (inputs, labels, place) in enumerate(batches, (epoch - 1) * num_steps):
            images = _backbone.to_float(inputs, self.device, channels_last=config.channels_last)
            images = _augment.augment(images, draws[place].to(self.device), config.augment)
            targets = torch.from_numpy(labels).to(self.device)
            with training.precision(self.device, config.precision):
                logits = state.network(images)
            loss = self._loss(logits.float(), targets)
            state.step(loss, step)
            loss_sum += loss.detach() * len(labels)
            num_correct += (logits.argmax(1) == targets).sum()
            num_seen += len(labels)
            progress(step + 1, config.epochs * num_steps, f"epoch {epoch}")
        means = {"train_loss": float(loss_sum) / num_seen, "train_accuracy": float(num_correct) / num_seen}
        return {**means, "num_images": num_seen}

    def _loss(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """What is minimised. A treatment of imbalance by the loss (weights, focal, logit adjustment) belongs here."""
        return functional.cross_entropy(logits, targets, label_smoothing=self.config.label_smoothing)

    @torch.inference_mode()
    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Logits float32 [N, K] of pixels uint8 [N, size, size, 3].

        Raises:
            RunError: neither ``fit`` nor ``load`` was called.
            DataError: pixels of another size.
        """
        if self.network is None:
            raise RunError("The classifier was not trained.", "Call fit or Classifier.load first.")
        _backbone.check_pixels(inputs, self.config.size)
        self.network.eval()
        logits = np.empty((len(inputs), len(self.classes)), np.float32)
        for start in range(0, len(inputs), PREDICT_BATCH):
            batch = slice(start, start + PREDICT_BATCH)
            images = _backbone.to_float(inputs[batch], self.device, channels_last=self.config.channels_last)
            with training.precision(self.device, self.config.precision):
                logits[batch] = self.network(images).float().cpu().numpy()
        return logits

    def save(self, folder: Path) -> None:
        """Write ``weights.safetensors`` and ``config.json``."""
        if self.network is None:
            raise RunError("The classifier was not trained, so there is nothing to save.", "Call fit first.")
        training.save_weights(folder / "weights.safetensors", self.network)
        _fitting.write_config(folder, self.config, self.classes)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Classifier":
        """Read what ``save`` wrote. The weights that the training started from are not needed any more."""
        saved = _fitting.read_config(folder)
        classifier = cls(plugins.validate(Config, saved["config"], str(folder)), tuple(saved["classes"]))
        classifier.device = training.pick_device(device)
        with training.reproducible("load"):  # the random weights that are overwritten take nothing from the caller
            network = classifier._build(classifier.config.backbone.model_copy(update={"weights": "scratch"}))
        training.load_weights(folder / "weights.safetensors", network)
        classifier.network = network
        return classifier

    def steps_and_seconds(self, num_images: int, *, device: str = "cpu") -> tuple[int, float]:
        """Number of steps of a fit on epochs of ``num_images``, and seconds a step, timed on a few.

        Validation is not in it: it takes about a third of the time a training image, for each validation image.
        """
        config, size = self.config, self.config.size
        self.device = training.pick_device(device)
        labels = np.arange((NUM_TIMED_STEPS + 1) * config.batch_size) % len(self.classes)
        view = TrainingView(Examples(np.zeros((len(labels), size, size, 3), np.uint8), labels), None, 0)
        times: list[float] = []
        with training.reproducible("timing", device=self.device):
            state = _State(config, self._build(config.backbone), NUM_TIMED_STEPS + 1)
            self._train(state, view, 0, 1, lambda *_: times.append(time.perf_counter()))
        steps = -(-num_images // config.batch_size)
        steps = min(steps, config.steps_per_epoch or steps)
        return config.epochs * steps, (times[-1] - times[0]) / (len(times) - 1)


class _State:
    """All that changes while training, and what a checkpoint holds."""

    def __init__(self, config: Config, network: Network, num_steps: int) -> None:
        """``num_steps``: steps an epoch."""
        self.network = network
        self.ema = training.EMA(network, config.ema_decay) if config.ema_decay else None
        self.optimizer = _optimizer(config, network)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.num_warmup, self.num_steps = config.warmup_epochs * num_steps, config.epochs * num_steps
        self.best_merit, self.best = -math.inf, {}

    @property
    def evaluated(self) -> nn.Module:
        """The network that validates and predicts: the average where there is one."""
        return self.ema.model if self.ema else self.network

    def step(self, loss: torch.Tensor, step: int) -> None:
        """One step of the optimiser; ``step`` counts from 0 over the whole fit."""
        share = schedule(step, self.num_warmup, self.num_steps)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * share
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.ema:
            self.ema.update(self.network)

    def keep_best(self, merit: float) -> None:
        if merit > self.best_merit:
            self.best_merit, self.best = merit, copy.deepcopy(self.evaluated.state_dict())

    def dump(self) -> dict[str, Any]:
        ema = self.ema.state_dict() if self.ema else {}
        parts = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "ema": ema}
        return {**parts, "best": self.best, "best_merit": self.best_merit}

    def load(self, saved: dict[str, Any]) -> None:
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.ema:
            self.ema.load_state_dict(saved["ema"])
        self.best_merit, self.best = saved["best_merit"], saved["best"]


def schedule(step: int, num_warmup: float, num_steps: int) -> float:
    """Share of the highest learning rate at a step (from 0): a linear rise, then a cosine to 0.

    Loshchilov and Hutter 2017 (arXiv:1608.03983), equation 5, without restarts.
    """
    if step < num_warmup:
        return (step + 1) / (num_warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - num_warmup) / (num_steps - num_warmup)))


def _optimizer(config: Config, network: Network) -> torch.optim.Optimizer:
    """Backbone and head at their learning rates; vectors (biases, norms) without weight decay."""
    groups = []
    for part, rate in ((network.backbone, config.backbone_learning_rate), (network.head, config.head_learning_rate)):
        parameters = list(part.parameters())
        matrices = [p for p in parameters if p.ndim > 1]
        vectors = [p for p in parameters if p.ndim <= 1]
        groups.append({"params": matrices, "lr": rate, "weight_decay": config.weight_decay})
        groups.append({"params": vectors, "lr": rate, "weight_decay": 0.0})
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    return torch.optim.SGD(groups, lr=config.head_learning_rate, momentum=0.9, nesterov=True)
