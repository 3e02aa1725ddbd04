"""Run folders that a disk, a hand or a stranger has changed: each verb ends well, or in one message.

Seeds are drawn from ``MOULAGE_SEED`` (0), ``MOULAGE_FUZZ`` says how many changes of each kind are tried (`make fuzz`).
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moulage import recipe as recipes
from recipes import phantom_recipe, tiny_gan

NUM_CHANGES = int(os.environ.get("MOULAGE_FUZZ", "20"))
FIRST_SEED = int(os.environ.get("MOULAGE_SEED", "0"))
WEIRD: list[Any] = [None, True, -1, 0, 10**30, 1e300, "", "x" * 300, "../../x", "\x00", [], [1], {}, {"a": 1}]
NUM_KILLS = 6
KINDS = (".json", ".jsonl", ".parquet", ".toml", ".npz", ".npy", ".safetensors")


def changed(path: Path, rng: random.Random) -> bytes:
    """The file's bytes with one fault in them: cut, emptied, some other bytes, or another value that is well formed."""
    data = path.read_bytes()
    kind = rng.choice(["cut", "empty", "bytes", "value", "value", "value", "value"])
    if kind == "value" and path.suffix == ".json":
        return other_value(json.loads(data), rng)
    if kind == "value" and path.suffix == ".parquet":
        return other_table(path, rng)
    if kind == "cut":
        return data[: rng.randrange(len(data) + 1)]
    if kind == "empty":
        return b""
    spoiled = bytearray(data)
    for _ in range(rng.choice([1, 3, 20])):
        if spoiled:
            spoiled[rng.randrange(len(spoiled))] = rng.choice([rng.randrange(256), *b'"[]{}=\n'])
    return bytes(spoiled)


def other_value(values: Any, rng: random.Random) -> bytes:
    """JSON with a value replaced, a key dropped or added."""
    places = list(inside(values)) or [()]
    *way, last = rng.choice(places) or (None,)
    if last is None:
        return json.dumps(rng.choice(WEIRD)).encode()
    holder = values
    for key in way:
        holder = holder[key]
    if isinstance(holder, dict) and rng.random() < 0.3:
        del holder[last]
    elif isinstance(holder, dict) and rng.random() < 0.1:
        holder["unknown"] = 1
    else:
        holder[last] = rng.choice(WEIRD)
    return json.dumps(values).encode()


def inside(values: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs = values.items() if isinstance(values, dict) else enumerate(values[:3]) if isinstance(values, list) else ()
    for key, value in pairs:
        yield (*at, key)
        yield from inside(value, (*at, key))


def other_table(path: Path, rng: random.Random) -> bytes:
    """A Parquet file without a column or its metadata, of other metadata, types or rows."""
    table = pq.read_table(path)
    kind = rng.choice(["column", "type", "metadata", "about", "about", "rows", "binary", "null", "twice"])
    place = rng.randrange(table.num_columns)
    name = table.column_names[place]
    if kind == "column":
        table = table.drop_columns([name])
    elif kind == "rows":
        table = table.slice(0, rng.choice([0, 1, table.num_rows - 1]))
    elif kind == "metadata":
        table = table.replace_schema_metadata({})
    elif kind == "twice":
        table = pa.concat_tables([table, table])
    elif kind == "about":
        meta = dict(table.schema.metadata or {})
        about = other_value(json.loads(meta.get(b"moulage", b"{}")), rng)
        table = table.replace_schema_metadata({**meta, b"moulage": about})
    else:
        n = table.num_rows
        column = {
            "type": pa.array(rng.choice([[1.5] * n, [True] * n, ["x"] * n, [[1]] * n])),
            "binary": pa.array([b"\xff\x00"] * n, pa.binary()),
            "null": pa.nulls(n),
        }[kind]
        table = table.set_column(place, name, column)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two arms, one with drawn images."""
    from moulage.report import write
    from moulage.study import run_study

    folder = tmp_path_factory.mktemp("fuzz") / "run"
    run_study(recipes.parse(VALUES), folder)
    write(folder)
    return folder


VALUES = phantom_recipe(
    generators={"g": tiny_gan("AK", steps=2)},
    arms={"gan": {"balance": "synthesize", "generator": "g", "add": {"AK": 6}}},
)


def verbs_of(run: Path, rng: random.Random) -> list[list[str]]:
    """Calls that read a run folder; the cheap ones more often."""
    [generator], (first, second) = run.glob("generators/*"), sorted(run.glob("classifiers/*"))
    quick = [
        ["report", run],
        ["evaluate", run],
        ["evaluate", first / "test.parquet"],
        ["compare", first / "test.parquet", second / "test.parquet", "--json"],
        ["ensemble", run, "--method", "mean", "--out", run.parent / "ensemble"],
        ["power", "--run", run],
        ["sample", generator, "--count", 1, "--out", run.parent / "drawn"],
        ["prepare", run / "recipe.toml", "--out", run],
        ["run-stage", run, first.name],
        ["challenge", "write", first / "test.parquet", "--out", run.parent / f"{rng.random()}.csv"],
        ["explain", run, "--images", 1],
    ]
    return [list(map(str, rng.choice(quick))), ["study", str(run / "recipe.toml"), "--out", str(run), "--workers", "1"]]


@pytest.mark.slow
@pytest.mark.timeout(36000)
@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + NUM_CHANGES))
def test_a_changed_run_folder_is_one_message(call: Callable[..., Any], finished: Path, tmp_path: Path, seed: int):
    rng = random.Random(seed)
    shutil.copytree(finished, tmp_path / "run")
    files = sorted(path for path in (tmp_path / "run").rglob("*") if path.suffix in KINDS)
    path = rng.choice(files)
    path.write_bytes(changed(path, rng))
    (tmp_path / "mine.txt").write_text("mine")
    for arguments in verbs_of(tmp_path / "run", rng)[:: rng.choice([1, -1, -1])]:
        found = call(*arguments)
        assert found.code in (0, 1), f"seed {seed}: {arguments} with {path}: {found.err}"
        assert found.code == 0 or "error:" in found.err, f"seed {seed}"
    assert (tmp_path / "mine.txt").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(36000)
@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + max(1, NUM_CHANGES // 20)))
def test_a_study_that_is_killed_goes_on_to_the_same_bytes(finished: Path, tmp_path: Path, seed: int):
    """Killed at random moments, without a chance to clean up, and called again until it ends."""
    rng, recipe = random.Random(seed), tmp_path / "recipe.toml"
    recipe.write_text(recipes.to_toml(recipes.parse(VALUES)), encoding="utf-8")
    command = [sys.executable, "-m", "moulage.cli", "study", recipe, "--out", tmp_path / "run", "--workers", "1"]
    times = [rng.uniform(2, 14) for _ in range(NUM_KILLS)]
    codes = [code_of(command, tmp_path, seconds) for seconds in (*times, None)]
    assert -signal.SIGKILL in codes, "one at least was killed"
    assert codes[-1] == 0, f"seed {seed}: {codes}"
    ours, theirs = outputs(tmp_path / "run"), outputs(finished)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == [], f"seed {seed}: {codes}"


def code_of(command: list[Any], folder: Path, seconds: float | None) -> int:
    """How a process ends that is killed after so many seconds."""
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=folder) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(seconds)
        process.kill()
        return process.wait()


def outputs(run: Path) -> dict[str, bytes]:
    """What the run has found, by file: weights, predictions, images, scores; no times, and no name of a machine."""
    names = (
        "weights.safetensors",
        "test.parquet",
        "validation.parquet",
        "inputs.npy",
        "results.parquet",
        "000.parquet",
    )
    kept = [
        path for path in run.rglob("*") if path.name in names or (path.suffix == ".png" and "samples" in path.parts)
    ]
    return {str(path.relative_to(run)): path.read_bytes() for path in kept}
