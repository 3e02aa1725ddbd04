"""A small study, computed in this process, and ways to look at it and to spoil its records for the time of a block."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from moulage import recipe as recipes
from moulage import runs
from moulage.collect import collect
from moulage.data.catalog import REAL, Catalog
from moulage.errors import LeakError
from moulage.results import Results
from moulage.stages import data, plan, witness
from moulage.stages.classifier import EXTRA
from moulage.stages.stage import Stage, execute


class Small:
    """A finished run."""

    def __init__(self, values: dict[str, Any], run: Path) -> None:
        self.recipe, self.run = recipes.parse(values), run
        plan.check(self.recipe)
        self.prepared = data.prepare(self.recipe, run)
        self.stages = plan.plan(self.recipe, self.prepared)
        plan.save(self.stages, run)
        for stage in self.stages:
            execute(run, stage, "cpu")

    def collect(self) -> Results:
        """Its results, after its guards."""
        self.check()
        return collect(self.recipe, self.prepared, self.run, self.stages, "moulage study")

    def check(self, prepared: data.Prepared | None = None) -> None:
        witness.check_run(prepared or self.prepared, self.run, self.stages)

    def refused(self, *words: str, error: type[Exception] = LeakError, prepared: data.Prepared | None = None) -> None:
        """The run is refused; the message says all of this, such as the folder and what differs."""
        with pytest.raises(error) as caught:
            self.check(prepared)
        for word in words:
            assert word in str(caught.value)

    def stage(self, kind: str, name: str, trial: int = 0) -> Any:
        return next(s for s in self.stages if (s.kind, s.name, s.trial) == (kind, name, trial))

    def of_kind(self, kind: str) -> list[Any]:
        return [stage for stage in self.stages if stage.kind == kind]

    def part(self, name: str, trial: int = 0) -> Catalog:
        return self.prepared.part(trial, name)

    def catalog(self, stage: Stage) -> Catalog:
        return Catalog.load(self.run / stage.folder / "catalog.parquet")

    def extra(self, arm: str, trial: int = 0) -> pd.DataFrame:
        """What an arm added."""
        return pd.read_parquet(self.run / self.stage("classifier", arm, trial).folder / EXTRA)

    def witness(self, stage: Stage) -> dict[str, Any]:
        return json.loads((self.run / stage.folder / witness.FILE).read_text())

    @contextmanager
    def kept(self, stage: Stage, name: str) -> Iterator[Path]:
        """Whatever happens to this file is undone."""
        path = self.run / stage.folder / name
        before = path.read_bytes()
        try:
            yield path
        finally:
            path.write_bytes(before)

    @contextmanager
    def record(self, stage: Stage, **values: Any) -> Iterator[None]:
        """The stage's witness says something else."""
        with self.kept(stage, witness.FILE) as path:
            runs.write_json(path, {**self.witness(stage), **values})
            yield

    @contextmanager
    def added(self, stage: Stage, **row: str) -> Iterator[None]:
        """The arm added one more row, and says so."""
        with (
            self.kept(stage, EXTRA) as path,
            self.kept(stage, witness.FILE) as says,
            self.kept(stage, "done.json") as done,
        ):
            rows = pd.concat(
                [
                    pd.read_parquet(path),
                    pd.DataFrame([{"label": "AK", "split_digest": "", witness.IN_PLACE_OF: "", "parent": "", **row}]),
                ]
            )
            rows.to_parquet(path)
            real = rows["image"][rows["origin"] == REAL]
            origins = sorted(set(rows["origin"]) - {REAL})
            extra = {"extra": witness.rows_digest(rows), "extra_real": witness.names_digest(real), "origins": origins}
            runs.write_json(says, {**self.witness(stage), **extra})
            runs.write_json(done, {**runs.read_json(done), "files": runs.file_digests(path.parent)})
            yield
