"""Plug-ins keep what their kind promises, as the type checker sees it; what they may have is looked up in one place."""

import subprocess
import sys
from pathlib import Path

import pytest

from moulage import contracts, plugins

PROMISED = {
    "generators": "contracts.GeneratorModule",
    "classifiers": "contracts.ClassifierModule",
    "balance": "contracts.Module",
    "selection": "contracts.SelectionModule",
    "sources": "contracts.SourceModule",
    "preprocessing": "contracts.PreprocessingModule",
}
"""Kind -> the protocol of its modules."""


def held(folder: Path, lines: list[str]) -> str:
    """What pyright says in strict mode of a file; empty where nothing is wrong."""
    (folder / "held.py").write_text("# pyright: strict, reportPrivateUsage=false\n" + "\n".join(lines) + "\n")
    settings = folder / "pyrightconfig.json"
    settings.write_text('{"include": ["held.py"], "pythonVersion": "3.11"}')
    command = [sys.executable, "-m", "pyright", "-p", str(settings), "--pythonpath", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode else ""


@pytest.mark.slow
def test_every_plugin_keeps_the_protocol_of_its_kind(tmp_path: Path):
    """A file says of each plug-in that this module is of this protocol, and the type checker reads it."""
    lines = ["from moulage import contracts"]
    for kind, protocol in PROMISED.items():
        for name in plugins.names(kind):
            lines += [
                f"from moulage.{kind} import {name} as {kind}_{name}",
                f"_{kind}_{name}: {protocol} = {kind}_{name}",
            ]
    assert held(tmp_path, lines) == ""
    assert "is not present" in held(tmp_path, [*lines, "_other: contracts.SelectionModule = balance_none"])


def test_what_is_optional_is_told():
    assert contracts.classifier("probe").embedding is not None
    assert contracts.classifier("finetune").embedding is None
    assert contracts.classifier("metadata").metadata == "required"
    assert contracts.generator("noise").is_null
    assert contracts.generator("pix2pixhd").needs_masks
    assert not contracts.generator("dcgan").needs_masks
    assert contracts.balance("oracle").role == "positive"
    assert contracts.balance("none").treat is None
    assert contracts.balance("balanced_softmax").extend is None
    assert contracts.balance("none").strength is None
    assert contracts.balance("logit_adjustment_posthoc").strength is not None
