"""Splits: groups never cross, classes keep their shares, and the proof finds every planted leak."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from moulage.data import split as splits
from moulage.data.catalog import Catalog
from moulage.errors import DataError, LeakError, RunError
from moulage.sources import phantom

PREVALENCE = {name: 1e-3 * number for name, number in phantom.num_images(phantom.Config(num_images=1000)).items()}


def catalog_of(groups: list[list[int]], num_classes: int) -> Catalog:
    """A catalog from, for each group, the class of each of its images."""
    rows = [(f"g{g}-{i}", f"c{k}", f"l{g}") for g, labels in enumerate(groups) for i, k in enumerate(labels)]
    table = pd.DataFrame(rows, columns=["image", "label", "lesion"]).assign(location="x.jpg")
    return Catalog.build(table, [f"c{k}" for k in range(num_classes)], "toy")


def isic_like(num_images: int, seed: int = 0) -> Catalog:
    """Eight classes as unbalanced as ISIC-2019; lesions with 1 to 30 photographs, a few with two labels."""
    rng = np.random.default_rng(seed)
    sizes = np.minimum(rng.zipf(2.1, num_images), 30)
    sizes = sizes[: np.searchsorted(np.cumsum(sizes), num_images)]
    label = rng.choice(len(PREVALENCE), len(sizes), p=np.array(list(PREVALENCE.values())) / sum(PREVALENCE.values()))
    labels = np.repeat(label, sizes)
    second = rng.random(len(labels)) < 0.001
    labels[second] = rng.integers(0, len(PREVALENCE), second.sum())
    table = pd.DataFrame({"image": [f"i{i:06d}" for i in range(len(labels))], "location": "x.jpg"})
    table["label"] = np.array(list(PREVALENCE))[labels]
    table["lesion"] = np.repeat(np.arange(len(sizes)), sizes).astype(str)
    return Catalog.build(table, PREVALENCE, "isic-like")


@pytest.fixture(scope="module")
def isic() -> Catalog:
    return isic_like(25_000)


SAFE = st.lists(st.integers(1, 6), min_size=4, max_size=9)


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    """Every class has 4 to 9 groups of its own, of any size, and there are groups that span several classes."""
    num_classes = draw(st.integers(1, 4))
    groups = [[k] * size for k in range(num_classes) for size in draw(SAFE)]
    mixed = st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=8)
    return catalog_of(groups + draw(st.lists(mixed, max_size=8)), num_classes)


def check(split: splits.Split, catalog: Catalog) -> None:
    """What a split promises, told in other words than `prove` uses."""
    part_of = dict(zip(split.table["image"], split.table["part"], strict=True))
    assert sorted(part_of) == sorted(catalog.images)
    assert len(split.table) == len(catalog)
    for group in set(catalog.groups):
        assert len({part_of[image] for image in catalog.images[catalog.groups == group]}) == 1
    for part in splits.PARTS:
        assert {row for row, label in zip(part_of, split.table["label"], strict=True) if part_of[row] == part}
        assert set(split.part(catalog, part).table["label"]) == set(catalog.classes)
    splits.prove(split, catalog)


@given(catalogs(), st.integers(0, 2**32), st.sampled_from([(0.1, 0.2), (0.25, 0.25), (0.01, 0.9)]))
@settings(max_examples=30, deadline=None)
def test_holdout_keeps_its_promises_whatever_the_groups(
    catalog: Catalog, seed: int, shares: tuple[float, float]
) -> None:
    split = splits.holdout(catalog, validation=shares[0], test=shares[1], seed=seed)
    check(split, catalog)
    shuffled = catalog.take(np.random.default_rng(seed).permutation(len(catalog)))
    assert splits.holdout(shuffled, validation=shares[0], test=shares[1], seed=seed).digest == split.digest


@given(catalogs(), st.integers(0, 2**32), st.integers(3, 4), st.integers(1, 2))
@settings(max_examples=15, deadline=None)
def test_folds_partition_the_images_in_every_repeat(
    catalog: Catalog, seed: int, num_folds: int, num_repeats: int
) -> None:
    trials = splits.folds(catalog, num_folds=num_folds, num_repeats=num_repeats, seed=seed)
    assert len(trials) == num_folds * num_repeats
    for repeat in range(num_repeats):
        chosen = [t for t in trials if t.scheme["repeat"] == repeat]
        tested = [image for t in chosen for image in t.part(catalog, "test").images]
        assert sorted(tested) == sorted(catalog.images)
    for trial in trials:
        check(trial, catalog)


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=12), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_any_catalog_is_split_well_or_refused(groups: list[list[int]], seed: int) -> None:
    catalog = catalog_of(groups, 3)
    try:
        split = splits.holdout(catalog, seed=seed)
    except DataError as error:
        assert "lesions for 3 parts" in error.message  # noqa: PT017
    else:
        check(split, catalog)


def test_three_lesions_go_one_to_each_part() -> None:
    catalog = catalog_of([[0]] * 40 + [[1] * 9, [1], [1] * 2], 2)
    counts = splits.holdout(catalog, seed=0).counts
    assert [counts[part]["c1"] for part in splits.PARTS] == [
        {"images": 9, "lesions": 1},
        {"images": 1, "lesions": 1},
        {"images": 2, "lesions": 1},
    ]
    assert sum(counts[part]["c0"]["lesions"] for part in splits.PARTS) == 40
    assert counts["test"]["c0"] == {"images": 8, "lesions": 8}


def test_too_few_lesions_is_refused_by_name() -> None:
    catalog = catalog_of([[0]] * 9 + [[1] * 50, [1] * 50], 2)
    with pytest.raises(DataError, match='"c1" has 2 lesions for 3 parts'):
        splits.holdout(catalog, seed=0)
    with pytest.raises(DataError, match='"c0" has 9 lesions for 10 parts'):
        splits.folds(catalog_of([[0]] * 9, 1), num_folds=10, validation=0.1, seed=0)
    with pytest.raises(DataError, match='"c1" has 0 lesions'):
        splits.holdout(catalog_of([[0]] * 9, 2), seed=0)


@pytest.mark.parametrize(("validation", "test"), [(0, 0.2), (0.1, 0), (0.5, 0.5), (-0.1, 0.2), (0.1, float("nan"))])
def test_shares_that_leave_a_part_empty_are_refused(validation: float, test: float) -> None:
    with pytest.raises(DataError, match="leave a part empty"):
        splits.holdout(catalog_of([[0]] * 9, 1), validation=validation, test=test, seed=0)


def test_folds_that_cannot_be_made_are_refused() -> None:
    catalog = catalog_of([[0]] * 9, 1)
    with pytest.raises(DataError, match="1 x 1 folds"):
        splits.folds(catalog, num_folds=1, seed=0)
    with pytest.raises(DataError, match="leave a part empty"):
        splits.folds(catalog, num_folds=2, validation=0.5, seed=0)


def test_shares_hold_in_images_and_in_lesions(isic: Catalog) -> None:
    split = splits.holdout(isic, seed=3)
    splits.prove(split, isic)
    counts = split.counts
    for label in PREVALENCE:
        for unit, tolerance in (("images", 0.01), ("lesions", 0.03)):
            total = sum(counts[part][label][unit] for part in splits.PARTS)
            for part, share in (("train", 0.7), ("validation", 0.1), ("test", 0.2)):
                assert abs(counts[part][label][unit] / total - share) < tolerance, (label, part, unit)


def test_folds_are_no_worse_than_scikit_learns(isic: Catalog) -> None:
    isic = isic.take(np.arange(6000))
    totals = np.bincount(isic.labels)

    def worst_and_mean(tests: list[np.ndarray]) -> tuple[float, float]:
        errors = [np.abs(np.bincount(isic.labels[t], minlength=len(totals)) / totals - 0.2) for t in tests]
        return float(np.max(errors)), float(np.mean(errors))

    ours = [(t.table["part"] == "test").to_numpy() for t in splits.folds(isic, num_folds=5, seed=0)]
    peer = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(isic.labels, isic.labels, isic.groups)
    peers = worst_and_mean([test for _, test in peer])
    mine = worst_and_mean(ours)
    assert mine[0] <= peers[0] + 1e-9
    assert mine[1] <= peers[1] + 1e-9


def test_the_seed_decides(isic: Catalog) -> None:
    small = isic.take(np.arange(12_000))
    assert splits.holdout(small, seed=1).digest == splits.holdout(small, seed=1).digest
    assert splits.holdout(small, seed=1).digest != splits.holdout(small, seed=2).digest
    assert len({t.digest for t in splits.folds(small, num_folds=3, num_repeats=2, seed=1)}) == 6


def test_the_digest_tells_content_not_order_or_place() -> None:
    catalog = catalog_of([[0]] * 9, 1)
    split = splits.holdout(catalog, seed=0)
    assert splits.holdout(catalog.with_columns(location="elsewhere.jpg"), seed=0).digest == split.digest
    renamed = catalog.with_columns(group=catalog.groups + "'")
    assert splits.holdout(renamed, seed=0).digest != split.digest


def with_parts(catalog: Catalog, parts: list[str]) -> Catalog:
    return catalog.with_columns(official_part=np.array(parts, object))


def test_official_parts_are_kept_and_validation_comes_out_of_training() -> None:
    catalog = catalog_of([[0, 0]] * 10 + [[0]] * 5, 1)
    whole = with_parts(catalog, ["train"] * 20 + ["validation"] * 2 + ["test"] * 3)
    split = splits.official(whole, seed=0)
    assert split.table["part"].tolist() == whole.table["official_part"].tolist()
    two = with_parts(catalog, ["train"] * 20 + ["test"] * 5)
    split = splits.official(two, validation=0.2, seed=0)
    splits.prove(split, two)
    assert {part: n["c0"]["images"] for part, n in split.counts.items()} == {"train": 16, "validation": 4, "test": 5}


def test_an_official_split_that_leaks_is_refused() -> None:
    catalog = with_parts(catalog_of([[0, 0], [0], [0], [0]], 1), ["train", "test", "train", "train", "test"])
    with pytest.raises(
        LeakError, match=r"tears 1 groups \(2 images\) apart, such as .lesion:l0.: g0-0 \(train\), g0-1 \(test\)"
    ):
        splits.official(catalog, seed=0)


def test_an_official_split_must_name_every_image_and_class() -> None:
    catalog = catalog_of([[0], [0], [0], [1]], 2)
    with pytest.raises(DataError, match='1 images have no official part, such as "g3-0"'):
        splits.official(with_parts(catalog, ["train", "validation", "test", ""]), seed=0)
    with pytest.raises(DataError, match='official part train of toy has no image of the class "c1"'):
        splits.official(with_parts(catalog, ["train", "validation", "test", "test"]), seed=0)


def lesions_of(split: splits.Split, part: str, label: str) -> set[str]:
    table = split.table
    return set(table.loc[(table["part"] == part) & (table["label"] == label), "group"])


def test_synthetic_images_are_never_split() -> None:
    catalog = catalog_of([[0]] * 9, 1)
    split = splits.holdout(catalog, seed=0)
    mixed = catalog.with_columns(origin=["real"] * 8 + ["dcgan-0-abc"])
    for attempt in (
        lambda: splits.holdout(mixed, seed=0),
        lambda: splits.folds(mixed, num_folds=3, seed=0),
        lambda: splits.official(mixed, seed=0),
        lambda: splits.prove(split, mixed),
    ):
        with pytest.raises(LeakError, match='1 synthetic images, the first is "g8-0"'):
            attempt()


def forged(split: splits.Split, table: pd.DataFrame) -> splits.Split:
    """A table with a digest that fits: only the catalog can convict it."""
    return replace(split, table=table, digest=splits.digest_of(table))


def test_the_proof_finds_every_planted_leak() -> None:
    catalog = catalog_of([[0, 0, 0]] * 9, 1)
    split = splits.holdout(catalog, seed=0)
    splits.prove(split, catalog)
    table = split.table

    def edited(row: int, column: str, value: str) -> splits.Split:
        return forged(split, table.assign(**{column: [*table[column][:row], value, *table[column][row + 1 :]]}))

    other = {"train": "test", "test": "train", "validation": "train"}
    for row in range(len(table)):
        with pytest.raises(LeakError, match=f'"lesion:l{row // 3}"') as caught:
            splits.prove(edited(row, "part", other[table["part"][row]]), catalog)
        assert table["image"][row] in caught.value.message
    for leaky, whole, words in (
        (edited(3, "group", "lesion:l0"), catalog, 'the group of "g1-0" is another'),
        (edited(0, "label", "c9"), catalog, 'the label of "g0-0" is another'),
        (edited(0, "part", "both"), catalog, 'unknown part "both"'),
        (forged(split, pd.concat([table, table[:1]], ignore_index=True)), catalog, '"g0-0" is in it more than once'),
        (forged(split, table[1:]), catalog, '"g0-0", is in no part'),
        (split, catalog.take(np.arange(1, len(catalog))), '"g0-0", is not in toy'),
        (replace(split, digest="0" * 12), catalog, "other rows than its digest"),
        (split, catalog.with_columns(group="all"), ""),
    ):
        with pytest.raises(LeakError, match=words):
            splits.prove(leaky, whole)


def test_a_part_of_another_catalog_is_refused() -> None:
    catalog = catalog_of([[0]] * 9, 1)
    split = splits.holdout(catalog, seed=0)
    with pytest.raises(LeakError, match="images in part"):
        split.part(catalog.take(np.arange(2)), "train")
    with pytest.raises(DataError, match='no part "training"'):
        split.part(catalog, "training")


def test_save_and_load(tmp_path) -> None:
    catalog = catalog_of([[0, 0]] * 9, 1)
    split = splits.holdout(catalog, seed=0)
    path = tmp_path / "run" / "split.parquet"
    split.save(path)
    loaded = splits.Split.load(path)
    pd.testing.assert_frame_equal(loaded.table, split.table)
    assert (loaded.digest, loaded.scheme, loaded.counts) == (split.digest, split.scheme, split.counts)
    splits.prove(loaded, catalog)


def test_a_changed_or_foreign_file_is_refused(tmp_path) -> None:
    split = splits.holdout(catalog_of([[0]] * 9, 1), seed=0)
    path = tmp_path / "split.parquet"
    replace(split, table=split.table.assign(part="train")).save(path)
    with pytest.raises(RunError, match="was changed after it was written"):
        splits.Split.load(path)
    split.save(path)
    split.table.to_parquet(path)
    with pytest.raises(RunError, match="is no split"):
        splits.Split.load(path)
    path.write_bytes(b"PAR1 truncated")
    with pytest.raises(RunError, match="is no split"):
        splits.Split.load(path)
    with pytest.raises(RunError, match="is no split"):
        splits.Split.load(tmp_path / "nothing.parquet")
