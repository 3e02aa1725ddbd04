"""The loss of lesion masks: what the segmenter minimises, and a classifier that learns masks as a second task."""

import torch
from torch.nn import functional


def cross_entropy_and_dice(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean binary cross-entropy of the pixels, plus the mean over images of one minus the soft Dice coefficient.

    In the form of Drozdzal et al. 2016 (arXiv:1608.04117); logits [n, S, S] count as float32, targets are in 0..1.
    """
    logits = logits.float()
    inside = torch.sigmoid(logits)
    common, both = (inside * targets).sum((1, 2)), inside.sum((1, 2)) + targets.sum((1, 2))
    overlap = (2 * common + 1) / (both + 1)  # the ones let an image without lesion count
    return functional.binary_cross_entropy_with_logits(logits, targets) + (1 - overlap).mean()
