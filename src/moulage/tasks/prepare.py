"""Read, decode once, audit, split: what every other task starts from."""

import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from moulage import plugins, runs
from moulage.data import masks, metadata
from moulage.data import pixels as pixel_cache
from moulage.data.audit import VERSION as AUDIT_VERSION
from moulage.data.audit import Audit, audit
from moulage.data.catalog import Catalog
from moulage.data.pixels import Pixels
from moulage.data.split import Split, folds, holdout, official, prove, reserve
from moulage.data.steps import Steps
from moulage.errors import DataError, RecipeError, RunError, nearest
from moulage.evaluation.measure_names import resolve
from moulage.recipe import Recipe, parse, to_toml
from moulage.tasks import data_sets
from moulage.tasks.arms import check_arm, check_fidelity, check_metadata, check_selection
from moulage.tasks.masks import with_predicted

PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pillow", "pandas", "pyarrow")
MOST_PAIRS = 60
"""Pairs of near-duplicates that are shown; the audit has all."""


@dataclass(frozen=True)
class Prepared:
    """The data of a run: audited, grouped, split, with their pixels.

    Attributes:
        catalog: the images that passed the audit, with groups joined over duplicates.
        splits: which of them train, validate, test: one split for all trials, or one a trial.
        pixels: decoded pixels; look rows up by name with ``pixels.rows``.
        only: the one trial that was loaded, where the others' splits were not read.
        masks: names the lesion masks where something of the study learns from them; else empty.
    """

    catalog: Catalog
    splits: tuple[Split, ...]
    pixels: Pixels
    only: int | None = None
    masks: str = ""

    def split(self, trial: int) -> Split:
        """The split of a trial: with a hold-out always the same one."""
        if self.only not in (None, trial):
            raise RunError(f"Only the split of trial {self.only} was loaded, not that of trial {trial}.")
        return self.splits[trial if len(self.splits) > 1 else 0]

    @property
    def digest(self) -> str:
        """Digest of everything in the data that can change a result, whatever the split: metadata and pixels."""
        return runs.digest(self.catalog.digest(), self.pixels.folder.name)


WITHOUT_MASKS = "Predict masks with `moulage masks predict` and set data.masks to their folder (docs/masks.md)."


def read(recipe: Recipe) -> Catalog:
    """The recipe's data sets as one catalog, without the classes that stay unknown."""
    return data_sets.join(recipe, parted(recipe)[0])


def parted(recipe: Recipe) -> tuple[Catalog, Catalog]:
    """The main data's images of the classes that are learned, and of those that stay unknown; each with its classes.

    Raises:
        DataError: an unknown class is none of the data's, or fewer than two are left.
    """
    found = data_sets.read_main(recipe)
    if recipe.data.masks:
        found = with_predicted(found, recipe.data.masks)
    unknown = recipe.data.unknown
    for name in unknown:
        if name not in found.classes:
            raise DataError(f'data.unknown: "{name}" is no class of {found.name}.', nearest(name, found.classes))
    known = tuple(name for name in found.classes if name not in unknown)
    if len(known) < 2:
        raise DataError(f"data.unknown leaves {len(known)} class of {found.name}; two are needed to tell apart.")
    if not unknown:
        return found, found.take([])
    return replace(found.only(label=known), classes=known), replace(found.only(label=unknown), classes=unknown)


def check(recipe: Recipe) -> None:
    """Check everything that needs no data: every plug-in exists and takes its options, weights can be loaded.

    Raises:
        RecipeError: naming the place and the nearest valid name.
    """
    data_sets.check(recipe)
    steps_of(recipe)
    chosen = plugins.configure("classifiers", recipe.classifier.plugin, recipe.classifier.options, "classifier.options")
    for name, generator in recipe.generators.items():
        plugins.configure("generators", generator.plugin, generator.options, f"generators.{name}.options")
    check_metadata(recipe)
    check_fidelity(recipe)
    for name in recipe.selections:
        check_selection(recipe, name)
    for name in recipe.arms:
        check_arm(recipe, name)
    module = plugins.load("classifiers", recipe.classifier.plugin)
    if recipe.arms and hasattr(module, "embed_key"):
        module.embed_key(chosen)


def steps_of(recipe: Recipe) -> Steps:
    """The pre-processing that every image of this recipe goes through, checked."""
    return Steps.of([(step.plugin, step.options) for step in recipe.data.steps])


def sizes(recipe: Recipe) -> tuple[int, ...]:
    """The sides in pixels that this recipe asks for: its generators, its classifier, its own list."""
    asked = {*recipe.data.sizes, *(generator.size for generator in recipe.generators.values())}
    if recipe.arms or not asked:
        asked.add(classifier_size(recipe))
    return tuple(sorted(asked))


def classifier_size(recipe: Recipe) -> int:
    """Pixels a side of the images that the classifier is given."""
    return plugins.configure("classifiers", recipe.classifier.plugin, recipe.classifier.options).size


def prepare(
    recipe: Recipe,
    run: Path,
    *,
    num_workers: int = 1,
    progress: runs.Progress = runs.no_progress,
    say: Callable[[str], None] = lambda text: None,
) -> Prepared:
    """Read, decode, audit and split; written into the run folder, and found there again when nothing changed."""
    started = (time.perf_counter(), time.process_time())
    data_sets.check(recipe)
    steps_of(recipe)
    found = read(recipe)
    if steps_of(recipe).use_masks and (found.table["mask"] == "").all():
        raise RecipeError(f"A step of data.steps goes by the lesion mask, and {found.name} has none.", WITHOUT_MASKS)
    _check_classes(recipe, found)
    metadata.check(found, recipe.classifier.metadata)
    say(f"{found.name}: {len(found):,} images, {len(found.classes)} classes")
    pixels = pixels_of(recipe, found, sizes(recipe), num_workers=num_workers, progress=progress)
    report = _audited(found, pixels, run, progress, say)
    _show_pairs(report, found, pixels, sizes(recipe), run)
    catalog = report.clean(found)
    catalog.save(run / "catalog.parquet")
    splits = split_all(recipe, catalog)
    _check_masks(recipe, catalog, splits)
    for number, split in enumerate(splits):
        prove(split, catalog)
        split.save(_split_path(run, number))
    data_sets.save(about := data_sets.summarise(recipe, found, catalog, splits), run)
    for row in about:
        say(f"{row['name']}: {row['num_read']:,} images read, {row['num_set_aside']:,} set aside")
    for path in sorted((run / "splits").glob("*.parquet"))[len(splits) :]:  # of a recipe that had more of them
        path.unlink()
    with runs.atomic(run / "scan.parquet") as temporary:
        pixels.scan.to_parquet(temporary)
    if learns_masks(recipe):
        work = {"num_workers": num_workers, "progress": progress}
        masks.build(masks.with_masks(catalog), classifier_size(recipe), recipe.data.fit, steps=steps_of(recipe), **work)
    about_masks = {"masks": masks.key(catalog, recipe.data.fit)} if wants_masks(recipe) else {}
    runs.write_json(run / "pixels.json", {"folder": str(pixels.folder), "sizes": sizes(recipe), **about_masks})
    _write_recipe(recipe, run)
    runs.write_json(run / "environment.json", environment())
    if not (run / "prepare.json").exists():
        wall, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
        runs.write_json(run / "prepare.json", {"wall_seconds": wall, "cpu_seconds": cpu})
    return Prepared(catalog, splits, pixels, masks=about_masks.get("masks", ""))


def pixels_of(
    recipe: Recipe,
    catalog: Catalog,
    sides: tuple[int, ...],
    *,
    num_workers: int = 1,
    progress: runs.Progress = runs.no_progress,
) -> Pixels:
    """Pixels of any catalog, cut and processed as the recipe says."""
    return pixel_cache.build(
        catalog,
        sides,
        recipe.data.fit,
        runs.cache_folder(),
        steps=steps_of(recipe),
        num_workers=num_workers,
        progress=progress,
    )


def split_all(recipe: Recipe, catalog: Catalog) -> tuple[Split, ...]:
    """The recipe's splits of a catalog: one a trial with folds, else one for all; with the reserve held back."""
    chosen = recipe.split
    if chosen.scheme == "folds":
        splits = folds(
            catalog,
            num_folds=chosen.num_folds,
            num_repeats=chosen.num_repeats,
            validation=chosen.validation,
            seed=chosen.seed,
        )
    elif chosen.scheme == "official":
        splits = (official(catalog, validation=chosen.validation, seed=chosen.seed),)
    else:
        splits = (holdout(catalog, validation=chosen.validation, test=chosen.test, seed=chosen.seed),)
    if not chosen.reserve:
        return splits
    targets = recipe.study.target_classes
    return tuple(reserve(split, catalog, targets, chosen.reserve, chosen.seed) for split in splits)


def _split_path(run: Path, number: int) -> Path:
    return run / "splits" / f"{number:03d}.parquet"


def load(run: Path, trial: int | None = None) -> tuple[Recipe, Prepared]:
    """Recipe and data of a run that ``prepare`` has written; proves again that no group crosses.

    Args:
        run: the run folder.
        trial: read the split of this trial alone; None: those of all.

    Raises:
        RunError: the run was not prepared, or its pixel cache is gone.
        LeakError: the split on disk lets a group cross.
    """
    import tomllib

    if not (run / "recipe.toml").exists():
        raise RunError(f"{run} is no run folder: it has no recipe.toml.", "Name a folder that `moulage study` wrote.")
    recipe = parse(tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8")), where=str(run / "recipe.toml"))
    catalog, several = Catalog.load(run / "catalog.parquet"), recipe.split.scheme == "folds"
    numbers = range(recipe.num_trials if several else 1) if trial is None or not several else [trial]
    splits = tuple(Split.load(_split_path(run, number)) for number in numbers)
    for split in splits:
        prove(split, catalog)
    known = runs.read_json(run / "pixels.json")
    pixels = Pixels(Path(known["folder"]), pd.read_parquet(run / "scan.parquet"))
    return recipe, Prepared(catalog, splits, pixels, trial if several else None, known.get("masks", ""))


def environment() -> dict[str, Any]:
    """Versions and machine, for the report."""
    found = {}
    for package in ("moulage", *PACKAGES):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return {**found, "python": sys.version.split()[0], "platform": platform.platform(), "cpu": _cpu_name()}


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _check_classes(recipe: Recipe, catalog: Catalog) -> None:
    """Every class that the recipe names is one of the data's, and so is what its primary measure needs."""
    named = [("study.target_classes", name) for name in recipe.study.target_classes]
    named += [(f"generators.{g}.classes", name) for g, o in recipe.generators.items() for name in o.classes]
    named += [(f"arms.{a}", name) for a, o in recipe.arms.items() for name in (*o.add, *o.ratio)]
    for place, name in named:
        if name not in catalog.classes:
            raise DataError(f'{place}: "{name}" is no class of {catalog.name}.', nearest(name, catalog.classes))
    if recipe.arms:
        for name in (recipe.study.primary, *recipe.study.measures):
            resolve(name, catalog.labels, catalog.classes, recipe.study.target_classes)


def needs_masks(generator: ModuleType) -> bool:
    """Whether a generator plug-in draws from lesion masks."""
    return getattr(generator, "NEEDS_MASKS", False)


def learns_masks(recipe: Recipe) -> bool:
    """Whether the recipe's classifier learns lesion masks as a second task."""
    module = plugins.load("classifiers", recipe.classifier.plugin)
    config = plugins.configure("classifiers", recipe.classifier.plugin, recipe.classifier.options, "classifier.options")
    return bool(recipe.arms) and hasattr(module, "learns_masks") and module.learns_masks(config)


def wants_masks(recipe: Recipe) -> bool:
    """Whether a generator or the classifier learns from lesion masks, beside steps that only look at them."""
    generators = (plugins.load("generators", options.plugin) for options in recipe.generators.values())
    return learns_masks(recipe) or any(map(needs_masks, generators))


def _check_masks(recipe: Recipe, catalog: Catalog, splits: tuple[Split, ...]) -> None:
    """Every training image of a generator that draws from masks has one, and some of a classifier that learns them."""
    for split in splits if learns_masks(recipe) else ():
        if (split.part(catalog, "train").table["mask"] == "").all():
            raise RecipeError(
                f"classifier.options.mask_task learns lesion masks, and {catalog.name} has none of a training image.",
                WITHOUT_MASKS,
            )
    for name, options in recipe.generators.items():
        for split in splits if needs_masks(plugins.load("generators", options.plugin)) else ():
            try:
                masks.check(split.part(catalog, "train").only(label=options.classes))
            except DataError as error:
                raise RecipeError(
                    f"generators.{name}: {options.plugin} draws from lesion masks. {error.message}",
                    "Use data that come with masks, such as the source ham10000, or leave this generator out.",
                ) from None


def _audited(catalog: Catalog, pixels: Pixels, run: Path, progress: runs.Progress, say: Callable[[str], None]) -> Audit:
    """The audit of these pixels and labels, from the run folder where it was made before."""
    key = runs.digest(AUDIT_VERSION, catalog.digest(), pixels.folder.name)
    marker, path = run / "audit.key", run / "audit.json"
    if path.exists() and marker.exists() and marker.read_text(encoding="utf-8") == key:
        return Audit.load(path)
    say("auditing: duplicates, groups, labels")
    report = audit(catalog, pixels, progress)
    report.save(path)
    runs.write_text(marker, key)
    return report


def _show_pairs(report: Audit, catalog: Catalog, pixels: Pixels, sides: tuple[int, ...], run: Path) -> None:
    """Near-duplicates to look at: a numbered sheet, ``pairs.png``, and what its numbers are, ``pairs.json``.

    First those under different lesions that were joined, then those that were not; copies within a lesion are no news.
    """
    groups = dict(zip(catalog.images, catalog.groups, strict=True))
    labels = dict(zip(catalog.images, catalog.table["label"], strict=True))
    news = [pair for pair in report.pairs if groups[pair.first] != groups[pair.second]]
    shown = sorted(news, key=lambda pair: not pair.accepted)[:MOST_PAIRS]
    facts = [
        {"number": i, **asdict(pair), "first_label": labels[pair.first], "second_label": labels[pair.second]}
        for i, pair in enumerate(shown, 1)
    ]
    runs.write_json(run / "pairs.json", facts)
    if shown:
        rows = pixels.rows([name for pair in shown for name in (pair.first, pair.second)])
        array = pixels.array(min(sides, key=lambda side: abs(side - 64)))
        with runs.atomic(run / "pairs.png") as temporary:
            pair_sheet(array[rows].reshape(len(shown), 2, *array.shape[1:])).save(temporary, "PNG")


def pair_sheet(pairs: np.ndarray, tile: int = 72, num_columns: int = 6) -> Image.Image:
    """Numbered pairs of uint8 images [N, 2, S, S, 3], each pair side by side, ``num_columns`` pairs a row."""
    gap, num_rows = 6, -(-len(pairs) // num_columns)
    sheet = Image.new("RGB", (num_columns * (2 * tile + 2 * gap), num_rows * (tile + 3 * gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, pair in enumerate(pairs):
        left, top = (number % num_columns) * (2 * tile + 2 * gap), (number // num_columns) * (tile + 3 * gap)
        pen.text((left, top), str(number + 1), fill="black")
        for side, image in enumerate(pair):
            sheet.paste(Image.fromarray(image).resize((tile, tile)), (left + side * (tile + 1), top + 2 * gap))
    return sheet


def _write_recipe(recipe: Recipe, run: Path) -> None:
    """Keep the resolved recipe; an older, different one stays beside it under its digest."""
    path, text = run / "recipe.toml", to_toml(recipe.model_dump(mode="json"))
    if path.exists() and (old := path.read_text(encoding="utf-8")) != text:
        runs.write_text(run / f"recipe-{runs.digest(old)}.toml", old)
    runs.write_text(path, text)
