"""What every generator has: classes and a size, checks of what it learns from, previews, a folder."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from torch import nn

from moulage import checkpoints, devices, plugins, randomness, runs, sheets
from moulage.errors import DataError, RecipeError, RunError
from moulage.monitoring import Board

C = TypeVar("C", bound=plugins.Options)


class Base(ABC, Generic[C]):
    """``contracts.Generator`` but for three methods of the plug-in; ``RecipeError``: the size is not in ``SIZES``."""

    NAME: ClassVar[str]
    CONFIG: ClassVar[type[plugins.Options]]
    SIZES: ClassVar[tuple[int, ...] | range]
    DRAWING: ClassVar[type[plugins.Options]] = plugins.NoOptions
    batch_size = 1  # images that ``sample`` may draw at once, where that changes none of them
    drawing: Any  # an object of ``DRAWING``: how ``sample`` draws

    def __init__(self, config: C, classes: tuple[str, ...], size: int) -> None:
        known = self.SIZES
        if size not in known:
            allowed = " or ".join(map(str, known))
            if isinstance(known, range):
                multiple = "size" if known.step == 1 else f"multiple of {known.step}"
                allowed = f"a {multiple} from {known[0]} to {known[-1]}"
            raise RecipeError(f"{self.NAME} cannot draw images of {size} pixels.", f"Use {allowed}.")
        self.config, self.classes, self.size = config, tuple(classes), size
        self.drawing = self.DRAWING()
        self.device = torch.device("cpu")
        self._network: Any = None

    @abstractmethod
    def network_of(self) -> nn.Module:
        """What images are drawn from, as it is before training: what ``save`` and ``load`` keep."""

    @abstractmethod
    def sample(self, label: int, seeds: np.ndarray) -> np.ndarray:
        """See ``contracts.Generator``; ``RunError`` where it was neither fitted nor loaded."""

    @property
    def network(self) -> Any:
        if self._network is None:
            raise RunError(f"This {self.NAME} has not learned anything yet.", "Fit it or load it first.")
        return self._network

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``weights.safetensors``."""
        checkpoints.save_weights(folder / "weights.safetensors", self.network)
        facts = {"config": self.config.model_dump(), "classes": self.classes, "size": self.size}
        runs.write_json(folder / "config.json", {"format": runs.FORMAT, "generator": self.NAME, **facts})

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Self:
        """Read what ``save`` wrote."""
        facts = runs.read_json(folder / "config.json", "config", "classes", "size")
        config = plugins.validate(cls.CONFIG, facts["config"], str(folder / "config.json"))
        generator = cls(config, tuple(facts["classes"]), facts["size"])
        generator.device = devices.pick_device(device)
        with randomness.reproducible("load"):  # the initial weights, soon overwritten, take nothing from the caller
            network = generator.network_of()
        checkpoints.load_weights(folder / "weights.safetensors", network)
        generator._network = network.to(generator.device).eval().requires_grad_(False)
        return generator

    def _check(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Raise ``DataError`` where these are not images and labels of each class."""
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

    def _preview(self, step: int, num: int, num_columns: int, folder: Path, board: Board) -> list[np.ndarray]:
        """Show ``num`` images of each class, always from the same seeds; returns them, one array a class."""
        drawn = [self.sample(label, np.arange(num)) for label in range(len(self.classes))]
        self._show(step, "previews", np.concatenate(drawn), num_columns, folder, board)
        return drawn

    def _show(self, step: int, what: str, images: np.ndarray, num_columns: int, folder: Path, board: Board) -> None:
        """Write a grid of images to the folder ``what`` and to TensorBoard."""
        picture = sheets.grid(images, num_columns)
        with runs.atomic(folder / what / f"{step:07d}.png") as temporary:
            picture.save(temporary, "PNG")
        board.picture(step, what, picture)
