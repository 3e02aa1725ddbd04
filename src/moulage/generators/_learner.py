"""What all generators that learn by gradient descent share: the loop, drawing, saving, and the options of these.

A plug-in says what its networks are (``Learner.network_of``), what one step does to them (a ``Game``) and, where it is
no single forward pass, how images are drawn (``Learner.draw``). The loop stands here once, in the open.
"""

import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from moulage import checkpoints, devices, monitoring, optimisers, plugins, randomness, runs, sheets
from moulage.errors import DataError, RecipeError, RunError
from moulage.generators import _augment, _condition

LOG_EVERY = 25
"""Steps between two records of the log."""
SAMPLE_BATCH = 16
"""Images are always drawn in batches of this size."""
CHECK_COLLAPSE_FROM = 500
"""Before this step a healthy generator may still draw one grey blob."""
BEST = "best.safetensors"
"""In the folder of a fit: the averaged weights that the judge found best."""

Judge = Callable[[Callable[[int, np.ndarray], np.ndarray]], Mapping[str, float]]
"""Takes a generator's ``sample`` and returns a score for each class, such as its KID; lower is better."""


class Options(plugins.Options):
    """How long and on what a generator learns; every learned generator has these options."""

    epochs: float | None = Field(1000, gt=0, le=100_000, description="times that every image is seen; or give steps")
    steps: int | None = Field(None, ge=1, le=10_000_000, description="number of batches, instead of epochs")
    batch_size: int = Field(32, ge=2, le=4096, description="images in a batch")
    accumulate: int = Field(1, ge=1, le=256, description="parts that a batch is computed in, to need less memory")
    sampling: Literal["natural", "sqrt", "balanced"] = Field(
        "natural",
        description="how often a class is seen: as often as it occurs, by the square root of that, or all equally",
    )
    augment: Literal["none", "flips"] = Field(
        "flips", description="flips: real images in the 8 symmetries of the square (dermoscopy has no up or down)"
    )
    condition_start: float = Field(
        0.0, ge=0, le=1, description="share of the steps without any condition on the class (transitional training)"
    )
    condition_end: float = Field(
        0.0, ge=0, le=1, description="share of the steps after which the condition on the class counts fully"
    )
    ema_decay: float = Field(0.999, ge=0, lt=1, description="decay of the average of the generator's weights")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the hardware has it")
    preview_every: int = Field(500, ge=1, description="steps between two grids of previews, each judged where it can")
    checkpoint_every: int = Field(250, ge=1, description="steps between two checkpoints")

    @model_validator(mode="before")
    @classmethod
    def _steps_replace_epochs(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for one, other in (("steps", "epochs"), ("epochs", "steps")):
                if values.get(one) is not None and other not in values:
                    return {**values, other: None}
        return values

    @model_validator(mode="after")
    def _loop_is_consistent(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of epochs and steps")
        if self.accumulate > self.batch_size // 2:
            raise ValueError("accumulate cuts a batch into parts of fewer than 2 images")
        if self.condition_end < self.condition_start:
            raise ValueError("condition_end is before condition_start")
        return self

    def num_steps(self, num_images: int) -> int:
        """Number of steps of a fit on so many images."""
        return self.steps or int(np.ceil((self.epochs or 0) * num_images / self.batch_size))

    def condition_at(self, progress: float) -> float:
        """How much the class counts, 0..1, at a share of the steps (Shahbazi et al. 2022, arXiv:2201.06578, eq. 3)."""
        if progress >= self.condition_end:
            return 1.0
        if progress <= self.condition_start:
            return 0.0
        return (progress - self.condition_start) / (self.condition_end - self.condition_start)


class Game(ABC):
    """Networks, optimisers and the average: all that a step changes."""

    ema: optimisers.EMA
    device: torch.device
    PARTS: ClassVar[tuple[str, ...]]
    """Attributes that have a ``state_dict``; a checkpoint holds these."""

    @abstractmethod
    def step(self, real: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        """One update on a batch.

        Args:
            real: images float32 [B, 3, S, S] in -1..1, on the device.
            labels: int64 [B], on the device.
            step: number of this step, from 1.
            rng: a CPU generator that belongs to this step; latents, noise and augmentations come from it.

        Returns:
            losses (``loss_...``) and other numbers to log: scalars, detached.
        """

    def state_dict(self) -> dict[str, Any]:
        """All that a step depends on, PyTorch's random states (dropout) included."""
        return {"random": randomness.random_state(self.device)} | {p: getattr(self, p).state_dict() for p in self.PARTS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part in self.PARTS:
            getattr(self, part).load_state_dict(state[part])
        randomness.restore_random_state(state["random"], self.device)


C = TypeVar("C", bound=Options)


class Learner(ABC, Generic[C]):
    """Draws images of ``classes`` at ``size`` x ``size`` pixels; the base of every learned ``Generator``.

    Args:
        config: the plug-in's ``Config``.
        classes: names of the classes that ``labels`` index; one class needs no condition.
        size: pixels a side, one of ``SIZES``.

    Raises:
        RecipeError: a size that the networks cannot reach.
    """

    NAME: ClassVar[str]
    CONFIG: ClassVar[type[Options]]
    SIZES: ClassVar[tuple[int, ...] | range]
    NUM_PLANES: ClassVar[int] = 3
    """Planes of what a ``Game`` is given: RGB, and where a plug-in needs more, such as a mask, these."""

    def __init__(self, config: C, classes: tuple[str, ...], size: int) -> None:
        if size not in self.SIZES:
            known = self.SIZES
            allowed = (
                f"a multiple of {known.step} from {known[0]} to {known[-1]}"
                if isinstance(known, range)
                else " or ".join(map(str, known))
            )
            raise RecipeError(f"{self.NAME} cannot draw images of {size} pixels.", f"Use {allowed}.")
        self.config, self.classes, self.size = config, tuple(classes), size
        self.device = torch.device("cpu")
        self._network: Any = None

    @abstractmethod
    def game(self) -> Game:
        """New networks and optimisers on ``self.device``; initial weights come from PyTorch's own generator."""

    @abstractmethod
    def network_of(self) -> nn.Module:
        """The network that images are drawn from, as it is before training: what ``save`` and ``load`` keep."""

    @abstractmethod
    def draw(self, network: Any, labels: Tensor, seeds: np.ndarray) -> Tensor:
        """Images [B, 3, S, S] in -1..1 from int64 labels [B] on the device and int64 seeds [B], one each."""

    def settle(self, network: Any, labels: np.ndarray) -> None:
        """Measure what an averaged network has to measure anew (batch norm) before it draws."""

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
        """Learn from uint8 images [N, S, S, 3] and labels int64 [N]; goes on from the last checkpoint in ``folder``.

        With a ``judge`` (see ``Judge``) the averaged weights of the preview with the lowest mean score are kept, else
        the last.

        Raises:
            DataError: wrong shapes or labels, or a class with fewer than 2 images.
            DivergedError: a loss is not finite.
            CollapsedError: the previews of a class are all alike.
            RunError: the device's memory does not suffice.
        """
        self._check(images, labels)
        config, self.device = self.config, devices.pick_device(device)
        num_steps = config.num_steps(len(images))
        batches = randomness.batches(labels, config.batch_size, config.sampling, self.NAME, seed)
        settings = runs.digest(config.model_dump(), self.classes, self.size, seed, images.tobytes(), labels.tobytes())
        enough_memory = devices.enough_memory(config.batch_size, accumulate=config.accumulate)
        with randomness.reproducible(self.NAME, seed, device=self.device), enough_memory:
            game = self.game()
            self._network = game.ema.model
            best = checkpoints.Best(folder / BEST)
            start, state = checkpoints.load(folder, settings) or (0, None)
            if state:
                game.load_state_dict(state["game"])
                best.load_state_dict(state["best"])
            rate, records = monitoring.Rate(state["seconds"] if state else 0.0), []
            with monitoring.Board(folder, start + 1) as board:
                for step in range(start + 1, num_steps + 1):
                    rows = batches[step - 1]
                    real = _augment.symmetries(
                        images[rows], randomness.numpy_rng("augment", seed, step), config.augment
                    )
                    _condition.set_strength(game, config.condition_at(step / num_steps))
                    rng = randomness.generator_for(seed, step)
                    records.append(game.step(self._inputs(real), self._targets(labels[rows]), step, rng))
                    rate.add(len(rows))
                    last = step == num_steps
                    preview_due = last or step % config.preview_every == 0
                    checkpoint_due = last or step % config.checkpoint_every == 0
                    if step % LOG_EVERY == 0 or checkpoint_due or preview_due:  # so that no checkpoint holds NaN
                        means = {name: float(torch.stack([r[name] for r in records]).mean()) for name in records[0]}
                        means |= {"epoch": step * config.batch_size / len(images), "images_per_second": rate.look()}
                        if preview_due and monitoring.all_finite(means):
                            self.settle(game.ema.model, labels)
                            self._preview(step, images, labels, folder, board)
                            means |= best.judged(step, judge(self.sample), game.ema.model) if judge else {}
                        runs.log(folder, step=step, seconds=rate.seconds, **means)
                        board.scalars(step, **means)
                        monitoring.check_finite(step, **{n: v for n, v in means.items() if n.startswith("loss")})
                        records = []
                    if checkpoint_due:
                        state = {"game": game.state_dict(), "seconds": rate.seconds, "best": best.state_dict()}
                        checkpoints.save(folder, step, state, settings)
                    progress(step, num_steps, f"steps, {rate.mean:.3g} images/s{best.note}")
            best.restore(game.ema.model)

    @property
    def network(self) -> Any:
        """The averaged network that images are drawn from."""
        if self._network is None:
            raise RunError(f"This {self.NAME} has not learned anything yet.", "Fit it or load it first.")
        return self._network

    def sample(self, label: int, seeds: np.ndarray) -> np.ndarray:
        """uint8 [n, S, S, 3] of one class from int64 seeds [n]; each image depends on its own seed alone.

        Raises:
            RunError: the generator was neither fitted nor loaded.
        """
        images = np.empty((len(seeds), self.size, self.size, 3), np.uint8)
        with randomness.reproducible("sample", device=self.device), torch.no_grad():
            for start in range(0, len(seeds), SAMPLE_BATCH):
                part = np.asarray(seeds[start : start + SAMPLE_BATCH], np.int64)
                # Padded: the size of a batch picks the kernels, and so the last bits of every image.
                padded = np.pad(part, (0, SAMPLE_BATCH - len(part)))
                labels = self._targets(np.full(SAMPLE_BATCH, label, np.int64))
                with devices.precision(self.device, self.config.precision):
                    drawn = self.draw(self.network, labels, padded)
                pixels = drawn.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
                images[start : start + len(part)] = pixels.permute(0, 2, 3, 1).cpu().numpy()[: len(part)]
        return images

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``weights.safetensors``."""
        checkpoints.save_weights(folder / "weights.safetensors", self.network)
        facts = {"config": self.config.model_dump(), "classes": self.classes, "size": self.size}
        runs.write_json(folder / "config.json", {"format": runs.FORMAT, "generator": self.NAME, **facts})

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:
        """Read what ``save`` wrote."""
        facts = runs.read_json(folder / "config.json")
        config = plugins.validate(cls.CONFIG, facts["config"], str(folder / "config.json"))
        generator = cls(config, tuple(facts["classes"]), facts["size"])
        generator.device = devices.pick_device(device)
        with randomness.reproducible("load"):  # the initial weights, soon overwritten, take nothing from the caller
            network = generator.network_of()
        checkpoints.load_weights(folder / "weights.safetensors", network)
        generator._network = network.to(generator.device).eval().requires_grad_(False)
        return generator

    def steps_and_seconds(self, num_images: int, *, device: str = "cpu") -> tuple[int, float]:
        """Number of steps of a fit on so many images, and seconds a step, timed on 3 steps of noise."""
        config, before = self.config, self.device
        self.device = devices.pick_device(device)
        try:
            with devices.enough_memory(config.batch_size, self._seconds_a_step, config.accumulate):
                return config.num_steps(num_images), self._seconds_a_step(config.accumulate)
        finally:
            self.device, self.config = before, config

    def _seconds_a_step(self, accumulate: int) -> float:
        """Timed on a few steps, batches computed in so many parts."""
        self.config = config = self.config.model_copy(update={"accumulate": accumulate})
        seconds = []
        with randomness.reproducible("timing", device=self.device):
            game, shape = self.game(), (config.batch_size, self.size, self.size, self.NUM_PLANES)
            real = self._inputs(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
            labels = self._targets(np.zeros(config.batch_size, np.int64))
            for step in range(1, 5):
                start = time.perf_counter()
                losses = game.step(real, labels, step, randomness.generator_for(step))
                [float(value) for value in losses.values()]  # waits for the device
                seconds.append(time.perf_counter() - start)
        return statistics.median(seconds[1:])

    def _check(self, images: np.ndarray, labels: np.ndarray) -> None:
        expected = (len(labels), self.size, self.size, 3)
        if images.shape != expected or images.dtype != np.uint8:
            raise DataError(
                f"{self.NAME} needs uint8 images of shape {expected}, not {images.dtype} of {images.shape}."
            )
        last = len(self.classes) - 1
        if len(labels) and not (labels.min() >= 0 and labels.max() <= last):
            raise DataError(f"Labels run from {labels.min()} to {labels.max()}, classes from 0 to {last}.")
        for name, count in zip(self.classes, np.bincount(labels, minlength=last + 1), strict=True):
            if count < 2:
                raise DataError(
                    f'Class "{name}" has {count} image(s) in the training part; {self.NAME} needs at least 2.',
                    "Leave that class out, or give it a larger training part.",
                )

    def _inputs(self, images: np.ndarray) -> Tensor:
        return torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device).float().div_(127.5).sub_(1)

    def _targets(self, labels: np.ndarray) -> Tensor:
        return torch.from_numpy(labels).to(self.device)

    def _preview(
        self, step: int, images: np.ndarray, labels: np.ndarray, folder: Path, board: monitoring.Board
    ) -> None:
        """A grid of the same seeds each time: 6 x 6 for one class, a row of 12 for each of several."""
        num, columns = (36, 6) if len(self.classes) == 1 else (12, 12)
        previews = [self.sample(label, np.arange(num)) for label in range(len(self.classes))]
        picture = sheets.grid(np.concatenate(previews), columns)
        (folder / "previews").mkdir(exist_ok=True)
        with runs.atomic(folder / "previews" / f"{step:07d}.png") as temporary:
            picture.save(temporary, "PNG")
        board.picture(step, "previews", picture)
        if step >= CHECK_COLLAPSE_FROM:
            for label, drawn in enumerate(previews):
                monitoring.check_collapse(step, drawn, images[labels == label], self.classes[label])


def latents(seeds: np.ndarray, num: int) -> Tensor:
    """Standard normal float32 [n, num], each row from its own seed alone, on the CPU."""
    return torch.stack([torch.randn(num, generator=randomness.generator_for("latent", seed)) for seed in seeds])
