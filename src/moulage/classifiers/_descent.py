"""A softmax head trained by gradient steps for a number of epochs, as the thesis trained its own."""

import math
import time
from typing import Literal

import torch
from pydantic import Field

from moulage import devices, monitoring, plugins, randomness, runs
from moulage.classifiers import _fitting
from moulage.classifiers._head import Head
from moulage.epochs import State


class Descent(plugins.Options):
    """Gradient descent on batches."""

    optimizer: Literal["adam", "sgd"] = Field("adam", description="Adam with decoupled weight decay, or plain SGD")
    learning_rate: float = Field(1e-3, gt=0, description="constant learning rate")
    momentum: float = Field(0.0, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(1e-2, ge=0, description="weight decay (Adam: decoupled, SGD: L2)")
    batch_size: int = Field(64, ge=1, description="images a step, at most")
    epochs: int = Field(20, ge=1, description="number of epochs")
    steps_per_epoch: int | None = Field(
        None, ge=1, description="at most this many steps an epoch, the first of its order; none: all images"
    )
    choose: _fitting.Choice = Field("loss", description=_fitting.CHOICE)


def descend(config: Descent, head: Head, job: _fitting.Job, num_classes: int) -> None:
    """Train this head [K, D] on the job's embeddings [N, D]; the epoch that is kept is chosen on the validation part.

    Two arms of one seed share the order of their images; call it inside ``randomness.reproducible``.
    """
    stages = _fitting.stages(config.epochs, job.treatment, num_classes)
    state = _begin(config, head)
    for epoch in range(1, config.epochs + 1):
        start = time.perf_counter()
        stage = _fitting.stage_of(stages, epoch)
        if epoch == stage.first > 1:  # a fresh head, and none of the first stage can be kept
            head.reset()
            state = _begin(config, head)
        torch.manual_seed(randomness.seed_from("probe", job.seed, epoch))
        trained = _train(config, state, job, epoch, stage, num_classes)
        scored = _fitting.scores(head.predict(job.validation.inputs), job.validation.labels)
        monitoring.check_finite(epoch, train_loss=trained["train_loss"], **scored)
        runs.log(job.folder, epoch=epoch, **trained, **scored, seconds=time.perf_counter() - start)
        state.keep_best(epoch, _fitting.merit(config.choose, epoch, scored))
        if job.forgets_after(epoch, config.epochs):
            state.forget_best()
        job.progress(epoch, config.epochs, f"validation {scored['validation_balanced_accuracy']:.3f}")
    head.load_state_dict(state.best)


def seconds_a_step(config: Descent, head: Head, job: _fitting.Job, num_classes: int) -> float:
    """Mean time of the steps that all images of the job take (``devices.spent``)."""
    config = config.model_copy(update={"steps_per_epoch": None})
    start = devices.spent(head.mean.device)
    _train(config, _begin(config, head), job, 1, _fitting.Stage(1, config.epochs, None, False), num_classes)
    return (devices.spent(head.mean.device) - start) / job.view.num_steps(config.batch_size)


def _begin(config: Descent, head: Head) -> State[Head]:
    if config.optimizer == "adam":
        # Adam moves every parameter by about the learning rate: D weights then outrun one bias, which would need
        # thousands of steps to learn how rare a class is. A constant feature as long as the others would not.
        bias_rate = config.learning_rate * math.sqrt(len(head.mean))
        groups = [
            {"params": [head.weight], "weight_decay": config.weight_decay},
            {"params": [head.bias], "lr": bias_rate, "weight_decay": 0.0},
        ]
        return State(head, torch.optim.AdamW(groups, lr=config.learning_rate, fused=True))
    rates = (config.learning_rate, config.momentum, 0.0, config.weight_decay)
    return State(head, torch.optim.SGD(head.parameters(), *rates))


def _train(
    config: Descent, state: State[Head], job: _fitting.Job, epoch: int, stage: _fitting.Stage, num_classes: int
) -> dict[str, float]:
    """One epoch; the mean loss and accuracy of its batches, each before its own step."""
    view, treatment, device = job.drawn_in(epoch, config.epochs), job.treatment, state.network.mean.device
    num_steps = view.num_steps(config.batch_size, config.steps_per_epoch)
    tally = _fitting.Tally(device)
    batches = view.batches(job.seed, epoch, config.batch_size, config.steps_per_epoch, stage.class_weights)
    for step, batch in enumerate(batches, (epoch - 1) * num_steps):
        embeddings = torch.from_numpy(batch.inputs).to(device)
        targets = _fitting.soft_targets(batch.labels, num_classes, device)
        weights = _fitting.on_device(batch.weights, device)
        embeddings, targets, _, weights = _fitting.mixed(treatment, embeddings, targets, weights=weights)
        logits = state.network(embeddings)
        loss = _fitting.loss_of(logits, targets, treatment, step / (config.epochs * num_steps), weights)
        state.optimizer.zero_grad()
        loss.backward()
        state.step(step)
        tally.add(loss, logits, targets)
    return tally.means()
