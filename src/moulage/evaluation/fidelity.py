"""How true generated images are, and whether they are copies: every score beside what real images and copies get.

A score of generated images has no meaning alone. ``judge`` computes each for three sets against the same held-out real
images, class by class:

- ``generated``: the images in question;
- ``floor``: real training images, of other lesions than the held-out ones: as good as a generator can be;
- ``copies``: training images drawn with replacement: what a generator that only copies would get. Where it does as well
  as ``generated`` in a measure, that measure says nothing against copying; the memorisation scores do.

Most measures depend on the number of images, so all three sets of a class have the same number, drawn several times and
averaged where there are more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from moulage.data.near_copies import NearCopies, distances_to_own, near_copies
from moulage.errors import DataError, LeakError
from moulage.evaluation.manifolds import density_coverage, precision_recall
from moulage.evaluation.memorisation import MIN_IN_CELL, authenticity, data_copying
from moulage.evaluation.set_distances import SMALL_SAMPLE, colour_distances, frechet, squared_mmd
from moulage.evaluation.two_sample import Transfer, transfer, two_sample_test
from moulage.runs import Progress, no_progress

MIN_IMAGES = 40
"""Images of a class that each of the three sets needs before it is judged."""
MIN_LESIONS = 20
"""Lesions of a class that training and held-out part need each."""
NUM_PAIRS = 24
"""Closest pairs that are listed for a gallery."""
NUM_DRAWS = 5
"""Draws of an equal number of images that are averaged."""


@dataclass(frozen=True)
class Images:
    """A set of images of several classes."""

    pixels: np.ndarray  # uint8 [N, S, S, 3]
    features: np.ndarray  # float [N, D], of one network for all sets
    labels: np.ndarray  # class indices, int64 [N]
    # lesion of each image, [N]; None for images drawn from noise, each of which counts as its own
    groups: np.ndarray | None = None
    parents: np.ndarray | None = None  # of edited images the photograph that each was made of, uint8 [N, S, S, 3]

    def take(self, rows: np.ndarray) -> "Images":
        """These rows."""
        kin = [None if values is None else values[rows] for values in (self.groups, self.parents)]
        return Images(self.pixels[rows], self.features[rows], self.labels[rows], *kin)

    @property
    def lesions(self) -> np.ndarray:
        """Lesion of each image; a number of its own where unknown."""
        return np.arange(len(self.labels)) if self.groups is None else self.groups


@dataclass(frozen=True)
class Scores:
    """One set against the held-out images of its class; means over draws of ``num_images`` unless said otherwise."""

    num_images: int  # images of the set in each draw
    kid: float  # unbiased kernel distance of all images, and its interval
    kid_low: float
    kid_high: float
    frechet: float  # Frechet distance; compare it with ``floor`` alone
    precision: float  # shares by nearest neighbours
    recall: float
    density: float
    coverage: float
    accuracy: float  # classifier two-sample test of one draw
    accuracy_low: float
    accuracy_high: float
    accuracy_p: float
    colour_pixels: float  # distances of colours in CIELAB units
    colour_means: float
    colour_variety: float  # spread of the images' mean colours by that of the held-out ones
    near_copies: float  # share of near-copies of training images (of edited images: of other lesions), of all images
    data_copying: float | None  # C_T overall and in cells, of all images; None where too few
    data_copying_cells: float | None
    authenticity: float  # share of authentic images, of all images
    near_parents: float | None = None  # of edited images, the share that would be near-copies of their parents


@dataclass(frozen=True)
class OfClass:
    """What is said of one class."""

    num_generated: int  # what there was
    num_train: int
    num_held_out: int
    num_held_out_lesions: int
    too_few: str = ""  # why the class is not judged and how many images it takes; empty where it is
    generated: Scores | None = None  # the scores; None where the class is not judged
    floor: Scores | None = None
    copies: Scores | None = None
    # the near-copies among the generated images, rows within the class; None where not judged
    near_copies: NearCopies | None = None
    expected_false_alarms: float | None = None  # share of new images that would be called near-copies


@dataclass(frozen=True)
class Fidelity:
    """All scores of a set of generated images."""

    features: str  # name of the feature network; never compare results of two
    classes: Mapping[str, OfClass]  # class name -> what is said of it
    # set name (generated, floor, copies) -> score name -> mean over the judged classes; empty without one
    overall: Mapping[str, Mapping[str, float]]
    transfer: Transfer | None  # train on synthetic, test on real; None where fewer than two classes can be used
    small_sample: bool  # whether the Frechet distances are mostly bias (they are, below 2,048 images)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and None, ready for JSON; of near-copies the rows, originals and distances."""
        bare = {name: replace(of, near_copies=None) for name, of in self.classes.items()}
        found = asdict(replace(self, classes=bare))
        for name, of in self.classes.items():
            found["classes"][name]["near_copies"] = None if of.near_copies is None else _listed(of.near_copies)
        return found


def judge(
    generated: Images,
    train: Images,
    held_out: Images,
    *,
    classes: Sequence[str],
    features: str,
    rng: np.random.Generator,
    false_alarms: float = 0.01,
    num_draws: int = NUM_DRAWS,
    progress: Progress = no_progress,
) -> Fidelity:
    """Score generated images, class by class, beside real images and copies; classes without any are left out.

    Images that are edited photographs come with their lesions and ``parents``. That they are like their own lesion is
    expected and told by ``near_parents``; the scores of copying compare them with the other lesions.

    Both real sets need their lesions: ``train`` is what the generator was fitted on, ``held_out`` of other lesions
    (else ``LeakError``). ``features`` is the name of the feature network (``features.features_name``); ``num_draws`` is
    1 or more. ``DataError``: features of different length, numbers that do not fit, or lesions that are missing.
    """
    _check(generated, train, held_out)
    found: dict[str, OfClass] = {}
    present = [k for k in range(len(classes)) if (generated.labels == k).any()]
    for done, k in enumerate(present, 1):
        sets = [images.take(np.flatnonzero(images.labels == k)) for images in (generated, train, held_out)]
        found[classes[k]] = _judge_class(*sets, rng=rng, false_alarms=false_alarms, num_draws=num_draws)
        progress(done, len(present), classes[k])
    judged = [of for of in found.values() if of.generated]
    sets = ("generated", "floor", "copies") if judged else ()
    overall = {name: _means([asdict(getattr(of, name)) for of in judged]) for name in sets}
    moved = transfer(*((images.features, images.labels) for images in (generated, train, held_out)), rng=rng)
    fewest = min((min(of.generated.num_images, of.num_held_out) for of in judged if of.generated), default=0)
    return Fidelity(features, found, overall, moved, fewest < max(SMALL_SAMPLE, generated.features.shape[1] + 1))


def shortage(
    num_generated: int, num_train: int, num_held_out: int, num_train_lesions: int, num_held_out_lesions: int
) -> str:
    """What a class lacks to be judged, in words; empty where it lacks nothing."""
    there = {
        "generated images": (MIN_IMAGES, num_generated),
        "training images": (MIN_IMAGES, num_train),
        "held-out images": (MIN_IMAGES, num_held_out),
        "training lesions": (MIN_LESIONS, num_train_lesions),
        "held-out lesions": (MIN_LESIONS, num_held_out_lesions),
    }
    return "; ".join(f"{least} {what} are needed and there are {n}" for what, (least, n) in there.items() if n < least)


def _judge_class(
    generated: Images, train: Images, held_out: Images, *, rng: np.random.Generator, false_alarms: float, num_draws: int
) -> OfClass:
    lesions, other_lesions = (len(np.unique(images.lesions)) for images in (train, held_out))
    counts = len(generated.labels), len(train.labels), len(held_out.labels)
    of = OfClass(*counts, other_lesions, shortage(*counts, lesions, other_lesions))
    if of.too_few:
        return of
    num = min(counts[:2])
    copies = replace(train.take(rng.integers(0, len(train.labels), num)), groups=None)
    seen = [images.pixels for images in (generated, held_out, copies)]
    kin = np.full(sum(map(len, seen)), None, object)  # held-out images have none in training, and copies are to count
    if generated.parents is not None:
        kin[: len(generated.labels)] = generated.lesions
    alarms = near_copies(np.concatenate(seen), train.pixels, groups=train.lesions, kin=kin, false_alarms=false_alarms)
    rows = np.split(np.arange(len(alarms.distance)), np.cumsum([len(pixels) for pixels in seen])[:-1])
    first, second = _halves(held_out, rng)
    tested = ((generated, held_out, generated), (train, first, second), (copies, held_out, copies))
    scores = []
    for (images, reference, suspects), own in zip(tested, rows, strict=True):
        truth = _truth(images, held_out, num, num_draws, rng)
        memory = _memory(suspects, reference, train, rng)
        to_own = None if suspects.parents is None else distances_to_own(suspects.pixels, suspects.parents)
        near_parents = None if to_own is None else float((to_own < alarms.threshold).mean())
        near_copy = float(alarms.is_copy[own].mean())
        scores.append(Scores(num, **truth, **memory, near_copies=near_copy, near_parents=near_parents))
    generated_scores, floor, copied = scores
    listed, expected = alarms.take(rows[0]), alarms.expected_false_alarms
    return OfClass(*counts, other_lesions, "", generated_scores, floor, copied, listed, expected)


def _truth(images: Images, held_out: Images, num: int, num_draws: int, rng: np.random.Generator) -> dict[str, float]:
    """The scores of likeness."""
    distance = squared_mmd(held_out.features, images.features, held_out.lesions, images.groups)
    more = len(images.labels) > num
    draws = [images.take(rng.choice(len(images.labels), num, replace=False)) for _ in range(num_draws if more else 1)]
    groups = {"groups": held_out.lesions, "generated_groups": draws[0].groups}
    test = two_sample_test(held_out.features, draws[0].features, rng=rng, **groups)
    return {
        "kid": distance.value,
        "kid_low": distance.low,
        "kid_high": distance.high,
        **_means([_of_draw(draw, held_out) for draw in draws]),
        "accuracy": test.accuracy,
        "accuracy_low": test.low,
        "accuracy_high": test.high,
        "accuracy_p": test.p_value,
    }


def _of_draw(draw: Images, held_out: Images) -> dict[str, float]:
    features, colours = (held_out.features, draw.features), colour_distances(held_out.pixels, draw.pixels)
    return {
        "frechet": frechet(*features).value,
        **asdict(precision_recall(*features)),
        **asdict(density_coverage(*features)),
        **{f"colour_{kind}": found["all"] for kind, found in colours.items()},
    }


def _memory(suspects: Images, reference: Images, train: Images, rng: np.random.Generator) -> dict[str, Any]:
    """The scores of copying that need no threshold; edited images are held against other lesions than their own."""
    kin = suspects.lesions if suspects.parents is not None else None
    found: dict[str, Any] = {"data_copying": None, "data_copying_cells": None}
    if min(len(suspects.labels), len(reference.labels)) >= MIN_IN_CELL:
        groups = None if kin is None else (kin, train.lesions)
        copying = data_copying(train.features, reference.features, suspects.features, rng=rng, groups=groups)
        found = {"data_copying": copying.overall, "data_copying_cells": copying.in_cells}
    authentic = authenticity(train.features, suspects.features, train.lesions, kin)
    return {**found, "authenticity": float(authentic.mean())}


def _halves(images: Images, rng: np.random.Generator) -> tuple[Images, Images]:
    """Two halves that share no lesion."""
    names = rng.permutation(np.unique(images.lesions))
    first = np.isin(images.lesions, names[: len(names) // 2])
    return images.take(np.flatnonzero(first)), images.take(np.flatnonzero(~first))


def _means(scores: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """Mean of each score over those that have it."""
    keys = scores[0] if scores else ()
    values = {key: [value for score in scores if (value := score[key]) is not None] for key in keys}
    return {key: float(np.mean(found)) for key, found in values.items() if found}


def _listed(copies: NearCopies) -> dict[str, Any]:
    return {
        "threshold": copies.threshold,
        "num_calibration": len(copies.calibration),
        "rows": np.flatnonzero(copies.is_copy).tolist(),
        "nearest": copies.nearest[copies.is_copy].tolist(),
        "distance": copies.distance[copies.is_copy].tolist(),
        "closest": [list(pair) for pair in copies.pairs(NUM_PAIRS)],
    }


def _check(generated: Images, train: Images, held_out: Images) -> None:
    lengths = {images.features.shape[1] for images in (generated, train, held_out)}
    if len(lengths) > 1:
        raise DataError(f"Features of {sorted(lengths)} numbers are not of one network.", "Compute them with the same.")
    for images in (generated, train, held_out):
        if not len(images.pixels) == len(images.features) == len(images.labels) == len(images.lesions):
            raise DataError("A set of images has different numbers of pixels, features, labels and lesions.")
    if train.groups is None or held_out.groups is None:
        raise DataError("Training and held-out images need their lesions.", "Give groups for both.")
    if generated.parents is not None and generated.groups is None:
        raise DataError("Edited images need the lesions of their parents.", "Give groups for them.")
    for what, groups in (("training", train.groups), ("generated", generated.groups)):
        shared = [] if groups is None else np.intersect1d(groups.astype(str), held_out.groups.astype(str))
        if len(shared):
            found = f"{len(shared)} lesions are in the {what} and in the held-out images, {shared[0]} first."
            raise LeakError(found, "Split by lesion.")
