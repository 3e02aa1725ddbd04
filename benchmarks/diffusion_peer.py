"""A training step and drawing of ``diffusion`` at 64 px, against denoising-diffusion-pytorch at equal parameters.

    pip install denoising-diffusion-pytorch==2.3.4      in an environment of its own that also sees moulage
    python benchmarks/diffusion_peer.py

The peer is its Unet(dim=32), 9.2 M parameters, under GaussianDiffusion. Ours are two U-Nets of about that many, one on
pixels and one on patches of 2 x 2. What is measured is CPU time of one thread in fp32; the variants take turns, the
median of the rounds counts. Drawing is timed by one evaluation of the sampler's loop, times the evaluations of a draw:
1000 for the peer's default sampler, 250 and 50 for its DDIM, 35 for our 18 steps.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from moulage import randomness
from moulage.generators import diffusion

SIZE, PEER = 64, "denoising-diffusion-pytorch"
OURS = {
    "ours": {"base_channels": 32, "channel_multipliers": (1, 2, 4, 7), "num_blocks": 1},
    "ours, patches": {"base_channels": 60, "channel_multipliers": (1, 2, 2, 2), "num_blocks": 2, "patch_size": 2},
}
EVALUATIONS = {PEER: {"default": 1000, "DDIM 250": 250, "DDIM 50": 50}, "ours": {"Heun 18": 35}}


class Variant:
    """A network with a training step and one evaluation of its sampler."""

    def __init__(self, network: torch.nn.Module, step: Callable[[], Any], evaluate: Callable[[], Any]) -> None:
        self.num_parameters = sum(weight.numel() for weight in network.parameters())
        self.step, self.evaluate = step, evaluate


def ours(options: dict[str, Any], batch_size: int) -> Variant:
    """A step of the plug-in's game; its average and its augmentation are part of it."""
    config = diffusion.Config.model_validate(options | {"batch_size": batch_size, "precision": "fp32"})
    game, rng = diffusion.Game(config, 1, SIZE), torch.Generator().manual_seed(0)
    real, labels = torch.rand(batch_size, 3, SIZE, SIZE) * 2 - 1, torch.zeros(batch_size, dtype=torch.long)
    how = diffusion.Drawing.model_validate({})
    evaluate = torch.no_grad()(lambda: game.ema.model.guided(real, torch.ones(batch_size), labels, how))
    return Variant(game.network.unet, lambda: game.step(real, labels, 1, rng), evaluate)


def peer(batch_size: int) -> Variant:
    """A step as its Trainer does it: loss, clipped gradient, Adam, average of the weights every 10 steps left out."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    unet = Unet(dim=32, dim_mults=(1, 2, 4, 8))
    model = GaussianDiffusion(unet, image_size=SIZE)
    optimiser = torch.optim.Adam(model.parameters(), 1e-4, (0.9, 0.99))
    real = torch.rand(batch_size, 3, SIZE, SIZE)

    def step() -> None:
        model(real).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()

    return Variant(unet, step, torch.inference_mode()(lambda: model.p_sample(real, 500)))


def measure(batch_size: int, num_rounds: int) -> None:
    """Print CPU seconds of a step and of drawing an image, by variant."""
    with randomness.reproducible("bench"):
        variants = {PEER: peer(batch_size)} | {name: ours(options, batch_size) for name, options in OURS.items()}
        steps: dict[str, list[float]] = {name: [] for name in variants}
        draws: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(num_rounds + 1):  # the first round is warm-up
            for name, variant in variants.items():
                for act, seconds in ((variant.step, steps), (variant.evaluate, draws)):
                    start = time.process_time()
                    act()
                    seconds[name].append(time.process_time() - start)
    slow = statistics.median(steps[PEER][1:])
    for name, variant in variants.items():
        step, evaluation = (statistics.median(seconds[name][1:]) for seconds in (steps, draws))
        rate = f"{step:.3f} s a step of {batch_size}, {batch_size / step:.1f} images/s, {slow / step:.2f} x the peer"
        print(f"{name}: {variant.num_parameters / 1e6:.1f} M parameters, {rate}")
        for sampler, num in EVALUATIONS.get(name, EVALUATIONS["ours"]).items():
            print(f"    {sampler}: {num * evaluation / batch_size:.2f} s an image")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    measure(arguments.batch_size, arguments.rounds)
