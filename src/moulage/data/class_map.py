"""Which classes are the same: spellings of one, and those of one data set and another."""

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from moulage.data.catalog import Catalog
from moulage.data.findings import Finding, finding
from moulage.errors import DataError, RecipeError, nearest

AMBIGUOUS = {"AKIEC": "AKIEC is actinic keratosis or Bowen's disease; ISIC-2019 calls the first AK, the second SCC"}
"""Classes of other data sets that join several of ours."""


@dataclass(frozen=True)
class ClassMap:
    """Which of their classes is which of ours."""

    ours: dict[str, str]  # their class -> ours
    left_out: dict[str, int]  # their class -> how many images of it are not scored
    absent: tuple[str, ...]  # classes of ours of which they have no image
    notes: tuple[str, ...]  # sentences for the reader

    def apply(self, catalog: Catalog, classes: tuple[str, ...]) -> Catalog:
        """The images of mapped classes under our names; ``classes`` are all of ours."""
        kept = catalog.only(label=tuple(self.ours))
        return replace(kept.with_columns(label=[self.ours[name] for name in kept.table["label"]]), classes=classes)


def map_classes(catalog: Catalog, classes: tuple[str, ...], wanted: Mapping[str, str]) -> ClassMap:
    """Map the classes of other data to ours: those of the same name, whatever its spelling, and as ``wanted`` says.

    ``wanted`` maps a class of theirs to one of ours, or to ``""`` to leave it out. ``RecipeError``: one of these does
    not exist. ``DataError``: nothing is mapped.
    """
    for theirs, ours in wanted.items():
        if theirs not in catalog.classes:
            raise RecipeError(f'{catalog.name} has no class "{theirs}" to map.', nearest(theirs, catalog.classes))
        if ours and ours not in classes:
            raise RecipeError(
                f'"{theirs}" cannot become "{ours}": the study has no such class.', nearest(ours, classes)
            )
    alike = {key(name): name for name in classes} | {name: name for name in classes}
    asked = {name: wanted.get(name, alike.get(name, alike.get(key(name), ""))) for name in catalog.classes}
    mapped = {theirs: ours for theirs, ours in asked.items() if ours}
    counts = catalog.counts
    if not sum(counts[name] for name in mapped):
        raise DataError(
            f"No class of {catalog.name} is one of the study's: {', '.join(catalog.classes)}.",
            f"Say which is which of {', '.join(classes)}.",
        )
    left_out = {name: counts[name] for name in catalog.classes if name not in mapped}
    present = {ours for theirs, ours in mapped.items() if counts[theirs]}
    absent = tuple(name for name in classes if name not in present)
    notes = [f"{AMBIGUOUS[n.upper()]}: here it counts as {mapped[n]}." for n in mapped if n.upper() in AMBIGUOUS]
    for theirs, ours in mapped.items():
        if theirs != ours and key(theirs) == key(ours):
            notes.append(f'Their "{theirs}" is taken as "{ours}".')
    if left_out:
        notes.append(f"Left out, for want of a class: {', '.join(f'{k} ({n:,} images)' for k, n in left_out.items())}.")
    if absent:
        notes.append(f"{catalog.name} has no image of {', '.join(absent)}.")
    return ClassMap(mapped, left_out, absent, tuple(notes))


def key(name: str) -> str:
    """What two spellings of one class have in common, whatever their case, spaces and Unicode form.

    A space between digits counts: ``1 1`` is not ``11``.
    """
    shown = "".join(sign for sign in unicodedata.normalize("NFKC", name) if unicodedata.category(sign) != "Cf")
    folded = unicodedata.normalize("NFKC", re.sub(r"[\s_]+", " ", shown).strip().casefold())
    return re.sub(r"(?<!\d) | (?!\d)", "", folded)


def spelled(labels: Mapping[str, int], merge: bool, where: object) -> tuple[dict[str, str], list[Finding]]:
    """The class of each label, which stand with their numbers of images, and a finding where two become one.

    A class is called by its commonest spelling, without spaces at its ends, in NFC. ``DataError`` where labels differ
    by case, spaces or Unicode form alone and are not to be merged.
    """
    alike: dict[str, list[str]] = {}
    for label in sorted(labels, key=lambda name: (-labels[name], name)):
        alike.setdefault(key(label), []).append(label)
    several = [group for group in alike.values() if len(group) > 1]
    listed = "; ".join(" = ".join(f"{label!r} ({labels[label]:,})" for label in group) for group in several)
    if several and not merge:
        raise DataError(
            f"{where}: classes differ by case, spaces or Unicode form alone: {listed}.",
            "Rename them, or take them as one with --source-set merge_spellings=true.",
        )
    say = f"Classes that differ by case, spaces or Unicode form alone are one: {listed}."
    names = {label: clean(group[0]) for group in alike.values() for label in group}
    return names, finding("spellings of one class", "warning", [label for group in several for label in group], say)


def clean(name: str) -> str:
    """A class name without spaces at its ends, in Unicode form NFC."""
    return unicodedata.normalize("NFC", name).strip()


def chosen(wanted: Sequence[str], found: Collection[str], where: object) -> tuple[str, ...]:
    """The classes that were asked for, cleaned, in this order; all that were found, sorted, where none was.

    ``DataError``: one that was asked for is not among those found.
    """
    names = tuple(map(clean, wanted))
    for name in names:
        if name not in found:
            raise DataError(f'{where}: there is no image of the class "{name}".', nearest(name, found))
    return names or tuple(sorted(found))
