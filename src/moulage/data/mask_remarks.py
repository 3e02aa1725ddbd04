"""What the audit says of lesion masks: those of another frame than their image, how they were written, empty ones."""

from collections import Counter

import numpy as np
import pandas as pd

from moulage.data import images, locations, mask_files
from moulage.data.catalog import Catalog
from moulage.data.findings import Finding, finding
from moulage.data.images import ImageError
from moulage.data.pixel_writer import OK
from moulage.data.reader import Reader
from moulage.errors import DataError

MOST_READ = 1000
"""Masks that are decoded, evenly spread over all; of the others the header alone is read."""


def check(catalog: Catalog, scan: pd.DataFrame) -> tuple[list[Finding], tuple[str, ...]]:
    """What is to be said of the masks of a catalog, whose ``scan`` this is, and the images whose mask cannot be used.

    Those have another aspect ratio than their image, or cannot be read; they are used without a mask.
    """
    rows = np.flatnonzero((catalog.table["mask"] != "").to_numpy() & (scan["status"] == OK).to_numpy())
    if not len(rows):
        return [], ()
    decoded = set(rows[np.linspace(0, len(rows) - 1, min(MOST_READ, len(rows))).astype(int)].tolist())
    misfits, broken = dict[str, str](), dict[str, str]()
    written, odd = Counter[str](), {"empty": list[str](), "full": list[str](), "corners": list[str]()}
    with Reader() as reader:
        for row in rows.tolist():
            name, place = str(catalog.images[row]), catalog.resolve(str(catalog.table["mask"][row]))
            size = int(scan["width"][row]), int(scan["height"][row])
            try:
                if row not in decoded:
                    _check_header(reader, place, *size)
                    continue
                mask = mask_files.read_for(reader, place, *size)
            except DataError as error:  # of an archive that is not there, too
                misfit = isinstance(error, ImageError) and error.status == mask_files.MISFIT
                (misfits if misfit else broken)[name] = error.message
                continue
            for kind in (kinds := _odd(mask.inside)):
                odd[kind].append(name)
            written[mask.levels] += not {"empty", "full"} & set(kinds)
    of = f" (of {len(decoded):,} of {len(rows):,} that were looked at)" if len(decoded) < len(rows) else ""
    return [*_unusable(misfits, broken), *_said(written, odd, of)], (*misfits, *broken)


def _check_header(reader: Reader, place: str, width: int, height: int) -> None:
    """As ``mask_files.read_for``, by the header; whether a mask of another shape was predicted takes its texts."""
    if locations.is_array(place):
        return
    data = reader.bytes(place)
    header = images.header(data)
    if not mask_files.Mask(np.empty((header.height, header.width), bool), "").fits(width, height):
        mask_files.read_for(reader, place, width, height)


def _odd(inside: np.ndarray) -> list[str]:
    corners = inside[:: len(inside) - 1 or 1, :: inside.shape[1] - 1 or 1]
    if inside.all() or not inside.any():
        return ["full" if inside.all() else "empty"]
    return ["corners"] if corners.all() else []


def _unusable(misfits: dict[str, str], broken: dict[str, str]) -> list[Finding]:
    found: list[Finding] = []
    for named, kind, words, advice in (
        (
            misfits,
            "mask of another frame",
            "of another aspect ratio than the image",
            "Give masks of these files.",
        ),
        (broken, "unreadable mask", "that cannot be read", "Replace these masks."),
    ):
        for image, message in list(named.items())[:1]:
            say = f"{_count(len(named))} {words}; {image}: {message.rstrip('.')}. Used without a mask."
            found += finding(kind, "error", named, say, advice)
    return found


def _said(written: Counter[str], odd: dict[str, list[str]], of: str) -> list[Finding]:
    found: list[Finding] = []
    if unusual := {levels: count for levels, count in written.items() if count and levels != mask_files.USUAL}:
        listed = ", ".join(f"{levels} ({count:,})" for levels, count in unusual.items())
        say = f"Masks not of 0 and 255 but of {listed}{of}: what is above the background was taken as lesion."
        found.append(Finding("masks of other levels", "note", sum(unusual.values()), (), say))
    for holds, kind, words, advice in (
        ("empty", "empty masks", "of skin alone", "Look at them: were they drawn?"),
        ("full", "full masks", "of lesion alone", "Look at them: does the lesion fill the image?"),
        ("corners", "masks inside out", "with lesion in all four corners", "Black on the lesion is read upside down."),
    ):
        found += finding(kind, "warning", odd[holds], f"{_count(len(odd[holds]))} {words}{of}.", advice)
    return found


def _count(number: int) -> str:
    return f"{number:,} mask{'' if number == 1 else 's'}"
