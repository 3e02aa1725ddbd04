"""``moulage init``: what is there, which question it can bear, what fits into some hours, and what it finds."""

import json
import time
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moulage import devices
from moulage import proposal as proposals
from moulage import recipe as recipes
from moulage.errors import DataError, RecipeError
from moulage.evaluation.lesion_variance import FEW_LESIONS
from moulage.proposal import choice as choices
from moulage.proposal import cost, ladder, told
from moulage.proposal.draft import Draft
from moulage.proposal.holding import SHARES
from moulage.proposal.ladder import Rung, take
from moulage.proposal.reach import LARGEST, UNLIKELY, lesions_to_answer, reach
from moulage.proposal.survey import OfClass, source_of, survey
from moulage.proposal.writing import comment, each, key, value
from moulage.stages import plan as plans
from moulage.stages.embedding import Embedding
from moulage.stages.generator import Generator
from pictures import encoded, write_pictures

SETS = {
    "MEL 3682 NV 10611 BCC 2656 AK 663 BKL 2134 DF 191 VASC 201 SCC 496": "AK DF VASC SCC",  # ISIC-2019
    "MEL 890 NV 5364 BCC 411 AKIEC 261 BKL 878 DF 92 VASC 113": "BCC AKIEC DF VASC",  # HAM10000
    "a 100 b 90 c 80": "",
    "a 100 b 40": "b",
}
"""Images of each class, and which of them are rare."""
PACES = {"generator": 0.3, "features": 0.01, "fidelity": 0.01, "embedding": 0.004, "classifier": 0.001}
"""Seconds of a step, or of an image, as if they had been timed."""


def classes(**lesions: int) -> tuple[OfClass, ...]:
    """Classes of three images a lesion."""
    return tuple(OfClass(name, 3 * number, number) for name, number in lesions.items())


def pictures(folder: Path, counts: dict[str, int], each_lesion: int = 3, side: int = 40) -> Path:
    """Class folders of noise; so many images in a row show one lesion."""
    rng, rows = np.random.default_rng(0), ["image,lesion"]
    names = [f"{label}/{n:03d}.png" for label, number in counts.items() for n in range(number)]
    write_pictures(folder, {name: rng.integers(0, 256, (side, side, 3), np.uint8) for name in names})
    rows += [f"{name},{name.split('/')[0]}{int(name[-7:-4]) // each_lesion}" for name in names]
    (folder / "groups.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("data") / "mine", {"common": 240, "other": 150, "rare": 60}, 2)


@pytest.fixture
def paces(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """No step is timed: every kind of work has the pace that this says."""
    found = dict(PACES)

    def timed(self: cost.Clock, words: str, time_it: object, about: object) -> float:
        return found[words.split(" ")[0]]

    monkeypatch.setattr(cost.Clock, "_timed", timed)
    return found


@pytest.mark.parametrize(("counts", "expected"), SETS.items())
def test_a_class_is_rare_beside_the_mean_and_the_largest(counts: str, expected: str):
    words = counts.split()
    found = choices.rare([OfClass(name, int(n), 1) for name, n in zip(words[::2], words[1::2], strict=True)])
    assert [of.name for of in found] == expected.split()


def test_targets_have_lesions_enough_and_classes_that_cannot_be_split_are_left_out():
    of_rare, _ = choices.choose(classes(common=300, other=200, rare=FEW_LESIONS, few=FEW_LESIONS - 1, none=3))
    assert of_rare is not None
    assert of_rare.targets == ("rare",)
    assert of_rare.too_few == {"few": FEW_LESIONS - 1}
    assert of_rare.left_out == {"none": 3}


def test_without_a_rare_class_frequent_ones_are_made_scarce():
    of_rare, made = choices.choose(classes(a=300, b=290, c=280))
    assert of_rare is None
    assert made is not None
    assert made.targets == ("b", "c"), "the largest stays as it is"
    assert all(choices.LEAST_LEFT <= number <= choices.MOST_LEFT for number in made.scarcity.values())
    most = 1 + choices.SPARE * made.doses[-1]
    assert all(most * made.scarcity[name] <= choices.TRAINED * made.lesions[name] for name in made.targets)


def test_the_fewest_lesions_that_can_be_made_scarce_are_told():
    number = choices.lesions_to_make_scarce()
    assert choices.choose(classes(a=number, b=number))[1] is not None
    assert choices.choose(classes(a=number - 1, b=number - 1))[1] is None


@pytest.mark.parametrize(
    ("wanted", "words"),
    [("raer", 'Did you mean "rare"?'), ("few", "a verdict needs 15 or more")],
)
def test_wrong_targets_are_refused(wanted: str, words: str):
    with pytest.raises(DataError) as caught:
        choices.choose(classes(common=300, rare=40, few=FEW_LESIONS - 1), [wanted])
    assert words in str(caught.value)


def test_one_class_that_can_be_split_is_no_study():
    with pytest.raises(DataError, match="A classifier needs two classes, and 1 of these 2"):
        choices.choose(classes(a=300, b=2))


def test_what_it_would_take_is_what_it_takes():
    few = reach({"AK": 40, "DF": 30}, 0.02, **LARGEST)
    assert few.helps > few.seen > 0.02
    assert few.times_needed is not None
    many = reach(few.lesions_needed, 0.02, **LARGEST)
    assert many.helps == pytest.approx(0.02, rel=0.02)
    assert reach({"AK": 40, "DF": 30}, 0.02, **{**LARGEST, "rivals": 9}).helps > few.helps


def test_the_fewest_lesions_that_answer_are_told():
    number = lesions_to_answer()
    assert reach({"x": number}, UNLIKELY, **LARGEST).can_answer
    assert not reach({"x": number - 1}, UNLIKELY, **LARGEST).can_answer


RUNGS = (Rung("projected", 1000, 1000, 3, 5, 2), Rung("projected", 256, 1000, 2, 5), Rung("dcgan", 100, 100, 1, 3))


def took(hours: float) -> ladder.Taken:
    """What is taken where a fit costs an hour for 1,000 images."""
    fits = {5: 5.0, 3: 3.0}

    def recipe_of(rung: Rung, images: int) -> Any:
        return rung, images

    def cost_of(of: Any) -> cost.Cost:
        rung, images = of
        hours = fits[rung.num_folds] * rung.num_repeats * images / 1000
        return cost.Cost({"generator": 3600 * hours, "audit": 60}, hours, 1)

    return take(RUNGS, hours, recipe_of, cost_of)


def test_the_richest_study_that_the_hours_pay_is_taken():
    assert took(100).rung is RUNGS[0]
    assert took(100).is_all
    middle = took(4)
    assert middle.rung is RUNGS[1]
    assert ladder.SAFETY * 4 * 0.7 < middle.cost.hours <= ladder.SAFETY * 4, "fits are as long as the hours pay"
    assert middle.images % (ladder.BATCH * ladder.PREVIEWS) == 0
    assert took(6).images == 1000
    assert took(0.5).rung is RUNGS[2]


def test_too_few_hours_say_what_is_the_least_and_that_is_enough():
    with pytest.raises(RecipeError) as caught:
        took(0.1)
    assert "0.1 hours are too few" in caught.value.message
    assert "the least study takes 0.30 hours" in caught.value.message
    assert "generator 18.0" in caught.value.message
    least = float(caught.value.hint.split("--hours ")[1].split(" ")[0])
    assert took(least).rung is RUNGS[2]


def test_data_that_no_rung_can_split_say_why():
    def refuse(rung: Rung, images: int) -> Any:
        raise DataError(f"no {rung.num_folds} folds")

    with pytest.raises(DataError, match="no 3 folds"):
        take(RUNGS, 1, refuse, lambda recipe: cost.Cost({}, 0, 1))


def test_seconds_are_of_work_and_not_of_waiting():
    before = devices.spent("cpu")
    time.sleep(0.2)
    assert devices.spent("cpu") - before < 0.1, "others that use the machine do not make a step dearer"


def test_the_longest_work_decides_when_workers_wait():
    assert cost._makespan([4, 4, 4], 2) == 8
    assert cost._makespan([4, 4, 4, 1, 1, 1, 1], 2) == 8


@pytest.mark.parametrize("name", ["AK", "a b", "a, b", 'qu"ote', "back\\slash", "Übel", "don't", "1.5", "{{ x }}", "#"])
def test_any_class_name_stands_in_a_recipe(name: str):
    read = tomllib.loads(f"{key(name)} = {value(name)}\nlist = {value((name, 'b'))}\ntable = {each([name, 'b'], 1.0)}")
    assert read == {name: name, "list": [name, "b"], "table": {name: 1.0, "b": 1.0}}


def test_comments_stay_comments():
    text = comment("a long line " * 40 + "\n[arms.planted]\n", "  ")
    assert all(line.startswith("# ") and len(line) <= 120 for line in text.splitlines())


def test_copies_are_counted_by_content_in_folders_and_archives(tmp_path: Path):
    rng = np.random.default_rng(0)
    one, other = (encoded(rng.integers(0, 256, (40, 40, 3), np.uint8)) for _ in range(2))
    same_length = bytes(len(other))  # other bytes of the same number
    names = {"a/1.png": one, "a/2.png": one, "b/3.png": one, "b/4.png": other, "b/5.png": same_length}
    write_pictures(tmp_path / "mine", names)
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    for path in (tmp_path / "mine", tmp_path / "mine.zip"):
        found = survey(path, "", {})
        assert (found.num_copies, found.num_contradicting) == (2, 3)
        assert (found.side, found.num_unusable, found.num_looked_at) == (40, 1, 5)
        assert any("2 images are there a second time" in line for line in told.there(found))
        assert "No lesion or patient is known" in " ".join(told.there(found))


def test_layouts_are_recognised(tmp_path: Path):
    for name, file in {
        "isic2019": "ISIC_2019_Training_GroundTruth.csv",
        "ham10000": "HAM10000_metadata.tab",
        "medmnist": "dermamnist.npz",
        "folder": "a/1.png",
    }.items():
        path = tmp_path / name / file
        path.parent.mkdir(parents=True)
        path.write_bytes(b"")
        assert source_of(tmp_path / name) == name
    assert source_of(tmp_path / "medmnist" / "dermamnist.npz") == "medmnist"
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "metadata.csv").write_text("isic_id\n")
    assert source_of(flat) == "folder", "a table of this name alone says nothing"
    (flat / "ISIC_0000000.jpg").write_bytes(b"")
    assert source_of(flat) == "isic2019"


@pytest.mark.slow
@pytest.mark.parametrize("rung", [*ladder.CPU, ladder.GPU[0]], ids=lambda rung: f"{rung.generator}-{rung.features}")
def test_every_size_of_every_study_is_a_recipe(data: Path, rung: Rung):
    there = survey(data, "", {})
    clock = cost.Clock("cpu", 3, there.catalog, 0.001)
    of_rare, _ = choices.choose(there.classes)
    scarce = choices.Choice(("common",), {"common": 120}, {"common": 20}, (0.25, 0.5, 1.0))
    assert of_rare is not None
    for chosen in (of_rare, scarce, choices.Choice(("rare",), {"rare": 30}, doses=())):
        draft = Draft(there, chosen, clock, data, 1, 0.02, "x.toml")
        recipe = draft.recipe(rung, rung.least)
        gan = recipe.generators["gan"]
        assert gan.options["images"] == rung.least
        assert recipe.num_trials == rung.num_folds * rung.num_repeats
        assert recipe.classifier.options["size"] == gan.size == 32, "sharpness does not tell a drawn image"
        found = draft.reach(recipe)
        assert found.has_control == bool(chosen.doses)
        assert found.helps > found.seen > 0
    assert recipe.split.holds_back is False


def test_the_recipe_is_planned_fits_and_says_what_it_finds(data: Path, paces: dict[str, float], call, tmp_path: Path):
    done = call("init", data, "--hours", 2, "--out", "new/first.toml", "--json")
    assert done.code == 0, done.err
    found, path = json.loads(done.out), tmp_path / "new/first.toml"
    text, recipe = path.read_text(encoding="utf-8"), recipes.load(path)
    assert found["recipe"] == "new/first.toml"
    assert found["targets"] == ["rare"] == list(recipe.study.target_classes)
    assert found["hours"] <= 2
    assert f"About {found['hours']:.2f} hours with 2 workers" in text
    assert f"true gain is {100 * found['helps']:.1f} points" in text
    assert "2 points would take" in text
    assert recipe.data.path == data
    assert recipe.split.reserve in SHARES
    assert max(arm.dose for arm in recipe.arms.values() if arm.series == "real") <= 1
    plans.check(recipe)
    there = survey(data, "", {})
    clock = cost.Clock("cpu", 2, there.catalog, 0.001)
    again = clock.cost(recipe)
    assert again.total == pytest.approx(sum(found["core_seconds"].values()), rel=0.1)
    stages = plans.plan(recipe, clock.prepared(recipe))
    assert len([stage for stage in stages if isinstance(stage, Generator)]) == 2 * recipe.num_trials
    drawn = [stage for stage in stages if isinstance(stage, Embedding) and stage.samples]
    assert drawn
    assert all(stage.num_images(clock.prepared(recipe)) > 0 for stage in drawn)


@pytest.mark.slow
def test_a_slower_machine_gets_a_smaller_study(data: Path, paces: dict[str, float]):
    quick = proposals.propose(data, 1)
    paces["generator"] *= 3
    slow = proposals.propose(data, 1)
    assert quick.taken is not None
    assert slow.taken is not None
    assert slow.taken.images < quick.taken.images
    paces["generator"] *= 100
    with pytest.raises(RecipeError, match="1 hours are too few for these data on this machine"):
        proposals.propose(data, 1)


def test_judging_counts_where_it_is_done(data: Path, paces: dict[str, float]):
    there, paces["features"] = survey(data, "", {}), 1.0
    clock = cost.Clock("cpu", 2, there.catalog, 0.001)
    found = choices.choose(there.classes, ["common"])[0]
    assert found is not None
    draft = Draft(there, found, clock, data, 1, 0.02, "x.toml")
    recipe = draft.recipe(ladder.CPU[-1], 6400)
    stages = plans.plan(recipe, clock.prepared(recipe))
    fit = next(stage for stage in stages if isinstance(stage, Generator) and stage.name == "gan")
    assert fit.num_judged(200) == ladder.PREVIEWS * 64
    judged = clock.prepared(recipe).part(0, "validation").counts["common"] >= 20
    assert clock.seconds(fit, clock.prepared(recipe)) == 200 * PACES["generator"] + judged * 8 * 64


@pytest.fixture
def refused(call, tmp_path: Path) -> Any:
    """``moulage init`` is refused with these words, and leaves no file."""

    def check(*arguments: object, words: str) -> None:
        before = sorted(tmp_path.rglob("*"))
        done = call("init", *arguments)
        assert done.code == 1
        assert words in " ".join(done.err.split())
        assert sorted(tmp_path.rglob("*")) == before

    return check


def test_a_recipe_is_never_overwritten(data: Path, refused: Any, tmp_path: Path):
    (tmp_path / "mine.toml").write_text("mine")
    refused(data, "--hours", 1, words="mine.toml exists, and is not overwritten. Name another file with --out.")
    refused(data, "--hours", 1, "--out", tmp_path / "mine.toml", words="exists, and is not overwritten")
    assert (tmp_path / "mine.toml").read_text() == "mine"


def test_bad_input_is_told(data: Path, refused: Any, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    refused("empty", "--hours", 1, words="holds no image")
    refused("nowhere", "--hours", 1, words="nowhere does not exist")
    refused(data, "--hours", 0, words="0 hours are no time")
    refused(data, "--hours", "nan", words="nan hours are no time")
    refused(data, "--hours", 1, "--targets", "raer", words='Did you mean "rare"?')
    refused(data, "--hours", 1, "--source", "fodler", words='Did you mean "folder"?')


def test_no_study_can_answer_is_an_answer(call, tmp_path: Path):
    pictures(tmp_path / "few", {"common": 60, "rare": 24})
    done = call("init", "few", "--hours", 1)
    assert done.code == 0, done.err
    said = " ".join(done.out.split())
    assert "No study of these data can answer, however many hours it has." in said
    assert f"A rare class needs about {lesions_to_answer()} of them" in said
    assert "rare 8." in said, "the rare class is named with its lesions"
    assert "No recipe was written." in said
    assert not list(tmp_path.glob("*.toml"))


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "source", "targets"),
    [
        ("isic2019-84px", "isic2019", ["AK", "DF", "VASC", "SCC"]),
        ("ham10000-200px", "ham10000", ["BCC", "AKIEC", "DF", "VASC"]),
        ("chula-rbc.zip", "folder", ["microcyte", "teardrop"]),
        ("cric-cervix.zip", "folder", ["ASC-US", "LSIL"]),
        ("f4k-fish.zip", "folder", ["fish_06", "fish_07", "fish_08", "fish_09", "fish_14"]),
    ],
)
def test_real_data_get_a_recipe(real_data: Path, paces: dict[str, float], name: str, source: str, targets: list[str]):
    found = proposals.propose(real_data / name, 3)
    assert found.there.source == source
    assert found.choice is not None
    assert list(found.choice.targets) == targets
    assert found.taken is not None
    assert found.taken.cost.hours <= 3
    assert found.recipe == recipes.parse(tomllib.loads(found.text))
