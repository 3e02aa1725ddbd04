"""Fits a generator on its classes' images of the training part; the validation part chooses among its weights."""

import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from moulage import contracts, runs
from moulage.data import masks
from moulage.data.catalog import Catalog
from moulage.data.samples import BATCH, safe_names, write
from moulage.data.samples import draw as draw_into
from moulage.errors import DataError, LeakError, RecipeError, nearest
from moulage.evaluation.set_distances import squared_mmd
from moulage.recipe import Recipe
from moulage.sheets import grid
from moulage.stages.data import Prepared
from moulage.stages.network import Network
from moulage.stages.parents import Chooser, Editor, data_of
from moulage.stages.stage import APART, Context, Stage
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
    start: "Generator | None" = None  # the fit that it goes on from
    start_digest: str = ""  # of weights from elsewhere that it goes on from instead, and where they lie
    start_path: str = field(default="", metadata=APART)

    @classmethod
    def check_recipe(cls, recipe: Recipe) -> None:
        for name, options in recipe.generators.items():
            plug, where = contracts.generator(options.plugin), f"generators.{name}"
            _check_start(recipe, name)
            model = plug.Generator(plug.configure(options.options, f"{where}.options"), options.classes, options.size)
            plug.draw_by(model, options.drawing, f"{where}.drawing")
            for arm, of in recipe.arms.items():
                if of.generator == name and of.drawing:
                    plug.draw_by(model, {**options.drawing, **of.drawing}, f"arms.{arm}.drawing")
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
        if self.start or self.start_path:
            more["start"] = at.run / self.start.folder if self.start else Path(self.start_path)
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
        about |= {"data": self.data}
        runs.write_json(folder / FILE, about)
        return fitted(split.digest, train, judge and judge.chosen_on)

    def check(self, known: Known) -> None:
        known.was_fitted(self, classes=self.classes)
        known.was_chosen(self, "a choice was made on", self.classes)

    def num_images(self, prepared: Prepared) -> int:
        return len(prepared.part(self.trial, "train").only(label=self.classes))

    def alike(self) -> tuple[Any, ...]:
        return self.plugin, self.config, self.size, self.classes, self.judge

    def seconds(self, num_images: int, device: str) -> float:
        num_steps, a_step = self._model().steps_and_seconds(num_images, device=device)
        judged = self.num_judged(num_steps)
        judging = self.judge.network.seconds(judged, self.size, device) if self.judge and judged else 0.0
        return num_steps * a_step + judging

    def num_judged(self, num_steps: int) -> int:
        """Images that are drawn and pass the feature network of the judge in a fit of so many steps, at most."""
        every = self.config.get("preview_every")
        previews = -(-num_steps // every) if every else 0
        return previews * self.judge.num_images * len(self.classes) if self.judge else 0


def _check_start(recipe: Recipe, name: str) -> None:
    """Its plug-in can go on from the weights that ``start`` names."""
    options, where = recipe.generators[name], f"generators.{name}.start"
    freezes = options.options.get("freeze_discriminator", 0)
    if freezes and not options.start:
        raise RecipeError(
            f"generators.{name}.options.freeze_discriminator holds layers of a discriminator that a fit starts from.",
            f"Say in {where} what it starts from, or freeze nothing.",
        )
    if not options.start:
        return
    if not contracts.generator(options.plugin).takes_start:
        raise RecipeError(f"{where}: {options.plugin} has no weights to go on from.", "Leave start out.")
    if options.start not in recipe.generators and not Path(options.start).exists():
        hint = nearest(options.start, recipe.generators)
        raise RecipeError(f'{where}: there is no generator "{options.start}" in this recipe, nor such a path.', hint)
    path = Path(options.start) / FILE
    if options.start in recipe.generators:
        other = recipe.generators[options.start].plugin
    else:
        other = runs.read_json(path)["plugin"] if path.exists() else options.plugin
    if other != options.plugin:
        raise RecipeError(f"{where}: it is of {other}, and this is {options.plugin}.", "Start from one of the same.")
    if freezes and options.start not in recipe.generators and not any(Path(options.start).glob("checkpoint-*.pt")):
        raise RecipeError(
            f"generators.{name}.options.freeze_discriminator: there is no discriminator in {options.start}.",
            "Start from a generator's folder that still has its checkpoint-*.pt, or freeze nothing.",
        )


def digest_of_start(path: Path, data: str, split: str) -> str:
    """Digest of weights from elsewhere, for a fit of these data on this split.

    Raises:
        RunError: there are none.
        LeakError: they were fitted on another split of the same data.
    """
    from moulage.checkpoints import weights_digest

    found = weights_digest(path)
    about: dict[str, Any] = runs.read_json(path / FILE) if (path / FILE).exists() else {}
    if about.get("data") == data and about["split_digest"] != split:
        raise LeakError(
            f"{path} was fitted on another split of these data ({about['split_digest']}, not {split}). "
            "It may have seen images that score here.",
            "Start from a fit on the training part of this split, or on other data.",
        )
    return found


def draw(
    folder: Path,
    counts: Mapping[str, int],
    first_seed: int,
    out: Path,
    *,
    drawing: Mapping[str, Any] = types.MappingProxyType({}),
    data: tuple[Prepared, int] | None = None,
    batch_size: int = 1,
    device: str = "cpu",
    progress: runs.Progress = runs.no_progress,
) -> Catalog:
    """Draw images from a finished generator folder: ``counts[c]`` of each class from consecutive seeds.

    ``drawing``: options of drawing of its plug-in; what is left out is as the plug-in has it. Where they change
    training images, these are of ``data``, a run's data and a trial of it; those of the run that the folder lies in, if
    left out. ``batch_size`` images are drawn at once, where that changes none of them.

    Raises:
        RunError: the folder holds no finished generator.
        LeakError: its weights, or what is said of them, are not those of its fit.
        DataError: it never learned a class that is asked for, or there is no image of it to change.
        RecipeError: a wrong option of drawing.
    """
    about = _about(folder, counts)
    plug = contracts.generator(about["plugin"])
    drawing, model = plug.drawing(drawing), load(folder, device, drawing)
    model.batch_size = batch_size
    drawer, chooser = model, None
    if edit := plug.edit(drawing):
        chooser = Chooser(
            *(data or data_of(folder, Generator.load(folder).trial, about["split_digest"])), edit, model.size
        )
        drawer = Editor(model, model.classes, chooser)
    runs.claim(out)
    return draw_into(
        drawer,
        {name: np.arange(first_seed, first_seed + count) for name, count in counts.items()},
        out,
        classes=tuple(about["all_classes"]),
        origin=about["origin"],
        split_digest=about["split_digest"],
        drawing=drawing,
        parents=chooser and chooser.parents,
        series="-".join([about["origin"], *words(plug.changed(drawing))]),
        batch_size=max(BATCH, batch_size),
        progress=progress,
    )


def interpolate(
    folder: Path,
    names: Sequence[str],
    first_seed: int,
    num_rows: int,
    num_steps: int,
    out: Path,
    *,
    drawing: Mapping[str, Any] = types.MappingProxyType({}),
    device: str = "cpu",
    progress: runs.Progress = runs.no_progress,
) -> list[Path]:
    """Write ``out/CLASS.png`` for each class: a row a seed, and in it ``num_steps`` images on the way to the next seed.

    Where neighbours change little, images are not copies of a few that were learned by heart. Raises as ``draw``, and
    ``RecipeError`` where the generator draws nothing between two images.
    """
    about = _about(folder, names)
    plug = contracts.generator(about["plugin"])
    if plug.edit(drawing):
        raise RecipeError("There is nothing between images that are edited from two photographs.", "Draw from noise.")
    runs.claim(out)
    model, drawing = load(folder, device, drawing), plug.drawing(drawing)
    between = contracts.interpolates(model)
    if between is None:
        raise RecipeError(f"{about['plugin']} draws nothing between two images.", "Leave --interpolate out.")
    seeds = np.repeat(np.arange(first_seed, first_seed + num_rows), num_steps)
    shares = np.tile(np.linspace(0, 1, num_steps), num_rows)
    safe, written = safe_names(about["all_classes"]), list[Path]()
    for done, name in enumerate(names, 1):
        images = between.between(about["classes"].index(name), seeds, seeds + 1, shares)
        facts = {"origin": about["origin"], "class": name, "seed": first_seed, "split_digest": about["split_digest"]}
        written.append(out / f"{safe[name]}.png")
        write(written[-1], np.asarray(grid(images, num_steps)), facts | {"drawing": drawing})
        progress(done, len(names), name)
    return written


def _about(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """What ``FILE`` says of a finished generator, which draws these classes."""
    about: dict[str, Any] = runs.read_json(folder / FILE, "classes", "all_classes", "origin", "split_digest", "plugin")
    for name in names:
        if name not in about["classes"]:
            raise DataError(f'{folder} draws {", ".join(about["classes"])}, not "{name}".', "Ask for one of those.")
    return about


def load(folder: Path, device: str, drawing: Mapping[str, Any] = types.MappingProxyType({})) -> Any:
    """The finished generator of a folder, which names its plug-in, told how to draw.

    ``LeakError`` where its files were exchanged.
    """
    runs.prove_files(folder)
    plug = contracts.generator(runs.read_json(folder / FILE)["plugin"])
    model = plug.load(folder, device=device)
    plug.draw_by(model, drawing)
    return model


def words(drawing: Mapping[str, Any]) -> list[str]:
    """Options of drawing as parts of a name: ``guidance=2.0``."""
    return [re.sub(r"[^\w.=+-]+", "_", f"{key}={value}") for key, value in drawing.items()]


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
