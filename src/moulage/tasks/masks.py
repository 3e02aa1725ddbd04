"""Lesion masks for images that have none: learn to find the lesion on one source, predict for any other.

    OUT of learn_masks      config.json  weights.safetensors  split.parquet  segmentation.json  examples.png  log.jsonl
    OUT of predict_masks    <image>_segmentation.png ...  masks.csv  predicted.json

Images are squashed to squares on both sides, so that a mask covers the whole photograph: stretched to the photograph's
width and height it fits.
"""

import contextlib
import datetime
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, PngImagePlugin
from scipy import ndimage
from scipy.sparse import csr_array

from moulage import plugins, runs
from moulage.data import masks as lesion_masks
from moulage.data import pixels as pixel_cache
from moulage.data.audit import audit
from moulage.data.catalog import Catalog
from moulage.data.chunks import OK
from moulage.data.split import PARTS, Split, holdout, prove
from moulage.errors import DataError, RunError
from moulage.evaluation import resampling

FIT = "squash"
NUM_RESAMPLES = 2000
LEVEL = 0.95
NUM_OF_A_KIND = 4
"""Examples drawn at random, and of the worst and of the best masks."""
CHUNK = 256
"""Images that are predicted at once; a resumed prediction makes the same chunks."""
PREDICTED = "predicted.json"
TABLE = "masks.csv"
SUFFIX = "_segmentation.png"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
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

    Args:
        source: source plug-in; images without a mask are left out.
        path: where its data are.
        options: its options.
        out: folder that gets the segmenter, ``segmentation.json`` and ``examples.png``.
        settings: options of the segmenter, see ``segmentation.Config``.
        validation, test: shares of the images.
        seed: of the split, the training and the intervals.
        device: where the network runs.
        num_workers: processes that decode.
        progress: images read and compared, steps trained.
        say: told, line by line, what is done.

    Returns:
        What ``segmentation.json`` holds: among others ``test``, which has ``all``, ``classes`` (by name) and
        ``same_outline`` (the mean training mask, given to every image), each with ``dice``, ``jaccard``,
        ``dice_interval`` and ``jaccard_interval`` (95 %, lesions resampled), ``num_images`` and ``num_lesions``.

    Raises:
        RecipeError: the source, an option, segmentation-models-pytorch or the weights are not there.
        DataError: no image has a mask, or the data cannot be read or split.
        RunError: ``out`` holds a segmenter of other settings or data, or is in use.
    """
    from moulage import segmentation
    from moulage.training import pick_device, reproducible

    config = plugins.validate(segmentation.Config, dict(settings or {}), "segmenter")
    segmentation.check_installed(config)
    found = _read(source, path, options)
    masked = found.take((found.table["mask"] != "").to_numpy())
    if not len(masked):
        lesion_masks.check(found)
    say(f"{found.name}: {len(found):,} images, {len(masked):,} with a mask")
    with runs.lock(out):
        cache = runs.cache_folder()
        pixels = pixel_cache.build(masked, (config.size,), FIT, cache, num_workers=num_workers, progress=progress)
        clean = audit(masked, pixels, progress).clean(masked)
        split = holdout(clean, validation=validation, test=test, seed=seed)
        prove(split, clean)
        masks = lesion_masks.read(masked, config.size, FIT, cache)
        key = runs.digest(runs.FORMAT, config.model_dump(), seed, split.digest, pixels.folder.name)
        known = _finished_before(out, key)
        if known:
            return known
        array, data = pixels.array(config.size), {}
        for name in PARTS:
            rows = pixels.rows(split.part(clean, name).images)
            data[name] = array[rows], masks[rows]
        say(", ".join(f"{len(truth):,} images {name}" for name, (_, truth) in data.items()))
        segmenter, where = segmentation.Segmenter(config), str(pick_device(device))
        best = segmenter.fit(
            *data["train"], *data["validation"], seed=seed, folder=out, device=where, progress=progress
        )
        say(f"epoch {best['epoch']} is kept: validation Dice {best['validation_dice']:.3f}")
        with reproducible("test", device=where):
            predicted = segmenter.predict(data["test"][0], progress=progress)
        same = lesion_masks.binary(data["train"][1].mean(0) > lesion_masks.LESION / 2)
        images, truth = data["test"]
        part = split.part(clean, "test")
        scored = _scores(predicted, truth, part, seed)
        scored["same_outline"] = _scores(np.broadcast_to(same, truth.shape), truth, part, seed)["all"]
        _examples(images, truth, predicted, seed).save(out / "examples.png")
        split.save(out / "split.parquet")
        segmenter.save(out)
        summary = {
            "format": runs.FORMAT,
            "key": key,
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "data": {"name": found.name, "source": source, "note": found.note, "num_images": len(masked)},
            "segmenter": _digest_of(out),
            "config": config.model_dump(mode="json"),
            "fit": FIT,
            "seed": seed,
            "split": split.digest,
            "num_images": {name: len(truth) for name, (_, truth) in data.items()},
            "training_seconds": sum(record["seconds"] for record in runs.read_log(out, "epoch")),
            **best,
            "level": LEVEL,
            "num_resamples": NUM_RESAMPLES,
            "test": scored,
        }
        runs.write_json(out / "segmentation.json", summary)
        for checkpoint in out.glob("checkpoint-*.pt"):
            checkpoint.unlink()
    return summary


def predict_masks(
    folder: Path,
    source: str,
    path: Path | None,
    options: Mapping[str, Any],
    out: Path,
    *,
    device: str = "auto",
    num_workers: int = 1,
    progress: runs.Progress = runs.no_progress,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Write a mask of each image of a source: PNG of one channel, 255 on the lesion, at the segmenter's size.

    ``out/<image>_segmentation.png``, where the suffix of the image's own name is left out unless two images then have
    one name, and ``out/masks.csv``: ``image``, ``path`` (below ``out``), ``area_share`` (of the lesion, 0..1) and
    ``num_components`` (pieces, of pixels that share a side). The same call goes on where an earlier one stopped. A file
    that this function did not write is never overwritten.

    Args:
        folder: a segmenter, written by ``learn_masks``.
        source: source plug-in that reads the images; their masks, where they have any, are not looked at.
        path: where its data are.
        options: its options.
        out: folder for the masks; it may hold other files.
        device: where the network runs.
        num_workers: processes that decode.
        progress: images read, then predicted.
        say: told, line by line, what is done.

    Returns:
        ``folder``, ``num_images`` (masks), ``num_new`` (predicted by this call), ``num_empty``, ``median_area_share``,
        ``num_in_pieces`` (several components), ``num_seen`` (images that the segmenter was trained on or chosen by)
        and ``unusable`` (image -> what is wrong with it).

    Raises:
        RunError: ``folder`` holds no segmenter; or ``out`` is in use, or holds a file that is in the way.
        DataError: the data cannot be read, no image can be used, or a name makes no file name.
    """
    from moulage.segmentation import Segmenter
    from moulage.training import pick_device, reproducible

    where = str(pick_device(device))
    segmenter, digest = Segmenter.load(folder, where), _digest_of(folder)
    found, size = _read(source, path, options), segmenter.config.size
    names = file_names(found.images)
    _check_free(out, digest)
    with runs.lock(out):
        pixels = pixel_cache.build(found, (size,), FIT, runs.cache_folder(), num_workers=num_workers, progress=progress)
        good = np.flatnonzero(pixels.scan["status"] == OK)
        scan, array, rows, num_new = pixels.scan, pixels.array(size), [], 0
        if not len(good):
            raise DataError(f"No image of {found.name} can be used: {scan['message'][0]}.", "Check --data.")
        runs.write_json(out / PREDICTED, {"format": runs.FORMAT, "segmenter": digest, "size": size, "fit": FIT})
        for start in range(0, len(good), CHUNK):
            chosen = good[start : start + CHUNK]
            paths = [out / names[row] for row in chosen]
            facts = [{"segmenter": digest, "image": str(scan["sha256"][row])} for row in chosen]
            have = [_finished(*pair, size) for pair in zip(paths, facts, strict=True)]
            if any(mask is None for mask in have):
                with reproducible("masks", device=where):
                    new = segmenter.predict(array[chosen])
                for i in [i for i, mask in enumerate(have) if mask is None]:
                    _write(paths[i], new[i], facts[i])
                    have[i], num_new = new[i], num_new + 1
            for row, mask in zip(chosen, have, strict=True):
                rows.append((found.images[row], names[row], *_shape_of(mask)))  # type: ignore[arg-type]
            progress(start + len(chosen), len(good), "masks")
        table = pd.DataFrame(rows, columns=["image", "path", "area_share", "num_components"])
        with runs.atomic(out / TABLE) as temporary:
            table.to_csv(temporary, index=False)
    bad = scan[scan["status"] != OK]
    for image, message in zip(bad["image"], bad["message"], strict=True):
        say(f"{image}: no mask, {message}")
    seen = _seen(folder)
    return {
        "folder": str(out),
        "num_images": len(table),
        "num_new": num_new,
        "num_empty": int((table["num_components"] == 0).sum()),
        "num_in_pieces": int((table["num_components"] > 1).sum()),
        "median_area_share": float(table["area_share"].median()),
        "num_seen": int(table["image"].isin(seen).sum()),
        "unusable": {str(image): str(why) for image, why in zip(bad["image"], bad["message"], strict=True)},
    }


def with_predicted(catalog: Catalog, folder: Path) -> Catalog:
    """The catalog with the masks that ``predict_masks`` wrote to ``folder`` in place of its own; others get none.

    Read them with ``data.masks.read`` and ``fit="squash"``, as they were made.

    Raises:
        RunError: the folder holds no predicted masks.
    """
    if not (folder / PREDICTED).exists() or not (folder / TABLE).exists():
        raise RunError(f"{folder} holds no predicted masks.", "Make them with `moulage masks predict`.")
    table = pd.read_csv(folder / TABLE, dtype={"image": str, "path": str}, keep_default_na=False)
    paths = dict(zip(table["image"], table["path"], strict=True))
    base = folder.absolute()
    return catalog.with_columns(mask=[str(base / paths[name]) if name in paths else "" for name in catalog.images])


def file_names(images: np.ndarray) -> list[str]:
    """The file name of each image's mask, below the folder of masks.

    Raises:
        DataError: a name leads out of the folder, or two images would share a file.
    """
    stems = [_stem(str(name)) for name in images]
    count = Counter(stems)
    names = [(stem if count[stem] == 1 else str(name)) + SUFFIX for name, stem in zip(images, stems, strict=True)]
    for image, name in zip(images, names, strict=True):
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f'The image name "{image}" makes no file name for a mask.', "Rename the image.")
    again = [name for name, number in Counter(names).items() if number > 1]
    if again:
        raise DataError(f"Two images would have the mask {again[0]}.", "Rename one of the images.")
    return names


def _stem(name: str) -> str:
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in IMAGE_SUFFIXES else name


def _read(source: str, path: Path | None, options: Mapping[str, Any]) -> Catalog:
    return plugins.load("sources", source).read(path, plugins.configure("sources", source, dict(options), "options"))


def _digest_of(folder: Path) -> str:
    """Of the segmenter's weights."""
    return runs.digest((folder / "weights.safetensors").read_bytes())


def _finished_before(out: Path, key: str) -> dict[str, Any] | None:
    """The summary of an earlier call with the same key.

    Raises:
        RunError: the folder holds a segmenter of another key.
    """
    if not (out / "segmentation.json").exists():
        return None
    known = runs.read_json(out / "segmentation.json")
    if known.get("key") != key:
        raise RunError(f"{out} holds a segmenter of other data, options or seed.", "Name another folder with --out.")
    return known


def _seen(folder: Path) -> set[str]:
    """Names of the images that trained the segmenter or chose its epoch."""
    table = Split.load(folder / "split.parquet").table
    return set(table.loc[table["part"] != "test", "image"])


# Scores


def _scores(predicted: np.ndarray, true: np.ndarray, part: Catalog, seed: int) -> dict[str, Any]:
    """Means with intervals over all images and of each class; arrays uint8 [N, S, S] in the order of ``part``."""
    from moulage.segmentation import dice, jaccard

    values = {"dice": dice(predicted, true), "jaccard": jaccard(predicted, true)}
    labels = part.labels
    classes = {name: _means(values, part, labels == k, seed) for k, name in enumerate(part.classes)}
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
    from moulage.segmentation import dice

    values = dice(predicted, true)
    order = np.argsort(values, kind="stable")
    drawn = np.random.default_rng(seed).permutation(len(values))[:NUM_OF_A_KIND]
    kinds = {"random": drawn, "worst": order[:NUM_OF_A_KIND], "best": order[::-1][:NUM_OF_A_KIND]}
    side, line, gap = images.shape[1], 14, 4
    width = NUM_OF_A_KIND * (3 * (side + 1) + gap)
    canvas = Image.new("RGB", (width, len(kinds) * (side + line + gap) + line), "white")
    pen = ImageDraw.Draw(canvas)
    for i, (kind, rows) in enumerate(kinds.items()):
        top = i * (side + line + gap)
        for j, row in enumerate(rows):
            left = j * (3 * (side + 1) + gap)
            pen.text((left, top), f"{kind}: Dice {values[row]:.3f}", "black")
            outlined = (_outlined(images[row], true[row], TRUE_COLOUR), _outlined(images[row], predicted[row]))
            for k, picture in enumerate((images[row], *outlined)):
                canvas.paste(Image.fromarray(picture), (left + k * (side + 1), top + line))
    words = "Each: the image, the true outline (green), the predicted outline (pink)."
    pen.text((0, canvas.height - line), words, "black")
    return canvas


def _outlined(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int] = PREDICTED_COLOUR) -> np.ndarray:
    """The image with the lesion's outermost pixels in a colour, uint8 [S, S, 3]."""
    found = np.array(image)
    found[(lesion_masks.boundary(mask) > 0) & (mask > 0)] = colour
    return found


# Files of predicted masks


def _shape_of(mask: np.ndarray) -> tuple[float, int]:
    """Share of the area that is lesion, and the number of its pieces."""
    labelled: Any = ndimage.label(mask)
    return round(float((mask > 0).mean()), 6), int(labelled[1])


def _check_free(out: Path, segmenter: str) -> None:
    """Raise ``RunError`` where ``out`` holds files that are in the way: the user's, or of another segmenter."""
    if (out / PREDICTED).exists():
        about = runs.read_json(out / PREDICTED)
        if not isinstance(about, dict) or "segmenter" not in about:
            raise _in_the_way(out / PREDICTED)
        if about["segmenter"] != segmenter:
            raise _of_another(out)
    elif (out / TABLE).exists():
        raise _in_the_way(out / TABLE)


def _in_the_way(path: Path) -> RunError:
    return RunError(
        f"{path} is in the way: `moulage masks predict` did not write it.",
        "It is left as it is. Name another folder with --out, or move the file.",
    )


def _of_another(path: Path) -> RunError:
    return RunError(f"{path} was predicted by another segmenter.", "Name another folder with --out.")


def _finished(path: Path, facts: Mapping[str, str], size: int) -> np.ndarray | None:
    """The mask of this very image by this segmenter, uint8 [size, size], where it is there already.

    Raises:
        RunError: another file is in its place.
    """
    if not path.exists():
        return None
    try:
        with Image.open(path) as picture:
            mask, text = np.array(picture), getattr(picture, "text", {})
    except (OSError, SyntaxError, ValueError):
        raise _in_the_way(path) from None
    if "moulage:segmenter" not in text:
        raise _in_the_way(path)
    if text["moulage:segmenter"] != facts["segmenter"]:
        raise _of_another(path)
    return mask if text.get("moulage:image") == facts["image"] and mask.shape == (size, size) else None


def _write(path: Path, mask: np.ndarray, facts: Mapping[str, str]) -> None:
    """Write one PNG under a temporary name and rename it; not forced to the disk one by one."""
    info = PngImagePlugin.PngInfo()
    for key, value in facts.items():
        info.add_text(f"moulage:{key}", value)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(temporary, "PNG", pnginfo=info)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise RunError(
            f"Cannot write {path}: {error.strerror or error}.",
            "Free some space or fix the permissions, then run the same command: finished masks are kept.",
        ) from None
