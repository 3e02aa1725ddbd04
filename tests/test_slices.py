"""Slices: the same comparison on parts of the test images, and warnings for whoever believes a gain."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from moulage.errors import DataError
from moulage.evaluation.compare import compare, compare_all
from moulage.evaluation.predictions import Predictions
from moulage.evaluation.slices import BANDS, attributes, restrict, slices, warnings

CLASSES = ("AK", "DF", "NV")
NUM_LESIONS = 90


def table(seed: int = 0) -> pd.DataFrame:
    """90 lesions of 1 or 2 photographs: sources A, A, B ..., ages 20 to 80, three classes."""
    rows, rng = [], np.random.default_rng(seed)
    for lesion in range(NUM_LESIONS):
        for photograph in range(1 + lesion % 2):
            rows.append(
                {
                    "image": f"i{lesion}-{photograph}",
                    "label": CLASSES[lesion % 3],
                    "lesion": f"L{lesion}" if lesion >= 4 else "",
                    "group": f"g{lesion}",
                    "source": "B" if lesion % 5 < 2 else "A",
                    "sex": ("female", "male", "")[lesion % 7 % 3],
                    "age": (20.0, 40.0, 50.0, 70.0, 80.0, np.nan)[lesion % 6],
                    "site": "" if lesion < 3 else "torso" if rng.random() < 0.5 else "head",
                }
            )
    return pd.DataFrame(rows)


def fit(data: pd.DataFrame, arm: str, trial: int, skill: np.ndarray, seed: int = 0) -> Predictions:
    """Logits of noise, and ``skill`` [N] at the true class; lesions share some of the noise."""
    rng = np.random.default_rng([seed, trial, len(arm), ord(arm[0])])
    labels = data["label"].map(CLASSES.index).to_numpy(np.int64)
    shared = np.random.default_rng(seed).normal(size=(NUM_LESIONS, 3))[data["group"].str[1:].astype(int)]
    logits = 0.7 * shared + rng.normal(0, 0.7, (len(data), 3))
    logits[np.arange(len(data)), labels] += skill
    images, groups = data["image"].to_numpy(object), data["group"].to_numpy(object)
    return Predictions(images, groups, labels, logits, CLASSES, arm, trial, "test", "digest")


@pytest.fixture(scope="module")
def data() -> pd.DataFrame:
    return table()


@pytest.fixture(scope="module")
def arms(data: pd.DataFrame) -> dict[str, list[Predictions]]:
    """``gan`` is better than ``none`` on source A, and worse on source B."""
    gain = np.where(data["source"] == "A", 4.0, -1.2)
    return {
        "none": [fit(data, "none", t, np.full(len(data), 0.8)) for t in range(4)],
        "gan": [fit(data, "gan", t, 0.8 + gain) for t in range(4)],
    }


PAIR = [("gan", "none")]


def test_restrict_keeps_rows_and_facts(arms: dict[str, list[Predictions]]):
    whole = arms["gan"][2]
    some = restrict(whole, np.array([5, 1]))
    assert some.images.tolist() == [whole.images[5], whole.images[1]]
    assert np.array_equal(some.logits, whole.logits[[5, 1]])
    assert (some.groups[0], some.labels[1]) == (whole.groups[5], whole.labels[1])
    assert (some.arm, some.trial, some.classes, some.split_digest) == ("gan", 2, CLASSES, "digest")
    with pytest.raises(DataError):
        restrict(whole, np.zeros(len(whole), bool))


def test_age_bands_hold_their_first_year_and_unknown_is_a_value():
    ages = [0, 29, 30, 44.9, 45, 60, 74, 75, 101, np.nan, -1]
    rows = pd.DataFrame({"image": [f"i{n}" for n in range(len(ages))], "age": ages, "lesion": "", "source": ""})
    found = attributes(rows.assign(sex="", site=""))
    one, two, three, four, five = BANDS
    expected = [one, one, two, two, three, four, four, five, five, "unknown", "unknown"]
    assert found["age"].tolist() == expected
    assert set(found["source"]) == set(found["sex"]) == set(found["site"]) == set(found["lesion seen"]) == {"unknown"}


def test_a_lesion_is_seen_once_or_several_times(data: pd.DataFrame):
    found = attributes(data)["lesion seen"]
    assert found["i4-0"] == "once"
    assert found["i5-0"] == found["i5-1"] == "several times"
    assert found["i1-0"] == "unknown"


def test_every_image_is_in_one_slice_of_each_column(data: pd.DataFrame, arms: dict[str, list[Predictions]]):
    found = slices(arms, data, PAIR, ["accuracy"])
    sizes: dict[str, int] = {}
    for block in found:
        sizes[block["column"]] = sizes.get(block["column"], 0) + block["num_images"]
    assert sizes == dict.fromkeys(("source", "sex", "age", "site", "lesion seen"), len(data))
    of_age = [block["value"] for block in found if block["column"] == "age"]
    assert of_age == [*BANDS, "unknown"]
    assert [block["value"] for block in found if block["column"] == "source"] == ["A", "B"]
    assert sum(block["num_lesions"] for block in found if block["column"] == "source") == NUM_LESIONS


def test_a_slice_is_the_comparison_of_its_images(data: pd.DataFrame, arms: dict[str, list[Predictions]]):
    found = slices(arms, data, PAIR, ["mean_average_precision", "recall:AK"], ("AK", "DF"))
    keep = (data["source"] == "A").to_numpy()
    parts = {name: [restrict(fit, keep) for fit in fits] for name, fits in arms.items()}
    for block in (block for block in found if (block["column"], block["value"]) == ("source", "A")):
        expected = compare(parts, "gan", "none", block["measure"], ("AK", "DF"))
        [row] = block["rows"]
        assert (row["arm"], row["reference"]) == ("gan", "none")
        assert row["difference"] == expected.difference == row["score"] - row["reference_score"]
        assert (row["low"], row["high"]) == (expected.low, expected.high)
        assert block["num_images"] == keep.sum() == expected.num_images
        assert block["num_lesions"] == expected.num_lesions


def test_images_in_another_order_and_more_of_them_in_the_table(data: pd.DataFrame, arms: dict[str, list[Predictions]]):
    more = pd.concat([data.assign(image="x" + data["image"], lesion="x" + data["lesion"]), data]).sample(
        frac=1, random_state=0
    )
    turned = {name: [restrict(fit, np.arange(len(fit))[::-1]) for fit in fits] for name, fits in arms.items()}
    key = ("column", "value", "num_images", "num_lesions", "measure")
    one, two = (slices(a, t, PAIR, ["recall:AK"]) for a, t in ((arms, data), (turned, more)))
    assert [[b[k] for k in key] for b in one if b["column"] != "lesion seen"] == [
        [b[k] for k in key] for b in two if b["column"] != "lesion seen"
    ]
    assert one[0]["rows"][0]["low"] == pytest.approx(two[0]["rows"][0]["low"], abs=1e-12)


def test_small_slices_are_listed_and_absent_classes_left_out(data: pd.DataFrame):
    rare = data["label"].eq("AK") & data["source"].eq("B") & ~data["group"].isin(["g0", "g6", "g15"])
    no_nv = data["label"].eq("NV") & data["source"].eq("B")
    some = data[~rare & ~no_nv]
    arms = {name: [fit(some, name, t, np.full(len(some), 1.0)) for t in range(3)] for name in ("none", "gan")}
    found = slices(arms, data, PAIR, ["recall:AK", "balanced_accuracy", "accuracy", "recall:NV"])
    by_measure = {b["measure"]: b for b in found if (b["column"], b["value"]) == ("source", "B")}
    assert by_measure["recall:AK"]["note"] == "Too small: 3 lesions of AK, fewer than 10."
    assert "no image of NV" in by_measure["balanced_accuracy"]["note"]
    assert "no image of NV" in by_measure["recall:NV"]["note"]
    assert all(not by_measure[name]["rows"] for name in ("recall:AK", "balanced_accuracy", "recall:NV"))
    assert by_measure["accuracy"]["rows"]
    of_a = {b["measure"]: b for b in found if (b["column"], b["value"]) == ("source", "A")}
    assert all(of_a[name]["rows"] for name in by_measure)


def test_notes_of_the_comparison_come_along(data: pd.DataFrame, arms: dict[str, list[Predictions]]):
    [block] = [b for b in slices(arms, data, PAIR, ["recall:AK"]) if b["value"] == "B"]
    assert block["rows"]
    assert "AK has only 12 lesions" in block["note"]


def test_a_column_with_one_value_is_no_slice(data: pd.DataFrame, arms: dict[str, list[Predictions]]):
    found = slices(arms, data.assign(source="", sex="male"), PAIR, ["accuracy"])
    assert {block["column"] for block in found} == {"age", "site", "lesion seen"}


def test_folds_are_sliced_too(data: pd.DataFrame):
    """Two repeats of three folds; an image's predictions are pooled, and a fold without the slice is said."""
    arms: dict[str, list[Predictions]] = {"none": [], "gan": []}
    groups = data["group"].str[1:].astype(int).to_numpy()
    for name, skill in (("none", 0.8), ("gan", 2.5)):
        for trial in range(6):
            repeat, fold = divmod(trial, 3)
            part = data[(groups + repeat * (groups % 7)) % 3 == fold]
            arms[name].append(
                replace(fit(part, name, trial, np.full(len(part), skill)), split_digest=f"digest-{trial}")
            )
    found = slices(arms, data, PAIR, ["accuracy"])
    [of_a] = [block for block in found if block["value"] == "A"]
    assert of_a["num_images"] == (data["source"] == "A").sum()
    assert of_a["rows"][0]["low"] > 0
    few = data.assign(site=np.where((groups % 3 == 0) & (groups < 60), "toe", "torso"))
    [toe] = [block for block in slices(arms, few, PAIR, ["accuracy"]) if block["value"] == "toe"]
    assert toe["note"] == "Left out: some trial predicted none of these images."


def test_unknown_images_and_columns_are_refused(data: pd.DataFrame, arms: dict[str, list[Predictions]]):
    with pytest.raises(DataError, match='image "i0-0" is not in the table'):
        slices(arms, data[data["image"] != "i0-0"], PAIR, ["accuracy"])
    with pytest.raises(DataError, match="no column source, sex"):
        attributes(data.drop(columns=["source", "sex"]))
    with pytest.raises(DataError, match="twice"):
        attributes(pd.concat([data, data[:1]]))


def test_a_gain_on_one_source_only_is_warned_of(data: pd.DataFrame, arms: dict[str, list[Predictions]]):
    overall = compare_all(arms, PAIR, "accuracy")
    found = slices(arms, data, PAIR, ["accuracy"])
    said = warnings(found, overall)
    assert overall[0].low is not None
    assert overall[0].low > 0
    assert said[0].startswith("gan improves the accuracy against none on images of the source A only (+")
    assert "B: -" in said[0]
    assert any("worsens it where source is B" in sentence for sentence in said)
    assert "about one in forty" in said[-1]
    assert warnings(found, compare_all(arms, PAIR, "recall:AK")) == []


def test_a_gain_on_every_source_is_not_warned_of(data: pd.DataFrame, arms: dict[str, list[Predictions]]):
    even = {"none": arms["none"], "gan": [fit(data, "gan", t, np.full(len(data), 2.8)) for t in range(4)]}
    found = slices(even, data, PAIR, ["accuracy", "log_loss"])
    assert warnings(found, [*compare_all(even, PAIR, "accuracy"), *compare_all(even, PAIR, "log_loss")]) == []


def test_a_gain_that_another_source_does_not_exclude_is_not_warned_of(
    data: pd.DataFrame, arms: dict[str, list[Predictions]]
):
    overall = compare_all(arms, PAIR, "accuracy")

    def blocks(low_b: float, high_b: float) -> list[dict]:
        rows = {"A": (0.1, 0.05, 0.15), "B": ((low_b + high_b) / 2, low_b, high_b), "C": (0.0, -0.01, 0.01)}
        names = ("difference", "low", "high")
        head = {"column": "source", "measure": "accuracy"}
        pair = {"arm": "gan", "reference": "none"}
        return [
            {**head, "value": value, "rows": [{**pair, **dict(zip(names, row, strict=True))}]}
            for value, row in rows.items()
        ]

    assert warnings(blocks(-0.1, 0.2), overall) == []  # B may gain as much
    assert len(warnings(blocks(-0.1, 0.09), overall)) == 2  # the interval of B excludes it
    assert len(warnings(blocks(-0.3, 0.2), overall)) == 2  # B points the other way
    assert warnings(blocks(0.01, 0.04), overall) == []  # B gains too
    assert len(warnings(blocks(-0.3, -0.1), overall)) == 3  # and here B pays for it


def test_less_loss_is_a_gain(data: pd.DataFrame, arms: dict[str, list[Predictions]]):
    overall = compare_all(arms, PAIR, "log_loss")
    said = warnings(slices(arms, data, PAIR, ["log_loss"]), overall)
    assert "improves the log-loss" in said[0]
    assert "source A only (-" in said[0]
    assert "nats" in said[0]
    assert "B: +" in said[0]
