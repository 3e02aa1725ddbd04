"""Fidelity in a study: generators are chosen on the validation part, scored on the test part, and shown."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moulage import openings, runs
from moulage import recipe as recipes
from moulage.errors import DataError, LeakError, RecipeError
from moulage.image_folders import score_folders
from moulage.recipe import merge
from moulage.report import run_files
from moulage.report.page import render
from moulage.report.sections import fidelity, methods
from moulage.stages import witness
from moulage.stages.fidelity import FIRST_SEED, SHOWN_PAIRS
from moulage.stages.plan import plan
from moulage.stages.stage import Context
from pictures import write_pictures
from recipes import SCRATCH, phantom_recipe, tiny_gan
from small_study import Small

pytestmark = pytest.mark.slow

RECIPE = phantom_recipe(
    data={"options": {"num_images": 420}},
    fidelity={"num_images": 48, "judge_images": 16, "features": {"backbone": SCRATCH}},
    generators={
        "gan": tiny_gan("NV", "AK", steps=12, batch_size=8, preview_every=4, checkpoint_minutes=0),
        "noise": {"plugin": "noise", "classes": ["AK"], "size": 32},
    },
    arms={
        "gan": {"balance": "synthesize", "generator": "gan", "add": {"AK": 4}},
        "noise": {"balance": "synthesize", "generator": "noise", "like": "gan"},
    },
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Small:
    small = Small(RECIPE, tmp_path_factory.mktemp("fidelity"))
    small.collect()
    return small


def test_only_what_learns_is_scored(finished: Small):
    assert [stage.name for stage in finished.stages if stage.kind == "fidelity"] == ["gan"]
    assert finished.stage("generator", "gan").judge
    assert not finished.stage("generator", "noise").judge


def test_scoring_on_test_images_opens_the_test_part(finished: Small):
    entries = [entry for entry in openings.history(finished.run) if entry["event"] == openings.OPENED]
    assert (entries[0]["by"], entries[0]["what"]) == ("fidelity", finished.stage("fidelity", "gan").folder)
    assert [entry["by"] for entry in entries].count("fidelity") == 1


def test_a_fit_is_judged_on_validation_images_and_says_so(finished: Small):
    folder = finished.run / finished.stage("generator", "gan").folder
    judged = {record["step"]: record["kid_NV"] for record in runs.read_log(folder) if "kid" in record}
    assert list(judged) == [4, 8, 12]
    assert all(np.isfinite(list(judged.values())))
    record = runs.read_json(folder / "witness.json")
    assert record["chosen_on"]["part"] == "validation"
    finished.check()


def test_a_fit_chosen_on_the_test_part_is_a_leak(finished: Small):
    digest = witness.names_digest(finished.part("test").images)
    for part in ("validation", "test"):
        said = finished.record(finished.stage("generator", "gan"), chosen_on={"part": part, "digest": digest})
        with said, pytest.raises(LeakError, match="choice"):
            finished.check()


def test_scores_stand_beside_real_images_and_copies(finished: Small):
    found = runs.read_json(finished.run / finished.stage("fidelity", "gan").folder / "fidelity.json")
    assert list(found["classes"]) == ["NV"]
    assert "40 held-out images are needed" in found["too_few"]["AK"]
    of = found["classes"]["NV"]
    test = finished.prepared.split(0).part(finished.prepared.catalog, "test").only(label="NV")
    assert (of["num_generated"], of["num_held_out"]) == (48, len(test))
    assert of["generated"]["kid"] > of["floor"]["kid"]
    assert of["copies"]["near_copies"] == 1.0
    assert of["generated"]["near_copies"] < 0.2
    assert found["features"].startswith("test_resnet")


def test_the_drawn_images_are_others_than_the_arms_add(finished: Small):
    samples = finished.stage("samples", "gan")
    assert samples.first_seed + sum(samples.counts.values()) < FIRST_SEED


def numbers_of(found: object, path: str = "") -> dict[str, object]:
    """Every leaf of a nested result under its path."""
    if isinstance(found, dict):
        return {key: leaf for name, part in found.items() for key, leaf in numbers_of(part, f"{path}/{name}").items()}
    if isinstance(found, list):
        return {key: leaf for row, part in enumerate(found) for key, leaf in numbers_of(part, f"{path}/{row}").items()}
    return {path: found}


def test_scoring_twice_gives_the_same(finished: Small):
    """The same draws and the same real images; features may differ in the last bits of float32 between two passes."""
    stage = finished.stage("fidelity", "gan")
    path = finished.run / stage.folder / "fidelity.json"
    before = numbers_of(json.loads(path.read_text()))
    stage.run(Context(finished.run, finished.prepared))
    again = numbers_of(json.loads(path.read_text()))
    assert again.keys() == before.keys()
    for key, value in before.items():
        assert again[key] == (pytest.approx(value, rel=1e-5, abs=1e-8) if isinstance(value, float) else value), key


def test_the_report_shows_scores_and_closest_pairs(finished: Small):
    run = run_files.read(finished.run)
    page = render(run, ["fidelity"])  # draws its figure
    assert "How true the generated images are" in page
    assert "AK is not judged: " in page
    assert "40 held-out images are needed" in page
    assert (finished.run / "figures" / "fidelity.svg").exists()
    shown = fidelity.show(run)
    assert shown is not None
    [made] = shown["generators"]
    assert made["first"].name == "gan"
    [of] = made["classes"].values()
    assert [title for _, title, _ in of["rows"]] == list(fidelity.SETS.values())
    kid = run.results.fidelity[0].classes["NV"].generated.kid
    assert of["rows"][0][2][0].startswith(f"{kid:.4f} [")
    assert len(of["pairs"]) == SHOWN_PAIRS
    distances = [pair["distance"] for pair in of["pairs"]]
    assert distances == sorted(distances)


def test_numbers_without_any_are_not_made_up(finished: Small):
    [made] = run_files.read(finished.run).results.fidelity
    of = made.classes["NV"]
    assert of.generated is not None
    nothing = of.model_copy(update={"generated": replace(of.generated, data_copying=None)})
    without = made.model_copy(update={"classes": {"NV": nothing}})
    assert fidelity.cell([without], "NV", "generated", "data_copying") == "–"


def test_fidelity_can_be_left_out(finished: Small):
    recipe = recipes.parse(merge(RECIPE, {"fidelity": {"num_images": 0, "judge_images": 0}}))
    stages = plan(recipe, finished.prepared)
    assert not [stage for stage in stages if stage.kind == "fidelity"]
    assert not any(stage.judge for stage in stages if stage.kind == "generator")


def test_wrong_feature_options_are_refused_when_planning(finished: Small):
    wrong = merge(RECIPE, {"fidelity": {"features": {"network": "vgg"}}})
    with pytest.raises(RecipeError, match=r"fidelity\.features"):
        plan(recipes.parse(wrong), finished.prepared)


def write_folder(folder: Path, num: int, seed: int, classes: tuple[str, ...] = ("AK", "NV")) -> Path:
    bases = iter(np.random.default_rng(seed).integers(0, 256, (len(classes) * num, 4, 4, 3)).astype(np.uint8))
    names = [f"{name}/{seed}-{k}-{i}.png" for k, name in enumerate(classes) for i in range(num)]
    return write_pictures(
        folder, {name: Image.fromarray(next(bases)).resize((32, 32), Image.Resampling.BICUBIC) for name in names}
    )


def test_folders_of_any_generator_can_be_scored(tmp_path: Path):
    sets = [write_folder(tmp_path / name, 44, seed) for seed, name in enumerate(("made", "train", "real"))]
    features = {"backbone": SCRATCH}
    found = score_folders(*sets, 32, features)
    assert set(found["classes"]) == {"AK", "NV"}
    assert found["classes"]["AK"]["generated"]["near_copies"] < 0.2
    copied = score_folders(sets[1], sets[1], sets[2], 32, features)
    assert copied["classes"]["AK"]["generated"]["near_copies"] == 1.0
    with pytest.raises(LeakError):
        score_folders(sets[0], sets[1], sets[1], 32, features)
    other = write_folder(tmp_path / "other", 5, 9, ("BCC", "DF"))
    with pytest.raises(DataError, match="no class in common"):
        score_folders(other, *sets[1:], 32, features)


def test_the_methods_say_how_images_were_scored_and_chosen(finished: Small):
    text = methods.text(run_files.read(finished.run).results)
    assert "48 further images of each class were scored against the real images of the test part" in text
    assert "test_resnet" in text
    assert "Demystifying MMD GANs" in text


def test_the_verb_scores_folders_and_says_what_is_missing(tmp_path: Path, call):
    sets = [write_folder(tmp_path / name, 5, seed) for seed, name in enumerate(("made", "train", "real"))]
    done = call("fidelity", sets[0], "--train", sets[1], "--real", sets[2], "--size", 32)
    assert done.code == 0
    assert "AK is not judged: 40 generated images are needed and there are 5" in done.out
    found = json.loads(call("fidelity", sets[0], "--train", sets[1], "--real", sets[2], "--json").out)
    assert set(found["too_few"]) == {"AK", "NV"}
    assert not found["classes"]
    wrong = call("fidelity", tmp_path / "nothing", "--train", sets[1], "--real", sets[2])
    assert wrong.code == 1
    assert "nothing" in wrong.err
