"""The README's commands are run, all of them; those of the other pages are ones that the command line takes.

Data and sizes are small: an option that makes a command cheaper is added behind it, and nothing else is changed.
"""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer
from PIL import Image

from call_cli import settings
from moulage import cli, contracts
from moulage import recipe as recipes
from moulage.cli.common import options_of
from moulage.data.reader import Reader
from moulage.sources import isic2019
from pictures import write_pictures
from recipes import phantom_recipe

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "studies/isic/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINE = re.compile(r"^    ((?:moulage|make) .*)$", re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """The words of all commands of a page."""
    return [shlex.split(line, comments=True) for line in LINE.findall(page.read_text(encoding="utf-8"))]


README = commands(ROOT / "README.md")
OF_PAGES = [words[1:] for page in PAGES for words in commands(page) if words[0] == "moulage"]

RUN = {
    "moulage worth": "test_what_images_are_worth",
    "moulage init": "test_a_recipe_for_ones_own_data_is_written",
    "moulage compare": "test_any_models_are_compared",
    "moulage power": "test_what_a_study_could_see",
    "moulage prepare --source isic2019": "test_pictures_are_cleaned_and_looked_at",
    "moulage prepare --source folder": "test_ones_own_data_from_prepare_to_a_classifier_and_fidelity",
    "moulage fit dcgan": "test_ones_own_data_from_prepare_to_a_classifier_and_fidelity",
    "moulage sample": "test_ones_own_data_from_prepare_to_a_classifier_and_fidelity",
    "moulage train probe": "test_ones_own_data_from_prepare_to_a_classifier_and_fidelity",
    "moulage fidelity": "test_ones_own_data_from_prepare_to_a_classifier_and_fidelity",
    "moulage list": "test_ones_own_data_from_prepare_to_a_classifier_and_fidelity",
    "moulage fit projected_gan": "test_a_generator_of_isic_images",
    "moulage study studies/isic/lite0.toml": "test_a_network_is_trained",
    "moulage study studies/thesis2020.toml": "test_the_thesis_again_then_ensembles_and_explanations",
    "moulage ensemble": "test_the_thesis_again_then_ensembles_and_explanations",
    "moulage explain": "test_the_thesis_again_then_ensembles_and_explanations",
    "moulage study studies/rivals.toml": "test_all_rivals_and_controls",
}
"""The beginning of each command of the README -> the test that runs it."""
NOT_RUN = {
    "moulage study mydata.toml": "takes the two hours that `init` was given; test_proposal plans such recipes",
    "make demo": "installs PyTorch from the network; `moulage demo`, which it runs then, is run by test_cli",
    "make test": "installs it, too; the tests that it runs then are these",
}
"""Commands of the README that no test can run, and why."""


def command(beginning: str) -> list[str]:
    """The one command of the README that begins so, without ``moulage``."""
    assert beginning in RUN
    [found] = [words for words in README if words[: len(beginning.split())] == beginning.split()]
    return found[1:]


def test_every_command_of_the_readme_is_run_or_it_is_told_why_not():
    beginnings = [[text for text in (*RUN, *NOT_RUN) if words[: len(text.split())] == text.split()] for words in README]
    alone = [" ".join(words) for words, found in zip(README, beginnings, strict=True) if len(found) != 1]
    assert not alone, "Name it in RUN, and run it there; or in NOT_RUN, with the reason."
    assert sorted(text for found in beginnings for text in found) == sorted([*RUN, *NOT_RUN])
    assert {name for name in RUN.values() if name not in globals()} == set()
    for make, says in (("demo", "moulage demo"), ("test", "-m pytest")):
        shown = subprocess.run(["make", "-n", make], cwd=ROOT, capture_output=True, text=True, check=True)
        assert says in shown.stdout


@pytest.mark.parametrize("arguments", OF_PAGES, ids=" ".join)
def test_the_command_line_takes_it(arguments: list[str]):
    given = parsed(arguments)
    if arguments[0] == "study" and arguments[1].startswith("studies/"):
        values = recipes.read(ROOT / arguments[1])
        assert recipes.parse(values, "", options_of(given["settings"]), arguments[1]).arms


def parsed(arguments: list[str]) -> dict[str, Any]:
    """What the command line reads of these words, by parameter; nothing is run, and any folder of data is there."""
    arguments = [
        str(ROOT) if before == "--data" else word for before, word in zip(["", *arguments], arguments, strict=False)
    ]
    found: Any = typer.main.get_command(cli.app)  # of click, or of the copy of it that comes with Typer
    context, words = found.make_context("moulage", ["list"]), list(arguments)
    while hasattr(found, "resolve_command"):
        name, found, words = found.resolve_command(context, words)
        assert found is not None, name
    return found.make_context(found.name, words).params


@pytest.mark.parametrize("wrong", ["nothing", "init", "study a.toml --datas b", "compare --out", "masks learns"])
def test_the_command_line_does_not_take_everything(wrong: str):
    with pytest.raises(Exception, match=r"No such|Missing|requires"):
        parsed(wrong.split())


@pytest.fixture(scope="module")
def isic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn images of lesions as the files of ISIC-2019 hold them."""
    root, source = tmp_path_factory.mktemp("isic"), contracts.source("phantom")
    drawn = source.read(None, source.configure({"num_images": 420, "size": 64, "min_lesions": 16}))
    table = drawn.table.assign(image=[f"ISIC_{row:07d}" for row in range(len(drawn))])
    (root / "ISIC_2019_Training_Input").mkdir()
    with Reader() as reader:
        for name, place in zip(table["image"], table["location"], strict=True):
            (root / "ISIC_2019_Training_Input" / f"{name}.jpg").write_bytes(reader.bytes(drawn.resolve(place)))
    truth = {name: (table["label"] == name).astype(float) for name in isic2019.CLASSES}
    pd.DataFrame({"image": table["image"], **truth, "UNK": 0.0}).to_csv(root / isic2019.GROUND_TRUTH, index=False)
    known = {"age_approx": table["age"], "anatom_site_general": table["site"], "lesion_id": table["lesion"]}
    pd.DataFrame({"image": table["image"], **known, "sex": table["sex"]}).to_csv(root / isic2019.METADATA, index=False)
    return root


@pytest.fixture
def run(call, isic: Path):
    """Run a command of the README on the drawn images, with some options behind it; what it printed."""

    def done(beginning: str, *options: object) -> str:
        words = [isic if word.startswith("FOLDER") else word for word in command(beginning)]
        words = [ROOT / word if str(word).startswith("studies/") else word for word in words]
        result = call(*words, *options)
        assert result.code == 0, result.err
        return result.out

    return done


def photographs(folder: Path, classes: tuple[str, ...], number: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    images = {f"{c}/{n:03d}.png": rng.integers(0, 256, (40, 40, 3), np.uint8) for c in classes for n in range(number)}
    return write_pictures(folder, images)


@pytest.mark.slow
@pytest.mark.long
def test_ones_own_data_from_prepare_to_a_classifier_and_fidelity(call, tmp_path: Path):
    photographs(tmp_path / "mydata", ("common", "rare"), 45, 0)
    prepared = call(*command("moulage prepare --source folder"))
    assert prepared.code == 0, prepared.err
    small = ("--size", 32, "--set", "steps=2", "--set", "batch_size=4")
    fitted = call(*command("moulage fit dcgan"), *small)
    assert fitted.code == 0, fitted.err
    [generator] = (tmp_path / "runs/fit-dcgan-rare/generators").glob("dcgan-0-*")
    sample = [str(generator) if word.endswith("*") else word for word in command("moulage sample")]
    assert "80 images in" in call(*sample).out
    [drawn] = generator.glob("samples-*")
    train = [str(drawn) if word == "FOLDER" else word for word in command("moulage train probe")]
    trained = call(*train)
    assert trained.code == 0, trained.err
    folders = {"GENERATED": drawn}
    folders |= {name: photographs(tmp_path / name, ("rare",), 42, k) for k, name in enumerate(("TRAIN", "HELD_OUT"), 1)}
    scored = call(*[folders.get(word, word) for word in command("moulage fidelity")])
    assert scored.code == 0, scored.err
    assert "rare: 80 images against 42 real ones" in scored.out
    assert call(*command("moulage list")).code == 0


def test_any_models_are_compared(call, tmp_path: Path):
    rng, labels = np.random.default_rng(0), np.repeat(["AK", "DF", "NV"], 30)
    for name in ("r0", "r1", "r2", "v0", "v1", "v2"):
        logits = rng.normal(size=(90, 3)) + 2 * (labels[:, None] == np.array(["AK", "DF", "NV"]))
        table = pd.DataFrame(logits, columns=["logit_AK", "logit_DF", "logit_NV"])
        table.assign(image=np.arange(90), label=labels, lesion=np.arange(90)).to_csv(f"{name}.csv", index=False)
    done = call(*command("moulage compare"))
    assert done.code == 0, done.err
    assert 'Taking "vit" changed the mean average precision of AK and DF' in done.out


def test_what_a_study_could_see(run):
    assert "80 % of studies" in run("moulage power")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_recipe_for_ones_own_data_is_written(call, tmp_path: Path):
    photographs(tmp_path / "mydata", ("common", "other", "rare"), 60, 0)
    done = call(*command("moulage init"))
    assert done.code == 0, done.err
    assert recipes.load(tmp_path / "mydata.toml").arms


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_what_images_are_worth(call, tmp_path: Path):
    curve = {"curves": {"c": {"doses": [1], "generators": ["noise"]}}, "split": {"scarcity": {"AK": 4}}}
    curve |= {"generators": {"noise": {"plugin": "noise", "classes": ["AK"], "size": 16}}, "study": {"num_trials": 3}}
    values = phantom_recipe(data={"options": {"num_images": 520, "min_lesions": 24}}, **curve)
    (tmp_path / "curve.toml").write_text(recipes.to_toml(recipes.parse(values)), encoding="utf-8")
    assert call("study", "curve.toml", "--out", "runs/A").code == 0
    done = call(*command("moulage worth"))
    assert done.code == 0, done.err
    assert "Worth in real photographs of new lesions" in done.out


@pytest.mark.slow
def test_pictures_are_cleaned_and_looked_at(run, tmp_path: Path):
    run("moulage prepare --source isic2019")
    [sheet] = tmp_path.rglob("preview*.png")
    with Image.open(sheet) as picture:
        assert min(picture.size) > 64


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_generator_of_isic_images(run, tmp_path: Path):
    tiny = settings({"steps": 2, "batch_size": 4, "base_channels": 2, "preview_every": 2})
    run("moulage fit projected_gan", "--size", 32, *tiny)
    assert len([*tmp_path.glob("runs/fit-projected_gan-AK/generators/projected_gan-0-*/weights.safetensors")]) == 1


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_network_is_trained(run, tmp_path: Path):
    tiny = {"epochs": 1, "steps_per_epoch": 2, "batch_size": 4, "backbone.input_size": 48, "views.symmetries": 1}
    run("moulage study studies/isic/lite0.toml", *settings({"classifier.options": tiny}))
    assert (tmp_path / "runs/lite0/report.html").exists()


GAN = {"batch_size": 4, "base_channels": 4, "generator_channels": [4, 4, 4, 4], "preview_every": 100}
DISCRIMINATOR = {"discriminator_channels": [4, 4, 4, 4], "discriminator_strides": [2, 2, 2, 2], "latent_size": 4}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_thesis_again_then_ensembles_and_explanations(run, tmp_path: Path):
    tiny = {"generators.dcgan.options": {**GAN, **DISCRIMINATOR, "epochs": 1}, "study.num_trials": 3}
    small = [*settings(tiny), "--set", "fidelity.num_images=0"]
    assert "AK" in run("moulage study studies/thesis2020.toml", *small)
    shutil.move("runs/thesis2020", "runs/A")
    run("moulage study studies/thesis2020.toml", *small, "--set", "classifier.options.penalty=1.0", "--out", "runs/B")
    assert "Ensembles and the best single classifier" in run("moulage ensemble")
    assert [*tmp_path.glob("runs/ensemble/*/test.parquet")]
    run("moulage explain")
    assert "Grad-CAM" in (tmp_path / "runs/A/report.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_all_rivals_and_controls(run, tmp_path: Path):
    add = {"arms.dcgan.add": {"AK": 4, "DF": 2, "VASC": 2}, "arms.oracle.add": {"AK": 2, "DF": 1, "VASC": 1}}
    tiny = {"generators.dcgan.options": {**GAN, **DISCRIMINATOR, "images": 8}, "split": {"num_folds": 3}, **add}
    run("moulage study studies/rivals.toml", *settings(tiny), "--set", "fidelity.num_images=0")
    assert "best rival" in (tmp_path / "runs/rivals/report.html").read_text(encoding="utf-8").lower()
