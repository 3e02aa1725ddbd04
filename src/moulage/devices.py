"""Where a network runs, in which precision, and what to do where the memory does not suffice."""

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Literal

import torch

from moulage.errors import RecipeError, RunError


def pick_device(name: str = "auto") -> torch.device:
    """The device to run on; "auto": the first CUDA device, else the CPU. ``RecipeError`` where there is no such one."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RecipeError(f'There is no device "{name}".', 'Use "auto", "cpu", "cuda" or "cuda:1".') from None
    if device.type not in ("cpu", "cuda"):
        try:
            torch.zeros(1, device=device).cpu()
        except (RuntimeError, AssertionError):
            raise RecipeError(f'PyTorch cannot compute on "{name}" here.', 'Use "auto", "cpu" or "cuda".') from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RecipeError(
            f'"{name}" is not on this machine: PyTorch sees {torch.cuda.device_count()} CUDA devices.',
            'Use "auto" or "cpu", or install a driver and a PyTorch build with CUDA.',
        )
    return device


def spent(device: torch.device | str) -> float:
    """Seconds of work so far, of which differences count: of this process on a CPU, which others may use as well; else
    on the clock."""
    return time.process_time() if torch.device(device).type == "cpu" else time.perf_counter()


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


def precision(device: torch.device | str, name: str = "auto") -> torch.autocast:
    """The context for forward passes and losses in ``resolve_precision(device, name)``; weights stay fp32."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=resolve_precision(device, name) == "bf16")


@contextlib.contextmanager
def enough_memory(batch_size: int, work: Callable[[int], object] | None = None, accumulate: int = 1) -> Iterator[None]:
    """Turns running out of the device's (or the CPU's) memory into a ``RunError`` that says what to try.

    Batches of ``batch_size`` images in ``accumulate`` parts were too large. Where ``work`` is given, which does a few
    steps whose batches are computed in so many parts, the fewest parts that fit are found by trying, and named.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
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
        again = f"Set accumulate = {more}, which computes a batch in {more} parts with {rest}"
        return f"{again}; then {2 * more}, {4 * more}. Or set batch_size = {half}."
    for parts in (accumulate * 2**k for k in range(1, 9)):
        if parts <= batch_size // 2 and _fits(work, parts):
            fits = f"a batch in {parts} parts was tried and fits where nothing else runs"
            return f"Set accumulate = {parts}: {fits}, with {rest}."
    return "No number of parts fits that leaves 2 images in each: set a smaller batch_size, size or network."


def _fits(work: Callable[[int], object], parts: int) -> bool:
    torch.cuda.empty_cache()
    try:
        work(parts)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        return False
    return True


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)
