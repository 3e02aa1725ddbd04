"""MedMNIST: any of its two-dimensional sets with one label an image, from the official .npz file.

Only labels and array headers are read; the pixels stay in the file. The official parts are kept in ``official_part``.
MedMNIST publishes no patient or lesion ids, so every image is its own group. DermaMNIST's classes are called as in
``ham10000``, whose photographs they are; a few long names of other sets are shortened.
"""

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field

from moulage import plugins
from moulage.data.catalog import Catalog
from moulage.data.reader import array_header
from moulage.errors import DataError
from moulage.sources import _files

PARTS = {"train": "train", "val": "validation", "test": "test"}
MAX_IMAGES = 5_000_000
"""More are refused; the largest set has 236,386."""
MAX_CLASSES = 10_000
"""A larger label is none."""
ARRAYS = tuple(f"{part}_{kind}" for part in PARTS for kind in ("images", "labels"))

_ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right"),
    *("liver", "lung-left", "lung-right", "pancreas", "spleen"),
)
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "bloodmnist": (
        *("basophil", "eosinophil", "erythroblast", "immature granulocyte"),
        *("lymphocyte", "monocyte", "neutrophil", "platelet"),
    ),
    "breastmnist": ("malignant", "normal or benign"),
    "dermamnist": ("AKIEC", "BCC", "BKL", "DF", "MEL", "NV", "VASC"),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
    "pathmnist": (
        *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa"),
        *("cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
    ),
    "pneumoniamnist": ("normal", "pneumonia"),
    "retinamnist": ("0", "1", "2", "3", "4"),
    "tissuemnist": (
        *("collecting duct or connecting tubule", "distal convoluted tubule", "glomerular endothelial cells"),
        *("interstitial endothelial cells", "leukocytes", "podocytes", "proximal tubule segments"),
        "thick ascending limb",
    ),
}
"""Class names in the order of their labels, by the part of the file name before the first '_' (dermamnist_64.npz)."""

NOTE = "MedMNIST v2 (doi:10.1038/s41597-022-01721-8)."
DERMAMNIST_LEAK = (
    " DermaMNIST's official test shares lesions with its training part: 693 of 2,005 test images "
    "(doi:10.1038/s41597-025-04382-5). Scores on it are too good; DermaMNIST-C is the corrected split."
)


class Config(plugins.Options):
    """Options of the source ``medmnist``."""

    class_names: tuple[str, ...] = Field(
        default=(),
        description="names of the labels 0, 1 ...; empty: the official names if the file tells the set, else numbers",
    )


def recognises(path: Path) -> bool:
    """A ``.npz`` file, or a folder with one of them and no other file."""
    if path.is_dir():
        return [entry.suffix.lower() for entry in path.iterdir() if entry.is_file()] == [".npz"]
    return path.suffix.lower() == ".npz"


def read(path: Path | None, config: Config) -> Catalog:
    """Read labels and array headers of one ``.npz`` file, or of the only one in a folder.

    Images are called ``train_00000``, ``val_00000`` or ``test_00000`` after their place in the file. ``DataError``: no
    such file, not a MedMNIST file, 3-D, several labels an image, labels beyond the class names.
    """
    file = _npz(_files.existing(path, "a MedMNIST .npz file"))
    labels = _labels(file)
    classes = _classes(file, config, max(int(values.max(initial=0)) for values in labels.values()))
    parts = [
        pd.DataFrame(
            {
                "image": [f"{part}_{row:05d}" for row in range(len(values))],
                "label": np.array(classes, object)[values],
                "location": [f"{file.name}::{part}_images::{row}" for row in range(len(values))],
                "official_part": PARTS[part],
            }
        )
        for part, values in labels.items()
    ]
    leaks = file.stem.lower().startswith("dermamnist") and not any(
        word in file.stem.lower() for word in ("corrected", "extended")
    )
    note = NOTE + DERMAMNIST_LEAK if leaks else NOTE
    return Catalog.build(pd.concat(parts, ignore_index=True), classes, file.stem, file.parent, note)


def _npz(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob("*.npz"))
    if len(found) != 1:
        held = ", ".join(file.name for file in found) or "none"
        raise DataError(f"{path} should hold one .npz file, it holds {held}.", "Name the file with --data PATH.")
    return found[0]


def _labels(file: Path) -> dict[str, np.ndarray]:
    """The labels of each part, [N] int64, checked against the headers of the images."""
    try:
        with zipfile.ZipFile(file) as archive:
            held = {name.removesuffix(".npy") for name in archive.namelist()}
            missing = [name for name in ARRAYS if name not in held]
            if missing:
                raise DataError(
                    f"{file} has no array {', '.join(missing)}.",
                    f"Found: {', '.join(sorted(held)) or 'nothing'}. Expected: {', '.join(ARRAYS)}.",
                )
            return {part: _part(archive, part, file) for part in PARTS}
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError) as error:
        raise DataError(f"{file} cannot be read as .npz: {error}.", "Download it again.") from None


def _part(archive: zipfile.ZipFile, part: str, file: Path) -> np.ndarray:
    """The labels of one part, [N] int64; what the headers say is checked before a label is read."""
    with archive.open(f"{part}_images.npy") as stream:
        shape, _, dtype = array_header(stream)
        stated = stream.tell() + math.prod(shape)
    if len(shape) == 5 or (len(shape) == 4 and shape[3] != 3):
        raise DataError(f"{file}: {part}_images is three-dimensional: {shape}.", "Only two-dimensional sets are read.")
    if len(shape) not in (3, 4) or dtype != np.uint8:
        raise DataError(f"{file}: {part}_images is {dtype} {shape}.", "Expected: uint8 [N, H, W] or [N, H, W, 3].")
    if shape[0] > MAX_IMAGES or archive.getinfo(f"{part}_images.npy").file_size < stated:
        held = archive.getinfo(f"{part}_images.npy").file_size
        said = f"{file}: {part}_images claims {shape[0]:,} images in {stated:,} bytes, and holds {held:,}."
        raise DataError(said, f"No more than {MAX_IMAGES:,} are read. Download it again.")
    with archive.open(f"{part}_labels.npy") as stream:
        of_labels, _, kind = array_header(stream)
    if len(of_labels) == 2 and of_labels[1] > 1:
        hint = "Only sets with one label an image are read."
        raise DataError(f"{file}: {part}_labels has {of_labels[1]} labels an image.", hint)
    whole = "Expected: one whole number from 0 up for each image."
    if math.prod(of_labels) != shape[0] or not (np.issubdtype(kind, np.integer) or kind.kind == "O"):
        raise DataError(f"{file}: {part}_labels is {kind} {of_labels} for {shape[0]} images.", whole)
    with archive.open(f"{part}_labels.npy") as stream:
        labels = np.lib.format.read_array(stream, allow_pickle=False)
    if (labels < 0).any() or (labels > MAX_CLASSES).any():
        raise DataError(f"{file}: {part}_labels has {labels.min()} to {labels.max()}.", whole)
    return labels.reshape(-1).astype(np.int64)


def _classes(file: Path, config: Config, largest: int) -> tuple[str, ...]:
    official = CLASS_NAMES.get(file.stem.lower().split("_")[0])
    classes = config.class_names or official or tuple(str(label) for label in range(largest + 1))
    if len(classes) <= largest:
        raise DataError(
            f"{file} has the label {largest}, but there are {len(classes)} class names: {', '.join(classes)}.",
            "Name all classes with the source's option class_names.",
        )
    return classes
