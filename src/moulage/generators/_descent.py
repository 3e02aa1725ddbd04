"""One step of one network that goes down one loss; a plug-in says what the network and its loss are."""

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from moulage import devices, optimisers
from moulage.generators import _learner


class OneLoss(_learner.Game):
    """``config`` has ``learning_rate`` and ``warmup_steps``; those weights learn that take a gradient."""

    PARTS: ClassVar = ("network", "ema", "optimiser")

    def __init__(self, config: Any, network: nn.Module, device: torch.device | str = "cpu") -> None:
        self.config, self.device = config, torch.device(device)
        self.network: Any = network.to(self.device)
        self.ema = optimisers.EMA(self.network, config.ema_decay)
        learned = [weight for weight in self.network.parameters() if weight.requires_grad]
        self.optimiser = torch.optim.Adam(learned, config.learning_rate, fused=True)

    @abstractmethod
    def loss(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        """The mean loss of images [B, 3, S, S] in -1..1 with labels [B]."""

    def step(self, real: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        config, total = self.config, torch.zeros((), device=self.device)
        for group in self.optimiser.param_groups:
            group["lr"] = config.learning_rate * min(1.0, step / max(1, config.warmup_steps))
        self.optimiser.zero_grad()
        for images, classes in _learner.in_parts(config.accumulate, real, labels):
            with devices.precision(self.device, config.precision):
                loss = self.loss(images, classes, rng) * (len(images) / len(real))
            loss.backward()
            total += loss.detach()
        left_out = optimisers.guarded_step(self.optimiser)
        self.ema.update(self.network)
        return {"loss": total, "left_out": left_out}
