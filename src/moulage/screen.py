"""What a person sees in the terminal: progress on stderr, tables on stdout. Rich is imported when it is needed."""

import time
from typing import Any

SECONDS_BETWEEN_LINES = 60.0
"""Where there is no terminal a line says how far the tasks are, this often."""


class Screen:
    """Progress on stderr: lines that stay, and bars with rate and time left while something runs."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(stderr=True)
        name, note = (TextColumn(f"{{task.{what}}}", markup=False) for what in ("description", "fields[note]"))
        columns = (name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), note)
        self.bars = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.known: dict[str, Any] = {}
        self.num_done, self.next_line = -1, 0.0

    def __enter__(self) -> "Screen":
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def watch(self) -> Any:
        from moulage.study import Watch

        return Watch(self.say, self.progress, self.estimated, self.running)

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, style="dim", markup=False, highlight=False)

    def progress(self, done: int, total: int, note: str = "") -> None:
        """How far reading and decoding are."""
        self._show("images", done, total, note)

    def estimated(self, found: list[tuple[Any, float]]) -> None:
        """The cost of what is to come, by kind."""
        by_kind: dict[str, list[float]] = {}
        for stage, seconds in found:
            by_kind.setdefault(f"{stage.kind} {stage.takes_time}", []).append(seconds)
        for kind, each in by_kind.items():
            self.say(f"to do: {len(each)} x {kind}, about {sum(each) / 60:.1f} core-minutes in all")

    def running(self, done: int, running: list[tuple[Any, dict[str, Any]]], waiting: int) -> None:
        """Bars for the tasks that run now; without a terminal, a line whenever one ends."""
        self._show("tasks", done, done + len(running) + waiting, "")
        names = {str(task) for task, _ in running}
        for name in [name for name in self.known if name not in names | {"tasks"}]:
            self.bars.remove_task(self.known.pop(name))
        for task, state in running:
            self._show(str(task), state["done"], state["total"], state["note"])
        if not self.console.is_terminal and (done != self.num_done or time.monotonic() > self.next_line):
            self.next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            states = ", ".join(f"{task} ({_told(state)})" for task, state in running) or "-"
            self.say(f"{done} of {done + len(running) + waiting} tasks done; running: {states}")
        self.num_done = done

    def _show(self, name: str, done: int, total: int, note: str) -> None:
        if name not in self.known:
            self.known[name] = self.bars.add_task(name, total=total, note=note)
        self.bars.update(self.known[name], completed=done, total=total, note=note)


def _told(state: dict[str, Any]) -> str:
    """How far a task is and, where it can be told, how long still."""
    left = state.get("seconds_left") or 0.0
    told = f"{state['done']} of {state['total']} {state['note']}".strip()
    return told + (f", about {left / 60:.0f} min left" if left > 60 else "")


def show_table(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows, all with the same columns, as a table on stdout; 120 characters wide where that is no terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", header_style="bold")
    for column in rows[0] if rows else ["nothing"]:
        table.add_column(str(column), overflow="fold")
    for row in rows:
        table.add_row(
            *(Text(f"{v:.3f}" if isinstance(v, float) else "-" if v is None else str(v)) for v in row.values())
        )
    console = Console()
    console.print(table) if console.is_terminal else Console(width=120).print(table)
