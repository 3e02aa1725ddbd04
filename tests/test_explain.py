"""`moulage explain`: which images are chosen, that it resumes, what the report shows of it, and its refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from moulage import runs
from moulage.classifiers import probe
from moulage.classifiers._attention import GradCam
from moulage.errors import RecipeError, RunError
from moulage.evaluation.predictions import Predictions
from moulage.finished.choosing import choose
from moulage.finished.explain import NUM_NEIGHBOURS, explain, overlay
from moulage.report import page, run_files
from recipes import SCRATCH, SLOW, phantom_recipe, tiny_gan
from small_study import Small

RECIPE = phantom_recipe(
    study={"num_trials": 2},
    data={"options": {"num_images": 240}},
    generators={"gan": {**tiny_gan("AK", steps=2), "refit": "study"}},
    fidelity={"num_images": 0, "judge_images": 0},
    classifier={"options": {"penalty": 0.1, "backbone": {**SCRATCH, "input_size": 64}}},
    arms={
        "softmax": {"balance": "balanced_softmax"},
        "gan": {"balance": "synthesize", "generator": "gan", "add": {"AK": 5}},
    },
)


@pytest.fixture(scope="module", params=SLOW)
def run(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("explain")
    Small(RECIPE, folder).collect()
    return folder


@pytest.fixture(scope="module")
def found(run: Path) -> dict[str, Any]:
    return explain(run, num_images=3, device="cpu")


def page_of(run: Path) -> str:
    """The section alone: figures take long to draw."""
    return page.render(run_files.read(run), ["explanations"])


def predictions(run: Path, arm: str, trial: int) -> Predictions:
    [fit] = [fit for fit in runs.read_json(run / "results.json")["fits"] if (fit["arm"], fit["trial"]) == (arm, trial)]
    return Predictions.load(run / fit["folder"] / "test.parquet")


def test_the_synthetic_arm_stands_beside_the_one_that_adds_nothing(found):
    assert (found["arm"], found["against"], found["trial"]) == ("gan", "none", 0)
    assert [group["title"] for group in found["groups"]][-3:] == [
        "Most improved by gan",
        "Most worsened by gan",
        "At random",
    ]


def test_mistakes_are_the_surest_ones_a_lesion_each(run, found):
    own = predictions(run, "gan", 0)
    wrong = own.predicted != own.labels
    sure = np.where(wrong, own.probabilities[np.arange(len(own)), own.predicted], -1)
    [group] = [group for group in found["groups"] if group["title"].endswith("all classes")]
    surest = own.images[sure.argmax()]
    assert group["images"][0] == surest
    lesions = [own.groups[own.images == name][0] for name in group["images"]]
    assert len(set(lesions)) == len(lesions) == 3
    assert all(wrong[own.images == name][0] for name in group["images"])
    [record] = [record for record in found["images"] if record["image"] == surest]
    assert record["arms"][0]["probability"] == pytest.approx(sure.max())
    for group in found["groups"]:
        if group["title"].endswith(": AK"):
            assert {own.classes[own.labels[own.images == name][0]] for name in group["images"]} == {"AK"}


def test_improved_images_are_those_whose_true_class_gained_most_over_the_trials(run, found):
    changes = []
    for trial in (0, 1):
        gan, none = predictions(run, "gan", trial), predictions(run, "none", trial)
        rows = np.arange(len(gan))
        changes.append(np.log(gan.probabilities[rows, gan.labels]) - np.log(none.probabilities[rows, none.labels]))
    mean = np.mean(changes, axis=0)
    names = predictions(run, "gan", 0).images
    improved, worsened = (group for group in found["groups"] if group["beside"])
    assert improved["images"][0] == names[mean.argmax()]
    assert worsened["images"][0] == names[mean.argmin()]
    assert found["change"] == {"num_fits": 2, "raised": int((mean > 0).sum()), "lowered": int((mean < 0).sum())}
    assert "mean of 2 fits" in improved["how"]
    of = {record["image"]: record for record in found["images"]}
    assert of[improved["images"][0]]["change"] == pytest.approx(mean.max())


def test_changed_images_stand_beside_the_nearest_generated_ones(run, found):
    changed = {name for group in found["groups"] if group["beside"] for name in group["images"]}
    for record in found["images"]:
        distances = [near["distance"] for near in record["neighbours"]]
        assert len(distances) == (NUM_NEIGHBOURS if record["image"] in changed else 0)
        assert distances == sorted(distances)
        assert {near["label"] for near in record["neighbours"]} <= {"AK"}


def test_every_picture_is_there_and_maps_are_of_the_true_and_the_predicted_class(run, found):
    folder = run / found["folder"]
    for record in found["images"]:
        with Image.open(folder / record["file"]) as picture:
            assert picture.size == (32, 32)
        for by in record["arms"]:
            assert [drawn["label"] for drawn in by["maps"]] == list(dict.fromkeys([record["label"], by["predicted"]]))
            assert all((folder / drawn["file"]).is_file() for drawn in by["maps"])
            assert set(by["checks"]) == {"head", "network"}
    for checks in found["checks"].values():
        assert all(-1 <= check["mean"] <= 1 and check["num_maps"] > 3 for check in checks.values())
    assert found["cells"] == {"gan": 2, "none": 2}


def test_a_second_call_draws_nothing_again_and_an_interrupted_one_goes_on(run, found, monkeypatch):
    folder = run / found["folder"]
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(probe.Classifier, "load", None)
        assert explain(run, num_images=3, device="cpu") == found
    gone = folder / "001.json"
    gone.unlink()
    again = explain(run, num_images=3, device="cpu")
    assert again["images"][0] == found["images"][0]
    for key in ("image", "change", "file"):
        assert again["images"][1][key] == found["images"][1][key]
    assert again["images"][1]["arms"][0]["maps"] == found["images"][1]["arms"][0]["maps"]
    changed = {path.name for path, before in times.items() if path.stat().st_mtime_ns != before}
    assert "001.json" in changed
    assert not {"000.json", "002.json", "000.png"} & changed


def test_the_report_shows_each_explanation_and_passes_over_those_of_other_classifiers(run, found):
    text = page_of(run)
    assert 'id="explanations"' in text
    assert "A map is no proof." in text
    for group in found["groups"]:
        assert group["how"] in text
    assert f"map of gan for {found['images'][0]['label']} over {found['images'][0]['image']}" in text
    summary = run / "explanations" / "summary.json"
    before = summary.read_text(encoding="utf-8")
    other = explain(run, arm="softmax", against="gan", trial=1, num_images=1, device="cpu")
    assert other["change"]["num_fits"] == 2
    assert [record["arm"] for record in runs.read_json(summary)["explanations"]] == ["gan", "softmax"]
    assert "softmax beside gan, trial 1" in page_of(run)
    stale = json.loads(before)
    stale["explanations"][0]["fits"] = ["classifiers/gone"]
    runs.write_json(summary, stale)
    assert 'id="explanations"' not in page_of(run)
    summary.write_text(before, encoding="utf-8")
    (run / found["folder"] / "000.png").rename(run / "aside.png")
    with pytest.raises(RunError, match=r"000\.png cannot be read"):
        page_of(run)
    (run / "aside.png").rename(run / found["folder"] / "000.png")


def test_a_reference_alone_is_explained_without_changes(run):
    alone = explain(run, arm="none", num_images=2, device="cpu")
    assert alone["against"] == ""
    assert not any(group["beside"] for group in alone["groups"])
    assert {record["change"] for record in alone["images"]} == {None}


@pytest.mark.parametrize("why", ["no method", "refused"])
def test_a_classifier_without_maps_is_explained_in_words(run, monkeypatch, why):
    def refuse(*_: object, **__: object) -> None:
        raise RecipeError("No map.", "None at all.")

    if why == "refused":
        monkeypatch.setattr(GradCam, "attention", refuse)
    else:
        monkeypatch.delattr(GradCam, "attention")
    bare = explain(run, arm="softmax", trial=0 if why == "refused" else 1, num_images=1, device="cpu")
    assert ("No map. None at all." if why == "refused" else "probe") in bare["no_maps"]
    assert not any(by["maps"] for record in bare["images"] for by in record["arms"])
    assert bare["no_maps"] in page_of(run).replace("&#39;", "'")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"arm": "gna"}, 'Did you mean "gan"'),
        ({"against": "non"}, 'Did you mean "none"'),
        ({"arm": "none", "against": "none"}, "with itself"),
        ({"trial": 7}, "no trial 7"),
        ({"num_images": 0}, "1 to 24"),
    ],
)
def test_wrong_wishes_are_refused(run, options, says):
    with pytest.raises(RecipeError) as caught:
        explain(run, **options)
    assert says in str(caught.value)


def test_results_of_another_recipe_are_refused(run):
    text = (run / "recipe.toml").read_text(encoding="utf-8")
    (run / "recipe.toml").write_text(text.replace("penalty = 0.1", "penalty = 0.2"), encoding="utf-8")
    with pytest.raises(RunError, match="another recipe"):
        explain(run)
    (run / "recipe.toml").write_text(text, encoding="utf-8")


def test_an_unfinished_study_is_refused(tmp_path):
    with pytest.raises(RunError, match="no run folder"):
        explain(tmp_path)


def test_the_verb_says_what_it_chose(run, found, call, monkeypatch):
    monkeypatch.setattr("moulage.report.write", lambda run: run / "report.html")  # its figures take long to draw
    result = call("explain", str(run), "--images", "3", "--device", "cpu")
    assert result.code == 0, result.err
    assert "At random: " in result.out
    assert "report.html" in result.out


def test_groups_are_chosen_by_probability_and_change_one_image_of_a_lesion():
    table = pd.DataFrame(
        {
            "group": ["1", "1", "2", "3", "4"],
            "label": ["AK", "AK", "AK", "NV", "NV"],
            "predicted:gan": ["NV", "NV", "NV", "NV", "AK"],
            "of_predicted:gan": [0.6, 0.9, 0.7, 0.99, 0.8],
            "change": [-0.1, -0.3, 0.2, 0.5, 0.0],
        },
        index=list("abcde"),
    )
    ak, every, raised, lowered, drawn = choose(table, "gan", "none", 1, ["AK", "BCC"], 2, seed=0)
    assert ak.images == ["b", "c"]
    assert every.images == ["b", "e"]
    assert raised.images == ["d", "c"]
    assert lowered.images == ["b"]
    assert [raised.beside, lowered.beside, ak.beside, drawn.beside] == [True, True, False, False]
    assert "fits" not in raised.how
    assert len(drawn.images) == 2
    assert drawn == choose(table, "gan", "none", 1, ["AK", "BCC"], 2, seed=0)[-1]
    assert any(choose(table, "gan", "none", 1, [], 2, seed=k)[-1] != drawn for k in range(1, 9))


def test_an_overlay_shows_what_speaks_for_a_class_alone():
    image = np.full((4, 4, 3), 200, np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0], heat[3, 3] = 0.5, -1
    drawn = overlay(image, heat)
    assert drawn.dtype == np.uint8
    assert (drawn[3, 3] == drawn[1, 1]).all()
    assert drawn[0, 0, 1] > drawn[1, 1, 1]
