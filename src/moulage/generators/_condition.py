"""The class as a condition of a network, with a strength that training can raise from 0 to 1."""

from typing import Any

import torch
from torch import Tensor, nn

LABEL_STD = 0.02
"""Initial standard deviation of the generator's label embedding; its latents have 1.

Training starts almost without a condition and grows one. A label as large as 0.3 drowned the latents: every class
collapsed to one image (docs/LOG.md, 2026-11-23; Shahbazi et al. 2022, arXiv:2201.06578, see the same).
"""


class Conditional(nn.Module):
    """What depends on a class, multiplied by the buffer ``strength`` in 0..1 (1 unless ``set_strength`` says so)."""

    strength: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("strength", torch.ones(()))


class LabelEmbedding(Conditional):
    """Labels int64 [B] -> vectors float32 [B, num_features]; ``std`` is their initial standard deviation."""

    def __init__(self, num_classes: int, num_features: int, std: float = 1.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_classes, num_features)
        nn.init.normal_(self.embedding.weight, std=std)

    def forward(self, labels: Tensor) -> Tensor:
        return self.embedding(labels) * self.strength


class Projection(Conditional):
    """Features [B, D], labels [B] -> logits [B]: an inner product (Miyato & Koyama 2018, arXiv:1802.05637, eq. 4)."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.heads = nn.Linear(num_features, num_classes)
        nn.init.zeros_(self.heads.weight)
        nn.init.zeros_(self.heads.bias)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return self.heads(features).gather(1, labels[:, None]).squeeze(1) * self.strength


def set_strength(game: Any, strength: float) -> None:
    """Set the strength of every ``Conditional`` in the networks that are attributes of ``game``."""
    if getattr(game, "condition_strength", None) == strength:
        return
    game.condition_strength = strength
    for network in vars(game).values():
        for module in network.modules() if isinstance(network, nn.Module) else ():
            if isinstance(module, Conditional):
                module.strength.fill_(strength)
