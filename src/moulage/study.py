"""A study from recipe to results: prepare, plan, estimate, run or resume, collect."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from moulage import runs
from moulage.errors import RunError
from moulage.recipe import Recipe, differences, parse
from moulage.tasks import prepare
from moulage.tasks.plan import Task, plan, roles
from moulage.tasks.prepare import Prepared
from moulage.tasks.registration import register

WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    # Tensors of a training step are freed and asked for again at once: keeping their pages saves faulting them in anew.
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
}
"""One thread a process: two such processes use two cores better than one with two threads, and their sums repeat."""

TIMED = ("generator", "embedding", "features", "classifier")
"""Kinds of task that the estimate before a run times."""


@dataclass
class Watch:
    """What a study tells whoever looks on; the command line draws it, a library user may leave it out.

    Attributes:
        say: one line about what happens.
        progress: how far reading and decoding are.
        estimated: the tasks to come with their estimated core-seconds, before the first starts.
        running: called a few times a second with finished, running (task, its progress.json) and waiting tasks.
    """

    say: Callable[[str], None] = lambda text: None
    progress: runs.Progress = runs.no_progress
    estimated: Callable[[list[tuple[Task, float]]], None] = lambda found: None
    running: Callable[[int, list[tuple[Task, dict[str, Any]]], int], None] = lambda done, running, waiting: None


@dataclass(frozen=True)
class Outcome:
    """A finished study: its folder, data, tasks, and results (empty for a run without arms)."""

    run: Path
    prepared: Prepared
    tasks: list[Task]
    results: dict[str, Any] = field(default_factory=dict)


def run_study(
    recipe: Recipe, run: Path, *, workers: int = 1, device: str = "auto", command: str = "", watch: Watch | None = None
) -> Outcome:
    """Run a study, or go on with it where it stopped.

    Args:
        recipe: what to do.
        run: the run folder; created, or found from before.
        workers: processes, one thread each.
        device: ``auto``, ``cpu``, ``cuda``.
        command: the command that repeats this, for the report.
        watch: who looks on.

    Raises:
        MoulageError: whatever stops it; what is finished is kept, and the same call goes on from there.
    """
    watch = watch or Watch()
    prepare.check(recipe)
    with runs.lock(run), _worker_environment():
        for line in changed(recipe, run):
            watch.say(f"changed since the last run: {line}")
        prepared = prepare.prepare(recipe, run, num_workers=workers, progress=watch.progress, say=watch.say)
        tasks = plan(recipe, prepared)
        if recipe.arms:
            _register(recipe, run, watch)
        todo = [task for task in tasks if not task.is_done(run)]
        if len(todo) < len(tasks):
            watch.say(f"{len(tasks) - len(todo)} of {len(tasks)} tasks are finished already")
        if todo:
            with _workers(workers) as pool:
                watch.estimated(_estimate(pool, prepared, run, todo, device))
                _run_all(pool, run, tasks, device, watch)
        if not recipe.arms:
            return Outcome(run, prepared, tasks)
        from moulage.tasks.guards import check_run
        from moulage.tasks.results import collect

        watch.say("checking that nothing leaked")
        check_run(recipe, prepared, run, tasks)
        watch.say("comparing the arms")
        return Outcome(run, prepared, tasks, collect(recipe, prepared, run, tasks, command))


def _register(recipe: Recipe, run: Path, watch: Watch) -> None:
    """Fix what the study will look at before any of it is computed, and say so."""
    record = register(recipe, run, roles(recipe))
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
    import tomllib

    path = run / "recipe.toml"
    if not path.exists():
        return []
    old = parse(tomllib.loads(path.read_text(encoding="utf-8")), where=str(path))
    return list(differences(old.model_dump(mode="json"), recipe.model_dump(mode="json")))


@contextlib.contextmanager
def _workers(number: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes; whatever stops the block stops them at once, in the middle of what they do."""
    with ProcessPoolExecutor(number, mp_context=get_context("spawn"), initializer=runs.start_worker) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in active_children():
                process.terminate()
            raise


def _work(run: Path, task: Task, device: str) -> None:
    from moulage.tasks.execute import execute

    execute(run, task, device)


def _run_all(pool: ProcessPoolExecutor, run: Path, tasks: list[Task], device: str, watch: Watch) -> None:
    """Run every task whose needs are done, until none is left; the first error stops the rest."""
    waiting = [task for task in tasks if not task.is_done(run)]
    done = {task.folder for task in tasks} - {task.folder for task in waiting}
    running: dict[Future[None], Task] = {}
    while waiting or running:
        for task in [task for task in waiting if done.issuperset(task.needs)]:
            running[pool.submit(_work, run, task, device)] = task
            waiting.remove(task)
        finished, _ = wait(running, timeout=0.3, return_when=FIRST_COMPLETED)
        for future in finished:
            try:
                future.result()
            except BrokenProcessPool:
                raise RunError(
                    f"A worker process died, perhaps in {running[future]}.",
                    "Often memory ran out: use fewer --workers or smaller batches. The same command goes on from here.",
                ) from None
            done.add(running.pop(future).folder)
        shown = [(task, state) for task in running.values() if (state := _state(run / task.folder)) is not None]
        watch.running(len(done), shown, len(tasks) - len(done) - len(shown))


def _state(folder: Path) -> dict[str, Any] | None:
    """The progress of a task that has begun; None before that."""
    path = folder / "progress.json"
    return runs.read_json(path) if path.exists() else None


def _estimate(
    pool: ProcessPoolExecutor, prepared: Prepared, run: Path, todo: list[Task], device: str
) -> list[tuple[Task, float]]:
    """Core-seconds of each task to come of the kinds that are timed, from a few steps of each."""
    train = [split.part(prepared.catalog, "train") for split in prepared.splits]
    timed: dict[str, Future[float]] = {}
    found: list[tuple[Task, Future[float]]] = []
    for task in todo:
        classes = tuple(task.settings.get("classes", prepared.catalog.classes))
        own = train[task.trial if len(train) > 1 else 0]
        num_images = len(own.only(label=classes)) + task.settings.get("num_slots", 0)
        if task.kind in ("embedding", "features"):
            num_images = len(prepared.catalog) if task.settings["of"] == "real" else 0
        if task.kind not in TIMED or not num_images:
            continue
        named = {name: task.settings.get(name) for name in ("plugin", "config", "size")}
        key = runs.digest(task.kind, named, classes, num_images)
        if key not in timed:
            timed[key] = pool.submit(time_steps, task, classes, num_images, device)
        found.append((task, timed[key]))
    estimate = [(task, future.result()) for task, future in found]
    runs.write_json(run / "estimate.json", {str(task): seconds for task, seconds in estimate})
    return estimate


def time_steps(task: Task, classes: tuple[str, ...], num_images: int, device: str) -> float:
    """Core-seconds that a task of one of the kinds ``TIMED`` will take, from a few steps of it.

    On a CPU that others use as well a step takes longer than it costs: the share of it that we got is taken off.
    """
    from moulage.devices import pick_device
    from moulage.randomness import reproducible

    chosen = pick_device(device)
    with reproducible():
        wall, cpu = time.perf_counter(), time.process_time()
        seconds = _seconds(task, classes, num_images, str(chosen))
        share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    return seconds * (min(1.0, share) if chosen.type == "cpu" else 1.0)


def _seconds(task: Task, classes: tuple[str, ...], num_images: int, device: str) -> float:
    """Seconds that a task will take at the speed of a few steps."""
    from moulage import features, plugins

    settings = task.settings
    if task.kind == "features":
        network = plugins.validate(features.FeatureOptions, settings["config"], "features")
        return features.seconds(network, num_images, settings["size"], device=device)
    kind = "generators" if task.kind == "generator" else "classifiers"
    module, config = (
        plugins.load(kind, settings["plugin"]),
        plugins.configure(kind, settings["plugin"], settings["config"]),
    )
    if task.kind == "embedding":
        return module.embed_seconds(config, num_images, device=device)
    if task.kind == "generator":
        model = module.Generator(config, classes, settings["size"])
    else:
        model = module.Classifier(config, classes)
    num_steps, a_step = model.steps_and_seconds(num_images, device=device)
    return num_steps * a_step


@contextlib.contextmanager
def _worker_environment() -> Iterator[None]:
    """The environment that worker processes inherit; what the user has set wins."""
    before = {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}
    for name, value in WORKER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
