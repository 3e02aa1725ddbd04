"""DICOM files of single photographs or slices: a folder for each class, or a table of labels beside them.

Patients are groups, and so are series where the patient is not known. They are numbered in the order of the files:
**no tag that may identify somebody is kept**, neither ids, names, dates nor UIDs, and no message repeats one. Kept are
age (90 for all above 89), sex, part of the body and the model of the device (as ``source``). The names of files and
folders are kept, since images are found by them; where they hold a patient's id or name the audit warns.

Files are known by their content, whatever they are called, in a folder or a ZIP. What holds no picture (reports,
directories, presentation states) is passed over; files of several frames are refused, or left out where asked.
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Literal, NamedTuple

import pandas as pd
from pydantic import Field

from moulage import plugins
from moulage.data import class_map, dicom, locations, table_values
from moulage.data.catalog import Catalog
from moulage.data.findings import Finding, finding
from moulage.errors import DataError
from moulage.sources import _files, _groups, _layout, _tables

TAGS = (
    *("IssuerOfPatientID", "PatientID", "PatientName", "PatientAge", "PatientSex", "SeriesInstanceUID", "Rows"),
    *("NumberOfFrames", "BodyPartExamined", "AnatomicRegionSequence", "ManufacturerModelName", "BurnedInAnnotation"),
)
"""What is read of a header. Ids and names serve to number patients and series, and to look at file names."""
OLDEST = 90.0
"""Years that stand for every age above 89, which may identify somebody (45 CFR 164.514(b)(2)(i)(C))."""
SHORTEST = 4
"""Signs of an id or a name that is looked for in file names."""


class Config(plugins.Options):
    """Options of the source ``dicom``."""

    table: Path | None = Field(
        default=None, description="table of labels (.csv, .tsv, .xlsx), absolute or relative to the folder"
    )
    image_column: str = Field(default="", description="column of the table that names the file; empty: a usual name")
    label_column: str = Field(default="", description="column of the table that names the class; empty: a usual name")
    several_frames: Literal["refuse", "exclude"] = Field(
        default="refuse", description="files of several frames: stop, or leave them out"
    )
    classes: tuple[str, ...] = Field(
        default=(), description="classes to use, in this order; others are left out; empty: all, sorted"
    )
    merge_spellings: bool = Field(
        default=False, description="take classes that differ by case, spaces or Unicode form alone as one"
    )


class _Header(NamedTuple):
    """What is used of a file's header."""

    has_picture: bool
    num_frames: int
    patient: tuple[str, str]  # issuer and id; identifying
    series: str  # identifying
    words: tuple[str, ...]  # parts of id and name, in lower case; identifying
    age: str
    sex: str
    site: str
    model: str
    burned_in: bool


def read(path: Path | None, config: Config) -> Catalog:
    """Read headers up to the pixels, and the table where there is one.

    ``DataError``: pydicom is not installed, no path, no DICOM picture, files of several frames, neither class folders
    nor labels, spellings of one class, a table that names no image.
    """
    held = _files.listing(_files.existing(path, "a folder, or a ZIP, of DICOM files"))
    dicom.check_installed()
    _, other = _files.sort_out(held)
    names = [name for name, kind in other.items() if kind == "DICOM"]
    headers = dict(held.looked_into(names, _header, None))
    damaged = [name for name, found in headers.items() if found is None]
    seen = {name: found for name, found in headers.items() if found and found.has_picture}
    images, findings = _single(held, seen, config)
    if not images:
        raise DataError(f"{held.path} holds no image in a DICOM file.", "PNG, JPEG and others: --source folder.")
    say = f"{len(damaged):,} DICOM files whose header cannot be read; passed over."
    findings += finding("DICOM files that cannot be read", "warning", map(locations.shown, damaged), say)
    bare = [name for name in names if headers[name] and name not in seen]
    say = f"{len(bare):,} DICOM files without a picture, such as reports; passed over."
    findings += finding("DICOM files without a picture", "note", map(locations.shown, bare), say)
    used = _groups.table_inside(held, config.table) if config.table else ""
    findings += _files.passed_over(held, {name: kind for name, kind in other.items() if name not in headers}, [used])
    labels, parts, told = _labels(held, images, config)
    kept = [name for name in images if labels.get(name)]
    names_of, merged = class_map.spelled(Counter(labels[name] for name in kept), config.merge_spellings, held.path)
    classes = class_map.chosen(config.classes, set(names_of.values()), held.path)
    unlabelled = [locations.shown(name) for name in images if not labels.get(name)]
    kept = [name for name in kept if names_of[labels[name]] in classes]
    rows = _rows(held, kept, seen)
    rows["label"] = [names_of[labels[name]] for name in kept]
    rows["official_part"] = [parts.get(name, "") for name in kept]
    findings += [*told, *merged, *_warnings({name: seen[name] for name in kept})]
    name = held.path.name.removesuffix(".zip")
    return Catalog.build(rows, classes, name, held.root, "", unlabelled, findings)


def _header(stream: IO[bytes]) -> _Header | None:
    """What is used of an open file; None where it cannot be read."""
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote the file
        try:
            found = pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=list(TAGS))
            patient = str(found.get("PatientID") or "")
            words = [*re.split(r"[\^=\s,]+", f"{found.get('PatientName') or ''}"), patient]
            region = next(iter(found.get("AnatomicRegionSequence") or ()), None)
            site = str(region.get("CodeMeaning") or "") if region else ""
            return _Header(
                "Rows" in found,
                int(found.get("NumberOfFrames") or 1),
                (str(found.get("IssuerOfPatientID") or ""), patient) if table_values.text(patient) else ("", ""),
                table_values.text(str(found.get("SeriesInstanceUID") or "")),
                tuple(word.lower() for word in words if len(word) >= SHORTEST),
                str(found.get("PatientAge") or ""),
                str(found.get("PatientSex") or ""),
                site or str(found.get("BodyPartExamined") or "").lower(),
                str(found.get("ManufacturerModelName") or ""),
                str(found.get("BurnedInAnnotation") or "") == "YES",
            )
        except Exception:  # noqa: BLE001  pydicom raises anything on broken files, and its words quote them
            return None


def _single(held: _files.Listing, seen: dict[str, _Header], config: Config) -> tuple[list[str], list[Finding]]:
    """The files of one frame, and a finding on the others where they are left out."""
    several = [name for name, header in seen.items() if header.num_frames > 1]
    if several and config.several_frames == "refuse":
        raise DataError(
            f"{held.path}: {len(several):,} of {len(seen):,} DICOM files hold several frames; the first is "
            f"{locations.shown(several[0])} with {seen[several[0]].num_frames}.",
            f"{dicom.ADVICE} Or leave them out: --source-set several_frames=exclude.",
        )
    say = f"{len(several):,} DICOM files of several frames; left out."
    gone = set(several)
    return (
        [name for name in seen if name not in gone],
        finding("DICOM files of several frames", "warning", map(locations.shown, several), say, dicom.ADVICE),
    )


def _labels(
    held: _files.Listing, images: Sequence[str], config: Config
) -> tuple[dict[str, str], dict[str, str], list[Finding]]:
    """The class and the official part of each image, and what to say."""
    if config.table is not None:
        where = held.root / config.table
        table, files = _tables.read_table(where, ()), _groups.Names(images)
        label = _groups.label_column(table, str(where), config.label_column)
        if not label:
            raise DataError(
                f"{where}: no column is called as the class is.", "Name it: --source-set label_column=NAME."
            )
        known = _groups.read(table, images, files, str(where), image=config.image_column, label=label)
        return dict(known.table["label"]), {}, list(known.findings)
    layout = _layout.read(images, config.classes, held.path, has_table=False)
    if not any(layout.labels.values()):
        raise DataError(
            f"{held.path} holds DICOM files but no class folders.",
            "Put those of each class into a folder of its name, or name a table of labels: --source-set table=NAME.",
        )
    return layout.labels, layout.parts, _layout.remarks(layout.parts, set(layout.labels.values()))


def _rows(held: _files.Listing, names: Sequence[str], seen: dict[str, _Header]) -> pd.DataFrame:
    """Image, location and what is known of each, with numbers in place of patients and series."""
    headers = [seen[name] for name in names]
    rows = pd.DataFrame({"image": list(names)}, dtype=object)
    rows["location"] = [held.location(name) for name in names]
    rows["lesion"] = _numbered([header.series for header in headers], "series")
    patients = _numbered(["\0".join(header.patient).strip("\0") for header in headers], "")
    rows["group"] = _tables.patients(rows["lesion"], pd.Series(patients))
    ages = [table_values.age(header.age)[0] for header in headers]
    rows["age"] = [OLDEST if years > OLDEST - 1 else years for years in ages]
    rows["sex"] = [header.sex for header in headers]
    rows["site"] = [header.site for header in headers]
    rows["source"] = [header.model for header in headers]
    return rows


def _numbered(values: Iterable[str], word: str) -> list[str]:
    """Numbers for values in the order in which they come first, with a word before; empty where there is none."""
    number: dict[str, int] = {}
    return [f"{word} {number.setdefault(value, len(number) + 1)}".strip() if value else "" for value in values]


def _warnings(seen: dict[str, _Header]) -> list[Finding]:
    """Findings on what may name a patient all the same. Files are counted, not named."""
    named = [name for name, header in seen.items() if any(word in name.lower() for word in header.words)]
    say = f"{len(named):,} files whose name or folder holds the patient's id or name; runs keep the names of files."
    told = finding("file names that name patients", "warning", [""] * len(named), say, "Rename them before a run.")
    burned = [name for name, header in seen.items() if header.burned_in]
    say = f"{len(burned):,} images whose header says that text is burned into the picture."
    told += finding(
        "text in the picture", "warning", map(locations.shown, burned), say, "Look whether it names anybody."
    )
    return told
