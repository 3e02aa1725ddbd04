"""What an optimiser gets, and what follows its steps: groups of weights, and the average of a model's weights."""

import copy
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import torch

Model = TypeVar("Model", bound=torch.nn.Module)


@torch.no_grad()
def guarded_step(optimiser: torch.optim.Optimizer) -> torch.Tensor:
    """A step of a fused optimiser, or none where a gradient is not finite; float32 [], 1.0 where it was left out.

    Then weights and moments stay as they are. It is decided on the device (as a scaler of gradients does in mixed
    precision, Micikevicius et al. 2017, arXiv:1710.03740, section 3.2), so nothing waits for it.
    """
    weights = [weight for group in optimiser.param_groups for weight in group["params"] if weight.grad is not None]
    # The length of them all, ten times as fast on a CPU as their maximum; beyond 1e19 it is infinite, too.
    length = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    optimiser.found_inf = left_out = 1 - length.isfinite().float()  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(optimiser, torch.optim.SGD) and optimiser.defaults["momentum"]:
        for weight in weights:  # a first step that is left out would leave PyTorch's own buffer uninitialised
            if "momentum_buffer" not in optimiser.state[weight]:
                optimiser.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    optimiser.step()
    del optimiser.found_inf  # pyright: ignore[reportAttributeAccessIssue]
    return left_out


def half_life(num_images: float, batch_size: int) -> float:
    """The decay of an average, a step of so many images, that halves what it knew in ``num_images``; 0 for 0 images."""
    return 0.5 ** (batch_size / num_images) if num_images else 0.0


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
