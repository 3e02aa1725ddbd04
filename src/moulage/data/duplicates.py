"""Near-duplicates: the same photograph again, whatever was done to it short of another view.

That is: compressed, made brighter or darker, re-coloured, mirrored or turned around, cut, framed, shifted, turned by
some degrees, and these together. Steps on 32 px thumbnails, of which frames (``frames``) and the dark vignette (round
vignettes make all images alike) are left out:

1. ``copy_candidates``: which pairs are alike, by keys of low frequencies.
2. ``copy_evidence``: the one is laid on the other; fine structure and colours must agree.

The thresholds were set on planted changes and on the pairs that four real sets hold; docs/LOG.md (2026-11-29) has what
they find, miss and cost.
"""

from dataclasses import dataclass

import numpy as np

from moulage.data import copy_candidates, copy_evidence, frames
from moulage.data import thumbnails as seen
from moulage.data.copy_candidates import Candidates
from moulage.data.copy_evidence import Evidence
from moulage.runs import Progress, no_progress

MAX_CANDIDATES = 200_000
"""No more candidates than these, the nearest ones, are looked at: it bounds time where all images are alike."""
INCOMPLETE = "Very many images are alike, more than could be looked at closely: some near-duplicates may be left."
"""What is said where pairs are not complete."""


@dataclass(frozen=True)
class Pair:
    """Two images that look like the same photograph, with the evidence."""

    first: str  # name of an image
    second: str
    orientation: str  # one of ``ORIENTATIONS``
    detail: float  # correlation of fine structure after alignment, -1 to 1
    unexplained: float  # share of the colours that differ, each made brighter or darker to fit; 0: none
    shear: float  # logarithm of how much more one direction was stretched than the other to lie on the other image
    overlap: float  # share of the thumbnail that both images show, 0 to 1
    agreement: float  # what all of it says, up to 1 (``copy_evidence``)
    accepted: bool  # whether the pair is taken as one photograph and joined into one group


class Pairs(tuple[Pair, ...]):
    """Pairs, the strongest evidence first; ``is_complete`` is False where there may be more."""

    is_complete: bool = True


def search(
    images: np.ndarray, thumbnails: np.ndarray, progress: Progress = no_progress, *, sides: np.ndarray | None = None
) -> Pairs:
    """All pairs found that are one photograph, and those alike enough to be looked at; the strongest evidence first.

    ``images`` are names, [N] of str; ``thumbnails`` uint8 [N, 32, 32, 3]. With ``sides`` [N] pairs of one side are
    not looked for. Pairs are incomplete where more than ``MAX_CANDIDATES`` were alike, or where all
    ``copy_candidates.NUM_NEAREST`` images that are nearest to one show its photograph: there may be more of these.
    """
    if len(images) < 2:
        return Pairs()
    maps = frames.find(thumbnails)
    # what looks like a frame may be the picture's own, and turned in a copy: they are looked at as they are, too
    rows = np.r_[np.arange(len(images)), np.flatnonzero((maps != frames.NONE).any(axis=(1, 2)))]
    shown, maps = thumbnails[rows], maps[rows]
    maps[len(images) :] = frames.NONE
    inner = frames.inside(shown, maps)
    inside = seen.inside(inner)
    apart = (rows,) if sides is None else (rows, sides[rows])
    found = copy_candidates.find(inner, inside, apart, progress)
    is_complete = len(found.first) <= MAX_CANDIDATES
    found = copy_candidates.take(found, np.arange(min(len(found.first), MAX_CANDIDATES)))
    evidence = copy_evidence.weigh(shown, frames.compared(inside, maps), maps, found)
    agree = evidence.agreement >= copy_evidence.ACCEPTED
    times = np.bincount(np.r_[found.first, found.second][np.tile(agree, 2)], minlength=1)
    pairs = Pairs(_pairs(images, rows, found, evidence))
    pairs.is_complete = bool(is_complete and times.max() < copy_candidates.NUM_NEAREST)
    return pairs


def _pairs(images: np.ndarray, rows: np.ndarray, found: Candidates, evidence: Evidence) -> list[Pair]:
    """Those that are worth a look, the strongest evidence first; of each pair the image that comes first is first.

    ``rows`` says which image each row of the candidates is.
    """
    agreement = evidence.agreement
    pairs: dict[tuple[int, int], Pair] = {}
    for k in np.argsort(-agreement, kind="stable")[: np.count_nonzero(agreement >= copy_evidence.LISTED)]:
        first, second, turn = int(rows[found.first[k]]), int(rows[found.second[k]]), int(found.orientation[k])
        if first > second:
            first, second, turn = second, first, int(seen.INVERSE[turn])
        pair = Pair(
            first=str(images[first]),
            second=str(images[second]),
            orientation=seen.ORIENTATIONS[turn],
            detail=float(evidence.detail[k]),
            unexplained=float(evidence.unexplained[k]),
            shear=float(evidence.shear[k]),
            overlap=float(evidence.overlap[k]),
            agreement=float(agreement[k]),
            accepted=bool(agreement[k] >= copy_evidence.ACCEPTED),
        )
        pairs.setdefault((first, second), pair)
    return list(pairs.values())
