"""What an optimiser gets, and what follows its steps: groups of weights, and the average of a model's weights."""

import copy
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch

Model = TypeVar("Model", bound=torch.nn.Module)


def decay_groups(module: torch.nn.Module, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups of an optimiser: matrices and filters with weight decay, vectors (biases, norms) without."""
    parameters = list(module.parameters())
    decayed, kept = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
    return [
        {"params": decayed, "lr": learning_rate, "weight_decay": weight_decay},
        {"params": kept, "lr": learning_rate, "weight_decay": 0.0},
    ]


class EMA(Generic[Model]):
    """An exponential moving average of a model's weights, in fp32, in ``.model`` (always in eval mode).

    After update t (from 1) the decay is ``min(decay, (1 + t) / (10 + t))``: poor first ones fade. Buffers are copied.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.model: Model = copy.deepcopy(model).float().eval().requires_grad_(False)
        self.decay, self.num_updates = decay, 0

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        """Take the model's weights into the average. Call it once after each optimiser step."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for average, value in zip(self.model.parameters(), model.parameters(), strict=True):
            average.lerp_(value.float(), 1 - decay)
        for average, value in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"num_updates": self.num_updates, "model": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.num_updates = state["num_updates"]
        self.model.load_state_dict(state["model"])
