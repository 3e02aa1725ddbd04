"""Images a second and core of one `dcgan` training step (thesis networks, 64 px, batch 32), against plain PyTorch.

    python benchmarks/bench_dcgan.py

The peer is the same network as one would write it first: nn.Upsample and nn.Conv2d, default memory format and Adam, a
second forward pass of the generator for its own step, as Keras's train_on_batch does. What is measured is CPU time of
one thread; the variants take turns, the median of the rounds counts.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from moulage import devices, randomness
from moulage.generators import dcgan

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"}
BATCH, SIZE, LATENT = 32, 64, 100

Step = Callable[[torch.Tensor], object]


def plain() -> Step:
    """The peer: the thesis's networks in plain PyTorch."""
    blocks = [nn.Linear(LATENT, 4 * 4 * 256), nn.ReLU(), nn.Unflatten(1, (256, 4, 4))]
    for num_in, num_out in ((256, 256), (256, 256), (256, 128), (128, 128)):
        blocks += [nn.Upsample(scale_factor=2), nn.Conv2d(num_in, num_out, 3, padding=1)]
        blocks += [nn.BatchNorm2d(num_out), nn.ReLU()]
    generator = nn.Sequential(*blocks, nn.Conv2d(128, 3, 3, padding=1), nn.Tanh())
    blocks = [nn.Conv2d(3, 32, 3, 2, 1), nn.LeakyReLU(0.2), nn.Dropout(0.25)]
    for num_in, num_out, stride in ((32, 64, 2), (64, 128, 2), (128, 256, 1), (256, 512, 1)):
        blocks += [nn.Conv2d(num_in, num_out, 3, stride, 1), nn.BatchNorm2d(num_out)]
        blocks += [nn.LeakyReLU(0.2), nn.Dropout(0.25)]
    discriminator = nn.Sequential(*blocks, nn.Flatten(), nn.Linear(512 * 8 * 8, 1))
    optimisers = [torch.optim.Adam(n.parameters(), 1.5e-4, (0.5, 0.999)) for n in (generator, discriminator)]
    ones, zeros = torch.ones(BATCH, 1), torch.zeros(BATCH, 1)

    def step(real: torch.Tensor) -> object:
        with torch.no_grad():
            fake = generator(torch.randn(BATCH, LATENT))
        optimisers[1].zero_grad()
        loss = F.binary_cross_entropy_with_logits(discriminator(real), ones)
        (loss + F.binary_cross_entropy_with_logits(discriminator(fake), zeros)).backward()
        optimisers[1].step()
        optimisers[0].zero_grad()
        loss = F.binary_cross_entropy_with_logits(discriminator(generator(torch.randn(BATCH, LATENT))), ones)
        loss.backward()
        optimisers[0].step()
        return loss

    return step


def ours(precision: str) -> Step:
    """One step of ``generators/dcgan.py``."""
    game = dcgan.Game(dcgan.Config(precision=precision), 1, SIZE)
    labels = torch.zeros(BATCH, dtype=torch.long)
    rng = torch.Generator().manual_seed(0)
    return lambda real: game.step(real.contiguous(memory_format=torch.channels_last), labels, 1, rng)


def measure(num_rounds: int = 5) -> dict[str, float]:
    """Images a CPU second of one thread, by variant. bf16 is left out where the CPU does not compute it natively."""
    with randomness.reproducible("bench"):
        real = torch.rand(BATCH, 3, SIZE, SIZE) * 2 - 1
        variants = {"plain fp32": plain(), "dcgan fp32": ours("fp32")}
        if devices.resolve_precision("cpu") == "bf16":
            variants["dcgan bf16"] = ours("bf16")
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(num_rounds + 1):  # the first round is warm-up
            for name, step in variants.items():
                start = time.process_time()
                step(real)
                seconds[name].append(time.process_time() - start)
    return {name: BATCH / statistics.median(taken[1:]) for name, taken in seconds.items()}


if __name__ == "__main__":
    if not ALLOCATOR.items() <= os.environ.items():  # glibc reads them when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR | {"OMP_NUM_THREADS": "1"})
    rates = measure()
    for name, rate in rates.items():
        print(f"{name:12} {rate:6.1f} images/s/core   {rate / rates['plain fp32']:.2f} x plain")
