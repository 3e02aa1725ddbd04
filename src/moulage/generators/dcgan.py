"""Deep convolutional GAN of the 2020 thesis, at 32 to 128 pixels, for one class or several.

The networks and settings follow the thesis (after Radford et al. 2015, arXiv:1511.06434): a dense layer to 4 x 4 x 256,
nearest up-sampling and 3 x 3 convolutions; a discriminator of strided convolutions; binary cross-entropy, Adam. What is
corrected: the loss is taken from logits (the thesis put a sigmoid under a loss that expects logits), real images are
seen in all 8 symmetries of the square, and images are drawn from an average of the weights.
"""

import statistics
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from moulage import plugins, runs, training
from moulage.errors import DataError, RecipeError, RunError
from moulage.generators._dcgan import Game, Synthesis, last_side

LOG_EVERY = 25
"""Steps between two records of the log."""
SAMPLE_BATCH = 16
"""Images are always drawn in batches of this size."""
NUM_SETTLING_BATCHES = 16
"""Batches of ``SAMPLE_BATCH`` from which the averaged weights get their batch-norm statistics."""
CHECK_COLLAPSE_FROM = 500
"""Before this step a healthy generator may still draw one grey blob."""

Channels = Annotated[int, Field(ge=1, le=2048)]
Activation = Literal["relu", "leaky_relu", "elu", "silu", "gelu"]


class Optimiser(plugins.Options):
    """How one of the two networks learns."""

    name: Literal["adam", "sgd"] = Field(
        default="adam", description="Adam, or stochastic gradient descent with momentum"
    )
    learning_rate: float = Field(default=1.5e-4, gt=0, le=1, description="step size")
    beta1: float = Field(default=0.5, ge=0, lt=1, description="Adam's decay of the mean gradient; SGD's momentum")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="Adam's decay of the mean squared gradient")


class Config(plugins.Options):
    """The defaults are the thesis's values at 64 pixels."""

    epochs: float | None = Field(1000, gt=0, le=100_000, description="times that every image is seen; or give steps")
    steps: int | None = Field(None, ge=1, le=10_000_000, description="number of batches, instead of epochs")
    batch_size: int = Field(32, ge=2, le=1024, description="images in a batch")
    latent_size: int = Field(100, ge=1, le=1024, description="numbers in a latent vector")
    base_channels: int = Field(256, ge=4, le=2048, description="channels of the generator's first, smallest map")
    generator_channels: tuple[Channels, ...] = Field(
        (256, 256, 128, 128),
        min_length=1,
        max_length=8,
        description="channels after each doubling of the size; surplus ones are left out, the last is repeated",
    )
    generator_kernel: int = Field(3, ge=3, le=7, description="side of the generator's kernels")
    generator_activation: Activation = Field("relu", description="activation of the generator")
    upsampling: Literal["nearest", "bilinear", "transposed"] = Field(
        "nearest", description="how the generator doubles the size: interpolation before the convolution, or by it"
    )
    discriminator_channels: tuple[Channels, ...] = Field(
        (32, 64, 128, 256, 512), min_length=1, max_length=8, description="channels of the discriminator's convolutions"
    )
    discriminator_strides: tuple[Literal[1, 2], ...] = Field(
        (2, 2, 2, 1, 1), description="their strides, one each; 2 halves the size"
    )
    discriminator_kernel: int = Field(3, ge=3, le=7, description="side of the discriminator's kernels")
    discriminator_activation: Activation = Field("leaky_relu", description="activation of the discriminator")
    dropout: float = Field(0.25, ge=0, lt=1, description="dropout after each convolution of the discriminator")
    generator_optimiser: Optimiser = Field(Optimiser(), description="how the generator learns")
    discriminator_optimiser: Optimiser = Field(Optimiser(), description="how the discriminator learns")
    label_smoothing: float = Field(0.0, ge=0, le=0.5, description="real images get the target 1 - this")
    augment: Literal["none", "flips"] = Field(
        "flips", description="flips: real images in the 8 symmetries of the square (dermoscopy has no up or down)"
    )
    ema_decay: float = Field(0.999, ge=0, lt=1, description="decay of the average of the generator's weights")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the hardware has it")
    preview_every: int = Field(500, ge=1, description="steps between two grids of previews")
    checkpoint_every: int = Field(250, ge=1, description="steps between two checkpoints")

    @model_validator(mode="before")
    @classmethod
    def _steps_replace_epochs(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("steps") is not None and "epochs" not in values:
            return {**values, "epochs": None}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> "Config":
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of epochs and steps")
        if len(self.discriminator_strides) != len(self.discriminator_channels):
            raise ValueError("discriminator_strides and discriminator_channels must have the same length")
        if self.generator_kernel % 2 == 0 and self.upsampling != "transposed":
            raise ValueError('an even generator_kernel needs upsampling = "transposed"')
        return self

    def num_steps(self, shuffle: training.Shuffle) -> int:
        """Number of steps of a fit."""
        return self.steps or shuffle.num_steps(self.epochs or 0)


class Generator:
    """Draws images of ``classes`` at ``size`` x ``size`` pixels.

    Args:
        config: see ``Config``.
        classes: names of the classes that ``labels`` index; one class needs no condition.
        size: pixels a side, a multiple of 8 from 16 to 256.

    Raises:
        RecipeError: a size that the networks cannot reach.
    """

    def __init__(self, config: Config, classes: tuple[str, ...], size: int) -> None:
        if size not in range(16, 257, 8):
            raise RecipeError(f"dcgan cannot draw images of {size} pixels.", "Use a multiple of 8 from 16 to 256.")
        last_side(config, size)
        self.config, self.classes, self.size = config, tuple(classes), size
        self.device = torch.device("cpu")
        self._network: Synthesis | None = None

    def fit(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        seed: int,
        folder: Path,
        device: str = "cpu",
        progress: runs.Progress = runs.no_progress,
    ) -> None:
        """Learn from uint8 images [N, S, S, 3] and labels int64 [N]; goes on from the last checkpoint in ``folder``.

        Raises:
            DataError: wrong shapes or labels, or a class with fewer than 2 images.
            DivergedError: a loss is not finite.
            CollapsedError: the previews of a class are all alike.
        """
        self._check(images, labels)
        config, self.device = self.config, training.pick_device(device)
        shuffle = training.Shuffle(len(images), config.batch_size, "dcgan", seed)
        num_steps = config.num_steps(shuffle)
        settings = runs.digest(config.model_dump(), self.classes, self.size, seed, images.tobytes(), labels.tobytes())
        with training.reproducible("dcgan", seed, device=self.device):
            game = Game(config, len(self.classes), self.size, self.device)
            self._network = game.ema.model
            start, state = training.load_checkpoint(folder, settings) or (0, None)
            if state:
                game.load_state_dict(state["game"])
            rate, records = training.Rate(state["seconds"] if state else 0.0), []
            with training.Board(folder, start + 1) as board:
                for step in range(start + 1, num_steps + 1):
                    rows = shuffle[step - 1]
                    real = symmetries(images[rows], training.numpy_rng("augment", seed, step), config.augment)
                    latents = torch.randn(len(rows), config.latent_size, generator=training.generator_for(seed, step))
                    records.append(game.step(self._inputs(real), self._classes(labels[rows]), latents.to(self.device)))
                    rate.add(len(rows))
                    checkpoint_due = step % config.checkpoint_every == 0 or step == num_steps
                    if step % LOG_EVERY == 0 or checkpoint_due:  # so that no checkpoint holds NaN
                        means = {name: float(torch.stack([r[name] for r in records]).mean()) for name in records[0]}
                        means |= {"epoch": step * config.batch_size / len(images), "images_per_second": rate.look()}
                        runs.log(folder, step=step, seconds=rate.seconds, **means)
                        board.scalars(step, **means)
                        training.check_finite(step, loss_d=means["loss_d"], loss_g=means["loss_g"])
                        records = []
                    if step % config.preview_every == 0 or step == num_steps:
                        self._settle(labels)
                        self._preview(step, images, labels, folder, board)
                    if checkpoint_due:
                        state = {"game": game.state_dict(), "seconds": rate.seconds}
                        training.save_checkpoint(folder, step, state, settings)
                    progress(step, num_steps, "steps")

    @property
    def network(self) -> Synthesis:
        """The averaged network that images are drawn from."""
        if self._network is None:
            raise RunError("This dcgan has not learned anything yet.", "Fit it or load it first.")
        return self._network

    def sample(self, label: int, seeds: np.ndarray) -> np.ndarray:
        """uint8 [n, S, S, 3] of one class from int64 seeds [n]; each image depends on its own seed alone.

        Raises:
            RunError: the generator was neither fitted nor loaded.
        """
        images = np.empty((len(seeds), self.size, self.size, 3), np.uint8)
        with training.reproducible("sample", device=self.device):
            for start in range(0, len(seeds), SAMPLE_BATCH):
                part = slice(start, start + SAMPLE_BATCH)
                images[part] = self._draw(label, seeds[part])
        return images

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``weights.safetensors``."""
        training.save_weights(folder / "weights.safetensors", self.network)
        facts = {"config": self.config.model_dump(), "classes": self.classes, "size": self.size}
        runs.write_json(folder / "config.json", {"format": runs.FORMAT, "generator": "dcgan", **facts})

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Generator":
        """Read what ``save`` wrote."""
        facts = runs.read_json(folder / "config.json")
        config = plugins.validate(Config, facts["config"], str(folder / "config.json"))
        generator = cls(config, tuple(facts["classes"]), facts["size"])
        generator.device = training.pick_device(device)
        with training.reproducible("load"):  # the initial weights, soon overwritten, take nothing from the caller
            network = Synthesis(config, len(generator.classes), generator.size)
        training.load_weights(folder / "weights.safetensors", network)
        generator._network = network.to(generator.device).to(memory_format=torch.channels_last).eval()
        return generator

    def steps_and_seconds(self, num_images: int, *, device: str = "cpu") -> tuple[int, float]:
        """Number of steps of a fit on so many images, and seconds a step, timed on 3 steps of noise."""
        config, seconds, where = self.config, [], training.pick_device(device)
        num_steps = config.num_steps(training.Shuffle(num_images, config.batch_size))
        with training.reproducible("timing", device=where):
            game = Game(config, len(self.classes), self.size, where)
            shape = (config.batch_size, self.size, self.size, 3)
            real = self._inputs(np.random.default_rng(0).integers(0, 256, shape, np.uint8)).to(where)
            labels = torch.zeros(config.batch_size, dtype=torch.long, device=where)
            for _ in range(4):
                start = time.perf_counter()
                losses = game.step(real, labels, torch.randn(config.batch_size, config.latent_size, device=where))
                float(losses["loss_g"])  # waits for the device
                seconds.append(time.perf_counter() - start)
        return num_steps, statistics.median(seconds[1:])

    def _check(self, images: np.ndarray, labels: np.ndarray) -> None:
        expected = (len(labels), self.size, self.size, 3)
        if images.shape != expected or images.dtype != np.uint8:
            raise DataError(f"dcgan needs uint8 images of shape {expected}, not {images.dtype} of {images.shape}.")
        if len(labels) and not (labels.min() >= 0 and labels.max() < len(self.classes)):
            raise DataError(
                f"Labels run from {labels.min()} to {labels.max()}, classes from 0 to {len(self.classes) - 1}."
            )
        counts = np.bincount(labels, minlength=len(self.classes))
        for name, count in zip(self.classes, counts, strict=True):
            if count < 2:
                raise DataError(
                    f'Class "{name}" has {count} image(s) in the training part; dcgan needs at least 2.',
                    "Leave that class out, or give it a larger training part.",
                )

    def _inputs(self, images: np.ndarray) -> Tensor:
        return torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device).float().div_(127.5).sub_(1)

    def _classes(self, labels: np.ndarray) -> Tensor:
        return torch.from_numpy(labels).to(self.device)

    def _latents(self, seeds: np.ndarray) -> Tensor:
        drawn = [torch.randn(self.config.latent_size, generator=training.generator_for("latent", s)) for s in seeds]
        return torch.stack(drawn).to(self.device)

    @torch.no_grad()
    def _draw(self, label: int, seeds: np.ndarray) -> np.ndarray:
        """One batch, padded to ``SAMPLE_BATCH``: its size picks the kernels, and so the last bits of every image."""
        padded = np.pad(seeds, (0, SAMPLE_BATCH - len(seeds)))
        labels = self._classes(np.full(SAMPLE_BATCH, label, np.int64))
        with training.precision(self.device, self.config.precision):
            drawn = self.network(self._latents(padded), labels)
        pixels = drawn.float().add_(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
        return pixels.permute(0, 2, 3, 1).cpu().numpy()[: len(seeds)]

    @torch.no_grad()
    def _settle(self, labels: np.ndarray) -> None:
        """Measure the batch-norm statistics of the averaged weights.

        Running statistics belong to the trained weights, not to their average (Izmailov et al. 2018, arXiv:1803.05407).
        The thesis's momentum of 0.8 has therefore no counterpart among the options.
        """
        norms = [module for module in self.network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
        self.network.train()
        rng = training.numpy_rng("settle")
        for i in range(NUM_SETTLING_BATCHES):
            seeds = -1 - np.arange(i * SAMPLE_BATCH, (i + 1) * SAMPLE_BATCH)
            self.network(self._latents(seeds), self._classes(rng.choice(labels, SAMPLE_BATCH)))
        self.network.eval()

    def _preview(self, step: int, images: np.ndarray, labels: np.ndarray, folder: Path, board: training.Board) -> None:
        """A grid of the same seeds each time: 6 x 6 for one class, a row of 12 for each of several."""
        num, columns = (36, 6) if len(self.classes) == 1 else (12, 12)
        previews = [self.sample(label, np.arange(num)) for label in range(len(self.classes))]
        picture = training.grid(np.concatenate(previews), columns)
        (folder / "previews").mkdir(exist_ok=True)
        with runs.atomic(folder / "previews" / f"{step:07d}.png") as temporary:
            picture.save(temporary, "PNG")
        board.picture(step, "previews", picture)
        if step >= CHECK_COLLAPSE_FROM:
            for label, drawn in enumerate(previews):
                training.check_collapse(step, drawn, images[labels == label])


def symmetries(images: np.ndarray, rng: np.random.Generator, augment: str) -> np.ndarray:
    """Each of the uint8 images [B, S, S, 3] in one of the 8 symmetries of the square, or as it is."""
    if augment == "none":
        return images
    turned = [
        np.rot90(image, k % 4)[:, :: 1 - 2 * (k // 4)]
        for image, k in zip(images, rng.integers(0, 8, len(images)), strict=True)
    ]
    return np.stack(turned)
