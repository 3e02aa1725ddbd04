"""The same comparisons on parts of the test images: by source, sex, age, site, and how often a lesion was photographed.

A gain that comes from one camera, or that one group of patients pays for, does not show in the score of all images.
A slice holds fewer lesions than the whole, so its intervals are wide, and of many slices some stand out by chance:
slices raise questions about a result, they are no results of their own.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from moulage.errors import DataError
from moulage.evaluation.alignment import Fits, align
from moulage.evaluation.compare import MIN_LESIONS, Comparison, compare_fits
from moulage.evaluation.measure_names import parse, resolve
from moulage.evaluation.predictions import Predictions, first_true
from moulage.evaluation.verdict import measure_name

ATTRIBUTES = ("image", "source", "sex", "age", "site", "lesion")
"""Columns that a table of attributes needs; a catalog's table has them."""
COLUMNS = ("source", "sex", "age", "site", "lesion seen")
"""What images are sliced by."""
AGES = (0, 30, 45, 60, 75)
"""First year of each age band; the last band has no end."""
BANDS = ("0-30", "30-45", "45-60", "60-75", "75+")
"""The age bands; 30-45 holds those who are 30 and not yet 45."""
UNKNOWN = "unknown"


def restrict(predictions: Predictions, rows: np.ndarray) -> Predictions:
    """The predictions of the images in ``rows``: bool [N], or positions int64 [n], each once; ``DataError`` if none."""
    names = ("images", "groups", "labels", "logits", "predicted")
    return replace(predictions, **{name: getattr(predictions, name)[rows] for name in names})


def attributes(table: pd.DataFrame) -> pd.DataFrame:
    """What each image is sliced by: columns ``COLUMNS`` of text, indexed by image name.

    The table has one row an image with ``ATTRIBUTES``, age in years, and may hold more than the test images.
    ``DataError``: a column is missing, or an image stands there twice.
    """
    missing = [name for name in ATTRIBUTES if name not in table]
    if missing:
        raise DataError(f"The table of attributes has no column {', '.join(missing)}.", "A catalog's table has them.")
    if (row := first_true(table["image"].duplicated().to_numpy())) is not None:
        raise DataError(f'The table of attributes lists the image "{table["image"].iloc[row]}" twice.')
    age = pd.to_numeric(table["age"], errors="coerce").to_numpy(np.float64)
    band = np.array(BANDS, object)[np.clip(np.searchsorted(AGES, age, side="right") - 1, 0, len(BANDS) - 1)]
    photographs = table.groupby("lesion")["image"].transform("size").to_numpy()
    seen = np.where(photographs == 1, "once", "several times")
    found = {
        "source": table["source"].replace("", UNKNOWN),
        "sex": table["sex"].replace("", UNKNOWN),
        "age": np.where(age >= 0, band, UNKNOWN),
        "site": table["site"].replace("", UNKNOWN),
        "lesion seen": np.where(table["lesion"] == "", UNKNOWN, seen),
    }
    return pd.DataFrame(found, dtype=object).set_axis(pd.Index(table["image"], name="image"), axis=0)


def slices(
    arms: Mapping[str, Sequence[Predictions]],
    table: pd.DataFrame,
    pairs: Iterable[tuple[str, str]],
    measures: Sequence[str],
    targets: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Compare pairs of arms on every slice; a column with one value is left out, since its slice is the whole.

    Arguments and errors as of ``compare.compare_all`` and ``attributes``; the table must name every image that was
    predicted, else ``DataError``.

    Returns:
        Plain values, one dict for each slice and measure: ``column``, ``value``, ``num_images``, ``num_lesions``,
        ``measure``, ``rows`` (``arm``, ``score``, ``reference``, ``reference_score``, ``difference``, ``low``,
        ``high``) and ``note``. There are no rows where the slice is too small for the measure, or lacks one of the
        classes that the measure is a mean of; ``note`` then says so.
    """
    known, pairs, whole = attributes(table), list(pairs), align(arms)
    places = {name: [_places(known, fit) for fit in fits] for name, fits in arms.items()}
    tested = np.zeros(len(known), bool)
    tested[np.concatenate(next(iter(places.values())))] = True
    found = []
    for column in COLUMNS:
        labels = known[column].to_numpy(object)
        names = _ordered(labels[tested])
        for value in names if len(names) > 1 else ():
            chosen = tested & (labels == value)
            rows = {name: [chosen[place] for place in of_arm] for name, of_arm in places.items()}
            head = {"column": column, "value": value, "num_images": int(chosen.sum())}
            found += _slice(arms, rows, head, whole, pairs, measures, targets)
    return found


def warnings(found: Iterable[Mapping[str, Any]], overall: Iterable[Comparison]) -> list[str]:
    """Sentences for whoever believes a gain: arms that gain on one source only, and slices that pay for a gain.

    A gain is shown where the 95 % interval lies above 0 (for log-loss and calibration error: below). An arm gains on
    one source only if it is shown on exactly one, and on every other source with an interval that interval excludes a
    gain as large, or the difference points the other way. A slice pays where a loss is shown in it although a gain is
    shown on all images.

    ``found`` is what ``slices`` gave, ``overall`` are comparisons on all test images; arms, references and measures
    that are not among them are passed over.
    """
    of_slices = [_Row.of(block, row) for block in found for row in block["rows"] if row["low"] is not None]
    sentences, looked_at = [], 0
    for comparison in overall:
        key = (comparison.arm, comparison.reference, comparison.measure)
        rows = [row for row in of_slices if row.key == key]
        looked_at += len(rows)
        sentences += _one_source_only(comparison, [row for row in rows if row.column == "source"])
        sentences += _losses(comparison, rows)
    if sentences:
        sentences.append(
            f"{looked_at} intervals on slices were looked at, not corrected for their number: about one in forty shows "
            "a gain, and one in forty a loss, where there is none."
        )
    return sentences


@dataclass(frozen=True)
class _Row:
    """One comparison with an interval on one slice; ``gain`` and its bounds are turned so that more is better."""

    column: str
    value: str
    key: tuple[str, str, str]  # arm, reference, measure
    gain: float
    low: float
    high: float
    words: str  # difference and interval in the measure's own direction, in points or nats

    @classmethod
    def of(cls, block: Mapping[str, Any], row: Mapping[str, Any]) -> "_Row":
        difference, low, high = row["difference"], row["low"], row["high"]
        measure = parse(block["measure"]).measure
        least, most = (measure.number(value, signed=True) for value in (low, high))
        words = f"{measure.amount(difference, signed=True)}, 95 % interval {least} to {most}"
        if measure.lower_is_better:
            difference, low, high = -difference, -high, -low
        key = (row["arm"], row["reference"], block["measure"])
        return cls(block["column"], block["value"], key, difference, low, high, words)


def _slice(
    arms: Mapping[str, Sequence[Predictions]],
    rows: dict[str, list[np.ndarray]],
    head: dict[str, Any],
    whole: Fits,
    pairs: list[tuple[str, str]],
    measures: Sequence[str],
    targets: Sequence[str],
) -> list[dict[str, Any]]:
    """All measures on one slice."""
    first, chosen = next(iter(rows.items()))
    groups = np.concatenate([fit.groups[keep] for fit, keep in zip(arms[first], chosen, strict=True)])
    head = {**head, "num_lesions": len(set(groups))}
    if not all(keep.any() for keep in chosen):
        note = "Left out: some trial predicted none of these images."
        return [{**head, "measure": measure, "rows": [], "note": note} for measure in measures]
    fits = align(
        {
            name: [restrict(fit, keep) for fit, keep in zip(arms[name], of_arm, strict=True)]
            for name, of_arm in rows.items()
        }
    )
    blocks = []
    for measure in measures:
        note = _refusal(measure, fits, whole, targets)
        compared = [] if note else compare_fits(fits, pairs, measure, targets)
        note = note or " ".join(dict.fromkeys(note for comparison in compared for note in comparison.notes))
        blocks.append({**head, "measure": measure, "rows": [_row(comparison) for comparison in compared], "note": note})
    return blocks


def _refusal(measure: str, fits: Fits, whole: Fits, targets: Sequence[str]) -> str:
    """Why a measure is not compared on a slice; empty where it is."""
    try:
        wanted = resolve(measure, fits.labels, fits.classes, targets)
    except DataError as error:  # a class that the measure names has no image here
        return f"Left out: {error.message}"
    everywhere = resolve(measure, whole.labels, whole.classes, targets)
    absent = [fits.classes[k] for k in everywhere.indices if k not in wanted.indices]
    if absent:
        return f"Left out: there is no image of {' and '.join(absent)}, so it would be a mean over other classes."
    counted = fits.sizes[list(wanted.indices)] if wanted.indices else fits.sizes
    if counted.sum() < MIN_LESIONS:
        of = f" of {' and '.join(wanted.named)}" if wanted.named else ""
        return f"Too small: {counted.sum()} lesions{of}, fewer than {MIN_LESIONS}."
    return ""


def _row(comparison: Comparison) -> dict[str, Any]:
    return {
        "arm": comparison.arm,
        "score": comparison.estimate_arm,
        "reference": comparison.reference,
        "reference_score": comparison.estimate_reference,
        "difference": comparison.difference,
        "low": comparison.low,
        "high": comparison.high,
    }


def _places(known: pd.DataFrame, fit: Predictions) -> np.ndarray:
    """Rows of the attributes of the images that a fit predicted, [N] int64."""
    places = known.index.get_indexer(pd.Index(fit.images))
    if (row := first_true(places < 0)) is not None:
        raise DataError(f'{fit}: the image "{fit.images[row]}" is not in the table of attributes.')
    return places


def _ordered(values: np.ndarray) -> list[str]:
    """The values: age bands by age, others the most frequent first, unknown last."""
    names = pd.Series(values, dtype=object).value_counts().index.tolist()
    return sorted(names, key=lambda name: (name == UNKNOWN, BANDS.index(name) if name in BANDS else 0))


def _one_source_only(comparison: Comparison, rows: list[_Row]) -> list[str]:
    """The warning that an arm gains on one source only, or nothing."""
    gaining, others = [row for row in rows if row.low > 0], [row for row in rows if row.low <= 0]
    if len(gaining) != 1 or not others:
        return []
    one = gaining[0]
    if not all(row.high < one.gain or row.gain <= 0 for row in others):
        return []
    elsewhere = "; ".join(f"{row.value}: {row.words}" for row in others)
    return [
        f"{comparison.arm} improves the {measure_name(comparison)} against {comparison.reference} on images of the "
        f"source {one.value} only ({one.words}), and not as much elsewhere ({elsewhere}): what helps may "
        "belong to that source."
    ]


def _losses(comparison: Comparison, rows: list[_Row]) -> list[str]:
    """A warning for each slice that loses although all images together gain."""
    low, high = comparison.low, comparison.high
    if low is None or high is None or (-high if comparison.is_lower_better else low) <= 0:
        return []
    return [
        f"{comparison.arm} improves the {measure_name(comparison)} against {comparison.reference} on all images, but "
        f"worsens it where {row.column} is {row.value} ({row.words})."
        for row in rows
        if row.high < 0
    ]
