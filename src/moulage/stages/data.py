"""Read, decode once, audit, split: what every stage starts from."""

import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moulage import contracts, runs, sheets
from moulage import recipe as recipes
from moulage.data import data_sets, masks, metadata
from moulage.data import pixels as pixel_cache
from moulage.data.audit import VERSION as AUDIT_VERSION
from moulage.data.audit import Audit, audit
from moulage.data.catalog import Catalog
from moulage.data.filters import Filters
from moulage.data.pixels import Pixels
from moulage.data.reserve import hold_back, make_scarce
from moulage.data.split import Split, folds, holdout, official, prove
from moulage.errors import DataError, MoulageError, RecipeError, RunError, nearest
from moulage.evaluation.measure_names import resolve
from moulage.recipe import Recipe, to_toml
from moulage.registration import versions
from moulage.stages.mask_needs import WITHOUT_MASKS, check_masks, learns_masks, wants_masks

PACKAGES = ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn", "pillow", "pandas", "pyarrow")
RECIPE = "recipe.toml"
SPLITS = "splits"
PIXELS = "pixels.json"
"""Where the decoded pixels lie, and how they were made."""
MOST_PAIRS = 60
"""Pairs of near-duplicates that are shown; the audit has all."""


@dataclass(frozen=True)
class Prepared:
    """The data of a run: audited, grouped, split, with their pixels."""

    catalog: Catalog  # the images that passed the audit, with groups joined over duplicates
    splits: tuple[Split, ...]  # which of them train, validate, test: one split for all trials, or one a trial
    pixels: Pixels  # decoded pixels; look rows up by name with ``pixels.rows``
    framing: str  # how images that are not square became square: ``squash``, ``crop`` or ``pad``
    filters: Filters  # the pre-processing that every image went through
    masks: str = ""  # names the lesion masks where something of the study learns from them; else empty
    only: int | None = None  # the one trial that was loaded, where the others' splits were not read
    # those that were asked for already
    parts: dict[tuple[str, str], Catalog] = field(
        default_factory=dict[tuple[str, str], Catalog], repr=False, compare=False
    )

    @classmethod
    def load(cls, run: Path, trial: int | None = None) -> "Prepared":
        """What ``prepare`` wrote; proves again that no group crosses.

        Args:
            run: the run folder.
            trial: read the split of this trial alone; None: those of all.

        Raises:
            RunError: the run was not prepared, or its pixel cache is gone.
            LeakError: the split on disk lets a group cross.
        """
        catalog, paths = Catalog.load(run / "catalog.parquet"), sorted((run / SPLITS).glob("*.parquet"))
        several = len(paths) > 1
        splits = tuple(
            Split.load(path) for path in (paths if trial is None or not several else paths[trial : trial + 1])
        )
        for split in splits:
            prove(split, catalog)
        known = runs.read_json(run / PIXELS, "folder", "framing", "masks", "filters")
        with runs.reading(run / "scan.parquet"):
            pixels = Pixels(Path(known["folder"]), pd.read_parquet(run / "scan.parquet"))
        with runs.reading(run / PIXELS):
            filters = Filters.of([(name, options) for name, options in known["filters"]])
        return cls(catalog, splits, pixels, known["framing"], filters, known["masks"], trial if several else None)

    def split(self, trial: int) -> Split:
        """The split of a trial: with a hold-out always the same one."""
        if self.only not in (None, trial):
            raise RunError(f"Only the split of trial {self.only} was loaded, not that of trial {trial}.")
        return self.splits[trial if len(self.splits) > 1 else 0]

    def part(self, trial: int, name: str) -> Catalog:
        """A part of a trial's split; looked up once."""
        split = self.split(trial)
        if (key := (split.digest, name)) not in self.parts:
            self.parts[key] = split.part(self.catalog, name)
        return self.parts[key]

    def images(self, catalog: Catalog, size: int) -> np.ndarray:
        """Pixels uint8 [N, size, size, 3] of some of the real images."""
        return self.pixels.array(size)[self.pixels.rows(catalog.images)]

    @cached_property
    def digest(self) -> str:
        """Digest of everything in the data that can change a result, whatever the split: metadata and pixels."""
        return runs.digest(self.catalog.digest, self.pixels.folder.name)

    @cached_property
    def digests(self) -> dict[str, str]:
        """Digests: ``labels`` (and all that is known of the images), ``images`` (their bytes), ``parts``."""
        rows = self.pixels.rows(self.catalog.images)
        contents = dict(zip(self.catalog.images, self.pixels.scan["sha256"].to_numpy(object)[rows], strict=True))
        parts = [split.digest for split in self.splits]
        return {"labels": self.catalog.digest, "images": runs.digest(contents), "parts": runs.digest(parts)}


def read(recipe: Recipe) -> Catalog:
    """The recipe's data sets as one catalog, without the classes that stay unknown."""
    return data_sets.join(recipe, parted(recipe)[0])


def parted(recipe: Recipe) -> tuple[Catalog, Catalog]:
    """The main data's images of the classes that are learned, and of those that stay unknown; each with its classes.

    Raises:
        DataError: an unknown class is none of the data's, none is left, or a classifier has fewer than two to tell.
    """
    found = data_sets.read_main(recipe)
    if recipe.data.masks:
        found = masks.with_predicted(found, recipe.data.masks)
    unknown = recipe.data.unknown
    for name in unknown:
        if name not in found.classes:
            raise DataError(f'data.unknown: "{name}" is no class of {found.name}.', nearest(name, found.classes))
    known = tuple(name for name in found.classes if name not in unknown)
    if len(known) < (2 if recipe.arms else 1):
        held = f"data.unknown leaves {len(known)} of" if unknown else "There is one class in"
        raise DataError(f"{held} {found.name}: {', '.join(known) or 'none'}.", "A classifier needs two or more.")
    if not unknown:
        return found, found.take([])
    return replace(found.only(label=known), classes=known), replace(found.only(label=unknown), classes=unknown)


def filters_of(recipe: Recipe) -> Filters:
    """The pre-processing that every image of this recipe goes through, checked."""
    return Filters.of([(chosen.plugin, chosen.options) for chosen in recipe.data.steps])


def sizes(recipe: Recipe) -> tuple[int, ...]:
    """The sides in pixels that this recipe asks for: its generators, its classifier, its own list."""
    asked = {*recipe.data.sizes, *(generator.size for generator in recipe.generators.values())}
    if recipe.arms or not asked:
        asked.add(classifier_size(recipe))
    return tuple(sorted(asked))


def classifier_size(recipe: Recipe) -> int:
    """Pixels a side of the images that the classifier is given."""
    return contracts.classifier(recipe.classifier.plugin).configure(recipe.classifier.options).size


def prepare(
    recipe: Recipe,
    run: Path,
    *,
    num_workers: int = 1,
    progress: runs.Progress = runs.no_progress,
    say: Callable[[str], None] = lambda text: None,
) -> Prepared:
    """Read, decode, audit and split; written into the run folder, and found there again when nothing changed.

    Where the audited data cannot be split, ``say`` tells what the audit found before the error is raised.
    """
    started = (time.perf_counter(), time.process_time())
    if (run / PIXELS).exists():
        with runs.reading(run / PIXELS):
            runs.check_format(runs.read_json(run / PIXELS).get("format", 1), run)
    data_sets.check(recipe)
    filters_of(recipe)
    found = read(recipe)
    if filters_of(recipe).use_masks and (found.table["mask"] == "").all():
        raise RecipeError(f"A step of data.steps goes by the lesion mask, and {found.name} has none.", WITHOUT_MASKS)
    _check_classes(recipe, found)
    metadata.check(found, recipe.classifier.metadata)
    say(f"{found.name}: {len(found):,} images, {len(found.classes)} class{'es' * (len(found.classes) != 1)}")
    pixels = pixels_of(recipe, found, sizes(recipe), num_workers=num_workers, progress=progress)
    report = _audited(found, pixels, run, progress, say)
    _show_pairs(report, found, pixels, sizes(recipe), run)
    catalog, splits = _split(recipe, found, report, run, say)
    data_sets.save(about := data_sets.summarise(recipe, found, catalog, splits), run)
    for row in about:
        say(f"{row['name']}: {row['num_read']:,} images read, {row['num_set_aside']:,} set aside")
    with runs.atomic(run / "scan.parquet") as temporary:
        pixels.scan.to_parquet(temporary)
    if learns_masks(recipe):
        masks.build(
            masks.with_masks(catalog),
            classifier_size(recipe),
            recipe.data.fit,
            filters=filters_of(recipe),
            num_workers=num_workers,
            progress=progress,
        )
    known_masks = masks.key(catalog, recipe.data.fit) if wants_masks(recipe) else ""
    named = [[step.plugin, step.options] for step in recipe.data.steps]
    made = {"format": runs.FORMAT, "framing": recipe.data.fit, "filters": named, "masks": known_masks}
    runs.write_json(run / PIXELS, {"folder": str(pixels.folder), "sizes": sizes(recipe), **made})
    _write_recipe(recipe, run)
    runs.write_json(run / "environment.json", environment())
    if not (run / "prepare.json").exists():
        wall, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
        runs.write_json(run / "prepare.json", {"wall_seconds": wall, "cpu_seconds": cpu})
    return Prepared(catalog, splits, pixels, recipe.data.fit, filters_of(recipe), known_masks)


def _split(
    recipe: Recipe, found: Catalog, report: Audit, run: Path, say: Callable[[str], None]
) -> tuple[Catalog, tuple[Split, ...]]:
    """What the audit left of the data, and its splits; both are written, and proved to let no group cross."""
    try:
        catalog = report.clean(found)
        splits = split_all(recipe, catalog)
        check_masks(recipe, catalog, splits)
        for split in splits:
            prove(split, catalog)
    except MoulageError:
        for finding in report.findings:
            say(f"audit, {finding.severity}: {finding.message} {finding.advice}".strip())
        raise
    catalog.save(run / "catalog.parquet")
    for number, split in enumerate(splits):
        split.save(run / SPLITS / f"{number:03d}.parquet")
    for path in sorted((run / SPLITS).glob("*.parquet"))[len(splits) :]:  # of a recipe that had more of them
        path.unlink()
    return catalog, splits


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
        filters=filters_of(recipe),
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
    if chosen.scarcity:
        return tuple(make_scarce(split, catalog, recipe.scarcity, chosen.seed) for split in splits)
    if not chosen.reserve:
        return splits
    targets = recipe.study.target_classes
    return tuple(hold_back(split, catalog, targets, chosen.reserve, chosen.seed) for split in splits)


def recipe_of(run: Path) -> Recipe:
    """The recipe of a run that ``prepare`` has written; ``RunError`` where there is none."""
    if not (run / RECIPE).exists():
        raise RunError(f"{run} is no run folder: it has no {RECIPE}.", "Name a folder that `moulage study` wrote.")
    return recipes.load(run / RECIPE)


def load(run: Path) -> tuple[Recipe, Prepared]:
    """Recipe and data of such a run; see ``Prepared.load``."""
    return recipe_of(run), Prepared.load(run)


def environment() -> dict[str, Any]:
    """Versions and machine, for the report."""
    return {
        **versions("moulage", *PACKAGES),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu": _cpu_name(),
    }


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


def _audited(catalog: Catalog, pixels: Pixels, run: Path, progress: runs.Progress, say: Callable[[str], None]) -> Audit:
    """The audit of these pixels and labels, from the run folder where it was made before."""
    from_source = [asdict(finding) for finding in catalog.findings]
    of_masks = masks.key(masks.with_masks(catalog), "")
    key = runs.digest(AUDIT_VERSION, catalog.digest, pixels.folder.name, from_source, of_masks)
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
        pairs = [
            [(str(i), array[first]), ("", array[second])] for i, (first, second) in enumerate(rows.reshape(-1, 2), 1)
        ]
        with runs.atomic(run / "pairs.png") as temporary:
            sheets.paint({"": pairs}, 72, 6).save(temporary, "PNG")


def _write_recipe(recipe: Recipe, run: Path) -> None:
    """Keep the resolved recipe; an older, different one stays beside it under its digest."""
    path, text = run / RECIPE, to_toml(recipe)
    if path.exists() and (old := path.read_text(encoding="utf-8")) != text:
        runs.write_text(run / f"recipe-{runs.digest(old)}.toml", old)
    runs.write_text(path, text)
