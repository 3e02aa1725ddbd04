"""Several data sets in one study: what two of them share is found, what may only be trained on stays in training."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from moulage import recipe as recipes
from moulage import report as reports
from moulage.arm import roles
from moulage.cli.prepare import prepare
from moulage.data import data_sets, joined_sets
from moulage.data import pixels as pixel_cache
from moulage.data.audit import Audit, audit
from moulage.data.catalog import Catalog
from moulage.data.identity import Shown
from moulage.data.pixels import Pixels
from moulage.data.reader import Reader
from moulage.data.reserve import hold_back
from moulage.data.split import dealable, folds, holdout, prove
from moulage.errors import DataError, LeakError, RecipeError
from moulage.evaluation.predictions import Predictions
from moulage.registration import register
from moulage.runs import cache_folder
from moulage.sources import phantom
from moulage.stages import data
from moulage.stages.classifier import weights_of
from moulage.stages.plan import plan
from recipes import phantom_recipe
from small_study import Small

MAIN = phantom.Config(num_images=160, size=48, min_lesions=8)
OTHER = phantom.Config(num_images=160, size=48, min_lesions=8, seed=7)
RECIPE = phantom_recipe(
    study={"name": "two", "primary": "balanced_accuracy"},
    data={
        "options": {"num_images": 160, "size": 48, "min_lesions": 8},
        "also": {"more": {"source": "folder", "classes": {"keratosis": "AK", "other": ""}}},
    },
    generators={"noise": {"plugin": "noise", "classes": ["AK"], "size": 48}},
    arms={
        "duplicates": {"balance": "duplicates", "add": {"AK": 9}},
        "noise": {"balance": "synthesize", "generator": "noise", "add": {"AK": 9}},
    },
)


@pytest.fixture(scope="module")
def main() -> Catalog:
    return phantom.read(None, MAIN)


def pictures(catalog: Catalog) -> list[Image.Image]:
    with Reader() as reader:
        return [Image.open(io.BytesIO(reader.bytes(catalog.resolve(place)))) for place in catalog.table["location"]]


@pytest.fixture(scope="module")
def copies(main) -> list[str]:
    """Six images of the main data, of six lesions."""
    known = main.take((main.table["lesion"] != "").to_numpy())
    chosen = known.take(~known.table["lesion"].duplicated().to_numpy()).only(label="AK")
    return chosen.images[:6].tolist()


@pytest.fixture(scope="module")
def folder(main, copies, tmp_path_factory) -> Path:
    """A further data set: six of the main images again as JPEG, one more photograph of the first one's lesion, news."""
    root, fresh = tmp_path_factory.mktemp("more"), phantom.read(None, OTHER)
    (root / "keratosis").mkdir()
    (root / "other").mkdir()
    fresh = fresh.only(label=["AK", "NV"])
    ordered = [*pictures(main.only(image=copies)), *pictures(fresh.take(np.arange(30)))]
    for number, picture in enumerate(ordered):
        picture.save(root / "keratosis" / f"{number:02d}.jpg", quality=90)
    for number, picture in enumerate(pictures(fresh.take(np.arange(30, 33)))):
        picture.save(root / "other" / f"{number}.png")
    lesions = ["A", *"bcdef", "A", *(f"n{k}" for k in range(29))]
    rows = [f"keratosis/{number:02d}.jpg,{lesion}" for number, lesion in enumerate(lesions)]
    (root / "groups.csv").write_text("\n".join(["image,lesion", *rows]), encoding="utf-8")
    return root


def parsed(folder: Path, **more: object) -> recipes.Recipe:
    changes = {"data.also.more.path": str(folder), **{f"data.also.more.{key}": value for key, value in more.items()}}
    return recipes.parse(RECIPE, changes=changes)


def audited(catalog: Catalog) -> tuple[Audit, Pixels]:
    pixels = pixel_cache.build(catalog, (), "squash", cache_folder())
    return audit(catalog, pixels), pixels


def test_names_and_groups_of_two_data_sets_never_meet_by_accident(main):
    """Two phantoms count from one: all names and lesion ids are the same, and mean nothing."""
    other = phantom.read(None, OTHER)
    joined = joined_sets.join(main, {"b": other}, ["b"])
    assert (joined.images[:160] == main.images).all()
    assert joined.images[160] == f"b:{other.images[0]}"
    assert not set(joined.groups[:160]) & set(joined.groups[160:])
    assert joined.table["lesion"][160:].str.removeprefix("b:").tolist() == other.table["lesion"].tolist()
    assert joined.resolve(joined.table["location"][160]) == other.resolve(other.table["location"][0])
    report, pixels = audited(joined)
    assert not report.quarantined
    assert [f.kind for f in report.findings if f.kind.startswith(("image of", "lesion of"))] == []
    assert "names nor lesion ids" in next(f.message for f in report.findings if f.kind == "chance names")
    own = list(joined_sets.members(joined, pixels))
    assert [member.name for member in own] == ["", "b"]
    assert own[1].shown.catalog.images.tolist() == other.images.tolist()
    assert own[1].joined(pd.Series(["x", ""])).tolist() == ["b:x", ""]


def test_one_data_set_stays_what_it_was(main):
    assert joined_sets.join(main, {}) is main


def test_recompressed_copies_are_set_aside_and_those_of_the_main_data_kept(main, copies, folder):
    found = data.read(parsed(folder))
    assert found.counts["AK"] == main.counts["AK"] + 36
    report, _ = audited(found)
    doubles = {
        f"more:keratosis/{k:02d}.jpg": image for k, image in enumerate(sorted(copies, key=list(main.images).index))
    }
    reasons = {name: why for name, why in report.quarantined.items() if name in doubles}
    assert reasons == {name: f"in two data sets: near-duplicate as {image} of main" for name, image in doubles.items()}
    kinds = {finding.kind: finding for finding in report.findings}
    assert kinds["image of two data sets"].num_images == 6
    assert kinds["image of two data sets"].message.startswith("6 images of more are among those of main too")
    mate = "more:keratosis/06.jpg"
    assert "which may be tested on" in report.quarantined[mate]
    assert kinds["lesion of two data sets"].num_images == 1
    assert set(report.quarantined) == {*doubles, mate}
    clean = report.clean(found)
    assert clean.only(data_set="").images.tolist() == main.images.tolist()
    assert len(clean) == 160 + 29


def test_a_data_set_that_is_split_too_keeps_further_photographs_in_the_group_of_their_lesion(main, copies, folder):
    found = data.read(parsed(folder, parts="all"))
    report, _ = audited(found)
    clean = report.clean(found)
    assert len(report.quarantined) == 6
    group = dict(zip(clean.images, clean.groups, strict=True))
    first = min(copies, key=list(main.images).index)
    assert group["more:keratosis/06.jpg"] == group[first]
    split = holdout(clean, validation=0.2, test=0.3, seed=0)
    prove(split, clean)
    parts = split.table.loc[split.table["image"].str.startswith("more:"), "part"]
    assert set(parts) == {"train", "validation", "test"}


def test_a_copy_under_another_label_never_costs_the_main_data_an_image(main, copies, tmp_path):
    """The same bytes under two labels are set aside within a data set; across two the main one's image stays."""
    row = main.only(image=copies[0])
    table = row.table.assign(image="again", label="SCC", location=row.resolve(row.table["location"][0]))
    other = Catalog.build(table, main.classes, "other", "/")
    report, _ = audited(joined_sets.join(main, {"b": other}, ["b"]))
    assert report.quarantined == {"b:again": f"in two data sets: same bytes as {copies[0]} of main"}
    [finding] = [f for f in report.findings if f.kind == "image of two data sets"]
    assert "1 image under another class there" in finding.message


def shown(names: list[str], seeds: list[int], lesions: list[str]) -> Shown:
    table = pd.DataFrame({"image": names, "label": "AK", "location": names, "lesion": lesions})
    thumbnails = np.stack([np.random.default_rng(seed).integers(60, 256, (32, 32, 3), np.uint8) for seed in seeds])
    return Shown(
        Catalog.build(table, ("AK", "NV"), "data"),
        np.array([f"{n}-{s}" for n, s in zip(names, seeds, strict=True)], object),
        thumbnails,
    )


@pytest.mark.parametrize(("names", "whys"), [(["i1", "j2"], {"same bytes", "same lesion"}), (["j1", "j2"], set())])
def test_lesion_ids_count_only_where_names_show_what_they_mean(monkeypatch, names, whys):
    ours = shown(["i1", "i2"], [1, 2], ["1", "2"])
    theirs = shown(names, [1 if names[0] == "i1" else 3, 4], ["1", "2"])
    sets = [joined_sets.Member("", ours), joined_sets.Member("b", theirs)]
    monkeypatch.setattr(joined_sets, "members", lambda catalog, pixels: iter(sets))
    scan = pd.DataFrame({"status": ["ok", "ok"]})
    found, notes = joined_sets.shared(ours.catalog, Pixels(Path(), scan))
    assert set(found["why"]) == whys
    assert len(notes) == (not whys)


def test_other_data_are_held_against_each_data_set_under_its_own_names():
    ours = [joined_sets.Member("", shown(["i1"], [1], ["1"])), joined_sets.Member("b", shown(["i1"], [2], ["9"]))]
    found, _ = joined_sets.find(shown(["x", "i1"], [1, 2], ["", ""]), ours)
    assert found[["image", "same_as"]].to_numpy().tolist() == [["x", "i1"], ["i1", "b:i1"]]


def test_three_data_sets_are_held_against_each_other(main, copies):
    """An image in the second and third, but not in the main one, is kept once; one of all three is the main one's."""
    one, two = (main.only(image=copies[:k]) for k in (2, 3))
    first, rest = main.take(~main.table["image"].isin(copies[1:]).to_numpy()), {}
    for name, part in (("b", one), ("c", two)):
        table = part.table.assign(
            location=[part.resolve(place) for place in part.table["location"]], lesion="", group=""
        )
        rest[name] = Catalog.build(table.assign(image=name + part.table["image"]), main.classes, name, "/")
    report, _ = audited(joined_sets.join(first, rest, ["b", "c"]))
    own = sorted(copies[:3], key=list(main.images).index)
    inside = {name: why.split(" as ")[1] for name, why in report.quarantined.items() if why.startswith("in two")}
    expected = {f"{n}:{n}{copies[0]}": f"{copies[0]} of main" for n in "bc"}
    expected |= {f"c:c{copies[1]}": f"b:b{copies[1]} of b"}
    assert own
    assert inside == expected


def test_what_may_only_be_trained_on_is_in_every_training_part_and_counts_for_nothing_else(main):
    other = main.take(np.arange(40))
    joined = joined_sets.join(main, {"b": other}, ["b"])
    alone, both = (holdout(catalog, validation=0.2, test=0.3, seed=0) for catalog in (main, joined))
    assert both.part(joined, "test").images.tolist() == alone.part(main, "test").images.tolist()
    assert both.part(joined, "validation").images.tolist() == alone.part(main, "validation").images.tolist()
    assert set(both.part(joined, "train").only(data_set="b").images) == {f"b:{name}" for name in other.images}
    for split in folds(joined, num_folds=3, validation=0.2, seed=0):
        prove(split, joined)
        assert split.part(joined, "train").only(data_set="b").counts == other.counts
    prove(hold_back(both, joined, ["NV"], 0.3, seed=0), joined)
    assert len(dealable(joined)) == 160
    free = joined.with_columns(only_part="")
    wrong = holdout(free, validation=0.2, test=0.3, seed=0)
    prove(wrong, free)
    with pytest.raises(LeakError, match="may only be trained on, and is in the part"):
        prove(wrong, joined)


def test_weights_are_those_that_are_not_1(folder):
    assert parsed(folder).data.weights == {}
    assert parsed(folder, weight=2).data.weights == {"more": 2}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"sorce": "folder"}, RecipeError, 'data.also.more.sorce: unknown key "sorce"'),
        ({"source": "foldr"}, RecipeError, "Did you mean"),
        ({"weight": 0}, RecipeError, "data.also.more.weight"),
        ({"classes.keratosis": "AKK"}, RecipeError, 'data.also.more.classes: "keratosis" cannot become "AKK"'),
        ({"classes.keratoses": "AK"}, RecipeError, 'no class "keratoses"'),
        ({"path": "/nowhere"}, DataError, "data.also.more: /nowhere does not exist"),
    ],
)
def test_wrong_data_sets_are_refused_before_any_image_is_read(folder, change, error, words):
    with pytest.raises(error, match=words):
        data.read(parsed(folder, **change))


def test_bad_names_of_data_sets_are_refused():
    with pytest.raises(RecipeError, match="letters, digits"):
        recipes.parse({"study": {"name": "x"}, "data": {"also": {"a:b": {"source": "folder"}}}})


@pytest.mark.slow
def test_a_study_trains_on_both_and_tests_on_the_main_data(folder, tmp_path):
    small = Small(parsed(folder, weight=4).model_dump(mode="json"), tmp_path)
    register(small.recipe, small.run, roles(small.recipe), small.prepared.digests)
    results = small.collect()
    assert len(small.part("train").only(data_set="more")) == 29
    for stage in small.of_kind("classifier"):
        tested = Predictions.load(small.run / stage.folder / "test.parquet").images
        assert not any(name.startswith("more:") for name in tested)
    [fitted] = results.generators
    assert fitted.num_images == small.part("train").counts["AK"] > 29
    assert len({arm.images_seen for arm in results.arms}) == 1
    main, more = results.study.data.data_sets
    assert (main.name, main.num_read, main.num_set_aside, main.weight) == ("main", 160, 0, 1)
    assert (more.name, more.num_read, more.num_set_aside, more.weight) == ("more", 36, 7, 4)
    assert more.parts == {"train": 29}
    assert more.counts["AK"] == 29
    page = reports.write(small.run).read_text(encoding="utf-8")
    assert "Of more (folder) 29 images were used in the training part alone, shown 4 times as often" in page
    assert "Images of each data set" in page


def test_a_weight_makes_classifiers_anew_and_nothing_else(folder, tmp_path):
    prepared = data.prepare(parsed(folder), tmp_path)
    old, new = ({stage.folder for stage in plan(parsed(folder, weight=w), prepared)} for w in (4, 1))
    assert {name.split("/")[0] for name in old - new} == {"classifiers"}
    assert old & new


def test_copies_weigh_what_their_image_does(main):
    joined = joined_sets.join(main, {"b": main.take(np.arange(5))}, ["b"])
    train, extra = joined.take([0, 161, 1]), joined.take([162, 2])
    assert weights_of({"b": 3.0}, train, extra).tolist() == [1, 3, 1, 3, 1]
    assert weights_of({}, train, extra) is None


def test_prepare_takes_a_recipe_and_says_what_became_of_each_data_set(folder, tmp_path, capsys):
    path = tmp_path / "two.toml"
    path.write_text(recipes.to_toml(recipes.parse(RECIPE)), encoding="utf-8")
    setting = [f"data.also.more.path={folder}"]
    prepare(recipe=path, settings=setting, out=tmp_path / "run", workers=1, as_json=True)
    assert '"num_set_aside": 7' in capsys.readouterr().out
    assert [row["name"] for row in data_sets.load(tmp_path / "run")] == ["main", "more"]
    prepare(recipe=path, settings=setting, out=tmp_path / "run", workers=1)
    assert "set aside" in capsys.readouterr().out
    for wrong in ({}, {"recipe": path, "source": "phantom"}):
        with pytest.raises(RecipeError, match="one of the two"):
            prepare(**wrong)
