"""Simulated reader tests: how often do the intervals hold the true AUC, and how often is "cannot tell" said wrongly?

    python benchmarks/simulate_readers.py --design 5x60 --studies 1000      five readers, 60 real, 60 generated items
    python benchmarks/simulate_readers.py --all                             all designs of the documentation

The law is that of Roe and Metz (1997) with six steps of confidence, and shares no code with the product: the evidence
that reader j sees in item k is mean + reader (by kind of image) + lesion + reader x lesion, and steps are cut from it
at places that a reader shifts by a bias of their own. The true AUC over readers and lesions is then an integral. A
second generator has the same real items and its own generated ones; it is as good, so that the difference is 0. With
one reader the truth is that reader's own AUC, of which the interval speaks.
"""

import argparse
import os
import re
import time
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from moulage.evaluation.readers.estimates import COVARIANCES, Estimate, Ratings, auc, draw
from moulage.evaluation.readers.obuchowski_rockette import difference, mean

DESIGNS = ("1x30", "1x100", "3x30", "5x30", "5x60", "10x60", "20x30", "10x60x3")
AUCS = (0.5, 0.6, 0.8)
MARGIN = 0.1
CUTS = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
HEAD = (
    "| readers x items (x images of a lesion) | covariance | true AUC | coverage, % | of a difference, % | "
    "p < 0.05 of AUC 0.5, % | within 0.5 ± 0.1, % | median width | no interval |\n" + "| --- " * 9 + "|"
)


@dataclass(frozen=True)
class Law:
    """Standard deviations of the evidence."""

    reader: float = 0.15  # of each reader, for each kind of image; the most that Roe and Metz take
    lesion: float = 0.7  # what all readers see alike
    image: float = 0.3  # of images of one lesion
    noise: float = 0.65  # reader x image, and within a reader
    bias: float = 0.4  # where a reader cuts

    @property
    def spread(self) -> float:
        """Of all but the bias, over readers, lesions and images."""
        return float(np.sqrt(self.reader**2 + self.lesion**2 + self.image**2 + self.noise**2))

    def true_auc(self, mean: float) -> float:
        """Expected AUC of steps of a random reader, by Gauss-Hermite quadrature over the bias."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(60)
        cuts = CUTS[:, None] + mean / 2 + self.bias * nodes
        return float(auc_of_steps(cuts, 0.0, mean, self.spread) @ weights / weights.sum())

    def own_auc(self, mean: float, bias: float, of_real: float, of_generated: float) -> float:
        """Expected AUC of one reader, over lesions and images."""
        spread = float(np.sqrt(self.spread**2 - self.reader**2))
        return float(auc_of_steps((CUTS + mean / 2 + bias)[:, None], of_real, mean + of_generated, spread)[0])


def auc_of_steps(cuts: np.ndarray, real: float, generated: float, spread: float) -> np.ndarray:
    """AUC [B] of normal evidence that is cut into steps at [5, B]."""
    ends = np.zeros((1, cuts.shape[1])), np.ones((1, cuts.shape[1]))
    of_real, of_generated = (
        np.diff(norm.cdf(cuts, at, spread), axis=0, prepend=ends[0], append=ends[1]) for at in (real, generated)
    )
    return (of_generated * (np.cumsum(of_real, axis=0) - of_real / 2)).sum(axis=0)


def ratings(
    law: Law, mean: float, design: tuple[int, int, int], rng: np.random.Generator
) -> tuple[list[list[Ratings]], list[float]]:
    """Of two generators, for each reader, the real items being the same; and the first reader's own AUC of each."""
    readers, items, images = design
    of = np.repeat(np.arange(items), images)
    bias = law.bias * rng.standard_normal(readers)[:, None]

    def steps(at: float, number: np.ndarray, reader: np.ndarray) -> np.ndarray:
        """Of each reader to each image, [R, N]."""
        seen = law.lesion * rng.standard_normal(number.max() + 1)[number] + law.image * rng.standard_normal(len(number))
        seen = at + seen + reader + law.noise * rng.standard_normal((readers, len(number)))
        return np.searchsorted(CUTS + mean / 2, seen - bias) + 1.0

    effects = law.reader * rng.standard_normal((3, readers, 1))
    real = steps(0.0, of, effects[0])
    made = [steps(mean, np.arange(items), effect) for effect in effects[1:]]
    own = [law.own_auc(mean, bias[0, 0], effects[0, 0, 0], effect[0, 0]) for effect in effects[1:]]
    found = [
        [
            Ratings(ours, theirs, items * (1 + g) + np.arange(items), of, 3 * items)
            for ours, theirs in zip(generated, real, strict=True)
        ]
        for g, generated in enumerate(made)
    ]
    return found, own


def run(design: str, covariance: str, true: float, studies: int, seed: int, law: Law) -> str:
    """One row of the table."""
    found = re.fullmatch(r"(\d+)x(\d+)(?:x(\d+))?", design)
    if not found:
        raise SystemExit(f'No design "{design}": READERSxITEMS or READERSxITEMSxIMAGES.')
    shape = int(found[1]), int(found[2]), int(found[3] or 1)
    rng = np.random.default_rng([seed, *shape, round(1000 * true)])
    at = brentq(lambda at: law.true_auc(at) - true, -3.0, 5.0)
    rows = []
    for _ in range(studies):
        weights = draw(np.repeat(np.arange(3), shape[1]), 500, rng) if covariance == "bootstrap" else None
        found, own = ratings(law, at, shape, rng)
        both: list[list[Estimate]] = [[auc(one, covariance, weights) for one in each] for each in found]
        truth, gap = (true, 0.0) if shape[0] > 1 else (own[0], own[0] - own[1])
        one, apart = mean(both[0]), difference(*both)
        if one.low is None or apart.low is None:
            rows.append([np.nan] * 5)
            continue
        rows.append(
            [
                one.low <= truth <= one.high,
                apart.low <= gap <= apart.high,
                one.p_value(0.5) < 0.05,
                one.p_equivalence(0.5, MARGIN) < 0.05,
                one.high - one.low,
            ]
        )
    values = np.array(rows, float)
    shares = [f"{100 * np.nanmean(values[:, column]):.1f}" for column in range(4)]
    lost = f"{np.isnan(values[:, 0]).sum()}"
    return f"| {' | '.join([design, covariance, f'{true:g}', *shares, f'{np.nanmedian(values[:, 4]):.3f}', lost])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--design", default="5x60")
    parser.add_argument("--covariance", default="jackknife", choices=COVARIANCES)
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", type=float, default=Law.reader, help="standard deviation between readers")
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    asked = [(options.design, options.covariance)]
    if options.all:
        asked = [(name, "jackknife") for name in DESIGNS] + [("5x30", "delong"), ("5x30", "bootstrap")]
    print(HEAD)
    start = time.process_time()
    for design, covariance in asked:
        for true in AUCS:
            print(run(design, covariance, true, options.studies, options.seed, Law(options.reader)), flush=True)
    print(f"\n{options.studies} studies a row, {time.process_time() - start:.0f} CPU-s")


if __name__ == "__main__":
    main()
