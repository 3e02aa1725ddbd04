"""Run folders: nothing half written, nothing half understood."""

import json
import multiprocessing
import re
from contextlib import nullcontext

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from moulage import checkpoints, runs
from moulage.data.catalog import Catalog
from moulage.data.split import Split
from moulage.errors import RunError
from moulage.recipe import parse, to_toml
from moulage.stages import data as prepare
from recipes import phantom_recipe


def test_digest_depends_on_every_part_and_on_their_borders():
    assert runs.digest("a", 1) == runs.digest("a", 1)
    found = [runs.digest(*parts) for parts in (("ab",), ("a", "b"), ("a", 1), ("a", "1"), (b"ab",), ({"a": 1},))]
    assert len(set(found)) == len(found)
    assert runs.digest({"a": 1, "b": 2}) == runs.digest({"b": 2, "a": 1})


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "file.json"
    runs.write_json(path, {"old": 1})
    with pytest.raises(FileNotFoundError, match="gone"), runs.atomic(path) as temporary:
        temporary.write_text((tmp_path / "gone").read_text())
    assert runs.read_json(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_work_is_done_when_it_says_so(tmp_path):
    assert not runs.is_done(tmp_path)
    runs.finish(tmp_path, answer=42)
    assert runs.is_done(tmp_path)


def _parquet_of_format_1(path, table, **facts):
    pq.write_table(pa.Table.from_pandas(table).replace_schema_metadata({b"moulage": json.dumps(facts).encode()}), path)


def test_what_format_1_wrote_is_refused_with_what_to_do(tmp_path):
    """A run folder as it was then, by hand: catalogs and ``pixels.json`` did not state their format."""
    recipe = parse(phantom_recipe())
    runs.write_text(tmp_path / "recipe.toml", to_toml(recipe))
    runs.write_json(tmp_path / "pixels.json", {"folder": "/cache/pixels-0", "sizes": [32]})
    runs.write_json(tmp_path / "done.json", {"format": 1})
    table = pd.DataFrame({"image": ["a"], "label": ["AK"], "group": ["a"], "part": ["train"]})
    about = {"classes": ["AK"], "name": "then", "note": "", "unlabelled": []}
    _parquet_of_format_1(tmp_path / "catalog.parquet", table, **about)
    _parquet_of_format_1(tmp_path / "split.parquet", table, format=1, digest="0", scheme={})
    torch.save({"format": 1, "settings": "0", "step": 1, "state": {}}, tmp_path / "checkpoint-00000001.pt")
    for read in (
        lambda: runs.is_done(tmp_path),
        lambda: Catalog.load(tmp_path / "catalog.parquet"),
        lambda: Split.load(tmp_path / "split.parquet"),
        lambda: checkpoints.load(tmp_path, "0"),
        lambda: prepare.load(tmp_path),
        lambda: prepare.prepare(recipe, tmp_path),
    ):
        with pytest.raises(RunError, match="format 1; this moulage reads format 3") as caught:
            read()
        assert re.search("another .*folder", caught.value.hint)


def test_a_finished_folder_that_answers_for_no_file_is_refused(tmp_path):
    """As folders of format 2 may be: what stands in them cannot be proven."""
    runs.finish(tmp_path)
    (tmp_path / "test.parquet").touch()
    for prove in (lambda: runs.prove_files(tmp_path), lambda: runs.prove_file(tmp_path / "test.parquet")):
        with pytest.raises(RunError, match=r"done\.json lacks files") as caught:
            prove()
        assert "Delete it and run the command that makes it again" in caught.value.hint


def test_log_keeps_the_last_record_of_a_step_and_skips_a_torn_line(tmp_path):
    for step, loss in ((1, 0.5), (2, 0.4), (2, 0.3)):
        runs.log(tmp_path, step=step, loss=loss)
    with (tmp_path / "log.jsonl").open("a") as stream:
        stream.write('{"step": 3, "lo')
    assert runs.read_log(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.3}]
    assert runs.read_log(tmp_path / "nowhere") == []


def test_time_left_is_told_from_this_attempt_alone():
    pace = runs.Pace()
    assert pace.seconds_left(0, 1, 10.0) is None  # "starting"
    assert pace.seconds_left(501, 600, 20.0) is None  # resumed after 500 steps of another process
    assert pace.seconds_left(511, 600, 40.0) == pytest.approx(2.0 * 89)
    assert pace.seconds_left(600, 600, 300.0) == 0.0
    assert pace.seconds_left(3, 8, 400.0) is None  # the next part of the work
    assert pace.seconds_left(4, 8, 401.0) == pytest.approx(4.0)


def _try_lock(folder, queue):
    try:
        with runs.lock(folder):
            queue.put("got it")
    except RunError as error:
        queue.put(str(error))


def test_a_second_process_is_told_that_the_folder_is_in_use(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    for held, said in ((runs.lock(tmp_path), "in use by another process (pid"), (nullcontext(), "got it")):
        process = context.Process(target=_try_lock, args=(tmp_path, queue))
        with held:
            process.start()
            process.join()
        assert said in queue.get(timeout=5)


def test_broken_json_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(RunError, match=r"x\.json is not valid JSON"):
        runs.read_json(tmp_path / "x.json")
    with pytest.raises(RunError, match="is missing"):
        runs.read_json(tmp_path / "y.json")
    runs.write_json(tmp_path / "z.json", {"path": tmp_path})
    assert json.loads((tmp_path / "z.json").read_text()) == {"path": str(tmp_path)}
