"""The README's commands: each is one that the command line takes, and those on one's own data are run, end to end."""

import re
import shlex
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
import typer

from moulage import cli
from pictures import write_pictures

README = Path(__file__).parent.parent / "README.md"
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for line in re.findall(r"^    (moulage .*)$", README.read_text(encoding="utf-8"), re.MULTILINE)
]
"""All of them, without ``moulage``."""


def command(*words: str) -> list[str]:
    """The one command of the README that begins with these words."""
    [found] = [each for each in COMMANDS if each[: len(words)] == list(words)]
    return found


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_the_command_line_takes_it(arguments: list[str]):
    found: click.Command = typer.main.get_command(cli.app)
    context = click.Context(found)
    while isinstance(found, click.Group):
        name, found, arguments = found.resolve_command(context, arguments)
        assert found is not None, name
    found.make_context(found.name, arguments)


def photographs(folder: Path, classes: tuple[str, ...], number: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    images = {f"{c}/{n:03d}.png": rng.integers(0, 256, (40, 40, 3), np.uint8) for c in classes for n in range(number)}
    return write_pictures(folder, images)


@pytest.mark.slow
@pytest.mark.long
def test_ones_own_data_from_prepare_to_a_classifier_and_fidelity(call, tmp_path: Path):
    photographs(tmp_path / "mydata", ("common", "rare"), 45, 0)
    prepared = call(*command("prepare", "--source", "folder"))
    assert prepared.code == 0, prepared.err
    small = ("--size", 32, "--set", "steps=2", "--set", "batch_size=4")
    fitted = call(*command("fit", "dcgan"), *small)
    assert fitted.code == 0, fitted.err
    [generator] = (tmp_path / "runs/fit-dcgan-rare/generators").glob("dcgan-0-*")
    sample = [str(generator) if word.endswith("*") else word for word in command("sample")]
    assert "80 images in" in call(*sample).out
    [drawn] = generator.glob("samples-*")
    train = [str(drawn) if word == "FOLDER" else word for word in command("train", "probe")]
    trained = call(*train)
    assert trained.code == 0, trained.err
    folders = {"GENERATED": drawn}
    folders |= {name: photographs(tmp_path / name, ("rare",), 42, k) for k, name in enumerate(("TRAIN", "HELD_OUT"), 1)}
    scored = call(*[folders.get(word, word) for word in command("fidelity")])
    assert scored.code == 0, scored.err
    assert "rare: 80 images against 42 real ones" in scored.out
    assert call(*command("list")).code == 0


def test_any_models_are_compared(call, tmp_path: Path):
    rng, labels = np.random.default_rng(0), np.repeat(["AK", "DF", "NV"], 30)
    for name in ("r0", "r1", "r2", "v0", "v1", "v2"):
        logits = rng.normal(size=(90, 3)) + 2 * (labels[:, None] == np.array(["AK", "DF", "NV"]))
        table = pd.DataFrame(logits, columns=["logit_AK", "logit_DF", "logit_NV"])
        table.assign(image=np.arange(90), label=labels, lesion=np.arange(90)).to_csv(f"{name}.csv", index=False)
    done = call(*command("compare"))
    assert done.code == 0, done.err
    assert 'Taking "vit" changed the mean average precision of AK and DF' in done.out
