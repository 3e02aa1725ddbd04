"""Registration: what a study will look at is written and hashed before the test part is opened."""

import json

import pytest

from moulage import recipe as recipes
from moulage import runs
from moulage.arm import roles
from moulage.registration import FILE, declaration, register

SMALL = {
    "study": {"name": "small", "target_classes": ["AK"], "smallest_effect": 0.03},
    "generators": {
        "ak": {"plugin": "dcgan", "classes": ["AK"]},
        "noise": {"plugin": "noise", "classes": ["AK"]},
    },
    "split": {"reserve": 0.2},
    "arms": {
        "none": {"balance": "none"},
        "gan": {"balance": "synthesize", "generator": "ak", "add": {"AK": 8}},
        "copies": {"balance": "duplicates", "like": "gan"},
        "nothing": {"balance": "synthesize", "generator": "noise", "add": {"AK": 8}},
        "oracle": {"balance": "oracle", "like": "gan"},
    },
}
KNOWN = {"none": "reference", "gan": "synthetic", "copies": "reference", "nothing": "null", "oracle": "positive"}


def recipe_with(**tables):
    return recipes.parse(recipes.merge(SMALL, tables))


def declare(run, recipe):
    return register(recipe, run, roles(recipe))


def test_roles_come_from_balance_and_generator():
    treated = {"balance": "none", "treatment": "balanced_softmax"}
    both = {"balance": "synthesize", "generator": "ak", "add": {"AK": 1}, "treatment": "focal"}
    adjusted = {"balance": "none", "logit_adjustment": True}
    more = recipe_with(arms={"treated": treated, "both": both, "adjusted": adjusted, "focal": {"balance": "focal"}})
    assert roles(more) == {**KNOWN, "treated": "rival", "both": "synthetic", "adjusted": "rival", "focal": "rival"}
    everywhere = recipe_with(study={"logit_adjustment": True}, arms={"adjusted": adjusted})
    assert roles(everywhere)["adjusted"] == roles(everywhere)["none"] == "reference"


def test_what_is_declared(tmp_path):
    record = declare(tmp_path, recipe_with())
    declared = record["declared"]
    assert (declared["primary"], declared["target_classes"]) == ("mean_average_precision", ["AK"])
    assert (declared["smallest_effect"], declared["num_trials"], declared["scheme"]) == (0.03, 3, "holdout")
    assert (declared["arms"], declared["family"], declared["reserve"]) == (KNOWN, ["gan"], 0.2)
    assert declared["generators"] == {"ak": "dcgan", "noise": "noise"}
    assert record["digest"] == runs.digest(declared)
    assert record["before_test"]
    assert (record["note"], record["history"]) == ("", [])
    assert json.loads((tmp_path / FILE).read_text()) == record
    family = recipe_with(study={"family": ["gan", "copies"]})
    assert declaration(family, roles(family))["family"] == ["gan", "copies"]


def test_the_same_declaration_is_found_again(tmp_path):
    first = declare(tmp_path, recipe_with())
    stamp = (tmp_path / FILE).stat().st_mtime_ns
    (tmp_path / "results.json").write_text("{}")
    assert declare(tmp_path, recipe_with()) == first
    assert declare(tmp_path, recipe_with(study={"question": "Why?", "name": "other"}, data={"path": "/x"})) == first
    assert (tmp_path / FILE).stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"study": {"smallest_effect": 0.05}}, "smallest_effect: 0.03 -> 0.05"),
        ({"study": {"primary": "balanced_accuracy"}}, "primary: 'mean_average_precision' -> 'balanced_accuracy'"),
        ({"study": {"num_trials": 9}}, "num_trials: 3 -> 9"),
        ({"study": {"family": ["copies"]}}, "family: ['gan'] -> ['copies']"),
        ({"arms": {"copies": {"balance": "permuted"}}}, "arms.copies: 'reference' -> 'null'"),
        ({"arms": {"more": {"balance": "none"}}}, "arms.more: None -> 'reference'"),
        ({"arms": {"gan": {"treatment": "focal"}}}, "treatments.gan: None -> 'focal'"),
        ({"classifier": {"options": {"penalty": 9.0}}}, ": settings in recipe.toml."),
        ({"split": {"seed": 4}}, ": settings in recipe.toml."),
    ],
)
def test_a_change_after_the_test_part_was_opened_is_told(tmp_path, change, words):
    first = declare(tmp_path, recipe_with())
    (tmp_path / "results.json").write_text("{}")
    record = declare(tmp_path, recipe_with(**change))
    assert not record["before_test"]
    assert record["note"].startswith("Changed after the test part was opened")
    assert words in record["note"]
    assert [entry["digest"] for entry in record["history"]] == [first["digest"]]
    assert declare(tmp_path, recipe_with(**change)) == record


def test_a_change_before_that_replaces_it_and_keeps_it(tmp_path):
    first = declare(tmp_path, recipe_with())
    second = declare(tmp_path, recipe_with(study={"smallest_effect": 0.05}))
    assert second["before_test"]
    assert "before the test part was opened: smallest_effect: 0.03 -> 0.05" in second["note"]
    third = declare(tmp_path, recipe_with(study={"smallest_effect": 0.07}))
    assert [entry["digest"] for entry in third["history"]] == [first["digest"], second["digest"]]
    assert all("history" not in entry for entry in third["history"])


def test_going_back_to_what_was_declared_in_time(tmp_path):
    first = declare(tmp_path, recipe_with())
    (tmp_path / "results.json").write_text("{}")
    declare(tmp_path, recipe_with(study={"smallest_effect": 0.05}))
    again = declare(tmp_path, recipe_with())
    assert again["before_test"]
    assert (again["digest"], again["date"]) == (first["digest"], first["date"])
    assert "others were tried" in again["note"]
    assert [entry["before_test"] for entry in again["history"]] == [True, False]


def test_a_run_that_was_opened_before_it_was_registered(tmp_path):
    (tmp_path / "results.json").write_text("{}")
    record = declare(tmp_path, recipe_with())
    assert not record["before_test"]
    assert "before anything was registered" in record["note"]
