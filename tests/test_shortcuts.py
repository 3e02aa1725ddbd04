"""Whether the class can be read off how images are stored, or where they come from; and what that alone is worth."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import chi2_contingency
from scipy.stats.contingency import association as uncorrected

from moulage.data import shortcuts, storage
from moulage.data.catalog import Catalog
from moulage.data.findings import Finding
from pictures import encoded

NUM = 120
LABELS = np.repeat(["AK", "NV"], NUM // 2).astype(object)
BRIGHT = np.random.default_rng(0).integers(60, 256, (NUM, 32, 32, 3), np.uint8)


def checked(thumbnails: np.ndarray = BRIGHT, metadata: dict | None = None, **stored: object) -> dict[str, Finding]:
    """The findings on two classes of 60 images, whose scan has these columns."""
    rows = pd.DataFrame({"image": [f"i{n:03d}" for n in range(NUM)], "label": LABELS, "location": "x"})
    catalog = Catalog.build(rows.assign(**(metadata or {})), ["AK", "NV"], "t")
    usual = {"mode": "RGB", "format": "JPEG", "compression": "", "camera": "", "width": 600, "height": 450}
    scan = pd.DataFrame({**usual, **stored}, index=range(NUM))
    return {f.kind: f for f in shortcuts.check(catalog, catalog.groups, scan, thumbnails)}


def by_class(ak: object, nv: object, share: float = 1.0) -> np.ndarray:
    """A column that is ``ak`` for this share of AK, and of no more of NV than the rest."""
    drawn = np.random.default_rng(1).random(NUM) < share
    return np.where(drawn == (LABELS == "AK"), ak, nv)


def test_images_that_are_stored_alike_give_no_finding():
    assert checked() == {}


@pytest.mark.parametrize(
    ("stored", "column"),
    [
        ({"format": by_class("PNG", "JPEG")}, "format"),
        ({"mode": by_class("L", "RGB")}, "mode"),
        ({"compression": by_class("quality 75", "quality 95")}, "compression"),
        ({"camera": by_class("Canon", "")}, "camera"),
        ({"width": by_class(600, 1200), "height": by_class(450, 900)}, "size"),
        ({"height": by_class(450, 600)}, "size"),
    ],
)
def test_storage_that_tells_the_class_is_warned_of_and_worth_something(stored, column):
    found = checked(**stored)
    assert found["storage hints at class"].severity == "warning"
    assert f"most of all {column}" in found["storage hints at class"].message
    assert "Cramer's V 1.00, p < 0.001" in found["storage hints at class"].message
    control = found["shortcut control"]
    assert control.severity == "warning"
    assert "balanced accuracy of 1.00 (chance 0.50) and an AUC of 1.00 (chance 0.50)" in control.message


def test_dark_corners_that_tell_the_class_are_storage_too():
    rows, columns = np.mgrid[:32, :32] - 15.5
    round_ones = np.where((np.hypot(rows, columns) < 13)[None, ..., None], BRIGHT, 3).astype(np.uint8)
    found = checked(np.where((LABELS == "AK")[:, None, None, None], round_ones, BRIGHT))
    assert (
        "dark corners (Cramer's V 1.00, p < 0.001; 0 in 100% of NV and 0% of AK)"
        in found["storage hints at class"].message
    )


def test_storage_that_varies_by_chance_is_no_warning():
    found = checked(format=np.random.default_rng(5).permutation(by_class("PNG", "JPEG")))
    assert {kind: f.severity for kind, f in found.items()} == {"shortcut control": "note"}


@pytest.mark.parametrize("column", ["source", "site", "sex", "age", "official_part"])
def test_every_column_is_tested_against_the_class(column):
    values = {"sex": by_class("male", "female"), "age": by_class(30, 70)}.get(column, by_class("torso", "face"))
    found = checked(metadata={column: values})
    assert found[f"{column} hints at class"].severity == "warning"
    assert "all but names the class" in found[f"{column} hints at class"].message
    hinted = checked(metadata={column: np.where(by_class(1, 0, 0.75) == 1, values[0], values[-1])})
    assert hinted[f"{column} hints at class"].severity == "note"
    assert not checked(metadata={column: np.random.default_rng(3).permutation(values)})


@pytest.mark.parametrize("column", ["lesion", "mask", "age"])
def test_what_is_missing_of_one_class_alone_tells_it(column):
    values = by_class(40, np.nan) if column == "age" else np.where(LABELS == "AK", [f"m{n}" for n in range(NUM)], "")
    assert f"{column} hints at class" in checked(metadata={column: values})


def test_a_site_equal_to_the_class_is_a_finding():
    assert "Cramer's V 1.00" in checked(metadata={"site": LABELS})["site hints at class"].message


def test_cramers_v_by_hand_and_by_another():
    assert shortcuts.cramers_v(np.array([[10, 0], [0, 10]])) == pytest.approx(1)
    assert shortcuts.cramers_v(np.array([[10, 20], [5, 10]])) == 0
    counts = np.random.default_rng(0).poisson([[4000, 2000, 900], [1000, 3000, 800]])
    assert shortcuts.cramers_v(counts) == pytest.approx(float(uncorrected(counts, method="cramer")), abs=1e-3)
    few = np.random.default_rng(1).poisson(1.0, (40, 3))
    assert float(uncorrected(few[few.any(axis=1)], method="cramer")) > 0.4
    assert shortcuts.cramers_v(few) < 0.25


def test_the_test_is_that_of_scipy():
    values = by_class("a", "b", 0.7)
    found = shortcuts.association("x", values, LABELS)
    table = pd.crosstab(values, LABELS).to_numpy()
    assert found is not None
    assert found.p_value == pytest.approx(chi2_contingency(table, correction=False)[1])


def test_the_control_has_not_seen_the_lesion():
    """A size that is the lesion's own says nothing of a lesion that is new."""
    lesions = np.repeat(np.arange(24), 5).astype(str).astype(object)
    labels = np.repeat(np.random.default_rng(0).permutation(["AK", "NV"] * 12), 5).astype(object)
    found = shortcuts.shortcut_control({"size": pd.Series(lesions)}, labels, lesions)
    assert found is not None
    assert found.balanced_accuracy < 0.65
    assert found.p_value > 0.01


def test_classes_of_few_lesions_are_left_out_of_the_control():
    labels = LABELS.copy()
    labels[:3] = "DF"
    lesions = np.arange(NUM).astype(str).astype(object)
    found = shortcuts.shortcut_control({"format": pd.Series(by_class("PNG", "JPEG"))}, labels, lesions)
    assert found is not None
    assert found.classes == ("AK", "NV")
    assert shortcuts.shortcut_control({"format": pd.Series(["PNG"] * NUM)}, labels, lesions) is None


@pytest.mark.parametrize("quality", [30, 50, 75, 90, 95, 100])
def test_a_jpeg_says_how_it_was_compressed(quality):
    data = encoded(BRIGHT[0], "JPEG", quality=quality, subsampling=0, progressive=True)
    assert storage.read(data) == storage.Storage("JPEG", f"quality {quality}, 4:4:4, progressive", "")


def test_a_photograph_says_its_camera_and_others_say_nothing():
    exif = Image.Exif()
    exif[0x10F], exif[0x110] = "Canon\0", "EOS 90D"
    data = encoded(BRIGHT[0], "JPEG", quality=75, exif=exif)
    assert storage.read(data) == storage.Storage("JPEG", "quality 75, 4:2:0", "Canon EOS 90D")
    assert storage.read(encoded(BRIGHT[0])) == storage.Storage("PNG", "", "")
    tiff = io.BytesIO()
    Image.fromarray(BRIGHT[0]).save(tiff, "TIFF", compression="tiff_lzw", software="Scanner 2")
    assert storage.read(tiff.getvalue()) == storage.Storage("TIFF", "tiff_lzw", "Scanner 2")
