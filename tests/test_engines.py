"""Engines: calls beside each other in worker processes, what a dead worker looks like, the door for another engine."""

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from call_cli import caller
from moulage import recipe as recipes
from moulage import runs
from moulage.engines.engine import Engine, Job, WorkerDied
from moulage.engines.local import ENVIRONMENT, Local
from moulage.errors import RecipeError, RunError
from moulage.stages import data, plan
from moulage.stages.stage import STAGE, Stage, from_json, to_json
from moulage.study import run_study
from small_study import Small

SCRATCH = {"name": "test_resnet", "weights": "scratch"}
RECIPE: dict[str, Any] = {
    "study": {"name": "tiny", "num_trials": 1, "target_classes": ["AK", "VASC"]},
    "data": {"source": "phantom", "options": {"num_images": 200, "size": 32, "min_lesions": 8}},
    "split": {"validation": 0.2, "test": 0.3},
    "generators": {"noise": {"plugin": "noise", "classes": ["AK", "VASC"], "size": 32}},
    "selections": {"some": {"rules": [{"plugin": "random"}], "features": {"backbone": SCRATCH}}},
    "classifier": {"plugin": "probe", "options": {"size": 32, "penalty": 0.1, "backbone": SCRATCH}},
    "arms": {
        "none": {"balance": "none"},
        "drawn": {"balance": "synthesize", "generator": "noise", "add": {"AK": 3}},
        "chosen": {"balance": "synthesize", "generator": "noise", "selection": "some", "like": "drawn"},
        "softmax": {"balance": "balanced_softmax", "treatment": "mixup"},
    },
}


def variable(name: str) -> str:
    return os.environ.get(name, "")


def refuse() -> None:
    raise RecipeError("This cannot be.", "Ask for something else.")


def die() -> None:
    os._exit(9)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def test_calls_run_in_workers_that_have_one_thread_each(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with Local(2) as engine:
        jobs = [engine.submit(variable, name) for name in ENVIRONMENT]
        waiting = set(jobs)
        while waiting:
            waiting -= set(engine.wait(waiting, 5))
        assert [job.answer() for job in jobs] == list(ENVIRONMENT.values())
    assert "OMP_NUM_THREADS" not in os.environ


def test_an_error_of_a_call_comes_back_as_it_was_raised():
    with pytest.raises(RecipeError) as caught, Local(1) as engine:
        engine.submit(refuse).answer()
    assert (caught.value.message, caught.value.hint) == ("This cannot be.", "Ask for something else.")


def test_a_dead_worker_is_no_error_of_the_call():
    with Local(1) as engine:
        with pytest.raises(WorkerDied, match="A worker process died"):
            engine.submit(die).answer()
        with pytest.raises(WorkerDied):  # whoever submits after that is told the same
            engine.submit(variable, "HOME").answer()


def test_what_stops_the_block_stops_what_runs():
    start = time.monotonic()

    def interrupted() -> None:
        with Local(1) as engine:
            engine.submit(sleep, 600.0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - start < 60


class Here:
    """An engine that does each call when it is submitted, in this process."""

    def __init__(self, fail_at: str = "") -> None:
        self.fail_at, self.done = fail_at, list[str]()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error: object) -> None: ...

    def submit(self, call: Callable[..., Any], /, *arguments: Any) -> Job[Any]:
        stage = next((each for each in arguments if isinstance(each, Stage)), None)
        if stage is not None and stage.kind == self.fail_at and call.__name__ == "execute":
            return Ended(WorkerDied("The machine is gone.", "Start it again."))
        if stage is not None and call.__name__ == "execute":
            self.done.append(stage.folder)
        return Ended(call(*arguments))

    def wait(self, jobs: Iterable[Job[Any]], seconds: float) -> list[Job[Any]]:
        return list(jobs)

    def cancel(self) -> None: ...


class Ended:
    def __init__(self, value: Any) -> None:
        self.value = value

    def answer(self) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@pytest.mark.slow
def test_a_study_runs_on_any_engine_and_goes_on_after_a_worker_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MOULAGE_CACHE", str(tmp_path / "cache"))
    recipe, run = recipes.parse(RECIPE), tmp_path / "run"
    with pytest.raises(WorkerDied, match=r"The machine is gone, perhaps in selection some, trial 0\."):
        run_study(recipe, run, device="cpu", engine=Here("selection"))
    engine = Here()
    outcome = run_study(recipe, run, device="cpu", engine=engine)
    assert outcome.results is not None
    assert not any(folder.startswith(("generators", "samples")) for folder in engine.done), "these were done before"
    assert engine.done[-1].startswith("classifiers/chosen")


@pytest.mark.slow
def test_stages_are_run_by_hand_from_what_the_plan_says(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MOULAGE_CACHE", str(tmp_path / "cache"))
    small = Small(RECIPE, tmp_path / "one")
    other = tmp_path / "two"
    prepared = data.prepare(small.recipe, other)
    plan.save(plan.plan(small.recipe, prepared), other)
    call = caller(capsys, monkeypatch, tmp_path)
    chosen = small.stage("classifier", "chosen")
    early = call("run-stage", other, chosen.folder, "--device", "cpu")
    assert early.code == 1
    assert "which is not done" in early.err
    for stage in small.stages:
        assert call("run-stage", other, Path(stage.folder).name, "--device", "cpu").code == 0
    for name in ("test.parquet", "validation.parquet", "witness.json", STAGE):
        assert (other / chosen.folder / name).read_bytes() == (small.run / chosen.folder / name).read_bytes()
    unknown = call("run-stage", other, "classifiers/chosn")
    assert unknown.code == 1
    assert "There is no stage" in unknown.err
    assert "several" not in unknown.err
    several = call("run-stage", other, "")
    assert "stages are called" in several.err


@pytest.mark.slow
def test_a_stage_is_its_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every kind survives JSON with its folder and its needs; a damaged one names the place."""
    monkeypatch.setenv("MOULAGE_CACHE", str(tmp_path / "cache"))
    recipe = recipes.parse(RECIPE)
    stages = plan.plan(recipe, data.prepare(recipe, tmp_path / "run"))
    assert {stage.kind for stage in stages} == {kind.kind for kind in plan.KINDS} - {"fidelity"}
    for stage in stages:
        again = from_json(type(stage), to_json(stage), "here")
        assert again == stage
        assert (again.folder, str(again)) == (stage.folder, str(stage))
        assert [need.folder for need in again.needs] == [need.folder for need in stage.needs]
    values = to_json(stages[-1])
    with pytest.raises(RunError, match="here: num_slots"):
        from_json(type(stages[-1]), {**values, "num_slots": "many"}, "here")
    folder = tmp_path / "elsewhere"
    stages[-1].save(folder)
    with pytest.raises(RunError, match="holds no generator"):
        type(stages[0]).load(folder)
    assert type(stages[-1]).load(folder) == stages[-1]
    assert "kind" in runs.read_json(folder / STAGE)
