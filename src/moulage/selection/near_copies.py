"""Drops images that repeat a training image: mirrored, turned, cropped or recoloured ones too.

A copy teaches what its original teaches, and may give away a patient. The distance and its threshold are those of
``moulage.data.near_copies``, calibrated by the training images of other lesions. An edited image is kin to the lesion
of the photograph that it was made of, and is held against those of the others alone.
"""

import numpy as np
from pydantic import Field

from moulage.data.near_copies import near_copies
from moulage.plugins import Options
from moulage.selection import ImageSet, Judgement


class Config(Options):
    """How sure one has to be that an image is a copy."""

    false_alarms: float = Field(
        0.01, gt=0, lt=0.5, description="Share of images of new lesions that may be taken for copies."
    )


def select(
    config: Config, candidates: ImageSet, reference: ImageSet, want: dict[str, int], rng: np.random.Generator
) -> Judgement:
    """Keep what is no near-copy; score: distance to the nearest training image of the candidates' classes, 0 to 2."""
    judged = Judgement.undecided(len(candidates))
    labels = [label for label, _ in candidates.by_class()]
    known = np.flatnonzero(reference.catalog.table["label"].isin(labels).to_numpy())
    groups, edited = reference.groups[known], (candidates.catalog.table["parent"] != "").to_numpy()
    if len(set(groups)) < 2:
        judged.notes.append("Fewer than two lesions in training: nothing says how near two lesions are; none dropped.")
        return judged
    found = near_copies(
        candidates.pixels,
        reference.pixels[known],
        groups=groups,
        kin=candidates.groups,
        false_alarms=config.false_alarms,
    )
    nearest = known[found.nearest]
    reasons = [
        f"Distance {distance:.3f} to the training image {name} (a copy: below {found.threshold:.3f})."
        for distance, name in zip(found.distance, reference.catalog.images[nearest], strict=True)
    ]
    judged.say(np.arange(len(candidates)), ~found.is_copy, found.distance, reasons)
    judged.nearest[:] = nearest
    if edited.any():
        judged.notes.append(
            f"{edited.sum():,} images are edited photographs, which are expected to be like the lesion that they were "
            "made of: they were held against the others."
        )
    if found.expected_false_alarms > config.false_alarms:
        judged.notes.append(
            f"{len(known)} training images are too few to promise {config.false_alarms:.1%} false alarms: "
            f"{found.expected_false_alarms:.1%} of new images would be called copies."
        )
    return judged
