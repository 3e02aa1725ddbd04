"""Learn to find lesions on a source with masks, and score that on lesions held out.

OUT     config.json  weights.safetensors  split.parquet  segmentation.json  examples.png  log.jsonl
"""

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.sparse import csr_array

from moulage import contracts, plugins, runs, sheets
from moulage.data import masks as lesion_masks
from moulage.data import pixels as pixel_cache
from moulage.data.audit import audit
from moulage.data.catalog import Catalog
from moulage.data.split import PARTS, Split, holdout, prove
from moulage.errors import RunError
from moulage.evaluation import resampling
from moulage.masks.segmenter import Config, Segmenter, check_installed, dice, jaccard

FRAMING = "squash"  # images are squashed to squares, so that a mask covers the whole photograph
NUM_RESAMPLES = 2000
LEVEL = 0.95
NUM_OF_A_KIND = 4  # examples drawn at random, and of the worst and of the best masks
TRUE_COLOUR, PREDICTED_COLOUR = (0, 255, 120), (255, 60, 220)

Say = Callable[[str], None]


def learn_masks(
    source: str,
    path: Path | None,
    options: Mapping[str, Any],
    out: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    device: str = "auto",
    num_workers: int = 1,
    progress: runs.Progress = runs.no_progress,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Train a segmenter on the training lesions of a source with masks, and score it on the test lesions.

    The data are audited and split by lesion, near-duplicates together. The validation part chooses the epoch; the test
    part is predicted once. The same call goes on where an earlier one stopped, or gives what that one found.

    Images of the ``source`` (a plug-in, with its ``options``; data at ``path``) that have no mask are left out.
    ``settings`` are options of ``segmenter.Config``, ``validation`` and ``test`` shares of the images; ``seed`` is that
    of the split, the training and the intervals. ``say`` is told, line by line, what is done. Returns what
    ``segmentation.json`` holds: among others ``test``, see ``_judged``.

    Raises:
        RecipeError: the source, an option, segmentation-models-pytorch or the weights are not there.
        DataError: no image has a mask, or the data cannot be read or split.
        RunError: ``out`` holds a segmenter of other settings or data, or is in use.
    """
    config = plugins.validate(Config, dict(settings or {}), "segmenter")
    check_installed(config)
    runs.claim(out)
    found = read(source, path, options)
    masked = lesion_masks.with_masks(found)
    if not len(masked):
        lesion_masks.check(found)
    say(f"{found.name}: {len(found):,} images, {len(masked):,} with a mask")
    about = {"name": found.name, "source": source, "note": found.note, "num_images": len(masked)}
    with runs.lock(out):
        data = _Data.of(masked, config.size, (validation, test), seed, num_workers, progress, say)
        key = runs.digest(runs.FORMAT, config.model_dump(), seed, data.split.digest, data.pixels)
        summary = out / "segmentation.json"
        if summary.exists():
            known = runs.read_json(summary)
            if known.get("key") != key:
                raise RunError(
                    f"{out} holds a segmenter of other data, options or seed.", "Name another folder with --out."
                )
            return known
        say(", ".join(f"{len(part):,} images {name}" for name, part in data.parts.items()))
        known = {"format": runs.FORMAT, "key": key, "data": about}
        known |= _learned(config, data, out, seed=seed, device=device, progress=progress, say=say)
        runs.write_json(summary, known)
        for checkpoint in out.glob("checkpoint-*.pt"):
            checkpoint.unlink()
    return known


@dataclass(frozen=True)
class _Data:
    """Images and masks of the three parts."""

    parts: dict[str, Catalog]  # by name
    arrays: dict[str, tuple[np.ndarray, np.ndarray]]  # images uint8 [N, S, S, 3] and masks uint8 [N, S, S] of each part
    split: Split  # which lesion is where
    pixels: str  # name of the folder in the pixel cache; changes with the images

    @classmethod
    def of(
        cls,
        masked: Catalog,
        size: int,
        shares: tuple[float, float],
        seed: int,
        num_workers: int,
        progress: runs.Progress,
        say: Say,
    ) -> "_Data":
        """Decode, audit and split; ``shares`` are those of the validation and of the test part."""
        cache = runs.cache_folder()
        pixels = pixel_cache.build(masked, (size,), FRAMING, cache, num_workers=num_workers, progress=progress)
        report = audit(masked, pixels, progress)
        for line in report.in_brief():
            say(line)
        clean = lesion_masks.with_masks(report.clean(masked))
        split = holdout(clean, validation=shares[0], test=shares[1], seed=seed)
        prove(split, clean)
        parts, array = {name: split.part(clean, name) for name in PARTS}, pixels.array(size)
        arrays = {
            name: (array[pixels.rows(part.images)], lesion_masks.read(part, size, FRAMING, cache))
            for name, part in parts.items()
        }
        return cls(parts, arrays, split, pixels.folder.name)


def _learned(
    config: Config, data: _Data, out: Path, *, seed: int, device: str, progress: runs.Progress, say: Say
) -> dict[str, Any]:
    """Train, test and save; what is known of it."""
    segmenter = Segmenter(config)
    best = segmenter.fit(
        *data.arrays["train"], *data.arrays["validation"], seed=seed, folder=out, device=device, progress=progress
    )
    say(f"epoch {best['epoch']} is kept: validation Dice {best['validation_dice']:.3f}")
    predicted = segmenter.predict(data.arrays["test"][0], progress=progress)
    _examples(*data.arrays["test"], predicted, seed).save(out / "examples.png")
    data.split.save(out / "split.parquet")
    segmenter.save(out)
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "segmenter": digest_of(out),
        "config": config.model_dump(mode="json"),
        "fit": FRAMING,
        "seed": seed,
        "split": data.split.digest,
        "num_images": {name: len(part) for name, part in data.parts.items()},
        "training_seconds": sum(record["seconds"] for record in runs.read_log(out, "epoch")),
        **best,
        "level": LEVEL,
        "num_resamples": NUM_RESAMPLES,
        "test": _judged(data, predicted, seed),
    }


def read(source: str, path: Path | None, options: Mapping[str, Any]) -> Catalog:
    plugin = contracts.source(source)
    return plugin.read(path, plugin.configure(options, "options"))


def digest_of(folder: Path) -> str:
    """Of the segmenter's weights."""
    return runs.digest((folder / "weights.safetensors").read_bytes())


def _judged(data: _Data, predicted: np.ndarray, seed: int) -> dict[str, Any]:
    """Scores of the test part: ``all``, ``classes`` by name, ``same_outline`` (the mean training mask for every image).

    Each has ``dice``, ``jaccard``, their ``_interval`` (95 %, lesions resampled), ``num_images`` and ``num_lesions``.
    """
    truth, part = data.arrays["test"][1], data.parts["test"]
    same = lesion_masks.binary(data.arrays["train"][1].mean(0) > lesion_masks.LESION / 2)
    outline = _scores(np.broadcast_to(same, truth.shape), truth, part, seed)["all"]
    return {**_scores(predicted, truth, part, seed), "same_outline": outline}


def _scores(predicted: np.ndarray, true: np.ndarray, part: Catalog, seed: int) -> dict[str, Any]:
    """Means with intervals over all images and of each class; arrays uint8 [N, S, S] in the order of ``part``."""
    values = {"dice": dice(predicted, true), "jaccard": jaccard(predicted, true)}
    classes = {name: _means(values, part, part.labels == k, seed) for k, name in enumerate(part.classes)}
    return {"all": _means(values, part, np.ones(len(part), bool), seed), "classes": classes}


def _means(values: Mapping[str, np.ndarray], part: Catalog, rows: np.ndarray, seed: int) -> dict[str, Any]:
    """Mean of each measure over the images ``rows`` (bool [N]), and its interval from resampled lesions."""
    found: dict[str, Any] = {"num_images": int(rows.sum()), "num_lesions": len(set(part.groups[rows]))}
    if not rows.any():
        return found | dict.fromkeys(values) | {f"{name}_interval": None for name in values}
    _, first, lesions = np.unique(part.groups[rows].astype(str), return_index=True, return_inverse=True)
    strata, tails = part.labels[rows][first], ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    ones = np.ones(rows.sum())
    for name, value in values.items():
        entries = np.r_[value[rows], ones]
        places = np.r_[0 * lesions, 0 * lesions + 1], np.r_[lesions, lesions]
        matrix = csr_array((entries.astype(np.float32), places), shape=(2, len(first)))
        measure = resampling.Weighted(matrix, lambda counts: counts[0] / counts[1])
        drawn = resampling.bootstrap([[measure]], strata, NUM_RESAMPLES, seed)[0]
        found[name] = float(value[rows].mean())
        found[f"{name}_interval"] = [float(edge) for edge in np.quantile(drawn, tails)]
    return found


def _examples(images: np.ndarray, true: np.ndarray, predicted: np.ndarray, seed: int) -> Image.Image:
    """Rows of examples, drawn at random, worst and best by Dice: image, true outline, predicted outline."""
    values = dice(predicted, true)
    order = np.argsort(values, kind="stable")
    drawn = np.random.default_rng(seed).permutation(len(values))[:NUM_OF_A_KIND]
    kinds = {"random": drawn, "worst": order[:NUM_OF_A_KIND], "best": order[::-1][:NUM_OF_A_KIND]}

    def example(row: int) -> list[tuple[str, np.ndarray]]:
        outlines = ((true, TRUE_COLOUR), (predicted, PREDICTED_COLOUR))
        outlined = [("", _outlined(images[row], masks[row], colour)) for masks, colour in outlines]
        return [(f"Dice {values[row]:.3f}", images[row]), *outlined]

    shown = {kind: [example(row) for row in rows] for kind, rows in kinds.items()}
    note = "Each: the image, the true outline (green), the predicted outline (pink)."
    return sheets.paint(shown, images.shape[1], NUM_OF_A_KIND, note=note)


def _outlined(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """The image with the lesion's outermost pixels in a colour, uint8 [S, S, 3]."""
    found = np.array(image)
    found[(lesion_masks.boundary(mask) > 0) & (mask > 0)] = colour
    return found
