"""A second simulation of studies, which shares nothing with the product's statistics, nor with ``simulate.py``.

    python benchmarks/simulate_studies.py --design holdout-3 --studies 1000          one design, a row for each measure
    python benchmarks/simulate_studies.py --overview                                 a row for each finished design

Designs: ``holdout-S`` (S fits of every arm on one test part), ``folds-R`` (five folds, R repeats), ``identical-S`` (as
``holdout-S``, with a classifier that gives the same fit for the same rows: the reference and two arms never vary, a
third predicts what the reference does, seven vary by what they add), and ``noisy-S`` (one arm's fits vary four times
as much). Each has a reference and ten arms that are equal to it in truth.

A photograph is a point in a space of features: centre of its class + lesion + photograph. A classifier is a linear
head, and a fit is that head with errors in its weights: what seed and order of a trial do to all arms alike, and what
the fit does alone. An arm sees each lesion and photograph a little otherwise. So fits err together on like lesions,
where ``simulated.py`` adds independent numbers to logits. The product is asked by ``moulage.compare_models`` alone, as
a user's own predictions would be. Studies are appended to a file; the same command goes on where it stopped. Delete
the file where the inference has changed.
"""

import argparse
import gc
import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

import moulage
from moulage.evaluation.predictions import Predictions

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
IMAGES = (4522, 12875, 3323, 867, 2624, 239, 253, 628)
"""Images of each class in ISIC-2019; a study has the same shares."""
PHOTOGRAPHS = ((1, 2, 3, 4, 6), (0.55, 0.22, 0.12, 0.06, 0.05))
"""Photographs of a lesion, and how often there are so many."""
TARGETS = ("AK", "SCC")
MEASURES = ("balanced_accuracy", "mean_average_precision", "average_precision:AK", "recall:AK")
NUM_ARMS = 10
NUM_FOLDS = 5
NUM_FEATURES = 12


@dataclass(frozen=True)
class Law:
    """Standard deviations; weights in units of a logit, for a lesion one deviation away from its class."""

    centre: float = 0.55  # of the classes' centres, by feature
    lesion: float = 0.75
    photograph: float = 0.5
    trial: float = 0.1  # errors of the weights that all arms of a trial share
    fit: float = 0.08  # errors of one fit's own
    arm_lesion: float = 0.35  # how an arm sees a lesion, and a photograph, otherwise: logits
    arm_photograph: float = 0.35
    fit_photograph: float = 0.2


LAW = Law()


@dataclass(frozen=True)
class Design:
    """What is fitted how often."""

    kind: str  # holdout, folds, identical or noisy
    number: int  # fits, or repeats of the folds
    num_images: int

    @classmethod
    def of(cls, name: str, num_images: int | None = None) -> "Design":
        found = re.fullmatch(r"(holdout|folds|identical|noisy)-(\d+)", name)
        if not found:
            raise SystemExit(f'No design "{name}": holdout-S, folds-R, identical-S or noisy-S.')
        return cls(found[1], int(found[2]), num_images or (6000 if found[1] == "folds" else 3000))

    @property
    def num_folds(self) -> int:
        return NUM_FOLDS if self.kind == "folds" else 1


def heads(rng: np.random.Generator, number: int, own: float, shared: np.ndarray | None) -> np.ndarray:
    """Errors of weights and biases, [number, F + 1, K]."""
    found = own * rng.standard_normal((number, NUM_FEATURES + 1, len(CLASSES)), np.float32)
    return found if shared is None else found + shared


def draw(design: Design, rng: np.random.Generator) -> dict[str, list[Predictions]]:
    """One study: the fits of the reference and of ten arms that are equal to it in truth."""
    sizes = np.maximum(2, np.rint(np.array(IMAGES) * design.num_images / sum(IMAGES) / 1.89)).astype(int)
    classes = np.repeat(np.arange(len(CLASSES)), sizes)
    lesion = np.repeat(np.arange(len(classes)), rng.choice(PHOTOGRAPHS[0], len(classes), p=PHOTOGRAPHS[1]))
    labels, count = classes[lesion], len(lesion)

    def normal(sigma: float, *shape: int) -> np.ndarray:
        return np.float32(sigma) * rng.standard_normal(shape, np.float32)

    centres = LAW.centre * np.random.default_rng(7).standard_normal((len(CLASSES), NUM_FEATURES), np.float32)
    points = centres[labels] + normal(LAW.lesion, len(classes), NUM_FEATURES)[lesion]
    points += normal(LAW.photograph, count, NUM_FEATURES)
    spread = LAW.lesion**2 + LAW.photograph**2
    prior = np.log(np.array(IMAGES) / sum(IMAGES))
    whole = np.concatenate([centres.T, (spread * prior / 2 - (centres**2).sum(axis=1) / 2)[None]]) / spread
    points = np.concatenate([points, np.ones((count, 1), np.float32)], axis=1)
    common, total = points @ whole.astype(np.float32), design.number * design.num_folds
    shared = None if design.kind == "identical" else heads(rng, total, LAW.trial, None)
    folds = np.stack([deal(classes, design.num_folds, rng) for _ in range(design.number)])[:, lesion]
    rows = [np.flatnonzero(fold == f) for fold in folds for f in range(design.num_folds)]
    names, groups = np.array([f"i{i}" for i in range(count)], object), np.array([f"l{j}" for j in lesion], object)
    arms: dict[str, list[Predictions]] = {}
    for arm in ("reference", *(f"arm{number}" for number in range(1, NUM_ARMS + 1))):
        mine = common + normal(LAW.arm_lesion, len(classes), len(CLASSES))[lesion]
        mine += normal(LAW.arm_photograph, count, len(CLASSES))
        if design.kind == "identical" and arm == "arm3":
            arms[arm] = [predictions(arm, p.trial, names, groups, labels, p.logits) for p in arms["reference"]]
            continue
        still = design.kind == "identical" and arm in ("reference", "arm1", "arm2")
        loud = 4.0 if design.kind == "noisy" and arm == "arm1" else 1.0
        errors = loud * heads(rng, total, LAW.fit, shared)
        arms[arm] = []
        for trial, held in enumerate(rows):
            logits = mine[held]
            if not still:
                logits = logits + points[held] @ errors[trial] + normal(LAW.fit_photograph, len(held), len(CLASSES))
            arms[arm].append(predictions(arm, trial, names[held], groups[held], labels[held], logits))
    return arms


def deal(classes: np.ndarray, num_folds: int, rng: np.random.Generator) -> np.ndarray:
    """The fold of each lesion: in any order, class by class, in turn."""
    order = np.lexsort((rng.random(len(classes)), classes))
    found = np.empty(len(classes), np.int64)
    found[order] = np.arange(len(classes)) % num_folds
    return found


def predictions(
    arm: str, trial: int, names: np.ndarray, groups: np.ndarray, labels: np.ndarray, logits: np.ndarray
) -> Predictions:
    about = {"classes": CLASSES, "part": "test", "split_digest": f"trial {trial}"}
    return Predictions(images=names, groups=groups, labels=labels, logits=logits, arm=arm, trial=trial, **about)


KEPT = ("difference", "standard_error", "low", "high", "p_value", "degrees_of_freedom", "variance_trials")


def run_study(design: Design, seed: int, study: int) -> dict[str, Any]:
    """Measure -> rows of ``KEPT`` by arm, and which arms were called better after Holm's correction."""
    arms = draw(design, np.random.default_rng([seed, study]))
    found = moulage.compare_models(
        arms, reference="reference", measures=MEASURES, targets=TARGETS, smallest_effect=1e-9
    )
    rows: dict[str, Any] = {measure: [] for measure in MEASURES}
    for row in found["comparisons"]:
        numbers = [None if row[name] is None else float(f"{row[name]:.6g}") for name in KEPT]
        rows[row["measure"]].append([*numbers, row["reading"] == "better", row["estimate_reference"]])
    return {"study": study, "rows": rows}


def summary(design: Design, studies: list[dict[str, Any]], measure: str) -> list[dict[str, Any]]:
    """One row for each kind of arm: coverage of its true difference, the mean over the studies (0 for null arms)."""
    values = np.array([one["rows"][measure] for one in studies], float)
    kinds = {"": range(NUM_ARMS)}
    if design.kind == "identical":
        kinds = {"never varies, as the reference": range(2), "varies": range(3, NUM_ARMS)}
    elif design.kind == "noisy":
        kinds = {"noisy": range(1), "the others": range(1, NUM_ARMS)}
    rows = []
    for kind, arms in kinds.items():
        difference, error, low, high, p_value, freedom, trials, *_ = values[:, list(arms)].transpose(2, 0, 1)
        equal = kind in ("", "never varies, as the reference", "the others")
        truth = 0.0 if equal else float(np.nanmean(difference))
        outside = (low > truth) | (high < truth)
        each = 1 - np.nanmean(np.where(np.isnan(low), np.nan, outside), axis=1)
        rows.append(
            {
                "arms": kind,
                "coverage": 100 * float(np.nanmean(each)),
                "error": 100 * float(np.nanstd(each) / np.sqrt(len(each))),
                "better": 100
                * float(((p_value < 0.05) & (difference > truth) & outside).sum() / (~np.isnan(low)).sum()),
                "family": 100 * float((values[:, :, 7] > 0).any(axis=1).mean()),
                "ratio": float(np.sqrt(np.nanmean(error**2)) / np.sqrt(np.nanmean((difference - truth) ** 2))),
                "freedom": float(np.nanmedian(freedom)),
                "trials": float(np.nanmean(trials) / np.nanmean(error**2)),
                "spread": 100 * float(np.nanmean((difference - truth) ** 2) ** 0.5),
                "level": 100 * float(np.nanmean(values[:, 0, 8])),
                "no interval": int(np.isnan(low).sum()),
            }
        )
    return rows


def table(name: str, studies: list[dict[str, Any]]) -> str:
    lines = []
    for measure in MEASURES:
        for row in summary(Design.of(name), studies, measure):
            lines.append(
                f"| {name} | {measure} {row['arms']} | {len(studies)} | {row['coverage']:.1f} ({row['error']:.1f}) | "
                f"{row['better']:.1f} | {row['family']:.1f} | {row['ratio']:.2f} | {row['freedom']:.0f} | "
                f"{row['trials']:.2f} | {row['spread']:.2f} | {row['level']:.1f} | {row['no interval']} |"
            )
    return "\n".join(lines)


HEAD = (
    "| design | measure | studies | coverage, % | false better, % | family, % | standard error / true | degrees of "
    "freedom | share of the trials | spread, points | value | no interval |\n" + "| --- " * 12 + "|"
)


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")] if file.exists() else []


def parser(words: str | None, out: str) -> argparse.ArgumentParser:
    """Of the options that the simulations of studies share."""
    found = argparse.ArgumentParser(description=words, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--design", default="holdout-3")
    found.add_argument("--studies", type=int, default=1000)
    found.add_argument("--seed", type=int, default=0)
    found.add_argument("--out", type=Path, default=Path(out), help="a folder")
    found.add_argument("--overview", action="store_true", help="only the table of what is there")
    return found


def go_on(file: Path, number: int, make: Callable[[int], dict[str, Any]]) -> list[dict[str, Any]]:
    """The first studies in a file, which is filled up to this number."""
    file.parent.mkdir(parents=True, exist_ok=True)
    done, start, spent = len(read(file)), time.monotonic(), time.process_time()
    gc.freeze()  # statsmodels collects garbage in every correction
    with file.open("a") as stream:
        for study in range(done, number):
            stream.write(json.dumps(make(study)) + "\n")
            stream.flush()
            each = (time.process_time() - spent) / (study + 1 - done)
            if study % 10 == 9:
                left = (time.monotonic() - start) / (study + 1 - done) * (number - study - 1) / 60
                print(f"\r{study + 1} studies, {each:.2f} CPU-s each, {left:.0f} min left  ", end="", file=sys.stderr)
    return read(file)[:number]


def main() -> None:
    arguments = parser(__doc__, "runs/simulated-studies")
    arguments.add_argument("--images", type=int, help="of the test part; 3,000 if left out, folds 6,000")
    options = arguments.parse_args()
    if options.overview:
        print("\n".join([HEAD, *(table(file.stem, read(file)) for file in sorted(options.out.glob("*.jsonl")))]))
        return
    file, design = options.out / f"{options.design}.jsonl", Design.of(options.design, options.images)
    studies = go_on(file, options.studies, lambda study: run_study(design, options.seed, study))
    print("\n".join([HEAD, table(options.design, studies)]))


if __name__ == "__main__":
    main()
