"""The command line as a user meets it: bad input is one clear message and exit code 1, and loses nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from call_cli import settings
from moulage.cli.common import folder_name, names_of
from moulage.cli.studies import DEMO
from pictures import write_pictures
from recipes import SCRATCH
from tiny_generators import TINY

VERBS = (
    "demo",
    "init",
    "study",
    "prepare",
    "fit",
    "sample",
    "train",
    "evaluate",
    "compare",
    "power",
    "explain",
    "report",
    "list",
)


def images(folder: Path) -> Path:
    """Class folders with images of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 12, 40, 40, 3), dtype=np.uint8)
    names = [(f"{label}/{i}.png", noise[k, i]) for k, label in enumerate(("AK", "NV")) for i in range(12)]
    return write_pictures(folder, dict(names))


def test_help_answers_in_under_half_a_second_of_cpu():
    before = os.times()
    out = subprocess.run([sys.executable, "-m", "moulage.cli", "--help"], capture_output=True, text=True, check=True)
    after = os.times()
    used = after.children_user - before.children_user + after.children_system - before.children_system
    assert used < 0.5
    for verb in VERBS:
        assert f"  {verb} " in out.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_refuses_unknown_options(call, verb):
    assert "Usage" in call(verb, "--help").out
    bad = call(verb, "--definitely-not")
    assert bad.code == 2
    assert "--definitely-not" in bad.err


def test_help_imports_nothing_heavy():
    code = (
        "import sys, runpy; sys.argv = ['moulage', '--help']\n"
        "try: runpy.run_module('moulage.cli', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'pandas', 'scipy', 'torch', 'sklearn', 'statsmodels', 'pydantic', 'matplotlib'}\n"
        "print('loaded', sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "loaded []" in out


def test_entry_point_is_the_main_of_the_package():
    from importlib.metadata import entry_points

    [script] = entry_points(group="console_scripts", name="moulage")
    assert script.value == "moulage.cli:main"


@pytest.mark.parametrize("verb", ["fit", "train"])
def test_verbs_that_run_a_plugin_share_their_options(call, verb):
    words = call(verb, "--help").out
    for option in ("--source ", "--data ", "--out ", "--seed ", "--set ", "--source-set ", "--device ", "--json "):
        assert words.count(f"  {option}") == 1
    assert "on:" not in words


def test_list_names_every_kind(call):
    found = json.loads(call("list", "--json").out)
    assert "dcgan" in found["generators"]
    assert {"isic2019", "ham10000", "folder", "medmnist", "phantom"} <= set(found["sources"])
    assert "phantom" in call("list", "sources").out
    wrong = call("list", "generator")
    assert (wrong.code, 'Did you mean "generators"' in wrong.err) == (1, True)


WRONG_RECIPES = [
    (b"[study\n", "(at line 1, column 7)"),
    (b'[study]\nname = "x"\nname = "y"\n', "(at line 3, column 11)"),
    (b"\xef\xbb\xbf[study]\n", "byte order mark"),
    ("[study]\n".encode("utf-16"), "not UTF-8 text: invalid start byte at byte 0"),
    (b"[study]\nseed = 1" + b"0" * 5000, "digits"),
    (b"budget = 5\n", "x.toml.budget: Input should be a valid dictionary (got 5)"),
    (b"[budget]\ncpu = 5\n", "x.toml.budget.cpu: Input should be a valid dictionary (got 5)"),
    (b"study = 5\n", "x.toml.study"),
]


@pytest.mark.parametrize("verb", ["study", "prepare", "explain"])
@pytest.mark.parametrize(("content", "words"), WRONG_RECIPES)
def test_every_verb_says_what_is_wrong_with_a_recipe_and_where(tmp_path, call, verb, content, words):
    path = tmp_path / ("recipe.toml" if verb == "explain" else "x.toml")  # ``explain`` reads that of a run folder
    path.write_bytes(content)
    found = call(verb, str(tmp_path if verb == "explain" else path))
    assert found.code == 1
    assert words.replace("x.toml", path.name) in found.err.replace("\n", " ")
    assert path.name in found.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["study", "none.toml"], "no recipe at none.toml"),
        (["study", "."], "folder"),
        (["study", "demo.toml", "--set", "study.seeed=3"], "no recipe at demo.toml"),
        (["study", DEMO, "--set", "study.seeed=3"], 'Did you mean "seed"'),
        (["study", DEMO, "--budget", "huge"], 'no budget "huge"'),
        (["prepare", "--source", "foldr"], 'Did you mean "folder"'),
        (["prepare", "--source", "folder"], "--data"),
        (["prepare", "--source", "folder", "--data", "nowhere"], "nowhere"),
        (["fit", "dcgann", "--classes", "AK"], 'Did you mean "dcgan"'),
        (["fit", "dcgan", "--classes", "AK", "--set", "stepz=3"], "stepz"),
        (["fit", "dcgan", "--classes", "AK", "--set", "steps"], "key=value"),
        (["train", "prob"], 'Did you mean "probe"'),
        (["sample", "nowhere"], "generator.json is missing"),
        (["evaluate", "nowhere"], "no predictions"),
        (["evaluate", "nowhere", "--data", "other"], "layout of the other data"),
        (["evaluate", "nowhere", "--source", "folder"], "nowhere is no run folder"),
        (["evaluate", ".", "--source", "folder", "--class-map", "akiec"], "--class-map takes NAME=VALUE"),
        (["evaluate", ".", "--source", "folder", "--class-map", "a=B,a=C"], "names a twice"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_1(call, arguments, words):
    result = call(*arguments)
    assert result.code == 1
    assert result.err.count("error: ") == 1
    assert words in result.err
    assert "Traceback" not in result.err
    assert result.out == ""


def test_prepare_audits_and_splits_a_folder_and_leaves_it_alone(call, tmp_path):
    folder = images(tmp_path / "data")
    (folder / "AK" / "broken.jpg").write_text("this is no image")
    cut = folder / "NV" / "cut.jpg"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(cut)
    cut.write_bytes(cut.read_bytes()[:300])
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    result = call("prepare", "--source", "folder", "--data", folder, "--size", 32, "--json", "--workers", 1)
    assert result.code == 0, result.err
    assert "auditing" in result.err, "progress goes to stderr, results to stdout"
    found = json.loads(result.out)
    assert sum(part[name]["images"] for part in found["split"].values() for name in part) == 24
    assert "broken" in json.dumps(found["audit"])
    assert "cut" in json.dumps(found["audit"])
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert "Split" in call("prepare", "--source", "folder", "--data", folder, "--size", 32, "--workers", 1).out


def test_class_with_one_lesion_is_refused_by_name(call, tmp_path):
    folder = images(tmp_path / "data")
    (folder / "DF").mkdir()
    (folder / "AK" / "0.png").rename(folder / "DF" / "0.png")
    result = call("prepare", "--source", "folder", "--data", folder, "--size", 32, "--workers", 1)
    assert result.code == 1
    assert "DF" in result.err
    told, error = result.err.index('audit, error: Class "DF" has 1 lesion'), result.err.index("error: The class")
    assert told < error, "what the audit found comes before what failed"


def test_names_on_the_command_line():
    assert names_of("AK, DF,,NV ") == ["AK", "DF", "NV"]
    assert names_of('"a, b",c') == ["a, b", "c"]
    assert names_of("01 a, b,02 a, b,AK", ("01 a, b", "02 a, b", "AK")) == ["01 a, b", "02 a, b", "AK"]
    assert names_of("") == []


def test_default_run_folders_are_names_that_every_disk_takes():
    assert folder_name("fit", "dcgan", "AK", "névus") == "fit-dcgan-AK-névus"
    long = [folder_name("fit", "noise", "é" * 300, end) for end in "ab"]
    assert len(set(long)) == 2
    assert all(len(name) <= 80 for name in long)
    odd = folder_name("fit", "noise", "../a b")
    assert "/" not in odd
    assert odd != folder_name("fit", "noise", ".._a_b")


def test_classes_whose_names_hold_commas_can_be_learned(call, tmp_path):
    names = [f"{k} benign vascular proliferation, not otherwise specified, of any size" for k in range(3)]
    for label in names:
        (tmp_path / "data" / label).mkdir(parents=True)
        for k in range(6):
            picture = np.random.default_rng(len(label) * k + ord(label[0])).integers(0, 256, (20, 20, 3), np.uint8)
            Image.fromarray(picture).save(tmp_path / "data" / label / f"{k}.png")
    options = ("--source", "folder", "--data", tmp_path / "data", "--size", 16, "--json")
    result = call("fit", "noise", *options, "--classes", ",".join(names))
    assert result.code == 0, result.err
    assert (
        json.loads((tmp_path / json.loads(result.out)["generator"] / "generator.json").read_text())["classes"] == names
    )


def test_no_permission_to_write_is_said(call, tmp_path, monkeypatch):
    folder = images(tmp_path / "data")

    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    result = call("prepare", "--source", "folder", "--data", folder, "--size", 32)
    assert result.code == 1
    assert "ermission" in result.err


@pytest.mark.slow
def test_fit_sample_train_evaluate_as_a_user_would(call, tmp_path):
    tiny = settings(TINY["dcgan"] | {"steps": 6, "batch_size": 4})
    phantom = ["--source-set", "num_images=240", "--source-set", "size=32"]
    fitted = call("fit", "dcgan", "--classes", "AK", "--size", 32, *phantom, *tiny, "--json")
    assert fitted.code == 0, fitted.err
    folder = json.loads(fitted.out)["generator"]
    drawn = call("sample", folder, "--count", 5, "--first-seed", 7, "--out", "drawn", "--json")
    assert json.loads(drawn.out)["counts"] == {"AK": 5}
    assert sorted(p.stem for p in (tmp_path / "drawn").rglob("*.png")) == sorted(f"AK-{s}" for s in range(7, 12))
    probe = list(settings({"size": 32, "penalty": 0.1, "backbone": SCRATCH}))
    for extra in ([], ["--samples", "drawn"]):
        trained = call("train", "probe", *phantom, *probe, *extra, "--json")
        assert trained.code == 0, trained.err
        scores = json.loads(trained.out)
        assert 0 <= scores["balanced_accuracy"] <= 1
    file = next(Path(scores["predictions"]).glob("test.parquet"))
    again = json.loads(call("evaluate", file, "--json").out)
    assert again["confusion"] == scores["confusion"]
    other = call("train", "probe", *phantom, *probe, "--samples", "drawn", "--seed", 5)
    assert other.code == 1
    assert "split" in other.err


@pytest.mark.slow
def test_interrupt_says_that_work_is_kept(tmp_path):
    command = [sys.executable, "-m", "moulage.cli", "demo", "--out", str(tmp_path / "demo")]
    environment = {**os.environ, "MOULAGE_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # where the tests run with it ignored
    )
    while not (tmp_path / "demo").exists():
        time.sleep(0.05)
    time.sleep(0.5)
    os.killpg(process.pid, 2)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on from there" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device", "/runs/x"), "disk is full (/runs/x)"),
        (PermissionError(13, "Permission denied", "/runs/x"), "No permission for /runs/x"),
    ],
)
def test_a_full_or_forbidden_disk_is_one_message(call, monkeypatch, error, words):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("moulage.study.run_study", fail)
    result = call("demo")
    assert (result.code, words in result.err) == (1, True)
    assert "Traceback" not in result.err
