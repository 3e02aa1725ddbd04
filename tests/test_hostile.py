"""What a user's mistake, a broken file or a stranger's file may do: one message, and nothing of the user's changed."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from moulage import checkpoints, features, plugins, recipe, runs
from moulage.cli.studies import DEMO
from moulage.errors import CheckpointError, RecipeError, RunError
from moulage.evaluation.compare import infer
from moulage.evaluation.trial_variance import Part
from moulage.features import FeatureOptions
from moulage.report import exports
from recipes import phantom_recipe

EXAMPLES = int(os.environ.get("MOULAGE_FUZZ", "150"))
"""Of each fuzzed input; `make fuzz` sets more."""
TEXT = DEMO.read_text(encoding="utf-8")
INSERTED = [
    "[",
    "]",
    "{",
    "}",
    "=",
    '"',
    "'",
    "\n",
    "nan",
    "inf",
    "-1",
    "1e999",
    "true",
    "0",
    "10000000000000",
    '""',
    "\x00",
    "é",
    "[[a]]",
]


@given(
    st.lists(st.tuples(st.integers(0, len(TEXT)), st.sampled_from(INSERTED), st.integers(0, 3)), min_size=1, max_size=4)
)
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_broken_recipe_is_one_message(changes):
    text = TEXT
    for place, inserted, removed in changes:
        text = text[:place] + inserted + text[place + removed :]
    with contextlib.suppress(RecipeError, tomllib.TOMLDecodeError):
        recipe.parse(tomllib.loads(text), where="fuzzed.toml")


VALUES = st.sampled_from(
    [True, -1, 0, 10**12, float("nan"), float("inf"), "", "x" * 300, [], [1], {}, {"a": 1}, 'a"b\n']
)


def places(values, at=()):
    for key, value in values.items():
        yield (*at, key)
        if isinstance(value, dict):
            yield from places(value, (*at, key))


@given(st.sampled_from(list(places(tomllib.loads(TEXT)))), VALUES)
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_wrong_value_is_one_message(place, value):
    values = tomllib.loads(TEXT)
    table = values
    for key in place[:-1]:
        table = table[key]
    table[place[-1]] = value
    found, message = read(values)
    assert len(message) < 1000, "no whole recipe and no endless value is quoted"
    if found:
        assert recipe.parse(tomllib.loads(recipe.to_toml(found))) == found, "what was accepted can be kept and read"


def read(values) -> tuple[recipe.Recipe | None, str]:
    """The recipe, or what is said of it."""
    try:
        return recipe.parse(values, where="fuzzed.toml"), ""
    except RecipeError as error:
        return None, str(error)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"arms": {"a": {"balance": "duplicates", "add": {"AK": 0}}}}, "arms.a.add.AK: .* greater than or equal to 1"),
        ({"arms": {"a": {"balance": "duplicates", "add": {"AK": 10**12}}}}, "less than or equal to 1000000"),
        ({"arms": {"a": {"balance": "duplicates", "ratio": {"AK": float("nan")}}}}, "finite|greater"),
        ({"arms": {"a": {"balance": "duplicates", "ratio": {"AK": float("inf")}}}}, "finite|less"),
        ({"study": {"smallest_effect": 0.999}}, "less than or equal to 0.5"),
        ({"study": {"num_trials": True}}, "num_trials is a number, not true"),
        ({"study": {"question": ["x" * 100_000]}}, r"\.\.\. of 100,00\d characters"),
        ({"arms": {"a": {"balance": "none", "like": "b"}}}, r'"b" is no arm with counts of its own'),
    ],
)
def test_nonsense_is_refused_where_the_recipe_is_read(changed, words):
    with pytest.raises(RecipeError, match=words) as caught:
        recipe.parse(phantom_recipe(**changed), where="recipe.toml")
    assert len(str(caught.value)) < 500
    assert "{'study'" not in str(caught.value)


# Where results are written


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    return tmp_path / "mine"


def test_a_folder_of_somebody_else_is_left_alone(call, mine):
    for verb in ("demo", "prepare --source phantom"):
        found = call(*verb.split(), "--out", mine)
        assert (found.code, "holds files of something else (thesis.tex)" in found.err) == (1, True), found.err
    assert [entry.name for entry in mine.iterdir()] == ["thesis.tex"]


def test_a_folder_that_a_run_has_begun_goes_on(tmp_path):
    with runs.lock(tmp_path / "run"):
        pass
    (tmp_path / "run" / "audit.json").touch()
    runs.claim(tmp_path / "run")
    runs.claim(tmp_path / "new" / "folder")


def test_a_lock_that_is_a_link_is_refused_and_its_target_kept(tmp_path, mine):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").symlink_to(mine / "thesis.tex")
    for call in (lambda: runs.claim(run), lambda: runs.lock(run).__enter__()):
        with pytest.raises(RunError, match="is a link"):
            call()
    assert (mine / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("out", ["mine/thesis.tex", "mine/thesis.tex/run", "n" * 300])
def test_an_impossible_place_is_one_message(call, mine, out):
    found = call("demo", "--out", out)
    assert found.code == 1
    assert "Traceback" not in found.err
    assert "folder" in found.err


# What a stranger's file may do


def test_a_torchscript_file_that_is_not_known_is_never_run(tmp_path):
    (tmp_path / "foreign.pt").write_bytes(b"anything")
    with pytest.raises(RecipeError, match="runs what it holds, so no other is loaded"):
        features.Inception(features.inception_file(str(tmp_path / "foreign.pt")))
    assert plugins.validate(FeatureOptions, {"network": "inception"}, "")


def test_a_table_holds_no_formula():
    rows = [["=cmd|calc!A0", -0.5], ["-1+1", 1], ["@x", 2], ["+x", 3], ["plain", 4]]
    text = exports.to_csv(exports.Table("t", "A table.", ["name", "value"], rows, [], [], 1))
    assert text == "name,value\n'=cmd|calc!A0,-0.5\n'-1+1,1\n'@x,2\n'+x,3\nplain,4\n"


# Interruption and haste


def test_names_of_plug_ins_are_listed_without_torch():
    code = "import sys; from moulage import plugins\n"
    code += "for kind in plugins.KINDS:\n  for name in plugins.names(kind): assert plugins.summary(kind, name)\n"
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_study_that_is_ended_says_that_it_goes_on(sign, tmp_path):
    command = [sys.executable, "-m", "moulage.cli", "demo", "--out", str(tmp_path / "run")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert isinstance(process.stderr, io.TextIOBase)
        first = process.stderr.readline() + process.stderr.readline()
        process.send_signal(sign)
        said = process.stderr.read()
    assert process.returncode == 130, first + said
    assert "the same command goes on from there" in said
    assert "Traceback" not in said


# Data, names and files that a user has


@pytest.mark.parametrize("name", ['a"b', "a'b", "a\\b", "a=[b]", "#x", "ä ö"])
def test_a_strange_class_name_does_not_brick_the_run(call, tmp_path, name):
    """What the run has written of its recipe can be read again, so that the same command goes on."""
    for label in (name, "NV"):
        for n in range(12):
            path = tmp_path / "data" / label / f"{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng([n, *label.encode()]).integers(0, 256, (32, 32, 3), np.uint8)).save(
                path
            )
    command = ["prepare", "--source", "folder", "--data", tmp_path / "data", "--out", "run", "--workers", 1, "--json"]
    command += ["--validation", 0.25, "--test", 0.25, "--set", f"study.target_classes={json.dumps([name])}"]
    first, again = call(*command), call(*command)
    assert first.code == 0, first.err
    assert (again.code, again.out) == (0, first.out), again.err
    assert recipe.load(tmp_path / "run" / "recipe.toml").study.target_classes == (name,)


def test_a_damaged_recipe_of_a_run_is_one_message(call, tmp_path):
    first = call("prepare", "--source", "phantom", "--source-set", "num_images=240", "--out", "run", "--workers", 1)
    assert first.code == 0, first.err
    (tmp_path / "run" / "recipe.toml").write_text('[study]\nname = "a\n')
    found = call("evaluate", "run", "--source", "phantom")
    assert (found.code, "recipe.toml is not valid TOML" in found.err) == (1, True), found.err


@pytest.mark.parametrize(
    ("state", "words"),
    [(["a", "list"], "damaged"), ({"format": 3}, "damaged"), ("text", "damaged"), ({"step": float("nan")}, "damaged")],
)
def test_a_checkpoint_of_something_else_is_passed_over(tmp_path, state, words):
    torch.save(state, tmp_path / "checkpoint-00000001.pt")
    torch.save(state, tmp_path / "checkpoint-of-a-friend.pt")
    with pytest.raises(CheckpointError, match=words):
        checkpoints.load(tmp_path, "settings")
    assert (tmp_path / "checkpoint-of-a-friend.pt").exists()


def test_weights_that_are_not_finite_draw_nothing(tmp_path):
    network = torch.nn.Linear(2, 2)
    with torch.no_grad():
        network.weight[0, 0] = float("nan")
    checkpoints.save_weights(tmp_path / "w.safetensors", network)
    with pytest.raises(RunError, match="weight holds numbers that are not finite"):
        checkpoints.load_weights(tmp_path / "w.safetensors", torch.nn.Linear(2, 2))


ABOUT = {"format": 3, "classes": ["AK", "NV"], "arm": "a", "trial": 0, "part": "test", "split_digest": "d"}
ROWS = {
    "image": ["x", "y"],
    "group": ["x", "y"],
    "label": ["AK", "NV"],
    "predicted": ["AK", "NV"],
    "logit_AK": [1.0, 0.0],
    "logit_NV": [0.0, 1.0],
}


@pytest.mark.parametrize(
    ("about", "rows", "words"),
    [
        ({"classes": ["AK", "AK"]}, {}, "not different names"),
        ({"classes": [1, 2]}, {}, "not different names"),
        ({"classes": 5}, {}, "holds no predictions"),
        ({"format": 99}, {}, "format 99; this moulage reads format 3"),
        ({"format": None}, {}, "format None; this moulage reads format 3"),
        ({"trial": "one"}, {}, "trial is 'one', no number"),
        ({"arm": ["a"]}, {}, "not different names"),
        ({}, {"image": [b"\xff", b"\x00"]}, "no name"),
        ({}, {"label": [b"AK", b"NV"]}, "is none of 0..1"),
        ({}, {"logit_AK": [float("nan"), 0.0]}, "not finite"),
        ({}, {"logit_AK": [None, 0.0]}, "not finite"),
        ({}, {"logit_AK": ["much", "little"]}, "holds no predictions"),
        ({}, {"image": ["x", "x"]}, "stands there twice"),
    ],
)
def test_a_wrong_prediction_file_is_one_message(call, about, rows, words):
    table = pa.table({**ROWS, **rows}).replace_schema_metadata({b"moulage": json.dumps({**ABOUT, **about}).encode()})
    pq.write_table(table, "wrong.parquet")
    for verb in (["evaluate", "wrong.parquet"], ["compare", "wrong.parquet"]):
        found = call(*verb)
        assert (found.code, words in found.err) == (1, True), found.err


def test_a_prediction_file_without_a_format_is_refused(call):
    about = {key: value for key, value in ABOUT.items() if key != "format"}
    pq.write_table(pa.table(ROWS).replace_schema_metadata({b"moulage": json.dumps(about).encode()}), "old.parquet")
    found = call("evaluate", "old.parquet")
    assert (found.code, "format" in found.err) == (1, True)


# Nonsense


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("power --images 1 --lesions AK=1", "--images"),
        ("power --images 500 --lesions AK=0", "no whole number from 1 on"),
        ("power --images 500 --lesions AK=50 --folds 100000", "--folds"),
        ("compare a.csv --resamples 1", "at least 100 are needed"),
        ("study recipe.toml --device gpu", 'There is no device "gpu"'),
        ("study recipe.toml --device meta", 'cannot compute on "meta"'),
        ("masks learn --data nowhere", "nowhere does not exist"),
        ("masks predict seg --data nowhere", "nowhere does not exist"),
    ],
)
def test_nonsense_is_refused_before_anything_is_read(call, arguments, words):
    found = call(*arguments.split())
    assert (found.code > 0, words in found.err) == (True, True), found.err


def test_a_missing_folder_is_refused_before_torch_is_there():
    code = "import sys; from moulage import cli; sys.argv = 'moulage masks learn --data nowhere'.split()\n"
    code += "try: cli.main()\nexcept SystemExit as end: sys.exit(10 * end.code + ('torch' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 10


def test_a_column_that_stands_there_twice_is_refused(call, tmp_path):
    (tmp_path / "a.csv").write_text("image,label,logit_AK,logit_NV,logit_AK\nx,AK,1,0,5\n")
    found = call("compare", "a.csv")
    assert (found.code, 'the column "logit_AK" twice' in found.err) == (1, True), found.err
    (tmp_path / "b.csv").write_text("image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,AK\nx,1,0,0,0,0,0,0,0,1\n")
    found = call("challenge", "score", "b.csv", "--truth", "b.csv")
    assert (found.code, 'the column "AK" twice' in found.err) == (1, True), found.err


# What is written


def test_json_is_standard(tmp_path):
    values = {"a": float("inf"), "b": [float("nan"), 1.5], "c": {"d": (-float("inf"), np.float64("nan"))}}
    runs.write_json(tmp_path / "x.json", values)
    found = json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail)
    assert found == {"a": None, "b": [None, 1.5], "c": {"d": [None, None]}}


def test_what_does_not_vary_over_lesions_is_standard_json():
    """Arms that err on the same lesions have a lesion part of 0, of infinitely many degrees of freedom."""
    values = infer(0.0, np.zeros(2), sizes=np.array([30, 30]), trials=Part(0.01, 2.0, 0.0))
    json.dumps(values, allow_nan=False)
    assert "freedom_lesions" not in values


def test_a_report_says_where_files_are_without_saying_whose(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/anna")
    assert runs.shown("/home/anna/work/data", Path("/home/anna/work")) == "data"
    assert runs.shown("--data=/home/anna/isic", Path("/home/anna/work")) == "--data=../isic"
    assert runs.shown('path = "/home/anna/isic"', Path("/scratch/run")) == 'path = "~/isic"'
    assert runs.shown("/mnt/isic a/b", Path("/mnt/run")) == "../isic a/b"


@pytest.mark.parametrize(
    "verb",
    ["compare p.parquet q.parquet --out mine", "ensemble . --method mean --out mine"],
)
def test_tables_are_not_written_among_what_is_somebody_elses(call, mine, verb):
    (mine / "comparisons.csv").write_text("mine")
    for name, part in (("p", "test"), ("q", "test"), ("test", "test"), ("validation", "validation")):
        about = {**ABOUT, "part": part, "arm": name}
        pq.write_table(
            pa.table(ROWS).replace_schema_metadata({b"moulage": json.dumps(about).encode()}), f"{name}.parquet"
        )
    found = call(*verb.split())
    assert found.code == 1, found.out
    assert (mine / "comparisons.csv").read_text() == "mine"


def test_a_submission_does_not_replace_another_file(call, mine):
    table = pa.table(ROWS).replace_schema_metadata({b"moulage": json.dumps(ABOUT).encode()})
    pq.write_table(table, "p.parquet")
    for _ in range(2):  # its own it may write anew
        assert call("challenge", "write", "p.parquet", "--out", "sub.csv").code == 0
    found = call("challenge", "write", "p.parquet", "--out", mine / "thesis.tex")
    assert (found.code, "is no submission" in found.err) == (1, True), found.err
    assert (mine / "thesis.tex").read_text() == "years of work"
