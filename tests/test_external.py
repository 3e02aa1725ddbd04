"""Scoring a finished study on other data: classes are mapped, shared images are found and left out."""

import io
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from moulage import plugins, recipe, runs
from moulage.data import overlap, samples
from moulage.data import pixels as pixel_cache
from moulage.data.catalog import Catalog
from moulage.data.class_map import map_classes
from moulage.data.identity import Shown
from moulage.data.reader import Reader
from moulage.errors import DataError, LeakError, RecipeError, RunError
from moulage.evaluation.compare import compare
from moulage.evaluation.predictions import Predictions
from moulage.finished.external import evaluate_on
from moulage.sources import ham10000, isic2019, phantom
from moulage.stages import data
from pictures import encoded, write_pictures
from recipes import phantom_recipe
from small_study import Small

SIDE = 64
RECIPE = phantom_recipe(
    study={"num_trials": 3, "target_classes": ["AK", "VASC"]},
    data={"options": {"num_images": 240, "size": SIDE}},
    classifier={"options": {"penalty": 0.05}},
    arms={"duplicates": {"balance": "duplicates", "add": {"AK": 9}}},
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of two arms of three fits."""
    folder = tmp_path_factory.mktemp("small")
    Small(RECIPE, folder).collect()
    return folder


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("external"))


def fit_of(folder: Path, name: str) -> Path:
    """A classifier's folder, or its file of predictions, by arm and trial."""
    [found] = folder.glob(f"{name}-*")
    return found


OTHER = {"num_images": 160, "size": SIDE, "seed": 7, "min_lesions": 8}


@pytest.fixture(scope="module")
def other(run: Path) -> dict[str, Any]:
    """The study on another phantom."""
    return evaluate_on(run, "phantom", None, OTHER, {})


def write_folder(folder: Path, images: list[tuple[str, bytes]], lesions: dict[str, str] | None = None) -> Path:
    """A data set for the source ``folder``: names such as ``AK/one.png`` with their bytes."""
    write_pictures(folder, dict(images))
    if lesions:
        rows = "".join(f"{image},{lesion}\n" for image, lesion in lesions.items())
        (folder / "groups.csv").write_text(f"image,lesion\n{rows}")
    return folder


def fresh(label: str, seed: int) -> np.ndarray:
    """A lesion that is in no data set."""
    return phantom.draw_image(phantom.Config(size=SIDE), label, 10**6 + seed, seed, "PHA")[0]


def bytes_of(catalog: Catalog, image: str) -> bytes:
    """The file of one image of a phantom."""
    with Reader() as reader:
        return reader.bytes(catalog.resolve(str(catalog.table.set_index("image").loc[image, "location"])))


def test_every_classifier_is_scored_and_the_arms_compared(run: Path, other: dict[str, Any]):
    folder = Path(other["folder"])
    assert folder.parent == run / "external"
    said = {key: value for key, value in other.items() if key != "folder"}
    assert runs.read_json(folder / "summary.json") == json.loads(json.dumps(said))
    assert [(fit["arm"], fit["trial"]) for fit in other["fits"]] == [
        (arm, trial) for trial in range(3) for arm in ("none", "duplicates")
    ]
    assert other["num_images"] == 160 == sum(other["counts"].values())
    assert other["classes"] == {"map": dict(zip(phantom.CLASSES, phantom.CLASSES, strict=True))} | {
        "left_out": {},
        "absent": (),
    }
    arms: dict[str, list[Predictions]] = {"none": [], "duplicates": []}
    for fit in other["fits"]:
        arms[fit["arm"]].append(Predictions.load(folder / fit["predictions"]))
    expected = compare(arms, "duplicates", "none", "mean_average_precision", ("AK", "VASC"))
    [found] = other["comparisons"]
    assert (found["difference"], found["low"], found["high"]) == (expected.difference, expected.low, expected.high)
    assert found["scheme"] == "holdout"


def test_predictions_are_what_the_classifier_says_of_the_pixels(run: Path, other: dict[str, Any]):
    module = plugins.load("classifiers", "probe")
    found = Predictions.load(fit_of(Path(other["folder"]), "duplicates-1"))
    catalog = phantom.read(None, phantom.Config(**OTHER))
    array = pixel_cache.build(catalog, (32,), "squash", runs.cache_folder()).array(32)
    classifier = module.Classifier.load(fit_of(run / "classifiers", "duplicates-1"))
    logits = classifier.predict(module.embed(classifier.config, np.asarray(array)))
    place = {name: n for n, name in enumerate(catalog.images)}
    rows = [place[name] for name in found.images]
    np.testing.assert_allclose(found.logits, logits[rows], atol=1e-5)
    assert [phantom.CLASSES[k] for k in found.labels] == catalog.table["label"].to_numpy()[rows].tolist()


def test_names_that_only_happen_to_be_the_same_are_no_overlap(other: dict[str, Any]):
    """Each phantom counts its images and lesions from zero."""
    assert other["overlap"]["num_images"] == other["overlap"]["num_in_test"] == 0
    assert any("neither names nor lesion ids were taken" in note for note in other["notes"])


def test_finished_predictions_are_kept_and_missing_ones_made(
    run: Path, other: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    folder = Path(other["folder"])
    again = fit_of(folder, "none-2")
    expected = Predictions.load(again).logits
    again.unlink()
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    module = plugins.load("classifiers", "probe")

    def refuse(*args: Any, **options: Any) -> np.ndarray:
        raise AssertionError("embedded again")

    monkeypatch.setattr(module, "embed", refuse)
    repeated = evaluate_on(run, "phantom", None, OTHER, {})
    assert np.array_equal(Predictions.load(again).logits, expected)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert repeated["comparisons"] == other["comparisons"]


def test_copies_are_found_counted_and_left_out(run: Path, tmp_path: Path):
    """The same bytes, another encoding, a mirror image; a lesion goes whole; what only tests is said, not left out."""
    catalog, split = Catalog.load(run / "catalog.parquet"), data.load(run)[1].split(0)
    train, validation, test = (split.part(catalog, part).images for part in ("train", "validation", "test"))

    def pixels(image: str) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(bytes_of(catalog, image))))

    images = [
        ("AK/copy.png", bytes_of(catalog, train[0])),
        ("AK/saved-again.jpg", encoded(pixels(train[1]), "JPEG")),
        ("VASC/mirrored.png", encoded(pixels(validation[0])[:, ::-1])),
        ("VASC/tests.png", bytes_of(catalog, test[0])),
        *((f"AK/new{n}.png", encoded(fresh("AK", n))) for n in range(12)),
        *((f"VASC/new{n}.png", encoded(fresh("VASC", n))) for n in range(12, 24)),
    ]
    folder = write_folder(tmp_path / "other", images, {"AK/copy.png": "L1", "AK/new3.png": "L1", "AK/new4.png": "L2"})
    said: list[str] = []
    found = evaluate_on(run, "folder", folder, {}, {}, say=said.append)
    reasons = {row["image"]: (row["why"], row["same_as"]) for row in found["overlap"]["images"]}
    assert reasons == {
        "AK/copy.png": ("same bytes", train[0]),
        "AK/saved-again.jpg": ("near-duplicate", train[1]),
        "VASC/mirrored.png": ("near-duplicate", validation[0]),
        "AK/new3.png": ("lesion of an image that is left out", "AK/copy.png"),
    }
    assert found["overlap"]["num_images"] == 4
    assert found["overlap"]["by_reason"] == Counter(why for why, _ in reasons.values())
    assert found["overlap"]["num_in_test"] == 1
    assert found["counts"]["AK"] == 11
    assert found["num_images"] == 24
    scored = set(Predictions.load(Path(found["folder"]) / found["fits"][0]["predictions"]).images)
    assert scored.isdisjoint(reasons)
    assert "VASC/tests.png" in scored
    assert any(line.startswith("4 images left out") for line in said)
    assert any("1 images are in the run's test part too" in note for note in found["notes"])
    assert found["classes"]["absent"] == ("MEL", "NV", "BCC", "BKL", "DF", "SCC")
    assert found["comparisons"][0]["num_lesions"] == 24


def shown(names: list[str], pictures: np.ndarray, lesions: list[str]) -> Shown:
    table = pd.DataFrame({"image": names, "label": "AK", "location": names, "lesion": lesions})
    return Shown(Catalog.build(table, ("AK", "NV"), "data"), np.array(names, object) + "-bytes", pictures)


def test_names_and_lesions_count_where_the_pictures_are_the_same():
    """Archives keep their names at every size of the image; a lesion's other photographs overlap as well."""
    ours = np.stack([np.asarray(Image.fromarray(fresh("NV", n)).resize((32, 32))) for n in range(6)])
    theirs = np.clip(ours[:4].astype(int) + 9, 0, 255).astype(np.uint8)
    theirs[3] = fresh("NV", 77)[::2, ::2]
    lesions = ["L0", "L1", "L2", "L3", "L4", "L4"]
    left = shown(["a", "b", "c", "z"], theirs, ["", "L1", "", "L4"])
    left = replace(left, sha256=np.array(["1", "2", "3", "4"], object))
    table, notes = overlap.find(left, shown(["a", "b", "c", "d", "e", "f"], ours, lesions))
    found = {(row.image, row.same_as): row.why for row in table.itertuples()}
    expected = {("a", "a"): "same name", ("b", "b"): "same name", ("c", "c"): "same name"}
    assert found == expected | {("z", "e"): "same lesion", ("z", "f"): "same lesion"}
    assert notes == ()


def test_classes_are_mapped_by_name_and_by_hand():
    table = pd.DataFrame({"image": list("abcdef"), "label": ["MEL", "AKIEC", "AKIEC", "NEVUS", "OTHER", "DF"]})
    catalog = Catalog.build(table.assign(location="x"), ("MEL", "AKIEC", "NEVUS", "OTHER", "DF", "VASC"), "theirs")
    ours = ("MEL", "NV", "AK", "DF", "VASC")
    found = map_classes(catalog, ours, {"AKIEC": "AK", "NEVUS": "NV", "DF": ""})
    assert found.ours == {"MEL": "MEL", "AKIEC": "AK", "NEVUS": "NV", "VASC": "VASC"}
    assert found.left_out == {"OTHER": 1, "DF": 1}
    assert found.absent == ("DF", "VASC")
    ambiguous, left_out, absent = found.notes
    assert "Bowen" in ambiguous
    assert "counts as AK" in ambiguous
    assert left_out == "Left out, for want of a class: OTHER (1 images), DF (1 images)."
    assert absent == "theirs has no image of DF, VASC."
    mapped = found.apply(catalog, ours)
    assert mapped.images.tolist() == ["a", "b", "c", "d"]
    assert mapped.labels.tolist() == [0, 2, 2, 1]
    renamed = table.assign(location="x", label=table["label"].replace("NEVUS", "n v "))
    spelled = Catalog.build(renamed, ("MEL", "AKIEC", "n v ", "OTHER", "DF"), "theirs")
    assert map_classes(spelled, ours, {}).ours["n v "] == "NV"
    assert 'Their "n v " is taken as "NV".' in map_classes(spelled, ours, {}).notes
    assert map_classes(catalog, ours, {}).left_out == {"AKIEC": 2, "NEVUS": 1, "OTHER": 1}
    assert not any("Bowen" in note for note in map_classes(catalog, ours, {}).notes)


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        ({"AKIE": "AK"}, RecipeError, 'no class "AKIE" to map(.|\n)*AKIEC'),
        ({"AKIEC": "AKK"}, RecipeError, '"AKIEC" cannot become "AKK"(.|\n)*AK'),
        ({}, DataError, "No class of theirs is one of the study's: AKIEC, NEVUS"),
        ({"AKIEC": ""}, DataError, "No class of theirs"),
    ],
)
def test_wrong_class_maps_are_refused(wanted: dict[str, str], error: type[Exception], words: str):
    table = pd.DataFrame({"image": ["a", "b"], "label": ["AKIEC", "NEVUS"], "location": "x"})
    with pytest.raises(error, match=words):
        map_classes(Catalog.build(table, ("AKIEC", "NEVUS"), "theirs"), ("AK", "NV"), wanted)


def test_target_classes_without_images_are_said(run: Path, tmp_path: Path):
    images = [(f"{k}/{n}.png", encoded(fresh(k, 100 + n))) for k in ("AK", "NV") for n in range(10)]
    found = evaluate_on(run, "folder", write_folder(tmp_path / "other", images), {}, {})
    assert found["targets"] == ["AK"]
    assert found["comparisons"][0]["classes"] == ("AK",)
    assert any("is taken over AK: the other targets have no image" in note for note in found["notes"])
    none = evaluate_on(run, "folder", tmp_path / "other", {}, {"AK": ""})
    assert none["comparisons"] == []
    assert any(note.startswith("Nothing is compared") for note in none["notes"])
    assert none["fits"][0]["scores"]["num_images"] == 10


def test_other_data_that_were_generated_or_are_broken_are_told_and_not_scored(run: Path, tmp_path: Path):
    images = [(f"NV/{n}.png", encoded(fresh("NV", 300 + n))) for n in range(4)]
    other = write_folder(tmp_path / "other", [*images, ("AK/broken.png", b"nothing"), ("AK/1.png", images[0][1])])
    samples.write(other / "AK" / "drawn.png", fresh("AK", 310), {"origin": "dcgan-0-abc"})
    found = evaluate_on(run, "folder", other, {}, {})
    assert found["unusable"]["AK/drawn.png"] == "generated image: drawn by dcgan-0-abc"
    said = "4 images cannot be used: two labels on one image 2, unreadable image 1, generated image 1."
    assert said in found["notes"]
    assert found["num_images"] == 3


def test_what_the_run_was_trained_on_cannot_be_scored_whole(run: Path, tmp_path: Path):
    """The study's own data again: only its test part is left, and that is said. In folds nothing is."""
    found = evaluate_on(run, "phantom", None, RECIPE["data"]["options"], {})
    test = data.load(run)[1].split(0).part(Catalog.load(run / "catalog.parquet"), "test")
    assert found["num_images"] == found["overlap"]["num_in_test"] == len(test)
    Small(RECIPE | {"split": {"scheme": "folds", "num_folds": 3, "validation": 0.2}}, tmp_path / "folds").collect()
    with pytest.raises(DataError, match="No image of phantom is left to score"):
        evaluate_on(tmp_path / "folds", "phantom", None, RECIPE["data"]["options"], {})
    scored = evaluate_on(tmp_path / "folds", "phantom", None, OTHER, {})
    assert scored["num_images"] == 160
    assert scored["comparisons"][0]["scheme"] == "holdout"
    assert any("share training images" in note for note in scored["notes"])


def test_unfinished_runs_are_refused(copy: Path, tmp_path: Path):
    with pytest.raises(RunError, match="no run folder"):
        evaluate_on(tmp_path, "phantom", None, OTHER, {})
    (fit_of(copy / "classifiers", "none-1") / "done.json").unlink()
    with pytest.raises(RunError, match=r"none-1-\w+ is not finished"):
        evaluate_on(copy, "phantom", None, OTHER, {})
    (copy / "results.json").unlink()
    with pytest.raises(RunError, match=r"no results\.json"):
        evaluate_on(copy, "phantom", None, OTHER, {})


def test_classifiers_of_another_split_are_refused(copy: Path):
    """The recipe was changed and not run to its end: the parts in the folder are not those that trained."""
    data.prepare(recipe.parse(RECIPE | {"split": {"validation": 0.2, "test": 0.3, "seed": 1}}), copy)
    with pytest.raises(LeakError, match="trained on another split"):
        evaluate_on(copy, "phantom", None, OTHER, {})


def test_what_is_said_is_at_the_operating_point_of_the_study(copy: Path, other: dict[str, Any]):
    prior = np.log(np.arange(1, 9) / 36)
    adjusted = {"strength": 1.5, "log_prior": prior.tolist()}
    view = fit_of(copy / "classifiers", "none-1") / "view.json"
    runs.write_json(view, {**runs.read_json(view), **adjusted})
    with pytest.raises(LeakError, match=r"view\.json is not the file that was written there"):
        evaluate_on(copy, "phantom", None, OTHER, {})
    done = view.with_name("done.json")
    runs.write_json(done, {**runs.read_json(done), "files": runs.file_digests(view.parent)})
    found = evaluate_on(copy, "phantom", None, OTHER, {})
    for name in ("none-1", "none-0"):
        one, two = (Predictions.load(fit_of(Path(f["folder"]), name)) for f in (found, other))
        assert (one.logits == two.logits).all()
        own = runs.read_json(fit_of(copy / "classifiers", name) / "view.json")
        assert (one.predicted == (one.logits - own["strength"] * np.array(own["log_prior"])).argmax(1)).all()
        assert (one.predicted == two.predicted).all() == (name == "none-0")
    of_fit = next(fit for fit in found["fits"] if (fit["arm"], fit["trial"]) == ("none", 1))
    one = Predictions.load(fit_of(Path(found["folder"]), "none-1"))
    assert (
        of_fit["scores"]["accuracy"]
        == (one.predicted == one.labels).mean()
        != (one.logits.argmax(1) == one.labels).mean()
    )


@pytest.mark.real_data
@pytest.mark.slow
def test_ham10000_is_found_in_isic2019(real_data: Path, tmp_path: Path):
    """The photographs of HAM10000 at 200 px in ISIC-2019 at 84 px: by name and lesion, and by the pictures alone."""
    isic = isic2019.read(real_data / "isic2019-84px", isic2019.Config())
    ham = ham10000.read(real_data / "ham10000-200px", ham10000.Config())
    there = sorted(set(isic.images) & set(ham.images))
    assert len(there) > 5000
    rng = np.random.default_rng(0)
    shared, absent = np.split(rng.permutation(np.array(there, object))[:500], [250])
    elsewhere = rng.permutation(isic.images[~np.isin(isic.images, ham.images)])[:350]
    ours_catalog = isic.only(image=[*shared, *elsewhere])
    theirs_catalog = ham.only(image=[*shared, *absent])
    ours, theirs = (
        Shown.of(catalog, pixel_cache.build(catalog, (), "squash", tmp_path))
        for catalog in (ours_catalog, theirs_catalog)
    )
    table, notes = overlap.find(theirs, ours)
    assert notes == ()
    assert set(shared) <= set(table["image"])
    lesions = set(ours_catalog.table["lesion"]) - {""}
    mates = set(theirs_catalog.images[theirs_catalog.table["lesion"].isin(lesions)])
    assert set(table["image"]) >= mates
    assert not set(table["same_as"]) & set(elsewhere)
    nameless = theirs_catalog.with_columns(image="x" + theirs_catalog.table["image"], lesion="")
    seen, _ = overlap.find(replace(theirs, catalog=nameless), ours)
    assert set(seen["why"]) == {"near-duplicate"}
    right = seen["image"].str[1:] == seen["same_as"]
    assert right.mean() > 0.98
    assert len({image[1:] for image in seen["image"]} & set(shared)) > 0.9 * len(shared)
