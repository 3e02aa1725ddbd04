"""Leaks planted as a user's mistake would: each is refused, or told, in one clear sentence."""

import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from moulage import contracts, openings, registration, runs
from moulage import recipe as recipes
from moulage.arm import roles
from moulage.data import png
from moulage.data.samples import read_provenance
from moulage.errors import LeakError
from moulage.evaluation.predictions import Predictions
from moulage.finished.ensemble import ensemble_runs
from moulage.recipe import merge
from moulage.registration import register
from moulage.stages import data, plan
from moulage.stages.generator import draw
from recipes import SCRATCH
from small_study import Small

RECIPE = {
    "study": {"name": "planted", "target_classes": ["AK"], "num_trials": 2},
    "data": {"source": "phantom", "options": {"num_images": 200, "size": 32, "min_lesions": 8}},
    "split": {"validation": 0.2, "test": 0.3},
    "generators": {"noise": {"plugin": "noise", "classes": ["AK"], "size": 32}},
    "classifier": {"plugin": "probe", "options": {"size": 32, "penalty": 0.1, "backbone": SCRATCH}},
    "arms": {"none": {"balance": "none"}, "drawn": {"balance": "synthesize", "generator": "noise", "add": {"AK": 6}}},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Small:
    small = Small(RECIPE, tmp_path_factory.mktemp("run"))
    small.check()
    return small


def declare(small: Small, **study):
    recipe = recipes.parse(merge(RECIPE, {"study": study}))
    return register(recipe, small.run, roles(recipe), small.prepared.digests)


def test_only_the_weights_of_a_generator_are_exchanged(finished, tmp_path):
    mine = finished.run / finished.stage("generator", "noise").folder
    test, plug = finished.part("test").only(label="AK"), contracts.generator("noise")
    cheat = plug.Generator(plug.configure({}), ("AK",), 32)
    labels = np.zeros(len(test), np.int64)
    cheat.fit(
        finished.prepared.images(test, 32), labels, seed=0, folder=tmp_path, device="cpu", progress=runs.no_progress
    )
    cheat.save(tmp_path)
    [weights] = [path.name for path in mine.iterdir() if path.suffix in (".safetensors", ".npz")]
    with finished.kept(finished.stage("generator", "noise"), weights) as path:
        shutil.copy(tmp_path / weights, path)
        with pytest.raises(LeakError, match=f"{weights} is not the file that was written there"):
            draw(mine, {"AK": 1}, 0, tmp_path / "drawn")
        finished.refused(str(path), "is not the file that was written there")


def test_a_generators_folder_holds_another_fit(finished, tmp_path):
    mine, other = (finished.run / finished.stage("generator", "noise", trial).folder for trial in (0, 1))
    shutil.copytree(mine, tmp_path / "kept")
    try:
        shutil.copytree(other, mine, dirs_exist_ok=True)
        finished.refused(mine.name, "holds another generator than its name says")
    finally:
        shutil.rmtree(mine)
        shutil.copytree(tmp_path / "kept", mine)
    finished.check()


def test_given_samples_are_overwritten_by_test_images(finished, tmp_path):
    folder = tmp_path / "given"
    draw(finished.run / finished.stage("generator", "noise").folder, {"AK": 8}, 0, folder)
    arm = {"balance": "synthesize", "samples": str(folder), "add": {"AK": 6}}
    recipe = recipes.parse({**RECIPE, "arms": {**RECIPE["arms"], "given": arm}})
    first = plan.plan(recipe, finished.prepared)
    test = finished.prepared.images(finished.part("test").only(label="AK"), 32)
    before = {path: path.read_bytes() for path in sorted(folder.glob("AK/*.png"))[:6]}
    for path, image in zip(before, test, strict=False):
        Image.fromarray(image).save(path)
    with pytest.raises(LeakError, match=r"is not the image that was drawn: .* carries no provenance"):
        plan.plan(recipe, finished.prepared)
    for path, image in zip(before, test, strict=False):  # by an editor that keeps the texts
        png.write(path, image, png.texts(before[path]))
    with pytest.raises(LeakError, match="does not show what was drawn"):
        plan.plan(recipe, finished.prepared)
    names = list(before)
    for path, other in zip(names, [*names[1:], names[0]], strict=True):  # only the names were mixed up
        path.write_bytes(before[other])
    with pytest.raises(LeakError, match="is listed with the seed 0, and says 1 itself"):
        plan.plan(recipe, finished.prepared)
    for path, content in before.items():
        path.write_bytes(content)
    assert [stage.folder for stage in plan.plan(recipe, finished.prepared)] == [stage.folder for stage in first]


def test_drawn_images_of_the_run_are_overwritten(finished):
    stage = finished.stage("samples", "noise")
    path = next((finished.run / stage.folder).glob("AK/*.png"))
    with finished.kept(stage, str(path.relative_to(finished.run / stage.folder))):
        Image.fromarray(finished.prepared.images(finished.part("test"), 32)[0]).save(path)
        finished.refused(path.name, "carries no provenance")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda table: table.assign(label=["NV", *table["label"][1:]]), 'the label of "{image}" is NV there, and AK'),
        (lambda table: table.assign(group=["mine", *table["group"][1:]]), 'the group of "{image}" is mine there'),
        (lambda table: table.assign(logit_AK=table["logit_AK"] + 1), "is not the file that was written there"),
    ],
)
def test_predictions_are_edited(finished, change, says):
    stage = finished.stage("classifier", "none")
    with finished.kept(stage, "test.parquet") as path:
        table = pq.read_table(path)
        meta, rows = table.schema.metadata, table.to_pandas().sort_values("label", kind="stable").reset_index(drop=True)
        edited = pa.Table.from_pandas(change(rows), preserve_index=False)
        pq.write_table(edited.replace_schema_metadata(meta), path)
        finished.refused(says.format(image=rows["image"][0]))
        with pytest.raises(LeakError, match="is not the file that was written there"):
            Predictions.load(path)


def test_validation_is_a_copy_of_test(finished, tmp_path):
    stage, copy = finished.stage("classifier", "none"), tmp_path / "copied"
    with finished.kept(stage, "validation.parquet") as path:
        shutil.copy(path.with_name("test.parquet"), path)
        finished.refused(str(path), "its images are not the validation part")
        for folders in ([finished.run], [path.parent, finished.run / finished.stage("classifier", "drawn").folder]):
            with pytest.raises(LeakError, match="its images are not the validation part"):
                ensemble_runs(folders, tmp_path / "out")
        for arm in ("none", "drawn"):  # fits that were copied out of their run have no split to ask
            shutil.copytree(finished.run / finished.stage("classifier", arm).folder, copy / arm)
        for done in copy.glob("*/done.json"):
            done.unlink()
        with pytest.raises(LeakError, match="the validation predictions are those of the test part"):
            ensemble_runs([copy / "none", copy / "drawn"], tmp_path / "out")
    assert ensemble_runs([finished.run], tmp_path / "out", methods=["mean"])["num_members"] == [2, 2]


def test_the_primary_measure_is_changed_after_evaluate_showed_the_test_part(finished, call):
    (finished.run / openings.FILE).unlink(missing_ok=True)  # of what other tests have read
    shutil.move(finished.run / "classifiers", finished.run / "later")
    first = declare(finished)
    assert first["before_test"]
    shutil.move(finished.run / "later", finished.run / "classifiers")
    shown = call("evaluate", finished.run, "--part", "validation")
    assert (shown.code, registration.current(finished.run)["opened"]) == (0, [])
    shown = call("evaluate", finished.run)
    assert shown.code == 0, shown.err
    assert "The test part of an unfinished study is open now" in shown.err
    fit = finished.run / finished.stage("classifier", "none").folder
    assert call("challenge", "write", fit / "test.parquet", "--out", "s.csv").code == 0
    assert call("ensemble", finished.run, "--out", "e").code == 0
    call("compare", fit / "test.parquet", finished.run / finished.stage("classifier", "drawn").folder / "test.parquet")
    said = [opened["by"] for opened in registration.current(finished.run)["opened"]]
    assert said == ["evaluate", "challenge", "ensemble", "compare"]
    late = declare(finished, primary="balanced_accuracy")
    assert not late["before_test"]
    assert "Changed after the test part was opened: primary: 'mean_average_precision' -> 'balanced_acc" in late["note"]
    assert "It was opened by `evaluate`" in late["note"]


def skin(folder: Path, num_images: int = 12) -> Path:
    """A data set as folders: two classes of noise on a gradient."""
    rng = np.random.default_rng(0)
    for label in ("AK", "NV"):
        (folder / label).mkdir(parents=True)
        for number in range(num_images):
            base = np.linspace(40, 200, 48)[:, None, None] * rng.uniform(0.3, 1, 3)
            pixels = np.clip(base + rng.normal(0, 60, (48, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{label}{number}.png")
    return folder


def prepared_from(folder: Path, run: Path) -> data.Prepared:
    values = {"study": {"name": "own"}, "data": {"source": "folder", "path": str(folder), "sizes": [32]}}
    return data.prepare(recipes.parse(values), run)


def test_labels_or_images_are_changed_after_the_results(tmp_path):
    folder, run = skin(tmp_path / "data"), tmp_path / "run"
    recipe = recipes.parse({"study": {"name": "own"}, "arms": {"none": {"balance": "none"}}})

    def declared():
        return register(recipe, run, roles(recipe), prepared_from(folder, run).digests)

    assert declared()["before_test"]
    openings.append(run, openings.OPENED, by="study", what="classifiers/none/test.parquet")
    assert declared()["before_test"]
    (folder / "AK" / "AK3.png").rename(folder / "NV" / "AK3.png")
    late = declared()
    assert (late["before_test"], "labels, lesions or other facts of the images" in late["note"]) == (False, True)
    (folder / "NV" / "AK3.png").rename(folder / "AK" / "AK3.png")
    assert declared()["before_test"]
    Image.open(folder / "AK" / "AK3.png").rotate(90).save(folder / "AK" / "AK3.png")
    late = declared()
    assert (late["before_test"], "pixels of the images" in late["note"]) == (False, True)


def test_our_own_images_among_the_real_ones(finished, tmp_path):
    folder = skin(tmp_path / "data")
    drawn = draw(finished.run / finished.stage("generator", "noise").folder, {"AK": 6}, 70, tmp_path / "drawn")
    paths = [Path(drawn.resolve(place)) for place in drawn.table["location"]]
    origin = read_provenance(paths[0])["origin"]
    for number, path in enumerate(paths[:3]):  # as they are, whatever they are called
        shutil.copy(path, folder / "AK" / f"photo{number}.{'jpg' if number else 'png'}")
    Image.open(paths[3]).save(folder / "NV" / "stripped.png")
    Image.open(paths[4]).save(folder / "NV" / "saved-again.jpg", quality=90)
    marked = Image.fromarray(np.asarray(Image.open(folder / "AK" / "AK0.png"))[::-1].copy())
    note = png.PngImagePlugin.PngInfo()
    note.add_itxt(png.XMP, "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia")
    marked.save(folder / "NV" / "elsewhere.png", pnginfo=note)
    prepared = prepared_from(folder, tmp_path / "run")
    found = runs.read_json(tmp_path / "run" / "audit.json")
    why = {Path(image).stem: reason for image, reason in found["quarantined"].items()}
    assert {name: reason for name, reason in why.items() if name.startswith("photo")} == {
        f"photo{number}": f"generated image: drawn by {origin}" for number in range(3)
    }
    assert why["stripped"] == f"generated image: the pixels that {origin} drew"
    assert why["elsewhere"] == "generated image: drawn by another tool"
    assert len(why) == 5
    assert len(prepared.catalog) == 25
    kinds = {finding["kind"]: finding for finding in found["findings"]}
    assert kinds["generated image"]["num_images"] == 4
    assert [Path(image).stem for image in kinds["perhaps generated"]["images"]] == ["saved-again"]


@pytest.fixture(scope="module")
def older(finished: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as a version before this one would have left it: everything says format 2, and no digests of files."""
    copy = shutil.copytree(finished.run, tmp_path_factory.mktemp("older") / "run")
    (copy / ".lock").touch()
    for path in copy.rglob("*.json"):
        values = runs.read_json(path)
        if isinstance(values, dict) and "format" in values:
            kept = {key: value for key, value in values.items() if key != "files"}
            runs.write_json(path, {**kept, "format": 2})
    for path in copy.rglob("*.parquet"):
        table = pq.read_table(path)
        about = table.schema.metadata or {}
        if b"moulage" in about:
            of_format_2 = about[b"moulage"].replace(b'"format": %d' % runs.FORMAT, b'"format": 2')
            assert of_format_2 != about[b"moulage"]
            pq.write_table(table.replace_schema_metadata({**about, b"moulage": of_format_2}), path)
    runs.write_json(copy / "results.json", {"format": 2})
    return copy


OF_OLDER = [
    "study {recipe} --out {run}",
    "report {run}",
    "evaluate {run}",
    "compare {fit}/test.parquet {other}/test.parquet",
]
MORE_OF_OLDER = [
    "explain {run}",
    "evaluate {fit}/test.parquet",
    "evaluate {run} --source phantom",
    "ensemble {run} --out made",
    "power --run {run}",
    "challenge write {fit}/test.parquet --out made.csv",
    "sample {generator} --count 3 --out drawn",
    "run-stage {run} {stage}",
]


@pytest.mark.parametrize("verb", [*OF_OLDER, *(pytest.param(verb, marks=pytest.mark.slow) for verb in MORE_OF_OLDER)])
def test_a_run_of_an_older_version_is_refused_with_what_to_do(verb: str, finished: Small, older: Path, call):
    stages = {
        name: finished.stage(kind, of).folder
        for name, kind, of in (
            ("fit", "classifier", "none"),
            ("other", "classifier", "drawn"),
            ("generator", "generator", "noise"),
        )
    }
    places = {name: older / folder for name, folder in stages.items()}
    words = verb.format(recipe=older / "recipe.toml", run=older, stage=stages["fit"], **places)
    found = call(*words.split())
    assert found.code == 1
    assert found.err.count("error: ") == 1
    assert re.search("format 2; this moulage reads format 3", found.err), found.err
    assert "Traceback" not in found.err


def test_honest_images_are_not_taken_for_generated_ones(finished, tmp_path):
    draw(finished.run / finished.stage("generator", "noise").folder, {"AK": 6}, 70, tmp_path / "drawn")
    assert len(prepared_from(skin(tmp_path / "data"), tmp_path / "run").catalog) == 24
    assert len(finished.prepared.catalog) == 200
    for run in (tmp_path / "run", finished.run):
        kinds = [finding["kind"] for finding in runs.read_json(run / "audit.json")["findings"]]
        assert not [kind for kind in kinds if "generated" in kind]
