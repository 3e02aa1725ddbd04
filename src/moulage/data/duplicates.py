"""Near-duplicates: the same photograph again, re-compressed, slightly cropped, re-coloured, mirrored or turned around.

Three steps on 32 px thumbnails, each with the dark vignette masked, because round vignettes make all images alike:

1. *Candidates*: a descriptor of 80 low DCT coefficients of the luminance, weighted against the 1/f spectrum. Mirroring
   and turning only change signs and places of coefficients, so all pairs in 8 orientations are eight matrix products.
2. *Alignment*: Gauss-Newton on the six parameters of an affine map (Lucas and Kanade 1981) makes up for a slight crop.
3. *Evidence*: ``detail``, the correlation of the signed square roots of the high-pass luminance over the pixels that
   both images show. A blob on plain skin correlates with any other blob, 0.93 to 0.99 in false pairs; hairs,
   texture and outline do not, and the square root lets faint texture speak beside the strong outline. Colour is not
   looked at: the archives hold copies with another white balance.

A pair is accepted where local contrast or colours say the same (``moved_copies.confirmed``). Photographs that were cut,
framed, shifted or turned by a few degrees do not lie on each other: ``moved_copies`` looks for those.

The thresholds were set on ISIC-2019 at 84 px; docs/LOG.md (2026-11-23, 2026-11-29) has what they find, miss, and cost.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from moulage.data import moved_copies
from moulage.data.thumbnails import ORIENTATIONS, centred, compare, descriptors, inside, luminance, orient, oriented
from moulage.runs import Progress, no_progress

SIMILAR = 0.85
"""Cosine of two descriptors from which a pair is looked at closely."""
MAX_CANDIDATES = 40_000
"""No more candidates than these, the most similar ones, are looked at: it bounds time where all images are alike."""
ACCEPTED = 0.80
"""``detail`` from which a pair counts as one photograph, where ``OVERLAP`` or more of the thumbnail can be compared."""
ACCEPTED_ON_LITTLE = 0.90
"""The same, where less can be compared: in a small vignette a blob is nearly all there is."""
LISTED = 0.70
"""``detail`` from which a pair is worth a look."""
OVERLAP = 0.30
_BLOCK = 1024


@dataclass(frozen=True)
class Pair:
    """Two images that look like the same photograph, with the evidence."""

    first: str  # name of an image
    second: str
    orientation: str  # one of ``ORIENTATIONS``
    similarity: float  # cosine of the descriptors, -1 to 1
    detail: float  # correlation of fine structure after alignment, -1 to 1; of local contrast for ``moved_copies``
    overlap: float  # share of the thumbnail that both images show, 0 to 1
    accepted: bool  # whether the pair is taken as one photograph and joined into one group


class Pairs(tuple[Pair, ...]):
    """Pairs, the strongest evidence first; ``is_complete`` is False where more were similar than were looked at."""

    is_complete: bool = True


def search(images: np.ndarray, thumbnails: np.ndarray, progress: Progress = no_progress) -> Pairs:
    """All pairs whose ``detail`` is at least ``LISTED``, and those that ``moved_copies`` finds; the strongest first.

    ``images`` are names, [N] of str; ``thumbnails`` uint8 [N, 32, 32, 3].
    """
    weight = inside(thumbnails).astype(np.float32)
    grey = centred(luminance(thumbnails), weight)
    rows, similarity = _candidates(descriptors(grey, 1.5), progress)
    pairs: list[Pair] = []
    for batch in _batches(rows):
        first, second, turn = rows[batch].T
        turned = [np.ascontiguousarray(orient(x[second], int(turn[0]))) for x in (grey, weight)]
        detail, overlap = compare(grey[first], weight[first], *turned)
        needed = np.where(overlap >= OVERLAP, ACCEPTED, ACCEPTED_ON_LITTLE)
        sure = np.flatnonzero(detail >= needed)
        lying = np.moveaxis(thumbnails[second[sure]], 3, 0)
        lying = np.stack([orient(channel, int(turn[0])) for channel in lying], axis=3)
        accepted = np.zeros(len(batch), bool)
        accepted[sure] = moved_copies.confirmed(thumbnails[first[sure]], lying)
        for k in np.flatnonzero((detail >= needed) | ((detail >= LISTED) & (overlap >= OVERLAP))):
            evidence = (float(similarity[batch[k]]), float(detail[k]), float(overlap[k]))
            names = str(images[first[k]]), str(images[second[k]])
            pairs.append(Pair(*names, ORIENTATIONS[turn[k]], *evidence, bool(accepted[k])))
    found = _with_moved(pairs, images, thumbnails)
    found.is_complete &= len(rows) < MAX_CANDIDATES
    return found


def _with_moved(pairs: list[Pair], images: np.ndarray, thumbnails: np.ndarray) -> Pairs:
    """The pairs, and those of images that were cut, framed, shifted or turned; each pair once."""
    moved = moved_copies.search(thumbnails, MAX_CANDIDATES)
    known = {(pair.first, pair.second): pair for pair in pairs}
    values = zip(moved.rows, moved.similarity, moved.contrast, moved.overlap, strict=True)
    for (first, second), *evidence in values:
        names = str(images[first]), str(images[second])
        if names not in known or not known[names].accepted:
            known[names] = Pair(*names, ORIENTATIONS[0], *map(float, evidence), accepted=True)
    found = Pairs(sorted(known.values(), key=lambda pair: (-pair.detail, pair.first, pair.second)))
    found.is_complete = moved.is_complete
    return found


def _candidates(described: np.ndarray, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Pairs with their best orientation, int64 [M, 3] (first < second), and their similarity, float32 [M]."""
    num, threshold = len(described), SIMILAR
    flat = described.reshape(num, np.prod(described.shape[1:]))
    found, similarity = np.empty((0, 3), np.int64), np.empty(0, np.float32)
    for start in range(0, num, _BLOCK):
        hits, values = [found], [similarity]
        for turn in range(len(ORIENTATIONS)):
            turned = oriented(described[start : start + _BLOCK], turn)
            turned = turned.reshape(len(turned), -1)
            for other in range(0, start + 1, _BLOCK):
                cosine = flat[other : other + _BLOCK] @ turned.T
                first, second = np.divmod(np.flatnonzero(cosine > threshold), len(turned))
                ordered = first + other < second + start
                first, second = first[ordered], second[ordered]
                hits.append(np.stack([first + other, second + start, np.full(len(first), turn)], axis=1))
                values.append(cosine[first, second])
        found, similarity = _strongest(np.concatenate(hits), np.concatenate(values))
        if len(found) == MAX_CANDIDATES:
            threshold = max(threshold, float(similarity.min()))
        progress(min(start + _BLOCK, num), num, "near-duplicates")
    return found, similarity


def _strongest(found: np.ndarray, similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best orientation of each pair, and of those the ``MAX_CANDIDATES`` most similar pairs."""
    order = np.lexsort((found[:, 2], -similarity, found[:, 1], found[:, 0]))
    found, similarity = found[order], similarity[order]
    best = np.ones(len(found), bool)
    best[1:] = (found[1:, :2] != found[:-1, :2]).any(axis=1)
    found, similarity = found[best], similarity[best]
    kept = np.sort(np.argsort(-similarity, kind="stable")[:MAX_CANDIDATES])
    return found[kept], similarity[kept]


def _batches(rows: np.ndarray, size: int = 512) -> Iterator[np.ndarray]:
    """Indices of at most ``size`` rows that share an orientation."""
    for turn in range(len(ORIENTATIONS)):
        chosen = np.flatnonzero(rows[:, 2] == turn)
        for start in range(0, len(chosen), size):
            yield chosen[start : start + size]
