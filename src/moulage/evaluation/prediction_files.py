"""Reads predictions of models from anywhere: CSV, TSV or Parquet, one row an image. ``docs/compare.md`` is for users.

    image, label, and prob_<class> or logit_<class> for every class       required
    group (or lesion), trial, model, fold, predicted, sha256               optional

Files that ``Predictions.save`` wrote are read too. What is missing or doubtful is an error that names file and row, or
a note; nothing is mended in silence.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from moulage.data import table_values
from moulage.errors import DataError, RunError, nearest
from moulage.evaluation import same_images
from moulage.evaluation.predictions import ARGMAX, Predictions, first_true

FLOOR = 1e-12
"""Smaller probabilities count as this one, so that they have a logarithm."""
SUM_TOLERANCE = 0.01
"""How far probabilities of an image may sum from 1: room for values rounded to three digits."""
MOST_SHARES = 0.05
"""Of the rows of logits, how many may look like shares of a whole by chance: more, and they are shares."""
MIN_ROWS = 10
"""Rows of logits between 0 and 1 all of them, from which that is no chance."""
GROUPS = ("group", "lesion")
TEXT = ("image", "label", "predicted", *GROUPS, "model", same_images.SHA256)
NUMBERS = ("trial", "fold")
KINDS = ("prob", "logit")
UNKNOWN_SPLIT = "unknown"
CHOSEN = (
    "It chose the epoch, and whatever was tuned, so its scores come out too good, and by more for what was tuned more. "
    "It must not be the evidence for a comparison: predict images that chose nothing."
)
"""What is said of predictions of a validation part."""
SUFFIXES = {".csv": ",", ".tsv": "\t", ".parquet": ""}


@dataclass(frozen=True)
class Models:
    """Fits of several models, and sentences on what was assumed."""

    fits: dict[str, list[Predictions]]
    notes: tuple[str, ...]


def read(arguments: Sequence[str]) -> Models:
    """Predictions of several models, by name and in order of first mention, of ``FILE`` or ``NAME=FILE,FILE2`` each.

    Without NAME a model is named by the column ``model``, for moulage's own files by the arm, else by the file. Several
    files of one model without a column ``trial`` are its fits in this order. ``DataError``: a file cannot be read, a
    column is missing, a value is wrong, two files are of one fit, or they contradict each other (``same_images``).
    """
    found: dict[str, list[Predictions]] = {}
    files: dict[tuple[str, int], Path] = {}
    digests: dict[str, pd.Series] = {}
    own, notes, chosen_on = list[Predictions](), [], list[str]()
    foreign = False
    for argument in arguments:
        name, paths = _parse(argument)
        for order, path in enumerate(paths):
            fits = _own(path)
            own += fits or ()
            chosen_on += [f"{path}" for fit in fits or () if fit.part == "validation"]
            if fits is None:
                foreign = True
                fits, digests[str(path)], said = _foreign(
                    path, order if name and len(paths) > 1 else 0, _classes(found)
                )
                notes += said
            else:
                digests[str(path)] = same_images.digests_of_run(path, fits[0])
            if name and len({fit.arm for fit in fits}) > 1:
                raise DataError(f"{path} holds several models by its column `model`.", f"Name it without {name}=.")
            for fit in fits:
                known = name or fit.arm
                if (other := files.setdefault((known, fit.trial), path)) is not path:
                    raise DataError(
                        f"{other} and {path} both hold trial {fit.trial} of the model {known}.",
                        "Several models: name them, A=FILE B=FILE. Several fits of one: NAME=FILE,FILE2, or a column "
                        "`trial`.",
                    )
                found.setdefault(known, []).append(replace(_reorder(fit, _classes(found), path), arm=known))
    if foreign:
        _check_splits(own)
        for fits in found.values():
            fits[:] = [replace(fit, split_digest=UNKNOWN_SPLIT, part="test") for fit in fits]
        notes.append("Nothing is known of what the models were trained on: that no lesion of it is here is up to you.")
    found, said = same_images.with_common_groups(found)
    notes = [*same_images.check_bytes({path: each for path, each in digests.items() if len(each)}), *said, *notes]
    if chosen_on:
        more = f" and {len(chosen_on) - 1} more" if len(chosen_on) > 1 else ""
        notes.insert(0, f"Beware: {chosen_on[0]}{more} {'are' if more else 'is'} of a validation part. {CHOSEN}")
    return Models(found, tuple(dict.fromkeys([*notes, *_operating_points(found)])))


def _operating_points(found: dict[str, list[Predictions]]) -> list[str]:
    """A note where some models say another class than the most probable one, and others never do."""
    moved = {name: any((fit.predicted != fit.logits.argmax(axis=1)).any() for fit in found[name]) for name in found}
    if len(set(moved.values())) < 2:
        return []
    moving, plain = (", ".join(name for name in moved if moved[name] == which) for which in (True, False))
    return [
        f"An operating point was set for {moving}, which by the column predicted is not always for the most probable "
        f"class, as {plain} is: balanced accuracy, recall, F1 and accuracy compare that, too; average precision, AUC, "
        "log-loss and calibration do not see it."
    ]


def _parse(argument: str) -> tuple[str, list[Path]]:
    """``NAME=FILE,FILE2`` or a path; what exists as it stands is a path."""
    if Path(argument).is_file():
        return "", [Path(argument)]
    name, separator, rest = argument.partition("=")
    if not separator:
        return "", [_existing(argument)]
    if not name.strip() or not rest.strip():
        raise DataError(f'"{argument}" names no model or no file.', "Write NAME=FILE or NAME=FILE,FILE2.")
    paths = [_existing(part.strip()) for part in rest.split(",") if part.strip()]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice:
        raise DataError(f"{name.strip()}: {twice} is named twice.", "Each file is a fit of its own: name it once.")
    return name.strip(), paths


def _existing(text: str) -> Path:
    path = Path(text)
    if not path.is_file():
        raise DataError(f"There is no file {text}.", "Name CSV, TSV or Parquet files: A.csv, or NAME=A.csv,B.csv.")
    return path


def _own(path: Path) -> list[Predictions] | None:
    """What ``Predictions.save`` wrote; None for a file from elsewhere."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() != ".parquet":
        return None
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.") from None
    if b"moulage" not in metadata:
        return None
    try:
        return [Predictions.load(path)]
    except RunError as error:
        raise DataError(error.message, "Drop its metadata to have it read by its columns.") from None


def _check_splits(fits: Sequence[Predictions]) -> None:
    """Raise ``DataError`` where runs' predictions, beside others that know no split, are of two splits."""
    first: dict[int, Predictions] = {}
    for fit in fits:
        known = first.setdefault(fit.trial, fit)
        if (known.split_digest, known.part) != (fit.split_digest, fit.part):
            raise DataError(
                f"{fit}: {fit.part} part of the split {fit.split_digest}; {known}: {known.part} part of the split "
                f"{known.split_digest}.",
                "What one of them is scored on the other may have been trained on: compare fits of one split.",
            )


def _foreign(path: Path, order: int, known: tuple[str, ...]) -> tuple[list[Predictions], pd.Series, list[str]]:
    """The fits in a file from elsewhere, digests of their images by image, and notes.

    ``order`` is the trial where no column says it.
    """
    columns, logits, classes, notes = _load(path, known)
    model = columns["model"] if "model" in columns else pd.Series(path.stem, index=columns.index)
    trial = columns["trial"] if "trial" in columns else pd.Series(order, index=columns.index)
    if "fold" in columns:  # each fold is a fit of its own, numbered through the repeats
        folds = np.unique(columns["fold"])
        trial = trial * len(folds) + np.searchsorted(folds, columns["fold"])
    images, group = columns["image"].to_numpy(object), _group_column(path, columns)
    groups = columns[group].to_numpy(object) if group else same_images.ALONE + images
    labels = pd.Index(classes).get_indexer(pd.Index(columns["label"]))
    predicted = pd.Index(classes).get_indexer(pd.Index(columns["predicted"])) if "predicted" in columns else None
    fits = []
    found = columns.groupby([model.to_numpy(object), trial.to_numpy()], sort=False).indices
    for (name, number), rows in cast("dict[tuple[str, int], np.ndarray]", found).items():
        own = images[rows]
        if (twice := first_true(pd.Index(own).duplicated())) is not None:
            raise DataError(
                f'{path}, row {rows[twice] + 1}: image "{own[twice]}" stands there twice in one fit of {name}.',
                "Tell several fits apart by a column `trial`, several models by a column `model`.",
            )
        about = classes, str(name), int(number), "test", UNKNOWN_SPLIT
        said = ARGMAX if predicted is None else predicted[rows]
        fits.append(Predictions(own, groups[rows], labels[rows], logits[rows], *about, predicted=said))
    return fits, same_images.digests_in(path, columns), notes


def _load(path: Path, classes: tuple[str, ...]) -> tuple[pd.DataFrame, np.ndarray, tuple[str, ...], list[str]]:
    """Checked columns, logits [N, K], their classes (in this order, where one is known already), and notes."""
    table = read_columns(path)
    if not len(table):
        raise DataError(f"{path} has no rows.")
    here = f"There are: {', '.join(table.columns)}."
    for name in ("image", "label"):
        if name not in table:
            raise DataError(f'{path} lacks the column "{name}".', here)
    kinds = {kind: [str(c) for c in table.columns if str(c).startswith(f"{kind}_")] for kind in KINDS}
    if not any(kinds.values()):
        raise DataError(f"{path} lacks prob_<class> or logit_<class> columns.", here)
    if all(kinds.values()):
        raise DataError(f"{path} has both prob_ and logit_ columns.", "Keep one kind.")
    kind = next(kind for kind in KINDS if kinds[kind])
    found = tuple(name.removeprefix(f"{kind}_") for name in kinds[kind])
    if classes and set(found) == set(classes):
        found = classes
    notes = []
    for name in (name for name in TEXT if name in table):
        if name in GROUPS:
            table[name], said = _groups(path, table[name], table["image"])
            notes += said
        else:
            table[name] = _text(path, table[name])
    for name in (name for name in NUMBERS if name in table):
        table[name] = _whole(path, table[name])
    for name, what in (("label", "the label"), ("predicted", "the predicted class")):
        if name in table and (row := first_true(~table[name].isin(found).to_numpy(bool))) is not None:
            label = table[name].iloc[row]
            hint = f"{nearest(label, found)} Every class needs its {kind}_ column."
            hint += " Without a column predicted the most probable class is taken." * (name == "predicted")
            raise DataError(f'{path}, row {row + 1}: {what} "{label}" is none of the classes {", ".join(found)}.', hint)
    values = np.column_stack([_numbers(path, table[f"{kind}_{name}"]) for name in found])
    if not _group_column(path, table):
        notes.append(
            f"Beware: {path} has no column group or lesion, so by it every image is a lesion of its own. Where "
            "lesions or patients have several images, the intervals are too narrow."
        )
    if kind == "prob":
        values, said = _logarithms(path, values, table["image"])
        notes += said
    else:
        _check_logits(path, values, table["image"])
    return table, values, found, notes


def read_columns(path: Path, text: Sequence[str] = TEXT) -> pd.DataFrame:
    """A table as it stands in a CSV, TSV or Parquet file, these columns of it as text; ``DataError``."""
    separator = SUFFIXES.get(path.suffix.lower())
    if separator is None:
        raise DataError(f"{path} is no CSV, TSV or Parquet file by its name.", f"Known: {', '.join(SUFFIXES)}.")
    try:
        if not separator:
            return pd.read_parquet(path)
        check_columns(path, separator)
        # Text is text: a class may be called NA or 007.
        return pd.read_csv(path, sep=separator, dtype=dict.fromkeys(text, str), na_filter=False, encoding="utf-8-sig")
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{path} cannot be read: {str(error).strip().rstrip('.')}.") from None


def check_columns(path: Path, separator: str) -> None:
    """``DataError`` where a text table names a column twice, which pandas would rename without a word."""
    names = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, na_filter=False, encoding="utf-8-sig")
    for name in names.iloc[0][names.iloc[0].duplicated()]:
        raise DataError(f'{path} has the column "{name}" twice.', "Keep the one that is meant.")


def _text(path: Path, column: Any) -> Any:
    empty = column.isna().to_numpy(bool) | (column.astype(str).str.strip() == "").to_numpy(bool)
    if (row := first_true(empty)) is not None:
        raise DataError(f'{path}, row {row + 1}: "{column.name}" is empty.')
    return column.astype(str)


def _groups(path: Path, column: Any, images: Any) -> tuple[Any, list[str]]:
    """Lesions as text, an image without one as a lesion of its own; and a sentence on those."""
    read = pd.Series([table_values.text(value) for value in column], index=column.index, dtype=object)
    missing = (read == "").to_numpy()
    if not missing.any():
        return read, []
    if missing.all():
        return read.where(read != "", same_images.ALONE + images.astype(str)), [
            f"Beware: {path} names no {column.name}, so every image counts as a lesion of its own."
        ]
    said = f"{path}: {int(missing.sum())} rows have no {column.name}; each of their images counts as one of its own."
    return read.where(read != "", same_images.ALONE + images.astype(str)), [said]


def _numbers(path: Path, column: Any) -> np.ndarray:
    """Finite numbers, [N] float64."""
    values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    if (row := first_true(~np.isfinite(values))) is not None:
        raise DataError(f'{path}, row {row + 1}: {column.name} is "{column.iloc[row]}", no finite number.')
    return values


def _whole(path: Path, column: Any) -> Any:
    values = _numbers(path, column)
    if (row := first_true((values != np.round(values)) | (values < 0))) is not None:
        raise DataError(f'{path}, row {row + 1}: {column.name} is "{column.iloc[row]}", no whole number from 0 on.')
    return pd.Series(values.astype(np.int64), index=column.index)


def _group_column(path: Path, table: pd.DataFrame) -> str:
    """``group`` or ``lesion``; empty where there is neither."""
    if "group" in table and "lesion" in table and not (table["group"] == table["lesion"]).all():
        raise DataError(f"{path} has the columns group and lesion, and they differ.", "Keep the one to be counted.")
    return next((name for name in ("group", "lesion") if name in table), "")


def _logarithms(path: Path, values: np.ndarray, images: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Logarithms of checked probabilities, and what had to be assumed."""
    notes, total = list[str](), values.sum(axis=1)
    if (values >= 0).all() and np.allclose(total, 100, rtol=0, atol=100 * SUM_TOLERANCE):
        values, total = values / 100, total / 100
        notes.append(f"{path}: the prob_ columns sum to 100 in every row, and were read as percentages.")
    if (row := first_true(((values < 0) | (values > 1)).any(axis=1))) is not None:
        raise DataError(
            f'{path}, row {row + 1} (image "{images.iloc[row]}"): a probability is not between 0 and 1 '
            f"(values go from {values.min():.4g} to {values.max():.4g}).",
            _scale(values) or "Call the columns logit_<class> if they are logits.",
        )
    off = np.abs(total - 1) > SUM_TOLERANCE
    if (row := first_true(off)) is not None:
        raise DataError(
            f'{path}, row {row + 1} (image "{images.iloc[row]}"): the probabilities sum to {total[row]:.4g}, not to 1 '
            f"({int(off.sum())} of {len(values)} rows are off by more than {SUM_TOLERANCE:g}).",
            "Give a probability of every class, each image's summing to 1; sigmoid outputs do not.",
        )
    if low := int((values < FLOOR).sum()):
        notes.append(f"{path}: {low} probabilities below {FLOOR:g} count as {FLOOR:g}.")
    return np.log(np.maximum(values, FLOOR)), notes


def _scale(values: np.ndarray) -> str:
    """What numbers that are no probabilities may be; empty where they may be logits."""
    total = values.sum(axis=1)
    if (values >= 0).all() and np.allclose(total, total[0], rtol=SUM_TOLERANCE):
        return f"Every row sums to {total[0]:.4g}: divide by it."
    if (values <= 0).all() and np.allclose(np.exp(values).sum(axis=1), 1, atol=SUM_TOLERANCE):
        return "These are logarithms of probabilities: call the columns logit_<class>."
    if (values >= 0).all() and values.max() <= 100:
        return "Are these percentages? Divide by 100; each image's must sum to 1."
    return ""


def _check_logits(path: Path, values: np.ndarray, images: pd.Series) -> None:
    """Raise ``DataError`` where what is called logits cannot be: shares of a whole, or sigmoid outputs.

    Logits are unbounded and mean nothing but their differences, so a softmax of probabilities is a distribution, too,
    and a wrong one: nothing later could tell.
    """
    total, positive = values.sum(axis=1), (values >= 0).all(axis=1)
    usual = float(np.median(total))
    known = ((1.0, "probabilities", MOST_SHARES), (100.0, "percentages", MOST_SHARES))
    for whole, words, chance in (*known, (usual, "shares", 1 - SUM_TOLERANCE)):
        shares = positive & (total > 0) & (np.abs(total - whole) <= SUM_TOLERANCE * abs(whole))
        if shares.mean() > chance:
            row, number = int(shares.argmax()), int(shares.sum())
            raise DataError(
                f'{path}, row {row + 1} (image "{images.iloc[row]}"): the logit_ columns hold {words}: they are not '
                f"negative and sum to {whole:.4g} in {number} of {len(values)} rows.",
                "Call the columns prob_<class>" + (f", divided by {whole:.4g}." if words == "shares" else "."),
            )
    if positive.all() and values.max() <= 1 and len(values) >= MIN_ROWS:
        raise DataError(
            f"{path}: all {values.size:,} values of the logit_ columns lie between 0 and 1; they look like sigmoid "
            "outputs, not like logits.",
            "Give the logits log(p / (1 - p)) for logit_<class>, or probabilities that sum to 1 for prob_<class>.",
        )


def _classes(found: dict[str, list[Predictions]]) -> tuple[str, ...]:
    """Classes in the order of the first file; empty before one was read."""
    return next((fit.classes for fits in found.values() for fit in fits), ())


def _reorder(fit: Predictions, classes: tuple[str, ...], path: Path) -> Predictions:
    """The fit with its classes in this order."""
    if not classes or fit.classes == classes:
        return fit
    if set(fit.classes) != set(classes):
        odd = sorted(set(fit.classes) ^ set(classes))
        raise DataError(
            f"{path} has the classes {', '.join(fit.classes)}; the first file has {', '.join(classes)} "
            f"({', '.join(odd)} {'is' if len(odd) == 1 else 'are'} in one of them only).",
            "Compare models of the same classes.",
        )
    columns = [fit.classes.index(name) for name in classes]
    new = np.array([classes.index(name) for name in fit.classes])
    said = {"labels": new[fit.labels], "predicted": new[fit.predicted]}
    return replace(fit, classes=classes, logits=fit.logits[:, columns], **said)
