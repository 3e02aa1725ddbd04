"""Predict the lesion masks of images that have none, with a segmenter that ``learn`` has trained.

    OUT     <image>_segmentation.png ...  masks.csv  predicted.json

Images are squashed to squares, so that a mask covers the whole photograph: stretched to the photograph's width and
height it fits.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from moulage import runs
from moulage.data import pixels as pixel_cache
from moulage.data import png
from moulage.data.masks import PREDICTED, TABLE
from moulage.data.pixel_writer import OK
from moulage.data.pixels import Pixels
from moulage.data.split import Split
from moulage.errors import DataError, RunError
from moulage.masks.learn import FRAMING, Say, digest_of, read
from moulage.masks.segmenter import Segmenter

CHUNK = 256  # images that are predicted at once; a resumed prediction makes the same chunks
PREFIX = "moulage:"  # of the keywords of a mask's texts
SUFFIX = "_segmentation.png"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")


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
    that this function did not write is never overwritten; ``out`` may hold others.

    The rest of the arguments is as of ``learn_masks``, which wrote ``folder``; no mask is looked at. Returns numbers of
    masks (``num_new``: predicted by this call; ``num_seen``: of images that the segmenter was trained on or chosen by),
    ``folder``, ``median_area_share`` and ``unusable`` (image -> what is wrong with it).

    Raises:
        RunError: ``folder`` holds no segmenter; or ``out`` is in use, or holds a file that is in the way.
        DataError: the data cannot be read, no image can be used, or a name makes no file name.
    """
    segmenter = Segmenter.load(folder, device)
    found, size = read(source, path, options), segmenter.config.size
    masks = _Masks(out, digest_of(folder), size)
    names = file_names(found.images)
    masks.check_free()
    runs.claim(out)
    with runs.lock(out):
        pixels = pixel_cache.build(
            found, (size,), FRAMING, runs.cache_folder(), num_workers=num_workers, progress=progress
        )
        bad = pixels.scan[pixels.scan["status"] != OK]
        if len(bad) == len(found):
            raise DataError(f"No image of {found.name} can be used: {pixels.scan['message'][0]}.", "Check --data.")
        split = Split.load(folder / "split.parquet").table
        seen = sorted(set(split.loc[split["part"] != "test", "image"]) & set(found.images))
        about = {"format": runs.FORMAT, "segmenter": masks.segmenter, "size": size, "fit": FRAMING, "seen": seen}
        runs.write_json(out / PREDICTED, about)
        table, num_new = _written(masks, segmenter, pixels, names, progress)
        with runs.atomic(out / TABLE) as temporary:
            table.to_csv(temporary, index=False)
    unusable = {str(image): str(why) for image, why in zip(bad["image"], bad["message"], strict=True)}
    for image, message in unusable.items():
        say(f"{image}: no mask, {message}")
    return {
        "folder": str(out),
        "num_images": len(table),
        "num_new": num_new,
        "num_empty": int((table["num_components"] == 0).sum()),
        "num_in_pieces": int((table["num_components"] > 1).sum()),
        "median_area_share": float(table["area_share"].median()),
        "num_seen": int(table["image"].isin(seen).sum()),
        "unusable": unusable,
    }


def _written(
    masks: "_Masks", segmenter: Segmenter, pixels: Pixels, names: list[str], progress: runs.Progress
) -> tuple[pd.DataFrame, int]:
    """Predict and write what is not there yet; the rows of ``masks.csv``, and how many masks are new."""
    scan, array = pixels.scan, pixels.array(masks.size)
    good = np.flatnonzero(scan["status"] == OK)
    listed: list[dict[str, Any]] = []
    num_new = 0
    for start in range(0, len(good), CHUNK):
        chosen = good[start : start + CHUNK]
        known = [masks.finished(names[row], str(scan["sha256"][row])) for row in chosen]
        new = segmenter.predict(array[chosen]) if any(mask is None for mask in known) else array[:0, ..., 0]
        for i, row in enumerate(chosen):
            mask = known[i]
            if mask is None:
                mask, num_new = new[i], num_new + 1
                masks.write(names[row], str(scan["sha256"][row]), mask)
            listed.append({"image": scan["image"][row], "path": names[row], **_shape_of(mask)})
        progress(start + len(chosen), len(good), "masks")
    return pd.DataFrame(listed), num_new


@dataclass(frozen=True)
class _Masks:
    """A folder of masks, uint8 [size, size], by one segmenter (its digest); files of others are left as they are."""

    out: Path
    segmenter: str
    size: int

    def check_free(self) -> None:
        """Raise ``RunError`` where the folder holds files that are in the way: the user's, or of another segmenter."""
        if (self.out / PREDICTED).exists():
            about = runs.read_json(self.out / PREDICTED)
            self._check_ours(self.out / PREDICTED, about.get("segmenter") if isinstance(about, dict) else None)
        elif (self.out / TABLE).exists():
            self._check_ours(self.out / TABLE, None)

    def finished(self, name: str, image: str) -> np.ndarray | None:
        """The mask of this very image (its digest), where it is there already; ``RunError`` where a user's file is."""
        path = self.out / name
        if not path.exists():
            return None
        try:
            mask, text = png.read(path)
        except DataError:
            mask, text = np.empty(0), {}
        self._check_ours(path, text.get(f"{PREFIX}segmenter"))
        return mask if text.get(f"{PREFIX}image") == image and mask.shape == (self.size, self.size) else None

    def write(self, name: str, image: str, mask: np.ndarray) -> None:
        png.write(self.out / name, mask, {f"{PREFIX}segmenter": self.segmenter, f"{PREFIX}image": image})

    def _check_ours(self, path: Path, segmenter: str | None) -> None:
        if segmenter is None:
            raise RunError(
                f"{path} is in the way: `moulage masks predict` did not write it.",
                "It is left as it is. Name another folder with --out, or move the file.",
            )
        if segmenter != self.segmenter:
            raise RunError(f"{path} was predicted by another segmenter.", "Name another folder with --out.")


def file_names(images: np.ndarray) -> list[str]:
    """The file name of each mask; ``DataError`` where one leads out of the folder, or two images would share one."""
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


def _shape_of(mask: np.ndarray) -> dict[str, Any]:
    lesion = mask > 0
    labelled: Any = ndimage.label(lesion)
    return {"area_share": round(float(lesion.mean()), 6), "num_components": int(labelled[1])}
