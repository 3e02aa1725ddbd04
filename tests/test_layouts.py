"""Folders as people have them: parts, shards, wrappers, masks, tables, links, odd files and odd names."""

import itertools
import os
import shutil
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest

from moulage.data.catalog import Catalog
from moulage.data.findings import Finding
from moulage.data.reader import Reader
from moulage.errors import DataError
from moulage.sources import folder, ham10000
from moulage.sources._layout import part_of
from moulage.sources._masks import is_mask
from pictures import encoded, write_pictures

seeds = itertools.count()


def photo() -> np.ndarray:
    """A picture like no other."""
    return np.random.default_rng(next(seeds)).integers(0, 256, (16, 20, 3), np.uint8)


def mask(inside: int = 255) -> np.ndarray:
    found = np.zeros((16, 20), np.uint8)
    found[4:9, 5:12] = inside
    return found


def write(root: Path, *names: str, **more: bytes | np.ndarray) -> Path:
    """A photograph of each name, which may hold a '*' for 1, 2 and 3."""
    each = [name.replace("*", str(k)) for name in names for k in ((1, 2, 3) if "*" in name else (1,))]
    return write_pictures(root, {name: photo() for name in each} | more)


def read(path: Path, **options: object) -> Catalog:
    return folder.read(path, folder.Config.model_validate(options))


def kinds(catalog: Catalog) -> dict[str, Finding]:
    return {found.kind: found for found in catalog.findings}


def parts(catalog: Catalog) -> dict[str, int]:
    return catalog.table["official_part"].value_counts().to_dict()


def readable(catalog: Catalog) -> Catalog:
    """The catalog, whose every image and mask has been read."""
    with Reader() as reader:
        for place in [*catalog.table["location"], *(m for m in catalog.table["mask"] if m)]:
            assert reader.bytes(catalog.resolve(place))
    return catalog


# ---- parts and shards -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train", "val", "test"),
        ("Training", "Validation", "Testing"),
        ("TRAIN", "VALID", "TEST"),
        ("train_images", "val_images", "test_images"),
        ("images_train", "images_valid", "images_test"),
        ("TrainSet", "DevSet", "TestSet"),
        ("trainset", "valset", "testset"),
        ("01_train", "02_validation", "03_test"),
        ("ISIC2018_Training_Input", "ISIC2018_Validation_Input", "ISIC2018_Test_Input"),
        ("my lesions - training", "my lesions - validation", "my lesions - test"),
    ],
)
@pytest.mark.parametrize("outer", ["", "data/"])
def test_parts_are_parts_and_not_classes(tmp_path: Path, train: str, validation: str, test: str, outer: str) -> None:
    each = [f"{outer}{part}/{name}/*.png" for part in (train, validation, test) for name in ("AK", "NV")]
    catalog = readable(read(write(tmp_path, *each)))
    assert catalog.classes == ("AK", "NV")
    assert parts(catalog) == {"train": 6, "validation": 6, "test": 6}
    assert kinds(catalog)["official parts"].message == "The folders name official parts: train 6, validation 6, test 6."
    assert not catalog.images[0].startswith("data/")


def test_parts_below_the_classes_and_around_folders_of_images(tmp_path: Path) -> None:
    below = read(write(tmp_path / "a", "AK/train/*.png", "AK/test/*.png", "NV/train/*.png", "NV/test/*.png"))
    assert below.classes == ("AK", "NV")
    assert parts(below) == {"train": 6, "test": 6}
    inside = read(write(tmp_path / "b", *(f"{p}/images/{c}/*.png" for p in ("train", "val") for c in ("AK", "NV"))))
    assert inside.classes == ("AK", "NV")
    assert parts(inside) == {"train": 6, "validation": 6}


def test_a_flat_test_part_is_unlabelled(tmp_path: Path) -> None:
    catalog = read(write(tmp_path, "train/AK/*.png", "train/NV/*.png", "test/7.png", "test/8.png"))
    assert catalog.classes == ("AK", "NV")
    assert catalog.unlabelled == ("test/7.png", "test/8.png")
    assert parts(catalog) == {"train": 6}


def test_named_parts_beside_other_folders_are_refused_unless_they_are_said_to_be_classes(tmp_path: Path) -> None:
    write(tmp_path, *(f"{name}/*.png" for name in ("train", "test", "car")))
    with pytest.raises(DataError, match="test, train are named like parts, not car") as caught:
        read(tmp_path)
    assert "classes" in caught.value.hint
    assert read(tmp_path, classes=("car", "train", "test")).classes == ("car", "train", "test")


def test_one_class_that_is_named_like_a_part_stays_a_class_and_is_told(tmp_path: Path) -> None:
    catalog = read(write(tmp_path, "train/*.png", "car/*.png", "bus/*.png"))
    assert catalog.classes == ("bus", "car", "train")
    assert kinds(catalog)["class named like a part"].severity == "warning"


@pytest.mark.parametrize("name", ["AK", "fish_06", "grade 1", "testis", "contrast", "1", "evaluated_lesion"])
def test_what_is_no_part(name: str) -> None:
    assert part_of(name) == ""


SHARDS = [f"imgs_part_{k}" for k in (1, 2, 3)], ["images_001", "images_002"], ["batch1", "batch2"], ["Part A", "Part B"]
LABELS = [("PAT_1.png", "ACK"), ("PAT_2.png", "NEV"), ("PAT_3.png", "ACK")]


@pytest.mark.parametrize("shards", SHARDS)
@pytest.mark.parametrize(
    "names", [("metadata.csv", "img_id", ","), ("labels.tsv", "image_id", "\t"), ("t.tab", "File Name", ";")]
)
def test_pieces_of_a_set_take_their_classes_from_the_table(
    tmp_path: Path, shards: list[str], names: tuple[str, str, str]
) -> None:
    table, column, mark = names
    places = [f"{shards[k % len(shards)]}/{name}" for k, (name, _) in enumerate(LABELS)]
    rows = [["patient_id", "lesion_id", column, "diagnostic"]]
    rows += [[f"P{k // 2}", str(k), name, label] for k, (name, label) in enumerate(LABELS)]
    write(tmp_path, *places, **{table: "\n".join(mark.join(row) for row in rows).encode()})
    catalog = readable(read(tmp_path))
    assert catalog.classes == ("ACK", "NEV")
    assert dict(zip(catalog.images, catalog.table["label"], strict=True)) == dict(
        zip(places, [label for _, label in LABELS], strict=True)
    )
    assert sorted(catalog.groups) == ["patient:P0", "patient:P0", "patient:P1"]
    assert f"column diagnostic of {tmp_path / table}" in kinds(catalog)["labels from a table"].message
    assert shards[0] in kinds(catalog)["labels from a table"].message


def test_pieces_without_a_table_are_no_classes(tmp_path: Path) -> None:
    write(tmp_path, "imgs_part_1/*.png", "imgs_part_2/*.png")
    with pytest.raises(DataError, match="look like pieces of one set"):
        read(tmp_path)
    assert len(read(tmp_path, classes=("imgs_part_1", "imgs_part_2")).classes) == 2
    (tmp_path / "metadata.csv").write_text("image,age\n1.png,3\n")
    with pytest.raises(DataError, match=r"no class folders") as caught:
        read(tmp_path)
    assert "metadata.csv" in caught.value.hint


def test_pieces_that_hold_class_folders(tmp_path: Path) -> None:
    catalog = read(write(tmp_path, *(f"fold{k}/{name}/*.png" for k in (1, 2) for name in ("AK", "NV"))))
    assert catalog.classes == ("AK", "NV")
    assert len(catalog) == 12
    fish = read(write(tmp_path / "fish", "fish_06/*.png", "fish_08/*.png"))
    assert fish.classes == ("fish_06", "fish_08")


def test_a_flat_folder_with_a_table_of_labels(tmp_path: Path) -> None:
    table = b"filename;class;age\na.png;x;3\nb.png;none;4\nc.png;;5\nd.png;NaN;5\n"
    write(tmp_path, "a.png", "b.png", "c.png", "d.png", **{"train.csv": table, "other.csv": b"colour,size\nred,3\n"})
    catalog = read(tmp_path)
    assert catalog.classes == ("none", "x")
    assert catalog.unlabelled == ("c.png", "d.png")
    assert "other.csv" in kinds(catalog)["table that is not read"].message
    (tmp_path / "again.csv").write_bytes(table)
    with pytest.raises(DataError, match=r"again\.csv or .*train\.csv"):
        read(tmp_path)
    assert read(tmp_path, table="train.csv").table.equals(catalog.table)


def test_columns_can_be_named(tmp_path: Path) -> None:
    table = b"photo,who,grade,diagnosis,label\na.png,P1,hi,x,0\nb.png,P1,lo,y,1\n"
    write(tmp_path, "a.png", "b.png", **{"t.csv": table})
    with pytest.raises(DataError, match=r"no column names images|no class folders"):
        read(tmp_path)
    with pytest.raises(DataError, match="the class may be in the column label or diagnosis"):
        read(tmp_path, image_column="photo")
    catalog = read(tmp_path, table="t.csv", image_column="photo", label_column="grade", lesion_column="who")
    assert dict(zip(catalog.images, catalog.table["label"], strict=True)) == {"a.png": "hi", "b.png": "lo"}
    assert set(catalog.groups) == {"lesion:P1"}
    with pytest.raises(DataError, match=r"no column colour") as caught:
        read(tmp_path, table="t.csv", image_column="photo", label_column="colour")
    assert "photo, who, grade" in caught.value.hint


def test_of_two_tables_in_a_zip_that_share_a_name_the_one_is_read_that_was_asked_for(tmp_path: Path) -> None:
    tables = {"labels.csv": b"image,label\na.png,x\nb.png,y\n", "about/labels.csv": b"image,label\na.png,y\nb.png,x\n"}
    write(tmp_path / "set", "a.png", "b.png", **tables)
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "set"))
    for data, named in ((tmp_path / "set", "labels.csv"), (tmp_path / "set", "./labels.csv"), (packed, "labels.csv")):
        catalog = read(data, table=named)
        assert dict(zip(catalog.images, catalog.table["label"], strict=True)) == {"a.png": "x", "b.png": "y"}
        assert kinds(catalog)["table that is not read"].images == ("about/labels.csv",)


# ---- wrappers and copies --------------------------------------------------------------------------------------------


def test_a_wrapper_is_passed_over_in_a_folder_and_in_a_zip(tmp_path: Path) -> None:
    write(
        tmp_path / "in",
        "my/data/AK/*.png",
        "my/data/NV/*.png",
        **{"my/data/groups.csv": b"image,lesion\nAK/1.png,L1\n"},
    )
    catalog = readable(read(tmp_path / "in"))
    assert catalog.images[0] == "AK/1.png"
    assert catalog.groups[0] == "lesion:L1"
    assert kinds(catalog)["folder around all classes"].images == ("my/data/",)
    shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path / "in")
    packed = readable(read(tmp_path / "set.zip"))
    assert packed.table.drop(columns="location").equals(catalog.table.drop(columns="location"))


@pytest.mark.parametrize("packed", [False, True])
def test_a_set_that_lies_inside_itself_a_second_time_is_read_once(tmp_path: Path, packed: bool) -> None:
    root = write(tmp_path / "in", *(f"{part}/{name}/*.png" for part in ("train", "test") for name in ("AK", "NV")))
    shutil.copytree(root, tmp_path / "copy")
    shutil.copytree(tmp_path / "copy", root / "chest_xray")
    if packed:
        shutil.make_archive(str(tmp_path / "set"), "zip", root)
    catalog = readable(read(tmp_path / "set.zip" if packed else root))
    assert len(catalog) == 12
    assert kinds(catalog)["files that are there twice"].num_images == 12
    if not packed:
        (root / "chest_xray/train/AK/1.png").write_bytes(encoded(photo()))
        with pytest.raises(DataError, match="named like parts, not chest_xray"):
            read(root)


HAM = "lesion_id,image_id,dx,dx_type,age,sex,localization"


@pytest.mark.parametrize("suffix", [".csv", ".tab", ".tsv", ""])
@pytest.mark.parametrize("mark", [",", "\t", ";"])
def test_ham10000_with_doubled_folders_and_any_table(tmp_path: Path, suffix: str, mark: str) -> None:
    write(tmp_path, "HAM10000_images_part_1/ISIC_1.jpg", "HAM10000_images_part_2/ISIC_2.jpg")
    for part in (1, 2):
        shutil.copytree(tmp_path / f"HAM10000_images_part_{part}", tmp_path / f"ham10000_images_part_{part}")
    rows = [HAM, "H1,ISIC_1,nv,histo,40.0,male,back", "H2,ISIC_2,mel,histo,,,"]
    (tmp_path / f"HAM10000_metadata{suffix}").write_text("\n".join(rows).replace(",", mark))
    (tmp_path / "hmnist_28_28_L.csv").write_text("a,b\n1,2\n")
    catalog = ham10000.read(tmp_path, ham10000.Config())
    assert list(catalog.table["label"]) == ["NV", "MEL"]
    assert kinds(catalog)["files that are there twice"].num_images == 2
    assert kinds(catalog)["files passed over"].message == "1 file passed over: .csv 1 (top 1)."
    (tmp_path / "ham10000_images_part_1/ISIC_1.jpg").write_bytes(encoded(photo(), "JPEG"))
    with pytest.raises(DataError, match='Two files are called "ISIC_1"'):
        ham10000.read(tmp_path, ham10000.Config())


def test_a_table_larger_than_the_folder_is_read_and_told(tmp_path: Path) -> None:
    table = b"image_id,lesion_id\nAK/1.png,L1\n2,L1\nAK/77.png,L7\nZZ/1.png,L8\n"
    catalog = read(write(tmp_path, "AK/*.png", "NV/5.png", **{"groups.csv": table}))
    assert catalog.groups[:2].tolist() == ["lesion:L1", "lesion:L1"]
    found = kinds(catalog)["row without image"]
    assert (found.severity, found.num_images, found.images) == ("warning", 2, ("AK/77.png", "ZZ/1.png"))


def test_a_row_never_means_an_image_of_another_folder(tmp_path: Path) -> None:
    catalog = read(
        write(tmp_path, "NV/9.png", "AK/1.png", **{"groups.csv": b"image,lesion\nAK/9.png,L1\nAK/1.png,L2\n"})
    )
    assert dict(zip(catalog.images, catalog.table["lesion"], strict=True)) == {"AK/1.png": "L2", "NV/9.png": ""}


@pytest.mark.parametrize(
    "name", ["mydata/AK/1.png", "/home/me/mydata/AK/1.png", "C:\\x\\AK\\1.png", "./AK/1.png", "AK/1", "AK/1.jpg"]
)
def test_paths_from_elsewhere_mean_the_image_below_the_data_folder(tmp_path: Path, name: str) -> None:
    catalog = read(write(tmp_path, "AK/1.png", "NV/1.png", **{"groups.csv": f"image,lesion\n{name},L1\n".encode()}))
    assert dict(zip(catalog.images, catalog.table["lesion"], strict=True)) == {"AK/1.png": "L1", "NV/1.png": ""}


# ---- masks ----------------------------------------------------------------------------------------------------------

BESIDE = [
    "{}_mask.png",
    "{}_Mask.png",
    "{}-mask.png",
    "{} mask.png",
    "{}.mask.png",
    "mask_{}.png",
    "{}_segmentation.png",
]
BESIDE += ["{}_seg.png", "{}_gt.png", "{}_lesion.bmp", "masks/{}.png", "mask/{}_mask.png", "ground truth/{}.tif"]


@pytest.mark.parametrize("pattern", BESIDE)
@pytest.mark.parametrize("inside", [1, 255])
def test_masks_beside_the_images_are_their_masks(tmp_path: Path, pattern: str, inside: int) -> None:
    for label in ("benign", "malignant"):
        for k in (1, 2):
            own = f"{label} ({k})"
            write(tmp_path / label, f"{own}.png", **{pattern.format(own): mask(inside)})
    catalog = readable(read(tmp_path))
    assert len(catalog) == 4
    assert catalog.classes == ("benign", "malignant")
    assert catalog.table["mask"][0] == f"benign/{pattern.format('benign (1)')}"
    assert kinds(catalog)["masks beside the images"].num_images == 4


def test_masks_in_a_tree_of_their_own(tmp_path: Path) -> None:
    masks = {f"masks/{label}/{k}.png": mask() for label in ("AK", "NV") for k in (1, 2, 3)}
    catalog = read(write(tmp_path, "images/AK/*.png", "images/NV/*.png", **masks))
    assert catalog.images.tolist() == [f"{label}/{k}.png" for label in ("AK", "NV") for k in (1, 2, 3)]
    assert catalog.table["mask"].tolist() == list(masks)


def test_further_masks_and_masks_of_nothing_are_told(tmp_path: Path) -> None:
    more = {f"AK/{name}.png": mask() for name in ("1_mask", "1_mask_1", "9_mask")}
    catalog = read(write(tmp_path, "AK/*.png", "NV/*.png", "NV/1_superpixels.png", **more))
    assert len(catalog) == 6
    assert (catalog.table["mask"] != "").sum() == 1
    assert kinds(catalog)["further masks of an image"].images == ("AK/1_mask_1.png",)
    assert kinds(catalog)["masks without image"].images == ("AK/9_mask.png",)
    assert kinds(catalog)["derived pictures"].images == ("NV/1_superpixels.png",)


def test_photographs_that_are_called_masks_stay_images(tmp_path: Path) -> None:
    faces = read(write(tmp_path / "faces", "mask/*.png", "no_mask/*.png"))
    assert faces.classes == ("mask", "no_mask")
    beside = read(write(tmp_path / "beside", "AK/1.png", "AK/1_mask.png", "NV/*.png"))
    assert len(beside) == 5
    drawn = {f"{kind}/{k}.png": mask() for kind in ("label_0", "label_1") for k in (1, 2)}
    assert len(read(write(tmp_path / "drawn", **drawn))) == 4


def test_what_a_mask_looks_like() -> None:
    noisy = np.repeat(mask()[..., None], 3, 2).astype(int) + np.random.default_rng(0).integers(-6, 7, (16, 20, 3))
    assert is_mask(noisy.clip(0, 255).astype(np.uint8))
    assert not is_mask(photo())
    assert not is_mask(np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, 2))


# ---- files that are no images, or cannot be seen to be ---------------------------------------------------------------


NAMES = ["1", "1.dcm", "1.heic", "1.JPE", "1.jfif", "1.bin", "1.jpg.bak", "1.tmp"]
KINDS = ["JPEG", "PNG", "TIFF", "GIF", "WEBP", "BMP", "PPM", "JPEG2000"]


@pytest.mark.parametrize(("name", "kind"), [*zip(NAMES, KINDS, strict=True), *zip(NAMES[1:], KINDS[:-1], strict=True)])
def test_an_image_is_known_by_its_content(tmp_path: Path, name: str, kind: str) -> None:
    write(tmp_path, "NV/2.png", **{f"AK/{name}": encoded(photo(), kind)})
    catalog = read(tmp_path)
    assert catalog.images.tolist() == [f"AK/{name}", "NV/2.png"]
    assert not catalog.findings


FOREIGN = {
    "a.dcm": (b"\0" * 128 + b"DICM", "DICOM .dcm 1"),
    "a": (b"\0\0\0\x18ftypheic" + bytes(90), "HEIC 1"),
    "a.avif": (b"\0\0\0\x18ftypavif" + bytes(90), "AVIF .avif 1"),
    "a.zip": (b"PK\x03\x04" + bytes(90), "a ZIP archive .zip 1"),
    "a.nef": (b"II*\0" + bytes(90), "a .nef picture .nef 1"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_pictures_that_are_not_read_are_a_warning_by_kind_and_folder(tmp_path: Path, name: str) -> None:
    data, said = FOREIGN[name]
    catalog = read(write(tmp_path, "AK/*.png", "NV/*.png", **{f"NV/{name}": data}))
    found = kinds(catalog)["pictures that are not read"]
    assert (found.severity, found.num_images, found.images) == ("warning", 1, (f"NV/{name}",))
    assert f"{said} (NV 1)" in found.message


def test_what_is_passed_over_is_counted_by_suffix_and_folder(tmp_path: Path) -> None:
    odd = [
        "AK/a.txt",
        "AK/b.txt",
        "NV/c.TXT",
        "notes",
        ".git/x.png",
        "AK/.thumb/1.png",
        "NV/@eaDir/1.jpg",
        "AK/Thumbs.db",
    ]
    odd += ["__MACOSX/AK/1.png", "NV/thumbnails/1.png", "AK/._1.png"]
    catalog = read(write(tmp_path, "AK/*.png", "NV/*.png", **dict.fromkeys(odd, b"text")))
    assert len(catalog) == 6
    found = kinds(catalog)["files passed over"]
    assert (found.severity, found.num_images) == ("note", len(odd))
    for said in (
        ".txt 3 (AK 2, NV 1)",
        "without suffix 1 (top 1)",
        "hidden .png 3 (",
        "thumbnails and leftovers .png 2 (",
    ):
        assert said in found.message


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".zip.gz"])
def test_another_archive_is_one_sentence(tmp_path: Path, suffix: str) -> None:
    write(tmp_path / "in", "AK/*.png")
    path = tmp_path / f"set{suffix}"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(tmp_path / "in", "in")
    with pytest.raises(DataError, match="is a gzip archive") as caught:
        read(path)
    assert "Unpack it" in caught.value.hint
    (tmp_path / "alone").mkdir()
    shutil.move(path, tmp_path / "alone")
    with pytest.raises(DataError, match="holds no image") as caught:
        read(tmp_path / "alone")
    assert "unpack it" in caught.value.hint


def test_a_folder_that_holds_a_zip_alone_and_a_zip_of_another_name(tmp_path: Path) -> None:
    write(tmp_path / "in", "AK/*.png", "NV/*.png")
    shutil.make_archive(str(tmp_path / "alone/set"), "zip", tmp_path / "in")
    with pytest.raises(DataError) as caught:
        read(tmp_path / "alone")
    assert caught.value.hint == "It holds set.zip: name it with --data."
    (tmp_path / "alone/set.zip").rename(tmp_path / "download")
    with pytest.raises(DataError, match=r"does not end in \.zip"):
        read(tmp_path / "download")


# ---- links, pipes, bombs --------------------------------------------------------------------------------------------


@pytest.mark.timeout(20)
def test_pipes_and_devices_are_never_opened(tmp_path: Path) -> None:
    write(tmp_path, "AK/*.png", "NV/*.png")
    os.mkfifo(tmp_path / "AK/pipe.png")
    os.mkfifo(tmp_path / "groups.csv")
    (tmp_path / "NV/zero.png").symlink_to("/dev/zero")
    (tmp_path / "NV/other").symlink_to(tmp_path / "AK/pipe.png")
    catalog = read(tmp_path)
    assert len(catalog) == 6
    found = kinds(catalog)["files that cannot be read"]
    assert (found.severity, found.num_images) == ("warning", 4)
    assert "no regular file .png 2 (" in found.message
    with pytest.raises(DataError, match="no regular file"):
        read(tmp_path, table="groups.csv")
    with pytest.raises(DataError, match="neither a folder nor a regular file"):
        read(tmp_path / "groups.csv")
    with Reader() as reader, pytest.raises(DataError, match="no regular file"):
        reader.bytes(str(tmp_path / "AK/pipe.png"))


@pytest.mark.timeout(20)
def test_links_that_turn_in_a_circle_are_followed_once(tmp_path: Path) -> None:
    names = [f"n{k}" for k in range(12)]
    write(tmp_path, *(f"{name}/*.png" for name in names))
    for name, other in itertools.product(names, names):  # 12! paths without a link twice
        (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    (tmp_path / "n0/top").symlink_to("..")
    (tmp_path / "n0/self").symlink_to("self")
    (tmp_path / "n0/gone.png").symlink_to("/nowhere/1.png")
    catalog = read(tmp_path)
    assert len(catalog) == 36
    assert "link to a folder that is read already 145 (" in kinds(catalog)["files passed over"].message
    assert kinds(catalog)["files that cannot be read"].num_images == 2


def test_links_out_of_the_data_folder_are_followed_and_told(tmp_path: Path) -> None:
    write(tmp_path / "data", "AK/*.png", "NV/*.png")
    write(tmp_path / "other", "DF/*.png", "1.png")
    (tmp_path / "data/DF").symlink_to("../other/DF")
    (tmp_path / "data/AK/7.png").symlink_to(tmp_path / "other/1.png")
    (tmp_path / "data/AK/8.png").symlink_to(tmp_path / "data/NV/1.png")
    catalog = readable(read(tmp_path / "data"))
    assert catalog.counts == {"AK": 5, "DF": 3, "NV": 3}
    found = kinds(catalog)["links out of the data folder"]
    assert found.images == ("AK/7.png", "DF")
    assert f"DF is {tmp_path / 'other/DF'}" in found.message


@pytest.mark.parametrize("made", ["member", "archive"])
def test_a_zip_that_unpacks_to_far_too_much(tmp_path: Path, made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("AK/1.png", "AK/2.png", "NV/1.png"):
            archive.writestr(name, encoded(photo()))
        with archive.open("NV/bomb.bmp", "w", force_zip64=True) as stream:
            for _ in range(40):
                stream.write(bytes(2**20))
    if made == "archive":
        monkeypatch.setattr("moulage.sources._files.MAX_UNPACKED", 2**20)
        with pytest.raises(DataError, match="would unpack to 41,9"):
            read(path)
        return
    catalog = read(path)
    with Reader() as reader, pytest.raises(DataError, match="would unpack to 41,943,040") as caught:
        reader.bytes(catalog.resolve(catalog.table["location"].iloc[-1]))
    assert getattr(caught.value, "status", "") == "bomb"


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["a::b.png", "back\\slash.png", "névus.png", " lead.png", "new\nline.png", "[red]x[/red]", "%41.png", "a,b;c'.png"],
)
def test_odd_names_are_read_saved_and_loaded(tmp_path: Path, name: str) -> None:
    own = name.replace("/", "-")
    (tmp_path / "AK").mkdir()
    (tmp_path / "AK" / own).write_bytes(encoded(photo()))
    catalog = read(write(tmp_path, "NV/1.png"))
    assert f"AK/{own}" in catalog.images
    catalog.save(tmp_path / "run/catalog.parquet")
    assert readable(Catalog.load(tmp_path / "run/catalog.parquet")).images.tolist() == catalog.images.tolist()


@pytest.mark.parametrize("folder_too", [False, True])
def test_a_name_that_is_no_text_is_refused_with_that_name(tmp_path: Path, folder_too: bool) -> None:
    write(tmp_path, "AK/1.png", "NV/1.png")
    old, new = ("NV", b"n\xe6vus") if folder_too else ("NV/1.png", b"NV/n\xe6vus.png")
    os.rename(os.fsencode(tmp_path / old), os.fsencode(tmp_path) + b"/" + new)  # noqa: PTH104
    with pytest.raises(DataError, match=r"n\\xe6vus.* is not UTF-8") as caught:
        read(tmp_path)
    assert str(caught.value).encode()


def test_a_name_that_is_no_text_does_not_matter_where_nobody_reads_it(tmp_path: Path) -> None:
    write(tmp_path, "AK/1.png", "NV/1.png")
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/AK/\xe9.txt"))).write_text("x")
    [found] = read(tmp_path).findings
    assert found.images == ("AK/\\xe9.txt",)


@pytest.mark.parametrize(("on_disk", "in_table"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_are_compared_in_one_unicode_form(tmp_path: Path, on_disk: str, in_table: str) -> None:
    disk, table = (unicodedata.normalize(form, "Névi/névus_1.png") for form in (on_disk, in_table))  # pyright: ignore
    write(tmp_path, disk, "AK/2.png", **{"groups.csv": f"image,lesion\n{table},L1\n".encode()})
    catalog = readable(read(tmp_path))
    assert catalog.classes == ("AK", "Névi")
    assert catalog.table["lesion"].tolist() == ["", "L1"]


def test_a_zip_of_windows(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in ("my\\AK\\1.png", "my\\NV\\1.png", "my\\NV\\1_mask.png"):
            archive.writestr(name, encoded(mask() if "mask" in name else photo()))
        archive.writestr("my\\groups.csv", "image;lesion\r\nAK\\1.png;L1\r\n")
    catalog = readable(read(tmp_path / "set.zip"))
    assert catalog.images.tolist() == ["AK/1.png", "NV/1.png"]
    assert catalog.table["lesion"].tolist() == ["L1", ""]
    assert catalog.table["mask"][1] == "set.zip::my\\NV\\1_mask.png"


SPELLINGS = [
    ("Melanoma", "melanoma"),
    ("melanoma", "melanoma "),
    ("basal cell", "basal  cell"),
    ("basal cell", "Basal_Cell"),
    ("basalcell", "Basal Cell"),
    (unicodedata.normalize("NFC", "névus"), unicodedata.normalize("NFD", "névus")),
    ("mel", "m\u200bel"),
    ("mel", "ｍel"),
    ("straße", "STRASSE"),
]


@pytest.mark.parametrize("pair", SPELLINGS)
@pytest.mark.parametrize("by", ["folder", "table"])
def test_spellings_of_one_class_are_an_error_or_one_class(tmp_path: Path, pair: tuple[str, str], by: str) -> None:
    images = [(pair[0], 1), (pair[0], 2), (pair[1], 3), ("other", 4)]
    if by == "folder":
        write(tmp_path, *(f"{label}/{k}.png" for label, k in images))
    else:
        rows = "\n".join(f'{k}.png,"{label}"' for label, k in images)
        write(tmp_path, *(f"{k}.png" for _, k in images), **{"t.csv": f"image,label\n{rows}\n".encode()})
    if by == "table" and pair[1] != pair[1].strip():
        assert len(read(tmp_path).classes) == 2  # cells are stripped
        return
    with pytest.raises(DataError, match=r"case, spaces or Unicode form alone: .*\(2\) = .*\(1\)"):
        read(tmp_path)
    catalog = read(tmp_path, merge_spellings=True)
    assert catalog.classes == tuple(sorted([unicodedata.normalize("NFC", pair[0]), "other"]))
    assert catalog.counts["other"] == 1
    assert kinds(catalog)["spellings of one class"].num_images == 2


@pytest.mark.parametrize("pair", [("1 1", "11"), ("-1", "1"), ("grade 1", "grade 2"), ("AK", "AKI")])
def test_names_that_differ_in_more_are_two_classes(tmp_path: Path, pair: tuple[str, str]) -> None:
    assert len(read(write(tmp_path, f"{pair[0]}/1.png", f"{pair[1]}/1.png")).classes) == 2
