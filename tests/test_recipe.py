"""Recipes: strict, and wrong ones are explained."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moulage import backbones, plugins
from moulage import recipe as recipes
from moulage.arm import Arm
from moulage.errors import RecipeError
from moulage.stages.generator import Generator
from recipes import phantom_recipe

ROOT = Path(__file__).parents[1]
SMALL = phantom_recipe(
    study={"num_trials": 3},
    generators={"ak": {"plugin": "dcgan", "classes": ["AK"]}},
    arms={
        "gan": {"balance": "synthesize", "generator": "ak", "add": {"AK": 8}},
        "copies": {"balance": "duplicates", "like": "gan"},
    },
)
POINT = {"curve": "", "series": "", "dose": 0.0}
"""What only the arms of a curve have."""
TEXT = st.text(max_size=20) | st.text("\x00\x1f\x7f\"'\\\\\n\r\t.#=[] \ufeff", max_size=8)
"""Any text, and what TOML must escape."""
VALUES = st.recursive(
    TEXT | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def changed(**tables):
    return recipes.merge(SMALL, tables)


def test_all_recipes_of_the_project_load_with_each_budget():
    paths = [*(ROOT / "studies").rglob("*.toml"), ROOT / "src/moulage/demo.toml"]
    assert len(paths) >= 2
    assert any(path.parent.name == "isic" for path in paths)
    for path in paths:
        for budget in ("", *recipes.budgets(recipes.read(path))):
            found = recipes.load(path, budget)
            assert found.arms, path
            assert found.budget_name == budget
            where = f"{path.name}, budget {budget or 'full'}"
            plugins.configure("classifiers", found.classifier.plugin, found.classifier.options, where)
            for name, arm in found.arms.items():
                plugins.configure("balance", arm.balance, arm.options, f"{where}, {name}")
                if arm.treatment:
                    plugins.configure("balance", arm.treatment, arm.treatment_options, f"{where}, {name}")


@given(text=TEXT, table=st.dictionaries(TEXT, VALUES, max_size=3), texts=st.dictionaries(TEXT, TEXT, max_size=3))
def test_what_is_written_of_a_recipe_is_the_same_recipe(text: str, table: dict[str, Any], texts: dict[str, str]):
    also = {"more": {"source": "folder", "classes": texts, "path": Path("a b") / text.replace("\0", "")}}
    arms = {
        "gan": {"options": table, "treatment": "focal", "treatment_options": {"deep": table}},
        "plain": {"balance": "none", "like": "gan"},
    }
    folds = {"scheme": "folds", "num_folds": 4}
    study = {"question": text, "family": ["gan"], "num_trials": 4}
    found = recipes.parse(changed(study=study, data={"also": also, "options": table}, arms=arms, split=folds))
    assert recipes.parse(tomllib.loads(recipes.to_toml(found))) == found


def test_what_is_empty_is_not_written_but_every_default_is():
    arms = {"gan": {"options": {"of": None, "table": {}}}}
    found = tomllib.loads(recipes.to_toml(recipes.parse(changed(arms=arms))))
    assert found["arms"]["none"] == {
        "balance": "none",
        "use": "add",
        "like": "",
        "generator": "",
        "selection": "",
        "treatment": "",
        **POINT,
    }
    assert found["arms"]["gan"]["options"] == {"table": {}}
    assert not {"selections", "path", "steps", "also", "metadata"} & {*found, *found["data"], *found["classifier"]}
    assert found["split"]["num_folds"] == 5  # it may be another one in a later version


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"study": {"num_trails": 3}}, ["study.num_trails", '"num_trials"']),
        ({"study": {"num_trials": 0}}, ["study.num_trials", "greater than or equal to 1"]),
        ({"arms": {"gan": {"generater": "ak"}}}, ["arms.gan.generater", '"generator"']),
        ({"arms": {"gan": {"generator": "akk"}}}, ["arms.gan", '"akk"', '"ak"']),
        ({"arms": {"gan": {"ratio": {"AK": 1.0}}}}, ["arms.gan", "one of add, ratio, like"]),
        ({"arms": {"gan": {"add": {"AK": -1}}}}, ["arms.gan", "greater than or equal to 1"]),
        ({"arms": {"copies": {"like": "copies"}}}, ["arms.copies.like", "no arm with counts"]),
        ({"arms": {"a/b": {"balance": "none"}}}, ["a/b", "letters"]),
        ({"generators": {"ak": {"classes": []}}}, ["generators.ak.classes"]),
        ({"split": {"test": 1.5}}, ["split.test"]),
        ({"studdy": {}}, ["studdy", '"study"']),
        ({"split": {"num_folds": 3}}, ["split", "num_folds", '"holdout"']),
        ({"split": {"scheme": "official", "num_repeats": 2}}, ["num_repeats", '"official"']),
        ({"split": {"scheme": "folds", "num_folds": 1}}, ["split.num_folds"]),
        ({"split": {"scheme": "fold"}}, ["split.scheme"]),
        ({"split": {"reserve": 1.0}}, ["split.reserve"]),
        ({"split": {"reserve": 0.1}, "study": {"target_classes": []}}, ["split.reserve", "target_classes"]),
        ({"split": {"scheme": "folds"}, "study": {"num_trials": 4}}, ["5 folds x 1 are 5 trials", "num_trials is 4"]),
        (
            {"split": {"scheme": "folds"}, "generators": {"ak": {"refit": "study"}}},
            ["generators.ak.refit", "another fold tests on"],
        ),
        (
            {"split": {"scheme": "folds"}, "arms": {"gan": {"generator": "", "samples": "x"}}},
            ["arms.gan.samples", "one split"],
        ),
        ({"study": {"family": ["gam"]}}, ["study.family", '"gam"', '"gan"']),
        ({"arms": {"none": {"treatment_options": {"beta": 1}}}}, ["arms.none", "no treatment"]),
        ({"arms": {"none": {"treatmnt": "focal"}}}, ["arms.none.treatmnt", '"treatment"']),
    ],
)
def test_wrong_recipes_name_the_place_and_the_nearest_key(change, words):
    with pytest.raises(RecipeError) as caught:
        recipes.parse(changed(**change))
    for word in words:
        assert word in str(caught.value)


def test_number_of_trials():
    assert recipes.parse(SMALL).num_trials == 3
    folds = {"scheme": "folds", "num_folds": 4, "num_repeats": 2}
    assert recipes.parse(changed(split=folds)).num_trials == 8
    assert recipes.parse(changed(split=folds, study={"num_trials": 8})).num_trials == 8


def test_classes_that_an_arm_adds():
    found = recipes.parse(changed(arms={"half": {"balance": "duplicates", "ratio": {"DF": 0.5}}}))
    assert [Arm(found, arm).wanted for arm in ("none", "gan", "copies", "half")] == [(), ("AK",), ("AK",), ("DF",)]


def test_budget_is_merged_table_by_table(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text(
        '[study]\nname = "x"\n[generators.g]\nplugin = "dcgan"\nclasses = ["AK"]\n'
        "options = { steps = 9, batch_size = 4 }\n"
        "[budget.cpu.generators.g.options]\nsteps = 2\n"
    )
    assert recipes.load(path).generators["g"].options == {"steps": 9, "batch_size": 4}
    assert recipes.load(path, "cpu").generators["g"].options == {"steps": 2, "batch_size": 4}
    assert recipes.load(path, "", {"study.num_trials": 7}).study.num_trials == 7
    with pytest.raises(RecipeError, match='"cpu"'):
        recipes.load(path, "cpuu")


def test_counts_of_an_arm():
    found = recipes.parse(changed(arms={"half": {"balance": "duplicates", "ratio": {"AK": 0.5}}}))
    counts = {"AK": 41, "NV": 900}
    assert Arm(found, "gan").additions(counts) == Arm(found, "copies").additions(counts) == {"AK": 8}
    assert Arm(found, "half").additions(counts) == {"AK": 20}
    assert Arm(found, "none").additions(counts) == {}
    with pytest.raises(RecipeError, match="no class of the data"):
        Arm(found, "gan").additions({"NV": 900})


def test_a_feature_network_that_is_not_installed_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch):
    values = {"study": {"name": "x"}, "generators": {"gan": {"plugin": "dcgan", "classes": ["AK"]}}}
    Generator.check_recipe(recipes.parse(values))
    monkeypatch.setattr(backbones, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="not installed") as raised:
        Generator.check_recipe(recipes.parse(values))
    assert "judge_images = 0" in raised.value.hint
    Generator.check_recipe(recipes.parse({**values, "fidelity": {"num_images": 0, "judge_images": 0}}))
    with pytest.raises(RecipeError, match=r"fidelity\.features"):
        Generator.check_recipe(recipes.parse({**values, "fidelity": {"features": {"network": "vgg"}}}))
