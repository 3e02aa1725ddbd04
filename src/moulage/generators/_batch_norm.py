"""Batch norm under averaged weights."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from moulage import randomness

NUM_BATCHES = 16
"""Batches from which the averaged weights get their statistics."""


@torch.no_grad()
def settle(network: nn.Module, labels: np.ndarray, batch_size: int, draw: Callable[[np.ndarray, np.ndarray], object]):
    """Measure the batch-norm statistics of averaged weights, and leave the network in eval mode.

    Running statistics belong to the trained weights, not to their average (Izmailov et al. 2018, arXiv:1803.05407).

    Args:
        network: holds the weights.
        labels: int64 [N]; classes are drawn as often as they occur here.
        batch_size: images drawn at a time.
        draw: draws with ``network`` from labels int64 [batch_size] and seeds int64 [batch_size].
    """
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
    network.train()
    rng = randomness.numpy_rng("settle")
    for i in range(NUM_BATCHES):
        draw(rng.choice(labels, batch_size), -1 - np.arange(i * batch_size, (i + 1) * batch_size))
    network.eval()
