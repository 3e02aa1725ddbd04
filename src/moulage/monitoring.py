"""What is watched while a network learns: losses that are not finite, collapsed generators, speed, TensorBoard."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moulage.errors import CollapsedError, DivergedError

COLLAPSED = 0.2
"""Previews whose mean difference is below this share of real images' are collapsed (see docs/LOG.md, 2026-11-23)."""

MIN_LOST = 3
"""Steps that changed nothing since the last log, from which a training may count as diverged."""

DIVERGED = "Lower the learning rate, use precision fp32, or start again with another seed."


def all_finite(values: Mapping[str, float]) -> bool:
    """Whether no value is NaN or infinite."""
    return bool(np.isfinite(list(values.values())).all())


def check_finite(step: int, **losses: float) -> None:
    """Raise ``DivergedError`` if a loss is NaN or infinite; ``step`` and the values stand in the message."""
    if not all_finite(losses):
        values = ", ".join(f"{name} {value:g}" for name, value in losses.items())
        raise DivergedError(
            f"Training diverged at step {step}: {values}.",
            DIVERGED,
        )


def means_of(step: int, records: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Means of what steps up to ``step`` returned, scalars by name, for the log.

    ``left_out``, where it is there, is 1 for a step that changed nothing because a gradient was not finite
    (``optimisers.guarded_step``); such steps count in the mean of this name alone, which is all there is where no other
    step was taken. ``DivergedError`` where most steps are so, and ``MIN_LOST`` at least, since the log may be of a
    single one; or where a loss is not finite.
    """
    newest = records[-1]  # on the device; those that come from a checkpoint are on the CPU
    columns = {n: torch.stack([r[n].to(newest[n].device) for r in records]).double().cpu() for n in newest}
    kept = columns.pop("left_out", torch.zeros(len(records))) == 0
    num_lost = len(records) - int(kept.sum())
    if 2 * num_lost > len(records) and num_lost >= MIN_LOST:
        raise DivergedError(
            f"Training diverged at step {step}: gradients were not finite in {num_lost} of the last {len(records)} "
            "steps, which were left out.",
            DIVERGED,
        )
    means = {name: float(column[kept].mean()) for name, column in columns.items() if kept.any()}
    check_finite(step, **{name: value for name, value in means.items() if name.startswith("loss")})
    return means | {"left_out": num_lost / len(records)}


def check_collapse(step: int, previews: np.ndarray, real: np.ndarray, label: str = "") -> None:
    """Raise ``CollapsedError`` if all previews are alike.

    Both sets are uint8 [n, S, S, 3], of one class, ``label``. The mean absolute pixel difference over all pairs (of 64
    images at most) is compared with that of real images: the share depends on no size or contrast.
    """
    ours, theirs = _mean_difference(previews), _mean_difference(real)
    if ours < COLLAPSED * theirs:
        raise CollapsedError(
            f"The generator collapsed{label and f' in class {label}'}: at step {step} its previews differ by "
            f"{ours:.1f} grey levels on average, real images by {theirs:.1f}.",
            "Lower the discriminator's learning rate, add augmentation (discriminator_augment), or start again with "
            "another seed; where one of several classes collapsed, a later condition_end or sampling = "
            '"sqrt" helps.',
        )


def _mean_difference(images: np.ndarray) -> float:
    chosen = np.linspace(0, len(images) - 1, min(len(images), 64)).astype(int)
    flat = images[chosen].reshape(len(chosen), -1).astype(np.int16)
    pairs = [np.abs(flat[i + 1 :] - flat[i]).mean(1) for i in range(len(flat) - 1)]
    return float(np.concatenate(pairs).mean()) if pairs else 0.0


class Rate:
    """Wall-clock seconds of a run over all its resumptions, and images a second since the last look."""

    def __init__(self, seconds_before: float = 0.0) -> None:
        self._begun = self._last = time.perf_counter()
        self._start, self._images, self._all = self._begun - seconds_before, 0, 0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    @property
    def mean(self) -> float:
        """Images a second since this process began."""
        return self._all / max(time.perf_counter() - self._begun, 1e-9)

    def add(self, num_images: int) -> None:
        self._images += num_images
        self._all += num_images

    def look(self) -> float:
        """Images a second since the last look (or the start)."""
        now = time.perf_counter()
        rate = self._images / max(now - self._last, 1e-9)
        self._last, self._images = now, 0
        return rate


class Board:
    """Scalars and pictures for TensorBoard, in ``folder/tensorboard``; earlier ones from ``step`` on are hidden."""

    def __init__(self, folder: Path, step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._writer.close()

    def scalars(self, step: int, **values: float) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: Image.Image) -> None:
        self._writer.add_image(name, np.asarray(image), step, dataformats="HWC")
