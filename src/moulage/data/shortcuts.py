"""Whether the class can be read off something that is no disease: how images are stored, where they come from.

Every column is cross-tabulated with the class: the chi-square test says whether there is an association, Cramer's V how
strong it is. A *shortcut control*, a classifier that sees nothing but how images are stored, says what that is worth on
lesions it has not seen: a network that sees pixels can reach as much without having learned anything of disease.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from moulage.data.catalog import Catalog
from moulage.data.findings import Finding, Severity, finding
from moulage.data.thumbnails import inside

STRONG = 0.3
"""Cramer's V with the class from which a column is reported: 0 is none, 1 perfect."""
NAMES_IT = 0.8
"""Cramer's V from which a column all but names the class."""
LEVEL = 0.01
"""Of the chi-square tests, over all columns (Bonferroni), and of the shortcut control."""
MOST_VALUES = 20
"""Values of a column that are told apart, the most frequent ones; the others are one."""
RARE = 5
"""Images below which a value is one of the others."""
NUM_FOLDS = 5
NUM_PERMUTATIONS = 200
CLEAR = 0.6
"""AUC of the shortcut control from which it is warned of, where it is no chance."""
SHOWN = 4
"""Columns, and values of one, that a sentence names."""
METADATA = ("source", "site", "sex", "age", "data_set", "official_part", "lesion", "mask")
"""Columns of the catalog that are looked at; of the last two whether there is one."""
STORED = ("mode", "format", "compression", "camera", "size", "aspect", "dark corners")


@dataclass(frozen=True)
class Association:
    """How strongly a column goes with the class."""

    column: str
    cramers_v: float  # corrected for bias, 0 to 1
    p_value: float  # of the chi-square test of independence
    example: str  # the shares of its values in two classes


def check(catalog: Catalog, groups: np.ndarray, scan: pd.DataFrame, thumbnails: np.ndarray) -> list[Finding]:
    """What tells the class of these images; ``groups`` [N] are lesions, which count once each.

    ``scan`` has a row, and ``thumbnails`` (uint8 [N, 32, 32, 3]) an image, for each image of the catalog.
    """
    stored = stored_columns(scan, thumbnails)
    first = ~pd.Series(groups).duplicated().to_numpy()
    labels = catalog.table["label"].to_numpy(object)
    tested = {name: values.to_numpy(object)[first] for name, values in {**_metadata(catalog), **stored}.items()}
    found = [association(name, values, labels[first]) for name, values in tested.items()]
    told = [each for each in found if each and each.cramers_v >= STRONG and each.p_value * len(tested) < LEVEL]
    told.sort(key=lambda each: -each.cramers_v)
    findings = [_said_of_metadata(each, catalog) for each in told if each.column in METADATA]
    if by_storage := [each for each in told if each.column in STORED]:
        named = "; ".join(f"{_words(each)}" for each in by_storage[:SHOWN])
        say = f"Class and how images are stored go together, most of all {by_storage[0].column}: {named}."
        advice = (
            "A classifier may learn that in place of disease: store all classes alike, and compare within one kind."
        )
        findings += finding("storage hints at class", "warning", catalog.images, say, advice)
    findings += _vignette(catalog, stored["dark corners"])
    control = shortcut_control(stored, labels, groups)
    return findings + ([] if control is None else [_said_of_control(control, catalog)])


def stored_columns(scan: pd.DataFrame, thumbnails: np.ndarray) -> dict[str, pd.Series]:
    """How each image is stored: the columns ``STORED``, text, by name."""
    found: dict[str, pd.Series] = {}
    for name in ("mode", "format", "compression", "camera"):
        found |= {name: scan[name].astype(str)} if name in scan else {}
    width, height = (scan[name].to_numpy(np.float64) for name in ("width", "height"))
    found["size"] = pd.Series([f"{w:.0f} x {h:.0f}" for w, h in zip(width, height, strict=True)])
    found["aspect"] = pd.Series([f"{w / max(h, 1):.2f}" for w, h in zip(width, height, strict=True)])
    corners = (~inside(thumbnails))[:, :: thumbnails.shape[1] - 1, :: thumbnails.shape[2] - 1]
    found["dark corners"] = pd.Series(corners.sum(axis=(1, 2)).astype(str))
    return {name: values.reset_index(drop=True) for name, values in found.items()}


def _metadata(catalog: Catalog) -> dict[str, pd.Series]:
    """The columns ``METADATA`` as text, ages by decade; what is missing is a value, since it may tell the class."""
    table = catalog.table
    text = [name for name in METADATA if name not in ("age", "lesion", "mask")]
    known = {name: table[name].astype(str).replace("", "missing").reset_index(drop=True) for name in text}
    ages = table["age"].to_numpy(np.float64) // 10 * 10
    decades = ["missing" if np.isnan(years) else f"{years:.0f}s" for years in ages]
    known["age"] = pd.Series(decades, dtype=object)
    for name in ("lesion", "mask"):
        known[name] = table[name].ne("").map({True: "known", False: "missing"}).reset_index(drop=True)
    return known


def association(column: str, values: np.ndarray, labels: np.ndarray) -> Association | None:
    """Chi-square and Cramer's V of two columns [N] of text; None where one of them does not vary."""
    from scipy.stats import chi2_contingency  # slow to import

    counts = pd.crosstab(_common(values), labels)
    if min(counts.shape) < 2:
        return None
    table = counts.to_numpy(np.float64)
    p_value = float(np.asarray(chi2_contingency(table, correction=False)[1]))
    shares = table / table.sum(axis=0)
    row = int(np.ptp(shares, axis=1).argmax())
    value, (most, least) = counts.index[row], (int(shares[row].argmax()), int(shares[row].argmin()))
    said = [f"{shares[row, k]:.0%} of {counts.columns[k]}" for k in (most, least)]
    return Association(column, cramers_v(table), p_value, f"{value or 'none'} in {said[0]} and {said[1]}")


def _common(values: np.ndarray) -> np.ndarray:
    """The values [N], of which rare ones, and all but the ``MOST_VALUES`` most frequent ones, are called other."""
    counts = pd.Series(values).value_counts()
    kept = set(counts[counts >= RARE].index[:MOST_VALUES])
    return np.array([value if value in kept else "other" for value in values], object)


def cramers_v(counts: np.ndarray) -> float:
    """Cramer's V of a table [R, C] of counts, corrected for bias (Bergsma 2013, doi:10.1016/j.jkss.2012.10.002).

    0 for independence, 1 for perfect association; uncorrected it is large for tables of many cells and few counts.
    """
    counts = counts[counts.any(axis=1)][:, counts.any(axis=0)].astype(np.float64)
    number, (rows, columns) = counts.sum(), counts.shape
    if min(rows, columns) < 2 or number < 2:
        return 0.0
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / number
    phi = float(((counts - expected) ** 2 / expected).sum()) / number
    bias = 1 / (number - 1)
    phi = max(0.0, phi - (rows - 1) * (columns - 1) * bias)
    least = min(rows - (rows - 1) ** 2 * bias, columns - (columns - 1) ** 2 * bias) - 1
    return float(min(1.0, np.sqrt(phi / least))) if least > 0 else 0.0


@dataclass(frozen=True)
class Control:
    """What a classifier reaches that sees nothing but how images are stored, on lesions that it has not seen."""

    columns: tuple[str, ...]  # what it saw: the columns that vary
    classes: tuple[str, ...]  # those that have enough lesions
    balanced_accuracy: float
    auc: float  # mean over the classes, one against the rest; chance is 0.5
    p_value: float  # of the balanced accuracy, by permuting the classes of lesions


def shortcut_control(stored: dict[str, pd.Series], labels: np.ndarray, groups: np.ndarray) -> Control | None:
    """Cross-validate a decision tree on how images are stored, lesions kept whole; None where nothing varies.

    ``stored`` are columns [N] of text, ``labels`` and ``groups`` [N] classes and lesions. A class of fewer lesions than
    there are folds is left out; None where fewer than two are left.
    """
    lesions = pd.DataFrame({"group": groups, "label": labels}).drop_duplicates()["label"].value_counts()
    classes = tuple(sorted(str(name) for name in lesions[lesions >= NUM_FOLDS].index))
    rows = np.flatnonzero(np.isin(labels, classes))
    varying = {name: _common(values.to_numpy(object)[rows]) for name, values in stored.items()}
    varying = {name: values for name, values in varying.items() if len(set(values)) > 1}
    if len(classes) < 2 or not varying:
        return None
    one_hot = pd.get_dummies(pd.DataFrame(varying)).to_numpy(np.float32)
    truth = np.searchsorted(np.array(classes, object), labels[rows])
    lesion = np.unique(groups[rows], return_inverse=True)[1]
    chances = _out_of_fold(one_hot, truth, lesion, len(classes))
    reached = _balanced(truth, chances.argmax(axis=1), len(classes))
    return Control(tuple(varying), classes, reached, _auc(truth, chances), _p_value(truth, lesion, chances, reached))


def _out_of_fold(inputs: np.ndarray, truth: np.ndarray, lesion: np.ndarray, num_classes: int) -> np.ndarray:
    """Probabilities [n, K] of images by trees that saw no image of their lesion."""
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.tree import DecisionTreeClassifier

    unique, kind = np.unique(inputs, axis=0, return_inverse=True)
    chances = np.zeros((len(truth), num_classes))
    folds = StratifiedGroupKFold(NUM_FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a class with fewer images than folds
        for train, test in folds.split(inputs, truth, lesion):
            tree = DecisionTreeClassifier(min_samples_leaf=RARE, class_weight="balanced", random_state=0)
            tree.fit(inputs[train], truth[train])
            known = np.asarray(tree.predict_proba(unique))  # many images are stored alike
            chances[np.ix_(test, tree.classes_)] = known[kind[test]]
    return chances


def _balanced(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> float:
    right, of = (
        np.bincount(truth, weights=w, minlength=num_classes) for w in (truth == predicted, np.ones(len(truth)))
    )
    return float((right / np.maximum(of, 1))[of > 0].mean())


def _auc(truth: np.ndarray, chances: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(np.mean([roc_auc_score(truth == k, chances[:, k]) for k in np.unique(truth)]))


def _p_value(truth: np.ndarray, lesion: np.ndarray, chances: np.ndarray, reached: float) -> float:
    """How often permuted classes of lesions are predicted as well by the same predictions."""
    rng, predicted = np.random.default_rng(0), chances.argmax(axis=1)
    _, first = np.unique(lesion, return_index=True)
    of_lesion = truth[first]
    by_chance = [
        _balanced(rng.permutation(of_lesion)[lesion], predicted, chances.shape[1]) for _ in range(NUM_PERMUTATIONS)
    ]
    return (1 + sum(value >= reached for value in by_chance)) / (1 + NUM_PERMUTATIONS)


def _words(found: Association) -> str:
    p = "< 0.001" if found.p_value < 0.001 else f"= {found.p_value:.3f}"
    return f"{found.column} (Cramer's V {found.cramers_v:.2f}, p {p}; {found.example})"


def _said_of_metadata(found: Association, catalog: Catalog) -> Finding:
    strong = found.cramers_v >= NAMES_IT
    severity: Severity = "warning" if strong else "note"
    say = f"The {found.column} {'all but names' if strong else 'hints at'} the class: {_words(found)}."
    advice = f"Look at scores by {found.column} before believing a gain."
    [made] = finding(f"{found.column} hints at class", severity, catalog.images, say, advice)
    return made


def _vignette(catalog: Catalog, corners: pd.Series) -> list[Finding]:
    """Whether a dark vignette tells the acquisition source."""
    known = (catalog.table["source"] != "").to_numpy()
    dark, sources = (corners == "4").to_numpy()[known], catalog.table["source"].to_numpy(object)[known]
    counts = pd.crosstab(sources, dark)
    if min(counts.shape) < 2 or cramers_v(counts.to_numpy()) < STRONG:
        return []
    listed = ", ".join(f"{name} {share:.0%}" for name, share in pd.Series(dark).groupby(sources).mean().items())
    say = f"A dark vignette tells the acquisition source: {listed} of the images have one."
    return finding("vignette tells the source", "note", catalog.images[known][dark], say)


def _said_of_control(control: Control, catalog: Catalog) -> Finding:
    clear = control.auc >= CLEAR and control.p_value <= LEVEL
    say = (
        f"Shortcut control: a classifier that sees nothing but {', '.join(control.columns)} reaches a balanced "
        f"accuracy of {control.balanced_accuracy:.2f} (chance {1 / len(control.classes):.2f}) and an AUC of "
        f"{control.auc:.2f} (chance 0.50) over {len(control.classes)} classes, on lesions that it has not seen "
        f"(p {'< 0.01' if control.p_value < LEVEL else f'= {control.p_value:.2f}'})."
    )
    advice = "What a classifier scores above that is the most that it can have learned of disease." if clear else ""
    [made] = finding("shortcut control", "warning" if clear else "note", catalog.images, say, advice)
    return made
