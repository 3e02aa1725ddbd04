"""Where nothing can be written: one sentence before any work; and what only reads works there."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import permissions
from call_cli import Result
from moulage import recipe as recipes
from moulage.cli.studies import DEMO
from moulage.evaluation.predictions import Predictions
from pictures import write_pictures
from recipes import phantom_recipe, tiny_gan


def is_one_sentence(found: Result) -> bool | str:
    """Whether it ended with what is wrong and what to do, and nothing else; what it said where not."""
    assert found.code == 1, found.out
    assert "Traceback" not in found.err
    said = found.err[found.err.index("error: ") :]
    return (
        bool(re.fullmatch(r"error: .*(permission|Permission|cannot be written).*\n  \S.*\n", said, re.DOTALL)) or said
    )


def fit(name: str, seed: int = 0) -> str:
    labels = np.repeat([0, 1], 12)
    logits = np.eye(2)[labels] + np.random.default_rng(seed).normal(size=(24, 2))
    images = np.array([f"i{row}" for row in range(24)], object)
    Predictions(images, images, labels, logits, ("AK", "NV"), name, 0, "test", "d").save(Path(f"{name}.parquet"))
    return f"{name}.parquet"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes of thirty images each."""
    rng = np.random.default_rng(0)
    names = [f"{name}/{row}.png" for name in ("AK", "NV") for row in range(30)]
    return write_pictures(tmp_path / "data", {name: rng.integers(0, 256, (32, 32, 3), np.uint8) for name in names})


@pytest.mark.parametrize("place", ["", pytest.param("/new/run", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "verb",
    [
        "demo",
        f"study {DEMO}",
        "prepare --source folder --data data",
        "fit noise --source folder --data data --classes AK",
        "train probe --source folder --data data",
        "masks learn --source folder --data data",
        "compare a.parquet b.parquet",
    ],
)
def test_a_folder_for_results_that_cannot_be_written_is_refused_at_once(call, tmp_path, data, verb: str, place: str):
    fit("a"), fit("b", 1)
    (tmp_path / "locked").mkdir()
    with permissions.read_only(tmp_path / "locked"):
        found = call(*verb.split(), "--out", f"locked{place}")
    assert is_one_sentence(found) is True
    assert "locked" in found.err
    assert "auditing" not in found.err


def test_a_submission_and_a_cache_that_cannot_be_written(call, tmp_path, data, monkeypatch):
    (tmp_path / "locked").mkdir()
    with permissions.read_only(tmp_path / "locked"):
        assert is_one_sentence(call("challenge", "write", fit("a"), "--out", "locked/a.csv")) is True
        monkeypatch.setenv("MOULAGE_CACHE", str(tmp_path / "locked" / "cache"))
        assert is_one_sentence(call("prepare", "--source", "folder", "--data", data, "--out", "run")) is True


def test_data_that_can_only_be_read_are_enough(call, tmp_path, data):
    for name in ("a", "b"):
        pd.DataFrame({"image": range(6), "label": ["x", "y"] * 3, "logit_x": range(6), "logit_y": 2}).to_csv(
            data / f"{name}.csv", index=False
        )
    with permissions.read_only(data):
        for verb in (
            "prepare --source folder --data data --out run",
            "power --source folder --data data",
            "compare data/a.csv data/b.csv",
            "fidelity data --train data --real data",
        ):
            found = call(*verb.split())
            assert found.code == 0 or "are training images" in found.err, found.err  # they are the same folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two arms, one with drawn images, and a class left unknown."""
    from moulage.report import write
    from moulage.study import run_study

    values = phantom_recipe(
        data={"unknown": ["VASC"]},
        generators={"g": tiny_gan("AK", steps=2)},
        arms={"gan": {"balance": "synthesize", "generator": "g", "add": {"AK": 6}}},
    )
    folder = tmp_path_factory.mktemp("locked") / "run"
    run_study(recipes.parse(values), folder)
    write(folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_finished_run_can_be_read_where_it_cannot_be_written(call, finished: Path):
    [generator], (first, second) = finished.glob("generators/*"), sorted(finished.glob("classifiers/*"))
    reads = [
        ["evaluate", finished],
        ["evaluate", first / "test.parquet"],
        ["compare", first / "test.parquet", second / "test.parquet"],
        ["power", "--run", finished],
        ["ensemble", finished, "--method", "mean", "--out", "ensemble"],
        ["challenge", "write", first / "test.parquet", "--out", "submission.csv"],
        ["sample", generator, "--count", 1, "--out", "drawn"],
    ]
    writes = [
        ["report", finished],
        ["explain", finished, "--images", 1],
        ["unknown", finished],
        ["evaluate", finished, "--source", "phantom"],
        ["sample", generator, "--count", 2],
        ["study", finished / "recipe.toml", "--out", finished],
        ["run-stage", finished, first.name],
    ]
    with permissions.read_only(finished):
        for arguments in reads:
            found = call(*arguments)
            assert found.code == 0 or "nothing to plan with" in found.err, (arguments, found.err)  # of one fit an arm
        said = {arguments[0]: is_one_sentence(call(*arguments)) for arguments in writes}
    assert said == dict.fromkeys(said, True)
