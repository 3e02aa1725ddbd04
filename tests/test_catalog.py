"""The catalog: complete, checked, and safe to move."""

import numpy as np
import pandas as pd
import pytest

from moulage.data.catalog import COLUMNS, REAL, Catalog, concatenate
from moulage.errors import DataError, RunError


def rows(**columns):
    base = {"image": ["a", "b", "c"], "label": ["NV", "AK", "NV"], "location": ["a.jpg", "z.zip::b.jpg", "c.jpg"]}
    return pd.DataFrame({**base, **columns})


def test_missing_columns_get_their_unknown_value():
    catalog = Catalog.build(rows(lesion=["L1", None, "L1"]), ["AK", "NV"], "t")
    assert list(catalog.table.columns) == list(COLUMNS)
    assert catalog.groups.tolist() == ["lesion:L1", "image:b", "lesion:L1"]
    assert (catalog.table["origin"] == REAL).all()
    assert catalog.labels.tolist() == [1, 0, 1]
    assert catalog.counts == {"AK": 1, "NV": 2}
    assert np.isnan(catalog.table["age"]).all()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"image": ["a", "a", "c"]}, 'image "a" is listed 2 times'),
        ({"image": ["a", "", "c"]}, "row 1 has no image"),
        ({"label": ["NV", "XX", "NV"]}, 'label "XX"'),
        ({"location": ["a", "b", None]}, "row 2 has no location"),
    ],
)
def test_bad_rows_are_refused(columns, words):
    with pytest.raises(DataError, match=words):
        Catalog.build(rows(**columns), ["AK", "NV"], "t")


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="holds no image"):
        Catalog.build(rows().iloc[:0], ["AK"], "t")


def test_saved_catalog_is_the_same_and_its_own_files_move_with_it(tmp_path):
    first = tmp_path / "first"
    table = rows(location=["in/a.png", "/data/z.zip::b.jpg", "missing::c"], age=[30, None, 50])
    catalog = Catalog.build(table, ["AK", "NV"], "t", root=first, note="CC", unlabelled=["u.jpg"])
    catalog.save(first / "catalog.parquet")
    first.rename(tmp_path / "second")
    loaded = Catalog.load(tmp_path / "second" / "catalog.parquet")
    assert (loaded.classes, loaded.name, loaded.note, loaded.unlabelled) == (("AK", "NV"), "t", "CC", ("u.jpg",))
    assert loaded.digest == catalog.digest
    assert [loaded.resolve(v) for v in loaded.table["location"]] == [
        str(tmp_path / "second/in/a.png"),
        "/data/z.zip::b.jpg",
        "missing::c",
    ]


def test_digest_sees_content_not_places():
    catalog = Catalog.build(rows(), ["AK", "NV"], "t")
    moved = Catalog.build(rows(location=["x", "y", "z"]), ["AK", "NV"], "t")
    other = Catalog.build(rows(label=["NV", "NV", "NV"]), ["AK", "NV"], "t")
    assert catalog.digest == moved.digest != other.digest


def test_take_only_and_concatenate(tmp_path):
    catalog = Catalog.build(rows(), ["AK", "NV"], "t", root=tmp_path)
    both = concatenate(catalog.only(label="AK"), catalog.take([0, 0]), catalog.take([]))
    assert both.images.tolist() == ["b", "a", "a"]
    assert both.resolve(both.table["location"].iloc[1]) == str(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="same classes"):
        concatenate(catalog, Catalog.build(rows(), ["NV", "AK"], "u"))


def test_what_is_no_catalog_is_named(tmp_path):
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "x.parquet")
    for name in ("x.parquet", "none.parquet"):
        with pytest.raises(RunError, match=name):
            Catalog.load(tmp_path / name)
