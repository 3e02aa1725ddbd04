"""Plug-ins are found by file name, and wrong options are explained."""

import subprocess
import sys

import pytest
from pydantic import Field

from moulage import plugins
from moulage.errors import RecipeError


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_every_plugin_has_config_and_a_sentence(kind):
    assert plugins.names(kind)
    for name in plugins.names(kind):
        assert not name.startswith("_"), "helpers are no plug-ins"
        module = plugins.load(kind, name)
        assert issubclass(module.Config, plugins.Options), name
        if not any(field.is_required() for field in module.Config.model_fields.values()):
            assert module.Config() == plugins.configure(kind, name, {})
        summary = plugins.summary(kind, name)
        assert 10 < len(summary) < 120, name
        assert summary[-1] == ".", name
        assert summary[0].isupper() or summary.lower().startswith(name), name
        for key, field in module.Config.model_fields.items():
            assert field.description, f"{kind}/{name}: {key} is not described"


def test_a_wrong_name_says_which_exist():
    with pytest.raises(RecipeError, match='Did you mean "isic2019"'):
        plugins.load("sources", "isic2109")


class Inner(plugins.Options):
    learning_rate: float = Field(0.1, description="step")


class Outer(plugins.Options):
    inner: Inner = Inner()
    steps: int = 3


def test_wrong_options_are_named_with_the_nearest_key():
    with pytest.raises(RecipeError, match=r'(?s)here\.inner\.learning_rat: unknown key.*"learning_rate"'):
        plugins.validate(Outer, {"inner": {"learning_rat": 1}}, "here")
    with pytest.raises(RecipeError, match=r"here\.steps: .*integer.*'many'"):
        plugins.validate(Outer, {"steps": "many"}, "here")


def test_third_parties_add_plugins_by_entry_point(tmp_path):
    package = tmp_path / "rain"
    package.mkdir()
    (package / "__init__.py").write_text(
        '"""Rain on the window, as a source."""\nfrom moulage.plugins import Options\n\nclass Config(Options): ...\n'
    )
    meta = tmp_path / "rain-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: rain\nVersion: 1.0\n")
    (meta / "entry_points.txt").write_text("[moulage.sources]\nrain = rain\n")
    code = "from moulage import plugins; print(plugins.names('sources'), plugins.summary('sources', 'rain'))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(tmp_path)}
    ).stdout
    assert "'rain'" in out
    assert "Rain on the window" in out


SUMMARIES = (
    "moulage.plugins\nfor kind in ('balance', 'selection'):\n"
    "    for n in moulage.plugins.names(kind): moulage.plugins.summary(kind, n)"
)
LIBRARY = "moulage, moulage.recipe, moulage.data.split, moulage.report, moulage.cli, moulage.evaluation.compare"


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        (LIBRARY, {"torch"}),
        (SUMMARIES, {"torch", "sklearn"}),
        ("moulage.report", {"matplotlib"}),
        ("moulage.report.page", {"torch", "matplotlib.pyplot"}),
        ("moulage.data.pixel_writer", {"torch", "pandas"}),  # what worker processes import
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(modules, heavy):
    code = f"import sys, {modules}\nprint('loaded', sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "loaded []" in out
