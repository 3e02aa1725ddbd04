"""Colour noise with the mean colour and the power spectrum of a class, but no lesion in it: a control.

For each class two things are measured: the mean colour, and at each frequency u the cross-spectrum of the three
channels, P(u) = mean_i F_i(u) F_i(u)^H; F_i is the Fourier transform of image i minus the mean colour. An image is

    mean colour + inverse transform of P(u)^(1/2) W(u),       W: the transform of white Gaussian noise

which is a Gaussian texture with uniform phases (Galerne, Gousseau and Morel 2011, Random phase textures, IEEE
Transactions on Image Processing 20). Mean colour, covariance of the colours and mean power spectrum are those of the
class, but for the clipping to 0..255; what the phases hold, outlines and structures and their places, is lost. An arm
that adds them must not help: a gain is owed to colour, texture or balance, and not to a picture of the disease.
"""

from pathlib import Path
from typing import Self

import numpy as np
import torch
from scipy import fft
from torch import nn

from moulage import checkpoints, devices, monitoring, plugins, randomness, runs
from moulage.contracts import Judge
from moulage.generators._base import Base

ROLE = "null"

CHUNK = 64  # images that are transformed at once
NUM_TIMED = 16  # images on which ``steps_and_seconds`` times
NUM_PREVIEWS = 12


class Config(plugins.Options):
    """The generator ``noise`` has no options."""


class Statistics(nn.Module):
    """What is known of K classes at S pixels a side: buffers ``mean`` [K, 3] and ``root`` [K, S, S // 2 + 1, 3, 3, 2].

    ``root`` is P(u)^(1/2) at the frequencies of ``rfft2``, real and imaginary part last.
    """

    mean: torch.Tensor
    root: torch.Tensor

    def __init__(self, num_classes: int, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_classes, 3))
        self.register_buffer("root", torch.zeros(num_classes, size, size // 2 + 1, 3, 3, 2))


class Generator(Base[Config]):
    """At any size from 8 to 1024 pixels."""

    NAME, CONFIG, SIZES = "noise", Config, range(8, 1025)
    seed = 0

    def network_of(self) -> Statistics:
        return Statistics(len(self.classes), self.size)

    def fit(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        seed: int,
        folder: Path,
        device: str = "cpu",
        progress: runs.Progress = runs.no_progress,
        judge: Judge | None = None,
    ) -> None:
        """Measure on the CPU, a class a step; ``seed`` goes into all that is drawn. A judge has nothing to choose."""
        self._check(images, labels)
        devices.pick_device(device)
        settings = runs.digest("noise", self.classes, self.size, seed, images.tobytes(), labels.tobytes())
        known = self.network_of()
        start, state = checkpoints.load(folder, settings) or (0, None)
        if state:
            known.load_state_dict(state["statistics"])
        self._network, self.seed = known, seed
        rate, num_seen = monitoring.Rate(state["seconds"] if state else 0.0), int((labels < start).sum())
        with monitoring.Board(folder, start + 1) as board:
            for step in range(start + 1, len(self.classes) + 1):
                chosen = images[labels == step - 1]
                mean, root = map(torch.from_numpy, measure(chosen))
                known.mean[step - 1], known.root[step - 1] = mean, torch.view_as_real(root)
                rate.add(len(chosen))
                num_seen += len(chosen)
                means = {"epoch": num_seen / len(labels), "images_per_second": rate.look()}
                runs.log(folder, step=step, seconds=rate.seconds, **means)
                board.scalars(step, **means)
                if step == len(self.classes):
                    self._preview(step, NUM_PREVIEWS, NUM_PREVIEWS, folder, board)
                state = {"statistics": known.state_dict(), "seconds": rate.seconds}
                checkpoints.save(folder, step, state, settings)
                progress(step, len(self.classes), "classes")

    def sample(self, label: int, seeds: np.ndarray) -> np.ndarray:
        mean = self.network.mean[label].numpy()
        root = torch.view_as_complex(self.network.root[label]).numpy()
        images = np.empty((len(seeds), self.size, self.size, 3), np.uint8)
        for i, seed in enumerate(seeds):  # one by one: in a batch the last bits could depend on its size
            rng = randomness.numpy_rng("noise", self.seed, self.classes[label], seed)
            white = rng.standard_normal((self.size, self.size, 3), dtype=np.float32)
            spectrum = (root @ np.asarray(fft.rfft2(white, axes=(0, 1)))[..., None])[..., 0]
            field = np.asarray(fft.irfft2(spectrum, s=(self.size, self.size), axes=(0, 1)))
            images[i] = np.round(np.clip(mean + field, 0, 255))
        return images

    def save(self, folder: Path) -> None:
        super().save(folder)
        facts = runs.read_json(folder / "config.json")
        runs.write_json(folder / "config.json", facts | {"seed": self.seed})

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:
        devices.pick_device(device)
        generator = super().load(folder)
        generator.seed = runs.read_json(folder / "config.json", "seed")["seed"]
        return generator

    def steps_and_seconds(self, num_images: int, device: str = "cpu") -> tuple[int, float]:
        """See ``contracts.Generator``; a step is a class, timed on noise."""
        images = np.random.default_rng(0).integers(0, 256, (NUM_TIMED, self.size, self.size, 3), np.uint8)
        start = devices.spent("cpu")
        measure(images)
        seconds = devices.spent("cpu") - start
        return len(self.classes), seconds * max(1.0, num_images / len(self.classes) / NUM_TIMED)


def measure(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean colour and the square root of the cross-spectrum of a class.

    White noise of variance 1 has a transform of variance S * S at each frequency, which is divided out here, so that
    ``root @ rfft2(white noise)`` has the cross-spectrum P(u) in the mean. Images are uint8 [N, S, S, 3], the mean is
    float32 [3] in 0..255, the root complex64 [S, S // 2 + 1, 3, 3] and Hermitian at each frequency.
    """
    side = images.shape[1]
    mean = images.mean(axis=(0, 1, 2), dtype=np.float64)
    power = np.zeros((side, side // 2 + 1, 3, 3), np.complex128)
    for start in range(0, len(images), CHUNK):
        centred = images[start : start + CHUNK].astype(np.float64) - mean
        spectrum = np.asarray(fft.rfft2(centred, axes=(1, 2)))
        power += np.einsum("nuvc,nuvd->uvcd", spectrum, spectrum.conj())
    values, vectors = np.linalg.eigh(power / (len(images) * side * side))
    scaled = vectors * np.sqrt(np.maximum(values, 0))[..., None, :]
    root = scaled @ vectors.conj().swapaxes(-1, -2)
    return mean.astype(np.float32), root.astype(np.complex64)
