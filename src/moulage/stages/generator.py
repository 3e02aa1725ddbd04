"""Fits a generator on its classes' images of the training part; the validation part chooses among its weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from moulage import contracts, runs
from moulage.data import masks
from moulage.data.catalog import Catalog
from moulage.data.samples import draw as draw_into
from moulage.errors import DataError, RecipeError
from moulage.evaluation.set_distances import squared_mmd
from moulage.recipe import Recipe
from moulage.stages.data import Prepared
from moulage.stages.network import Network
from moulage.stages.stage import Context, Stage
from moulage.stages.stored import labels_of
from moulage.stages.witness import Known, Witness, fitted

FILE = "generator.json"
FIRST_JUDGED_SEED = 2_000_000_000
"""Images by which a fit chooses among its weights come from the seeds from here on."""
MIN_JUDGED = 20
"""Validation images of a class without which a fit is not judged by that class."""


@dataclass(frozen=True)
class JudgedBy:
    """How a fit's previews are judged: so many images of each class, measured in a feature network."""

    num_images: int
    network: Network


@dataclass(frozen=True)
class Generator(Stage):
    """A generator in one trial."""

    kind: ClassVar[str] = "generator"
    place: ClassVar[str] = "generators"

    plugin: str  # the plug-in and its options
    config: dict[str, Any]
    classes: tuple[str, ...]  # what it learns and draws
    size: int  # pixels a side
    seed: int  # of everything random in the fit
    split: str  # digest of the split whose training part it sees
    judge: JudgedBy | None  # None where the weights of the last step are kept
    masks: str  # names the lesion masks that it learns from; empty where it learns from none

    @classmethod
    def check_recipe(cls, recipe: Recipe) -> None:
        for name, options in recipe.generators.items():
            contracts.generator(options.plugin).configure(options.options, f"generators.{name}.options")
        if recipe.generators and (recipe.fidelity.num_images or recipe.fidelity.judge_images):
            try:
                Network.of(recipe.fidelity.features, "fidelity.features")
            except RecipeError as error:
                away = "Or score no generator: num_images = 0 and judge_images = 0 in [fidelity]."
                hint = f"{error.hint} {away}".strip()
                raise RecipeError(f"Generators cannot be scored. {error.message}", hint) from None

    @property
    def takes_time(self) -> str:
        return self.plugin

    def _model(self) -> contracts.Generator:
        plug = contracts.generator(self.plugin)
        return plug.Generator(plug.configure(self.config), self.classes, self.size)

    def run(self, at: Context) -> Witness:
        folder, prepared = at.run / self.folder, at.prepared
        split, plug = prepared.split(self.trial), contracts.generator(self.plugin)
        train = prepared.part(self.trial, "train").only(label=self.classes)
        judge = ValidationJudge.of(self, prepared, at.device)
        more: dict[str, Any] = {}
        if plug.needs_masks:
            more["masks"] = masks.read(train, self.size, prepared.framing, filters=prepared.filters)
        model = self._model()
        model.fit(
            prepared.images(train, self.size),
            labels_of(train, self.classes),
            seed=self.seed,
            folder=folder,
            device=at.device,
            progress=at.progress,
            judge=judge,
            **more,
        )
        model.save(folder)
        about = {"plugin": self.plugin, "classes": self.classes, "size": self.size, "origin": Path(self.folder).name}
        about |= {"split_digest": split.digest, "num_images": len(train), "all_classes": prepared.catalog.classes}
        runs.write_json(folder / FILE, about)
        return fitted(split.digest, train, judge and judge.chosen_on)

    def check(self, known: Known) -> None:
        known.was_fitted(self, classes=self.classes)
        known.was_chosen(self, "a choice was made on", self.classes)

    def num_images(self, prepared: Prepared) -> int:
        return len(prepared.part(self.trial, "train").only(label=self.classes))

    def alike(self) -> tuple[Any, ...]:
        return self.plugin, self.config, self.size, self.classes

    def seconds(self, num_images: int, device: str) -> float:
        num_steps, a_step = self._model().steps_and_seconds(num_images, device=device)
        return num_steps * a_step


def draw(
    folder: Path,
    counts: Mapping[str, int],
    first_seed: int,
    out: Path,
    *,
    device: str = "cpu",
    progress: runs.Progress = runs.no_progress,
) -> Catalog:
    """Draw images from a finished generator folder: ``counts[c]`` of each class from consecutive seeds.

    Raises:
        RunError: the folder holds no finished generator.
        DataError: it never learned a class that is asked for.
    """
    about = runs.read_json(folder / FILE, "classes", "all_classes", "origin", "split_digest")
    for name in counts:
        if name not in about["classes"]:
            raise DataError(f'{folder} draws {", ".join(about["classes"])}, not "{name}".', "Ask for one of those.")
    runs.claim(out)
    return draw_into(
        load(folder, device),
        {name: np.arange(first_seed, first_seed + count) for name, count in counts.items()},
        out,
        classes=tuple(about["all_classes"]),
        origin=about["origin"],
        split_digest=about["split_digest"],
        progress=progress,
    )


def load(folder: Path, device: str) -> Any:
    """The finished generator of a folder, which names its plug-in."""
    return contracts.generator(runs.read_json(folder / FILE, "plugin")["plugin"]).load(folder, device=device)


class ValidationJudge:
    """Kernel distance (KID) of drawn to validation images, class by class: what a fit chooses its weights by."""

    def __init__(self, stage: Generator, by: JudgedBy, prepared: Prepared, device: str) -> None:
        self.by, self.classes, self.device = by, stage.classes, device
        validation = prepared.part(stage.trial, "validation")
        self.chosen_on = validation.only(label=self.classes)
        self.pixels = prepared.images(self.chosen_on, stage.size)
        self._features: np.ndarray | None = None

    @classmethod
    def of(cls, stage: Generator, prepared: Prepared, device: str) -> "ValidationJudge | None":
        """The judge of a fit; None where its recipe wants none or no class has enough validation images."""
        if stage.judge is None:
            return None
        judge = cls(stage, stage.judge, prepared, device)
        counts = judge.chosen_on.counts
        return judge if any(counts[name] >= MIN_JUDGED for name in judge.classes) else None

    def __call__(self, sample: Callable[[int, np.ndarray], np.ndarray]) -> dict[str, float]:
        """The distance of each class; NaN for a class with too few validation images."""
        labels, found = self.chosen_on.table["label"].to_numpy(object), dict.fromkeys(self.classes, float("nan"))
        for k, name in enumerate(self.classes):
            rows = np.flatnonzero(labels == name)
            if len(rows) < MIN_JUDGED:
                continue
            if self._features is None:
                self._features = self.by.network.extract(self.pixels, self.device)
            drawn = sample(k, np.arange(FIRST_JUDGED_SEED, FIRST_JUDGED_SEED + self.by.num_images))
            found[name] = squared_mmd(self._features[rows], self.by.network.extract(drawn, self.device)).value
        return found
