"""Splits: which image trains, which validates, which tests. What belongs together never crosses.

Groups (lesions, joined with their duplicates by the audit) are dealt to the parts class by class, the class with the
fewest groups first, so that every part gets its share of the images and of the lesions of every class. Within a class
the groups come in order of size, equal sizes shuffled, and each goes to the part that lags furthest behind its share:
Webster's method of apportionment, extended to seats of unequal size. The result depends on the groups and the seed,
not on the order of the rows.

Images that may only be trained on (the column ``only_part``, for further data sets of a study) go to the training part
of every split. The others are split as if those were not there; shares are shares of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from moulage.data import parquet
from moulage.data.catalog import REAL, Catalog
from moulage.errors import DataError, LeakError, RunError
from moulage.runs import digest

PARTS = ("train", "validation", "test")
"""The parts that every split has."""
RESERVE = "reserve"
"""A part that ``data/reserve.py`` holds back from the training part; most splits have none of it."""
COLUMNS = ("image", "label", "group", "part")


@dataclass(frozen=True, eq=False)
class Split:
    """One trial: the part of every image. Never changed: what is derived from it is kept."""

    table: pd.DataFrame  # one row an image; ``COLUMNS``, all text; ``part`` is one of ``PARTS``, or ``RESERVE``
    digest: str  # digest of what the table says, whatever the order of its rows
    scheme: dict[str, Any]  # how it was made: kind, fractions, seed, repeat and fold, and the class names in order

    def part(self, catalog: Catalog, name: str) -> Catalog:
        """The rows of ``catalog`` that are in this part, in the catalog's order; none where there is no reserve.

        ``DataError`` where there is no such part, ``LeakError`` where the catalog lacks images of it: it was not split
        then.
        """
        if name not in (*PARTS, RESERVE):
            raise DataError(f'There is no part "{name}".', f"Parts: {', '.join((*PARTS, RESERVE))}.")
        chosen = (self.table["part"] == name).to_numpy()
        if np.array_equal(self.table["image"].to_numpy(object), catalog.images):  # so it is but for a catalog of fewer
            return catalog.take(chosen)
        rows, number = catalog.table["image"].isin(self.table.loc[chosen, "image"]).to_numpy(), chosen.sum()
        if rows.sum() != number:
            raise LeakError(
                f"{catalog.name} holds {rows.sum()} of the {number} images in part {name} of split {self.digest}.",
                "Use the catalog that was split, or split this one.",
            )
        return catalog.take(rows)

    @cached_property
    def counts(self) -> dict[str, dict[str, dict[str, int]]]:
        """``{part: {class: {"images": n, "lesions": m}}}``, where a lesion is a group; zeros included.

        The reserve is there if it holds any image.
        """
        by_class = self.table.groupby(["part", "label"])["group"].agg(["size", "nunique"])
        found = {key: (int(row[0]), int(row[1])) for key, row in zip(by_class.index, by_class.to_numpy(), strict=True)}
        return {
            part: {
                label: dict(zip(("images", "lesions"), found.get((part, label), (0, 0)), strict=True))
                for label in self.scheme["classes"]
            }
            for part in (*PARTS, *((RESERVE,) if (self.table["part"] == RESERVE).any() else ()))
        }

    def save(self, path: Path) -> None:
        """Write a Parquet file with digest and scheme in its metadata."""
        parquet.write(path, "split", self.table, digest=self.digest, scheme=self.scheme)

    @classmethod
    def load(cls, path: Path) -> "Split":
        """Read what ``save`` wrote; ``RunError`` as of ``parquet.read``, and where the rows do not match the digest."""
        table, about = parquet.read(path, "split")
        split = cls(table.astype(object), about["digest"], about["scheme"])
        if digest_of(split.table) != split.digest:
            raise RunError(
                f"{path} was changed after it was written: its rows do not have the digest {split.digest}.",
                "Restore the file, or delete it and run the command again.",
            )
        return split


def holdout(catalog: Catalog, *, validation: float = 0.1, test: float = 0.2, seed: int) -> Split:
    """One split of real images into train, validation and test; ``catalog.groups`` says what stays together.

    ``validation`` and ``test`` are shares of all images, above 0 and below 1 together; the rest trains. The same seed
    and groups give the same split. ``DataError``: a share is out of range, or a class has too few lesions for every
    part to get one. ``LeakError``: the catalog holds synthetic images.
    """
    _check_shares(validation=validation, test=test)
    groups = _Groups.of(catalog)
    shares = {"train": 1 - validation - test, "validation": validation, "test": test}
    parts = groups.deal(np.arange(len(groups.counts)), shares, np.random.default_rng(seed))
    scheme = {"kind": "holdout", "validation": validation, "test": test, "seed": seed}
    return _make(catalog, parts[groups.index], scheme)


def folds(
    catalog: Catalog, *, num_folds: int, num_repeats: int = 1, validation: float = 0.1, seed: int
) -> tuple[Split, ...]:
    """``num_repeats * num_folds`` trials; within a repeat every image is in exactly one test part.

    ``num_folds`` is at least 2; in each repeat the groups are dealt into folds anew. ``validation`` is a share of *all*
    images, taken from outside the test fold; above 0, below ``1 - 1 / num_folds``. All else is as for ``holdout``.
    """
    if num_folds < 2 or num_repeats < 1:
        raise DataError(f"{num_repeats} x {num_folds} folds cannot be made.", "Ask for at least 2 folds and 1 repeat.")
    _check_shares(validation=validation, test=1 / num_folds)
    groups, splits = _Groups.of(catalog), []
    inner = {"train": 1 - validation - 1 / num_folds, "validation": validation}
    for repeat in range(num_repeats):
        rng = np.random.default_rng([seed, repeat])
        fold_of = groups.deal(np.arange(len(groups.counts)), dict.fromkeys(range(num_folds), 1 / num_folds), rng)
        for fold in range(num_folds):
            rest = np.flatnonzero(fold_of != fold)
            parts = np.full(len(fold_of), "test", object)
            parts[rest] = groups.deal(rest, inner, rng)
            scheme = {"kind": "folds", "num_folds": num_folds, "num_repeats": num_repeats, "validation": validation}
            scheme |= {"seed": seed, "repeat": repeat, "fold": fold}
            splits.append(_make(catalog, parts[groups.index], scheme))
    return tuple(splits)


def official(catalog: Catalog, *, validation: float = 0.1, seed: int) -> Split:
    """The data set's own split, from the column ``official_part``.

    Where it has no validation part, one is taken out of its training part: ``validation`` is the share of the
    *training* images, above 0 and below 1. ``DataError``: images without an official part, an unknown part, or a part
    that lacks a class. ``LeakError``: the official split tears a group apart, or the catalog holds synthetic images.
    """
    _check_shares(validation=validation)
    dealt = dealable(catalog)
    groups, stated = _Groups.of(catalog), dealt.table["official_part"].to_numpy(object)
    strange = ~np.isin(stated, PARTS)
    if strange.any():
        raise DataError(
            f'{catalog.name}: {strange.sum()} images have no official part, such as "{dealt.images[strange][0]}".',
            'Use the scheme "holdout" or "folds".',
        )
    _refuse_crossing(dealt.groups, stated, dealt.images, f"The official split of {catalog.name}")
    parts = np.empty(len(groups.counts), object)
    parts[groups.index] = stated
    if "validation" not in stated:
        rest = np.flatnonzero(parts == "train")
        shares = {"train": 1 - validation, "validation": validation}
        parts[rest] = groups.deal(rest, shares, np.random.default_rng(seed))
    split = _make(catalog, parts[groups.index], {"kind": "official", "validation": validation, "seed": seed})
    for part, classes in split.counts.items():
        for label, count in classes.items():
            if not count["images"]:
                raise DataError(
                    f'The official part {part} of {catalog.name} has no image of the class "{label}".',
                    'Use the scheme "holdout" or "folds", or leave the class out.',
                )
    return split


def prove(split: Split, catalog: Catalog) -> None:
    """Prove that nothing crosses: every image in exactly one part, every group in one part, nothing changed since.

    A group of the training part may have images in the reserve, which is for training too. Nor is an image that may
    only be trained on in a part that chooses or scores. The proof takes groups and labels from the catalog, not from
    whoever made the split. ``LeakError`` says which group or images, or what else does not hold.
    """
    _refuse_synthetic(catalog)
    table, where = split.table, f"Split {split.digest}"
    again = "Split this catalog again."
    strange = sorted(set(table["part"]) - {*PARTS, RESERVE})
    if strange:
        raise LeakError(f'{where} has the unknown part "{strange[0]}".', again)
    twice = table["image"][table["image"].duplicated()]
    if len(twice):
        raise LeakError(f'{where}: the image "{twice.iloc[0]}" is in it more than once.', again)
    for names, others, what in (
        (catalog.images, table["image"], "is in no part"),
        (table["image"], catalog.images, f"is not in {catalog.name}"),
    ):
        lost = sorted(set(names) - set(others))
        if lost:
            raise LeakError(f'{where}: {len(lost)} images of which the first, "{lost[0]}", {what}.', again)
    ordered = table.set_index("image").loc[catalog.images]
    for column in ("label", "group"):
        differs = ordered[column].to_numpy(object) != catalog.table[column].to_numpy(object)
        if differs.any():
            raise LeakError(
                f'{where}: the {column} of "{catalog.images[differs][0]}" is another in {catalog.name}.', again
            )
    sides = ordered["part"].replace(RESERVE, "train").to_numpy(object)
    _refuse_crossing(catalog.groups, sides, catalog.images, where)
    held_out = ordered["part"].isin(PARTS[1:]).to_numpy() & (catalog.table["only_part"] != "").to_numpy()
    if held_out.any():
        image, part = catalog.images[held_out][0], ordered["part"].to_numpy(object)[held_out][0]
        raise LeakError(f'{where}: "{image}" may only be trained on, and is in the part {part}.', again)
    if digest_of(table) != split.digest:
        raise LeakError(f"{where} holds other rows than its digest says.", again)


@dataclass(frozen=True)
class _Groups:
    """Groups of the images that are dealt. ``index`` [N]: the group of each; ``counts`` [G, K]: its images by class."""

    index: np.ndarray
    counts: np.ndarray
    classes: tuple[str, ...]

    @classmethod
    def of(cls, catalog: Catalog) -> "_Groups":
        _refuse_synthetic(catalog)
        catalog = dealable(catalog)
        names, index = np.unique(catalog.groups.astype(str), return_inverse=True)
        counts = np.zeros((len(names), len(catalog.classes)), np.int64)
        np.add.at(counts, (index, catalog.labels), 1)
        return cls(index, counts, catalog.classes)

    def deal(self, chosen: np.ndarray, shares: Mapping[Any, float], rng: np.random.Generator) -> np.ndarray:
        """Deal the groups ``chosen`` (indices) to parts: [len(chosen)] keys of ``shares``, the relative sizes wanted.

        A group with n images of its rarest class goes to the part with the smallest ``(images + n / 2) / share`` of
        that class; but once a class has no more groups left than there are parts without it, to one of those parts.
        """
        counts, share, parts = self.counts[chosen], list(shares.values()), range(len(shares))
        lesions = (counts > 0).sum(axis=0)
        self._refuse_empty(lesions < len(share), lesions, len(share))
        rarest = np.where(counts > 0, lesions, len(counts) + 1).argmin(axis=1)
        order = np.lexsort((rng.random(len(counts)), -counts.sum(axis=1), rarest, lesions[rarest]))
        filled, total = np.zeros((len(share), counts.shape[1]), int).tolist(), [0] * len(share)
        left, result = lesions.tolist(), np.empty(len(counts), np.int64)
        for group in order.tolist():
            row, rare, allowed = counts[group].tolist(), rarest[group], list(parts)
            present = sorted((k for k, n in enumerate(row) if n), key=left.__getitem__)
            for k in present:
                without = [p for p in parts if not filled[p][k]]
                if left[k] <= len(without):
                    allowed = [p for p in allowed if p in without] or allowed
                left[k] -= 1
            lag = [(filled[p][rare] + row[rare] / 2) / share[p] for p in parts]
            part = min(allowed, key=lambda p: (lag[p], total[p] / share[p]))
            result[group] = part
            total[part] += sum(row)
            for k in present:
                filled[part][k] += row[k]
        self._refuse_empty((np.array(filled) == 0).any(axis=0), lesions, len(share))
        return np.array(list(shares), object)[result]

    def _refuse_empty(self, empty: np.ndarray, lesions: np.ndarray, num_parts: int) -> None:
        if empty.any():
            label, number = self.classes[int(np.argmax(empty))], lesions[int(np.argmax(empty))]
            raise DataError(
                f'The class "{label}" has {number} lesions for {num_parts} parts, and each part needs one of its own.',
                "Leave the class out, merge it with another one, add images of it, or ask for fewer folds.",
            )


def dealable(catalog: Catalog) -> Catalog:
    """The images that may go to any part."""
    return catalog.only(only_part="")


def _make(catalog: Catalog, parts: np.ndarray, scheme: dict[str, Any]) -> Split:
    """A split of ``catalog`` whose dealt images [N] go to these parts, and the others where alone they may."""
    part = catalog.table["only_part"].to_numpy(object, copy=True)
    part[part == ""] = parts
    table = catalog.table[["image", "label", "group"]].assign(part=part).astype(object)
    return Split(table, digest_of(table), {**scheme, "classes": list(catalog.classes)})


def digest_of(table: pd.DataFrame) -> str:
    """Digest of what the table of a split says, whatever the order of its rows."""
    return digest(table[list(COLUMNS)].sort_values("image").to_numpy().tolist())


def _check_shares(**shares: float) -> None:
    if not all(0 < share < 1 for share in shares.values()) or sum(shares.values()) >= 1:
        raise DataError(
            f"The shares {', '.join(f'{name} = {share:g}' for name, share in shares.items())} leave a part empty.",
            "Each must be above 0, and their sum below 1, so that images are left to train on.",
        )


def _refuse_synthetic(catalog: Catalog) -> None:
    synthetic = catalog.table["origin"].to_numpy(object) != REAL
    if synthetic.any():
        raise LeakError(
            f'{catalog.name} holds {synthetic.sum()} synthetic images, the first is "{catalog.images[synthetic][0]}".',
            "Only real images are split; synthetic ones enter the training part through an arm.",
        )


def _refuse_crossing(groups: np.ndarray, parts: np.ndarray, images: np.ndarray, where: str) -> None:
    table = pd.DataFrame({"group": groups, "part": parts, "image": images})
    spread = table.groupby("group")["part"].transform("nunique") > 1
    if spread.any():
        crossing = table[spread]
        number, group = crossing["group"].nunique(), crossing["group"].iloc[0]
        members = crossing[crossing["group"] == group]
        listed = ", ".join(f"{row.image} ({row.part})" for row in members.head(10).itertuples())
        raise LeakError(
            f'{where} tears {number} groups ({len(crossing)} images) apart, such as "{group}": {listed}.',
            'Results would be too good. Use the scheme "holdout" or "folds", which keep groups together.',
        )
