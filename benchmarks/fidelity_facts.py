"""Small-sample facts of the fidelity scores and of the search for near-copies, on real images and on the phantom.

    python benchmarks/fidelity_facts.py copies FOLDER [CLASS] [NUM_SPLITS]
    python benchmarks/fidelity_facts.py copies phantom [CLASS] [NUM_SPLITS]
    python benchmarks/fidelity_facts.py floor FOLDER [CLASS]
    python benchmarks/fidelity_facts.py judge FOLDER [CLASS]

FOLDER is an ISIC-2019 folder. ``copies`` plants one changed copy of a training image for every 100 images of other
lesions, kind by kind, and prints the share found and the share of the others that is called a copy. ``floor`` scores
real images against real images of other lesions, for several numbers of images. ``judge`` prints all scores of real
images that pose as generated ones, of the floor and of copies.
"""

import io
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from moulage import features
from moulage.data import audit, pixels
from moulage.data.near_copies import near_copies
from moulage.evaluation import fidelity
from moulage.evaluation.manifolds import density_coverage, precision_recall
from moulage.evaluation.set_distances import frechet, squared_mmd
from moulage.sources import isic2019, phantom

SIZE = 64
NUM_COPIES = 40
"""Training images that are copied in each split, each in every way."""


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def cropped(image: np.ndarray, cut: int) -> np.ndarray:
    size = len(image)
    inner = Image.fromarray(np.ascontiguousarray(image[cut : size - cut, cut : size - cut]))
    return np.asarray(inner.resize((size, size), Image.Resampling.BICUBIC))


def shaded(image: np.ndarray, brightness: float, contrast: float) -> np.ndarray:
    return np.clip((image.astype(float) - 128) * contrast + 128 + brightness, 0, 255).astype(np.uint8)


def hued(image: np.ndarray, shift: int) -> np.ndarray:
    parts = np.array(Image.fromarray(image).convert("HSV"))
    parts[..., 0] += np.uint8(shift % 256)
    return np.asarray(Image.fromarray(parts, "HSV").convert("RGB"))


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0)).round().astype(np.uint8)


def noisy(image: np.ndarray, sigma: float) -> np.ndarray:
    return np.clip(image + np.random.default_rng(0).normal(size=image.shape) * sigma, 0, 255).astype(np.uint8)


KINDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exact": lambda image: image,
    "mirrored": lambda image: image[:, ::-1],
    "turned by 90 degrees": lambda image: np.rot90(image),
    "turned by 5 degrees": lambda image: ndimage.rotate(image, 5, reshape=False, mode="nearest"),
    "JPEG quality 75": lambda image: jpeg(image, 75),
    "JPEG quality 50": lambda image: jpeg(image, 50),
    "brightness + 30": lambda image: shaded(image, 30, 1),
    "brightness - 30": lambda image: shaded(image, -30, 1),
    "contrast x 0.7": lambda image: shaded(image, 0, 0.7),
    "contrast x 1.3": lambda image: shaded(image, 0, 1.3),
    "hue + 28 degrees": lambda image: hued(image, 20),
    "hue - 56 degrees": lambda image: hued(image, -40),
    "white balance 0.75, 0.9, 1": lambda image: (image * [0.75, 0.9, 1.0]).astype(np.uint8),
    "cropped by 2 px a side": lambda image: cropped(image, 2),
    "cropped by 4 px a side": lambda image: cropped(image, 4),
    "turned, cropped, other hue, JPEG": lambda image: jpeg(hued(cropped(np.rot90(image), 2), 20), 75),
    "blurred, sigma 1 px": lambda image: blurred(image, 1),
    "blurred, sigma 2 px": lambda image: blurred(image, 2),
    "noise, sigma 8": lambda image: noisy(image, 8),
    "noise, sigma 16": lambda image: noisy(image, 16),
}


def load(folder: str, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 64, 64, 3] of one class and their lesions, near-duplicates joined as a study joins them."""
    if folder == "phantom":
        catalog = phantom.read(None, phantom.Config(num_images=6000, size=SIZE))
    else:
        catalog = isic2019.read(Path(folder), isic2019.Config())
    catalog = catalog.only(label=label)
    with tempfile.TemporaryDirectory() as cache:
        seen = pixels.build(catalog, (SIZE,), "squash", Path(cache))
        clean = audit.audit(catalog, seen).clean(catalog)
        return np.array(seen.array(SIZE)[seen.rows(clean.images)]), clean.groups.astype(str)


def copies(folder: str, label: str = "AK", num_splits: str = "10") -> None:
    images, groups = load(folder, label)
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    alarms, expected, thresholds, start = [], [], [], time.perf_counter()
    for seed in range(int(num_splits)):
        rng = np.random.default_rng(seed)
        names = rng.permutation(np.unique(groups))
        fitted = np.isin(groups, names[: len(names) * 6 // 10])
        calibrating = np.isin(groups, names[len(names) * 6 // 10 : len(names) * 8 // 10])
        train, others = images[fitted], images[~fitted & ~calibrating]
        copied = [rng.choice(len(train), NUM_COPIES, replace=len(train) < NUM_COPIES) for _ in KINDS]
        changed = [
            np.stack([KINDS[kind](train[row]) for row in rows]) for kind, rows in zip(KINDS, copied, strict=True)
        ]
        result = near_copies(np.concatenate([others, *changed]), train, images[calibrating])
        alarms.append(result.is_copy[: len(others)].mean())
        expected.append(result.expected_false_alarms)
        thresholds.append(result.threshold)
        for k, kind in enumerate(KINDS):
            own = slice(len(others) + k * NUM_COPIES, len(others) + (k + 1) * NUM_COPIES)
            found[kind].append(float(result.is_copy[own].mean()))
    print(
        f"{label} of {Path(folder).name}: {len(train)} training, {calibrating.sum()} calibration, {len(others)} others"
    )
    print(f"{time.perf_counter() - start:.0f} s, threshold {min(thresholds):.2f} to {max(thresholds):.2f}")
    rates = [f"{100 * rate:.2f} %" for rate in (np.mean(alarms), np.mean(expected), min(alarms), max(alarms))]
    print("false alarms {} (expected {}; by split {} to {})".format(*rates))
    for kind, shares in found.items():
        print(f"{kind:36s} {100 * np.mean(shares):6.1f} %")


def floor(folder: str, label: str = "AK") -> None:
    images, groups = load(folder, label)
    options = features.FeatureOptions()
    found = features.extract(options, images)
    print(f"{label}, {len(images)} images, {len(np.unique(groups))} lesions, {features.features_name(options)}")
    print("   N     KID x 1000 (sd)      FID (sd)   precision  recall  density  coverage")
    for num in (25, 50, 100, 200, 300):
        scores = []
        for seed in range(10):
            rng = np.random.default_rng(seed)
            names = rng.permutation(np.unique(groups))
            first = np.isin(groups, names[: len(names) // 2])
            sides = [rng.permutation(np.flatnonzero(side))[:num] for side in (first, ~first)]
            if min(map(len, sides)) < num:
                break
            a, b = (found[side] for side in sides)
            distance = squared_mmd(a, b, groups[sides[0]], groups[sides[1]]).value
            shares, thick = precision_recall(a, b), density_coverage(a, b)
            scores.append(
                (1000 * distance, frechet(a, b).value, shares.precision, shares.recall, thick.density, thick.coverage)
            )
        if scores:
            mean, sd = np.mean(scores, axis=0), np.std(scores, axis=0)
            print(
                f"{num:4d}  {mean[0]:9.2f} ({sd[0]:.2f})  {mean[1]:9.1f} ({sd[1]:.1f})",
                *(f"{v:9.2f}" for v in mean[2:]),
            )


def judge(folder: str, label: str = "AK") -> None:
    images, groups = load(folder, label)
    options = features.FeatureOptions()
    found, rng = features.extract(options, images), np.random.default_rng(0)
    names = rng.permutation(np.unique(groups))
    sides = [np.flatnonzero(np.isin(groups, part)) for part in np.split(names, [len(names) // 2, len(names) * 3 // 4])]
    none = np.zeros(len(images), np.int64)
    train, held_out, posing = (fidelity.Images(images[s], found[s], none[s], groups[s]) for s in sides)
    name, start = features.features_name(options), time.perf_counter()
    of = fidelity.judge(posing, train, held_out, classes=(label,), features=name, rng=rng).classes[label]
    counts = f"{of.num_train} training and {of.num_held_out} held-out images, {of.num_generated} in question"
    print(f"{label}, {counts}, {time.perf_counter() - start:.0f} s")
    for key in asdict(of.floor):
        values = (getattr(scores, key) for scores in (of.generated, of.floor, of.copies))
        print(f"{key:20s}", *(f"{'none' if value is None else format(value, '.4f'):>10s}" for value in values))


if __name__ == "__main__":
    {"copies": copies, "floor": floor, "judge": judge}[sys.argv[1]](*sys.argv[2:])
