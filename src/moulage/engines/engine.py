"""What an engine is: a place where calls run beside each other, on this machine or on others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from moulage.errors import RunError

Answer = TypeVar("Answer", covariant=True)


class WorkerDied(RunError):
    """A worker ended in the middle of a call, by no error of the call: killed, out of memory, or its machine is gone.

    Whoever runs stages may submit the same call again: a stage goes on from what is in its folder.
    """


class Job(Protocol[Answer]):
    """A call that was handed to an engine."""

    def answer(self) -> Answer:
        """What the call returned, or the error that it raised; waits for it.

        Raises:
            WorkerDied: the worker ended before the call did.
        """
        ...


class Engine(Protocol):
    """Runs calls. It is a context manager: whatever stops the block stops what runs, in the middle of what it does."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *error: object) -> None: ...

    def submit(self, call: Callable[..., Answer], /, *arguments: Any) -> Job[Answer]:
        """Hand over a call of a module's function with arguments that can be pickled; it starts when there is room."""
        ...

    def wait(self, jobs: Iterable[Job[Any]], seconds: float) -> list[Job[Any]]:
        """The jobs that have ended, as soon as one has, or none after so many seconds."""
        ...

    def cancel(self) -> None:
        """Stop everything that runs or waits, at once."""
        ...
