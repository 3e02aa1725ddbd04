"""Calls the command line in this process, as a user would from a shell."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from moulage import cli


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


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
