"""Registration: what a study will look at is written and hashed before the test part is opened."""

import numpy as np
import pytest

from fake_run import make_results
from moulage import openings, registration, results, runs
from moulage import recipe as recipes
from moulage.arm import roles
from moulage.errors import LeakError, RunError
from moulage.evaluation.predictions import Predictions
from moulage.registration import declaration, register

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


DATA = {"labels": "l0", "images": "i0", "parts": "p0"}


def declare(run, recipe, **data):
    return register(recipe, run, roles(recipe), {**DATA, **data})


def predict(run, fit="none-0-1"):
    """Predictions of a fit for the test part, in a run folder."""
    path = run / "classifiers" / fit / openings.TEST
    about = (("A", "B"), "none", 0, "test", "s")
    Predictions(np.array(["a", "b"]), np.array(["a", "b"]), np.array([0, 1]), np.eye(2), *about).save(path)
    return path


def open_test_part(run):
    """What every verb does that scores a finished fit."""
    Predictions.load(predict(run))


def test_roles_come_from_balance_and_generator():
    treated = {"balance": "none", "treatment": "balanced_softmax"}
    both = {"balance": "synthesize", "generator": "ak", "add": {"AK": 1}, "treatment": "focal"}
    adjusted = {"balance": "none", "treatment": "logit_adjustment_posthoc"}
    more = recipe_with(arms={"treated": treated, "both": both, "adjusted": adjusted, "focal": {"balance": "focal"}})
    assert roles(more) == {**KNOWN, "treated": "rival", "both": "synthetic", "adjusted": "rival", "focal": "rival"}


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
    assert {key: declared[key] for key in DATA} == DATA
    assert {"moulage", "torch", "code"} <= set(record["software"])
    assert registration.current(tmp_path) == record
    family = recipe_with(study={"family": ["gan", "copies"]})
    assert declaration(family, roles(family), DATA)["family"] == ["gan", "copies"]


def test_the_same_declaration_is_found_again(tmp_path):
    first = declare(tmp_path, recipe_with())
    stamp = (tmp_path / openings.FILE).stat().st_mtime_ns
    (tmp_path / "results.json").write_text("{}")
    assert declare(tmp_path, recipe_with()) == first
    assert declare(tmp_path, recipe_with(study={"question": "Why?", "name": "other"}, data={"path": "/x"})) == first
    assert (tmp_path / openings.FILE).stat().st_mtime_ns == stamp


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
    open_test_part(tmp_path)
    record = declare(tmp_path, recipe_with(**change))
    assert not record["before_test"]
    assert record["note"].startswith("Changed after the test part was opened")
    assert words in record["note"]
    assert [entry["digest"] for entry in record["history"]] == [first["digest"]]
    assert declare(tmp_path, recipe_with(**change)) == record


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"labels": "l1"}, "labels, lesions or other facts of the images"),
        ({"images": "i1"}, "pixels of the images"),
        ({"parts": "p1"}, "the parts of the split"),
    ],
)
def test_other_data_after_the_test_part_was_opened_are_told(tmp_path, data, words):
    declare(tmp_path, recipe_with())
    open_test_part(tmp_path)
    record = declare(tmp_path, recipe_with(), **data)
    assert not record["before_test"]
    assert f"Changed after the test part was opened: {words}. It was opened by `python`" in record["note"]


def test_whoever_reads_test_predictions_of_a_run_is_noted_once(tmp_path):
    declare(tmp_path, recipe_with())
    path = predict(tmp_path)
    for _ in range(2):
        Predictions.load(path)
    Predictions.load(predict(tmp_path, "copies-0-1"))
    [opened] = registration.current(tmp_path)["opened"]
    assert (opened["by"], opened["what"]) == ("python", "classifiers/none-0-1/test.parquet")
    path.rename(path.with_name("validation.parquet"))
    Predictions.load(path.with_name("validation.parquet"))
    elsewhere = predict(tmp_path / "elsewhere")
    Predictions.load(elsewhere)
    assert len(registration.current(tmp_path)["opened"]) == 1
    assert not (tmp_path / "elsewhere" / openings.FILE).exists()


def test_whoever_scores_on_test_images_has_opened_the_part(tmp_path):
    declare(tmp_path, recipe_with())
    for trial in range(2):
        openings.note(tmp_path, "fidelity", f"fidelity/gan-{trial}-1")
    assert declare(tmp_path, recipe_with())["before_test"]
    late = declare(tmp_path, recipe_with(study={"smallest_effect": 0.05}))
    assert [entry["what"] for entry in late["opened"]] == ["fidelity/gan-0-1"]
    assert not late["before_test"]
    assert "It was opened by `fidelity`" in late["note"]


def test_a_first_opening_that_cannot_be_noted_is_refused(tmp_path, monkeypatch):
    declare(tmp_path, recipe_with())
    path = predict(tmp_path)

    def read_only(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(openings.os, "open", read_only)
    with pytest.raises(RunError, match=r"cannot be written \(Permission denied\)"):
        Predictions.load(path)
    monkeypatch.undo()
    Predictions.load(path)
    monkeypatch.setattr(openings.os, "open", read_only)
    token = openings.READER.set("evaluate")
    assert len(Predictions.load(path)) == 2
    openings.READER.reset(token)


@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_history_that_was_changed_is_refused(tmp_path, line):
    declare(tmp_path, recipe_with())
    open_test_part(tmp_path)
    declare(tmp_path, recipe_with(study={"smallest_effect": 0.05}))
    path = tmp_path / openings.FILE
    lines = path.read_text().splitlines(keepends=True)
    changed = [text.replace('"date": "2', '"date": "1').replace('"by": "p', '"by": "q') for text in lines]
    path.write_text("".join([*lines[:line], changed[line], *lines[line + 1 :]]))
    with pytest.raises(LeakError, match=f"line {line + 1} was changed"):
        declare(tmp_path, recipe_with())
    if line < 2:
        path.write_text("".join([*lines[:line], *lines[line + 1 :]]))
        with pytest.raises(LeakError, match=f"line {line + 1} was changed, or one before it was taken out"):
            registration.current(tmp_path)
    path.write_text("".join(lines) + '{"event": "opened", "by"')  # a power cut: the line has no end
    assert registration.current(tmp_path)["declared"]["smallest_effect"] == 0.05
    openings.append(tmp_path, openings.OPENED, by="x", what="y")
    assert registration.current(tmp_path)["opened"][-1]["by"] == "x"


def test_other_software_is_told_and_changes_no_question(tmp_path, monkeypatch):
    first = declare(tmp_path, recipe_with())
    open_test_part(tmp_path)
    newer = {**registration.software(), "torch": "99"}
    monkeypatch.setattr(registration, "software", lambda: newer)
    record = declare(tmp_path, recipe_with())
    assert (record["before_test"], record["date"], record["digest"]) == (True, first["date"], first["digest"])
    assert "The software changed after the test part was opened: torch" in record["note"]
    assert "-> 99" in record["note"]


def test_a_history_that_is_gone_proves_nothing(tmp_path):
    declare(tmp_path, recipe_with())
    open_test_part(tmp_path)
    (tmp_path / openings.FILE).unlink()
    record = declare(tmp_path, recipe_with(study={"smallest_effect": 0.05}))
    assert not record["before_test"]
    assert f"{openings.FILE} is gone" in record["note"]


def test_a_result_is_never_older_than_its_question(tmp_path):
    found = make_results()
    assert found.registration is not None
    asked = found.registration.date
    make_results().model_copy(update={"date": asked}).save(tmp_path)
    assert results.load(tmp_path).date == asked
    found.model_copy(update={"date": asked.replace("2026", "2025")}).save(tmp_path)
    with pytest.raises(RunError, match="dated 2025-11-20 08:15 UTC, and was registered later"):
        results.load(tmp_path)


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
