"""Keeps images at random: the control that every other rule has to beat.

Where a rule helps no more than this one, with as many images drawn and kept, its opinion of images is worth nothing
here.
"""

import numpy as np

from moulage.plugins import Options
from moulage.selection import ImageSet, Judgement
from moulage.selection._space import Share, highest, how_many


class Config(Options):
    """How many are kept."""

    share: Share = None


def select(
    config: Config, candidates: ImageSet, reference: ImageSet, want: dict[str, int], rng: np.random.Generator
) -> Judgement:
    """Keep those with the highest lots; score: the lot, uniform in 0..1."""
    judged = Judgement.undecided(len(candidates))
    for label, rows in candidates.by_class():
        lots, number = rng.random(len(rows)), how_many(config.share, len(rows), want.get(label, 0))
        reasons = [f"{number} of {len(rows)} were kept by lot, and it drew {lot:.3f}." for lot in lots]
        judged.say(rows, highest(lots, number), lots, reasons)
    return judged
