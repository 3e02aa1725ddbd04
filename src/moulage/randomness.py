"""Seeds and what is drawn from them: generators, repeatable stretches of code, their states, the order of batches."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from moulage import runs
from moulage.errors import DataError


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
    once an epoch, and a class smaller than a batch fills one with several epochs. Fewer than 2 items: ``DataError``.
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
