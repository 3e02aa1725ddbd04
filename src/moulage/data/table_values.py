"""What a cell of somebody's table says: nothing, an age, a sex. One reader for every table, whoever wrote it.

Tables write "missing" in many words. Taken as a value, "nan" is one lesion of all images that have none; so words for
nothing are nothing, wherever a table is read. Ages and sexes are read as people and hospital systems write them. What
cannot be read counts as missing and is reported; so is what had to be assumed.
"""

import re
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

import numpy as np
import pandas as pd

from moulage.data.findings import Finding, Severity, finding

_WORDS = (
    *("nan", "<nan>", "nat", "na", "n/a", "n.a.", "n.a", "#n/a", "#na", "<na>", "none", "null", "nil", "undefined"),
    *("unknown", "unk", "unkn", "unkn.", "not known", "unspecified", "not specified", "not available", "not given"),
    *("not applicable", "not recorded", "not reported", "missing", "missing value", "empty", "no data", "tbd", "tba"),
    *("unbekannt", "inconnu", "desconocido", "?", "??", "???", "-", "--", "---", ".", "..", "/", "_", "#value!"),
)
MISSING = frozenset(_WORDS)
"""Words for nothing, in lower case."""
OLDEST = 120.0
"""Years; no patient is older."""
FEMALE, MALE, OTHER = "female", "male", "other"
_FEMALE = ("female", "f", "fem", "femme", "femenino", "w", "woman", "girl", "weiblich", "frau", "mujer", "♀")
_MALE = ("male", "m", "masc", "masculin", "masculino", "man", "boy", "männlich", "maennlich", "mann", "hombre", "♂")
_OTHER = ("other", "o", "x", "d", "diverse", "divers", "non-binary", "nonbinary", "intersex")
SEXES = {word: sex for words, sex in ((_FEMALE, FEMALE), (_MALE, MALE), (_OTHER, OTHER)) for word in words}
ISO_5218 = {"0": "", "1": MALE, "2": FEMALE, "9": ""}
"""Codes of ISO/IEC 5218: not known, male, female, not applicable."""
EXAMPLES = 5
"""Values that a finding names."""

_NUMBER = r"(\d+(?:[.,]\d+)?)"
_UNIT = (
    r"\s*(years?|yrs?|y\.?/?o|y|jahre?|ans?|años|anni|months?|mos?|mths?|weeks?|wks?|w|days?|d|m)?\.?"
    r"(?:\s*(?:old|of age))?"
)
_ABOUT = r"(?:(?:ca|approx|circa|about|age)\b\.?|~|≈)?\s*"
_BELOW = r"(?:[<>≤≥]=?|over|under|above|below|older than|younger than|at least|at most)"
_BEHIND = r"\s*(?:\+|plus|(?:and|or) (?:over|above|older|more|under|below|younger|less))"
_PLAIN = re.compile(rf"{_ABOUT}{_NUMBER}{_UNIT}")
_BOUNDS = (re.compile(rf"{_BELOW}\s*{_NUMBER}{_UNIT}"), re.compile(rf"{_NUMBER}{_UNIT}{_BEHIND}{_UNIT}"))
_RANGE = re.compile(rf"[\[(]?\s*{_NUMBER}{_UNIT}\s*(?:-|–|—|to|bis|\.\.|,|;)\s*{_NUMBER}{_UNIT}\s*[\])]?")
_DECADE = re.compile(r"(\d0)'?s")
_A_YEAR = {"m": 12.0, "w": 365.25 / 7, "d": 365.25}
"""How many of a unit, by its first letter, are a year; years are all others."""


def is_missing(value: object) -> bool:
    """Whether a cell says nothing: empty, NaN, None, or one of the words for it."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return True
    word = " ".join(str(value).lower().split())
    return not word or word in MISSING


def text(value: object) -> str:
    """A cell without the spaces around it; empty where it says nothing."""
    return "" if is_missing(value) else str(value).strip()


def age(value: object) -> tuple[float, str]:
    """Years, NaN where unknown, and how they were read: ``""`` (as they stand), ``range``, ``bound`` or ``unread``.

    Of a range (``60-69``, ``[60, 70)``, ``60s``) the middle is taken, of a bound (``85+``, ``<20``) the bound. Units
    are years unless months, weeks or days are named (DICOM writes ``045Y``, ``006M``: PS3.5, value representation AS).
    Numbers outside 0 to ``OLDEST`` are unread.
    """
    cell = text(value).lower()
    if not cell:
        return np.nan, ""
    years, how = _years(cell)
    return (years, how) if 0 <= years <= OLDEST else (np.nan, "unread")


def _years(cell: str) -> tuple[float, str]:
    """As ``age``; a negative number where it is none."""
    with suppress(ValueError):
        return float(cell), ""
    if found := _PLAIN.fullmatch(cell):
        return _in_years(*found.groups()), ""
    if found := _DECADE.fullmatch(cell):
        return float(found[1]) + 5, "range"
    if found := _RANGE.fullmatch(cell):
        low, low_unit, high, unit = found.groups()
        first, last = _in_years(low, low_unit or unit), _in_years(high, unit or low_unit)
        return ((first + last) / 2, "range") if first <= last else (-1.0, "unread")
    for pattern in _BOUNDS:
        if found := pattern.fullmatch(cell):
            number, *units = found.groups()
            return _in_years(number, next(filter(None, units), None)), "bound"
    return -1.0, "unread"


def _in_years(number: str, unit: str | None) -> float:
    """A lone ``m`` is of DICOM where three digits stand before it, else it may be male or months: no number."""
    if unit == "m" and len(number) != 3:
        return -1.0
    return float(number.replace(",", ".")) / _A_YEAR.get((unit or "y")[0], 1.0)


def sexes(values: Iterable[object]) -> tuple[list[str], Counter[str], Counter[str]]:
    """Sexes as ``female``, ``male``, ``other`` or empty; the codes that were taken as ISO 5218; what was not read.

    ``0`` and ``1`` alone are no code that anybody agrees on, and are not read.
    """
    cells = [text(value).lower().removesuffix(".0") for value in values]
    used = {cell for cell in cells if cell in ISO_5218}
    codes = {} if {"0", "1"} <= used and "2" not in used else ISO_5218
    found = [SEXES.get(cell, codes.get(cell, "")) for cell in cells]
    assumed = Counter(cell for cell in cells if cell in codes)
    unread = Counter(cell for cell in cells if cell and cell not in SEXES and cell not in codes)
    return found, assumed, unread


def read(table: pd.DataFrame) -> tuple[pd.DataFrame, list[Finding]]:
    """A table with its columns ``lesion``, ``group``, ``source``, ``site``, ``sex`` and ``age`` read, and what to say.

    Text is stripped and empty where missing; ``age`` is float64 years, NaN where missing. Columns that it has not stay
    away; ``image`` names the rows in findings.
    """
    table, found, names = table.copy(), list[Finding](), table["image"].astype(str)
    for column in [name for name in ("lesion", "group", "source", "site") if name in table]:
        table[column] = pd.Series([text(value) for value in table[column]], index=table.index, dtype=object)
    if "sex" in table:
        before = table["sex"]
        read_sexes, assumed, unread = sexes(before)
        table["sex"] = pd.Series(read_sexes, index=table.index, dtype=object)
        cells = before.map(text).str.lower().str.removesuffix(".0")
        said = "with a sex in numbers, taken as codes of ISO 5218 (1 male, 2 female, 0 and 9 unknown)"
        found += _said("sex by number", "note", names[cells.isin(assumed)], said, assumed, "Write male and female.")
        said = "with a sex that cannot be read, and counts as missing"
        found += _said("unread sex", "warning", names[cells.isin(unread)], said, unread, "Write male and female.")
    if "age" in table:
        found += _read_ages(table, names)
    return table, found


def _read_ages(table: pd.DataFrame, names: pd.Series) -> list[Finding]:
    """The column ``age`` of the table becomes years; what to say of it."""
    before, found = table["age"], list[Finding]()
    ages = [age(value) for value in before]
    table["age"] = pd.Series([years for years, _ in ages], index=table.index, dtype=np.float64)
    said: dict[str, tuple[Severity, str, str, str]] = {
        "range": ("note", "age by range", "with a range of ages, read as its middle", ""),
        "bound": ("note", "age by bound", "with a bound of the age, read as that age", ""),
        "unread": ("warning", "unread age", f"with an age that is no number of years from 0 to {OLDEST:.0f}", ""),
    }
    for how, (severity, kind, words, advice) in said.items():
        rows = np.array([way == how for _, way in ages], bool)
        values = Counter(str(value) for value in before[rows])
        words += "; it counts as missing" if how == "unread" else ""
        found += _said(kind, severity, names[rows], words, values, advice)
    known = table["age"].dropna()
    if len(known) >= EXAMPLES and known.max() <= 1 and known.nunique() > 2:
        words = "with an age, and none is above 1: these look like scaled numbers, not years"
        values = Counter(f"{value:g}" for value in known)
        found += _said("ages of another scale", "warning", names[known.index], words, values, "Give years.")
    return found


def _said(
    kind: str, severity: Severity, names: Iterable[str], words: str, values: Counter[str], advice: str
) -> list[Finding]:
    """A finding on these images, with the values that it is about."""
    listed = list(names)
    shown = ", ".join(f'"{value[:40]}" ({number:,})' for value, number in values.most_common(EXAMPLES))
    more = f" and {len(values) - EXAMPLES} more" if len(values) > EXAMPLES else ""
    number = f"{len(listed):,} image{'' if len(listed) == 1 else 's'}"
    return finding(kind, severity, listed, f"{number} {words}: {shown}{more}.", advice)
