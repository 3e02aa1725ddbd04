"""Classes that a study leaves unknown: nothing learns them, and `moulage unknown` scores them."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from moulage import recipe as recipes
from moulage import runs
from moulage.errors import DataError, RecipeError
from moulage.evaluation import unknown
from moulage.evaluation.predictions import Predictions
from moulage.finished.unknown import SCORES, score_unknown
from moulage.recipe import merge
from moulage.stages import data
from recipes import phantom_recipe
from small_study import Small

RECIPE = phantom_recipe(
    study={"logit_adjustment": True},
    data={"options": {"num_images": 240}, "unknown": ["VASC"]},
    arms={"duplicates": {"balance": "duplicates", "add": {"AK": 3}}},
)
OPTIONS = {"probe": {"epochs": 3}, "finetune": {"epochs": 1, "batch_size": 32}}


@pytest.fixture(scope="module", params=["probe", "finetune"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("unknown")
    classifier = {"plugin": request.param, "options": OPTIONS[request.param]}
    Small(merge(RECIPE, {"classifier": classifier}), folder).collect()
    return folder


@pytest.mark.slow
def test_nothing_learns_an_unknown_class_and_every_score_is_given(run: Path):
    recipe, prepared = data.load(run)
    assert "VASC" not in prepared.catalog.classes
    assert "VASC" not in set(prepared.catalog.table["label"])
    _, strange = data.parted(recipe)
    said: list[tuple[int, int, str]] = []
    shutil.rmtree(run / "unknown", ignore_errors=True)  # nothing is said of scores that an earlier call has kept
    found = score_unknown(run, device="cpu", progress=lambda *told: said.append(told))
    assert said[-1][:2] == (said[-1][1],) * 2
    assert said[-1][2] == "images, classifier 2 of 2"
    assert found["classes"] == {"VASC": len(strange)}
    assert [fit["arm"] for fit in found["fits"]] == ["none", "duplicates"]
    for fit in found["fits"]:
        assert [row["score"] for row in fit["detections"]] == list(SCORES)
        assert all(0 <= row["low"] <= row["auroc"] <= row["high"] <= 1 for row in fit["detections"])
        table = pd.read_parquet(run / "unknown" / fit["scores"])
        assert set(table.loc[table["unknown"], "label"]) == {"VASC"}
        assert int((~table["unknown"]).sum()) == found["num_known"]
        assert found["means"][fit["arm"]]["entropy"]["auroc"] == pytest.approx(fit["detections"][1]["auroc"])


@pytest.mark.slow
def test_scores_are_those_of_the_saved_predictions(run: Path):
    found = score_unknown(run, device="cpu")
    [fit] = [fit for fit in runs.read_json(run / "results.json")["fits"] if fit["arm"] == "none"]
    table = pd.read_parquet(run / "unknown" / found["fits"][0]["scores"])
    test = Predictions.load(run / fit["folder"] / "test.parquet")
    known = table[~table["unknown"]]
    assert known["image"].tolist() == test.images.tolist()
    assert known["energy"].to_numpy() == pytest.approx(unknown.of_logits(test.logits, "energy"))


@pytest.mark.slow
def test_a_second_call_reads_what_the_first_has_kept(run: Path):
    first = score_unknown(run, device="cpu")
    before = {path: path.stat().st_mtime_ns for path in (run / "unknown").glob("*.parquet")}
    assert score_unknown(run, device="cpu") == first
    assert {path: path.stat().st_mtime_ns for path in (run / "unknown").glob("*.parquet")} == before


@pytest.mark.slow
def test_the_verb_prints_a_table(run: Path, call):
    result = call("unknown", str(run))
    assert result.code == 0, result.err
    assert "mahalanobis" in result.out
    assert json.loads((run / "unknown" / "summary.json").read_text())["num_unknown"] > 0


def test_wrong_classes_are_refused():
    for classes, says in ((["VAC"], "no class of"), (["NV", "MEL", "BCC", "AK", "BKL", "DF", "VASC"], "leaves 1")):
        with pytest.raises(DataError, match=says):
            data.parted(recipes.parse(merge(RECIPE, {"data": {"unknown": classes}})))


def test_a_study_that_left_none_unknown_says_what_to_do(tmp_path: Path):
    data.prepare(recipes.parse(phantom_recipe()), tmp_path)
    with pytest.raises(RecipeError, match=r"data\.unknown"):
        score_unknown(tmp_path, device="cpu")
