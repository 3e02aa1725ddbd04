"""Several data sets as one catalog: a main one, and further ones; and the images that two of them share.

Names and lesion ids of a further data set stand behind its own name, ``ham:ISIC_0024306``, since two data sets may
count from one. Whether they nevertheless mean the same photographs is for ``shared`` to find out.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import pandas as pd

from moulage.data import identity, overlap
from moulage.data.catalog import Catalog, concatenate
from moulage.data.identity import Shown
from moulage.data.pixel_writer import OK
from moulage.data.pixels import Pixels
from moulage.errors import DataError
from moulage.runs import Progress, no_progress

MAIN = "main"
"""How messages call the main data set, whose column ``data_set`` is empty."""


@dataclass(frozen=True)
class Member:
    """One data set of a joined catalog."""

    name: str  # empty for the main one
    shown: Shown  # its images, under the names and lesion ids that the data set itself gives

    def joined(self, images: pd.Series) -> pd.Series:
        """The names in the joined catalog of images under their own names."""
        return _prefixed(images, self.name)


def join(main: Catalog, further: Mapping[str, Catalog], train_only: Collection[str] = ()) -> Catalog:
    """One catalog of several; the main images first, then those that are split as well, then those of ``train_only``.

    ``further`` are by name, with the classes of ``main``; ``train_only`` names those that are trained on and nothing
    else. ``DataError``: other classes than those of ``main``, or two images of one name after all.
    """
    if not further:
        return main
    ordered = sorted(further.items(), key=lambda item: item[0] in train_only)
    parts = [_member(catalog, name, "train" if name in train_only else "") for name, catalog in ordered]
    joined = concatenate(main, *parts)
    repeated = joined.table["image"][joined.table["image"].duplicated()]
    if len(repeated):
        raise DataError(
            f'Two data sets have an image "{repeated.iloc[0]}".',
            "Give the further data set another name in the recipe.",
        )
    return replace(
        joined,
        name=" + ".join([main.name, *further]),
        note=" ".join(filter(None, [main.note, *(f"{name}: {found.note}" for name, found in ordered if found.note)])),
        unlabelled=(*main.unlabelled, *(name for part in parts for name in part.unlabelled)),
        findings=(*main.findings, *(finding for part in parts for finding in part.findings)),
    )


def names(catalog: Catalog) -> list[str]:
    """The data sets of a catalog in their order; the main one is ``""``."""
    return list(dict.fromkeys(catalog.table["data_set"]))


def members(catalog: Catalog, pixels: Pixels) -> Iterator[Member]:
    """The data sets of a catalog in their order, each under the names of its own."""
    for name in names(catalog):
        shown = Shown.of(catalog.only(data_set=name), pixels)
        table, skip = shown.catalog.table, len(_prefix(name))
        own = {column: table[column].str[skip:].to_numpy(object) for column in ("image", "lesion")}
        yield Member(name, replace(shown, catalog=shown.catalog.with_columns(**own)))


def shared(catalog: Catalog, pixels: Pixels, progress: Progress = no_progress) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Every image of a further data set of which an earlier one has the photograph or the lesion.

    Evidence is what ``overlap.find`` takes: the same bytes, near-duplicates, and the same name or lesion id where the
    two data sets mean the same by a name. Lesion ids count only where some image names are shared, and alike: numbers
    from one say nothing. Images of ``catalog``, which is of ``join``, are passed over where they are unusable.

    A table of ``image``, ``same_as``, ``why``, ``data_set`` and ``of`` (the two data sets), a row a pair, names as in
    ``catalog``; and sentences on what was not taken as evidence.
    """
    usable = catalog.take((pixels.scan["status"] == OK).to_numpy())
    earlier, tables, notes = [], [], []
    for member in members(usable, pixels):
        rest = member.shown
        for other in earlier:
            table, said = overlap.find(rest, other.shown, progress)
            table, more = _without_chance(table)
            of = other.name or MAIN
            notes += [f"{member.name} and {of}: {sentence}" for sentence in (*said, *more)]
            photographs = table.loc[table["why"] != overlap.SAME_LESION, "image"]
            rest = rest.take(~rest.catalog.table["image"].isin(photographs).to_numpy())
            table = table.assign(image=member.joined(table["image"]), same_as=other.joined(table["same_as"]))
            tables.append(table.assign(data_set=member.name, of=of))
        earlier.append(replace(member, shown=rest))
    if not tables:
        return pd.DataFrame(columns=[*identity.COLUMNS, "data_set", "of"], dtype=object), ()
    return pd.concat(tables, ignore_index=True), tuple(notes)


def find(
    theirs: Shown, ours: Iterable[Member], progress: Progress = no_progress
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """What ``overlap.find`` finds of other data in each of ours; ``same_as`` is what the joined catalog calls it."""
    tables, notes = [], []
    for member in ours:
        table, said = overlap.find(theirs, member.shown, progress)
        tables.append(table.assign(same_as=member.joined(table["same_as"])))
        notes += said
    return pd.concat(tables, ignore_index=True), tuple(notes)


def _without_chance(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The pairs without those of equal lesion ids, where no image name shows that both mean the same by an id."""
    by_lesion = table["why"] == overlap.SAME_LESION
    if not by_lesion.any() or (table["why"].isin([overlap.SAME_NAME, identity.SAME_BYTES])).any():
        return table, []
    said = f"{by_lesion.sum():,} pairs of images have one lesion id, but no image is in both: not taken as evidence."
    return table[~by_lesion], [said]


def _member(catalog: Catalog, name: str, only_part: str) -> Catalog:
    table = catalog.table
    own = {column: _prefixed(table[column], name).to_numpy(object) for column in ("image", "lesion", "group")}
    named = catalog.with_columns(**own, data_set=name, only_part=only_part)
    told = tuple(replace(finding, message=f"{name}: {finding.message}") for finding in catalog.findings)
    return replace(named, unlabelled=tuple(f"{_prefix(name)}{image}" for image in catalog.unlabelled), findings=told)


def _prefix(name: str) -> str:
    return f"{name}:" if name else ""


def _prefixed(values: pd.Series, name: str) -> pd.Series:
    """Values behind the data set's name; empty ones stay empty."""
    return (_prefix(name) + values.astype(object)).where(values != "", "").astype(object)
