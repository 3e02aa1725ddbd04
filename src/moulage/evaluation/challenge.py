"""Predictions as a file of the ISIC-2019 challenge, and the challenge's measures of such a file.

The form: columns ``image``, ``MEL``, ``NV``, ``BCC``, ``AK``, ``BKL``, ``DF``, ``VASC``, ``SCC``, ``UNK``; values in
0..1, above 0.5 where a class is called present (https://challenge.isic-archive.com/landing/2019/).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moulage import runs
from moulage.errors import DataError, nearest
from moulage.evaluation.prediction_files import check_columns
from moulage.evaluation.predictions import Predictions, first_true
from moulage.evaluation.unknown import of_logits, unknown_share

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
UNKNOWN = "UNK"
COLUMNS = (*CLASSES, UNKNOWN)
THRESHOLD = 0.5
NUM_NAMED = 3
LEAD = 1e-4
"""By how much the class that is said leads where it is not the most probable one: more than is rounded."""


def table_of(
    predictions: Predictions, validation: Predictions | None = None, score: str = "", share: float = 0.05
) -> pd.DataFrame:
    """The challenge's table of predictions; ``DataError`` for a class that it has not.

    A ``score`` of ``unknown.OF_LOGITS`` fills ``UNK`` with the chance that an image is of no known class, and takes it
    off the other columns (``unknown.unknown_share``, with the same classifier's predictions of the validation part);
    without one ``UNK`` is 0. The class that is said has the highest probability of the known ones.
    """
    for name in predictions.classes:
        if name not in CLASSES:
            raise DataError(f'The challenge has no class "{name}".', nearest(name, CLASSES))
    unknown = np.zeros(len(predictions))
    if score:
        if validation is None:
            raise DataError(f'"{score}" needs predictions of the validation part, to know what is usual.')
        unknown = unknown_share(of_logits(validation.logits, score), of_logits(predictions.logits, score), share)
    known = _called(predictions) * (1 - unknown)[:, None]
    columns = {name: np.zeros(len(predictions)) for name in CLASSES}
    columns |= {name: known[:, k] for k, name in enumerate(predictions.classes)}
    return pd.DataFrame({"image": predictions.images, **columns, UNKNOWN: unknown})


def _called(predictions: Predictions) -> np.ndarray:
    """Probabilities [N, K], with the least share of each image's moved to the class that is said so that it leads.

    The challenge takes the highest column for what is said, and the operating point may say a less probable class.
    """
    chance, rows = predictions.probabilities, np.arange(len(predictions))
    behind = chance.max(axis=1) - chance[rows, predictions.predicted]
    moved = np.where(behind > 0, behind + LEAD, 0)
    share = (moved / (1 + moved))[:, None]
    return chance * (1 - share) + share * np.eye(chance.shape[1])[predictions.predicted]


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a submission as CSV; values with six digits."""
    with runs.atomic(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6f")


def is_submission(path: Path) -> bool:
    """Whether a file has the columns that ``write`` gives, so that it may be written anew."""
    with path.open("rb") as stream:
        return stream.readline(200).decode(errors="replace").strip() == ",".join(("image", *COLUMNS))


def read(path: Path, truth: bool = False) -> pd.DataFrame:
    """A checked submission, or the ground truth, with all columns; one row an image.

    ``DataError``: no such file, a missing or strange column, an image twice, a value outside 0..1; of a truth: a row
    that is not of exactly one class.
    """
    try:
        check_columns(path, ",")
        table = pd.read_csv(path, dtype={"image": str}, encoding="utf-8-sig")
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{path} cannot be read: {str(error).strip().rstrip('.')}.") from None
    if UNKNOWN not in table:
        table[UNKNOWN] = 0.0
    for name in ("image", *COLUMNS):
        if name not in table:
            raise DataError(f'{path} lacks the column "{name}".', f"There are: {', '.join(map(str, table.columns))}.")
    if not len(table):
        raise DataError(f"{path} has no rows.")
    if (row := first_true(table["image"].duplicated().to_numpy())) is not None:
        raise DataError(f'{path}, row {row + 1}: image "{table["image"][row]}" is twice.')
    values = table[list(COLUMNS)].apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    if (row := first_true(~((values >= 0) & (values <= 1)).all(axis=1))) is not None:
        raise DataError(
            f'{path}, row {row + 1} (image "{table["image"][row]}"): a value is not between 0 and 1.',
            "Divide percentages by 100; of logits the challenge wants the sigmoid or the softmax.",
        )
    several = (values.sum(axis=1) != 1) | ~np.isin(values, (0, 1)).all(axis=1)
    if truth and (row := first_true(several)) is not None:
        raise DataError(f'{path}, row {row + 1} (image "{table["image"][row]}") is not of exactly one class.')
    return pd.concat([table["image"], pd.DataFrame(values, columns=list(COLUMNS))], axis=1)


def score(submission: pd.DataFrame, truth: pd.DataFrame) -> dict[str, Any]:
    """The challenge's measures of a submission, which has every image of the truth (else ``DataError``), in any order.

    Returns:
        ``balanced_accuracy``: mean over the classes that occur of the share of their images whose own column is the
        highest (the first of equals), the challenge's goal measure. ``num_images``. ``classes``: for each that occurs
        ``support``, ``auc``, ``average_precision``, and at 0.5 ``sensitivity``, ``specificity``; None where undefined.
        ``mean``: of each of these over the classes where it is defined.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    own = submission.set_index("image")
    missing = [image for image in truth["image"] if image not in own.index]
    if missing:
        more = f" and {len(missing) - NUM_NAMED} more" if len(missing) > NUM_NAMED else ""
        raise DataError(f"The submission lacks {', '.join(missing[:NUM_NAMED])}{more}.", "Predict every image.")
    values = own.loc[truth["image"], list(COLUMNS)].to_numpy(np.float64)
    right = truth[list(COLUMNS)].to_numpy(np.float64) == 1
    chosen = values.argmax(axis=1)
    found: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(COLUMNS):
        own_class, called = right[:, k], values[:, k] > THRESHOLD
        if not own_class.any():
            continue
        both = not own_class.all()
        found[name] = {
            "support": int(own_class.sum()),
            "recall": float((chosen[own_class] == k).mean()),
            "auc": float(roc_auc_score(own_class, values[:, k])) if both else None,
            "average_precision": float(average_precision_score(own_class, values[:, k])),
            "sensitivity": float(called[own_class].mean()),
            "specificity": float((~called[~own_class]).mean()) if both else None,
        }
    keys = ("auc", "average_precision", "sensitivity", "specificity")
    defined = {key: [v for row in found.values() if (v := row[key]) is not None] for key in keys}
    return {
        "num_images": len(truth),
        "balanced_accuracy": float(np.mean([row["recall"] for row in found.values()])),
        "mean": {key: float(np.mean(of)) if of else None for key, of in defined.items()},
        "classes": found,
    }
