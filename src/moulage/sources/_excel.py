"""The rows of an Excel workbook as text, with errors that name file and sheet."""

import datetime
import io
import re
import zipfile
from typing import Any

from moulage.errors import DataError

SUFFIXES = (".xlsx", ".xlsm")
MOST_UNPACKED = 2 * 2**30
"""A workbook that would unpack to more bytes is refused."""
_BROKEN = (zipfile.BadZipFile, OSError, KeyError, ValueError, TypeError, IndexError, AttributeError, SyntaxError)
"""What openpyxl raises on broken workbooks; its XML errors are syntax errors."""


def rows(data: bytes, where: str, sheet: str = "") -> list[tuple[int, list[str]]]:
    """The rows of a sheet that say anything, with their numbers in it, as stripped text; all are of one length.

    A formula stands for the value that was last computed. Whole numbers are written without a point, dates as
    ``2020-12-31``, truth values as ``true`` and ``false``. Columns that are empty all the way down are left out, rows
    and columns that are hidden are not. Without ``sheet`` the workbook must have one sheet that says anything.

    ``DataError``: openpyxl is not installed, no workbook, no such sheet, several, one that would unpack to too much.
    """
    found = _sheets(data, where)
    if sheet and sheet not in found:
        raise DataError(f'{where} has no sheet "{sheet}".', f"It has: {', '.join(found)}.")
    filled = {name: lines for name, lines in found.items() if lines}
    if not sheet and len(filled) > 1:
        raise DataError(
            f"{where} has several sheets: {', '.join(filled)}.", "Name one of them with --source-set sheet=NAME."
        )
    lines = found[sheet] if sheet else next(iter(filled.values()), [])
    width = max((len(cells) for _, cells in lines), default=0)
    padded = [(number, cells + [""] * (width - len(cells))) for number, cells in lines]
    used = [place for place in range(width) if any(cells[place] for _, cells in padded)]
    return [(number, [cells[place] for place in used]) for number, cells in padded]


def _sheets(data: bytes, where: str) -> dict[str, list[tuple[int, list[str]]]]:
    """The rows of every sheet of cells that say anything."""
    try:
        import openpyxl
    except ImportError:
        raise DataError(
            f"{where}: Excel files are read by openpyxl, which is not installed.",
            'Run pip install "moulage[excel]", or save the sheet as CSV in UTF-8.',
        ) from None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MOST_UNPACKED:
            raise DataError(f"{where} would unpack to {unpacked:,} bytes.", "A table of images is smaller.")
        book: Any = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
        found = {}
        for opened in book.worksheets:
            opened.reset_dimensions()  # some programs write wrong ones, and rows would be cut off
            lines = enumerate(opened.iter_rows(values_only=True), start=1)
            found[opened.title] = [(number, cells) for number, row in lines if any(cells := [*map(_text, row)])]
        return found
    except _BROKEN as error:
        raise DataError(
            f"{where} cannot be read as an Excel workbook: {error}.",
            "Has it a password, or is it of another kind? Save it as .xlsx without one, or the sheet as CSV in UTF-8.",
        ) from None


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 2**53:
        return str(int(cell))
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return cell.date().isoformat()
    return re.sub(r"\s+", " ", str(cell)).strip()
