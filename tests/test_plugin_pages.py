"""The plug-ins that the pages show, taken from there, keep the contract of their kind."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import classifier_case
import test_balance
import test_classifiers
import test_generators
import test_plugins
import test_preprocessing
import test_selection
import tiny_generators
from classifier_case import Case
from moulage import plugins
from moulage.data import pixels
from moulage.errors import DataError
from test_contracts import PROMISED, held

PAGES = Path(__file__).parent.parent / "docs" / "plugins"
SHOWN = {
    "sources": ("source.md", "hospital_list"),
    "preprocessing": ("preprocessing.md", "highlights"),
    "generators": ("generator.md", "vae"),
    "selection": ("selection.md", "brightness"),
    "balance": ("balance.md", "capped_sampling"),
    "classifiers": ("classifier.md", "colours"),
}
"""Kind -> its page, and the plug-in that it shows."""


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A package that offers every plug-in of the pages by an entry point, as if it were installed."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "shown").mkdir()
    (folder / "shown" / "__init__.py").touch()
    meta = folder / "shown-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: shown\nVersion: 1.0\n")
    entries = []
    for kind, (page, name) in SHOWN.items():
        text = (PAGES / page).read_text(encoding="utf-8")
        [(file, code)] = re.findall(r"\n`(\w+)\.py`:\n\n```python\n(.*?)```", text, re.DOTALL)
        assert file == name
        (folder / "shown" / f"{name}.py").write_text(code)
        entries.append(f"[moulage.{kind}]\n{name} = shown.{name}")
    (meta / "entry_points.txt").write_text("\n".join(entries))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setitem(tiny_generators.TINY, "vae", {"latent_size": 4, "width": 8})
        patch.setitem(classifier_case.OPTIONS, "colours", {})
        _forget()
        yield folder
    _forget()


def _forget() -> None:
    for found in (plugins.names, plugins._entries):
        found.cache_clear()


def contract_of(module: ModuleType, *taking: str) -> list[str]:
    """The tests of a module whose arguments are these, each a contract that every plug-in keeps."""
    found = {name: one for name, one in vars(module).items() if name.startswith("test_")}
    return [name for name, one in found.items() if one.__code__.co_varnames[: one.__code__.co_argcount] == taking]


@pytest.mark.parametrize("kind", plugins.KINDS)
def test_every_kind_has_a_page_and_what_it_shows_is_found(kind: str):
    page, name = SHOWN[kind]
    assert name in plugins.names(kind)
    test_plugins.test_every_plugin_has_config_and_a_sentence(kind)
    assert f"plugins/{page}" in (PAGES.parent / "plugins.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_they_are_of_the_protocol_of_their_kind(package: Path):
    lines = ["from moulage import contracts"]
    for kind, (_, name) in SHOWN.items():
        lines += [f"from shown import {name}", f"_{name}: {PROMISED[kind]} = {name}"]
    assert held(package, lines) == ""


@pytest.mark.parametrize("test", contract_of(test_generators, "name", "tmp_path"))
def test_the_generator(test: str, tmp_path: Path):
    getattr(test_generators, test)("vae", tmp_path)


def test_the_generator_draws_each_class_in_its_own_colour(tmp_path: Path):
    test_generators.test_fit_draws_the_same_images_for_the_same_seeds("vae", 2, tmp_path / "same")
    options = {"steps": 150, "learning_rate": 5e-3, "width": 32}
    test_generators.test_each_class_is_drawn_in_its_own_colour("vae", options, tmp_path / "colours")


@pytest.fixture(scope="module")
def fitted(package: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, tuple[object, Path]]:
    case, folder = Case("colours"), tmp_path_factory.mktemp("fit")
    return case, (case.fitted(folder), folder)


@pytest.mark.parametrize("test", contract_of(test_classifiers, "case", "fit", "tmp_path"))
def test_the_classifier(test: str, fitted: tuple[Case, tuple[object, Path]], tmp_path: Path):
    getattr(test_classifiers, test)(*fitted, tmp_path)


@pytest.mark.parametrize("test", contract_of(test_classifiers, "case", "fit"))
def test_the_classifier_once_fitted(test: str, fitted: tuple[Case, tuple[object, Path]]):
    getattr(test_classifiers, test)(*fitted)


def test_the_way_to_treat_imbalance(tmp_path: Path):
    test_balance.test_contract_of_every_plug_in("capped_sampling")
    case = Case("probe", **test_balance.SMALL["probe"])
    plain = case.fitted(tmp_path / "plain")
    log = test_balance.runs.read_log(tmp_path / "plain", "epoch")
    told = case.predict(plain), log
    test_balance.test_every_treatment_trains_on_equally_many_images_or_is_refused(
        "capped_sampling", case, told, tmp_path
    )
    weights = plugins.load("balance", "capped_sampling")
    config = weights.Config(most=2)
    assert weights.treat(config, np.array([2, 38])).class_weights == pytest.approx((4, 20))  # 10 times would be equal


def test_the_rule_of_selection():
    real = test_selection.images(*test_selection.clouds(np.random.default_rng(0), 24))
    drawn = test_selection.drawn(*test_selection.clouds(np.random.default_rng(1), 10, classes=("NV", "AK")))
    drawn.pixels[3] = 255
    plain = test_selection.judge("brightness", drawn, real)
    test_selection.test_contract_of_every_rule("brightness", real, drawn, lambda name: plain)
    test_selection.test_no_rule_minds_the_order_of_candidates("brightness", real, drawn, lambda name: plain)
    test_selection.test_no_rule_minds_having_little_to_go_by("brightness", real, drawn)
    assert not plain.keep[3]
    assert plain.keep[~(drawn.pixels == 255).all((1, 2, 3))].mean() > 0.7


def test_the_filter():
    test_preprocessing.test_plain_skin_is_left_alone_and_the_same_image_gives_the_same("highlights")
    shining = np.asarray(test_preprocessing.skin()).copy()
    shining[60:63, 100:103] = 255
    filtered = test_preprocessing.through("highlights", shining)
    assert filtered.share == pytest.approx(9 / (160 * 120))
    assert filtered.image.max() < 250


def test_the_source(tmp_path: Path):
    source = plugins.load("sources", "hospital_list")
    with pytest.raises(DataError, match="--data PATH"):
        source.read(None, source.Config(table="nothing.csv"))
    Image.new("RGB", (40, 30), (200, 150, 120)).save(tmp_path / "a.png")
    Image.new("RGB", (40, 30), (100, 50, 40)).save(tmp_path / "b.png")
    rows = {"file": ["a.png", "b.png"], "diagnosis": ["NV", "AK"], "patient": ["p", "p"]}
    pd.DataFrame(rows).to_csv(tmp_path / "images.csv", index=False)
    catalog = source.read(tmp_path, source.Config())
    assert catalog.classes == ("AK", "NV")
    assert len(set(catalog.groups)) == 1, "one patient's images stay together"
    built = pixels.build(catalog, [16], "squash", tmp_path / "cache")
    assert list(built.scan["status"]) == ["ok", "ok"]
    (tmp_path / "images.csv").write_text("file,diagnosis\na.png,NV\n")
    with pytest.raises(DataError, match='no column "patient"'):
        source.read(tmp_path, source.Config())
