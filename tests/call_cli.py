"""Calls the command line in this process, as a user would from a shell."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from moulage import cli


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


def settings(values: dict[str, Any], table: str = "") -> Iterator[str]:
    """``--set key=value`` for each of these options."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from settings(value, f"{table}{key}.")
        else:
            yield from ("--set", f"{table}{key}={json.dumps(value)}")


def caller(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, folder: Path) -> Callable[..., Result]:
    """``moulage ...`` as a function of its arguments, run in a folder of its own."""
    monkeypatch.chdir(folder)

    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["moulage", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call
