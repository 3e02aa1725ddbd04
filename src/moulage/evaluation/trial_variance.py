"""The trial part of a comparison's variance: what the fits add to what the lesions explain."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from moulage.evaluation.alignment import Fits
from moulage.evaluation.lesion_variance import Lesions, by_stratum

NOISY = 0.1
"""Level of the F test by which an arm's fits vary more than those of the other arms."""


@dataclass(frozen=True)
class Trials:
    """What the fits add to the variance of a difference."""

    # arm -> its share of the trial part: v / S, or the excess of its fold scores over lesion noise, over J
    excess: dict[str, float]
    raw: dict[str, float]  # arm -> the same before lesion noise is taken off; its uncertainty is that of the trial part
    noisy: frozenset[str]  # arms whose own variance counts, because it is too large for one that all arms share
    freedom: int  # degrees of freedom of ``raw`` where it is pooled over the arms
    freedom_noisy: int  # of one arm's own
    inner: bool  # whether V_E has to be taken off a difference's excess (a hold-out)
    # arm -> [J] scores of the folds, for Nadeau and Bengio's interval; empty for a hold-out
    scores: dict[str, np.ndarray]

    @classmethod
    def of_holdout(cls, fits: Fits, lesions: Lesions) -> "Trials":
        """v, the variance between the fits: the mean over all arms, or a noisy arm's own."""
        if fits.num_sets < 2:
            return cls({}, {}, frozenset(), 0, 0, True, {})
        found = {name: float(row.var(ddof=1)) / fits.num_sets for name, row in lesions.values.items()}
        own = fits.num_sets - 1
        return cls._shared(found, found, own, len(found) * own, inner=True, scores={})

    @classmethod
    def of_folds(cls, fits: Fits, lesions: Lesions) -> "Trials":
        """Arm x fold variance of fold scores within repeats, less what lesions alone would give it.

        The score of a fold is the repeat's, plus F times what the fold's lesions add to it.
        """
        names, num_folds, num_sets = list(fits.logits), fits.num_folds, fits.num_sets
        assert fits.folds is not None
        first_image = np.unique(fits.lesions, return_index=True)[1]
        influences = np.stack([lesions.influences[name] for name in names])  # [A, L, S]
        added = np.empty((len(names), num_sets, num_folds))
        for a, s in np.ndindex(len(names), num_sets):
            added[a, s] = num_folds * np.bincount(fits.folds[s, first_image], influences[a, :, s], num_folds)
        values = np.stack([lesions.values[name] for name in names])
        scores = dict(zip(names, (values[:, :, None] + added).reshape(len(names), -1), strict=True))
        if len(names) < 2:
            return cls({}, {}, frozenset(), 0, 0, False, scores)
        share = len(names) / (len(names) - 1)  # what centring over the arms takes away
        centred = added - added.mean(axis=0)
        own = num_sets * (num_folds - 1)
        square = share * (centred**2).sum(axis=(1, 2)) / own
        apart = influences - influences.mean(axis=0)
        noise = share * np.array([by_stratum(fits, (row**2).mean(axis=1)).sum() for row in apart])
        raw, excess = (
            dict(zip(names, (part / (num_sets * num_folds)).tolist(), strict=True))
            for part in (square, square - num_folds * noise)
        )
        return cls._shared(raw, excess, own, (len(names) - 1) * own, inner=False, scores=scores)

    @classmethod
    def _shared(cls, raw: dict[str, float], excess: dict[str, float], own: int, pooled: int, **others: Any) -> "Trials":
        """Every arm gets the mean over the arms, but a noisy one its own.

        Noisy is an arm whose ``raw`` exceeds the mean of the others' by more than an F test at ``NOISY`` allows. Taking
        max(own, mean) for every arm instead is too cautious: the larger of the two is too large by luck. ``own`` and
        ``pooled`` are the degrees of freedom of one arm's ``raw``, and of all together.
        """
        from scipy.special import fdtri

        total, noisy = sum(raw.values()), frozenset[str]()
        if len(raw) > 1:
            largest = float(fdtri(own, max(pooled - own, own), 1 - NOISY)) / (len(raw) - 1)
            noisy = frozenset(name for name, value in raw.items() if value > largest * (total - value))

        def shared(part: dict[str, float]) -> dict[str, float]:
            mean = sum(part.values()) / len(part)
            return {name: value if name in noisy else mean for name, value in part.items()}

        return cls(shared(excess), shared(raw), noisy, pooled, own, **others)

    def of(self, arm: str, reference: str) -> tuple[float, float, float]:
        """Of a difference: excess, raw, and the degrees of freedom of raw (Satterthwaite where they differ)."""
        pair = (arm, reference)
        raw = sum(self.raw[name] for name in pair)
        shared = sum(self.raw[name] for name in pair if name not in self.noisy)
        spread = shared**2 / self.freedom
        spread += sum(self.raw[name] ** 2 for name in pair if name in self.noisy) / self.freedom_noisy
        freedom = raw**2 / spread if spread else float(self.freedom)
        return sum(self.excess[name] for name in pair), raw, freedom
