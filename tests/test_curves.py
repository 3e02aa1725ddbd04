"""Curves and levels of scarcity: the arms that they become, what each adds, and that doses and levels are nested."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from call_cli import Result, caller
from moulage import recipe as recipes
from moulage.arm import Arm, Design, arms_of, roles
from moulage.data.split import RESERVE
from moulage.errors import RecipeError, RunError
from moulage.results import load
from moulage.stages import plan as plans
from moulage.stages.classifier import Classifier
from moulage.stages.data import prepare
from moulage.stages.plan import of_kind
from moulage.stages.selection import Selection
from moulage.study import run_study
from recipes import phantom_recipe

DOSES = [0.5, 1, 2]
CURVE: dict[str, Any] = {
    "study": {"num_trials": 2, "target_classes": ["AK"]},
    "data": {"options": {"num_images": 520, "min_lesions": 24}},
    "split": {"scarcity": {"AK": 2}},
    "generators": {"noise": {"plugin": "noise", "classes": ["AK"], "size": 16}},
    "selections": {"chance": {"draw": 1.5, "rules": [{"plugin": "random"}]}},
    "curves": {"c": {"doses": DOSES, "generators": ["noise"], "selections": ["", "chance"]}},
}


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    return caller(capsys, monkeypatch, tmp_path)


def recipe_with(**tables: Any) -> recipes.Recipe:
    return recipes.parse(phantom_recipe(**recipes.merge(CURVE, tables)))


def test_a_curve_is_ordinary_arms():
    found = recipe_with()
    series = ("real", "copies", "noise", "noise-chance")
    assert [name for name in found.arms if name != "none"] == [f"c-{s}-{d}" for s in series for d in (50, 100, 200)]
    assert found.arms["c-real-50"].balance == "oracle"
    assert found.arms["c-copies-200"].balance == "duplicates"
    drawn = found.arms["c-noise-chance-200"]
    assert (drawn.generator, drawn.selection, drawn.ratio) == ("noise", "chance", {"AK": 2.0})
    assert (drawn.curve, drawn.series, drawn.dose) == ("c", "noise-chance", 2.0)
    few = recipe_with(curves={"c": {"real_doses": [0.125]}})
    assert [name for name in few.arms if "real" in name] == ["c-real-12_5"]
    numbers = recipes.parse(phantom_recipe(**{**CURVE, "curves": {"c": {"images": [3, 7], "real_doses": [3]}}}))
    assert [name for name in numbers.arms if name != "none"] == ["c-real-3", "c-copies-3", "c-copies-7"]
    assert numbers.arms["c-copies-7"].add == {"AK": 7}


def test_a_curve_survives_being_written():
    found = recipe_with()
    text = recipes.to_toml(found)
    assert "c-real" not in text
    assert "curves.c" in text
    assert recipes.parse(recipes.tomllib.loads(text)) == found


def test_each_dose_is_judged_against_as_many_copies_and_the_largest_alone_is_in_the_family():
    merged = recipe_with(
        generators={"dcgan": {"plugin": "dcgan", "classes": ["AK"]}},
        curves={"c": {"generators": ["dcgan"], "selections": [""]}},
    )
    design = Design(merged, {"AK": 10, "NV": 100})
    assert design.family == ("c-dcgan-200",)
    assert design.controls == ("c-real-200",)
    assert design.references("c-dcgan-50") == {"none": "none", "duplicates": "c-copies-50"}
    assert merged.model_copy(update={"study": merged.study.model_copy(update={"family": ("c-dcgan-50",)})}).family(
        roles(merged)
    ) == ("c-dcgan-50",)
    assert Arm(merged, "c-dcgan-50").selects_for == "c-dcgan-200"
    assert Arm(merged, "none").selects_for == "none"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"curves": {"c": {"doses": [1, 0.5]}}}, ["curves.c", "doses rise"]),
        ({"curves": {"c": {"doses": [0, 1]}}}, ["curves.c.doses"]),
        ({"curves": {"c": {"images": [4, 8]}}}, ["curves.c", "not both"]),
        ({"curves": {"c": {"generators": ["nose"]}}}, ["curves.c", '"noise"']),
        ({"curves": {"c": {"classes": ["NV"]}}}, ["curves.c.classes", '"NV"', "held back"]),
        ({"curves": {"c": {"selections": ["chanse"]}}}, ["chanse", '"chance"']),
        ({"curves": {"c d": {"doses": [1]}}}, ['"c d"']),
        ({"generators": {"noise": {"classes": ["DF"]}}}, ["curves.c", 'does not learn "AK"']),
        ({"split": {"reserve": 0.5}}, ["split", "give one"]),
        ({"split": {"scarcity": {"NV": 9}}}, ["split.scarcity", '"NV"', "target_classes"]),
        ({"split": {"scarcity": {"AK": 0}}}, ["split.scarcity.AK"]),
        ({"split": {"scarcity": {"AK": [60, 30]}}}, ["scarcity.AK", "rise"]),
        ({"study": {"target_classes": []}}, ["curves.c", "target_classes"]),
        ({"arms": {"c-real-50": {"balance": "none"}}}, ["arms.c-real-50", "rename"]),
        ({"arms": {"mine": {"balance": "none", "dose": 3}}}, ["arms.mine", "curves"]),
        (
            {
                "generators": {"real": {"plugin": "noise", "classes": ["AK"], "size": 16}},
                "curves": {"c": {"real_doses": [0.25], "generators": ["real"]}},
            },
            ["curves.c", 'series "real"'],
        ),
        (
            {
                "generators": {"noise-chance": {"plugin": "noise", "classes": ["AK"], "size": 16}},
                "curves": {"c": {"generators": ["noise", "noise-chance"]}},
            },
            ["curves.c", '"c-noise-chance-50"', "rename"],
        ),
    ],
)
def test_curves_that_make_no_sense(change: dict[str, Any], words: list[str]):
    with pytest.raises(RecipeError) as caught:
        recipe_with(**change)
    for word in words:
        assert word in str(caught.value)


def test_a_curve_needs_images_that_are_held_back():
    values = phantom_recipe(**CURVE)
    del values["split"]["scarcity"]
    with pytest.raises(RecipeError, match=r"curves.c.*\n?.*split.scarcity"):
        recipes.parse(values)
    recipes.parse(recipes.merge(values, {"split": {"reserve": 0.5}}))


def test_a_dose_beyond_the_reserve_says_what_there_is(tmp_path: Path):
    found = recipe_with(curves={"c": {"doses": [1, 900]}})
    prepared = prepare(found, tmp_path)
    held = prepared.part(0, RESERVE)
    with pytest.raises(RecipeError) as caught:
        plans.plan(found, prepared)
    assert f"holds {len(held)} (of {len(set(held.groups))} lesions)" in str(caught.value)
    assert "c-real-90000" in str(caught.value)


@pytest.mark.slow
def test_larger_doses_contain_smaller_ones_whatever_the_series(tmp_path: Path):
    found = recipe_with()
    run_study(found, tmp_path, workers=1, device="cpu")
    prepared, stages = prepare(found, tmp_path), plans.plan(found, prepare(found, tmp_path))
    added = {
        (each.name, each.trial): each.extra(prepared, tmp_path).images.tolist() for each in of_kind(stages, Classifier)
    }
    for series in ("real", "copies", "noise", "noise-chance"):
        for trial in range(2):
            few, some, many = (added[f"c-{series}-{dose}", trial] for dose in (50, 100, 200))
            assert 0 < len(few) < len(some) < len(many)
            assert set(few) <= set(some) <= set(many)
            if series == "copies":
                assert many[: len(some)] == some
    assert len(set(added["c-real-200", 0])) == len(added["c-real-200", 0])
    assert added["c-real-200", 0] != added["c-real-200", 1]
    assert len({stage.folder for stage in of_kind(stages, Selection)}) == 2, "one selection a trial for all doses"
    seen = {arm.images_seen for arm in load(tmp_path).arms}
    assert len(seen) == 1
    controls = {control.arm for control in load(tmp_path).controls}
    assert controls == {"c-real-200", "c-noise-200", "c-noise-chance-200"}


def test_every_level_sees_as_many_images(tmp_path: Path):
    found = recipe_with(
        study={"num_trials": 1}, split={"scarcity": {"AK": [3, 6]}}, curves={"c": {"doses": [0.5], "selections": [""]}}
    )
    epochs, real = set[int](), set[int]()
    for name, level in found.levels().items():
        prepared = prepare(level, tmp_path / name)
        for stage in of_kind(plans.plan(level, prepared), Classifier):
            epochs.add(stage.num_images(prepared))
            real.add(len(prepared.part(0, "train")))
    assert len(real) == 2
    assert len(epochs) == 1


def test_levels_are_studies_that_differ_in_the_lesions_that_stay_alone():
    found = recipe_with(split={"scarcity": {"AK": [3, 5]}})
    levels = found.levels()
    assert list(levels) == ["lesions-5", "lesions-3"]
    with pytest.raises(RecipeError, match="2 levels"):
        found.scarcity  # noqa: B018
    assert [level.scarcity for level in levels.values()] == [{"AK": 5}, {"AK": 3}]
    assert {level.study.seed for level in levels.values()} == {found.study.seed}
    assert recipe_with().levels() == {"": recipe_with()}
    two = recipe_with(
        study={"target_classes": ["AK", "DF"]},
        split={"scarcity": {"AK": [3, 5], "DF": [2, 5]}},
        curves={"c": {"classes": ["AK"]}},
    )
    assert list(two.levels()) == ["lesions-5", "lesions-3-2"]


@pytest.mark.slow
def test_levels_are_run_by_one_command_and_their_worths_read_at_once(tmp_path: Path, call: Callable[..., Result]):
    found = recipe_with(split={"scarcity": {"AK": [2, 3]}}, curves={"c": {"doses": [0.5, 1], "selections": [""]}})
    (tmp_path / "levels.toml").write_text(recipes.to_toml(found))
    ended = call("study", "levels.toml", "--workers", "1", "--out", "runs/levels")
    assert ended.code == 0, ended.err
    assert ended.out.index("lesions-3") < ended.out.index("lesions-2")
    of = {name: load(tmp_path / "runs/levels" / name) for name in ("lesions-2", "lesions-3")}
    assert len({arm.images_seen for results in of.values() for arm in results.arms}) == 1
    assert [r.registration.declared.scarcity for r in of.values() if r.registration] == [{"AK": 2}, {"AK": 3}]
    said = call("worth", "runs/levels")
    assert said.code == 0
    assert "lesions-2" in said.out
    assert "lesions-3" in said.out


@pytest.mark.slow
def test_levels_that_cannot_be_are_told_before_anything_is_computed(tmp_path: Path, call: Callable[..., Result]):
    found = recipe_with(split={"scarcity": {"AK": [2, 400]}})
    (tmp_path / "levels.toml").write_text(recipes.to_toml(found))
    ended = call("study", "levels.toml", "--workers", "1", "--out", "runs/levels")
    assert ended.code == 1
    assert '400 lesions of "AK" are to stay' in ended.err
    assert not [*tmp_path.rglob("done.json")]


@pytest.mark.slow
def test_a_study_takes_what_a_sibling_has_finished(tmp_path: Path):
    found = recipe_with(curves={"c": {"doses": [1], "generators": [], "selections": [""]}})
    first = run_study(found, tmp_path / "a", workers=1, device="cpu")
    for stage in first.stages:
        (tmp_path / "a" / stage.folder / "mark").touch()
    again = run_study(found, tmp_path / "b", workers=1, device="cpu", siblings=[tmp_path / "a"])
    assert all((tmp_path / "b" / stage.folder / "mark").exists() for stage in again.stages)
    assert [c.difference for c in again.results.comparisons] == [c.difference for c in first.results.comparisons]
    assert np.isfinite([c.difference for c in again.results.comparisons]).any()
    with pytest.raises(RunError):
        arms_of(found) and load(tmp_path / "c")
