"""A study from recipe to results: prepare, plan, estimate, run or resume, collect.

Which stages, in which order, on which engine; nothing here knows what kinds of stages there are.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moulage import runs
from moulage.arm import roles
from moulage.engines.engine import Engine, Job, WorkerDied
from moulage.engines.local import Local, one_thread_each
from moulage.recipe import Recipe, differences
from moulage.recipe import load as load_recipe
from moulage.registration import register
from moulage.results import Results
from moulage.stages import plan as plans
from moulage.stages.data import RECIPE, Prepared, prepare
from moulage.stages.stage import Stage, execute
from moulage.stages.timing import time_steps
from moulage.stages.witness import check_run


@dataclass
class Watch:
    """What a study tells whoever looks on; the command line draws it, a library user may leave it out."""

    say: Callable[[str], None] = lambda text: None  # one line about what happens
    progress: runs.Progress = runs.no_progress  # how far reading and decoding are
    # the stages to come with their estimated core-seconds, before the first starts
    estimated: Callable[[list[tuple[Stage, float]]], None] = lambda found: None
    # called a few times a second with finished, running (stage, its progress.json) and waiting stages
    running: Callable[[int, list[tuple[Stage, dict[str, Any]]], int], None] = lambda done, running, waiting: None


@dataclass(frozen=True)
class Outcome:
    """A finished study: its folder, data, stages, and results (None for a run without arms)."""

    run: Path
    prepared: Prepared
    stages: list[Stage]
    results: Results | None = None


def run_study(
    recipe: Recipe,
    run: Path,
    *,
    workers: int = 1,
    device: str = "auto",
    command: str = "",
    watch: Watch | None = None,
    engine: Engine | None = None,
    siblings: Sequence[Path] = (),
) -> Outcome:
    """Run a study, or go on with it where it stopped.

    Args:
        recipe: what to do.
        run: the run folder; created, or found from before.
        workers: processes, one thread each.
        device: ``auto``, ``cpu``, ``cuda``.
        command: the command that repeats this, for the report.
        watch: who looks on.
        engine: where stages run; ``workers`` processes on this machine if left out.
        siblings: run folders whose finished stages are taken where this study has the same.

    Raises:
        MoulageError: whatever stops it; what is finished is kept, and the same call goes on from there.
    """
    from moulage.devices import pick_device

    watch = watch or Watch()
    pick_device(device)  # a wrong one is refused before data are read
    plans.check(recipe)
    runs.claim(run)
    with runs.lock(run), one_thread_each():
        for line in changed(recipe, run):
            watch.say(f"changed since the last run: {line}")
        prepared = prepare(recipe, run, num_workers=workers, progress=watch.progress, say=watch.say)
        stages = plans.plan(recipe, prepared)
        plans.save(stages, run)
        if recipe.arms:
            _register(recipe, prepared, run, watch)
        _take(stages, run, siblings)
        todo = [stage for stage in stages if not stage.is_done(run)]
        if len(todo) < len(stages):
            watch.say(f"{len(stages) - len(todo)} of {len(stages)} tasks are finished already")
        if todo:
            with engine or Local(workers) as where:
                watch.estimated(_estimate(where, prepared, run, todo, device))
                _run_all(where, run, stages, device, watch)
        if not recipe.arms:
            return Outcome(run, prepared, stages)
        from moulage.collect import collect

        watch.say("checking that nothing leaked")
        check_run(prepared, run, stages)
        watch.say("comparing the arms")
        return Outcome(run, prepared, stages, collect(recipe, prepared, run, stages, command))


def _take(stages: Sequence[Stage], run: Path, siblings: Sequence[Path]) -> None:
    """Link finished stages of other runs: the same folder name is the same computation, and files are never changed."""
    for stage in stages:
        found = None if stage.is_done(run) else next((each for each in siblings if stage.is_done(each)), None)
        if found is not None and not (run / stage.folder).exists():
            with runs.atomic(run / stage.folder) as temporary:
                shutil.copytree(found / stage.folder, temporary, copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def _register(recipe: Recipe, prepared: Prepared, run: Path, watch: Watch) -> None:
    """Fix what the study will look at before any of it is computed, and say so."""
    record = register(recipe, run, roles(recipe), prepared.digests)
    state = "before" if record["before_test"] else "AFTER"
    declared = record["declared"]
    watch.say(f"registered {state} the test part was opened: {record['digest']} ({record['date']})")
    watch.say(
        f"  primary measure {declared['primary']}, target classes {', '.join(declared['target_classes']) or 'none'}, "
        f"smallest effect {declared['smallest_effect']:g}, judged together: {', '.join(declared['family']) or 'no arm'}"
    )
    if record["note"]:
        watch.say(record["note"])


def changed(recipe: Recipe, run: Path) -> list[str]:
    """The settings that differ from those of the last run in this folder."""
    path = run / RECIPE
    old = load_recipe(path) if path.exists() else recipe
    return list(differences(old.model_dump(mode="json"), recipe.model_dump(mode="json")))


def _run_all(engine: Engine, run: Path, stages: Sequence[Stage], device: str, watch: Watch) -> None:
    """Run every stage whose needs are done, until none is left; the first error stops the rest."""
    waiting = [stage for stage in stages if not stage.is_done(run)]
    done = {stage.folder for stage in stages} - {stage.folder for stage in waiting}
    running: dict[Job[None], Stage] = {}
    while waiting or running:
        for stage in [stage for stage in waiting if done.issuperset(need.folder for need in stage.needs)]:
            running[engine.submit(execute, run, stage, device)] = stage
            waiting.remove(stage)
        for job in engine.wait(running, 0.3):
            try:
                job.answer()
            except WorkerDied as error:
                raise WorkerDied(f"{error.message[:-1]}, perhaps in {running[job]}.", error.hint) from None
            done.add(running.pop(job).folder)
        shown = [(stage, state) for stage in running.values() if (state := _state(run / stage.folder)) is not None]
        watch.running(len(done), shown, len(stages) - len(done) - len(shown))


def _state(folder: Path) -> dict[str, Any] | None:
    """The progress of a stage that has begun; None before that."""
    path = folder / "progress.json"
    return runs.read_json(path) if path.exists() else None


def _estimate(
    engine: Engine, prepared: Prepared, run: Path, todo: Sequence[Stage], device: str
) -> list[tuple[Stage, float]]:
    """Core-seconds of each stage to come that can tell, from a few steps of it; those alike are timed once."""
    timed: dict[str, Job[float]] = {}
    found: list[tuple[Stage, Job[float]]] = []
    for stage in todo:
        num_images = stage.num_images(prepared)
        if num_images:
            key = runs.digest(stage.kind, stage.alike(), num_images)
            if key not in timed:
                timed[key] = engine.submit(time_steps, stage, num_images, device)
            found.append((stage, timed[key]))
    estimate = [(stage, job.answer()) for stage, job in found]
    runs.write_json(run / "estimate.json", {str(stage): seconds for stage, seconds in estimate})
    return estimate
