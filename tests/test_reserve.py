"""What is held back from the training part: whole lesions, nothing of other parts, and the same ones again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moulage.data import split as splits
from moulage.data.catalog import Catalog
from moulage.data.reserve import hold_back, make_scarce
from moulage.errors import DataError, LeakError
from test_split import catalog_of, catalogs, forged, isic_like, lesions_of, with_parts


@pytest.fixture(scope="module")
def isic() -> Catalog:
    return isic_like(25_000)


@given(catalogs(), st.integers(0, 2**32), st.sampled_from([0.05, 0.3, 0.9]))
@settings(max_examples=30, deadline=None)
def test_a_reserve_takes_whole_groups_of_its_classes_from_training(catalog: Catalog, seed: int, share: float) -> None:
    before = splits.holdout(catalog, seed=seed)
    targets = catalog.classes[:2]
    try:
        split = hold_back(before, catalog, targets, share, seed)
    except DataError as error:
        assert "could be held back" in error.message  # noqa: PT017
        return
    splits.prove(split, catalog)
    moved = before.table["part"] != split.table["part"]
    assert set(before.table.loc[moved, "part"]) == {"train"}
    assert set(split.table.loc[moved, "part"]) == {"reserve"}
    assert set(split.table.loc[moved, "label"]) <= set(targets)
    for label in targets:
        there, held, stay = (
            lesions_of(each, part, label) for each, part in ((before, "train"), (split, "reserve"), (split, "train"))
        )
        assert held | stay == there
        assert not held & stay
        assert 1 <= len(held) < len(there)
    assert sorted(split.part(catalog, "reserve").images) == sorted(split.table.loc[moved, "image"])


def test_a_reserve_is_about_the_share_asked_for_and_depends_on_the_seed_alone(isic: Catalog) -> None:
    before = splits.holdout(isic, seed=3)
    split = hold_back(before, isic, ["AK", "DF", "VASC"], 0.2, seed=1)
    for label in ("AK", "DF", "VASC"):
        total, held = len(lesions_of(before, "train", label)), len(lesions_of(split, "reserve", label))
        assert held == round(0.2 * total)
        assert split.counts["reserve"][label]["lesions"] == held
    assert list(split.counts) == ["train", "validation", "test", "reserve"]
    assert list(before.counts) == ["train", "validation", "test"]
    assert split.counts["reserve"]["NV"] == {"images": 0, "lesions": 0}
    for part in ("validation", "test"):
        assert set(split.part(isic, part).images) == set(before.part(isic, part).images)
    shuffled = isic.take(np.random.default_rng(0).permutation(len(isic)))
    again = hold_back(splits.holdout(shuffled, seed=3), shuffled, ["AK", "DF", "VASC"], 0.2, seed=1)
    assert again.digest == split.digest != before.digest
    assert hold_back(before, isic, ["AK", "DF", "VASC"], 0.2, seed=2).digest != split.digest
    assert split.scheme["reserve"] == {"classes": ["AK", "DF", "VASC"], "share": 0.2, "seed": 1}


def test_a_reserve_takes_an_exact_share_of_lesions_that_are_alike() -> None:
    catalog = with_parts(
        catalog_of([[0]] * 12 + [[1]] * 3, 2), ["train"] * 10 + ["test", "validation", "train", "validation", "test"]
    )
    split = splits.official(catalog, seed=0)
    assert len(hold_back(split, catalog, ["c0"], 0.3, 0).part(catalog, "reserve")) == 3
    assert len(hold_back(split, catalog, ["c0"], 0.99, 0).part(catalog, "reserve")) == 9
    assert len(hold_back(split, catalog, ["c0"], 0.001, 0).part(catalog, "reserve")) == 1
    assert len(split.part(catalog, "reserve")) == 0
    with pytest.raises(DataError, match='training part has 1 lesions of "c1"'):
        hold_back(split, catalog, ["c0", "c1"], 0.3, 0)


def test_what_a_lesion_has_of_other_classes_stays() -> None:
    parts = ["train"] * 7 + ["test"] * 2 + ["validation"] * 2
    catalog = with_parts(catalog_of([[0], [0], [0, 1], [0, 1], [1], [0], [1], [0], [1]], 2), parts)
    split, drawn = splits.official(catalog, seed=0), set()
    for seed in range(20):
        found = hold_back(split, catalog, ["c0"], 0.5, seed)
        splits.prove(found, catalog)
        held = found.part(catalog, "reserve")
        assert set(held.table["label"]) == {"c0"}
        assert len(held) == 2
        drawn |= set(held.groups)
    assert drawn == {f"lesion:l{i}" for i in range(4)}


def test_a_group_of_the_reserve_is_in_no_part_that_chooses_or_scores() -> None:
    catalog = catalog_of([[0, 0, 1]] * 12, 2)
    split = hold_back(splits.holdout(catalog, seed=0), catalog, ["c0"], 0.5, 0)
    splits.prove(split, catalog)
    row = int(np.flatnonzero((split.table["part"] == "reserve").to_numpy())[0])
    for part in ("test", "validation"):
        table = split.table.assign(part=[*split.table["part"][:row], part, *split.table["part"][row + 1 :]])
        with pytest.raises(LeakError, match="tears 1 groups"):
            splits.prove(forged(split, table), catalog)


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_reserves_that_cannot_be_made(share: float) -> None:
    catalog = catalog_of([[0]] * 9, 1)
    split = splits.holdout(catalog, seed=0)
    with pytest.raises(DataError, match="reserve of"):
        hold_back(split, catalog, ["c0"], share, 0)
    with pytest.raises(DataError, match='no class "c7"'):
        hold_back(split, catalog, ["c7"], 0.5, 0)


@given(catalogs(), st.integers(0, 2**32), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_levels_of_scarcity_are_nested_and_touch_nothing_else(catalog: Catalog, seed: int, low: int, more: int) -> None:
    before, targets = splits.holdout(catalog, seed=seed), catalog.classes[:2]
    made = []
    for number in (low, low + more):
        try:
            made.append(make_scarce(before, catalog, dict.fromkeys(targets, number), seed))
        except DataError as error:
            assert "are to stay" in error.message  # noqa: PT017
            return
    for split in made:
        splits.prove(split, catalog)
        moved = before.table["part"] != split.table["part"]
        assert set(before.table.loc[moved, "part"]) == {"train"}
        assert set(split.table.loc[moved, "part"]) == {"reserve"}
        assert set(split.table.loc[moved, "label"]) <= set(targets)
    fewer, many = (set(split.part(catalog, "train").images) for split in made)
    assert fewer < many
    alone = [lesions_of(split, "train", targets[0]) for split in made]
    assert len(alone[0]) < len(alone[1])


def test_so_many_lesions_stay_as_were_asked_for(isic: Catalog) -> None:
    for before in (splits.holdout(isic, seed=3), splits.folds(isic, num_folds=3, seed=3)[1]):
        split = make_scarce(before, isic, {"BCC": 60, "DF": 10}, seed=1)
        assert len(lesions_of(split, "train", "BCC")) == 60
        assert len(lesions_of(split, "train", "DF")) == 10
        assert lesions_of(split, "train", "AK") == lesions_of(before, "train", "AK")
        for part in ("validation", "test"):
            assert set(split.part(isic, part).images) == set(before.part(isic, part).images)
        assert split.scheme["reserve"] == {"lesions": {"BCC": 60, "DF": 10}, "seed": 1}
        assert make_scarce(before, isic, {"DF": 10, "BCC": 60}, seed=1).digest == split.digest
        assert make_scarce(before, isic, {"BCC": 60, "DF": 10}, seed=2).digest != split.digest


def test_scarcity_that_cannot_be_made_says_how_many_there_are() -> None:
    parts = ["train"] * 6 + ["test", "validation", "test", "validation"]
    catalog = with_parts(catalog_of([[0], [0], [0, 1], [1], [0], [0], [1], [1], [0]], 2), parts)
    split = splits.official(catalog, seed=0)
    assert make_scarce(split, catalog, {"c0": 3}, 0).counts["reserve"]["c0"] == {"images": 1, "lesions": 1}
    for number in (4, 100):
        with pytest.raises(DataError, match=f'{number} lesions of "c0" are to stay, and the training part has 4'):
            make_scarce(split, catalog, {"c0": number}, 0)
    with pytest.raises(DataError, match='"AK"'):
        make_scarce(split, catalog, {"AK": 4}, 0)
