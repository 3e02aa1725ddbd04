"""Image-classification sets of the Hugging Face hub on the disk: Parquet shards, or what ``save_to_disk`` wrote.

A hub's download holds ``data/train-00000-of-00002.parquet`` and the like; ``save_to_disk`` writes ``state.json`` and
``data-*.arrow``, in a folder for each split or not. Both are read by pyarrow, with the features that their schema
names: the column of images, and the names of classes. Images that lie inside are written once, as they are encoded,
into a ZIP in the cache; the data are left alone. Nothing is downloaded.

The splits ``train``, ``validation`` and ``test`` are official parts.
"""

import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from moulage import plugins
from moulage.data import class_map, locations
from moulage.data.catalog import Catalog
from moulage.data.findings import finding
from moulage.errors import DataError, nearest
from moulage.runs import atomic, cache_folder, digest
from moulage.sources import _files, _groups, _layout, _once, _tables

WANTED = "a folder of Parquet files or of save_to_disk, or one Parquet file"
BATCH = 64
"""Rows that are held at once while images are written."""
SIMPLE = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
"""Types of columns that are read beside the image's."""


class Config(plugins.Options):
    """Options of the source ``huggingface``."""

    image_column: str = Field(default="", description="column of images; empty: the only one that the features name")
    label_column: str = Field(default="", description="column of the class; empty: the ClassLabel, or a usual name")
    group_column: str = Field(default="", description="column of the lesion or patient; empty: a usual name")
    classes: tuple[str, ...] = Field(
        default=(), description="classes to use, in this order; others are left out; empty: all, as the set orders them"
    )
    merge_spellings: bool = Field(
        default=False, description="take classes that differ by case, spaces or Unicode form alone as one"
    )


class _Shard(NamedTuple):
    file: Path
    split: str


class _Columns(NamedTuple):
    image: str
    label: str
    names: tuple[str, ...]  # of the classes 0, 1 ...; empty where the column has text


def _named(text: str, names: tuple[str, ...], where: str) -> str:
    """The class of a label that is a number of ``names``, "" for none and for the hub's -1 (no label)."""
    if text in ("", "-1"):
        return ""
    if not text.isdecimal() or int(text) >= len(names):
        raise DataError(
            f'{where} has the label "{text[:40]}", and the features name {len(names)} classes, from 0 on.',
            "Mend the set's features, or name another column: --source-set label_column=...",
        )
    return names[int(text)]


def recognises(path: Path) -> bool:
    """A Parquet file, a folder of ``save_to_disk``, or one of shards that are numbered as the hub's are."""
    if path.is_file():
        return path.suffix.lower() == ".parquet"
    if (path / "dataset_dict.json").is_file() or all((path / f"{n}.json").is_file() for n in ("state", "dataset_info")):
        return True
    return any(next(folder.glob("*-of-*.parquet"), None) for folder in (path, path / "data"))


def read(path: Path | None, config: Config) -> Catalog:
    """Read the columns beside the images, and write the images that lie inside into the cache if they are not there.

    ``DataError``: no path, no shard, shards of other columns, no column of images or classes or several that may be.
    ``RunError``: the cache cannot be written.
    """
    start = _files.existing(path, WANTED)
    shards = _shards(start)
    columns = _columns(shards[0].file, config)
    table, inside, outside = _table(shards, columns)
    used = {role: next(iter(_tables.called(table, role)), "") for role in _groups.COLUMNS_READ if role != "mask"}
    if config.group_column:
        if config.group_column not in table:
            raise DataError(
                f'{start} has no column "{config.group_column}".', nearest(config.group_column, map(str, table))
            )
        used |= {"lesion": config.group_column, "patient": ""}
    rows = _groups.facts(table.astype(object), used | {"label": columns.label})
    if columns.names:
        rows["label"] = [_named(str(text), columns.names, f"{start}: {columns.label}") for text in rows["label"]]
    rows["image"] = table.index
    rows["official_part"] = [_layout.part_of(name.rsplit("_", 1)[0]) for name in table.index]
    base = start if start.is_dir() else start.parent
    elsewhere = {name: str(base / place) if place else f"{locations.MISSING}{name}" for name, place in outside.items()}
    rows["location"] = [elsewhere.get(str(name), f"images.zip::{name}") for name in table.index]
    root = _packed(start, shards, columns) if inside else base
    nothing = [str(name) for name in rows["image"][rows["label"] == ""]]
    rows = rows[rows["label"] != ""]
    names, _ = class_map.spelled(Counter(rows["label"]), config.merge_spellings, start)
    rows = rows.assign(label=[names[str(label)] for label in rows["label"]])
    in_order = list(dict.fromkeys(names[name] for name in columns.names if name in names))
    classes = class_map.chosen(config.classes or in_order, set(names.values()), start)
    rows = rows[rows["label"].isin(classes)]
    parts = {k: v for k, v in zip(rows["image"], rows["official_part"], strict=True) if v}
    said = ", ".join(f'{role} "{column}"' for role, column in used.items() if column) or "nothing else"
    say = f'The image is the column "{columns.image}", the class "{columns.label}"; read are, too: {said}.'
    findings = finding("columns of the table", "note", rows["image"], say, "Name others with --source-set.")
    findings += _layout.official_parts(parts, "The splits name")
    return Catalog.build(rows.reset_index(drop=True), classes, start.stem, root, "", nothing, findings)


def _shards(start: Path) -> list[_Shard]:
    """The files of the set and their splits, in order."""
    if start.is_file():
        return [_Shard(start, _split_of(start))]
    listed = start / "dataset_dict.json"
    try:
        saved = [start / name for name in json.loads(listed.read_text())["splits"]] if listed.is_file() else [start]
        found = [
            _Shard(folder / each["filename"], folder.name if folder != start else state.get("_split") or "data")
            for folder in saved
            if (folder / "state.json").is_file()
            for state in [json.loads((folder / "state.json").read_text())]
            for each in state["_data_files"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{start} is no whole folder of save_to_disk: {error}.", "Save it again.") from None
    if found:
        return found
    files = sorted(name for name in _files.listing(start).stored if _files.suffix(name) == ".parquet")
    if not files:
        raise DataError(f"{start} holds no Parquet file, nor a folder of save_to_disk.", f"--data PATH names {WANTED}.")
    return [_Shard(start / name, _split_of(start / name)) for name in files]


def _split_of(file: Path) -> str:
    """``train`` of ``train-00000-of-00002.parquet``, ``train.parquet`` and ``train/0000.parquet``."""
    own = re.sub(r"-\d+-of-\d+$", "", file.stem)
    return file.parent.name if own.isdecimal() else own


def _batches(file: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    try:
        if file.suffix.lower() == ".parquet":
            yield from pq.ParquetFile(file).iter_batches(BATCH, columns=columns)
            return
        with pa.memory_map(str(file)) as stream:
            for batch in pa.ipc.open_stream(stream):
                for begin in range(0, batch.num_rows, BATCH):
                    part = batch.slice(begin, BATCH)
                    yield part.select(columns) if columns else part
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{file} cannot be read: {error}.", "Download or save it again.") from None


def _schema(file: Path) -> pa.Schema:
    try:
        if file.suffix.lower() == ".parquet":
            return pq.read_schema(file)
        with pa.memory_map(str(file)) as stream:
            return pa.ipc.open_stream(stream).schema
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file} cannot be read: {error}.", "Download or save it again.") from None


def _columns(file: Path, config: Config) -> _Columns:
    """The columns of image and class, by the features that the schema names, else by type and usual names."""
    schema = _schema(file)
    about: dict[str, Any] = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features: dict[str, Any] = (about.get("info") or {}).get("features") or {}
    for name in (config.image_column, config.label_column):
        if name and name not in schema.names:
            raise DataError(f'{file} has no column "{name}".', nearest(name, schema.names))
    typed = {
        kind: [n for n, f in features.items() if isinstance(f, dict) and f.get("_type") == kind]
        for kind in ("Image", "ClassLabel")
    }
    structs = [
        field.name for field in schema if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    ]
    usual = _tables.called(pd.DataFrame(columns=schema.names), "label")
    image = _only(file, "image", [config.image_column] if config.image_column else typed["Image"] or structs)
    label = _only(file, "label", [config.label_column] if config.label_column else typed["ClassLabel"] or usual)
    if image not in structs:
        raise DataError(f'{file}: the column "{image}" holds no images.', "Expected: bytes and path of each.")
    return _Columns(image, label, tuple(map(str, (features.get(label) or {}).get("names") or ())))


def _only(file: Path, role: str, found: list[str]) -> str:
    if len(found) == 1:
        return found[0]
    said = f"may be the column {' or '.join(found)}" if found else "is in no column that is known"
    raise DataError(f"{file}: the {role} {said}.", f"Name it: --source-set {role}_column=NAME.")


def _table(shards: list[_Shard], columns: _Columns) -> tuple[pd.DataFrame, bool, dict[str, str]]:
    """The simple columns as text, by image name; whether images lie inside; and the paths of those that do not."""
    tables, outside, counts, num = list[pd.DataFrame](), dict[str, str](), Counter[str](), 0
    for shard in shards:
        schema = _schema(shard.file)
        wanted = [field.name for field in schema if any(is_one(field.type) for is_one in SIMPLE)]
        for batch in _batches(shard.file, [*wanted, columns.image]):
            names = [f"{shard.split}_{counts[shard.split] + row:06d}" for row in range(batch.num_rows)]
            counts[shard.split] += batch.num_rows
            images = batch.column(columns.image)
            bare = images.field("bytes").is_null().to_pylist()
            paths = images.field("path").to_pylist() if images.type.get_field_index("path") >= 0 else [None] * len(bare)
            outside |= {n: str(path or "") for n, gone, path in zip(names, bare, paths, strict=True) if gone}
            cells = {name: [_text(cell) for cell in batch.column(name).to_pylist()] for name in wanted}
            tables.append(pd.DataFrame(cells, index=pd.Index(names, dtype=object), dtype=object))
            num += batch.num_rows
    return pd.concat(tables).fillna(""), num > len(outside), outside


def _text(cell: object) -> str:
    return "" if cell is None else str(cell)


def _packed(start: Path, shards: list[_Shard], columns: _Columns) -> Path:
    """The folder in the cache that holds the images that lie inside, in ``images.zip``, written if it is not there."""
    files = [(str(s.file), s.split, (about := s.file.stat()).st_size, about.st_mtime_ns) for s in shards]
    folder = cache_folder() / f"huggingface-{digest(files, columns.image)}"
    file = folder / "images.zip"
    advice = "Free space or name another folder in the environment variable MOULAGE_CACHE."
    _once.make(folder, file.exists, lambda: _write(file, shards, columns), f"The images of {start}", advice)
    return folder.absolute()


def _write(file: Path, shards: list[_Shard], columns: _Columns) -> None:
    counts = Counter[str]()
    with atomic(file) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        for shard in shards:
            for batch in _batches(shard.file, [columns.image]):
                for image in batch.column(columns.image).to_pylist():
                    name = f"{shard.split}_{counts[shard.split]:06d}"
                    counts[shard.split] += 1
                    if image and image["bytes"] is not None:
                        archive.writestr(zipfile.ZipInfo(name), image["bytes"])
