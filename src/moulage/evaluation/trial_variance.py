"""The trial part of a comparison's variance: what the fits add to what the lesions explain.

All arms of a trial share seed, start and order, so that what a trial does to all of them alike is no part of a
difference: deviations are centred over the arms. Apart from that pool stand arms that never vary (every fit is the
same to the last bit, as of a classifier whose optimum is unique), whose part is exactly 0, and *noisy* ones, whose
fits vary more than those of the others.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from moulage.evaluation.alignment import Fits
from moulage.evaluation.lesion_variance import Contrast, Lesions, by_stratum, weighted_sum

NOISY = 0.05
"""Level of the F test by which an arm's fits vary more than those of the other arms."""
FEWEST_POOLED = 3
"""With fewer arms than this, none is told from the others, and none lends its variance to another."""
ROUNDING = 1e-9
"""Weights that add up to less than this add up to 0."""


@dataclass(frozen=True)
class Part:
    """The trial part of the squared standard error of a contrast of arms."""

    raw: float  # before lesion noise is taken off it
    freedom: float  # degrees of freedom of ``raw``, whose uncertainty is that of the part
    noise: float  # what the lesions alone give ``raw``


NOTHING = Part(0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Trials:
    """How the fits of all arms vary under one measure; J is S fits of a hold-out, or R F scores of repeated folds."""

    fits: Fits
    lesions: Lesions
    decided: bool = False  # whether the measure is of the classes that are said; of the logits otherwise

    @cached_property
    def deviations(self) -> dict[str, np.ndarray]:
        """Arm -> [J]: values of the fits less their mean; of folds, F times what the fold's lesions add to a repeat's.

        The latter sum to 0 in each repeat. Linearised, a fold with three lesions of a class still has a score.
        """
        fits, lesions = self.fits, self.lesions
        if fits.folds is None:
            return {name: row - row.mean() for name, row in lesions.values.items()}
        held = fits.folds[:, np.unique(fits.lesions, return_index=True)[1]]  # [S, L]
        number = fits.num_folds
        return {
            name: np.concatenate([number * np.bincount(f, u, number) for f, u in zip(held, rows.T, strict=True)])
            for name, rows in lesions.influences.items()
        }

    @property
    def own(self) -> int:
        """Degrees of freedom of one arm."""
        fits = self.fits
        return fits.num_sets - 1 if fits.folds is None else fits.num_sets * (fits.num_folds - 1)

    @cached_property
    def copies(self) -> dict[str, tuple[int, ...]]:
        """Arm -> how often each of its different fits stands there, for arms of a hold-out in which some are copies."""
        if self.fits.folds is not None:
            return {}
        counts = {name: tuple(len(rows) for rows in self.fits.same(name)) for name in self.fits.logits}
        return {name: found for name, found in counts.items() if len(found) < self.fits.num_sets}

    @cached_property
    def pool(self) -> tuple[str, ...]:
        """Arms that share one variance. The noisiest leaves, one after another, while an F test tells it.

        Of the others the variance is known with (A - 2) ``own`` degrees of freedom, A arms with it; the arm's
        deviations from the mean of the others have A / (A - 1) times that variance, independently. Two arms that
        predict the same in every trial count once.
        """
        from scipy.special import fdtrc

        inside = [name for name in self.fits.originals(self.decided) if name not in self.copies]
        while len(inside) >= FEWEST_POOLED and self.own:
            chance: dict[str, float] = {}
            for name in inside:
                others = np.stack([self.deviations[other] for other in inside if other != name])
                freedom = (len(others) - 1) * self.own
                theirs = _square(others) / freedom
                mine = ((self.deviations[name] - others.mean(axis=0)) ** 2).sum() / self.own
                ratio = mine * len(others) / (len(others) + 1) / theirs if theirs else np.where(mine > 0, np.inf, 0.0)
                chance[name] = float(fdtrc(self.own, freedom, ratio)) if mine else 1.0
            noisiest = min(chance, key=chance.__getitem__)
            if chance[noisiest] >= NOISY:
                break
            inside.remove(noisiest)
        return tuple(inside)

    def part(self, contrast: Contrast, interaction: float) -> Part:
        """Of a contrast of arms; ``interaction``: its V_E, which is the lesion noise of a hold-out's fits.

        Arms of the pool have its variance, centred over the arms. Where some of the contrast's weight is on arms that
        never vary, what a trial does to all arms of the pool is not taken away, and counts too. A contrast with a noisy
        arm has the variance of its own values.
        """
        weights = self._of_originals(contrast)
        moving = {name: weight for name, weight in weights.items() if len(self.copies.get(name, (1, 1))) > 1}
        if not moving or not self.own:
            return NOTHING
        if any(name in self.copies for name in moving):
            return self._of_copies(moving, interaction)
        own, size = self.own, len(self.pool)
        total, squares = sum(moving.values()), sum(weight**2 for weight in moving.values())
        pooled = all(name in self.pool for name in moving)
        if pooled and abs(total) < ROUNDING:
            variance, noise = self._of_pool
            return self._scaled(squares * variance, (size - 1) * own, interaction, squares * noise)
        if pooled and size >= FEWEST_POOLED:
            mean = np.mean([self.deviations[name] for name in self.pool], axis=0)
            shared, apart = total**2 * float((mean**2).sum()) / own, (squares - total**2 / size) * self._of_pool[0]
            spread = shared**2 / own + apart**2 / ((size - 1) * own)
            freedom = (shared + apart) ** 2 / spread if spread else own
            return self._scaled(shared + apart, freedom, interaction, self._within(weights))
        alone = float((weighted_sum(weights, self.deviations) ** 2).sum())
        return self._scaled(alone / own, own, interaction, self._within(weights))

    def _original(self, name: str) -> str:
        return self.fits.original(name, self.decided)

    def _of_originals(self, contrast: Contrast) -> dict[str, float]:
        """The same contrast of arms of which no two predict the same; without those whose weights cancel out."""
        weights: dict[str, float] = {}
        for name, weight in contrast.items():
            original = self._original(name)
            weights[original] = weights.get(original, 0.0) + weight
        return {name: weight for name, weight in weights.items() if abs(weight) > ROUNDING}

    @cached_property
    def _of_pool(self) -> tuple[float, float]:
        """Variance of one arm's deviations, centred over the pool; and what the lesions alone give it in folds."""
        number = len(self.pool)
        centred = [dict.fromkeys(self.pool, -1 / number) | {name: 1 - 1 / number} for name in self.pool]
        variance = _square(np.stack([self.deviations[name] for name in self.pool])) / self.own / (number - 1)
        return variance, sum(self._within(weights) for weights in centred) / (number - 1)

    def _within(self, weights: Contrast) -> float:
        """What the lesions alone give the variance of a contrast's scores in folds."""
        if self.fits.folds is None:
            return 0.0
        influence = weighted_sum(weights, self.lesions.influences)  # [L, S]
        return self.fits.num_folds * float(by_stratum(self.fits, (influence**2).mean(axis=1)).sum())

    def _scaled(self, raw: float, freedom: float, interaction: float, within: float) -> Part:
        """From the variance of one score to that of the mean."""
        number = self.fits.num_trials
        return Part(raw / number, float(freedom), interaction if self.fits.folds is None else within / number)

    def _of_copies(self, moving: Contrast, interaction: float) -> Part:
        """Fits that are copies of others are no further fits: each arm's variance from its different ones alone."""
        raw = spread = 0.0
        for name, weight in moving.items():
            counts = np.array(self.copies.get(name, (1,) * self.fits.num_sets))
            different = [rows[0] for rows in self.fits.same(name)]
            part = self.lesions.values[name][different].var(ddof=1) * (counts**2).sum() / counts.sum() ** 2
            raw, spread = raw + weight**2 * part, spread + (weight**2 * part) ** 2 / (len(counts) - 1)
        return Part(float(raw), float(raw**2 / spread) if spread else 1.0, interaction)


def _square(rows: np.ndarray) -> float:
    """Sum of squares of rows [A, J] about their mean over the A arms."""
    return float(((rows - rows.mean(axis=0)) ** 2).sum())
