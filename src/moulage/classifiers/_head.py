"""The softmax head: one linear layer on standardised features."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

PREDICT_BATCH = 4096
CONSTANT = 1e-5
"""A feature that varies by less than this share of its mean is taken as constant: what is left is rounding."""


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

    def standardised(self, embeddings: np.ndarray) -> torch.Tensor:
        """These embeddings float32 [N, D] by the mean and standard deviation that were taken, on its device."""
        return (torch.from_numpy(np.array(embeddings)).to(self.mean.device) - self.mean) / self.std

    @torch.inference_mode()
    def predict(self, embeddings: np.ndarray) -> np.ndarray:
        """Logits float32 [N, K] of embeddings float32 [N, D], some at a time."""
        logits = np.empty((len(embeddings), len(self.bias)), np.float32)
        for start in range(0, len(embeddings), PREDICT_BATCH):
            batch = slice(start, start + PREDICT_BATCH)
            logits[batch] = self(torch.from_numpy(np.array(embeddings[batch])).to(self.mean.device)).cpu().numpy()
        return logits
