"""Answers of people who were asked whether images are real: CSV, TSV or Parquet, one row an answer.

    reader, item, source, confidence                                          required
    lesion, class, diagnosis, block, position, repeat_of, seconds             optional

``docs/readers.md`` is for users. What is missing or doubtful is an error that names file and row, or a note.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from moulage.data import table_values
from moulage.errors import DataError, nearest
from moulage.evaluation.prediction_files import read_columns
from moulage.evaluation.predictions import first_true
from moulage.evaluation.same_images import ALONE

REAL = "real"
"""The source of photographs; any other source is what made the images."""
STEPS = 6
"""Confidence goes from 1, surely real, to 6, surely generated."""
FIRST_GENERATED = 4
"""From this step on an answer calls the image generated."""
REQUIRED = ("reader", "item", "source", "confidence")
OPTIONAL = ("lesion", "class", "diagnosis", "block", "position", "repeat_of", "seconds")
OF_ITEM = ("source", "lesion", "class")
"""What is the same in all answers to an item."""
SHOWN = 5
"""Names that a message lists."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Checked answers, and sentences on what was assumed.

    ``table`` has all columns of ``REQUIRED`` and ``OPTIONAL``: text without outer spaces, empty where nothing was said
    (an item without a lesion is a lesion of its own); ``confidence`` 1 to 6, ``position`` and ``seconds`` float64, NaN
    where there is none. ``position`` is the place in the reader's session, from 1 on. Rows are numbered from 0.
    """

    table: pd.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def first(self) -> pd.DataFrame:
        """All but the repeats: what every score but the self-agreement is computed from."""
        return self.table[self.table["repeat_of"] == ""]

    @property
    def sources(self) -> list[str]:
        """What made the images, without the photographs, in order of first mention."""
        return [str(source) for source in self.table["source"].unique() if source != REAL]

    @property
    def readers(self) -> list[str]:
        """In order of first mention."""
        return [str(reader) for reader in self.table["reader"].unique()]


def read(path: Path) -> Answers:
    """The answers in a file.

    ``DataError``: it cannot be read, a column is missing, a value is wrong, an item is answered twice by one reader
    without ``repeat_of``, or two rows contradict each other.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}.", "Name a CSV, TSV or Parquet file of answers.")
    return check(read_columns(path, (*REQUIRED, *OPTIONAL)), str(path))


def check(table: pd.DataFrame, where: str = "The table") -> Answers:
    """Answers from a table with the columns of this module; see ``read``. ``where`` names it in messages."""
    if not len(table):
        raise DataError(f"{where} has no rows.")
    for name in REQUIRED:
        if name not in table:
            raise DataError(f'{where} lacks the column "{name}".', f"There are: {', '.join(map(str, table.columns))}.")
    checked = pd.DataFrame(index=pd.RangeIndex(len(table)))
    for name in ("reader", "item", "source"):
        checked[name] = _text(table, name)
        if (row := first_true((checked[name] == "").to_numpy(bool))) is not None:
            raise DataError(f'{where}, row {row + 1}: "{name}" is empty.')
    for name in ("class", "diagnosis", "block"):  # "unknown" may be an answer, so only what is blank says nothing
        checked[name] = _text(table, name)
    for name in ("lesion", "repeat_of"):
        checked[name] = _text(table, name).where(lambda cells: ~cells.map(table_values.is_missing), "")
    for name in ("confidence", "position", "seconds"):
        checked[name] = _numbers(table, name, where)
    _check_steps(checked, where)
    notes = _lesions(checked, where) + _ignored(table, where)
    _check_items(checked, where)
    _check_repeats(checked, where)
    checked["position"] = _places(checked, where)
    return Answers(checked, tuple(notes))


def _text(table: pd.DataFrame, name: str) -> pd.Series:
    """A column as text, empty where the table has none."""
    cells = table[name] if name in table else [""] * len(table)
    said = ["" if cell is None or cell is pd.NA or cell != cell else str(cell).strip() for cell in cells]
    return pd.Series(said, dtype=object)


def _numbers(table: pd.DataFrame, name: str, where: str) -> np.ndarray:
    """A column as float64 [N], NaN where nothing is said; no negative number."""
    said = _text(table, name)
    blank = said.map(table_values.is_missing).to_numpy(bool)
    values = pd.to_numeric(said, errors="coerce").to_numpy(np.float64)
    if (row := first_true(~blank & ~(np.isfinite(values) & (values >= 0)))) is not None:
        raise DataError(f'{where}, row {row + 1}: {name} is "{said[row]}", no number from 0 on.')
    return np.where(blank, np.nan, values)


def _check_steps(table: pd.DataFrame, where: str) -> None:
    values = table["confidence"].to_numpy(np.float64)
    known = ~np.isnan(values)
    if (row := first_true(known & ~np.isin(values, np.arange(1, STEPS + 1)))) is not None:
        raise DataError(
            f"{where}, row {row + 1}: confidence is {values[row]:g}.",
            f"It is a whole number from 1 (surely real) to {STEPS} (surely generated).",
        )
    if (row := first_true(~known & (table["diagnosis"] == "").to_numpy(bool))) is not None:
        raise DataError(f"{where}, row {row + 1} has neither a confidence nor a diagnosis.", "Drop the row.")
    if not known.any():
        raise DataError(f"{where} has no confidence in any row.", "Whether images are real was not asked.")


def _lesions(table: pd.DataFrame, where: str) -> list[str]:
    """An item without a lesion becomes one of its own; a sentence on those that are real."""
    alone = (table["lesion"] == "").to_numpy(bool)
    table["lesion"] = table["lesion"].where(
        ~alone, ALONE + table["item"].where(table["repeat_of"] == "", table["repeat_of"])
    )
    number = table.loc[alone & (table["source"] == REAL).to_numpy(bool), "lesion"].nunique()
    if not number:
        return []
    said = f"{where}: {number} real items have no lesion; each counts as one of its own."
    return [f"{said} Where lesions have several items the intervals are too narrow."]


def _ignored(table: pd.DataFrame, where: str) -> list[str]:
    """A sentence on columns that nothing reads, since one may be a slip of the pen."""
    odd = [str(name) for name in table.columns if name not in (*REQUIRED, *OPTIONAL)]
    return (
        [f"{where}: columns that are not read: {', '.join(odd[:SHOWN])}{' ...' * (len(odd) > SHOWN)}."] if odd else []
    )


def _check_items(table: pd.DataFrame, where: str) -> None:
    """An item has one source, lesion and class; there are photographs and generated images."""
    for name in OF_ITEM:
        differs = table.groupby("item")[name].transform("first") != table[name]
        if (row := first_true(differs.to_numpy(bool))) is not None:
            item = table["item"][row]
            first = int((table["item"] == item).to_numpy().argmax())
            raise DataError(
                f'{where}, row {row + 1}: the {name} of item "{item}" is "{table[name][row]}"; row {first + 1} says '
                f'"{table[name][first]}".',
                "An item is one image: give it one name, and the same facts in every row.",
            )
    sources = sorted(map(str, table["source"].unique()))
    if REAL not in sources:
        raise DataError(f'{where}: no row has the source "{REAL}".', f"There are: {', '.join(sources[:SHOWN])}.")
    close = [source for source in sources if source != REAL and source.lower() == REAL]
    if close:
        raise DataError(f'{where}: the sources "{REAL}" and "{close[0]}" differ in their case only.', "Write one.")
    if len(sources) == 1:
        raise DataError(f'{where}: all rows have the source "{REAL}".', "Name what made the others in their rows.")


def _check_repeats(table: pd.DataFrame, where: str) -> None:
    """A reader answers an item once, and again only where ``repeat_of`` says so."""
    original = (table["repeat_of"] == "").to_numpy(bool)
    twice = table[original].duplicated(["reader", "item"])
    if twice.any():
        row = int(np.flatnonzero(original)[twice.to_numpy().argmax()])
        raise DataError(
            f'{where}, row {row + 1}: reader "{table["reader"][row]}" answers item "{table["item"][row]}" twice.',
            "A repeat names the item that it repeats in the column `repeat_of`.",
        )
    by_answer = table[original].set_index(["reader", "item"])[[*OF_ITEM]]
    items = sorted(set(table["item"][original]))
    for row in np.flatnonzero(~original):
        reader, of = table["reader"][row], table["repeat_of"][row]
        said = f'{where}, row {row + 1}: repeat of item "{of}"'
        if of not in items:
            raise DataError(f"{said}, which is no item that was asked once.", nearest(str(of), items[:1000]))
        if (reader, of) not in by_answer.index:
            raise DataError(f'{said}, which reader "{reader}" has not answered.', "Drop the repeat.")
        for name in OF_ITEM:
            if (known := by_answer.loc[(reader, of), name]) != table[name][row]:
                raise DataError(f'{said}: the {name} is "{table[name][row]}", that of the item "{known}".')


def _places(table: pd.DataFrame, where: str) -> np.ndarray:
    """Place of each answer in its reader's session, float64 [N] from 1 on; NaN where no position is said.

    Positions that begin anew in each block are put one behind the other by the block's number.
    """
    position, places = table["position"].to_numpy(np.float64), np.full(len(table), np.nan)
    block = pd.to_numeric(table["block"].where(table["block"] != "", "0"), errors="coerce").to_numpy(np.float64)
    for reader, found in table.groupby("reader", sort=False).indices.items():
        rows = np.asarray(found)[~np.isnan(position[found])]
        if len(np.unique(position[rows])) == len(rows):
            order = np.argsort(position[rows])
        else:
            pairs = np.stack([block[rows], position[rows]], axis=1)
            if np.isnan(pairs).any() or len(np.unique(pairs, axis=0)) < len(rows):
                raise DataError(
                    f'{where}: reader "{reader}" has several answers at one position.',
                    "Count positions through the whole session; or number the blocks, and count within each.",
                )
            order = np.lexsort((position[rows], block[rows]))
        places[rows[order]] = np.arange(1, len(rows) + 1)
    return places


def of_readers(table: pd.DataFrame, readers: Sequence[str]) -> dict[str, pd.DataFrame]:
    """The rows of each of these readers; an empty table for one who has none."""
    found = {str(name): rows for name, rows in table.groupby("reader", sort=False)}
    return {reader: found.get(reader, table.iloc[:0]) for reader in readers}
