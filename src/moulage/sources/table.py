"""Images that a table names: CSV, TSV or Excel with a row an image, wherever the files are.

The table has a column of images and one of classes, and where known lesion, patient, source, age, sex, site, lesion
mask and official part. Columns are known by usual names (``_tables``), the images' also by what stands in it; what was
taken for what is told, and each can be named by an option. Of what is merely guessed nothing is guessed between two:
that is an error which names both.

An image is written as a path from the folder of the table on (or from the option ``images``), as an absolute path, or
as a file name with or without suffix; it may lie in ZIPs there. Nothing but the files that are needed is looked at: the
folder is listed only where a path does not lead to a file as it is written.
"""

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pandas as pd
from pydantic import Field

from moulage import plugins
from moulage.data import class_map, locations, table_values
from moulage.data.catalog import Catalog
from moulage.data.findings import Finding, finding
from moulage.errors import DataError, nearest
from moulage.sources import _files, _groups, _layout, _tables
from moulage.sources._places import Places

WANTED = "a table of images (.csv, .tsv, .tab, .xlsx), or a folder that holds it"
WORDS = {
    "image": "image",
    "label": "class",
    "lesion": "lesion",
    "patient": "patient",
    "source": "source",
    "age": "age",
    "sex": "sex",
    "site": "site",
    "mask": "mask",
    "part": "official part",
}
"""What a column may be read as, and the word for it."""
MOST_CLASSES = 100
"""Different values that a column may have to be offered as that of the class."""


class Config(plugins.Options):
    """Options of the source ``table``."""

    table: Path | None = Field(
        default=None, description="the table, where --data names a folder that holds several; relative to that folder"
    )
    sheet: str = Field(default="", description="sheet of an Excel workbook; empty: the only one that is not empty")
    images: Path | None = Field(
        default=None, description="folder that the images' paths start from, absolute or relative to the table's"
    )
    image_column: str = Field(default="", description="column that names the image; empty: guessed, and told")
    label_column: str = Field(default="", description="column of the class; empty: guessed, and told")
    lesion_column: str = Field(default="", description="column of the lesion, or any group; empty: guessed, and told")
    patient_column: str = Field(default="", description="column of the patient; empty: guessed, and told")
    source_column: str = Field(default="", description="column of the place of acquisition; empty: guessed, and told")
    age_column: str = Field(default="", description="column of the age; empty: guessed, and told")
    sex_column: str = Field(default="", description="column of the sex; empty: guessed, and told")
    site_column: str = Field(default="", description="column of the place on the body; empty: guessed, and told")
    mask_column: str = Field(default="", description="column that names the lesion mask; empty: guessed, and told")
    part_column: str = Field(
        default="", description="column of the official part (train, val, test ...); empty: guessed, and told"
    )
    ignore: tuple[str, ...] = Field(default=(), description="columns that are not what their names say, and not read")
    classes: tuple[str, ...] = Field(
        default=(), description="classes to use, in this order; others are left out; empty: all, sorted"
    )
    rename: dict[str, str] = Field(
        default={}, description="class by what the table calls it; several may become one, an empty one is left out"
    )
    merge_spellings: bool = Field(
        default=False, description="take classes that differ by case, spaces or Unicode form alone as one"
    )


class _Columns(NamedTuple):
    of: dict[str, str]  # role -> column, of those that were found
    findings: list[Finding]


def recognises(path: Path) -> bool:
    """A file that is called as a table is; a folder with a table beside images is ``folder``'s."""
    return path.is_file() and _tables.is_table(path.name)


def read(path: Path | None, config: Config) -> Catalog:
    """Read the table, and look where its images are.

    ``DataError``: no path, no table or several, no column of images or classes or several that may be, none of the
    images is there, a row that may mean several images, two rows of one image, an unknown part, a mask that is missing.
    """
    start = _files.existing(path, WANTED)
    where = _table_of(start, config)
    table = _tables.read_table(where, (), config.sheet)
    places = Places(_folder_of(start, where, config))
    columns = _columns(table, config, str(where), places)
    image, findings = columns.of["image"], columns.findings
    unnamed = table.index[table[image].map(table_values.is_missing)]
    say = f"{len(unnamed):,} rows of {where} name no image; passed over."
    findings += finding("row without image", "warning", [f"row {number}" for number in unnamed], say)
    table = table.drop(index=unnamed)
    table = table[~table.duplicated()]
    seen = _rows(table, columns.of, str(where), places)
    seen["official_part"] = _parts(table, columns.of, str(where))
    classes, rows, remarks, note = _labelled(seen, config, where)
    findings += remarks
    parts = dict(zip(rows["image"], rows["official_part"], strict=True))
    findings += _layout.official_parts({k: v for k, v in parts.items() if v}, f"{where.name} names")
    name = start.name if start.is_dir() else start.stem
    unlabelled = _without_row({*seen["location"], *seen["mask"]}, places) if start.is_dir() or places.by_name else []
    return Catalog.build(rows, classes, name, places.root, note, unlabelled, findings)


def _table_of(start: Path, config: Config) -> Path:
    """The table's file."""
    if start.is_file():
        if not _tables.is_table(start.name):
            raise DataError(f"{start} is no table by its name.", f"--data PATH names {WANTED}.")
        return start
    if config.table is not None:
        return start / config.table
    beside = sorted(entry.name for entry in start.iterdir() if _tables.is_table(entry.name) and entry.is_file())
    beside = [name for name in beside if not name.startswith((".", "~$"))]  # a workbook that is open has a shadow
    if len(beside) == 1:
        return start / beside[0]
    if beside:
        raise DataError(f"{start} holds {', '.join(beside[:5])}.", "Name one with --data, or --source-set table=NAME.")
    deeper = [name for name in _files.listing(start).stored if _tables.is_table(name)]
    shown = f" It has {', '.join(map(locations.shown, deeper[:5]))} deeper." if deeper else ""
    raise DataError(f"{start} holds none of the tables that are read.{shown}", f"--data PATH names {WANTED}.")


def _folder_of(start: Path, where: Path, config: Config) -> Path:
    """The folder that images are looked for in."""
    if config.images is None:
        return start if start.is_dir() else where.parent
    folder = where.parent / config.images
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder.", "The option images names the folder that paths start from.")
    return folder.resolve()


def _columns(table: pd.DataFrame, config: Config, where: str, places: Places) -> _Columns:
    """What each column is read as, and a finding that tells."""
    chosen = {role: str(getattr(config, f"{role}_column")) for role in WORDS}
    for name in (*chosen.values(), *config.ignore):
        if name and name not in table:
            raise DataError(f'{where} has no column "{name}".', nearest(name, map(str, table.columns)))
    taken = {*config.ignore, *chosen.values()}
    free = table[[column for column in table if column not in taken]]
    guessed = {role: next(iter(_tables.called(free, role)), "") for role in WORDS if role not in ("image", "label")}
    guessed["image"] = "" if chosen["image"] else _image_column(free, where, places)
    if not chosen["label"]:
        guessed["label"] = _label_column(free.drop(columns=guessed["image"], errors="ignore"), where)
    part = guessed["part"]
    if part and not all(_layout.part_of(text) for text in table[part] if not table_values.is_missing(text)):
        guessed["part"] = ""
    found = {role: chosen[role] or guessed[role] for role in WORDS if chosen[role] or guessed[role]}
    named = [f'{WORDS[role]} "{column}"' for role, column in found.items() if chosen[role]]
    by_name = [f'{WORDS[role]} "{column}"' for role, column in found.items() if not chosen[role]]
    said = [f"as named, {', '.join(named)}"] * bool(named) + [f"guessed, {', '.join(by_name)}"] * bool(by_name)
    rest = [str(column) for column in table if column not in found.values()]
    more = f" and {len(rest) - 12} more" if len(rest) > 12 else ""
    unread = f"; not read: {', '.join(rest[:12])}{more}" if rest else ""
    say = f"{where}, {len(table):,} rows, is read {'; '.join(said)}{unread}."
    advice = "Another is meant: --source-set age_column=NAME, and so on; one is none: --source-set 'ignore=[\"NAME\"]'."
    return _Columns(found, finding("columns of the table", "note", table[found["image"]], say, advice))


def _image_column(table: pd.DataFrame, where: str, places: Places) -> str:
    """The first column of a usual name that names an image that is here, else the only one that holds file names."""
    usual = _tables.called(table, "image")
    known = {*usual, *_tables.called(table, "mask")}
    looking = [column for column in table if column not in known and _names_pictures(table[column])]
    here = [column for column in [*usual, *looking] if any(places.meant(text) for text in table[column] if text)]
    found = [column for column in here if column in usual][:1] or here
    if len(found) == 1:
        return str(found[0])
    listed = ", ".join(map(str, table.columns))
    if found:
        raise DataError(
            f"{where}: the image may be in the column {' or '.join(map(str, found))}.",
            "Name it: --source-set image_column=NAME.",
        )
    first = next((text for column in [*usual, *looking] for text in table[column] if text), "")
    said = f'no image such as "{first}" is below {places.root}' if first else "no column names images"
    raise DataError(
        f"{where}: {said}.",
        f"Name the folder of the images, --source-set images=FOLDER, or the column, --source-set image_column=NAME. "
        f"Columns: {listed}.",
    )


def _names_pictures(column: pd.Series) -> bool:
    """Whether most cells that say something end like a picture's file name."""
    said = [text for text in column if text]
    return sum(map(_files.is_image, said)) * 2 > len(said)


def _label_column(table: pd.DataFrame, where: str) -> str:
    """The only column of a usual name for the class, or the only one of them that tells images apart."""
    if found := _groups.label_column(table, where):
        return found
    if len(called := _tables.called(table, "label")) == 1:
        return called[0]
    numbers = {str(column): table[column].nunique() for column in table}
    offered = [f"{name} ({number} values)" for name, number in numbers.items() if 2 <= number <= MOST_CLASSES]
    listed = f"It may be {', '.join(offered[:12])}." if offered else f"None has 2 to {MOST_CLASSES} values."
    raise DataError(
        f"{where}: no column is called as the class is.", f"Name it: --source-set label_column=NAME. {listed}"
    )


def _rows(table: pd.DataFrame, columns: dict[str, str], where: str, places: Places) -> pd.DataFrame:
    """Image, location, mask and all else that is known of it, indexed as the table."""
    texts = table[columns["image"]]
    found = [places.one(text, where, row) for row, text in texts.items()]
    if not any(found):
        raise DataError(
            f"{where}: none of its {len(found):,} images is there.",
            f'The first is "{texts.iloc[0]}"; looked for below {places.root}. '
            "Name another folder: --source-set images=FOLDER.",
        )
    rows = _groups.facts(table, columns).astype(object)
    names = _short(texts)
    _tables.check_names(
        pd.Series([place or text for place, text in zip(found, texts, strict=True)], table.index), where
    )
    rows["image"] = names
    rows["location"] = [place or f"{locations.MISSING}{name}" for place, name in zip(found, names, strict=True)]
    for row, text in rows["mask"].items():
        if text:
            rows.loc[row, "mask"] = place = places.one(text, where, row)
            if not place:
                raise DataError(f'{where}, row {row}: there is no mask "{text}".', "Correct the path.")
    return rows


def _short(texts: pd.Series) -> list[str]:
    """Names for images: what is written, but absolute paths without the folders that all of them share."""
    paths = [PurePosixPath(text) for text in texts]
    if not all(path.is_absolute() for path in paths):
        return list(texts)
    shared = len(min((path.parts[:-1] for path in paths), key=len))
    while shared > 1 and len({path.parts[:shared] for path in paths}) > 1:
        shared -= 1
    return ["/".join(path.parts[shared:]) for path in paths]


def _parts(table: pd.DataFrame, columns: dict[str, str], where: str) -> list[str]:
    """The official part of each row; empty where it has none."""
    if "part" not in columns:
        return [""] * len(table)
    cells = table[columns["part"]].map(table_values.text)
    parts = {text: _layout.part_of(text) if text else "" for text in cells.unique()}
    for row, text in cells.items():
        if text and not parts[text]:
            raise DataError(
                f'{where}, row {row}: "{text}" is no part.', "Write train, validation or test, or leave the cell empty."
            )
    return [parts[text] for text in cells]


def _labelled(
    rows: pd.DataFrame, config: Config, where: Path
) -> tuple[tuple[str, ...], pd.DataFrame, list[Finding], str]:
    """The classes, the rows that are of one, what to say, and what was left out."""
    nothing = rows["image"][rows["label"] == ""]
    say = f"{len(nothing):,} rows of {where} have no class; left out."
    told = finding("row without class", "warning", nothing, say, "Fill in the class, or ignore it.")
    rows = rows[rows["label"] != ""]
    for name in config.rename:
        if name not in set(rows["label"]):
            raise DataError(f'{where}: no row has the class "{name}".', nearest(name, set(rows["label"])))
    renamed = pd.Series([config.rename.get(str(name), name) for name in rows["label"]], rows.index, dtype=object)
    gone = sorted(set(rows["label"][renamed == ""]))
    rows = rows.assign(label=renamed)[renamed != ""]
    names, merged = class_map.spelled(Counter(rows["label"]), config.merge_spellings, where)
    rows = rows.assign(label=rows["label"].map(names))
    found = set(rows["label"])
    classes = class_map.chosen(config.classes, found, where)
    if len(classes) == 1:
        say = f"One class only, {classes[0]}: a classifier needs two or more."
        told += finding("one class only", "warning", rows["image"], say)
    gone += sorted(found - set(classes))
    note = f"Left out by the options classes and rename: {', '.join(gone)}." if gone else ""
    return classes, rows[rows["label"].isin(classes)], [*told, *merged], note


def _without_row(known: set[str], places: Places) -> list[str]:
    """Pictures below the root that no row names, those in ZIPs not counted."""
    stored = places.held.stored.items()
    return [locations.shown(name) for name, kept in stored if _files.is_image(name) and kept not in known]
