"""Near-duplicates that a run shows to be looked at: ``pairs.json``, numbered as on the sheet ``pairs.png``."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict

from moulage import runs
from moulage.data.duplicates import Pair
from moulage.results.record import checked

FILE = "pairs.json"


@dataclass(frozen=True)
class ShownPair(Pair):
    """A pair with its number on the sheet, and its labels."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    number: int
    first_label: str
    second_label: str


def load(run: Path) -> list[ShownPair]:
    """The pairs of a run, none where there is no file; ``RunError`` where it is not what this version writes."""
    path = run / FILE
    return checked(list[ShownPair], runs.read_json(path), path) if path.exists() else []
