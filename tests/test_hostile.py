"""What a user's mistake, a broken file or a stranger's file may do: one message, and nothing of the user's changed."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moulage import features, plugins, recipe, runs
from moulage.cli.studies import DEMO
from moulage.errors import RecipeError, RunError
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
