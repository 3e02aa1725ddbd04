"""The phantom: what it draws, from which seeds, on which files; and that its planted numbers are there to be found."""

import io
import multiprocessing
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import average_precision_score, balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from moulage import plugins
from moulage.backbones import PIP_PACKAGE
from moulage.classifiers import probe
from moulage.data.catalog import Catalog
from moulage.data.reader import Reader
from moulage.errors import RecipeError, RunError
from moulage.runs import cache_folder
from moulage.sources import phantom
from moulage.sources._patterns import KINDS
from moulage.sources.phantom import CAMERAS, CLASSES, RARE, Config, draw_image

SMALL = Config(num_images=60, size=24, min_lesions=2)
SIZE = 48
POOL = 96
RECORDED: dict[str, dict[float, tuple[float, ...]]] = {
    "rings": {0: (0.124, 0.032, -0.008, 0.065), 0.5: (0.212, 0.090, 0.070, 0.141), 1: (0.392, 0.282, 0.303, 0.185)},
    "frozen": {0: (0.082, 0.013, 0.011, 0.069), 0.5: (0.193, 0.085, 0.122, 0.174), 1: (0.257, 0.315, 0.262, 0.281)},
}
"""Gains of the classes of ``RARE`` by planted benefit, as docs/LOG.md has them."""


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return phantom.read(tmp_path_factory.mktemp("phantom"), Config(num_images=800, size=SIZE))


@pytest.fixture(scope="module")
def images(catalog: Catalog) -> NDArray[np.uint8]:
    return pixels(catalog, "location")


@pytest.fixture(scope="module")
def masks(catalog: Catalog) -> NDArray[np.bool_]:
    return pixels(catalog, "mask")


def pixels(catalog: Catalog, column: str) -> NDArray:
    reader = Reader()
    files = [reader.bytes(catalog.resolve(location)) for location in catalog.table[column]]
    return np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in files])


def archives(catalog: Catalog) -> list[bytes]:
    return [(catalog.root / name).read_bytes() for name in ("images.zip", "masks.zip")]


def distance_from_middle(size: int) -> NDArray[np.float64]:
    """Of each pixel, in view widths."""
    along = (np.arange(size) - (size - 1) / 2) / size
    return np.hypot(along[:, None], along)


# ---- table


def test_classes_have_the_shares_of_isic_2019() -> None:
    official = {"MEL": 4522, "NV": 12875, "BCC": 3323, "AK": 867, "BKL": 2624, "DF": 239, "VASC": 253, "SCC": 628}
    counts = phantom.num_images(Config(num_images=sum(official.values())))
    assert tuple(counts) == CLASSES == tuple(official)
    assert counts == pytest.approx(official, rel=0.01)


def test_counts_add_up_and_no_class_falls_short(catalog: Catalog) -> None:
    assert sum(catalog.counts.values()) == len(catalog) == 800
    assert catalog.counts == phantom.num_images(Config(num_images=800))
    assert max(catalog.counts, key=lambda name: catalog.counts[name]) == "NV"
    lesions = catalog.table.groupby("label")["group"].nunique()
    assert lesions.min() >= 12
    assert catalog.counts["DF"] == catalog.counts["VASC"] == 24


def test_photographs_of_a_lesion_share_all_but_their_own_seed() -> None:
    plan = phantom.make_plan(Config(num_images=4000))
    known = plan[plan["lesion"] != ""]
    one_value = known.groupby("lesion")[["label", "source", "age", "sex", "site", "lesion_seed"]].nunique(dropna=False)
    assert (one_value == 1).to_numpy().all()
    assert plan["image_seed"].is_unique
    photographs = known["lesion"].value_counts()
    assert photographs.max() >= 5
    assert 4000 / plan["lesion_seed"].nunique() == pytest.approx(1.96, abs=0.1)


def test_lesions_group_and_images_without_lesion_stand_alone(catalog: Catalog) -> None:
    unknown = catalog.table["lesion"] == ""
    assert catalog.table.loc[unknown, "group"].is_unique
    assert catalog.table.loc[~unknown, "group"].nunique() == catalog.table.loc[~unknown, "lesion"].nunique()


def test_some_metadata_are_unknown() -> None:
    plan = phantom.make_plan(Config(num_images=4000))
    for unknown in (plan["lesion"] == "", plan["age"].isna(), plan["sex"] == "", plan["site"] == ""):
        assert 0.02 < unknown.mean() < 0.06
    ages = plan["age"].dropna()
    assert ages.between(15, 85).all()
    assert (ages % 5 == 0).all()
    assert set(plan["site"]) == {"", *phantom.SITES}
    assert set(plan["sex"]) == {"", "female", "male"}


def test_classes_differ_in_age_site_and_source() -> None:
    plan = phantom.make_plan(Config(num_images=8000)).drop_duplicates("lesion_seed")
    by_class = plan.groupby("label")
    assert by_class["age"].mean()["SCC"] - by_class["age"].mean()["NV"] > 15
    on_head = by_class["site"].agg(lambda site: (site == "head/neck").mean())
    assert on_head["AK"] > 2 * on_head["NV"]
    shares = pd.crosstab(plan["label"], plan["source"], normalize="index")
    assert shares.loc["NV"].to_list() == pytest.approx(phantom.DISEASES["NV"].sources, abs=0.03)


# ---- seeds


def test_an_image_depends_on_its_own_seeds_alone(catalog: Catalog, images: NDArray, masks: NDArray) -> None:
    config = Config(num_images=800, size=SIZE)
    elsewhere = Config(num_images=5000, size=SIZE, seed=77, min_lesions=40)
    plan = phantom.make_plan(config)
    assert plan["image"].to_list() == catalog.images.tolist()
    for i in (799, 0, 123):
        row = plan.loc[i]
        for other in (config, elsewhere):
            image, mask = draw_image(other, row["label"], row["lesion_seed"], row["image_seed"], row["source"])
            np.testing.assert_array_equal(image, images[i])
            np.testing.assert_array_equal(mask, masks[i])


def test_each_seed_matters() -> None:
    first = draw_image(SMALL, "MEL", 1, 2, "PHA")[0]
    for other in (("MEL", 3, 2, "PHA"), ("MEL", 1, 3, "PHA"), ("MEL", 1, 2, "PHB"), ("VASC", 1, 2, "PHA")):
        assert (draw_image(SMALL, *other)[0] != first).mean() > 0.5


def test_two_folders_get_the_same_files_and_another_seed_gets_others(tmp_path: Path) -> None:
    first, second = (phantom.read(tmp_path / name, SMALL) for name in ("first", "second"))
    assert archives(first) == archives(second)
    assert first.digest == second.digest
    other = phantom.read(tmp_path / "first", SMALL.model_copy(update={"seed": 1}))
    assert other.root != first.root
    assert archives(other) != archives(first)
    assert other.digest != first.digest


# ---- images


def test_images_are_drawn_and_masks_match_lesions(images: NDArray, masks: NDArray) -> None:
    assert images.shape == (800, SIZE, SIZE, 3)
    assert images.dtype == np.uint8
    assert masks.shape == (800, SIZE, SIZE)
    assert masks.dtype == np.bool_
    area = masks.mean(axis=(1, 2))
    assert (area > 0.005).mean() > 0.99
    assert 0.05 < np.median(area) < 0.5
    lit = distance_from_middle(SIZE) < 0.4  # within the black ring
    contrast = []
    for image, mask in zip(images.astype(float), masks, strict=True):
        lesion, skin = image[mask & lit], image[~mask & lit]
        if min(len(lesion), len(skin)) >= 20:
            contrast.append(np.abs(lesion.mean(0) - skin.mean(0)).max())
    assert len(contrast) > 700
    assert np.mean(np.array(contrast) > 10) > 0.85


def test_only_one_source_has_dark_corners(catalog: Catalog, images: NDArray) -> None:
    corners = images[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(axis=(1, 2))
    dark = pd.Series(corners < 40).groupby(catalog.table["source"]).mean()
    assert dark.index.to_list() == list(CAMERAS)
    assert dark["PHA"] > 0.8
    assert dark[["PHB", "PHC"]].max() < 0.1


def simple_features(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """12 x 12 pixels and colour statistics."""
    small = np.stack([np.asarray(Image.fromarray(image).resize((12, 12), Image.Resampling.BOX)) for image in images])
    colours = images.reshape(len(images), -1, 3)
    statistics = [colours.mean(1), colours.std(1), *np.percentile(colours, [2, 10, 25, 50, 75, 90, 98], axis=1)]
    return np.concatenate([small.reshape(len(images), -1), *statistics], axis=1)


@pytest.mark.slow
def test_classes_can_be_told_apart_but_overlap(catalog: Catalog, images: NDArray) -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200, class_weight="balanced"))
    folds = StratifiedGroupKFold(4, shuffle=True, random_state=0)
    found = cross_val_predict(model, simple_features(images), catalog.labels, groups=catalog.groups, cv=folds)
    assert balanced_accuracy_score(catalog.labels, found) == pytest.approx(0.54, abs=0.03)  # chance: 0.125


# ---- planted benefit


def test_every_look_of_a_rare_class_has_its_own_colours_and_a_class_each_kind_once() -> None:
    patterns = [disease.pattern for disease in phantom.DISEASES.values() if disease.pattern]
    assert len(patterns) == len(RARE) == 4
    for family in phantom.SUBTYPES.values():
        assert sorted(pattern.kind for pattern in family) == sorted(KINDS)
        patterns += family
    assert len({pattern[1:] for pattern in patterns}) == len(patterns)


def test_a_benefit_makes_its_square_of_the_lesions_subtypes_and_changes_no_other() -> None:
    seeds = range(400)
    looks = [
        [phantom.lesion_look(Config(planted_benefit=benefit), "DF", np.random.default_rng(seed)) for seed in seeds]
        for benefit in (0, 0.5, 1)
    ]
    textbook, some, subtypes = looks
    for old, mixed, new in zip(textbook, some, subtypes, strict=True):
        assert mixed in (old, new)
    own = [new[1] in phantom.SUBTYPES["DF"] for new in subtypes]
    assert np.mean(own) == pytest.approx(0.85, abs=0.06)  # the others mimic a class drawn at random
    changed = [mixed != old for old, mixed in zip(textbook, some, strict=True)]
    assert np.sum(changed) / np.sum(own) == pytest.approx(0.25, abs=0.07)
    common = [
        phantom.lesion_look(Config(planted_benefit=benefit, mimicry=0), "NV", np.random.default_rng(1))
        for benefit in (0, 1)
    ]
    assert common[0] == common[1]


@cache
def pictures(benefit: float, data_set: int) -> list[NDArray[np.uint8]]:
    """New lesions by class, one image each: 80 of a common class, ``POOL`` + 60 of a rare one."""
    config, sources = Config(size=64, planted_benefit=benefit), list(CAMERAS)
    found = []
    for k, name in enumerate(CLASSES):
        first = 10**9 * (1 + data_set) + 10**6 * k
        seeds = range(first, first + (POOL + 60 if name in RARE else 80))
        found.append(np.stack([draw_image(config, name, seed, seed, sources[seed % 3])[0] for seed in seeds]))
    return found


def rings(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean and spread of log colour in 8 rings around the middle, [N, 48]."""
    ring = distance_from_middle(images.shape[1]) // 0.05
    logs = [np.log(images[:, ring == k] + 8.0) for k in range(8)]
    return np.concatenate([part for log in logs for part in (log.mean(1), log.std(1))], axis=1)


def frozen(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Features of ``probe`` as it is by default."""
    return probe.embed(probe.Config(), images)


WAYS: dict[str, tuple[Callable[[NDArray[np.uint8]], NDArray], Any]] = {
    "rings": (rings, OneVsRestClassifier(SVC(C=3, class_weight="balanced"))),
    "frozen": (frozen, RidgeClassifier(alpha=180, class_weight="balanced")),
}


def gains(way: str, benefit: float, data_sets: int, choices: int = 3) -> NDArray[np.float64]:
    """What ``POOL`` - 8 further real images of each class of ``RARE`` add to 8: differences in average precision, [4].

    The mean over data sets (60 training and 20 test images of each common class, 60 test images of a rare one, one a
    lesion) and choices of the 8.
    """
    features, model = WAYS[way]
    found = []
    for data_set in range(data_sets):
        known = [features(images) for images in pictures(benefit, data_set)]
        sizes = [POOL if name in RARE else 60 for name in CLASSES]
        test = np.concatenate([rows[size:] for rows, size in zip(known, sizes, strict=True)])
        truth = np.repeat(np.arange(len(CLASSES)), [len(rows) - size for rows, size in zip(known, sizes, strict=True)])
        for seed in range(choices):
            order = np.random.default_rng(seed).permutation(POOL)
            aps = []
            for num in (8, POOL):
                rows = [order[:num] if name in RARE else np.arange(60) for name in CLASSES]
                train = np.concatenate([of[chosen] for of, chosen in zip(known, rows, strict=True)])
                labels = np.repeat(np.arange(len(CLASSES)), [len(chosen) for chosen in rows])
                scores = make_pipeline(StandardScaler(), clone(model)).fit(train, labels).decision_function(test)
                places = [CLASSES.index(name) for name in RARE]
                aps.append([average_precision_score(truth == k, scores[:, k]) for k in places])
            found.append(np.subtract(*aps[::-1]))
    return np.mean(found, axis=0)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_held_back_images_help_where_benefit_is_planted_and_hardly_where_not(way: str) -> None:
    if way == "frozen":
        pytest.importorskip(PIP_PACKAGE)
    without, planted = (gains(way, benefit, data_sets=1) for benefit in (0, 1))
    assert planted.mean() > without.mean() + 0.1
    assert (planted > without).all()
    assert without.mean() < 0.1


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("benefit", [0, 0.5, 1])
@pytest.mark.parametrize("way", WAYS)
def test_planted_benefit_is_what_the_log_records(way: str, benefit: float) -> None:
    if way == "frozen":
        pytest.importorskip(PIP_PACKAGE)
    assert gains(way, benefit, data_sets=2) == pytest.approx(RECORDED[way][benefit], abs=0.02)


# ---- files and errors


def test_archives_are_stored_and_readable(catalog: Catalog) -> None:
    for name, mode in (("images.zip", "RGB"), ("masks.zip", "1")):
        with zipfile.ZipFile(catalog.root / name) as archive:
            assert archive.testzip() is None
            members = archive.infolist()
            assert len(members) == 800
            assert {member.compress_type for member in members} == {zipfile.ZIP_STORED}
            with archive.open(members[0]) as stream:
                picture = Image.open(stream)
                assert (picture.format, picture.mode, picture.size) == ("PNG", mode, (SIZE, SIZE))


def test_default_folder_is_the_cache() -> None:
    assert phantom.read(None, SMALL).root.parent == cache_folder()


def test_drawn_images_are_not_touched_again(tmp_path: Path) -> None:
    first = phantom.read(tmp_path, SMALL)
    before = {path.name: path.stat().st_mtime_ns for path in first.root.iterdir()}
    (first.root / ".lock").unlink()  # a finished folder may lie where nobody may write
    assert phantom.read(tmp_path, SMALL).digest == first.digest
    after = {path.name: path.stat().st_mtime_ns for path in first.root.iterdir()}
    assert after == {name: time for name, time in before.items() if name != ".lock"}


def test_two_processes_draw_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, context = phantom._draw_all, multiprocessing.get_context("fork")
    barrier = context.Barrier(2)

    def logged(*arguments: Any) -> None:
        with (tmp_path / "log").open("a") as stream:
            stream.write("drawn\n")
        draw(*arguments)

    def read_together() -> None:
        barrier.wait(60)
        phantom.read(tmp_path, SMALL)

    monkeypatch.setattr(phantom, "_draw_all", logged)
    processes = [context.Process(target=read_together) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "log").read_text() == "drawn\n"
    catalog = phantom.read(tmp_path, SMALL)
    assert {path.name for path in catalog.root.iterdir()} == {".lock", "images.zip", "masks.zip"}
    assert pixels(catalog, "location").shape == (60, 24, 24, 3)


def test_full_disk_leaves_nothing_half_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(pixels: NDArray) -> bytes:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(phantom, "_png", full)
        with pytest.raises(RunError, match="No space left on device") as caught:
            phantom.read(tmp_path, SMALL)
    assert "MOULAGE_CACHE" in caught.value.hint
    assert not [path for path in tmp_path.rglob("*") if "zip" in path.name]
    assert len(phantom.read(tmp_path, SMALL)) == 60


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(RunError, match=f"cannot be written to {tmp_path / 'taken'}"):
        phantom.read(tmp_path / "taken", SMALL)
    assert (tmp_path / "taken").read_text() == "a file"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"planted_benefit": 1.5}, "planted_benefit"),
        ({"mimicry": -0.1}, "mimicry"),
        ({"size": 8}, "size"),
        ({"seed": -1}, "seed"),
        ({"num_images": "many"}, "num_images"),
        ({"num_images": 100}, "num_images must be greater for min_lesions = 12"),
        ({"planted_benefits": 1}, 'Did you mean "planted_benefit"?'),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        plugins.configure("sources", "phantom", options)
    assert message in str(caught.value)


def test_unknown_class_or_source_is_named() -> None:
    with pytest.raises(RecipeError, match=r'no class "MELL"\.\n.*Did you mean "MEL"'):
        draw_image(SMALL, "MELL", 1, 1, "PHA")
    with pytest.raises(RecipeError, match=r'no source "HAM"\.'):
        draw_image(SMALL, "MEL", 1, 1, "HAM")
