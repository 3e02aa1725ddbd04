"""A table beside the images: which row means which image, and what it says of lesion, patient, label and mask."""

import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from moulage.data import table_values
from moulage.data.findings import Finding, finding
from moulage.errors import DataError
from moulage.sources import _tables
from moulage.sources._files import IMAGE_SUFFIXES, Listing, suffix

COLUMNS = ("lesion", "group", "source", "age", "sex", "site", "mask", "label")
COLUMNS_READ = ("lesion", "patient", "source", "age", "sex", "site", "mask")
"""What a table may say of an image beside its class."""
NO_LABEL = frozenset({"nan", "na", "n/a", "<na>", "null"})
"""What programs write where there is no label; other words, such as none or unknown, may be classes."""


@dataclass(frozen=True)
class Known:
    """What a table says of images."""

    table: pd.DataFrame  # indexed by image, the columns of ``COLUMNS``, text; empty where nothing is said
    findings: tuple[Finding, ...] = ()
    where: str = ""  # the column of the label, and the table

    @classmethod
    def nothing(cls) -> "Known":
        return cls(pd.DataFrame(columns=list(COLUMNS), dtype=object))


class Names:
    """Files, found by what people write for them.

    That is a path from any folder on, with '/' or '\\\\', in any Unicode form; or a file name with or without suffix.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._meant: defaultdict[str, set[str]] = defaultdict(set)
        for name in names:
            parts = _folded(name).split("/")
            for start in range(len(parts)):
                path = "/".join(parts[start:])
                self._meant[path].add(name)
                self._meant[posixpath.splitext(path)[0]].add(name)

    def meant(self, text: str) -> list[str]:
        """The files that may be meant, sorted; none where there is none of this name."""
        parts = [part for part in _folded(text).replace("\\", "/").split("/") if part not in ("", ".")]
        for start in range(len(parts)):
            path = "/".join(parts[start:])
            found = self._meant.get(path, set())
            if not found and suffix(path) in IMAGE_SUFFIXES:
                path = posixpath.splitext(path)[0]
                found = self._meant.get(path, set())
            if start:  # a path that begins above the data folder; another folder below it would be another image
                found = {name for name in found if path in (_folded(name), posixpath.splitext(_folded(name))[0])}
            if found:
                return sorted(found)
        return []


def table_inside(held: Listing, wanted: Path) -> str:
    """The name in a listing of a table that was asked for, relative to its root or absolute; empty where it has none.

    In a ZIP it may be named as ``Names`` says, too.
    """
    if held.path.is_dir():
        place = held.root / wanted
        place = place.parent.resolve() / place.name
        name = place.relative_to(held.root).as_posix() if place.is_relative_to(held.root) else ""
        return name if name in held.stored else ""
    name = wanted.as_posix()
    return name if name in held.stored else next(iter(Names(held.stored).meant(name)), "")


def image_column(table: pd.DataFrame, names: Names, where: str, chosen: str = "") -> str:
    """The column that names images: the chosen one, else the first of the usual ones that names one that is here.

    Empty where none does; ``DataError`` where the chosen one is not there.
    """
    if chosen and chosen not in table:
        raise DataError(f"{where}: the header has no column {chosen}.", f"Found: {', '.join(table.columns)}.")
    columns = [chosen] if chosen else _tables.called(table, "image")
    return next((name for name in columns if any(names.meant(text) for text in table[name] if text)), "")


def read(
    table: pd.DataFrame,
    images: Sequence[str],
    files: Names,
    where: str,
    *,
    image: str,
    label: str = "",
    lesion: str = "",
) -> Known:
    """What the rows of a table say of these images; ``image``, ``label`` and ``lesion`` are its columns, if chosen.

    Rows whose image is not here are passed over and told. ``DataError``: a row that may mean several images, two rows
    of one image, no row of any, a mask that is not there.
    """
    names = Names(images)
    column = image_column(table, names, where, image)
    if not column:
        text = next((text for name in _tables.called(table, "image") for text in table[name]), "")
        said = f'none of its rows names an image that is here, such as "{text}"' if text else "no column names images"
        raise DataError(f"{where}: {said}.", f"Columns: {', '.join(table.columns)}. The first image is {images[0]}.")
    resolved = _resolved(table[column], names, where)
    gone = table[column][resolved == ""]
    say = f'{len(gone):,} rows of {where} name no image that is here, such as "{next(iter(gone), "")}"; passed over.'
    findings = finding("row without image", "warning", gone, say, "Correct the names, or ignore it.")
    table, resolved = table[resolved != ""], resolved[resolved != ""]
    distinct = ~table.assign(image_that_is_meant=resolved).duplicated()
    table, resolved = table[distinct], resolved[distinct]
    _tables.check_names(resolved, where)
    columns = {role: next(iter(_tables.called(table, role)), "") for role in COLUMNS_READ}
    found = facts(table, columns | {"label": label} | ({"lesion": lesion} if lesion else {}))
    found["mask"] = [_mask(text, files, where, row) for row, text in found["mask"].items()]
    return Known(found.set_axis(resolved.tolist(), axis=0), tuple(findings), f"the column {label} of {where}")


def facts(table: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """What the rows of a table say, text in the columns of ``COLUMNS``; empty where nothing is said.

    ``columns`` has the table's column of the class (``label``), and of each of ``COLUMNS_READ`` that it has.
    """
    read = {role: _tables.optional(table, columns.get(role, "")) for role in (*COLUMNS_READ, "label")}
    found = pd.DataFrame(read, index=table.index)
    for name in ("lesion", "patient", "mask"):
        found[name] = found[name].map(table_values.text)
    found["label"] = [text if text.casefold() not in NO_LABEL else "" for text in found["label"]]
    found["group"] = _tables.patients(found["lesion"], found["patient"])
    return found[list(COLUMNS)]


def label_column(table: pd.DataFrame, where: str, chosen: str = "") -> str:
    """The column of classes: the chosen one, else the only one of a usual name; empty where none has such a name."""
    if chosen:
        if chosen not in table:
            raise DataError(f"{where}: the header has no column {chosen}.", f"Found: {', '.join(table.columns)}.")
        return chosen
    found = [name for name in _tables.called(table, "label") if table[name].nunique() > 1]
    if len(found) > 1:
        raise DataError(
            f"{where}: the class may be in the column {' or '.join(found)}.", "Name it: --source-set label_column=NAME."
        )
    return found[0] if found else ""


def _resolved(wanted: pd.Series, names: Names, where: str) -> pd.Series:
    """The image that each row means; empty where it is not here."""
    resolved = []
    for row, text in wanted.items():
        if not text:
            raise DataError(f"{where}, row {row}: no image is named.")
        meant = names.meant(text)
        if len(meant) > 1:
            raise DataError(
                f'{where}, row {row}: "{text}" may be {" or ".join(meant[:3])}.',
                "Write the path below the data folder.",
            )
        resolved.append(meant[0] if meant else "")
    return pd.Series(resolved, index=wanted.index, dtype=object)


def _mask(text: str, files: Names, where: str, row: object) -> str:
    meant = files.meant(text) if text else []
    if text and len(meant) != 1:
        problem = f'"{text}" may be {" or ".join(meant[:3])}' if meant else f'there is no mask "{text}"'
        raise DataError(f"{where}, row {row}: {problem}.", "Correct the path.")
    return meant[0] if meant else ""


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", text)
