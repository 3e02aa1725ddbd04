"""Simulated studies with curves over dose: how often does the interval of a worth hold the true number of photographs?

    python benchmarks/simulate_worth.py --design holdout-3 --studies 1000     one design, a row for each true worth
    python benchmarks/simulate_worth.py --overview                            all designs that are there

Designs: ``holdout-S`` (S fits of every arm on one test part) and ``folds-R`` (five folds, R repeats). What a number of
photographs does is drawn here, and shares nothing with the product's statistics. A photograph of a test lesion is a
point in a space of features: its class + lesion + photograph. An arm sees it with errors (of the lesion, of the
photograph, of the classifier's weights in each fit) that shrink with the photographs that it was trained on as a power
law, so that an arm of quality q scores what q photographs give, by construction and under any measure: that is the true
worth. Doses nest: the errors of neighbouring doses are the more alike the nearer they are. Arms with generated images
share a part of their errors, since one generator drew for all of them, and a part with the arm that adds nothing.
Studies are appended to a file; the same command goes on where it stopped. Delete it where the inference has changed.
"""

import os
import re
from dataclasses import dataclass, replace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from moulage.evaluation.alignment import align
from moulage.evaluation.predictions import Predictions
from moulage.evaluation.worth import RealCurve
from simulate_studies import NUM_FOLDS, PHOTOGRAPHS, deal, go_on, parser, read

CLASSES = ("MEL", "NV", "BCC", "BKL")
TARGETS = ("BCC", "BKL")
LESIONS = (200, 500, 140, 110)
"""Test lesions of each class in a hold-out; in folds, where each is tested, twice as many."""
NUM_REAL = 100
DOSES = (0.25, 0.5, 1.0, 2.0, 4.0)
WORTHS = (0.0, 0.1, 0.6, 2.5, 8.0)
"""True worths of the arms with generated images, in multiples of the real images; the last is beyond all doses."""
NUM_FEATURES = 8
MEASURE = "mean_average_precision"


@dataclass(frozen=True)
class Law:
    """Standard deviations without added photographs, in logits; how they shrink, and what arms share."""

    class_distance: float = 0.75  # between the centres of classes, by feature
    lesion: float = 0.7
    photograph: float = 0.5
    arm_lesion: float = 1.4  # how an arm sees a lesion, and a photograph, otherwise
    arm_photograph: float = 0.9
    fit_photograph: float = 0.3
    weights: float = 0.12  # errors of one fit's weights
    trial_weights: float = 0.1  # those that all arms of a trial share, whatever they add
    exponent: float = 0.35  # errors shrink as (images + photographs) ** -exponent
    nesting: float = 0.7  # doses whose images differ by a factor e share errors with this correlation
    generated: float = 0.5  # correlation of two arms of one generator beyond what they share with no images added


@dataclass(frozen=True)
class Design:
    """What is fitted how often."""

    kind: str  # holdout or folds
    number: int  # fits, or repeats of the folds
    law: Law = Law()

    @classmethod
    def of(cls, name: str, **changes: float) -> "Design":
        found = re.fullmatch(r"(holdout|folds)-(\d+)", name)
        if not found:
            raise SystemExit(f'No design "{name}": holdout-S or folds-R.')
        return cls(found[1], int(found[2]), replace(Law(), **changes))

    @property
    def num_folds(self) -> int:
        return NUM_FOLDS if self.kind == "folds" else 1


ARMS = ("none", *(f"real-{dose}" for dose in DOSES), *(f"generated-{worth}" for worth in WORTHS))


def mixing(law: Law) -> np.ndarray:
    """Root of the arms' covariance, [A, A]: each arm's error is a row of it times independent errors.

    Errors of real doses are a chain over the log of all images. Those of arms with generated images have a part of the
    error without images added, as large as a real dose of the same worth has it, and one that is their own.
    """
    places = np.log1p(np.array((0.0, *DOSES)))
    of_worths = np.log1p(np.array(WORTHS))
    corr = np.eye(len(ARMS))
    rate = -np.log(law.nesting)
    real = len(places)
    corr[:real, :real] = np.exp(-rate * np.abs(places[:, None] - places))
    kept = np.exp(-rate * np.maximum(of_worths, 0.5))  # correlation with the arm that adds nothing
    corr[real:, :real] = kept[:, None] * corr[0, :real]
    corr[:real, real:] = corr[real:, :real].T
    left = np.sqrt(1 - kept**2)
    own = kept[:, None] * kept + law.generated * left[:, None] * left
    np.fill_diagonal(own, 1.0)
    corr[real:, real:] = own
    sizes = np.exp(-law.exponent * np.concatenate([places, of_worths]))
    values, vectors = np.linalg.eigh(sizes[:, None] * corr * sizes)
    return (vectors * np.sqrt(np.maximum(values, 0))).astype(np.float32)


def draw(design: Design, rng: np.random.Generator) -> dict[str, list[Predictions]]:
    """One study: the fits of all arms."""
    law, mix = design.law, mixing(design.law)
    sizes = np.array(LESIONS) * (2 if design.kind == "folds" else 1)
    classes = np.repeat(np.arange(len(CLASSES)), sizes)
    lesion = np.repeat(np.arange(len(classes)), rng.choice(PHOTOGRAPHS[0], len(classes), p=PHOTOGRAPHS[1]))
    labels, count = classes[lesion], len(lesion)

    def normal(sigma: float, *shape: int) -> np.ndarray:
        return np.float32(sigma) * rng.standard_normal(shape, np.float32)

    def of_arms(sigma: float, *shape: int) -> np.ndarray:
        """Errors that are related between arms as ``mixing`` says, [A, ...]."""
        return (mix @ normal(sigma, len(mix), int(np.prod(shape)))).reshape(-1, *shape)

    centres = law.class_distance * np.random.default_rng(7).standard_normal((len(CLASSES), NUM_FEATURES), np.float32)
    points = centres[labels] + normal(law.lesion, len(classes), NUM_FEATURES)[lesion]
    points += normal(law.photograph, count, NUM_FEATURES)
    spread = law.lesion**2 + law.photograph**2
    bias = np.log(sizes / sizes.sum()) - (centres**2).sum(axis=1) / 2 / spread
    common = points @ centres.T / np.float32(spread) + bias.astype(np.float32)
    seen = of_arms(law.arm_lesion, len(classes), len(CLASSES))[:, lesion]
    seen += of_arms(law.arm_photograph, count, len(CLASSES)) + common
    points = np.concatenate([points, np.ones((count, 1), np.float32)], axis=1)
    names, groups = np.array([f"i{i}" for i in range(count)], object), np.array([f"l{j}" for j in lesion], object)
    arms: dict[str, list[Predictions]] = {arm: [] for arm in ARMS}
    folds = np.stack([deal(classes, design.num_folds, rng) for _ in range(design.number)])[:, lesion]
    rows = [np.flatnonzero(fold == f) for fold in folds for f in range(design.num_folds)]
    for trial, held in enumerate(rows):
        errors = of_arms(law.weights, NUM_FEATURES + 1, len(CLASSES))
        errors += normal(law.trial_weights, NUM_FEATURES + 1, len(CLASSES))
        logits = seen[:, held] + points[held] @ errors + of_arms(law.fit_photograph, len(held), len(CLASSES))
        about = {"classes": CLASSES, "part": "test", "split_digest": f"trial {trial}", "trial": trial}
        about |= {"images": names[held], "groups": groups[held], "labels": labels[held]}
        for arm, of in zip(ARMS, logits, strict=True):
            arms[arm].append(Predictions(logits=of, arm=arm, **about))
    return arms


def run_study(design: Design, seed: int, study: int) -> dict[str, Any]:
    """For each true worth the estimate and the interval, in multiples of the real images; whether the curve rises."""
    arms = draw(design, np.random.default_rng([seed, study]))
    doses = {"none": 0} | {f"real-{dose}": round(dose * NUM_REAL) for dose in DOSES}
    curve = RealCurve.of(align(arms), MEASURE, TARGETS, doses, NUM_REAL)
    rows = [[curve.estimate(arm), *curve.interval(arm)] for arm in ARMS[1 + len(DOSES) :]]
    found = [[None if value is None else round(value / NUM_REAL, 4) for value in row] for row in rows]
    scores = [round(curve.score(arm), 5) for arm in ARMS]
    return {"study": study, "rises": curve.rises, "worths": found, "scores": scores}


def table(name: str, studies: list[dict[str, Any]]) -> str:
    """A row for each true worth: how often the interval holds it, and what it is like."""
    told = [one for one in studies if one["rises"]]
    values = np.array([one["worths"] for one in told], float)  # None is NaN: above the largest dose
    scores = np.array([one["scores"] for one in studies])
    lines = []
    for worth, (estimate, low, high) in zip(WORTHS, values.transpose(1, 2, 0), strict=True):
        above, below = low > worth + 1e-3, np.nan_to_num(high, nan=np.inf) < worth - 1e-3
        coverage = 1 - (above | below).mean()
        error = np.sqrt(coverage * (1 - coverage) / len(told))
        middle = np.nanmedian(np.where(np.isnan(estimate), np.inf, estimate))
        width = np.median(np.where(np.isnan(high), DOSES[-1], high) - low)
        shares = (f"{100 * np.mean(which):.1f}" for which in (above, below, low > 0, high == 0, np.isnan(high)))
        coverage = f"{100 * coverage:.1f} ({100 * error:.1f})"
        cells = [name, f"{worth:g}", str(len(told)), coverage, *shares, f"{middle:.2f}", f"{width:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    gain = scores[:, len(DOSES)] - scores[:, 0]
    lines.append(f"\n{name}: {len(studies)} studies, {100 * len(told) / len(studies):.0f} % of the curves rise; ")
    lines[-1] += f"gain of the last dose {100 * gain.mean():.1f} points, it varies by {100 * gain.std():.2f}; "
    lines[-1] += f"without images {100 * scores[:, 0].mean():.1f}"
    return "\n".join(lines)


HEAD = (
    "| design | true worth | studies | coverage, % | interval above it, % | below it, % | low end above 0, % | "
    "none, % | more than the study can see, % | median estimate | median width |\n" + "| --- " * 11 + "|"
)


def main() -> None:
    arguments = parser(__doc__, "runs/simulated-worth")
    arguments.add_argument("--law", nargs="*", default=[], metavar="NAME=NUMBER", help="other numbers of the law")
    options = arguments.parse_args()
    if options.overview:
        print("\n".join([HEAD, *(table(file.stem, read(file)) for file in sorted(options.out.glob("*.jsonl")))]))
        return
    changes = dict(change.split("=") for change in options.law)
    design = Design.of(options.design, **{name: float(value) for name, value in changes.items()})
    name = " ".join([options.design, *options.law])
    studies = go_on(
        options.out / f"{name}.jsonl", options.studies, lambda study: run_study(design, options.seed, study)
    )
    print("\n".join([HEAD, table(name, studies)]))


if __name__ == "__main__":
    main()
