"""Worker processes on this machine, one thread each."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context
from typing import Any, Generic, TypeVar

from moulage import runs
from moulage.engines.engine import Job, WorkerDied

Answer = TypeVar("Answer")

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    # Tensors of a training step are freed and asked for again at once: keeping their pages saves faulting them in anew.
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
}
"""One thread a process: two such processes use two cores better than one with two threads, and their sums repeat."""


@dataclass(frozen=True, eq=False)
class LocalJob(Generic[Answer]):
    """A call in a worker process."""

    future: Future[Answer]

    def answer(self) -> Answer:
        try:
            return self.future.result()
        except BrokenProcessPool:
            raise WorkerDied(
                "A worker process died.",
                "Often memory ran out: use fewer --workers or smaller batches. The same command goes on from here.",
            ) from None


class Local:
    """An engine of ``num_workers`` processes."""

    def __init__(self, num_workers: int) -> None:
        self.num_workers = num_workers
        self.open = contextlib.ExitStack()

    def __enter__(self) -> Local:
        self.open.enter_context(one_thread_each())
        pool = ProcessPoolExecutor(self.num_workers, get_context("spawn"), initializer=runs.start_worker)
        self.pool = self.open.enter_context(pool)
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self.cancel()
        self.open.close()

    def submit(self, call: Callable[..., Answer], /, *arguments: Any) -> LocalJob[Answer]:
        try:
            return LocalJob(self.pool.submit(call, *arguments))
        except BrokenProcessPool as error:  # it died since, in another job
            broken = Future[Answer]()
            broken.set_exception(error)
            return LocalJob(broken)

    def wait(self, jobs: Iterable[Job[Any]], seconds: float) -> list[Job[Any]]:
        by_future = {job.future: job for job in jobs if isinstance(job, LocalJob)}  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        finished, _ = wait(by_future, timeout=seconds, return_when=FIRST_COMPLETED)
        return [by_future[future] for future in finished]

    def cancel(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in active_children():
            process.terminate()


@contextlib.contextmanager
def one_thread_each() -> Generator[None]:
    """Worker processes that are begun in this block inherit ``ENVIRONMENT``; what the user has set wins."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
