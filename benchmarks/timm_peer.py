"""An epoch as timm's ``train.py`` does it, as a peer; see ``bench_finetune.py`` and ``bench_finetune_scores.py``.

``train.py`` is in neither timm's wheel nor its source distribution, so its loop is written anew here from timm's own
parts: data set, loader with its prefetcher, augmentation, model, optimiser, schedule, meters and checkpoints. Left out
is what its options switch off by default or what one CPU does not use: distribution, mixed precision, mixing, an
average of the weights. Batches are made in the training process (``-j 0``), which takes the least CPU time.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import AverageMeter, CheckpointSaver, accuracy
from torch import nn

logging.getLogger("timm").setLevel(logging.WARNING)
CPU = torch.device("cpu")


def loader(folder: Path, part: str, size: int, batch_size: int, data: dict, *, train: bool):
    """``--scale 0.7 1 --vflip 0.5 --color-jitter 0.1 --train-interpolation bilinear``: near ``finetune``'s defaults,
    without the quarter turns and the hue, which ``train.py`` has no option for.
    """
    augment = {"scale": (0.7, 1.0), "vflip": 0.5, "color_jitter": 0.1, "interpolation": "bilinear"}
    return create_loader(
        create_dataset("", root=str(folder), split=part, is_training=train, batch_size=batch_size),
        input_size=(3, size, size),
        batch_size=batch_size,
        is_training=train,
        num_workers=0,
        mean=data["mean"],
        std=data["std"],
        pin_memory=False,
        device=CPU,
        **augment if train else {"interpolation": data["interpolation"], "crop_pct": 1.0},
    )


def epochs(
    model: nn.Module, folder: Path, out: Path, *, size: int, batch_size: int, number: int, channels_last: bool
) -> Iterator[float]:
    """Train on ``folder/train``, validate on ``folder/validation``, write a checkpoint; yields each mean loss."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model.to(memory_format=layout)
    data = resolve_data_config({"input_size": (3, size, size)}, model=model)
    train = loader(folder, "train", size, batch_size, data, train=True)
    held_out = loader(folder, "validation", size, batch_size, data, train=False)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=3e-4, weight_decay=0.02)
    schedule, _ = create_scheduler_v2(
        optimizer, num_epochs=number, warmup_epochs=1, step_on_epochs=False, updates_per_epoch=len(train)
    )
    criterion, saver = nn.CrossEntropyLoss(), CheckpointSaver(model, optimizer, checkpoint_dir=str(out), max_history=2)
    for epoch in range(number):
        losses = AverageMeter()
        model.train()
        optimizer.zero_grad()
        for step, (images, labels) in enumerate(train, epoch * len(train) + 1):
            loss = criterion(model(images.contiguous(memory_format=layout)), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.update(loss.item(), len(images))
            schedule.step_update(num_updates=step, metric=losses.avg)
        saver.save_checkpoint(epoch, metric=validate(model, held_out, criterion, layout))
        schedule.step(epoch + 1)
        yield losses.avg


@torch.no_grad()
def predict(model: nn.Module, folder: Path, part: str, *, size: int, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits [N, K] of the images of a part as they are, and their labels [N]: ImageFolder's, in its order."""
    data = resolve_data_config({"input_size": (3, size, size)}, model=model)
    found = loader(folder, part, size, batch_size, data, train=False)
    model.eval()
    logits, labels = zip(*((model(images), labels) for images, labels in found), strict=True)
    return torch.cat(logits).numpy(), torch.cat(labels).numpy()


@torch.no_grad()
def validate(model: nn.Module, held_out, criterion: nn.Module, layout: torch.memory_format) -> float:
    """Top-1 accuracy in percent."""
    losses, top1 = AverageMeter(), AverageMeter()
    model.eval()
    for images, labels in held_out:
        logits = model(images.contiguous(memory_format=layout))
        losses.update(criterion(logits, labels).item(), len(images))
        top1.update(accuracy(logits, labels)[0].item(), len(images))
    return top1.avg
