"""Augmentation that keeps a discriminator from memorising a few hundred images.

``symmetries`` changes real images before training. ``diffaugment`` and ``Adaptive`` change what a discriminator sees,
real and generated alike and differentiably, so that the generator does not learn the changes. Images are float
[B, 3, S, S] in -1..1; further planes, such as a mask, take part in what moves pixels and not in what changes colours.
Random numbers come from a CPU generator, so a device gives the same as the CPU. What is changed is computed in float32
whatever the networks' precision, so that generated images, which they give in bf16, are sampled as real ones are.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from moulage.data.symmetries import in_symmetry


def symmetries(images: np.ndarray, rng: np.random.Generator, augment: str) -> np.ndarray:
    """Each of the uint8 images [B, S, S, 3] in one of the 8 symmetries of the square, or as it is."""
    if augment == "none":
        return images
    drawn = rng.integers(0, 8, len(images))
    return in_symmetry(images, np.where(drawn < 4, drawn, 4 + (2 - drawn) % 4))


@contextlib.contextmanager
def in_fp32(device: torch.device) -> Iterator[None]:
    """Leaves a surrounding autocast: a grid multiplied in bf16, of 8 bits, is off by up to 0.7 pixels at 256."""
    with torch.autocast("cpu", enabled=False), torch.autocast(device.type, enabled=False):
        yield


def resampled(images: Tensor, maps: Tensor) -> Tensor:
    """Images [B, C, S, S] as float32 under affine maps [B, 2, 3] from the new image's coordinates to the old one's.

    Coordinates run from -1 to 1 over the side, x first. One bilinear sampling, with reflected borders.
    """
    with in_fp32(images.device):
        images = images.float()
        grid = F.affine_grid(maps.to(images), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def diffaugment(images: Tensor, policy: Sequence[str], rng: torch.Generator) -> Tensor:
    """Colour, shift and a hole, one after the other (Zhao et al. 2020, arXiv:2006.10738, appendix B).

    ``policy`` has some of ``"colour"`` (brightness +- 0.5, saturation x 0..2, contrast x 0.5..1.5), ``"translation"``
    (up to S / 8 pixels each way, grey comes in) and ``"cutout"`` (a grey square of S / 2).
    """
    images = images.float()
    num, size = len(images), images.shape[-1]

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(num, 1, 1, 1).uniform_(low, high, generator=rng).to(images.device)

    if "colour" in policy:
        images, planes = images[:, :3] + uniform(-0.5, 0.5), images[:, 3:]
        mean = images.mean(1, keepdim=True)
        images = mean + (images - mean) * uniform(0, 2)
        mean = images.mean((1, 2, 3), keepdim=True)
        images = torch.cat([mean + (images - mean) * uniform(0.5, 1.5), planes], 1)
    if "translation" in policy:
        reach = max(1, round(size / 8))
        shifts = torch.randint(0, 2 * reach + 1, (num, 2), generator=rng).tolist()
        padded = F.pad(images, [reach] * 4)
        images = torch.stack([p[:, y : y + size, x : x + size] for p, (y, x) in zip(padded, shifts, strict=True)])
    if "cutout" in policy:
        side = size // 2
        centres = torch.randint(0, size + 1 - side % 2, (num, 2), generator=rng)
        from_centre = torch.arange(size) - centres[..., None]
        inside = ((from_centre >= -(side // 2)) & (from_centre < side - side // 2)).float()
        hole = inside[:, 0, :, None] * inside[:, 1, None, :]
        images = images * (1 - hole)[:, None].to(images)
    return images


class Adaptive:
    """Adaptive discriminator augmentation (Karras et al. 2020, arXiv:2006.06676).

    Each transformation of a pipeline is applied to an image with probability p; p rises while the discriminator is more
    sure of real images than it should be (the sign of its logits, r_t of eq. 1) and falls while it is less. Flips,
    quarter turns, shifts, scalings, rotations and colours as in the paper's appendix B; the geometry is one bilinear
    resampling with reflected borders (the paper's wavelet filters against aliasing are left out), and filters and
    corruptions, which did not help there, are left out too. ``target`` is the value of r_t to hold, ``num_images`` the
    real images after which p can have gone from 0 to 1.
    """

    EVERY = 4  # batches between two adjustments of p
    LIMIT = 0.85  # above about this p the changes leak into the images (figure 3 of the paper)

    def __init__(self, target: float = 0.6, num_images: int = 100_000) -> None:
        self.target, self.num_images = target, num_images
        self.p, self.sign, self.num_seen, self.num_batches = 0.0, 0.0, 0, 0

    def update(self, logits: Tensor) -> None:
        """Take the discriminator's logits [B] on real images into account."""
        self.sign += float(logits.detach().sign().sum())
        self.num_seen += len(logits)
        self.num_batches += 1
        if self.num_batches % self.EVERY == 0:
            step = self.num_seen / self.num_images
            self.p = min(self.LIMIT, max(0.0, self.p + math.copysign(step, self.sign / self.num_seen - self.target)))
            self.sign, self.num_seen = 0.0, 0

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Changed images; as they are while p is 0."""
        if self.p == 0:
            return images
        with in_fp32(images.device):
            moved = resampled(images, geometry(len(images), self.p, rng)[:, :2])
            matrix = colours(len(images), self.p, rng).to(moved)
            coloured = matrix[:, :3, :3] @ moved[:, :3].flatten(2) + matrix[:, :3, 3:]
            return torch.cat([coloured.unflatten(2, moved.shape[2:]), moved[:, 3:]], 1)

    def state_dict(self) -> dict[str, Any]:
        return {"p": self.p, "sign": self.sign, "num_seen": self.num_seen, "num_batches": self.num_batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


def geometry(num: int, p: float, rng: torch.Generator) -> Tensor:
    """Random maps float32 [num, 3, 3] from the new image's coordinates (-1..1) to the old one's."""

    def maybe(values: Tensor, neutral: float, chance: float = p) -> Tensor:
        return torch.where(torch.rand(num, generator=rng) < chance, values, torch.full((num,), neutral))

    def normal(std: float) -> Tensor:
        return torch.randn(num, generator=rng) * std

    def uniform(reach: float) -> Tensor:
        return (torch.rand(num, generator=rng) * 2 - 1) * reach

    flip = maybe(1.0 - 2 * torch.randint(0, 2, (num,), generator=rng), 1)
    turn = maybe(torch.randint(0, 4, (num,), generator=rng) * (math.pi / 2), 0)
    around = 1 - math.sqrt(1 - p)  # two rotations are drawn; together they are applied with probability p
    scale, stretch = 2 ** maybe(normal(0.2), 0), 2 ** maybe(normal(0.2), 0)
    zero, one = torch.zeros(num), torch.ones(num)
    return (
        _affine(flip, one, zero, zero, zero)
        @ _affine(one, one, turn, zero, zero)
        @ _affine(one, one, zero, maybe(uniform(0.25), 0), maybe(uniform(0.25), 0))
        @ _affine(scale, scale, maybe(uniform(math.pi), 0, around), zero, zero)
        @ _affine(stretch, 1 / stretch, maybe(uniform(math.pi), 0, around), zero, zero)
        @ _affine(one, one, zero, maybe(normal(0.25), 0), maybe(normal(0.25), 0))
    )


def _affine(x: Tensor, y: Tensor, angle: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Scale by (x, y), turn, then shift: float32 [num, 3, 3]."""
    cosine, sine, zero, one = angle.cos(), angle.sin(), torch.zeros_like(x), torch.ones_like(x)
    rows = [torch.stack(row, 1) for row in ([x * cosine, -y * sine, dx], [x * sine, y * cosine, dy], [zero, zero, one])]
    return torch.stack(rows, 1)


def colours(num: int, p: float, rng: torch.Generator) -> Tensor:
    """Random maps float32 [num, 4, 4] of colours (R, G, B, 1): brightness, contrast, luma flip, hue, saturation."""
    eye = torch.eye(4).repeat(num, 1, 1)
    g = 1 / math.sqrt(3)
    grey = torch.tensor([g, g, g, 0])
    on_grey = torch.outer(grey, grey)

    def chosen(matrices: Tensor) -> Tensor:
        return torch.where((torch.rand(num, generator=rng) < p)[:, None, None], matrices, eye)

    brightness = eye.clone()
    brightness[:, :3, 3] = torch.randn(num, 1, generator=rng) * 0.2
    contrast = eye * (2 ** (torch.randn(num, 1, 1, generator=rng) * 0.5))
    contrast[:, 3, 3] = 1
    flip = eye - 2 * on_grey * torch.randint(0, 2, (num, 1, 1), generator=rng)
    angle = (torch.rand(num, 1, 1, generator=rng) * 2 - 1) * math.pi
    # Rodrigues' rotation around the grey axis: cos I + sin [g]x + (1 - cos) g g^T on the three colours.
    cross = torch.tensor([[0, -g, g, 0], [g, 0, -g, 0], [-g, g, 0, 0], [0, 0, 0, 0]])
    hue = angle.cos() * eye + angle.sin() * cross + (1 - angle.cos()) * on_grey
    hue[:, 3] = eye[:, 3]
    keep = on_grey + torch.diag(torch.tensor([0.0, 0, 0, 1]))
    saturation = keep + (torch.eye(4) - keep) * 2 ** torch.randn(num, 1, 1, generator=rng)
    return chosen(saturation) @ chosen(hue) @ chosen(flip) @ chosen(contrast) @ chosen(brightness)
