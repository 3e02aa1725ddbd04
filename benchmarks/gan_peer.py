"""Training images a CPU-second of our GANs at 64 px, against lightweight-gan at equal parameters of both networks.

    pip install lightweight-gan==1.2.1      in an environment of its own that also sees moulage
    python benchmarks/gan_peer.py [--batch-size 16] [--rounds 5]

A step is one update of the discriminator and one of the generator with all that belongs to them: losses, augmentation,
optimisers, average of the weights, regularisers at their interval. lightweight-gan's networks, losses, augmentation and
optimisers are its own, its step is that of its Trainer in fp32; what its Trainer does not do in the first 20,000 steps
(the average) is left out. It asks for an NVIDIA GPU when it is imported; that check is set aside here. Its generator
holds 2.1 M of its parameters in the first layer, which cost little time: equal parameters favour it.

Its discriminator always looks at an image of 32 pixels through two layers of attention, products of many small
matrices, which are slow on a CPU. A second peer has these taken out, to tell that from the rest; it is not the library.
The further attention that its command adds by default (``attn_res_layers``, not so in its Trainer) is left out of both.

CPU time of one thread. In each round every variant does one step of each of its kinds (with and without a regulariser);
medians over the rounds are weighted by how often a kind occurs. The peer augments one batch in three, so that its
medians are of steps without; ``stylegan2`` augments with probability 0.3, the other two always.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from moulage import plugins, randomness

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TRIM_THRESHOLD_": "1000000000"}
SIZE, FMAP_MAX, PENALTY_WEIGHT, AUGMENT = 64, 64, 10, 0.3
PEERS = {"lightweight-gan": True, "without attention": False}
EVERY_4 = {1: 3 / 4, 4: 1 / 4}
"""Shares of the kinds of steps, each named by one step of its kind: here every fourth has a penalty."""
R3GAN = {"channel_base": 2048, "max_channels": 288}
STYLEGAN2 = {"base_channels": 2048, "max_channels": 192, "latent_size": 128, "mapping_layers": 4}
OURS: dict[str, tuple[str, dict[str, Any], dict[int, float]]] = {
    "fastgan": ("fastgan", {"base_channels": 17}, {1: 1.0}),
    "r3gan": ("r3gan", R3GAN, {1: 1.0}),
    "r3gan, penalties every 4": ("r3gan", R3GAN | {"penalty_every": 4}, EVERY_4),
    "r3gan, and patches": ("r3gan", R3GAN | {"penalty_every": 4, "patch_size": 2}, EVERY_4),
    "stylegan2": ("stylegan2", STYLEGAN2, {1: 14 / 16, 8: 1 / 16, 16: 1 / 16}),
}


class Variant:
    """Two networks, their step, and the shares of its kinds."""

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module, step: Callable[[int], Any], shares: dict[int, float]
    ) -> None:
        self.step, self.shares = step, shares
        self.num_parameters = [sum(w.numel() for w in network.parameters()) for network in (generator, discriminator)]
        self.seconds: dict[int, list[float]] = {kind: [] for kind in shares}

    def measure(self) -> None:
        """Time one step of each kind."""
        for kind, seconds in self.seconds.items():
            start = time.process_time()
            self.step(kind)
            seconds.append(time.process_time() - start)

    def mean(self) -> float:
        """CPU seconds of a step; the first round was warm-up."""
        return sum(share * statistics.median(self.seconds[kind][1:]) for kind, share in self.shares.items())


def ours(name: str, options: dict[str, Any], shares: dict[int, float], real: Tensor) -> Variant:
    """A step of the plug-in's game."""
    config = plugins.configure("generators", name, options | {"batch_size": len(real), "precision": "fp32"})
    game = plugins.load("generators", name).Generator(config, ("lesion",), SIZE).game()
    game.adaptive.p = AUGMENT  # only ADA looks at it, and it starts at 0
    labels, rng = torch.zeros(len(real), dtype=torch.long), torch.Generator().manual_seed(0)
    return Variant(game.generator, game.discriminator, lambda step: game.step(real, labels, step, rng), shares)


def peer(attention: bool, real: Tensor) -> Variant:
    """A step of lightweight-gan's hinge game: reconstruction of real images, penalty on both kinds of images."""
    with mock.patch("torch.cuda.is_available", return_value=True):
        from lightweight_gan import lightweight_gan as library
    library.Blur = nn.Identity  # as its Trainer does unless antialias is asked for
    with mock.patch.object(nn.Module, "cuda", lambda module, *_: module):
        gan = library.LightweightGAN(image_size=SIZE, latent_dim=256, fmap_max=FMAP_MAX, disc_output_size=1)
    if not attention:
        gan.D.to_shape_disc_out[1] = gan.D.to_shape_disc_out[3] = nn.Identity()
    augment = {"prob": AUGMENT, "types": ["cutout", "translation"]}

    def step(number: int) -> None:
        update_discriminator(penalised=number % 4 == 0)
        gan.G_opt.zero_grad()
        fake = gan.G(torch.randn(len(real), gan.latent_dim))
        on_fake, on_smaller, _ = gan.D_aug(fake, **augment)
        (library.gen_hinge_loss(on_fake, None) + library.gen_hinge_loss(on_smaller, None)).backward()
        gan.G_opt.step()

    def update_discriminator(penalised: bool) -> None:
        gan.D_opt.zero_grad()
        images = real.clone().requires_grad_(penalised)
        with torch.no_grad():
            fake = gan.G(torch.randn(len(real), gan.latent_dim))
        detached = {"detach": True, "input_requires_grad": penalised, "return_discr_input": True}
        fake, (*on_fake, _) = gan.D_aug(fake, **detached, **augment)
        *on_real, reconstruction = gan.D_aug(images, calc_aux_loss=True, **augment)
        loss = reconstruction + sum(library.hinge_loss(*logits) for logits in zip(on_real, on_fake, strict=True))
        if penalised:
            ones = [torch.ones_like(logits) for logits in on_real]
            [on_images] = torch.autograd.grad(on_real, images, ones, create_graph=True)
            [on_fakes] = torch.autograd.grad(on_fake, fake, ones, create_graph=True)
            norms = torch.cat([on_images, on_fakes]).flatten(1).norm(2, dim=1)
            loss = loss + PENALTY_WEIGHT * norms.square().mean()
        loss.backward()
        gan.D_opt.step()

    return Variant(gan.G, gan.D, step, EVERY_4)


def measure(batch_size: int, num_rounds: int) -> dict[str, Variant]:
    """Every variant, measured in turn."""
    with randomness.reproducible("bench"):
        real = torch.rand(batch_size, 3, SIZE, SIZE) * 2 - 1
        variants = {name: peer(attention, real) for name, attention in PEERS.items()}
        variants |= {name: ours(*of, real) for name, of in OURS.items()}
        for _ in range(num_rounds + 1):
            for variant in variants.values():
                variant.measure()
    return variants


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    variants = measure(given.batch_size, given.rounds)
    peers = [variants[name].mean() for name in PEERS]
    print(f"| {'generator':26} | G, M | D, M | images/CPU-s | to the peer | to it without attention |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, variant in variants.items():
        millions = " | ".join(f"{num / 1e6:.2f}" for num in variant.num_parameters)
        rate, ratios = given.batch_size / variant.mean(), [seconds / variant.mean() for seconds in peers]
        print(f"| {name:26} | {millions} | {rate:.1f} | {ratios[0]:.2f} x | {ratios[1]:.2f} x |")


if __name__ == "__main__":
    if not ALLOCATOR.items() <= os.environ.items():  # glibc reads them when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR | {"OMP_NUM_THREADS": "1"})
    main()
