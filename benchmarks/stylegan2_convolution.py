"""Images a second and core of `stylegan2` training at 64 px against plain convolutions of equal channels and FLOPs.

    python benchmarks/stylegan2_convolution.py [--base 2048] [--maximum 128] [--batch 16] [--rounds 3]

The peer has the same channels, optimisers, average and logistic loss. Its generator is a dense layer and ordinary
convolutions, without mapping network, modulation, noise and filters; its discriminator the same residual one without
filters and minibatch deviation; it has no regularisers. A round is 16 steps of each, which take turns: one step with
R1, two with the path length, the others without. CPU time of one thread; medians of the steps of each kind.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from moulage import randomness
from moulage.generators import stylegan2
from moulage.generators._adversary import Adversary
from moulage.generators._stylegan2 import num_channels, sides

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"}
SIZE, CYCLE = 64, 16


class PlainSynthesis(nn.Module):
    """Skip generator of ordinary convolutions."""

    def __init__(self, config: stylegan2.Config, num_classes: int, size: int) -> None:
        super().__init__()
        self.num_inputs = config.latent_size
        first, *larger = [num_channels(config, side) for side in sides(size)]
        self.dense = nn.Linear(config.latent_size, first * 16)
        self.first, self.to_rgb = nn.Conv2d(first, first, 3, 1, 1), nn.ModuleList([nn.Conv2d(first, 3, 1)])
        self.up, self.same = nn.ModuleList(), nn.ModuleList()
        for num_in, num_out in pairwise([first, *larger]):
            self.up.append(nn.ConvTranspose2d(num_in, num_out, 3, 2, 1, 1))
            self.same.append(nn.Conv2d(num_out, num_out, 3, 1, 1))
            self.to_rgb.append(nn.Conv2d(num_out, 3, 1))

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        x = self.dense(latents).view(len(latents), -1, 4, 4).contiguous(memory_format=torch.channels_last)
        x = F.leaky_relu_(self.first(x), 0.2)
        image = self.to_rgb[0](x)
        for up, same, to_rgb in zip(self.up, self.same, self.to_rgb[1:], strict=True):
            x = F.leaky_relu_(same(F.leaky_relu_(up(x), 0.2)), 0.2)
            image = F.interpolate(image, scale_factor=2, mode="nearest") + to_rgb(x)
        return image


class PlainDiscriminator(nn.Module):
    """Residual discriminator of ordinary convolutions."""

    def __init__(self, config: stylegan2.Config, num_classes: int, size: int) -> None:
        super().__init__()
        channels = [num_channels(config, side) for side in reversed(sides(size))]
        last = channels[-1]
        self.from_rgb = nn.Conv2d(3, channels[0], 1)
        pairs = list(pairwise(channels))
        self.first = nn.ModuleList(nn.Conv2d(i, i, 3, 1, 1) for i, _ in pairs)
        self.second = nn.ModuleList(nn.Conv2d(i, o, 3, 2, 1) for i, o in pairs)
        self.beside = nn.ModuleList(nn.Conv2d(i, o, 1, 2, bias=False) for i, o in pairs)
        self.conv, self.dense, self.head = (
            nn.Conv2d(last, last, 3, 1, 1),
            nn.Linear(last * 16, last),
            nn.Linear(last, 1),
        )

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        x = F.leaky_relu_(self.from_rgb(images.contiguous(memory_format=torch.channels_last)), 0.2)
        for first, second, beside in zip(self.first, self.second, self.beside, strict=True):
            x = F.leaky_relu_(second(F.leaky_relu_(first(x), 0.2)), 0.2) + beside(x)
        x = F.leaky_relu_(self.conv(x), 0.2)
        return self.head(F.leaky_relu_(self.dense(x.flatten(1)), 0.2)).squeeze(1)


class Plain(Adversary):
    """The peer's game: the logistic loss alone."""

    GENERATOR, DISCRIMINATOR = PlainSynthesis, PlainDiscriminator

    def discriminator_loss(self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator):
        on_real, on_fake = self.discriminator(real, labels), self.discriminator(fake, labels)
        return F.softplus(-on_real).mean() + F.softplus(on_fake).mean(), on_real, on_fake

    def generator_loss(self, real: Tensor, fake: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> Tensor:
        return F.softplus(-self.discriminator(fake, labels)).mean()


def measure(config: stylegan2.Config, num_rounds: int) -> dict[str, dict[str, float]]:
    """By game: CPU seconds of a plain step and of the mean step of a cycle, GFLOP of a plain step."""
    batch = config.batch_size
    with randomness.reproducible("bench"):
        real = (torch.rand(batch, 3, SIZE, SIZE) * 2 - 1).contiguous(memory_format=torch.channels_last)
        labels = torch.zeros(batch, dtype=torch.long)
        games = {"plain": Plain(config, 1, SIZE), "stylegan2": stylegan2.Game(config, 1, SIZE)}
        steps: dict[str, Callable[[int], object]] = {
            name: lambda step, game=game: game.step(real, labels, step, torch.Generator().manual_seed(step))
            for name, game in games.items()
        }
        gflop = {name: _gflop(step) for name, step in steps.items()}
        seconds = {name: [[] for _ in range(CYCLE)] for name in games}
        for step in range(1, num_rounds * CYCLE + 1):
            for name, run in steps.items():
                start = time.process_time()
                run(step)
                seconds[name][step % CYCLE].append(time.process_time() - start)
    results = {}
    for name, cycle in seconds.items():
        common = statistics.median(s for place, taken in enumerate(cycle) if place % 8 for s in taken)
        lazy = [statistics.median(cycle[place]) if name == "stylegan2" else common for place in (0, 8)]
        results[name] = {"step": common, "mean": (14 * common + sum(lazy)) / CYCLE, "gflop": gflop[name]}
    return results


def _gflop(step: Callable[[int], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        step(1)
    return counter.get_total_flops() / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("base", 2048), ("maximum", 128), ("batch", 16), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    config = stylegan2.Config(
        base_channels=given.base,
        max_channels=given.maximum,
        batch_size=given.batch,
        latent_size=128,
        mapping_layers=4,
        discriminator_augment="none",
    )
    results = measure(config, given.rounds)
    plain = results["plain"]
    for name, result in results.items():
        rates = [given.batch / result[kind] for kind in ("step", "mean")]
        ratios = [plain[kind] / result[kind] for kind in ("step", "mean")]
        print(
            f"{name:10} {result['gflop'] / given.batch:5.2f} GFLOP an image   "
            f"without regularisers {rates[0]:5.1f} images/s/core, {ratios[0]:.2f} x plain   "
            f"with them {rates[1]:5.1f}, {ratios[1]:.2f} x"
        )


if __name__ == "__main__":
    if not ALLOCATOR.items() <= os.environ.items():  # glibc reads them when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR | {"OMP_NUM_THREADS": "1"})
    main()
