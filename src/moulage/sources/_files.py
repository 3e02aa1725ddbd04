"""What the sources share: file lists, ZIP directories and CSV tables, with errors that name file, row and column."""

import csv
import io
import os
import posixpath
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from moulage.data.locations import MISSING
from moulage.errors import DataError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm"})


def existing(path: Path | None, wanted: str) -> Path:
    """The absolute form of a path that has to be there; ``wanted`` says what it should name, for messages."""
    if path is None:
        raise DataError("This source needs to know where the data are.", f"Name {wanted} with --data PATH.")
    if not path.exists():
        raise DataError(f"{path} does not exist.", f"--data PATH names {wanted}.")
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise DataError(f"{path} cannot be read.", "Check its permissions.")
    return path.resolve()


def existing_folder(path: Path | None, wanted: str) -> Path:
    """Like ``existing``, for a folder."""
    folder = existing(path, wanted)
    if not folder.is_dir():
        raise DataError(f"{path} is a file, not a folder.", f"--data PATH names {wanted}.")
    return folder


def first_of(root: Path, *names: str) -> Path:
    """The first of these files that ``root`` holds; ``DataError`` says what it holds instead."""
    for name in names:
        if (root / name).is_file():
            return root / name
    wanted = " or ".join(names)
    for name in names:
        for below in sorted(root.glob(f"*/{name}")):
            raise DataError(f"{root} does not hold {wanted}.", f"It is one folder deeper: use {below.parent}.")
    held = sorted(entry.name for entry in root.iterdir())
    if not held:
        raise DataError(f"{root} is empty.", f"It should hold {wanted}.")
    shown = ", ".join(held[:5]) + (f" and {len(held) - 5} more" if len(held) > 5 else "")
    raise DataError(f"{root} does not hold {wanted}.", f"It holds {shown}.")


def is_image(name: str) -> bool:
    """Whether a file name ends like an image's, in upper or lower case."""
    return posixpath.splitext(name)[1].lower() in IMAGE_SUFFIXES


def stem(name: str) -> str:
    """The file name without folders and suffix (``pathlib`` takes a second for the names of a large data set)."""
    return posixpath.splitext(posixpath.basename(name))[0]


def files(root: Path) -> list[str]:
    """All files below a folder as relative paths with '/', sorted. Hidden files and folders are left out."""

    def stop(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.", "Check its permissions.")

    found = []
    for folder, _, names in os.walk(root, onerror=stop, followlinks=True):
        inside = Path(folder).relative_to(root).as_posix()
        found += names if inside == "." else [f"{inside}/{name}" for name in names]
    return sorted(name for name in found if _visible(name))


def members(archive: Path) -> list[str]:
    """All files inside a ZIP, sorted, from its directory alone. Hidden files and macOS's copies are left out."""
    try:
        with zipfile.ZipFile(archive) as opened:
            names = [entry.filename for entry in opened.infolist() if not entry.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{archive} cannot be read as a ZIP file: {error}.", "Download it again.") from None
    return sorted(name for name in names if _visible(name))


def images(root: Path, archives: str) -> dict[str, str]:
    """Location of every image below ``root`` and in the ZIPs directly in it, by file name without suffix.

    ``archives`` is a glob pattern of the ZIPs' names. Where an image is in a ZIP and unpacked as well, the one in the
    ZIP counts. ``DataError``: a broken ZIP, or two files of one name, since nobody can say which the label means.
    """
    packed = _by_stem((name, f"{path.name}::{name}") for path in sorted(root.glob(archives)) for name in members(path))
    unpacked = _by_stem((name, name) for name in files(root) if stem(name) not in packed)
    return unpacked | packed


def locate(names: Sequence[str], found: dict[str, str], root: Path) -> tuple[list[str], tuple[str, ...]]:
    """Where each labelled image is (``missing::<name>`` if nowhere), and the names of images without a label.

    ``DataError`` where there is no image at all, or none that a label names: the path is wrong, not the data.
    """
    if not found:
        raise DataError(f"{root} holds labels but no image.", "Put the images, packed or unpacked, beside the labels.")
    labelled = set(names)
    if labelled.isdisjoint(found):
        raise DataError(
            f"{root}: none of the {len(names)} labelled images is there.",
            f'The first label names "{names[0]}"; the first image is "{min(found)}".',
        )
    return [found.get(name, f"{MISSING}{name}") for name in names], tuple(sorted(set(found) - labelled))


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV file as text, row by row as ``parse_table`` says."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check the path and its permissions.") from None
    return parse_table(data, str(path), columns)


def parse_table(data: bytes, where: str, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV as a table of stripped text whose index is the line number in the file, for messages.

    UTF-8 with or without byte-order mark, any line ends. Empty rows are skipped, other columns than those asked for are
    kept. Messages call the file ``where``. ``DataError``: not UTF-8, empty, no rows, a missing or repeated column, a
    row of another length.
    """
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{where}, row {line}: this is not UTF-8 text.", "Save the file as CSV in UTF-8.") from None
    except csv.Error as error:
        raise DataError(f"{where} cannot be read as CSV: {error}.", "Save the file as CSV in UTF-8.") from None
    if not lines:
        raise DataError(f"{where} is empty.", f"Expected columns: {', '.join(columns)}.")
    header, rows = lines[0][1], lines[1:]
    _check_header(header, columns, where)
    if not rows:
        raise DataError(f"{where} has a header but no rows.")
    for number, row in rows:
        if len(row) != len(header):
            raise DataError(f"{where}, row {number}: {len(row)} fields where the header has {len(header)}.")
    return pd.DataFrame([row for _, row in rows], columns=header, index=[number for number, _ in rows])


def optional(table: pd.DataFrame, column: str) -> pd.Series:
    """A column, or empty text where the table has none."""
    return table[column] if column in table else pd.Series("", index=table.index)


def check_names(names: pd.Series, where: object) -> None:
    """Raise ``DataError`` where a row names no image, or an image that another row names too."""
    for number in names.index[names == ""]:
        raise DataError(f"{where}, row {number}: no image is named.")
    for name in names[names.duplicated()]:
        first, second = names.index[names == name][:2]
        raise DataError(f'{where}: image "{name}" stands in row {first} and in row {second}.', "Keep one row an image.")


def _by_stem(located: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The locations of those (name, location) pairs that are images, by the names' stems."""
    found: dict[str, str] = {}
    for name, location in located:
        if is_image(name) and found.setdefault(stem(name), location) != location:
            raise DataError(
                f'Two files are called "{stem(name)}": {found[stem(name)]} and {location}.',
                "Point --data at a folder that holds one of them.",
            )
    return found


def _check_header(header: list[str], columns: Sequence[str], where: str) -> None:
    shown = f"Found: {', '.join(header)}. Expected: {', '.join(columns)}."
    missing = [name for name in columns if name not in header]
    if missing:
        raise DataError(f"{where}: the header has no column {', '.join(missing)}.", shown)
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise DataError(f"{where}: the header has more than one column {', '.join(repeated)}.", shown)


def _visible(name: str) -> bool:
    return not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
