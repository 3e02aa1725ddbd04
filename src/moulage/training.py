"""What every training loop needs, and no more: device, seeds, batches, averages, guards.

There is no trainer here. A plug-in writes its own loop, from top to bottom in one place, and calls these.
"""

import contextlib
import copy
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from PIL import Image

from moulage import runs
from moulage.errors import CollapsedError, DataError, DivergedError, RecipeError, RunError

Model = TypeVar("Model", bound=torch.nn.Module)

COLLAPSED = 0.2
"""Previews whose mean pairwise difference is below this share of that of real images count as collapsed.

Healthy fits at 32 to 64 pixels had shares of 0.6 to 1.2 from step 100 on, and not below 0.33 for a class of 24 images;
fits that had collapsed to the eye had 0.09 to 0.17.
"""


# Device, precision, randomness


def pick_device(name: str = "auto") -> torch.device:
    """The device to run on; ``"auto"`` is the first CUDA device, else the CPU.

    Raises:
        RecipeError: the device is not known to PyTorch or not on this machine.
    """
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RecipeError(f'There is no device "{name}".', 'Use "auto", "cpu", "cuda" or "cuda:1".') from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RecipeError(
            f'"{name}" is not on this machine: PyTorch sees {torch.cuda.device_count()} CUDA devices.',
            'Use "auto" or "cpu", or install a driver and a PyTorch build with CUDA.',
        )
    return device


def resolve_precision(device: torch.device | str, name: str = "auto") -> Literal["fp32", "bf16"]:
    """``"fp32"`` or ``"bf16"``; ``"auto"`` is bf16 where the hardware computes it natively."""
    if name == "fp32" or name == "bf16":
        return name
    if name != "auto":
        raise RecipeError(f'There is no precision "{name}".', 'Use "auto", "fp32" or "bf16".')
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities()
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"


def precision(device: torch.device | str, name: str = "auto") -> contextlib.AbstractContextManager:
    """The context for forward passes and losses in ``resolve_precision(device, name)``; weights stay fp32."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=resolve_precision(device, name) == "bf16")


def seed_from(*parts: Any) -> int:
    """A seed in ``[0, 2**63)`` from JSON-like values; NumPy scalars count as the Python numbers they hold."""
    plain = [part.item() if isinstance(part, np.generic) else part for part in parts]
    return int(runs.digest(*plain, length=16), 16) >> 1


def generator_for(*parts: Any) -> torch.Generator:
    """A CPU generator seeded by ``parts`` alone: ``generator_for("latents", seed)``."""
    return torch.Generator().manual_seed(seed_from(*parts))


def numpy_rng(*parts: Any) -> np.random.Generator:
    """A NumPy generator seeded by ``parts`` alone."""
    return np.random.default_rng(seed_from(*parts))


@contextlib.contextmanager
def reproducible(*parts: Any, device: torch.device | str = "cpu", num_threads: int = 1) -> Iterator[None]:
    """Inside, the same ``parts`` give the same numbers; afterwards everything is as it was before.

    PyTorch's own generators (initial weights, dropout) are seeded by ``parts`` and put back at the end. Algorithms are
    deterministic; on CUDA a warning names an operation that has no deterministic form. One thread a process is the
    default: sums over several threads differ in the last bits, and two processes use two cores better than one.
    """
    device = torch.device(device)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts; without it sums may vary
    cudnn: Any = torch.backends.cudnn
    memory: Any = torch.utils.deterministic
    threads = torch.get_num_threads()
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    flags = cudnn.benchmark, cudnn.deterministic, memory.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            torch.manual_seed(seed_from(*parts))
            torch.set_num_threads(num_threads)
            torch.use_deterministic_algorithms(True, warn_only=device.type == "cuda")
            cudnn.benchmark, cudnn.deterministic, memory.fill_uninitialized_memory = False, True, False
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(before[0], warn_only=before[1])
            cudnn.benchmark, cudnn.deterministic, memory.fill_uninitialized_memory = flags


def random_state(device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """The states of PyTorch's own generators, for a checkpoint."""
    states = {"cpu": torch.get_rng_state()}
    if torch.device(device).type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_state(states: Mapping[str, torch.Tensor], device: torch.device | str = "cpu") -> None:
    """Set what ``random_state`` returned."""
    torch.set_rng_state(states["cpu"])
    if torch.device(device).type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


class Shuffle:
    """Endless seeded batches: ``Shuffle(n, batch, seed)[step]`` depends on the step alone, so resuming needs no state.

    The stream is one permutation of all items after another, cut into batches: nothing is dropped, every item comes
    once an epoch, and a class smaller than a batch fills one with several epochs.

    Raises:
        DataError: fewer than 2 items.
    """

    def __init__(self, num_items: int, batch_size: int, *seed: Any, what: str = "the training part") -> None:
        if num_items < 2:
            raise DataError(
                f"{what} has {num_items} image(s); training needs at least 2.",
                "Choose another class, a larger training part, or add images.",
            )
        self.num_items, self.batch_size, self.seed = num_items, batch_size, seed
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def num_steps(self, epochs: float) -> int:
        """The number of steps that show every item ``epochs`` times, rounded up."""
        return int(np.ceil(epochs * self.num_items / self.batch_size))

    def __getitem__(self, step: int) -> np.ndarray:
        """Indices of batch ``step`` (from 0), int64 [batch_size]."""
        start = step * self.batch_size
        first, last = start // self.num_items, (start + self.batch_size - 1) // self.num_items
        stream = np.concatenate([self._order(epoch) for epoch in range(first, last + 1)])
        return stream[start - first * self.num_items :][: self.batch_size]

    def _order(self, epoch: int) -> np.ndarray:
        if self._epoch[0] != epoch:
            self._epoch = epoch, numpy_rng("shuffle", *self.seed, epoch).permutation(self.num_items)
        return self._epoch[1]


class WeightedDraw:
    """Endless seeded batches that show classes otherwise than as often as they occur.

    Images are drawn with replacement, each with a probability that is the same within its class. A class of n images
    has the share n ** ``power`` of all such: 1 is natural, 1/2 the square root (Mahajan et al. 2018, arXiv:1805.00932),
    0 balanced.
    """

    def __init__(self, labels: np.ndarray, batch_size: int, power: float, *seed: Any) -> None:
        counts = np.bincount(labels).astype(np.float64)
        self.weights = np.where(counts > 0, np.maximum(counts, 1) ** (power - 1), 0)[labels]
        self.weights /= self.weights.sum()
        self.batch_size, self.seed = batch_size, seed

    def __getitem__(self, step: int) -> np.ndarray:
        """Indices of batch ``step`` (from 0), int64 [batch_size]."""
        rng = numpy_rng("draw", *self.seed, step)
        return rng.choice(len(self.weights), self.batch_size, p=self.weights)


def batches(labels: np.ndarray, batch_size: int, sampling: str, *seed: Any) -> Shuffle | WeightedDraw:
    """Batches for labels int64 [N]: ``sampling`` is ``"natural"``, ``"sqrt"`` or ``"balanced"``."""
    powers = {"sqrt": 0.5, "balanced": 0.0}
    if sampling in powers:
        return WeightedDraw(labels, batch_size, powers[sampling], *seed)
    return Shuffle(len(labels), batch_size, *seed)


def in_symmetry(stack: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Each picture of a stack [n, S, S, ...] in symmetry ``which`` [n] of 0..7.

    It is turned by a quarter ``which % 4`` times, anticlockwise; from 4 on it is put upside down before.
    """
    found = np.empty_like(stack)
    for symmetry in range(8):
        rows = which == symmetry
        chosen = stack[rows][:, :: -1 if symmetry >= 4 else 1]
        found[rows] = np.rot90(chosen, symmetry % 4, axes=(1, 2))
    return found


class EMA(Generic[Model]):
    """An exponential moving average of a model's weights, in fp32, in ``.model`` (always in eval mode).

    After update t (from 1) the decay is ``min(decay, (1 + t) / (10 + t))``, so the first, poor weights are soon
    forgotten. Buffers are copied, not averaged.
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


def decay_groups(module: torch.nn.Module, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
    """Groups of an optimiser: matrices and filters with weight decay, vectors (biases, norms) without."""
    parameters = list(module.parameters())
    decayed, kept = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
    return [
        {"params": decayed, "lr": learning_rate, "weight_decay": weight_decay},
        {"params": kept, "lr": learning_rate, "weight_decay": 0.0},
    ]


# Guards, timing, pictures


@contextlib.contextmanager
def enough_memory(batch_size: int, work: Callable[[int], object] | None = None, accumulate: int = 1) -> Iterator[None]:
    """Turns running out of the device's (or the CPU's) memory into a ``RunError`` that says what to try.

    Args:
        batch_size: images a step.
        work: does a few steps whose batches are computed in so many parts; where it is given, the fewest parts that
            fit are found by trying, and named.
        accumulate: the parts that were too large.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # what they held takes the place that the next try needs
        in_parts = f" in {accumulate} parts" if accumulate > 1 else ""
        raise RunError(
            f"The memory does not suffice for batches of {batch_size} images{in_parts}.",
            _what_fits(batch_size, work, accumulate),
        ) from error


def _what_fits(batch_size: int, work: Callable[[int], object] | None, accumulate: int) -> str:
    """What to try, in words; see ``enough_memory``."""
    half, rest = max(2, batch_size // 2), "the same result but for batch norm"
    if work is None:
        more = 2 * accumulate
        if more > batch_size // 2:
            return f"Set batch_size = {half}."
        again = (
            f"Set accumulate = {more}, which computes a batch in {more} parts with {rest}; then {2 * more}, {4 * more}."
        )
        return f"{again} Or set batch_size = {half}."
    for parts in (accumulate * 2**k for k in range(1, 9)):
        if parts <= batch_size // 2 and _fits(work, parts):
            fits = f"a batch in {parts} parts was tried and fits where nothing else runs"
            return f"Set accumulate = {parts}: {fits}, with {rest}."
    return "No number of parts fits that leaves 2 images in each: set a smaller batch_size, size or network."


def is_out_of_memory(error: Exception) -> bool:
    """Whether this is the device's or the CPU's allocator giving up."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)


def _fits(work: Callable[[int], object], parts: int) -> bool:
    torch.cuda.empty_cache()
    try:
        work(parts)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        return False
    return True


def all_finite(values: Mapping[str, float]) -> bool:
    """Whether no value is NaN or infinite."""
    return bool(np.isfinite(list(values.values())).all())


def check_finite(step: int, **losses: float) -> None:
    """Raise ``DivergedError`` if a loss is NaN or infinite; ``step`` and the values stand in the message."""
    if not np.isfinite(list(losses.values())).all():
        values = ", ".join(f"{name} {value:g}" for name, value in losses.items())
        raise DivergedError(
            f"Training diverged at step {step}: {values}.",
            "Lower the learning rate, use precision fp32, or start again with another seed.",
        )


def check_collapse(step: int, previews: np.ndarray, real: np.ndarray, label: str = "") -> None:
    """Raise ``CollapsedError`` if all previews are alike.

    Both sets are uint8 [n, S, S, 3], of one class, ``label``. What is compared is the mean absolute pixel difference
    over all pairs, of previews relative to real images (at most 64 of each): it has no unit and depends on no size or
    contrast.
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
        self._start, self._begun = time.perf_counter() - seconds_before, time.perf_counter()
        self._last, self._images, self._all = time.perf_counter(), 0, 0

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


def grid(images: np.ndarray, num_columns: int, gap: int = 2) -> Image.Image:
    """One picture of uint8 images [n, S, S, 3], row by row, with a white gap in pixels between them."""
    num, side = len(images), images.shape[1] + gap
    num_rows = -(-num // num_columns)
    canvas = np.full((num_rows * side - gap, num_columns * side - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // num_columns * side, i % num_columns * side
        canvas[top : top + side - gap, left : left + side - gap] = image
    return Image.fromarray(canvas)


class Board:
    """Scalars and pictures for TensorBoard, in ``folder/tensorboard``.

    Args:
        folder: the run folder.
        step: the first step that this process will write; what an interrupted run wrote from there on is hidden.
    """

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
