"""What a study found, as types: read back as it was written, and strictly."""

import json
from pathlib import Path

import numpy as np
import pytest

import moulage
from fake_run import WIDE, filled, make_results
from moulage import results, runs
from moulage.errors import RunError
from moulage.evaluation import fidelity
from moulage.results import Power, pairs
from moulage.results.explanations import Explanations
from moulage.results.generated import FidelityRun
from moulage.results.pairs import ShownPair
from moulage.results.record import read


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    saved = make_results(arms=WIDE, folds=(2, 2))
    saved.save(tmp_path)
    loaded = moulage.load_results(tmp_path)
    assert loaded == saved
    assert loaded.comparisons[0].is_lower_better is False  # the type that compares, not a copy of it


def test_what_is_not_finite_is_written_as_null(tmp_path: Path) -> None:
    points = [(3, float("inf")), (5, float("nan")), (10, 0.1)]
    make_results().model_copy(update={"power": [filled(Power, by_trials=points)]}).save(tmp_path)
    text = (tmp_path / "results.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert "Infinity" not in text
    assert results.load(tmp_path).power[0].by_trials == [(3, None), (5, None), (10, 0.1)]


def test_a_study_that_is_not_finished_has_no_results(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no results\.json") as caught:
        results.load(tmp_path)
    assert "moulage study" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "format None"),
        ({"format": runs.FORMAT + 1}, f"format {runs.FORMAT + 1}; this moulage reads format {runs.FORMAT}"),
        ({"more": 1}, "results.json: more: Extra inputs"),
        ({"study": None}, "results.json: study: "),
        ({"controls": [{"arm": "a", "role": "null", "state": "behaves"}]}, "controls.0.text: Field required"),
        ({"trials": {"scheme": "folds"}}, "trials.num_folds: Field required"),
    ],
)
def test_a_broken_file_is_named_with_the_place(tmp_path: Path, change: str | dict, message: str) -> None:
    make_results().save(tmp_path)
    path = tmp_path / "results.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(change if isinstance(change, str) else json.dumps(values | change), encoding="utf-8")
    with pytest.raises(RunError, match=message) as caught:
        results.load(tmp_path)
    assert "results.json" in caught.value.message
    assert caught.value.hint


def test_pairs_and_explanations_are_as_strict(tmp_path: Path) -> None:
    pair = vars(filled(ShownPair))
    runs.write_json(tmp_path / "pairs.json", [pair])
    assert pairs.load(tmp_path) == [filled(ShownPair)]
    runs.write_json(tmp_path / "pairs.json", [pair | {"more": 1}])
    with pytest.raises(RunError, match=r"pairs\.json: 0\.more"):
        pairs.load(tmp_path)
    runs.write_json(tmp_path / "summary.json", {"format": runs.FORMAT, "explanations": [{"arm": "a"}]})
    with pytest.raises(RunError, match=r"summary\.json: explanations\.0\.against"):
        read(Explanations, tmp_path / "summary.json")


def test_fidelity_is_kept_as_it_was_judged() -> None:
    rng, sets = np.random.default_rng(0), []
    for first in (None, 0, 1000):
        groups = None if first is None else np.arange(60) + first
        pixels, features = rng.integers(0, 255, (60, 32, 32, 3), np.uint8), rng.normal(size=(60, 8))
        sets.append(fidelity.Images(pixels, features, np.zeros(60, np.int64), groups))
    judged = fidelity.judge(*sets, classes=("AK",), features="a network", rng=rng)
    made = filled(FidelityRun, **json.loads(json.dumps(judged.as_dict())))
    assert made.classes["AK"].generated == judged.classes["AK"].generated
    assert made.classes["AK"].near_copies is not None
    assert json.loads(made.model_dump_json())["classes"] == json.loads(json.dumps(judged.as_dict()))["classes"]
