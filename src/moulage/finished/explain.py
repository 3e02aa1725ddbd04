"""Shows what a finished study's classifiers looked at, and which test images an arm changed most."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from moulage import runs
from moulage.contracts import explains
from moulage.data import neighbours, png
from moulage.data.catalog import REAL, Catalog
from moulage.errors import RecipeError, RunError, nearest
from moulage.finished.choosing import choose, tabulate
from moulage.finished.run import Finished
from moulage.results import Results
from moulage.runs import seed_of
from moulage.stages.classifier import Classifier
from moulage.stages.plan import plan
from moulage.stages.stored import pixels_of
from moulage.stages.trained import Trained

VERSION = 1
"""Raise it when the same classifiers would give other pictures."""
FOLDER = "explanations"
NUM_NEIGHBOURS = 3
CHUNK = 32
"""Test images whose maps are made between two writes to disk."""
MOST = 24
"""Images of a kind at most."""
SHUFFLED = ("head", "network")
NUM_DRAWS = 3
"""Random orders of the weights that a map is compared with."""


def explain(
    run: Path,
    *,
    arm: str = "",
    against: str = "",
    trial: int = 0,
    num_images: int = 6,
    device: str = "auto",
    progress: runs.Progress = runs.no_progress,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Choose test images, and draw what one or two arms' classifiers of a trial looked at in them.

    Nothing is trained, and no prediction made anew: images are chosen from the saved predictions of the test part.
    Pictures go to ``<run>/explanations/<arm>-<trial>-<hash>/``, with a JSON file for each image that is done, so that
    an interrupted call goes on; ``summary.json``, which the report shows, has a record of all that was explained.

    Args:
        arm: the first with generated images if left out, else the reference alone.
        against: the arm that it is compared with; if left out the one that adds nothing, else the best rival.
        num_images: of each kind, at most.

    The record that is returned is read as a ``results.explanations.Explanation``. ``RunError``: the study is not
    finished, its results are another recipe's, or captum is not installed. ``RecipeError``: there is no such arm or
    trial, or ``num_images`` is out of bounds.
    """
    if not 1 <= num_images <= MOST:
        raise RecipeError(f"{num_images} images of a kind were asked for.", f"Ask for 1 to {MOST}.")
    done = Finished.load(run)
    study, folders = done.recipe.study, {(fit.arm, fit.trial): fit.folder for fit in done.results.fits}
    arm, against = _arms(done.results, arm, against)
    names = [name for name in (arm, against) if name]
    _check_trial(folders, names, trial)
    say(f"{arm}, trial {trial}" + (f", against {against}" if against else ""))
    table, change = tabulate(run, folders, names, trial)
    seed = seed_of(study.seed, FOLDER, arm, trial)
    groups = choose(table, arm, against, change["num_fits"], study.target_classes, num_images, seed)
    own = [folders[name, trial] for name in names]
    if not set(own) <= {stage.folder for stage in plan(done.recipe, done.prepared)}:
        raise RunError(f"The results in {run} are those of another recipe.", "Run `moulage study` with it again.")
    fits = {name: next(s for s in done.stages if (s.name, s.trial) == (name, trial)) for name in names}
    shown = table.loc[list(dict.fromkeys(image for group in groups for image in group.images))]
    beside = {image for group in groups if group.beside for image in group.images}
    key = runs.digest(VERSION, runs.FORMAT, own, shown.to_json(), sorted(beside))
    folder = f"{FOLDER}/{arm}-{trial}-{key}"
    with runs.lock(run / FOLDER):
        records = _Drawer(done, fits, run / folder, device).draw(shown, beside, progress)
        record = {"arm": arm, "against": against, "trial": trial, "folder": folder, "fits": own, "size": done.size}
        record |= {
            "cells": {of["arm"]: of["cells"] for of in records[0]["arms"]},
            "no_maps": records[0]["no_maps"],
            "num_images": len(table),
            "num_lesions": int(table["group"].nunique()),
            "change": change,
            "checks": _checks(records),
            "groups": [asdict(group) for group in groups],
            "images": records,
        }
        _add_to_summary(run / FOLDER / "summary.json", record)
    return record


def _check_trial(folders: Iterable[tuple[str, int]], names: Iterable[str], trial: int) -> None:
    for name in names:
        trials = sorted(number for arm, number in folders if arm == name)
        if trial not in trials:
            raise RecipeError(f'The arm "{name}" has no trial {trial}.', f"Valid: {', '.join(map(str, trials))}.")


def _arms(results: Results, arm: str, against: str) -> tuple[str, str]:
    """The arm to explain and the one it is compared with, empty for none."""
    known = {of.name: of for of in results.arms}
    for name in filter(None, (arm, against)):
        if name not in known:
            raise RecipeError(f'The study has no arm "{name}".', nearest(name, known))
    plain = [name for name, of in known.items() if of.role == "reference" and of.balance == "none"]
    rival = results.best_rival.arm if results.best_rival else ""
    reference = against or next(iter(plain), rival)
    synthetic = [name for name, of in known.items() if of.role == "synthetic"]
    chosen = arm or next(iter(synthetic), reference) or next(iter(known))
    if against and chosen == against:
        raise RecipeError(f'The arm "{chosen}" would be compared with itself.', "Name another with --against.")
    return chosen, reference if reference != chosen else ""


class _Drawer:
    """Pictures of test images, of what classifiers looked at in them, and of the generated images most like them.

    ``fits``: arm -> its classifier; generated images are those of the first.
    """

    def __init__(self, done: Finished, fits: dict[str, Classifier], folder: Path, device: str) -> None:
        self.done, self.fits, self.folder, self.device = done, fits, folder, device
        self.real, self.pixels = pixels_of(done.prepared, done.run, "", done.size)

    def draw(self, shown: pd.DataFrame, beside: set[str], progress: runs.Progress) -> list[dict[str, Any]]:
        """The record of each image, in order; those that are on the disk are not drawn again.

        ``shown`` are rows of ``tabulate``, ``beside`` the images that are shown beside generated ones.
        """
        from moulage.randomness import reproducible

        paths = {image: self.folder / f"{number:03d}.json" for number, image in enumerate(shown.index)}
        left = [image for image, path in paths.items() if not path.exists()]
        fits = self.fits if left else {}
        with reproducible():
            loaded = {name: Trained.load(self.done.run / of.folder, self.device) for name, of in fits.items()}
            found: dict[str, list[dict[str, Any]]] = {}
            for start in range(0, len(left), CHUNK):
                chunk = shown.loc[left[start : start + CHUNK]]
                own = _taken(self.done.prepared.catalog, chunk.index.tolist())
                pixels = self.pixels[pd.Index(self.real.images).get_indexer(chunk.index)]
                maps = _Maps(loaded, pixels, own, chunk)
                found = found or self._neighbours(next(iter(loaded.values())), [i for i in left if i in beside])
                for row, image in enumerate(chunk.index):
                    record = self._one(paths[image].stem, row, chunk.iloc[row], maps)
                    runs.write_json(paths[image], {**record, "neighbours": found.get(image, [])})
                progress(start + len(chunk), len(left), "images explained")
        return [runs.read_json(path) for path in paths.values()]

    def _one(self, number: str, row: int, of: pd.Series, maps: "_Maps") -> dict[str, Any]:
        """Write the pictures of one image; what is to be said of them."""
        image = maps.pixels[row]
        arms = []
        for order, name in enumerate(self.fits):
            predicted, drawn = of[f"predicted:{name}"], []
            for label in dict.fromkeys((of["label"], predicted)) if not maps.missing else ():
                is_true = label == of["label"]
                heat = maps.heat[name, is_true][row]
                about = f"Grad-CAM of the classifier {name} for the class {label}"
                file = f"{number}-{order}-{'true' if is_true else 'predicted'}.png"
                self._write(file, overlay(image, heat), about)
                drawn.append({"label": label, "file": file, "is_empty": bool((heat <= 0).all())})
            arms.append(
                {
                    "arm": name,
                    "predicted": predicted,
                    "probability": float(of[f"of_predicted:{name}"]),
                    "probability_true": float(of[f"of_true:{name}"]),
                    "cells": maps.cells.get(name, 0),
                    "maps": drawn,
                    "checks": {part: maps.correlation(name, part, row) for part in SHUFFLED} if drawn else {},
                }
            )
        change = float(of["change"]) if "change" in of and np.isfinite(of["change"]) else None
        file = f"{number}.png"
        self._write(file, image, f"Test image {of.name} as the classifiers see it")
        facts = {"image": of.name, "lesion": of["group"], "label": of["label"], "change": change, "file": file}
        return {**facts, "no_maps": maps.missing, "arms": arms}

    def _write(self, name: str, pixels: np.ndarray, about: str) -> None:
        png.write(self.folder / name, pixels, {"Description": about, "Software": "moulage"})

    def _neighbours(self, trained: Trained, images: list[str]) -> dict[str, list[dict[str, Any]]]:
        """For each image the first arm's generated training images that are nearest in its classifier's features."""
        prepared, run, stage = self.done.prepared, self.done.run, trained.stage
        extra = stage.extra(prepared, run)
        extra = extra.take((extra.table["origin"] != REAL).to_numpy() & ~extra.table["image"].duplicated().to_numpy())
        if not images or not len(extra):
            return {}
        inputs, own = stage.inputs(prepared, run), _taken(prepared.catalog, images)
        lent = stage.with_metadata(extra, prepared.part(stage.trial, "train"))
        queries, among = (trained.features(inputs, catalog) for catalog in (own, lent))
        distances, rows = neighbours.nearest_rows(queries, among, min(NUM_NEIGHBOURS, len(extra)))
        drawn, pixels = pixels_of(prepared, run, stage.samples_folder, self.done.size)
        places = pd.Index(drawn.images).get_indexer(pd.Index(extra.images))
        found: dict[str, list[dict[str, Any]]] = {image: [] for image in images}
        for number in np.unique(rows):
            name, file = str(extra.images[number]), f"generated-{number:05d}.png"
            self._write(file, pixels[places[number]], f"Generated image {name}")
            facts = {"image": name, "label": str(extra.table["label"].iloc[number]), "file": file}
            for query, column in zip(*np.nonzero(rows == number), strict=True):
                found[images[query]].append({**facts, "distance": float(distances[query, column])})
        return {image: sorted(near, key=lambda each: each["distance"]) for image, near in found.items()}


class _Maps:
    """What classifiers (by arm) looked at in images: pixels uint8 [n, S, S, 3], rows of catalog and of ``tabulate``."""

    def __init__(self, trained: dict[str, Trained], pixels: np.ndarray, catalog: Catalog, shown: pd.DataFrame) -> None:
        self.pixels = pixels
        self.missing = ""  # why there are no maps
        # (arm, whether it is for the true class, else the predicted one) -> float32 [n, S, S] in -1..1
        self.heat: dict[tuple[str, bool], np.ndarray] = {}
        self.cells: dict[str, int] = {}  # arm -> cells a side
        self.shuffled: dict[tuple[str, str], list[np.ndarray]] = {}
        for name, of in trained.items():
            model = explains(of.model)
            if model is None:
                self.missing = f"The classifier {of.stage.plugin} tells of no places in an image."
                return
            classes, columns = pd.Index(catalog.classes), ("label", f"predicted:{name}")
            true, predicted = (classes.get_indexer(pd.Index(shown[column])) for column in columns)
            attention, known = model.attention, of.encode(catalog)
            try:
                self.heat[name, True], self.cells[name] = attention(pixels, true, **known)
            except RecipeError as error:
                self.missing = f"{error.message} {error.hint}"
                return
            self.heat[name, False] = attention(pixels, predicted, **known)[0]
            for part in SHUFFLED:
                self.shuffled[name, part] = [
                    attention(pixels, predicted, shuffled=part, draw=draw, **known)[0] for draw in range(NUM_DRAWS)
                ]

    def correlation(self, arm: str, part: str, row: int) -> float | None:
        """Of the predicted class's map with those of shuffled weights: Spearman's over the pixels of an image, the mean
        over the draws; None where a map is constant in all.
        """
        own = self.heat[arm, False][row]
        return _mean(_spearman(own, heat[row]) for heat in self.shuffled[arm, part])[0]


def _mean(values: Iterable[float | None]) -> tuple[float | None, int]:
    """Mean and number of those that are known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None, len(known)


def _spearman(one: np.ndarray, other: np.ndarray) -> float | None:
    """Of two maps in -1..1, without the digits that rounding decides; None where one is constant."""
    from scipy.stats import spearmanr

    one, other = one.round(3), other.round(3)
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    found: Any = spearmanr(one.ravel(), other.ravel())
    return float(found.statistic)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """What speaks for a class, the positive part of a map float [S, S], over an image uint8 [S, S, 3] in grey.

    The same shape and type: violet where the map is 0 or less, yellow where it is largest.
    """
    from matplotlib import colormaps

    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None]
    positive = np.maximum(heat, 0)
    colours = 255 * colormaps["viridis"](positive / max(float(positive.max()), 1e-30))[..., :3]
    return (0.5 * grey + 0.5 * colours).round().astype(np.uint8)


def _taken(catalog: Catalog, images: list[str]) -> Catalog:
    """These images of a catalog, in this order."""
    return catalog.take(pd.Index(catalog.images).get_indexer(pd.Index(images)))


def _checks(records: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Arm -> shuffled part -> mean rank correlation (None for no map) and number of maps."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for number, arm in enumerate(of["arm"] for of in records[0]["arms"]):
        for part in SHUFFLED:
            mean, num_maps = _mean(record["arms"][number]["checks"].get(part) for record in records)
            found.setdefault(arm, {})[part] = {"mean": mean, "num_maps": num_maps}
    return found


def _add_to_summary(path: Path, record: dict[str, Any]) -> None:
    """Put a record in place of an older one of the same arm, reference and trial, or behind the others."""
    same = ("arm", "against", "trial")
    known = runs.read_json(path, "explanations")["explanations"] if path.exists() else []
    others = [each for each in known if any(each[key] != record[key] for key in same)]
    runs.write_json(path, {"format": runs.FORMAT, "explanations": [*others, record]})
