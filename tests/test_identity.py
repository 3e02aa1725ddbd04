"""One photograph is known by its bytes and by what it shows, never by its name; what folders of images rest on that."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from moulage import contracts
from moulage.data import duplicates, identity, overlap, samples
from moulage.data.catalog import Catalog
from moulage.errors import DataError, LeakError
from moulage.image_folders import score_folders
from moulage.recipe import parse
from moulage.stages.data import parted
from pictures import encoded, write_pictures
from recipes import SCRATCH

FEATURES = {"backbone": SCRATCH}


def photograph(seed: int) -> np.ndarray:
    """A textured picture with a blob, of its own for every seed."""
    rng = np.random.default_rng(seed)
    low = Image.fromarray(rng.integers(60, 200, (12, 16, 3), np.uint8)).resize((96, 72), Image.Resampling.BICUBIC)
    y, x = np.indices((72, 96))
    (row, column), radius = rng.uniform(20, 50, 2), rng.uniform(8, 18)
    blob = ((y - row) ** 2 + (x - column - 12) ** 2 < radius**2)[..., None]
    noisy = np.asarray(low) * np.where(blob, 0.5, 1) + rng.normal(0, 6, (72, 96, 1))
    return noisy.clip(0, 255).astype(np.uint8)


def folder(root: Path, seeds: range, prefix: str = "", classes: tuple[str, ...] = ("AK",)) -> Path:
    pictures = {f"{name}/{prefix}{n:03d}.png": photograph(seed) for name in classes for n, seed in enumerate(seeds)}
    return write_pictures(root, pictures)


def catalog(path: Path) -> Catalog:
    plug = contracts.source("folder")
    return plug.read(path, plug.configure({}))


def shown(path: Path) -> identity.Shown:
    found = catalog(path)
    return identity.Shown.of(found, identity.look(found))


def changed(seed: int, how: str) -> bytes:
    picture = Image.fromarray(photograph(seed))
    if how == "mirrored":
        return encoded(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    if how == "turned":
        return encoded(picture.transpose(Image.Transpose.ROTATE_90))
    if how == "cut":
        return encoded(picture.crop((9, 7, 87, 65)), "JPEG", quality=85)
    if how == "framed":
        return encoded(ImageOps.expand(picture, 9, "black"), "JPEG", quality=85)
    if how == "smaller":
        return encoded(picture.resize((64, 48)))
    return encoded(picture, "JPEG", quality=60) if how == "saved again" else encoded(picture)


@pytest.mark.parametrize("how", ["as it is", "mirrored", "turned", "smaller", "saved again", "cut", "framed"])
def test_a_photograph_is_known_under_any_name(how: str, tmp_path: Path):
    ours = shown(folder(tmp_path / "ours", range(30)))
    theirs = folder(tmp_path / "theirs", range(100, 120))
    write_pictures(theirs, {"NV/another.png": changed(7, how)})
    found, notes = identity.shared(shown(theirs), ours)
    assert notes == ()
    why = identity.SAME_BYTES if how == "as it is" else identity.NEAR
    assert found.to_dict("records") == [{"image": "NV/another.png", "same_as": "AK/007.png", "why": why}]


def test_copies_within_a_folder_are_one_group(tmp_path: Path):
    folder(tmp_path, range(20))
    write_pictures(tmp_path, {"AK/copy.png": changed(3, "as it is"), "AK/turned.png": changed(3, "turned")})
    found = shown(tmp_path)
    united, notes = identity.joined(found)
    assert notes == ()
    groups = dict(zip(found.catalog.images, united, strict=True))
    assert groups["AK/copy.png"] == groups["AK/turned.png"] == groups["AK/003.png"]
    assert len(set(groups.values())) == 20


def test_what_may_have_been_missed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ours = shown(folder(tmp_path / "ours", range(6)))
    theirs = folder(tmp_path / "theirs", range(100, 106))
    write_pictures(theirs, {f"AK/copy{n}.png": changed(n, "saved again") for n in range(3)})
    found = shown(theirs)
    monkeypatch.setattr(duplicates, "MAX_CANDIDATES", 1)
    assert identity.shared(found, ours)[1] == (duplicates.INCOMPLETE,)
    assert overlap.find(found, ours)[1][-1:] == (duplicates.INCOMPLETE,)


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path):
    folder(tmp_path, range(3))
    write_pictures(tmp_path, {"AK/broken.png": b"nothing"})
    with pytest.raises(DataError, match=r"AK/broken\.png cannot be read"):
        identity.look(catalog(tmp_path))


@pytest.mark.parametrize("how", ["as it is", "mirrored", "saved again"])
def test_held_out_images_that_were_trained_on_are_refused_whatever_their_names_and_classes(how: str, tmp_path: Path):
    generated, real = folder(tmp_path / "gen", range(200, 210)), folder(tmp_path / "real", range(100, 120))
    train = folder(tmp_path / "train", range(20), "t_")
    write_pictures(real, {"AK/r_1.png": changed(2, how), "AK/r_2.png": changed(3, how)})
    write_pictures(train, {"NV/n_1.png": photograph(500)})
    with pytest.raises(LeakError, match=r"^2 held-out images are training images.*AK/r_1.png = AK/t_002.png"):
        score_folders(generated, train, real, 32, FEATURES)
    (train / "AK/t_002.png").rename(train / "NV/t_002.png")
    with pytest.raises(LeakError, match=r"^2 held-out images.*AK/r_1.png = NV/t_002.png"):
        score_folders(generated, train, real, 32, FEATURES)


def test_a_lesion_of_both_tables_is_refused(tmp_path: Path):
    generated = folder(tmp_path / "gen", range(200, 210))
    train, real = folder(tmp_path / "train", range(20), "t"), folder(tmp_path / "real", range(100, 120), "r")
    (train / "groups.csv").write_text("image,lesion\nt003,L7\n")
    (real / "groups.csv").write_text("image,lesion\nr005,L7\n")
    with pytest.raises(LeakError, match=r"same lesion 1\): AK/r005.png = AK/t003.png"):
        score_folders(generated, train, real, 32, FEATURES)


def test_other_photographs_of_one_name_are_scored_and_one_class_is_enough(tmp_path: Path):
    sets = [folder(tmp_path / name, range(k * 100, k * 100 + 42)) for k, name in enumerate(("gen", "train", "real"))]
    found = score_folders(*sets, 32, FEATURES)
    assert list(found["classes"]) == ["AK"]
    assert found["classes"]["AK"]["num_held_out_lesions"] == 42
    assert "show something else" in found["notes"][0]


def test_generated_images_that_are_no_new_ones_are_told(tmp_path: Path):
    train, real = folder(tmp_path / "train", range(20), "t"), folder(tmp_path / "real", range(100, 120), "r")
    copies = {f"AK/{n}.png": changed(n, "mirrored") for n in (1, 2, 104)}
    made = write_pictures(folder(tmp_path / "gen", range(200, 210), "g"), copies)
    notes = score_folders(made, train, real, 32, FEATURES)["notes"]
    assert notes == [
        "1 generated images are copies of held-out images (AK/104.png and AK/r004.png first): the generator has seen "
        "what is held out.",
        "2 generated images are copies of training images (AK/1.png and AK/t001.png first): see near_copies.",
    ]
    write_pictures(made, {"AK/same.png": photograph(105)})
    with pytest.raises(LeakError, match="1 generated images are held-out files"):
        score_folders(made, train, real, 32, FEATURES)


class Painter:
    """A generator that draws photographs."""

    classes = ("AK",)

    def sample(self, label: int, seeds: np.ndarray) -> np.ndarray:
        return np.stack([photograph(seed) for seed in seeds])


@pytest.mark.parametrize("place", ["train", "real"])
def test_images_that_are_called_real_and_were_generated_are_refused(place: str, tmp_path: Path):
    made = tmp_path / "gen"
    samples.draw(Painter(), {"AK": range(900, 915)}, made, origin="dcgan-1", split_digest="s", classes=("AK",))
    sets = {
        "train": folder(tmp_path / "train", range(20), "t"),
        "real": folder(tmp_path / "real", range(100, 120), "r"),
    }
    others = tmp_path / "others"
    samples.draw(Painter(), {"AK": range(950, 953)}, others, origin="gan-2", split_digest="s", classes=("AK",))
    called = {"train": "training", "real": "held-out"}[place]
    [one, two, three] = [Image.open(others / f"AK/AK-{seed}.png") for seed in range(950, 953)]
    wrong = sets[place] / "AK"
    one.save(wrong / "z.jpg", quality=90)
    said = score_folders(made, sets["train"], sets["real"], 32, FEATURES)["notes"]
    assert said == [f"1 image of the {called} images look like ones that moulage drew on this machine: AK/z.jpg."]
    two.save(wrong / "pixels.png")
    with pytest.raises(DataError, match=rf"1 image of the {called} .*AK/pixels.png first: the pixels that gan-2 drew"):
        score_folders(made, sets["train"], sets["real"], 32, FEATURES)
    shutil.copy(three.filename, wrong / "a.jpg")
    with pytest.raises(DataError, match=rf"2 images of the {called} images .*AK/a.jpg first: drawn by gan-2") as error:
        score_folders(made, sets["train"], sets["real"], 32, FEATURES)
    assert "take them out" in error.value.hint


def test_one_class_is_enough_for_a_generator_and_too_few_for_a_classifier(tmp_path: Path):
    folder(tmp_path, range(3))
    values = {"study": {"name": "x"}, "data": {"source": "folder", "path": str(tmp_path)}}
    assert parted(parse(values))[0].classes == ("AK",)
    values |= {"arms": {"none": {"balance": "none"}}, "classifier": {"plugin": "probe"}}
    with pytest.raises(DataError, match=r"There is one class in .*: AK") as error:
        parted(parse(values))
    assert "needs two or more" in error.value.hint
