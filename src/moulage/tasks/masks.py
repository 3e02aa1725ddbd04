"""Predict the lesion masks of images that have none, with a segmenter that ``tasks.segmentation`` has trained.

    OUT     <image>_segmentation.png ...  masks.csv  predicted.json

Images are squashed to squares, so that a mask covers the whole photograph: stretched to the photograph's width and
height it fits.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from moulage import runs
from moulage.data import pixels as pixel_cache
from moulage.data import png
from moulage.data.catalog import Catalog
from moulage.data.chunks import OK
from moulage.data.split import Split
from moulage.errors import DataError, RunError
from moulage.tasks.segmentation import FIT, Say, digest_of, read

CHUNK = 256
"""Images that are predicted at once; a resumed prediction makes the same chunks."""
PREDICTED = "predicted.json"
TABLE = "masks.csv"
PREFIX = "moulage:"
"""Of the keywords of a mask's texts."""
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
    from moulage.devices import pick_device
    from moulage.randomness import reproducible
    from moulage.segmentation import Segmenter

    where = str(pick_device(device))
    segmenter, digest = Segmenter.load(folder, where), digest_of(folder)
    found, size = read(source, path, options), segmenter.config.size
    names = file_names(found.images)
    _check_free(out, digest)
    with runs.lock(out):
        pixels = pixel_cache.build(found, (size,), FIT, runs.cache_folder(), num_workers=num_workers, progress=progress)
        good = np.flatnonzero(pixels.scan["status"] == OK)
        scan, array = pixels.scan, pixels.array(size)
        if not len(good):
            raise DataError(f"No image of {found.name} can be used: {scan['message'][0]}.", "Check --data.")
        runs.write_json(out / PREDICTED, {"format": runs.FORMAT, "segmenter": digest, "size": size, "fit": FIT})
        listed: list[dict[str, Any]] = []
        num_new = 0
        for start in range(0, len(good), CHUNK):
            chosen = good[start : start + CHUNK]
            paths = [out / names[row] for row in chosen]
            facts = [{"segmenter": digest, "image": str(scan["sha256"][row])} for row in chosen]
            masks = {i: _finished(path, fact, size) for i, (path, fact) in enumerate(zip(paths, facts, strict=True))}
            missing = [i for i, mask in masks.items() if mask is None]
            if missing:
                with reproducible("masks", device=where):
                    new = segmenter.predict(array[chosen])
                for i in missing:
                    masks[i] = new[i]
                    png.write(paths[i], new[i], {f"{PREFIX}{key}": value for key, value in facts[i].items()})
            num_new += len(missing)
            listed += [
                {"image": found.images[row], "path": names[row], **_shape_of(masks[i])} for i, row in enumerate(chosen)
            ]
            progress(start + len(chosen), len(good), "masks")
        table = pd.DataFrame(listed)
        with runs.atomic(out / TABLE) as temporary:
            table.to_csv(temporary, index=False)
    bad = scan[scan["status"] != OK]
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
        "num_seen": int(table["image"].isin(_seen(folder)).sum()),
        "unusable": unusable,
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


def _seen(folder: Path) -> set[str]:
    """Names of the images that trained the segmenter or chose its epoch."""
    table = Split.load(folder / "split.parquet").table
    return set(table.loc[table["part"] != "test", "image"])


def _shape_of(mask: np.ndarray | None) -> dict[str, Any]:
    """Share of the area that is lesion, and the number of its pieces."""
    lesion = np.asarray(mask) > 0
    labelled: Any = ndimage.label(lesion)
    return {"area_share": round(float(lesion.mean()), 6), "num_components": int(labelled[1])}


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
        mask, text = png.read(path)
    except DataError:
        raise _in_the_way(path) from None
    if f"{PREFIX}segmenter" not in text:
        raise _in_the_way(path)
    if text[f"{PREFIX}segmenter"] != facts["segmenter"]:
        raise _of_another(path)
    return mask if text.get(f"{PREFIX}image") == facts["image"] and mask.shape == (size, size) else None
