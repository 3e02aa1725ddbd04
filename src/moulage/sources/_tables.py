"""Tables of labels and lesions as people have them: CSV and its kin, with errors that name file, row and column."""

import csv
import io
import re
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from moulage.data.findings import Finding, finding
from moulage.errors import DataError
from moulage.sources import _excel

SUFFIXES = (".csv", ".tsv", ".tab")
MOST_BYTES = 512 * 2**20
"""A larger table is none of images."""
_ROLES = {
    "image": "image image_id img_id isic_id image_name file_name filename file img path image_path file_path name id",
    "lesion": "lesion lesion_id group group_id",
    "patient": "patient patient_id subject subject_id case_id participant_id",
    "label": "label labels class class_name category target diagnosis diagnostic dx disease pathology species",
    "source": "source attribution",
    "age": "age age_approx age_years",
    "sex": "sex gender",
    "site": "site localization localisation anatom_site_general anatomical_site body_site body_part region location",
    "mask": "mask mask_path segmentation",
    "part": "split part partition subset set",
}
"""What a column may be called, in upper or lower case, with '_', '-' or spaces; the first that a table has counts."""


def is_table(name: str) -> bool:
    """Whether a file name ends like a table's, in upper or lower case."""
    return name.lower().endswith((*SUFFIXES, *_excel.SUFFIXES))


def read_table(path: Path, columns: Sequence[str], sheet: str = "") -> pd.DataFrame:
    """A table in a file as text, row by row as ``parse_table`` says; ``sheet`` is that of an Excel workbook."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{path} is no regular file.", "Name a table with --source-set table=PATH.")
        if status.st_size > MOST_BYTES:
            raise DataError(f"{path} has {status.st_size:,} bytes.", "A table of images is smaller.")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check the path and its permissions.") from None
    if path.suffix.lower() in _excel.SUFFIXES:
        return _frame(_excel.rows(data, str(path), sheet), str(path), columns)
    return parse_table(data, str(path), columns)


def parse_table(data: bytes, where: str, columns: Sequence[str]) -> pd.DataFrame:
    """A table as stripped text whose index is the line number in the file, for messages.

    Fields stand between ',', ';', '|' or tabs: whichever gives the header the columns asked for, else most fields.
    UTF-8 with or without byte-order mark, or UTF-16 with one; any line ends. Empty rows are skipped, other columns than
    those asked for are kept. Messages call the file ``where``. ``DataError``: no text, empty, no rows, a missing or
    repeated column, a row of another length.
    """
    text = _text(data, where)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text, columns))
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except csv.Error as error:
        raise DataError(f"{where} cannot be read as CSV: {error}.", "Save the file as CSV in UTF-8.") from None
    if lines and re.fullmatch(r"sep=.?", "".join(lines[0][1])):  # a word to Excel
        lines = lines[1:]
    return _frame(lines, where, columns)


def optional(table: pd.DataFrame, column: str) -> pd.Series:
    """A column, or empty text where the table has none."""
    return table[column] if column in table else pd.Series("", index=table.index, dtype=object)


def called(table: pd.DataFrame, role: str) -> list[str]:
    """The columns that may be meant by a role, likeliest first."""
    spelled = {re.sub(r"[\s_-]+", "_", str(column).strip().lower()): str(column) for column in table.columns}
    return [spelled[name] for name in _ROLES[role].split() if name in spelled]


def check_names(names: pd.Series, where: object) -> None:
    """Raise ``DataError`` where a row names no image, or an image that another row names too."""
    for number in names.index[names == ""]:
        raise DataError(f"{where}, row {number}: no image is named.")
    for name in names[names.duplicated()]:
        first, second = names.index[names == name][:2]
        raise DataError(f'{where}: image "{name}" stands in row {first} and in row {second}.', "Keep one row an image.")


def patients(lesion: pd.Series, patient: pd.Series) -> list[str]:
    """The group of each row that names a patient, empty for the others.

    Images of one patient are one group, since a patient may have several lesions. A row may know its lesion and not its
    patient; other rows of the lesion then tell.
    """
    patient_of = {key: person for key, person in zip(lesion, patient, strict=True) if key and person}
    known = (own or patient_of.get(key, "") for key, own in zip(lesion, patient, strict=True))
    return [f"patient:{person}" if person else "" for person in known]


def not_read(names: Iterable[str]) -> list[Finding]:
    """A finding on tables that lie beside the images and were not read."""
    listed = sorted(names)
    say = f"Not read: {', '.join(listed[:5])}{' ...' if len(listed) > 5 else ''}."
    return finding("table that is not read", "note", listed, say, "Name a table with --source-set table=NAME.")


def _frame(lines: list[tuple[int, list[str]]], where: str, columns: Sequence[str]) -> pd.DataFrame:
    """The rows with their numbers, the first of them the header, as ``parse_table`` gives them."""
    if not lines:
        raise DataError(f"{where} is empty.", f"Expected columns: {', '.join(columns)}." if columns else "")
    header, rows = lines[0][1], lines[1:]
    _check_header(header, columns, where)
    if not rows:
        raise DataError(f"{where} has a header but no rows.")
    for number, row in rows:
        if len(row) != len(header):
            raise DataError(f"{where}, row {number}: {len(row)} fields where the header has {len(header)}.")
    return pd.DataFrame([row for _, row in rows], columns=header, index=[number for number, _ in rows])


def _text(data: bytes, where: str) -> str:
    utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{where}, row {line}: this is not UTF-8 text.", "Save the file as CSV in UTF-8.") from None


def _delimiter(text: str, columns: Sequence[str]) -> str:
    lines = (line for line in text.lstrip().splitlines() if line and not line.lower().startswith("sep="))
    first = next(lines, "")
    headers = {mark: [cell.strip() for cell in next(csv.reader([first], delimiter=mark), [])] for mark in ",\t;|"}
    return max(headers, key=lambda mark: (sum(name in headers[mark] for name in columns), len(headers[mark])))


def _check_header(header: list[str], columns: Sequence[str], where: str) -> None:
    shown = f"Found: {', '.join(header)}. Expected: {', '.join(columns)}."
    missing = [name for name in columns if name not in header]
    if missing:
        raise DataError(f"{where}: the header has no column {', '.join(missing)}.", shown)
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise DataError(f"{where}: the header has more than one column {', '.join(repeated)}.", shown)
