"""What all generators that learn by gradient descent share: the loop, drawing, and the options of these.

A plug-in says what its networks are (``Learner.network_of``), what one step does to them (a ``Game``) and, where it is
no single forward pass, how images are drawn (``Learner.draw``). The loop stands here once, in the open.
"""

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from moulage import checkpoints, devices, monitoring, optimisers, plugins, randomness, runs
from moulage.contracts import Judge
from moulage.generators import _augment, _condition, _start
from moulage.generators._base import Base

LOG_EVERY = 25  # steps between two records of the log, and from one look for gradients that are not finite to the next
SAMPLE_BATCH = 16  # images are always drawn in batches of this size
CHECK_COLLAPSE_FROM = 500  # before this step a healthy generator may still draw one grey blob
NUM_SETTLING_BATCHES = 16  # batches from which averaged weights get the statistics of their batch norm
# What may stand in place of a seed: a place on the way from the image of one to that of another
BETWEEN = np.dtype([("first", np.int64), ("last", np.int64), ("share", np.float64)])
LENGTHS = ("images", "epochs", "steps")  # options that say how long a fit is
BEST = "best.safetensors"  # in the folder of a fit: the averaged weights that the judge found best

# Options whose default differs among plug-ins
Images = Annotated[
    int | None, Field(ge=1, le=1_000_000_000, description="how long it learns: real images that are shown, all in all")
]
Epochs = Annotated[float | None, Field(gt=0, le=100_000, description="instead of images: how often every one is shown")]
Steps = Annotated[int | None, Field(ge=1, le=10_000_000, description="instead of images: number of batches")]
EmaImages = Annotated[
    int,
    Field(
        ge=0,
        le=1_000_000_000,
        description="images after which the average of the generator's weights has forgotten half; 0: no average",
    ),
]
BatchSize = Annotated[int, Field(ge=2, le=4096, description="images in a batch")]


class Options(plugins.Options):
    """How long and on what a generator learns; every learned generator has these options."""

    images: Images = None
    epochs: Epochs = 1000
    steps: Steps = None
    batch_size: BatchSize = 32
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
    ema_images: EmaImages = 10_000
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the hardware has it")
    preview_every: int = Field(500, ge=1, description="steps between two grids of previews, each judged where it can")
    checkpoint_minutes: float = Field(
        5.0, ge=0, le=1440, description="minutes between two checkpoints; 0: one after every step"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_length_replaces_the_others(cls, values: Any) -> Any:
        if isinstance(values, dict) and any(values.get(name) is not None for name in LENGTHS):
            return dict.fromkeys(LENGTHS) | values
        return values

    @model_validator(mode="after")
    def _loop_is_consistent(self) -> Self:
        if sum(getattr(self, name) is not None for name in LENGTHS) != 1:
            raise ValueError(f"give exactly one of {', '.join(LENGTHS)}")
        if self.accumulate > self.batch_size // 2:
            raise ValueError("accumulate cuts a batch into parts of fewer than 2 images")
        if self.condition_end < self.condition_start:
            raise ValueError("condition_end is before condition_start")
        return self

    def at(self, size: int) -> Self:
        """These options, with what is left open as it should be for images of ``size`` pixels a side."""
        return self

    @property
    def ema_decay(self) -> float:
        """Decay of the average at a step."""
        return optimisers.half_life(self.ema_images, self.batch_size)

    def num_steps(self, num_images: int) -> int:
        """Number of steps of a fit on so many images."""
        return self.steps or int(np.ceil((self.images or (self.epochs or 0) * num_images) / self.batch_size))

    def condition_at(self, progress: float) -> float:
        """How much the class counts, 0..1, at a share of the steps (Shahbazi et al. 2022, arXiv:2201.06578, eq. 3)."""
        if self.condition_start < progress < self.condition_end:
            return (progress - self.condition_start) / (self.condition_end - self.condition_start)
        return float(progress >= self.condition_end)


class Game(ABC):
    """Networks, optimisers and the average: all that a step changes."""

    ema: optimisers.EMA[Any]
    device: torch.device
    PARTS: ClassVar[tuple[str, ...]]  # attributes that have a ``state_dict``; a checkpoint holds these

    @abstractmethod
    def step(self, real: Tensor, labels: Tensor, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        """One update on a batch: images float32 [B, 3, S, S] in -1..1 and labels int64 [B], on the device.

        ``step`` counts from 1. Latents, noise and augmentations come from ``rng``, a CPU generator of this step alone.
        Returns losses (``loss_...``) and other numbers to log: scalars, detached; ``left_out`` as of ``guarded_step``.
        """

    def state_dict(self) -> dict[str, Any]:
        """All that a step depends on, PyTorch's random states (dropout) included."""
        return {"random": randomness.random_state(self.device)} | {p: getattr(self, p).state_dict() for p in self.PARTS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part in self.PARTS:
            getattr(self, part).load_state_dict(state[part])
        randomness.restore_random_state(state["random"], self.device)


C = TypeVar("C", bound=Options)


class Learner(Base[C]):
    """The base of every learned ``Generator``; ``num_steps`` is that of the fit which ``game`` is made for."""

    TAKES_START: ClassVar[bool] = True
    NUM_PLANES: ClassVar[int] = 3
    """Planes of what a ``Game`` is given: RGB, and where a plug-in needs more, such as a mask, these."""

    def __init__(self, config: C, classes: tuple[str, ...], size: int) -> None:
        super().__init__(config.at(size), classes, size)
        self.num_steps = config.steps or 1
        self._is_same: dict[int, bool] = {}  # size of a batch -> whether images drawn in it have the same bits

    @abstractmethod
    def game(self) -> Game:
        """New networks and optimisers on ``self.device``; initial weights come from PyTorch's own generator."""

    @abstractmethod
    def draw(self, network: Any, labels: Tensor, seeds: np.ndarray) -> Tensor:
        """Images [B, 3, S, S] in -1..1 from int64 labels [B] on the device and seeds [B], one each, for ``latents``."""

    def draws_as_at_the_end(self, step: int) -> bool:
        """Whether weights of this step may be chosen: before, they draw something else than the fit is for."""
        return len(self.classes) == 1 or self.config.condition_at(step / self.num_steps) == 1

    @torch.no_grad()
    def settle(self, network: Any, labels: np.ndarray) -> None:
        """Measure what an averaged network has to measure anew before it draws, and leave it in eval mode.

        This is batch norm: running statistics belong to the trained weights, not to their average (Izmailov et al.
        2018, arXiv:1803.05407). Classes are drawn as often as they occur in ``labels`` int64 [N].
        """
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
        network.train(bool(norms))
        rng = randomness.numpy_rng("settle")
        for i in range(NUM_SETTLING_BATCHES if norms else 0):
            seeds = -1 - np.arange(i * SAMPLE_BATCH, (i + 1) * SAMPLE_BATCH)
            self.draw(network, self._targets(rng.choice(labels, SAMPLE_BATCH)), seeds)
        network.eval()

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
        start: Path | None = None,
    ) -> None:
        """See ``contracts.Generator``. It goes on from the last checkpoint in ``folder``, else from ``start``.

        With a judge the averaged weights of the preview with the lowest mean score are kept, else the last. Previews
        are judged from where on they are drawn as at the end (``draws_as_at_the_end``).
        """
        self._check(images, labels)
        config, self.device = self.config, devices.pick_device(device)
        self.num_steps = num_steps = config.num_steps(len(images))
        batches = randomness.batches(labels, config.batch_size, config.sampling, self.NAME, seed)
        settings = runs.digest(config.model_dump(), self.classes, self.size, seed, images.tobytes(), labels.tobytes())
        settings += checkpoints.weights_digest(start) if start else ""
        enough_memory = devices.enough_memory(config.batch_size, accumulate=config.accumulate)
        with randomness.reproducible(self.NAME, seed, device=self.device), enough_memory:
            game = self.game()
            self._network = game.ema.model
            best = checkpoints.Best(folder / BEST)
            done, records, seconds = self._begun(game, best, folder, settings, start)
            rate, clock = monitoring.Rate(seconds), checkpoints.Clock(config.checkpoint_minutes)
            with monitoring.Board(folder, done + 1) as board:
                for step in range(done + 1, num_steps + 1):
                    rows = batches[step - 1]
                    turns, rng = randomness.numpy_rng("augment", seed, step), randomness.generator_for(seed, step)
                    real = _augment.symmetries(images[rows], turns, config.augment)
                    _condition.set_strength(game, config.condition_at(step / num_steps))
                    records.append(game.step(self._inputs(real), self._targets(labels[rows]), step, rng))
                    rate.add(len(rows))
                    last = step == num_steps
                    preview_due = last or step % config.preview_every == 0
                    if step % LOG_EVERY == 0 or preview_due:
                        means, records = monitoring.means_of(step, records), []
                        means |= {"epoch": step * config.batch_size / len(images), "images_per_second": rate.look()}
                        if preview_due:
                            self.settle(game.ema.model, labels)
                            self._look(step, images, labels, folder, board)
                        if preview_due and judge and self.draws_as_at_the_end(step):
                            means |= best.judged(step, judge(self.sample), game.ema.model)
                        runs.log(folder, step=step, seconds=rate.seconds, **means)
                        board.scalars(step, **means)
                    if last or clock.strikes():
                        state = {"game": game.state_dict(), "records": records, "best": best.state_dict()}
                        checkpoints.save(folder, step, state | {"seconds": rate.seconds}, settings)
                    progress(step, num_steps, f"steps, {rate.mean:.3g} images/s{best.note}")
            best.restore(game.ema.model)

    def _begun(
        self, game: Game, best: checkpoints.Best, folder: Path, settings: str, start: Path | None
    ) -> tuple[int, list[dict[str, Tensor]], float]:
        """How many steps are done, what those since the last record of the log gave, and the seconds that all took.

        ``game`` and ``best`` are as they were then, or as ``start`` has them.
        """
        done, state = checkpoints.load(folder, settings) or (0, None)
        if state:
            game.load_state_dict(state["game"])
            best.load_state_dict(state["best"])
            return done, state["records"], state["seconds"]
        if start:
            runs.log(folder, started_from=start.name, shares=_start.begin(game, start))
        return 0, [], 0.0

    def sample(self, label: int, seeds: np.ndarray) -> np.ndarray:
        return self.in_batches(label, len(seeds), lambda labels, rows: self.draw(self.network, labels, seeds[rows]))

    def in_batches(self, label: int, num_images: int, draw: Callable[[Tensor, np.ndarray], Tensor]) -> np.ndarray:
        """Images uint8 [n, S, S, 3]; ``draw`` gives those of some rows (int64 [B]), their labels being on the device.

        What it gives is [B, 3, S, S] in -1..1, each image being the same whatever others are drawn with it.
        """
        images = np.empty((num_images, self.size, self.size, 3), np.uint8)
        with randomness.reproducible("sample", device=self.device):
            at_once, start = self._at_once(label, num_images, draw), 0
            while start < num_images:
                num = at_once if num_images - start >= at_once else SAMPLE_BATCH
                drawn = self._drawn(label, np.arange(start, min(start + num, num_images)), num, draw)
                pixels = drawn.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
                images[start : start + len(drawn)] = pixels.permute(0, 2, 3, 1).cpu().numpy()
                start += num
        return images

    def between(self, label: int, first: np.ndarray, last: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """See ``contracts.Interpolates``: latents are mixed as ``latents`` says."""
        places = np.empty(len(shares), BETWEEN)
        places["first"], places["last"], places["share"] = first, last, shares
        return self.sample(label, places)

    @torch.no_grad()
    def _drawn(self, label: int, rows: np.ndarray, num: int, draw: Callable[[Tensor, np.ndarray], Tensor]) -> Tensor:
        """Images float32 [n, 3, S, S] of at most ``num`` rows, drawn in one batch of ``num``."""
        # Filled up: the size of a batch picks the kernels, and so the last bits of every image.
        full, labels = np.resize(rows, num), self._targets(np.full(num, label, np.int64))
        with devices.precision(self.device, self.config.precision):
            return draw(labels, full)[: len(rows)].float()

    def _at_once(self, label: int, num_images: int, draw: Callable[[Tensor, np.ndarray], Tensor]) -> int:
        """``batch_size`` where such a batch has the bits that batches of ``SAMPLE_BATCH`` have, else the latter.

        It has where a device takes the same kernels for both; that is tried once, on the first batch.
        """
        num = self.batch_size // SAMPLE_BATCH * SAMPLE_BATCH
        if num <= SAMPLE_BATCH or num_images < num:
            return SAMPLE_BATCH
        if num not in self._is_same:
            rows = np.split(np.arange(num), num // SAMPLE_BATCH)
            parts = [self._drawn(label, part, SAMPLE_BATCH, draw) for part in rows]
            try:
                self._is_same[num] = torch.equal(self._drawn(label, np.arange(num), num, draw), torch.cat(parts))
            except torch.OutOfMemoryError:
                self._is_same[num] = False
        return num if self._is_same[num] else SAMPLE_BATCH

    def steps_and_seconds(self, num_images: int, device: str = "cpu") -> tuple[int, float]:
        """See ``contracts.Generator``; timed on 3 steps of noise."""
        config, before, self.device = self.config, self.device, devices.pick_device(device)
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
                start = devices.spent(self.device)
                losses = game.step(real, labels, step, randomness.generator_for(step))
                [float(value) for value in losses.values()]  # waits for the device
                seconds.append(devices.spent(self.device) - start)
        return statistics.median(seconds[1:])

    def _inputs(self, images: np.ndarray) -> Tensor:
        return torch.from_numpy(images).permute(0, 3, 1, 2).to(self.device).float().div_(127.5).sub_(1)

    def _targets(self, labels: np.ndarray) -> Tensor:
        return torch.from_numpy(labels).to(self.device)

    def _look(self, step: int, images: np.ndarray, labels: np.ndarray, folder: Path, board: monitoring.Board) -> None:
        """Show previews, 6 x 6 for one class, a row of 12 for each of several, and see whether all are alike."""
        previews = self._preview(step, *((36, 6) if len(self.classes) == 1 else (12, 12)), folder, board)
        for label, drawn in enumerate(previews if step >= CHECK_COLLAPSE_FROM else ()):
            monitoring.check_collapse(step, drawn, images[labels == label][..., :3], self.classes[label])


def in_parts(num_parts: int, *batch: Tensor) -> list[tuple[Tensor, ...]]:
    """Tensors [B, ...] of a batch in so many parts; their sizes differ by 1 at most, so that none is of one image."""
    return list(zip(*(tensor.tensor_split(num_parts) for tensor in batch), strict=True))


def latents(seeds: np.ndarray, *shape: int, name: str = "latent") -> Tensor:
    """Standard normal float32 [n, *shape], each row from its own seed (and ``name``) alone, on the CPU.

    ``seeds`` are int64, or ``BETWEEN``: cos(a) z + sin(a) z' of the latents of two seeds, with a from 0 to a quarter
    turn as the share goes from 0 to 1. Of independent z and z' that is standard normal everywhere on the way, as images
    are drawn from; a straight line passes through latents that are too short (White 2016, arXiv:1609.04468).
    """
    if seeds.dtype == BETWEEN:
        first, last = (latents(seeds[end], *shape, name=name) for end in ("first", "last"))
        share = torch.from_numpy(np.ascontiguousarray(seeds["share"])).float().view(-1, *[1] * len(shape))
        mixed = (share * math.pi / 2).cos() * first + (share * math.pi / 2).sin() * last
        return torch.where(share == 1, last, mixed)
    return torch.stack([torch.randn(shape, generator=randomness.generator_for(name, seed)) for seed in seeds])
