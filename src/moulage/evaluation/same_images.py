"""What files of predictions say of the same images: their lesions, and their bytes; contradictions are told.

Models from anywhere are matched by the names of their images, and names are counted from one in every data set.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from moulage import runs
from moulage.data.identity import unite
from moulage.errors import DataError
from moulage.evaluation.predictions import Predictions, first_true

SHA256 = "sha256"
"""Column with the digest of each image's file."""
SCAN = "scan.parquet"
ALONE = "image:"
"""Before its name: the group of an image of which no lesion is known."""


def with_common_groups(models: Mapping[str, list[Predictions]]) -> tuple[dict[str, list[Predictions]], list[str]]:
    """The same fits, all with one grouping of their images, and sentences on what was made of several.

    Groups are compared by what they hold together, not by their names. Where one file splits a group of another the
    whole group is taken: a file may know no lesions, or fewer, and what is joined makes no interval too narrow. An
    image for which one file of a model has no group gets that of the model's other files. Models that are not of the
    same images are left as they are, for ``alignment`` to name.

    ``DataError``: two models cross: each joins an image with ones that the other keeps apart from it. One is wrong.
    """
    known = {name: _of_model(fits) for name, fits in models.items()}
    seen, common = list[str](), next(iter(known.values()))
    for name, own in known.items():
        if own.index.has_duplicates or not own.index.equals(common.index):
            return dict(models), []
        if not own.equals(common):
            _check_crossing(common, own, seen, name)
            common = pd.Series(unite(common.to_numpy(object), own.to_numpy(object)), common.index)
        seen.append(name)
    number = common.nunique()
    notes = [
        f"{name} tells {own.nunique():,} lesions apart, and with what the others know there are {number:,}: what any "
        "model's file joins counts as one."
        for name, own in known.items()
        if own.nunique() > number
    ]
    return {name: [_regrouped(fit, common) for fit in fits] for name, fits in models.items()}, notes


def _of_model(fits: list[Predictions]) -> pd.Series:
    """Image -> group over all fits of a model, by image; an image of two groups stands there twice."""
    table = pd.concat([pd.DataFrame({"image": fit.images, "group": fit.groups}) for fit in fits]).drop_duplicates()
    unknown = (table["group"] == ALONE + table["image"]) & table["image"].duplicated(keep=False)
    return table[~unknown].set_index("image")["group"].sort_index(kind="stable")


def _check_crossing(common: pd.Series, own: pd.Series, seen: list[str], name: str) -> None:
    """Raise ``DataError`` for the first image whose group on either side holds images of several of the other's."""
    sides = pd.DataFrame({"ours": common, "theirs": own})
    splits = [
        sides.groupby(side)[other].transform("nunique") > 1 for side, other in (("ours", "theirs"), ("theirs", "ours"))
    ]
    if (row := first_true((splits[0] & splits[1]).to_numpy())) is not None:
        raise DataError(
            f'{name} and {" and ".join(seen)} contradict each other on what belongs together: "{own.index[row]}" is of '
            f'the lesion "{own.iloc[row]}" there and "{common.iloc[row]}" here, and neither holds all images of the '
            "other.",
            "Are these the same images? Names alone do not say so. Give all files one column `lesion`.",
        )


def _regrouped(fit: Predictions, groups: pd.Series) -> Predictions:
    new = groups.loc[fit.images].to_numpy(object)
    return fit if np.array_equal(new, fit.groups) else replace(fit, groups=new)


def digests_in(path: Path, columns: pd.DataFrame) -> pd.Series:
    """The column ``sha256`` by image; empty where there is none. ``DataError`` where one image has two of them."""
    if SHA256 not in columns:
        return pd.Series(dtype=object)
    table = columns[["image", SHA256]].drop_duplicates()
    if (row := first_true(table["image"].duplicated().to_numpy())) is not None:
        raise DataError(f'{path}: the image "{table["image"].iloc[row]}" has two values of {SHA256}.')
    return table.set_index("image")[SHA256]


def digests_of_run(path: Path, fit: Predictions) -> pd.Series:
    """The same for predictions of a run, from its scan; empty for a file that lies outside of its run."""
    folder = path.resolve().parents
    if len(folder) < 3 or folder[1].name != "classifiers" or not (folder[2] / SCAN).exists():
        return pd.Series(dtype=object)
    with runs.reading(folder[2] / SCAN):
        known = pd.read_parquet(folder[2] / SCAN, columns=["image", SHA256]).set_index("image")[SHA256]
    return known[known.index.isin(fit.images) & (known != "")]


def check_bytes(digests: Mapping[str, pd.Series]) -> list[str]:
    """Sentences on images of one name that are other files, and on one file under two names.

    ``digests``: file of predictions -> SHA-256 of each image's file, by image; only those that know them.
    """
    notes = []
    first = next(iter(digests), "")
    for path, own in digests.items():
        both = pd.concat([digests[first], own], axis=1, join="inner", keys=["ours", "theirs"])
        other = both.index[both["ours"] != both["theirs"]]
        if len(other):
            notes.append(
                f"Beware: {len(other):,} of {len(both):,} images are other files in {path} than in {first} "
                f'("{other[0]}" first). That is right where they are the same photographs, scaled or saved again; else '
                "nothing here means anything."
            )
        copies = own[own.duplicated(keep=False)]
        if len(copies):
            pair = copies.index[copies == copies.iloc[0]]
            notes.append(
                f'Beware: {path}: {len(copies):,} images are equal byte for byte to another one ("{pair[0]}" and '
                f'"{pair[1]}" first). Unless their lesion is the same, each counts as evidence of its own.'
            )
    return list(dict.fromkeys(notes))
