"""ISIC-2019: dermoscopy of eight diagnoses, as the challenge or as isic-cli delivers it.

Two layouts are understood. The *official* one holds ``ISIC_2019_Training_GroundTruth.csv``,
``ISIC_2019_Training_Metadata.csv`` and the images, packed in ``ISIC_2019_Training_Input.zip`` or unpacked. The *flat*
one is a download by isic-cli: ``ISIC_*.jpg`` beside ``metadata.csv``, whose diagnoses are mapped to the eight classes.

Image names are kept as they are: ``ISIC_0000004_downsampled`` is the official name of an image, not a variant of one.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field

from moulage import plugins
from moulage.data import table_values
from moulage.data.catalog import Catalog
from moulage.errors import DataError
from moulage.sources import _files, _tables

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
UNKNOWN = "UNK"

GROUND_TRUTH = "ISIC_2019_Training_GroundTruth.csv"
METADATA = "ISIC_2019_Training_Metadata.csv"
ARCHIVE = "ISIC_2019_Training_Input.zip"
FLAT_METADATA = "metadata.csv"

ATTRIBUTION = (
    "ISIC-2019 training set, CC BY-NC 4.0. HAM10000: ViDIR Group, Department of Dermatology, Medical University of "
    "Vienna (doi:10.1038/sdata.2018.161). BCN20000: Department of Dermatology, Hospital Clínic de Barcelona "
    "(arXiv:1908.02288). MSK: anonymous (arXiv:1710.05006, arXiv:1902.03368)."
)

# The archive's words for the eight classes, old (`diagnosis`) and present (levels `diagnosis_1` to `diagnosis_5`), in
# lower case. Two classes are whole branches of its tree: melanoma with metastases, benign vascular proliferations.
DIAGNOSES = {
    "melanoma": "MEL",
    "melanoma metastasis": "MEL",
    "malignant melanocytic proliferations (melanoma)": "MEL",
    "nevus": "NV",
    "basal cell carcinoma": "BCC",
    "actinic keratosis": "AK",
    "solar or actinic keratosis": "AK",
    "pigmented benign keratosis": "BKL",
    "seborrheic keratosis": "BKL",
    "solar lentigo": "BKL",
    "lichenoid keratosis": "BKL",
    "lichen planus like keratosis": "BKL",
    "dermatofibroma": "DF",
    "vascular lesion": "VASC",
    "angioma": "VASC",
    "angiokeratoma": "VASC",
    "pyogenic granuloma": "VASC",
    "benign soft tissue proliferations - vascular": "VASC",
    "squamous cell carcinoma": "SCC",
    "squamous cell carcinoma in situ": "SCC",
    "squamous cell carcinoma in situ, bowens disease": "SCC",
    "squamous cell carcinoma, invasive": "SCC",
    "squamous cell carcinoma, nos": "SCC",
}
DIAGNOSIS_COLUMNS = ("diagnosis", *(f"diagnosis_{level}" for level in range(1, 6)))


class Config(plugins.Options):
    """Options of the source ``isic2019``."""

    other_diagnoses: Literal["refuse", "exclude"] = Field(
        default="refuse",
        description="images of none of the eight classes (UNK, scar ...): list them and stop, or leave them out",
    )


def recognises(path: Path) -> bool:
    """The official label file, or a download of isic-cli: its table beside images of its names."""
    flat = (path / FLAT_METADATA).is_file() and next(path.glob("ISIC_*.jpg"), None) is not None
    return (path / GROUND_TRUTH).is_file() or flat


def read(path: Path | None, config: Config) -> Catalog:
    """Read labels, metadata and the list of images.

    ``source`` is the collection that the official lesion id names (HAM, BCN, MSK), else empty: the official files do
    not say where the images without a lesion id come from. In the flat layout it is the attribution. There, images of
    one patient are one group, since a patient may have several lesions.

    ``DataError``: no path or folder, neither layout, a wrong header, labels that are not one-hot, repeated images,
    diagnoses outside the eight classes unless they are excluded.
    """
    root = _files.existing_folder(path, "the folder of the ISIC-2019 files")
    labels = _files.first_of(root, GROUND_TRUTH, FLAT_METADATA)
    rows, note = _official(root) if labels.name == GROUND_TRUTH else _flat(root)
    _tables.check_names(rows["image"], labels)
    found, findings = _files.images(root, ARCHIVE, [GROUND_TRUTH, METADATA, FLAT_METADATA])
    rows["location"], unlabelled = _files.locate(list(rows["image"]), found, root)
    rows, excluded = _only_classes(rows, config, labels)
    return Catalog.build(rows, CLASSES, "isic2019", root, f"{note}{excluded}", unlabelled, findings)


def _official(root: Path) -> tuple[pd.DataFrame, str]:
    """Image, diagnosis, label ('' outside the classes) and metadata of the challenge's files, indexed by row."""
    truth = _tables.read_table(root / GROUND_TRUTH, ("image", *CLASSES))
    columns = ("image", "age_approx", "anatom_site_general", "lesion_id", "sex")
    metadata = _tables.read_table(_files.first_of(root, METADATA), columns)
    _tables.check_names(metadata["image"], root / METADATA)
    known = metadata.set_index("image").reindex(truth["image"]).fillna("").set_index(truth.index)
    diagnosis = _one_hot(truth, root / GROUND_TRUTH)
    rows = pd.DataFrame(
        {
            "image": truth["image"],
            "diagnosis": diagnosis,
            "label": diagnosis.where(diagnosis != UNKNOWN, ""),
            "lesion": known["lesion_id"],
            "source": known["lesion_id"].str.extract(r"^([A-Z]+)\d*_", expand=False),
            "age": known["age_approx"],
            "sex": known["sex"],
            "site": known["anatom_site_general"],
        }
    )
    return rows, ATTRIBUTION


def _one_hot(truth: pd.DataFrame, where: Path) -> pd.Series:
    """The one column of each row that is 1; ``DataError`` for the first row that is not one-hot."""
    columns = [name for name in (*CLASSES, UNKNOWN) if name in truth]
    values = truth[columns].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    good = np.isin(values, (0, 1)).all(axis=1) & (values.sum(axis=1) == 1)
    for number in truth.index[~good]:
        cells = truth.loc[number, columns].items()
        shown = ", ".join(f"{name} = {cell or 'empty'}" for name, cell in cells if cell not in ("0", "0.0"))
        raise DataError(
            f'{where}, row {number}: the label of image "{truth.loc[number, "image"]}" is not one-hot: '
            f"{shown or 'every class is 0'}.",
            "Exactly one class of each row must be 1 and the others 0.",
        )
    return pd.Series(np.array(columns, object)[values.argmax(axis=1)], index=truth.index)


def _flat(root: Path) -> tuple[pd.DataFrame, str]:
    """Image, diagnosis, label ('' outside the classes) and metadata of an isic-cli download, indexed by row."""
    where = root / FLAT_METADATA
    table = _tables.read_table(where, ("isic_id",))
    columns = [name for name in DIAGNOSIS_COLUMNS if name in table]
    if not columns:
        found = f"Found: {', '.join(table.columns)}."
        raise DataError(f"{where}: the header has no column diagnosis or diagnosis_1 to diagnosis_5.", found)
    lesion, patient = (_tables.optional(table, name).map(table_values.text) for name in ("lesion_id", "patient_id"))
    specific = table[columns].replace("", np.nan).ffill(axis=1)[columns[-1]]
    rows = pd.DataFrame(
        {
            "image": table["isic_id"],
            "diagnosis": specific.fillna("no diagnosis"),
            "label": _classify(table, columns, where),
            "lesion": lesion,
            "group": _tables.patients(lesion, patient),
            "source": _tables.optional(table, "attribution"),
            "age": _tables.optional(table, "age_approx"),
            "sex": _tables.optional(table, "sex"),
            "site": _tables.optional(table, "anatom_site_general"),
        }
    )
    licences = _listed(_tables.optional(table, "copyright_license"))
    return rows, f"ISIC Archive. Attribution: {_listed(rows['source'])}. Licences: {licences}."


def _classify(table: pd.DataFrame, columns: list[str], where: Path) -> np.ndarray:
    """The class that a row's diagnoses name, [N] of str, '' where they name none of the eight."""
    index = {words: CLASSES.index(name) for words, name in DIAGNOSES.items()}
    named = np.stack([table[column].str.lower().map(index).fillna(-1).to_numpy(np.int64) for column in columns])
    label = named.max(axis=0)
    for row in np.flatnonzero(((named >= 0) & (named != label)).any(axis=0)).tolist():
        both = " and ".join(CLASSES[k] for k in np.unique(named[:, row]) if k >= 0)
        raise DataError(
            f'{where}, row {table.index[row]}: image "{table["isic_id"].iloc[row]}" is called {both}.',
            f"Compare its columns {', '.join(columns)}.",
        )
    return np.array([*CLASSES, ""], object)[label]


def _only_classes(rows: pd.DataFrame, config: Config, where: Path) -> tuple[pd.DataFrame, str]:
    """The rows of the eight classes, and a sentence for the note about those that were left out."""
    other = rows["diagnosis"][rows["label"] == ""]
    if other.empty:
        return rows, ""
    listed = ", ".join(f"{name} ({count})" for name, count in other.value_counts().items())
    if config.other_diagnoses == "refuse":
        raise DataError(
            f"{where}: {len(other)} images are of none of the classes {', '.join(CLASSES)}: {listed}.",
            'Leave them out with the source\'s option other_diagnoses = "exclude".',
        )
    return rows[rows["label"] != ""], f" Left out, being of none of the eight classes: {listed}."


def _listed(values: Iterable[str]) -> str:
    return "; ".join(sorted({value for value in values if value})) or "unknown"
