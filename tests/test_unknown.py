"""Classes that a study leaves unknown: nothing learns them, and what tells them apart is scored by the formulas."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score

from fake_run import make_results
from moulage import contracts, runs
from moulage import recipe as recipes
from moulage.data import generated, images, pixels, samples
from moulage.data.reader import Reader
from moulage.errors import DataError, RecipeError
from moulage.evaluation import unknown
from moulage.evaluation.predictions import Predictions
from moulage.finished.run import Finished
from moulage.finished.unknown import SCORES, _unknown_images, score_unknown
from moulage.recipe import merge
from moulage.stages import data
from recipes import phantom_recipe
from small_study import Small


def test_scores_of_logits_are_the_formulas():
    logits = np.random.default_rng(0).normal(size=(20, 4)) * 3
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert unknown.of_logits(logits, "max_softmax") == pytest.approx(1 - p.max(1))
    assert unknown.of_logits(logits, "entropy") == pytest.approx(stats.entropy(p, axis=1))
    assert unknown.of_logits(logits, "energy") == pytest.approx(-np.log(np.exp(logits).sum(1)))
    assert np.isfinite(unknown.of_logits(1000 * logits, "energy")).all()
    with pytest.raises(RecipeError, match="energy"):
        unknown.of_logits(logits, "enrgy")


def test_scores_of_features_are_the_formulas():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 200)
    train = rng.normal(size=(200, 5)) + 3 * np.eye(3, 5)[labels]
    features = rng.normal(size=(30, 5)) * 2
    found = unknown.of_features(train, labels, features)
    unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (features, train)]
    assert found["nearest"] == pytest.approx(np.sort(cdist(*unit), axis=1)[:, 9], abs=1e-3)
    means = np.stack([train[labels == k].mean(0) for k in range(3)])
    inverse = np.linalg.inv(LedoitWolf(assume_centered=True).fit(train - means[labels]).covariance_)
    by_hand = cdist(features, means, "mahalanobis", VI=inverse).min(1) ** 2
    assert found["mahalanobis"] == pytest.approx(by_hand)
    with pytest.raises(DataError, match="too few"):
        unknown.of_features(train[:10], labels[:10], features)


def test_a_class_far_away_is_found_by_features():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, 300)
    train = rng.normal(size=(300, 8)) + 6 * np.eye(2, 8)[labels]
    known, strange = train[:100] + 0.1 * rng.normal(size=(100, 8)), rng.normal(size=(40, 8)) + 6 * np.eye(8)[5]
    for name in unknown.OF_FEATURES:
        scores = [unknown.of_features(train, labels, f)[name] for f in (known, strange)]
        groups = [np.arange(len(s)) for s in scores]
        found = unknown.detection(name, *scores, *groups, rng)
        assert found.auroc > 0.95
        assert found.false_positives < 0.2


def test_the_area_equals_scikit_learns_and_ties_count_half():
    rng = np.random.default_rng(3)
    known, strange = rng.integers(0, 6, 80).astype(float), rng.integers(2, 9, 50).astype(float)
    found = unknown.detection("x", known, strange, np.arange(80), np.arange(50), rng)
    expected = roc_auc_score(np.repeat([0, 1], [80, 50]), np.concatenate([known, strange]))
    assert found.auroc == pytest.approx(expected)
    assert found.low < expected < found.high
    threshold = np.sort(strange)[2]  # 95 % of 50 are found from the third smallest on
    assert found.false_positives == pytest.approx((known >= threshold).mean())


def test_lesions_with_many_images_widen_the_interval():
    rng = np.random.default_rng(4)
    known, strange = rng.normal(size=200), np.repeat(rng.normal(0.7, 1, 10), 10)
    alone = unknown.detection("x", known, strange, np.arange(200), np.arange(100), np.random.default_rng(0))
    grouped = unknown.detection("x", known, strange, np.arange(200), np.repeat(np.arange(10), 10), rng)
    assert grouped.high - grouped.low > 1.5 * (alone.high - alone.low)


def test_the_share_of_unknown_rises_from_the_quantile_on():
    usual = np.arange(100.0)
    found = unknown.unknown_share(usual, np.array([0, 89, 90.5, 95.5, 200]), 0.1)
    assert found.tolist() == pytest.approx([0, 0, 0.1, 0.6, 1])


def test_nothing_to_tell_apart_is_refused():
    with pytest.raises(DataError, match="0 unknown"):
        unknown.detection("x", np.ones(3), np.ones(0), np.arange(3), np.arange(0), np.random.default_rng())


RECIPE = phantom_recipe(
    data={"options": {"num_images": 240}, "unknown": ["VASC"]},
    arms={"duplicates": {"balance": "duplicates", "add": {"AK": 3}}},
)
OPTIONS = {"probe": {}, "finetune": {"epochs": 1, "batch_size": 32}}


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in OPTIONS])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("unknown")
    classifier = {"plugin": request.param, "options": OPTIONS[request.param]}
    Small(merge(RECIPE, {"classifier": classifier}), folder).collect()
    return folder


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


def test_scores_are_those_of_the_saved_predictions(run: Path):
    found = score_unknown(run, device="cpu")
    [fit] = [fit for fit in runs.read_json(run / "results.json")["fits"] if fit["arm"] == "none"]
    table = pd.read_parquet(run / "unknown" / found["fits"][0]["scores"])
    test = Predictions.load(run / fit["folder"] / "test.parquet")
    known = table[~table["unknown"]]
    assert known["image"].tolist() == test.images.tolist()
    assert known["energy"].to_numpy() == pytest.approx(unknown.of_logits(test.logits, "energy"))


def test_a_second_call_reads_what_the_first_has_kept(run: Path):
    first = score_unknown(run, device="cpu")
    before = {path: path.stat().st_mtime_ns for path in (run / "unknown").glob("*.parquet")}
    assert score_unknown(run, device="cpu") == first
    assert {path: path.stat().st_mtime_ns for path in (run / "unknown").glob("*.parquet")} == before


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


@pytest.mark.parametrize("kind", ["as it is", "mirrored"])
def test_copies_of_known_images_are_not_unknown(tmp_path: Path, kind: str):
    """A folder whose unknown class holds copies of images of a known one, under other names."""
    source = contracts.source("phantom")
    drawn = source.read(None, source.configure({"num_images": 160, "size": 64, "min_lesions": 8}))
    with Reader() as reader:
        for name, label, place in drawn.table[["image", "label", "location"]].itertuples(index=False):
            (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
            shown = images.decode(reader.bytes(drawn.resolve(place)), 64)
            Image.fromarray(shown).save(tmp_path / "data" / label / f"{name}.png")
    own = len(list((tmp_path / "data" / "VASC").iterdir()))
    for number, path in enumerate(sorted((tmp_path / "data" / "NV").iterdir())[:12]):
        shown = Image.open(path)
        copy = shown if kind == "as it is" else shown.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        copy.save(tmp_path / "data" / "VASC" / f"copy{number}.png")
    for name, number in (("marked", 1), ("stripped", 2)):
        shown = np.random.default_rng(number).integers(0, 256, (40, 40, 3), np.uint8)
        facts = {"origin": "gan", "class": "VASC", "seed": number, "split_digest": "s"}
        samples.write(tmp_path / "drawn" / "VASC" / f"{name}.png", shown, facts)
    shutil.copy(tmp_path / "drawn" / "VASC" / "marked.png", tmp_path / "data" / "VASC")
    Image.open(tmp_path / "drawn" / "VASC" / "stripped.png").save(tmp_path / "data" / "VASC" / "stripped.png")
    folder = contracts.source("folder")
    known = folder.read(tmp_path / "drawn", folder.configure({}))
    pixels.build(known, (), "squash", runs.cache_folder() / generated.DRAWN)
    recipe = recipes.parse(
        {
            "study": {"name": "copies"},
            "data": {"source": "folder", "path": str(tmp_path / "data"), "sizes": [32], "unknown": ["VASC"]},
            "classifier": {"plugin": "probe", "options": {"size": 32}},
        }
    )
    prepared = data.prepare(recipe, tmp_path / "run")
    done = Finished(tmp_path / "run", recipe, prepared, make_results(), ())
    kept, _, left_out = _unknown_images(done, runs.no_progress)
    assert len(kept) == own
    said = {"cannot be read, or generated": 2, "photograph of a known class too, or of its lesion": 12}
    assert left_out == said
