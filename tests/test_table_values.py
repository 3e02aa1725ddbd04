"""One reader decides what is missing in a table, and what an age and a sex are; what it assumes or drops is told."""

import numpy as np
import pandas as pd
import pytest

from moulage.data import table_values
from moulage.data.catalog import Catalog

NOTHING = [
    "",
    " ",
    "nan",
    "NaN",
    "NA",
    "n/a",
    "None",
    "null",
    "Unknown",
    "not  available",
    "-",
    "?",
    None,
    np.nan,
    pd.NA,
]


@pytest.mark.parametrize("value", NOTHING, ids=repr)
def test_words_for_nothing_are_missing_in_every_column(value):
    rows = pd.DataFrame({"image": ["a", "b"], "label": "AK", "location": "x"})
    for column in ("lesion", "source", "site", "sex", "age"):
        rows[column] = pd.Series([value, value], dtype=object)
    table = Catalog.build(rows, ["AK"], "t").table
    assert (table[["lesion", "source", "site", "sex"]] == "").all(axis=None)
    assert table["age"].isna().all()
    assert list(table["group"]) == ["image:a", "image:b"], "two images without a lesion are two lesions"


@pytest.mark.parametrize("value", ["0", "L1", "nanette", "none of these", "NA12", " 7 "])
def test_all_else_is_a_value(value):
    assert table_values.text(value) == value.strip()


AGES = {
    "45": 45, "45.0": 45, "45,5": 45.5, " 45 years ": 45, "45 yrs old": 45, "45y": 45, "45 y.o.": 45, "~45": 45,
    "ca. 45": 45, "045Y": 45, "006M": 0.5, "6 months": 0.5, "0": 0, "120": 120,
}  # fmt: skip
RANGES = {"60-69": 64.5, "60 – 69 years": 64.5, "60 to 69": 64.5, "[60, 70)": 65, "(60,70]": 65, "60s": 65}
BOUNDS = {"85+": 85, ">85": 85, ">= 85": 85, "85 and over": 85, "85 years or older": 85, "<20": 20, "90 plus": 90}
UNREAD = ["-1", "999", "1962", "forty", "45/46", "69-60", "18m", "inf", "12:30"]


@pytest.mark.parametrize(
    ("values", "how"), [(AGES, ""), (RANGES, "range"), (BOUNDS, "bound"), (dict.fromkeys(UNREAD, np.nan), "unread")]
)
def test_ages_are_read_as_people_write_them(values, how):
    for cell, years in values.items():
        found, way = table_values.age(cell)
        assert found == pytest.approx(years, nan_ok=True), cell
        assert way == how, cell
    assert table_values.age(30) == (30.0, "")


def test_sexes_are_three_whatever_they_are_called():
    found, assumed, unread = table_values.sexes(
        ["M", "Male", "male ", 1, "1.0", "F", "woman", "W", "2", "9", "nan", "?"]
    )
    assert found == ["male"] * 5 + ["female"] * 4 + [""] * 3
    assert assumed == {"1": 2, "2": 1, "9": 1}
    assert not unread


def test_zero_and_one_are_no_sexes_that_anybody_knows():
    found, assumed, unread = table_values.sexes([0, 1, 1, "f"])
    assert found == ["", "", "", "female"]
    assert not assumed
    assert unread == {"0": 1, "1": 2}


def test_what_was_assumed_and_what_was_dropped_is_told():
    rows = pd.DataFrame({"image": list("abcdef"), "label": "AK", "location": "x"})
    rows["age"] = ["45", "85+", "60-69", "old", "old", "999"]
    rows["sex"] = ["M", "1", "f", "horse", "", "nan"]
    found = {f.kind: f for f in Catalog.build(rows, ["AK"], "t").findings}
    assert {kind: (f.severity, f.images) for kind, f in found.items()} == {
        "sex by number": ("note", ("b",)),
        "unread sex": ("warning", ("d",)),
        "age by range": ("note", ("c",)),
        "age by bound": ("note", ("b",)),
        "unread age": ("warning", ("d", "e", "f")),
    }
    assert (
        '3 images with an age that is no number of years from 0 to 120; it counts as missing: "old" (2), "999" (1)'
        in (found["unread age"].message)
    )


def test_ages_between_0_and_1_are_told():
    rows = pd.DataFrame({"image": list("abcdef"), "label": "AK", "location": "x", "age": np.linspace(0.2, 0.9, 6)})
    assert [f.kind for f in Catalog.build(rows, ["AK"], "t").findings] == ["ages of another scale"]
    babies = rows.assign(age=[0, 0, 1, 1, 1, 0])
    assert not Catalog.build(babies, ["AK"], "t").findings
