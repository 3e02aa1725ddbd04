"""Which monotone curve should the worth of added images be read from? Isotonic regression against a power law.

    python benchmarks/choose_worth_curve.py --studies 3000

Scores of arms are drawn as normals of a known covariance (real doses a chain, the arm with generated images related to
the arm that adds nothing), for curves of several shapes. Both ways invert the same t test, of the arm's score less the
curve's: *isotonic* joins neighbours that fall and is straight between the doses, over the log of all images; *power* is
the least-squares a - b (images + photographs)^-c with b, c >= 0, linearised where it fits best. Worths are in multiples
of the real images. Coverage is of the studies whose largest dose is shown to be better than nothing, as in the product.
"""

import argparse
from itertools import pairwise

import numpy as np
from scipy.special import stdtrit

DOSES = np.array([0, 0.25, 0.5, 1, 2, 4])
NUM = len(DOSES)
FREEDOM = 25
CRITICAL = stdtrit(FREEDOM, 0.975)
SHAPES = {
    "power, -0.5": lambda x: (1 - (1 + x) ** -0.5) / (1 - 5**-0.5),
    "power, -0.15": lambda x: (1 - (1 + x) ** -0.15) / (1 - 5**-0.15),
    "saturating": lambda x: (1 - np.exp(-2 * x)) / (1 - np.exp(-8)),
    "S-shaped": lambda x: x**2 / (x**2 + 1) * 17 / 16,
    "late": lambda x: np.where(x < 1, 0.1 * x, 0.1 + 0.3 * (x - 1)),
}
GAINS = (3, 6)
"""Gain of the largest dose in standard errors of the difference of two independent arms."""
WORTHS = (0, 0.1, 0.375, 1.4, 3)
GRID = np.unique(np.concatenate([np.linspace(*ends, 30) for ends in pairwise(DOSES)]))


def covariance() -> np.ndarray:
    """Of the doses and the arm with generated images, [D + 1, D + 1]."""
    places = np.log1p(DOSES)
    found = np.eye(NUM + 1)
    found[:NUM, :NUM] = np.exp(-np.abs(places[:, None] - places))
    found[NUM, :NUM] = found[:NUM, NUM] = 0.3 * found[0, :NUM]
    return found


COVARIANCE = covariance()


def distances(scores: np.ndarray, noise: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """t of the arm less the curve, whose values are ``curve`` [G, D] times the doses' scores: [n, G]."""
    contrast = np.concatenate([-curve, np.ones((len(curve), 1))], axis=1)
    errors = np.sqrt(np.einsum("ga,ab,gb->g", contrast, COVARIANCE, contrast))
    return scores @ contrast.T / errors / noise


def isotonic(scores: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """t along the grid, [n, G]; studies of like blocks have one contrast."""
    sums = np.concatenate([np.zeros((len(scores), 1)), scores[:, :NUM].cumsum(axis=1)], axis=1)
    fitted = np.empty((len(scores), NUM))
    for i in range(NUM):  # max-min formula
        means = [[(sums[:, k + 1] - sums[:, j]) / (k + 1 - j) for k in range(i, NUM)] for j in range(i + 1)]
        fitted[:, i] = np.max([np.min(row, axis=0) for row in means], axis=0)
    straight = np.stack([np.interp(np.log1p(GRID), np.log1p(DOSES), row) for row in np.eye(NUM)], axis=1)
    found, flat = np.empty((len(scores), len(GRID))), np.diff(fitted, axis=1) < 1e-12
    for pattern in np.unique(flat, axis=0):
        which, block = (flat == pattern).all(axis=1), np.concatenate([[0], np.cumsum(~pattern)])
        mean = (block[:, None] == block).astype(float)
        found[which] = distances(scores[which], noise[which], straight @ (mean / mean.sum(axis=1, keepdims=True)))
    return found


def power(scores: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """The same; the curve's error counts that of its exponent, its value is that of the best exponent."""
    real, found = scores[:, :NUM], np.empty((len(scores), len(GRID)))
    exponents, squares, maps = np.geomspace(0.02, 4, 40), [], []
    for c in exponents:
        line, grid = (np.stack([np.ones(len(x)), -((1 + x) ** -c)], axis=1) for x in (DOSES, GRID))
        slope, on_grid = ((1 + x) ** -c * np.log1p(x) for x in (DOSES, GRID))
        solve = np.linalg.pinv(line)
        fits = real @ solve.T
        squares.append(np.where(fits[:, 1] > 0, ((real - fits @ line.T) ** 2).sum(axis=1), np.inf))
        whole = np.linalg.pinv(np.concatenate([line, slope[:, None]], axis=1))
        maps.append((grid @ solve, np.concatenate([grid, on_grid[:, None]], axis=1) @ whole))
    best = np.argmin(squares, axis=0)
    for c in np.unique(best):
        which, (value, spread) = best == c, maps[c]
        t = distances(scores[which], noise[which], value)
        errors = []
        for curve in (value, spread):
            contrast = np.concatenate([-curve, np.ones((len(curve), 1))], axis=1)
            errors.append(np.sqrt(np.einsum("ga,ab,gb->g", contrast, COVARIANCE, contrast)))
        found[which] = t * errors[0] / errors[1]
    return found


def summary(t: np.ndarray, worth: float) -> tuple[float, float]:
    """Coverage in percent, and mean width up to the largest dose."""
    inside = np.abs(t) <= CRITICAL
    inside[:, 0] |= t[:, 0] < 0
    low = np.where(inside.any(axis=1), GRID[inside.argmax(axis=1)], DOSES[-1])
    last = np.where(inside.any(axis=1), GRID[len(GRID) - 1 - inside[:, ::-1].argmax(axis=1)], 0)
    high = np.where(t[:, -1] > -CRITICAL, np.inf, last)
    covered = (low <= worth + 1e-3) & (high >= worth - 1e-3)
    return 100 * float(covered.mean()), float((np.minimum(high, DOSES[-1]) - low).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=3000)
    options = parser.parse_args()
    rng, root = np.random.default_rng(1), np.linalg.cholesky(COVARIANCE)
    ways = {"isotonic": isotonic, "power": power}
    heads = ["shape", "gain, standard errors", "true worth", *(f"{way}: coverage, %; width" for way in ways)]
    print(f"| {' | '.join(heads)} |\n" + "| --- " * len(heads) + "|")
    for shape, curve in SHAPES.items():
        for gain in GAINS:
            for worth in WORTHS:
                truth = gain * np.sqrt(2) * np.append(curve(DOSES), curve(np.array(float(worth))))
                scores = truth + rng.standard_normal((options.studies, NUM + 1)) @ root.T
                noise = np.sqrt(rng.chisquare(FREEDOM, options.studies) / FREEDOM)[:, None]
                ends = COVARIANCE[0, 0] + COVARIANCE[NUM - 1, NUM - 1] - 2 * COVARIANCE[0, NUM - 1]
                rises = (scores[:, NUM - 1] - scores[:, 0]) / np.sqrt(ends) / noise[:, 0] > CRITICAL
                found = [summary(way(scores[rises], noise[rises]), worth) for way in ways.values()]
                cells = [shape, str(gain), f"{worth:g}", *(f"{cover:.1f}; {width:.2f}" for cover, width in found)]
                print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
