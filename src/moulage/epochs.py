"""What a training in epochs changes, and how its learning rate goes: used by every classifier and by the segmenter."""

import copy
import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

from moulage import optimisers

Model = TypeVar("Model", bound=torch.nn.Module)


class State(Generic[Model]):
    """Network, optimiser, average of the weights and best epoch: all that changes, and what a checkpoint holds.

    ``rate_at`` a step (from 0) is the share of the optimiser's own learning rates; without ``ema_decay`` no average.
    """

    def __init__(
        self,
        network: Model,
        optimizer: torch.optim.Optimizer,
        rate_at: Callable[[int], float] = lambda step: 1.0,
        ema_decay: float = 0.0,
    ) -> None:
        self.network, self.optimizer, self.rate_at = network, optimizer, rate_at
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        self.ema = optimisers.EMA(network, ema_decay) if ema_decay else None
        self.best_epoch, self.best_merit = 0, -math.inf
        self.best: dict[str, Any] = {}

    @property
    def evaluated(self) -> Model:
        """The network that validates and predicts: the average where there is one."""
        return self.ema.model if self.ema else self.network

    def step(self, step: int) -> None:
        """One step of the optimiser along the gradients; ``step`` counts from 0 over the whole fit."""
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self.rate_at(step)
        self.optimizer.step()
        if self.ema:
            self.ema.update(self.network)

    def keep_best(self, epoch: int, merit: float) -> None:
        """Keep a copy of the evaluated weights where no earlier epoch had as much merit."""
        if merit > self.best_merit:
            self.best_epoch, self.best_merit = epoch, merit
            self.best = copy.deepcopy(self.evaluated.state_dict())

    def forget_best(self) -> None:
        """What was kept so far is not kept any longer; the next epoch is, until a better one comes."""
        self.best_epoch, self.best_merit = 0, -math.inf

    def dump(self) -> dict[str, Any]:
        ema = self.ema.state_dict() if self.ema else {}
        parts = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict(), "ema": ema}
        return {**parts, "best": self.best, "best_merit": self.best_merit, "best_epoch": self.best_epoch}

    def load(self, saved: dict[str, Any]) -> None:
        """Take what ``dump`` gave."""
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.ema:
            self.ema.load_state_dict(saved["ema"])
        self.best, self.best_merit, self.best_epoch = saved["best"], saved["best_merit"], saved["best_epoch"]


def rise(step: int, num_warmup: float) -> float:
    """A linear rise over ``num_warmup`` steps to 1, where it stays; steps count from 0."""
    return min(1.0, (step + 1) / (num_warmup + 1))


def fall(step: float, num_steps: float) -> float:
    """Half a cosine from 1 to 0: Loshchilov and Hutter 2017 (arXiv:1608.03983), equation 5, without restarts."""
    return 0.5 * (1 + math.cos(math.pi * step / num_steps))


def rise_then_fall(step: int, num_warmup: float, num_steps: int) -> float:
    """``rise``, and ``fall`` over what is left of ``num_steps``."""
    return rise(step, num_warmup) if step < num_warmup else fall(step - num_warmup, num_steps - num_warmup)
