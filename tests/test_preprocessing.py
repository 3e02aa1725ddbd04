"""Filters of the pre-processing, and how they reach images, masks, caches and the command line."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw

from moulage import plugins, recipe
from moulage.data import masks, pixels
from moulage.data.catalog import Catalog
from moulage.data.filters import Filtered, Filters
from moulage.errors import DataError, RecipeError
from moulage.sources import folder as folder_source
from moulage.stages.data import read as read_data
from pictures import write_pictures

OF_THE_MASK = ("background", "lesion_crop")
SKIN, LESION, HAIR = (225, 180, 160), (110, 60, 50), (25, 15, 15)


def skin(size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Skin with a brown lesion right of the middle, and grain."""
    picture = Image.new("RGB", size, SKIN)
    ImageDraw.Draw(picture).ellipse((90, 40, 130, 80), fill=LESION)
    grain = np.random.default_rng(0).normal(0, 3, (size[1], size[0], 1))
    return Image.fromarray(np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8))


def lesion_mask() -> np.ndarray:
    mask = np.zeros((120, 160), np.uint8)
    mask[40:80, 90:130] = 255
    return mask


def through(name: str, image: Image.Image | np.ndarray, mask: np.ndarray | None = None, **options) -> Filtered:
    [(filtered, _)] = Filters.of([(name, options)]).apply(np.asarray(image), mask)
    return filtered


@pytest.mark.parametrize("name", plugins.names("preprocessing"))
def test_plain_skin_is_left_alone_and_the_same_image_gives_the_same(name):
    options = {"without_mask": "keep"} if name in OF_THE_MASK else {}
    first, second = (through(name, skin(), **options) for _ in range(2))
    assert np.array_equal(first.image, second.image)
    if name != "colour_constancy":
        assert first.share == 0
        assert np.array_equal(first.image, np.asarray(skin()))


def test_a_round_frame_is_cut_away():
    disc = Image.new("L", (160, 120), 0)
    ImageDraw.Draw(disc).ellipse((25, 5, 135, 115), fill=255)
    framed = Image.composite(skin(), Image.new("RGB", (160, 120), (4, 4, 6)), disc)
    filtered = through("vignette", framed)
    assert 0.4 < filtered.share < 0.75
    assert (filtered.image.max(axis=2) > 40).all(), "nothing of the frame is left"
    height, width = filtered.image.shape[:2]
    assert width / height == pytest.approx(160 / 120, rel=0.1)


def test_a_dark_lesion_at_one_corner_is_no_frame():
    picture = skin()
    ImageDraw.Draw(picture).ellipse((-60, -60, 60, 60), fill=(20, 10, 10))
    assert through("vignette", picture).share == 0


def test_coloured_light_is_taken_off():
    tinted = np.clip(np.asarray(skin()) * np.array([1.0, 0.7, 0.6]), 0, 255).astype(np.uint8)
    filtered = through("colour_constancy", tinted)
    before, after = (np.ptp(image.reshape(-1, 3).mean(axis=0)) for image in (tinted, filtered.image))
    assert after < before / 3
    assert 0 < filtered.share <= 1
    grey = np.full((20, 20, 3), 120, np.uint8)
    assert np.array_equal(through("colour_constancy", grey).image, grey)


def test_hairs_go_and_the_lesion_stays():
    picture = skin()
    pen = ImageDraw.Draw(picture)
    for start, end in (((5, 10), (150, 60)), ((20, 115), (70, 5))):
        pen.line((start, end), fill=HAIR, width=2)
    filtered = through("hair", picture)
    plain, hairy, bald = (np.asarray(image).astype(int) for image in (skin(), picture, filtered.image))
    changed = np.abs(hairy - plain).sum(axis=2) > 60
    assert 0.01 < filtered.share < 0.2
    assert np.abs(bald - plain)[changed].mean() < np.abs(hairy - plain)[changed].mean() / 3
    assert np.abs(bald - plain)[55:65, 100:120].max() < 30, "inside the lesion"


def test_short_stubs_and_too_many_hairs_are_left():
    picture = skin()
    ImageDraw.Draw(picture).line(((20, 20), (28, 24)), fill=HAIR, width=2)
    assert through("hair", picture).share == 0
    for x in range(0, 160, 10):
        ImageDraw.Draw(picture).line(((x, 0), (x + 3, 119)), fill=HAIR, width=2)
    assert through("hair", picture, most=0.05).share == 0


def test_stickers_at_the_edge_are_flagged_and_painted_over_but_blue_lesions_are_not():
    picture = skin()
    ImageDraw.Draw(picture).ellipse((-30, 30, 30, 90), fill=(40, 140, 210))
    flagged, painted = through("marks", picture), through("marks", picture, do="paint")
    assert flagged.share == painted.share > 0.03
    assert np.array_equal(flagged.image, np.asarray(picture))
    blue = painted.image[..., 2].astype(int) - painted.image[..., 0]
    assert blue[45:75, 0:20].mean() < 60
    naevus = skin()
    ImageDraw.Draw(naevus).ellipse((40, 40, 80, 80), fill=(40, 90, 160))
    assert through("marks", naevus).share == 0


def test_a_row_of_even_ticks_is_a_ruler_and_scattered_ones_are_not():
    ruler, scattered, rng = skin((320, 240)), skin((320, 240)), np.random.default_rng(0)
    for left in range(30, 290, 20):
        ImageDraw.Draw(ruler).line(((left, 225), (left, 234)), fill=HAIR, width=2)
        x, y = int(rng.integers(20, 300)), int(rng.integers(20, 220))
        ImageDraw.Draw(scattered).line(((x, y), (x + int(rng.integers(-8, 8)), y + 9)), fill=HAIR, width=2)
    painted = through("marks", ruler, do="paint")
    assert painted.share > 0.001
    assert np.abs(painted.image.astype(int) - np.asarray(skin((320, 240))))[215:].max() < 60
    assert through("marks", ruler, ruler=False).share == 0
    assert through("marks", scattered).share == 0


def test_the_lesion_is_cut_out_with_its_mask():
    [(filtered, mask)] = Filters.of([("lesion_crop", {"margin": 0.25})]).apply(np.asarray(skin()), lesion_mask())
    assert filtered.box == (80, 30, 140, 90)
    assert filtered.image.shape == (60, 60, 3)
    assert mask is not None
    assert np.array_equal(mask > 0, lesion_mask()[30:90, 80:140] > 0)
    small = np.asarray(Image.fromarray(lesion_mask()).resize((80, 60), Image.Resampling.NEAREST))
    assert through("lesion_crop", skin(), small, margin=0.25).box == filtered.box, "a mask of another size is stretched"


@pytest.mark.parametrize(("fill", "colour"), [("skin", SKIN), ("black", (0, 0, 0))])
def test_what_lies_around_the_lesion_is_painted_over(fill, colour):
    picture = skin()
    ImageDraw.Draw(picture).rectangle((0, 0, 159, 12), fill=(30, 60, 200))  # a sticker
    before, inside = np.asarray(picture), lesion_mask() > 0
    filtered = through("background", picture, lesion_mask(), margin=0.25, fill=fill)
    near = np.zeros_like(inside)
    near[40:80, 80:140] = near[30:90, 90:130] = True  # 10 pixels, a quarter of 40, but for the corners
    assert np.array_equal(filtered.image[near], before[near])
    far = filtered.image[:28, :].reshape(-1, 3)
    assert len(np.unique(far, axis=0)) == 1
    assert np.abs(far[0].astype(int) - colour).max() <= 3
    assert filtered.share == pytest.approx(1 - (60 * 60 - (4 - np.pi) * 100) / (160 * 120), abs=0.002)
    assert filtered.box is None


@pytest.mark.parametrize("name", OF_THE_MASK)
def test_a_lesion_that_fills_the_image_is_left_alone(name):
    everywhere = np.full((120, 160), 255, np.uint8)
    filtered = through(name, skin(), everywhere)
    assert filtered.share == 0
    assert np.array_equal(filtered.image, np.asarray(skin()))


@pytest.mark.parametrize("name", OF_THE_MASK)
@pytest.mark.parametrize("mask", [None, np.zeros((120, 160), np.uint8)])
def test_a_missing_mask_is_refused_or_the_image_kept(name, mask):
    with pytest.raises(DataError, match="mask"):
        through(name, skin(), mask)
    kept = through(name, skin(), mask, without_mask="keep")
    assert kept.share == 0
    assert np.array_equal(kept.image, np.asarray(skin()))


def test_steps_follow_each_other_and_their_options_are_read_once(monkeypatch):
    filters = pickle.loads(pickle.dumps(Filters.of([("lesion_crop", {"margin": 0.25}), ("colour_constancy", {})])))
    asked = []
    monkeypatch.setattr(plugins, "validate", lambda model, *rest: asked.append(model) or model(**rest[0]))
    both = [filters.apply(np.asarray(skin()), lesion_mask()) for _ in range(3)][-1]
    assert len(asked) == 2
    assert pickle.loads(pickle.dumps(filters)) == filters  # what is kept of the options goes to no other process
    assert [filtered.image.shape for filtered, _ in both] == [(60, 60, 3)] * 2
    alone = through("colour_constancy", both[0][0].image)
    assert np.array_equal(both[1][0].image, alone.image)


def test_wrong_names_and_options_are_refused_with_the_nearest():
    with pytest.raises(RecipeError, match="hairs"):
        Filters.of([("hairs", {})])
    with pytest.raises(RecipeError, match=r"data\.steps\.0\.options"):
        Filters.of([("hair", {"widht": 0.1})])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve images of two classes, all with masks."""
    kinds = [(label, shift, number) for label, shift in (("AK", 0), ("NV", 20)) for number in range(6)]
    moved = {f"{label}/{number}.png": np.roll(skin(), shift + number, axis=0) for label, shift, number in kinds}
    return write_pictures(tmp_path / "data", moved)


@pytest.fixture
def catalog(data: Path, tmp_path: Path) -> Catalog:
    found = folder_source.read(data, folder_source.Config())
    folder = tmp_path / "masks"
    folder.mkdir()
    places = []
    for row, (image, label) in enumerate(zip(found.images, found.table["label"], strict=True)):
        shift = (0 if label == "AK" else 20) + int(Path(image).stem[-1])
        places.append(str(folder / f"{row}.png"))
        Image.fromarray(np.roll(lesion_mask(), shift, axis=0)).save(places[-1])
    return found.with_columns(mask=places)


CROP = Filters.of([("lesion_crop", {"margin": 0.5})])


def test_other_steps_are_another_cache_and_none_is_todays(catalog, tmp_path):
    plain = pixels.build(catalog, (32,), "squash", tmp_path / "cache")
    folder = f"pixels-{pixels.key([catalog.resolve(place) for place in catalog.table['location']], 'squash')}"
    assert plain.folder.name == folder
    assert "changed" not in plain.scan
    cut = pixels.build(catalog, (32,), "squash", tmp_path / "cache", filters=CROP)
    wider = pixels.build(
        catalog, (32,), "squash", tmp_path / "cache", filters=Filters.of([("lesion_crop", {"margin": 1})])
    )
    assert len({plain.folder, cut.folder, wider.folder}) == 3
    assert not np.array_equal(plain.array(32), cut.array(32))
    assert np.array_equal(plain.thumbnails, cut.thumbnails), "duplicates are searched in the images as they are"
    assert all(len(row) == 1 and row[0] > 0.3 for row in cut.scan["changed"])


def test_the_result_depends_on_neither_workers_nor_other_sizes(catalog, tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "CHUNK", 4)
    first = pixels.build(catalog, (32,), "squash", tmp_path / "a", filters=CROP).array(32)
    both = pixels.build(catalog, (32, 48), "squash", tmp_path / "b", filters=CROP, num_workers=2)
    assert np.array_equal(both.array(32), first)
    later = pixels.build(catalog, (48,), "squash", tmp_path / "a", filters=CROP).array(48)
    assert np.array_equal(later, both.array(48))


def test_masks_are_cut_where_their_images_are(catalog, tmp_path):
    found = masks.read(catalog, 60, "squash", tmp_path / "cache", CROP)
    image = pixels.build(catalog, (60,), "squash", tmp_path / "cache", filters=CROP).array(60)
    dark = image.max(axis=3) < 150
    assert ((found > 0) | ~dark).mean() > 0.97, "the lesion lies inside its mask"
    assert (found > 0).mean() == pytest.approx(0.25, abs=0.1), "half the margin on each side: a quarter of the area"


def test_a_step_that_needs_masks_refuses_data_without_before_it_decodes(data, tmp_path):
    found = folder_source.read(data, folder_source.Config())
    with pytest.raises(DataError, match="12 of 12 images have none"):
        pixels.build(found, (32,), "squash", tmp_path / "cache", filters=CROP)


def test_masks_are_read_for_steps_that_look_at_them_alone(catalog, tmp_path):
    lost = catalog.with_columns(mask=[str(tmp_path / "nowhere.png")] * len(catalog))
    filters = Filters.of([("vignette", {})])
    assert (pixels.build(lost, (32,), "squash", tmp_path / "cache", filters=filters).scan["status"] == "ok").all()
    assert (pixels.build(lost, (32,), "squash", tmp_path / "cache", filters=CROP).scan["status"] == "missing").all()


def test_predicted_masks_of_a_recipe_take_the_place_of_the_datas_own(data, catalog, tmp_path):
    folder = tmp_path / "masks"
    (folder / masks.PREDICTED).write_text("{}")
    names = [Path(place).name for place in catalog.table["mask"]]
    pd.DataFrame({"image": catalog.images, "path": names}).iloc[1:].to_csv(folder / masks.TABLE, index=False)
    values = {"study": {"name": "x"}, "data": {"source": "folder", "path": str(data), "masks": str(folder)}}
    found = read_data(recipe.parse(values))
    assert found.table["mask"][0] == ""
    assert [Path(place).name for place in found.table["mask"][1:]] == names[1:]
    assert masks.read(found.take(np.arange(1, 12)), 30, "squash", tmp_path / "cache", CROP).any(axis=(1, 2)).all()


def test_predicted_masks_want_squashed_images():
    values = {"study": {"name": "x"}, "data": {"source": "phantom", "masks": "m", "fit": "crop"}}
    with pytest.raises(RecipeError, match="squash"):
        recipe.parse(values)


def test_the_verb_previews(tmp_path, call):
    phantom = ("--source", "phantom", "--source-set", "num_images=240", "--source-set", "size=32")
    words = ("prepare", *phantom, "--size", 32, "--workers", 1, "--out", "run")
    steps = ("--step", "vignette", "--step", "hair")
    done = call(*words, *steps, "--preview", 3)
    assert done.code == 0, done.err
    assert "Pre-processing" in done.out
    with Image.open(tmp_path / "run" / "preview.png") as sheet:
        assert sheet.width > 3 * 150
    refused = call(*words, "--preview", 3)
    assert refused.code == 1
    assert "--step" in refused.err
