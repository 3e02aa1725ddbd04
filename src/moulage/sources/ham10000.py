"""HAM10000: dermoscopy of seven diagnoses with lesion masks, as Harvard Dataverse delivers it.

The folder holds ``HAM10000_metadata.csv`` (or ``.tab``, or without suffix), the images in ``HAM10000_images*.zip`` or
unpacked, and, where there are masks, ``HAM10000_segmentations_lesion_tschandl.zip`` or its files unpacked.

Class names are the upper-case ``dx`` codes. ``AKIEC`` is actinic keratosis *or* Bowen's disease; ISIC-2019 calls the
first AK and the second SCC, so AKIEC is not its AK. ``dx_type`` (how the diagnosis was confirmed) is not read, since it
tells the label away: every melanoma was confirmed by histology, and only naevi by follow-up.

These are the photographs of the HAM part of ISIC-2019: never train on one of the two sets and score on the other.
"""

from pathlib import Path

from moulage import plugins
from moulage.data.catalog import Catalog
from moulage.errors import DataError
from moulage.sources import _files, _tables

CLASSES = ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
TABLES = tuple(f"HAM10000_metadata{suffix}" for suffix in (".csv", ".tab", ".tsv", ""))
MASK_SUFFIX = "_segmentation"
NOTE = (
    "HAM10000, CC BY-NC 4.0: Tschandl, Rosendahl, Kittler (doi:10.1038/sdata.2018.161; doi:10.7910/DVN/DBW86T); masks: "
    "Tschandl et al. (doi:10.1038/s41591-020-0942-0). AKIEC joins actinic keratosis and Bowen's disease. The "
    "photographs are also in ISIC-2019."
)


class Config(plugins.Options):
    """The source ``ham10000`` has no options."""


def recognises(path: Path) -> bool:
    """One of its tables lies there."""
    return any((path / name).is_file() for name in TABLES)


def read(path: Path | None, config: Config) -> Catalog:
    """Read labels, metadata and the lists of images and masks.

    ``DataError``: no path or folder, no metadata, a wrong header, an unknown ``dx``, repeated images.
    """
    root = _files.existing_folder(path, "the folder of the HAM10000 files")
    where = _files.first_of(root, *TABLES)
    table = _tables.read_table(where, ("lesion_id", "image_id", "dx", "age", "sex", "localization"))
    _tables.check_names(table["image_id"], where)
    label = table["dx"].str.upper()
    for number in table.index[~label.isin(CLASSES)]:
        raise DataError(
            f'{where}, row {number}: image "{table.loc[number, "image_id"]}" has the dx "{table.loc[number, "dx"]}".',
            f"Valid: {', '.join(name.lower() for name in CLASSES)}.",
        )
    found, findings = _files.images(root, "HAM10000_*.zip", [where.name])
    images = {name: place for name, place in found.items() if not name.endswith(MASK_SUFFIX)}
    locations, unlabelled = _files.locate(list(table["image_id"]), images, root)
    rows = table.assign(
        image=table["image_id"],
        label=label,
        lesion=table["lesion_id"],
        source="HAM",
        site=table["localization"].replace("unknown", ""),
        sex=table["sex"].replace("unknown", ""),
        location=locations,
        mask=[found.get(name + MASK_SUFFIX, "") for name in table["image_id"]],
    )
    return Catalog.build(rows, CLASSES, "ham10000", root, NOTE, unlabelled, findings)
