"""Classes that a study leaves unknown: nothing learns them, and `moulage unknown` scores them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from call_cli import caller
from moulage import recipe as recipes
from moulage import runs
from moulage.errors import DataError, RecipeError
from moulage.evaluation import unknown
from moulage.finished.unknown import SCORES, score_unknown
from moulage.recipe import merge
from moulage.stages import data
from small_study import Small

RECIPE: dict[str, Any] = {
    "study": {"name": "small", "target_classes": ["AK"], "num_trials": 1, "logit_adjustment": True},
    "data": {"source": "phantom", "options": {"num_images": 240, "size": 32}, "unknown": ["VASC"]},
    "split": {"validation": 0.2, "test": 0.3},
    "classifier": {"plugin": "probe"},
    "arms": {"none": {"balance": "none"}, "duplicates": {"balance": "duplicates", "add": {"AK": 3}}},
}
SCRATCH = {"name": "test_resnet", "weights": "scratch"}
CLASSIFIERS: dict[str, dict[str, Any]] = {
    "probe": {"size": 32, "epochs": 3, "backbone": SCRATCH},
    "finetune": {"size": 32, "epochs": 1, "backbone": SCRATCH, "batch_size": 32},
}


@pytest.fixture(scope="module", params=["probe", "finetune"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("unknown")
    classifier = {"plugin": request.param, "options": CLASSIFIERS[request.param]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOULAGE_CACHE", str(folder / "cache"))
        Small(merge(RECIPE, {"classifier": classifier}), folder / "run").collect()
        yield folder / "run"


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
    from moulage.evaluation.predictions import Predictions

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
def test_the_verb_prints_a_table(run: Path, capsys, monkeypatch, tmp_path):
    result = caller(capsys, monkeypatch, tmp_path)("unknown", str(run))
    assert result.code == 0, result.err
    assert "mahalanobis" in result.out
    assert json.loads((run / "unknown" / "summary.json").read_text())["num_unknown"] > 0


def test_wrong_classes_are_refused():
    for classes, says in ((["VAC"], "no class of"), (["NV", "MEL", "BCC", "AK", "BKL", "DF", "VASC"], "leaves 1")):
        with pytest.raises(DataError, match=says):
            data.parted(recipes.parse(merge(RECIPE, {"data": {"unknown": classes}})))


def test_a_study_that_left_none_unknown_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    plain = {**RECIPE, "data": {k: v for k, v in RECIPE["data"].items() if k != "unknown"}}
    plain["classifier"] = {"plugin": "probe", "options": CLASSIFIERS["probe"]}
    monkeypatch.setenv("MOULAGE_CACHE", str(tmp_path / "cache"))
    data.prepare(recipes.parse(plain), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"data\.unknown"):
        score_unknown(tmp_path / "run", device="cpu")
