"""What changes while a network is fine-tuned: weights, optimiser, average, schedule, the best epoch."""

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from moulage import optimisers, randomness
from moulage.classifiers import _fitting
from moulage.classifiers._network import Network

if TYPE_CHECKING:
    from moulage.classifiers.finetune import Config


class State:
    """All that changes while training, and what a checkpoint holds."""

    def __init__(self, config: "Config", network: Network, num_steps: int, stage: _fitting.Stage) -> None:
        """``num_steps``: steps an epoch; ``stage``: the first one."""
        self.config, self.network, self.num_steps_per_epoch = config, network, num_steps
        self._begin(stage)

    def _begin(self, stage: _fitting.Stage) -> None:
        """Everything but the weights as at the start of a stage: each has a schedule of its own, and only the first a
        warm-up, because a softmax regression needs none.
        """
        config, network, self.stage = self.config, self.network, stage
        network.backbone.requires_grad_(not stage.head_only)
        self.ema = optimisers.EMA(network, config.ema_decay) if config.ema_decay else None
        self.optimizer = _optimizer(config, network, head_only=stage.head_only)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.first_step = (stage.first - 1) * self.num_steps_per_epoch
        self.num_warmup = config.warmup_epochs * self.num_steps_per_epoch if stage.first == 1 else 0.0
        self.num_steps = (stage.last + 1 - stage.first) * self.num_steps_per_epoch
        self.best_merit, self.best = -math.inf, {}

    def retrain_head(self, stage: _fitting.Stage, seed: int) -> None:
        """Begin a second stage: the network that the first one kept, with a head of fresh random weights."""
        self.network.load_state_dict(self.best)
        torch.manual_seed(randomness.seed_from("head", seed))
        for part in self.network.top:
            part.reset_parameters()
        self._begin(stage)

    @property
    def evaluated(self) -> nn.Module:
        """The network that validates and predicts: the average where there is one."""
        return self.ema.model if self.ema else self.network

    def step(self, step: int) -> None:
        """One step of the optimiser along the gradients; ``step`` counts from 0 over the whole fit."""
        share = schedule(step - self.first_step, self.num_warmup, self.num_steps)
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * share
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

    def load(self, saved: dict[str, Any], stage: _fitting.Stage) -> None:
        """Take what ``dump`` gave in this stage."""
        if stage != self.stage:
            self._begin(stage)
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


def _optimizer(config: "Config", network: Network, *, head_only: bool = False) -> torch.optim.Optimizer:
    """Backbone and head, with what reads metadata and makes masks, at their learning rates, or the head alone."""
    parts: list[tuple[nn.Module, float]] = [(part, config.head_learning_rate) for part in network.top]
    if not head_only:
        parts.insert(0, (network.backbone, config.backbone_learning_rate))
        if network.decoder is not None:
            parts.append((network.decoder, config.head_learning_rate))
    groups = [group for part, rate in parts for group in optimisers.decay_groups(part, rate, config.weight_decay)]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, fused=True)
    return torch.optim.SGD(groups, lr=config.head_learning_rate, momentum=0.9, nesterov=True)
