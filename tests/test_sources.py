"""The sources that read files: layouts, bad input, and the real sets where they are there."""

import io
import re
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from moulage import plugins
from moulage.data.catalog import Catalog
from moulage.data.findings import Finding
from moulage.data.reader import Reader
from moulage.errors import DataError
from moulage.sources import folder, ham10000, isic2019, medmnist

PIXELS = b"labels and lists only: a source must not care that this is no image"
TRUTH_HEADER = "image,MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"
META_HEADER = "image,age_approx,anatom_site_general,lesion_id,sex"


def write(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PIXELS)
    return root


def pack(path: Path, *names: str, **texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, texts.get(name, PIXELS))
    return path


def table(path: Path, header: str, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return path


def one_hot(image: str, label: str) -> str:
    return ",".join([image, *("1.0" if name == label else "0.0" for name in TRUTH_HEADER.split(",")[1:])])


def official(root: Path, labels: Mapping[str, str], meta: Sequence[str] = ()) -> Path:
    """The official ISIC-2019 files with their ZIP."""
    table(root / isic2019.GROUND_TRUTH, TRUTH_HEADER, *(one_hot(*item) for item in labels.items()))
    table(root / isic2019.METADATA, META_HEADER, *(meta or [f"{name},,,," for name in labels]))
    pack(root / isic2019.ARCHIVE, *(f"ISIC_2019_Training_Input/{name}.jpg" for name in labels))
    return root


def row(catalog: Catalog, image: str) -> dict[str, object]:
    return catalog.table.set_index("image").loc[image].to_dict()


def refused(call, *patterns: str) -> str:
    """The error's text, after checking that it says all of this."""
    with pytest.raises(DataError) as caught:
        call()
    text = str(caught.value)
    for pattern in patterns:
        assert re.search(pattern, text), f"{pattern!r} is not in {text!r}"
    return text


def kinds(catalog: Catalog) -> dict[str, Finding]:
    """What the source found, by kind."""
    return {finding.kind: finding for finding in catalog.findings}


def read_isic(root: Path | None, **options: str) -> Catalog:
    return isic2019.read(root, isic2019.Config(**options))


def read_folder(path: Path | None, **options: object) -> Catalog:
    return folder.read(path, folder.Config.model_validate(options))


# ---------------------------------------------------------------------------------------------------- all sources


@pytest.mark.parametrize("name", ["isic2019", "ham10000", "folder", "medmnist"])
def test_a_path_is_asked_for_and_must_be_there(name: str, tmp_path: Path) -> None:
    source = plugins.load("sources", name)
    refused(lambda: source.read(None, source.Config()), "--data PATH")
    refused(lambda: source.read(tmp_path / "nowhere", source.Config()), "nowhere does not exist", "--data PATH")
    empty = refused(lambda: source.read(tmp_path, source.Config()), str(tmp_path), "is empty|holds no image|holds none")
    assert "does not exist" not in empty


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    refused(lambda: read_folder(tmp_path), "cannot be read", "permissions")


def test_the_reader_opens_every_location(tmp_path: Path) -> None:
    catalogs = [
        read_isic(official(tmp_path / "isic", {"ISIC_1": "NV"})),
        read_isic(flat(tmp_path / "flat", "ISIC_1,nevus", header="isic_id,diagnosis")),
        ham10000.read(ham(tmp_path / "ham"), ham10000.Config()),
        read_folder(write(tmp_path / "folder", "AK/1.jpg", "NV/1.jpg")),
        read_folder(pack(tmp_path / "set.zip", "AK/1.jpg", "NV/1.jpg")),
    ]
    with Reader() as reader:
        for catalog in catalogs:
            assert {reader.bytes(catalog.resolve(place)) for place in catalog.table["location"]} == {PIXELS}


# ---------------------------------------------------------------------------------------------------- isic2019


def test_official_layout_from_the_zip(tmp_path: Path) -> None:
    labels = {"ISIC_0000000": "NV", "ISIC_0000004_downsampled": "MEL", "ISIC_0024310": "AK", "ISIC_0053454": "SCC"}
    meta = [
        "ISIC_0053454,85,head/neck,BCN_0000001,female",
        "ISIC_0024310,60,,HAM_0000002,",
        "ISIC_0000004_downsampled,,lower extremity,MSK4_0012345,male",
        "ISIC_0000000,55,anterior torso,,female",
    ]
    before = official(tmp_path, labels, meta) and sorted(tmp_path.rglob("*"))
    catalog = read_isic(tmp_path)
    assert list(catalog.images) == list(labels)
    assert list(catalog.table["label"]) == list(labels.values())
    assert catalog.classes == ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
    assert list(catalog.table["source"]) == ["", "MSK", "HAM", "BCN"]
    assert list(catalog.groups) == [
        "image:ISIC_0000000",
        "lesion:MSK4_0012345",
        "lesion:HAM_0000002",
        "lesion:BCN_0000001",
    ]
    last = row(catalog, "ISIC_0053454")
    assert (last["age"], last["sex"], last["site"]) == (85, "female", "head/neck")
    assert last["location"] == "ISIC_2019_Training_Input.zip::ISIC_2019_Training_Input/ISIC_0053454.jpg"
    assert np.isnan(catalog.table["age"][1])
    assert catalog.root == tmp_path.resolve()
    assert catalog.unlabelled == ()
    assert "CC BY-NC" in catalog.note
    assert sorted(tmp_path.rglob("*")) == before, "something was written beside the data"


@pytest.mark.parametrize("inside", ["ISIC_2019_Training_Input/", "", "some/where/"])
def test_official_layout_unpacked(tmp_path: Path, inside: str) -> None:
    official(tmp_path, {"ISIC_1": "NV", "ISIC_2": "MEL"})
    (tmp_path / isic2019.ARCHIVE).unlink()
    write(tmp_path, f"{inside}ISIC_1.jpg", f"{inside}ISIC_2.JPG", f"{inside}LICENSE.txt", f"{inside}._ISIC_1.jpg")
    assert list(read_isic(tmp_path).table["location"]) == [f"{inside}ISIC_1.jpg", f"{inside}ISIC_2.JPG"]


def test_zip_counts_where_an_image_is_unpacked_too(tmp_path: Path) -> None:
    official(tmp_path, {"ISIC_1": "NV", "ISIC_2": "MEL"})
    write(tmp_path, "ISIC_2019_Training_Input/ISIC_1.jpg", "more/ISIC_3.jpg")
    catalog = read_isic(tmp_path)
    assert all("::" in place for place in catalog.table["location"])
    assert catalog.unlabelled == ("ISIC_3",)


def test_images_at_the_top_of_a_zip_keep_their_name(tmp_path: Path) -> None:
    official(tmp_path, {"ISIC_1": "NV"})
    pack(tmp_path / isic2019.ARCHIVE, "ISIC_1.jpg", "__MACOSX/ISIC_1.jpg", "ATTRIBUTION.txt")
    assert list(read_isic(tmp_path).table["location"]) == ["ISIC_2019_Training_Input.zip::ISIC_1.jpg"]


def test_labels_without_image_and_images_without_label_are_kept(tmp_path: Path) -> None:
    official(tmp_path, {"ISIC_1": "NV", "ISIC_2": "MEL", "ISIC_3": "DF"})
    pack(tmp_path / isic2019.ARCHIVE, "a/ISIC_1.jpg", "a/ISIC_3.jpg", "a/ISIC_9.jpg", "a/ISIC_8.jpg")
    catalog = read_isic(tmp_path)
    assert list(catalog.table["location"])[1] == "missing::ISIC_2"
    assert catalog.counts["MEL"] == 1
    assert catalog.unlabelled == ("ISIC_8", "ISIC_9")


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    official(tmp_path, {"ISIC_1": "NV", "ISIC_2": "MEL"}, ["ISIC_1,50,head/neck,HAM_1,male", "ISIC_2,,,,"])
    plain = read_isic(tmp_path).table
    for name in (isic2019.GROUND_TRUTH, isic2019.METADATA):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode() + b"\r\n\r\n")
    assert read_isic(tmp_path).table.equals(plain)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ("1,1,0,0,0,0,0,0,0", "MEL = 1, NV = 1"),
        ("0,0,0,0,0,0,0,0,0", "every class is 0"),
        ("0.5,0.5,0,0,0,0,0,0,0", "MEL = 0.5, NV = 0.5"),
        ("yes,0,0,0,0,0,0,0,0", "MEL = yes"),
        (",1,0,0,0,0,0,0,0", "MEL = empty, NV = 1"),
        ("-1,1,1,0,0,0,0,0,0", "MEL = -1"),
    ],
)
def test_not_one_hot(tmp_path: Path, cells: str, said: str) -> None:
    official(tmp_path, {"ISIC_1": "NV", "ISIC_2": "MEL"})
    table(tmp_path / isic2019.GROUND_TRUTH, TRUTH_HEADER, one_hot("ISIC_1", "NV"), f"ISIC_2,{cells}")
    refused(lambda: read_isic(tmp_path), isic2019.GROUND_TRUTH, "row 3", "ISIC_2", "one-hot", said)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf\r\n", "is empty"),
        (TRUTH_HEADER.encode(), "header but no rows"),
        (TRUTH_HEADER.encode() + b"\nISIC_1,0\n", "row 2: 2 fields where the header has 10"),
        (TRUTH_HEADER.encode() + b"\nISIC_\xe9,0\n", "row 2: this is not UTF-8"),
        (TRUTH_HEADER.encode("utf-16"), "header but no rows"),
        (TRUTH_HEADER.encode("utf-16-le"), "no column image|not UTF-8|cannot be read"),
    ],
)
def test_broken_csv(tmp_path: Path, data: bytes, said: str) -> None:
    official(tmp_path, {"ISIC_1": "NV"})
    (tmp_path / isic2019.GROUND_TRUTH).write_bytes(data)
    refused(lambda: read_isic(tmp_path), isic2019.GROUND_TRUTH, said)


TRUTH, META, ARCHIVE = isic2019.GROUND_TRUTH, isic2019.METADATA, isic2019.ARCHIVE
TWICE = [one_hot("ISIC_1", "NV"), "", one_hot("ISIC_2", "NV"), one_hot("ISIC_1", "MEL")]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda root: pack(root / ARCHIVE, "ISIC_7.jpg"), ["none of the 1 labelled images", "ISIC_1", "ISIC_7"]),
        (lambda root: (root / ARCHIVE).unlink(), ["labels but no image"]),
        (lambda root: table(root / TRUTH, TRUTH_HEADER, *TWICE), ['"ISIC_1"', "row 2 and in row 5"]),
        (lambda root: table(root / META, META_HEADER, *2 * ["ISIC_1,,,HAM_1,"]), [META, "row 2 and in row 3"]),
        (
            lambda root: table(root / TRUTH, "image;MEL;NV", "ISIC_1;0;1"),
            ["no column BCC, AK", "Found: image, MEL, NV", "Expected: image, MEL, NV, BCC"],
        ),
        (
            lambda root: table(root / TRUTH, f"{TRUTH_HEADER},MEL", one_hot("ISIC_1", "NV") + ",0"),
            ["more than one column MEL"],
        ),
        (lambda root: table(root / TRUTH, TRUTH_HEADER, TWICE[0], one_hot("", "MEL")), ["row 3: no image is named"]),
        (lambda root: (root / ARCHIVE).write_bytes(b"<html>log in</html>"), [ARCHIVE, "ZIP", "Download it again"]),
        (
            lambda root: pack(root / ARCHIVE, "a/ISIC_1.jpg", "b/ISIC_1.png", **{"b/ISIC_1.png": "another"}),
            ['Two files are called "ISIC_1"', "a/ISIC_1.jpg", "b/ISIC_1.png"],
        ),
        (lambda root: (root / META).unlink(), [f"does not hold {META}", "It holds ISIC_2019_Training_GroundTruth"]),
    ],
)
def test_wrong_official_files_are_named(tmp_path: Path, spoil: Callable[[Path], object], said: list[str]) -> None:
    spoil(official(tmp_path, {"ISIC_1": "NV"}))
    refused(lambda: read_isic(tmp_path), *said)


def test_unknown_class_is_listed_or_left_out(tmp_path: Path) -> None:
    official(tmp_path, {"ISIC_1": "NV", "ISIC_2": "UNK", "ISIC_3": "UNK"})
    refused(lambda: read_isic(tmp_path), r"2 images .* UNK \(2\)", "other_diagnoses")
    catalog = read_isic(tmp_path, other_diagnoses="exclude")
    assert list(catalog.images) == ["ISIC_1"]
    assert catalog.unlabelled == (), "an image left out on request is not an image without label"
    assert "UNK (2)" in catalog.note


def test_path_to_a_file_or_one_folder_too_high(tmp_path: Path) -> None:
    root = official(tmp_path / "data", {"ISIC_1": "NV"})
    refused(lambda: read_isic(root / isic2019.ARCHIVE), "is a file, not a folder")
    refused(lambda: read_isic(tmp_path), "one folder deeper: use .*data")


FLAT_HEADER = (
    "isic_id,attribution,copyright_license,age_approx,anatom_site_general,diagnosis_1,diagnosis_2,diagnosis_3,"
    "lesion_id,sex"
)
BARCELONA = '"Department of Dermatology, Hospital Clínic de Barcelona",CC-BY-NC'
NEVUS = "Benign,Benign melanocytic proliferations,Nevus"


def flat(root: Path, *rows: str, header: str = FLAT_HEADER) -> Path:
    table(root / "metadata.csv", header, *rows)
    write(root, *(f"{line.split(',')[0]}.jpg" for line in rows), "attribution.txt", "licenses/CC-BY-NC.txt")
    return root


def test_flat_layout_of_isic_cli(tmp_path: Path) -> None:
    vascular = "Benign,Benign soft tissue proliferations - Vascular,"
    catalog = read_isic(
        flat(
            tmp_path,
            f"ISIC_1,{BARCELONA},50,head/neck,{NEVUS},IL_1,male",
            f"ISIC_2,{BARCELONA},,,{vascular},,",
            f"ISIC_3,{BARCELONA},,,Malignant,Malignant melanocytic proliferations (Melanoma),Melanoma Invasive,IL_1,",
            f"ISIC_4,{BARCELONA},,,Indeterminate,Indeterminate epidermal proliferations,Solar or actinic keratosis,,",
        )
    )
    assert list(catalog.table["label"]) == ["NV", "VASC", "MEL", "AK"]
    assert list(catalog.groups) == ["lesion:IL_1", "image:ISIC_2", "lesion:IL_1", "image:ISIC_4"]
    assert set(catalog.table["source"]) == {"Department of Dermatology, Hospital Clínic de Barcelona"}
    assert row(catalog, "ISIC_1")["location"] == "ISIC_1.jpg"
    assert row(catalog, "ISIC_1")["site"] == "head/neck"
    assert "Barcelona" in catalog.note
    assert "CC-BY-NC" in catalog.note


def test_flat_layout_lists_other_diagnoses(tmp_path: Path) -> None:
    scar = "Benign,Benign soft tissue proliferations - Fibro-histiocytic,Scar"
    flat(
        tmp_path,
        f"ISIC_1,{BARCELONA},,,{NEVUS},,",
        f"ISIC_2,{BARCELONA},,,{scar},,",
        f"ISIC_3,{BARCELONA},,,{scar},,",
        f"ISIC_4,{BARCELONA},,,Benign,,,,",
        f"ISIC_5,{BARCELONA},,,,,,,",
    )
    refused(lambda: read_isic(tmp_path), "4 images", r"Scar \(2\)", r"Benign \(1\)", r"no diagnosis \(1\)", "exclude")
    catalog = read_isic(tmp_path, other_diagnoses="exclude")
    assert list(catalog.images) == ["ISIC_1"]
    assert catalog.unlabelled == ()
    assert "Scar (2)" in catalog.note


def test_flat_layout_with_the_old_diagnosis_column(tmp_path: Path) -> None:
    flat(tmp_path, "ISIC_1,pigmented benign keratosis", "ISIC_2,squamous cell carcinoma", header="isic_id,diagnosis")
    assert list(read_isic(tmp_path).table["label"]) == ["BKL", "SCC"]


def test_flat_layout_refuses_two_diagnoses_that_differ_and_none(tmp_path: Path) -> None:
    flat(tmp_path, "ISIC_1,nevus,Nevus", "ISIC_2,nevus,Dermatofibroma", header="isic_id,diagnosis,diagnosis_3")
    refused(lambda: read_isic(tmp_path), "row 3", '"ISIC_2" is called NV and DF', "diagnosis_3")
    flat(tmp_path, "ISIC_1,5", header="isic_id,age_approx")
    refused(lambda: read_isic(tmp_path), "no column diagnosis", "Found: isic_id, age_approx")


def test_flat_layout_keeps_patients_together(tmp_path: Path) -> None:
    rows = ["ISIC_1,nevus,IL_1,IP_1", "ISIC_2,nevus,IL_2,IP_1", "ISIC_3,nevus,IL_1,", "ISIC_4,nevus,IL_4,"]
    flat(tmp_path, *rows, header="isic_id,diagnosis,lesion_id,patient_id")
    assert list(read_isic(tmp_path).groups) == ["patient:IP_1", "patient:IP_1", "patient:IP_1", "lesion:IL_4"]


def test_every_mapped_diagnosis_is_one_of_the_classes() -> None:
    assert set(isic2019.DIAGNOSES.values()) == set(isic2019.CLASSES)
    assert all(words == words.lower() for words in isic2019.DIAGNOSES)


# ---------------------------------------------------------------------------------------------------- ham10000

HAM_HEADER = "lesion_id,image_id,dx,dx_type,age,sex,localization"
HAM_ROWS = ("HAM_1,ISIC_1,bkl,histo,80.0,male,scalp", "HAM_1,ISIC_2,akiec,histo,,unknown,unknown")


def ham(root: Path, *rows: str, name: str = "HAM10000_metadata.csv") -> Path:
    table(root / name, HAM_HEADER, *(rows or HAM_ROWS))
    pack(root / "HAM10000_images_part_1.zip", "ISIC_1.jpg")
    pack(root / "HAM10000_images_part_2.zip", "ISIC_2.jpg")
    return root


def test_ham10000_with_two_zips_and_masks(tmp_path: Path) -> None:
    ham(tmp_path)
    masks = "HAM10000_segmentations_lesion_tschandl"
    pack(tmp_path / f"{masks}.zip", f"{masks}/ISIC_1_segmentation.png", f"{masks}/._ISIC_2_segmentation.png")
    catalog = ham10000.read(tmp_path, ham10000.Config())
    assert list(catalog.table["label"]) == ["BKL", "AKIEC"]
    assert list(catalog.table["location"]) == [f"HAM10000_images_part_{k}.zip::ISIC_{k}.jpg" for k in (1, 2)]
    assert list(catalog.table["mask"]) == [f"{masks}.zip::{masks}/ISIC_1_segmentation.png", ""]
    assert list(catalog.table["sex"]) == ["male", ""]
    assert list(catalog.table["site"]) == ["scalp", ""]
    assert set(catalog.table["source"]) == {"HAM"}
    assert set(catalog.groups) == {"lesion:HAM_1"}
    assert catalog.unlabelled == ()
    assert "histo" not in catalog.table.to_csv(), "how a diagnosis was confirmed tells it away"


def test_ham10000_unpacked_with_the_name_of_dataverse(tmp_path: Path) -> None:
    table(tmp_path / "HAM10000_metadata", HAM_HEADER, *HAM_ROWS)
    write(
        tmp_path, "HAM10000_images_part_1/ISIC_1.jpg", "HAM10000_images_part_2/ISIC_2.jpg", "m/ISIC_2_segmentation.png"
    )
    catalog = ham10000.read(tmp_path, ham10000.Config())
    assert list(catalog.table["location"]) == ["HAM10000_images_part_1/ISIC_1.jpg", "HAM10000_images_part_2/ISIC_2.jpg"]
    assert list(catalog.table["mask"]) == ["", "m/ISIC_2_segmentation.png"]


def test_ham10000_part_missing(tmp_path: Path) -> None:
    (ham(tmp_path) / "HAM10000_images_part_2.zip").unlink()
    assert list(ham10000.read(tmp_path, ham10000.Config()).table["location"])[1] == "missing::ISIC_2"


def test_ham10000_bad_tables(tmp_path: Path) -> None:
    def read() -> Catalog:
        return ham10000.read(tmp_path, ham10000.Config())

    ham(tmp_path, HAM_ROWS[0], "HAM_2,ISIC_2,melanom,histo,1,male,back")
    refused(read, "row 3", '"ISIC_2" has the dx "melanom"', "akiec")
    ham(tmp_path, HAM_ROWS[0], "HAM_2,ISIC_1,mel,histo,1,male,back")
    refused(read, '"ISIC_1"', "row 2 and in row 3")
    table(tmp_path / "HAM10000_metadata.csv", "lesion_id,image_id,age,sex,localization", "a,b,1,m,back")
    refused(read, "no column dx", "Found: lesion_id, image_id, age")


# ---------------------------------------------------------------------------------------------------- folder


def test_folder_of_class_folders(tmp_path: Path) -> None:
    write(tmp_path, "NV/1.jpg", "NV/deep/er/2.PNG", "AK/1.jpeg", "AK/notes.txt", "stray.jpg", ".cache/NV/9.jpg")
    catalog = read_folder(tmp_path)
    assert catalog.classes == ("AK", "NV")
    assert list(catalog.images) == ["AK/1.jpeg", "NV/1.jpg", "NV/deep/er/2.PNG"]
    assert list(catalog.table["label"]) == ["AK", "NV", "NV"]
    assert list(catalog.table["location"]) == list(catalog.images)
    assert list(catalog.groups) == [f"image:{name}" for name in catalog.images]
    assert catalog.unlabelled == ("stray.jpg",)
    assert catalog.name == tmp_path.name


def test_folder_sentences_differ(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    texts = {
        refused(lambda: read_folder(tmp_path / "empty"), "holds no image"),
        refused(lambda: read_folder(write(tmp_path / "plain", "1.jpg")), "images but no class folders"),
        refused(lambda: read_folder(write(tmp_path / "gap", "AK/1.jpg", "NV/1.jpg", "DF/a.txt")), "DF holds no image"),
    }
    assert len(texts) == 3


def test_folder_of_one_class_is_read(tmp_path: Path) -> None:
    """That a classifier needs two is a classifier's rule: generators and their scores do with one."""
    assert read_folder(write(tmp_path / "one", "AK/1.jpg")).classes == ("AK",)
    assert read_folder(pack(tmp_path / "one.zip", "AK/1.jpg", "AK/2.jpg")).classes == ("AK",)


def test_folder_with_chosen_classes(tmp_path: Path) -> None:
    write(tmp_path, "NV/1.jpg", "AK/1.jpg", "DF/1.jpg", "scripts/run.py")
    catalog = read_folder(tmp_path, classes=("NV", "AK"))
    assert catalog.classes == ("NV", "AK")
    assert sorted(catalog.images) == ["AK/1.jpg", "NV/1.jpg"]
    assert "DF" in catalog.note
    refused(lambda: read_folder(tmp_path, classes=("NV", "A")), 'no image of the class "A"')


def test_folder_with_groups(tmp_path: Path) -> None:
    write(tmp_path, "NV/1.jpg", "NV/2.jpg", "AK/1.jpg", "AK/3.jpg", "masks/m3.png")
    table(
        tmp_path / "groups.csv",
        "lesion,image,age,sex,site,source,mask,remark",
        "L1,NV/1.jpg,50,male,back,clinic,,x",
        "L1,2,,,,,,",
        "L2,3.jpg,,,,,.\\masks\\m3.png,",
    )
    catalog = read_folder(tmp_path)
    assert catalog.classes == ("AK", "NV")
    assert row(catalog, "NV/1.jpg")["group"] == row(catalog, "NV/2.jpg")["group"] == "lesion:L1"
    assert row(catalog, "AK/1.jpg")["group"] == "image:AK/1.jpg"
    assert row(catalog, "AK/3.jpg")["mask"] == "masks/m3.png"
    first = row(catalog, "NV/1.jpg")
    assert (first["age"], first["sex"], first["site"], first["source"]) == (50, "male", "back", "clinic")
    elsewhere = shutil.move(tmp_path / "groups.csv", tmp_path / "table.csv")
    for name in ("table.csv", elsewhere):
        assert read_folder(tmp_path, table=name).table.equals(catalog.table)


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [
        ("image,lesion", ["1,L1"], 'row 2: "1" may be AK/1.jpg or NV/1.jpg'),
        ("image,lesion", ["NV/9.jpg,L1", "AK/2.jpg,L1"], 'none of its rows names an image that is here, such as "NV/9'),
        ("image,lesion", ["NV/1.jpg,L1", ",L2"], "row 3"),
        ("image,lesion", ["2,L1", "NV/2.jpg,L2"], "in row 2 and in row 3"),
        ("image,lesion,mask", ["2,L1,m.png"], 'row 2: there is no mask "m.png"'),
        ("colour,lesion", ["2,L1"], "no column names images.*\n.*Columns: colour, lesion"),
    ],
)
def test_folder_with_wrong_groups(tmp_path: Path, header: str, rows: list[str], said: str) -> None:
    write(tmp_path, "NV/1.jpg", "NV/2.jpg", "AK/1.jpg")
    table(tmp_path / "groups.csv", header, *rows)
    refused(lambda: read_folder(tmp_path), "groups.csv", said)


def test_folder_in_a_zip(tmp_path: Path) -> None:
    names = ["my/data/AK/1.jpg", "my/data/NV/1.jpg", "my/data/masks/1.png", "my/data/groups.csv", "__MACOSX/AK/1.jpg"]
    groups = "image,lesion,mask\nAK/1.jpg,L1,masks/1.png\n"
    archive = pack(tmp_path / "set.zip", *names, **{"my/data/groups.csv": groups})
    catalog = read_folder(archive)
    assert list(catalog.images) == ["AK/1.jpg", "NV/1.jpg"]
    assert list(catalog.table["location"]) == ["set.zip::my/data/AK/1.jpg", "set.zip::my/data/NV/1.jpg"]
    assert row(catalog, "AK/1.jpg")["mask"] == "set.zip::my/data/masks/1.png"
    assert row(catalog, "AK/1.jpg")["lesion"] == "L1"
    assert catalog.resolve(catalog.table["location"][0]) == f"{archive.resolve()}::my/data/AK/1.jpg"


def test_folder_in_a_bad_zip(tmp_path: Path) -> None:
    refused(lambda: read_folder(write(tmp_path, "set.zip") / "set.zip"), "cannot be read as a ZIP")
    refused(lambda: read_folder(pack(tmp_path / "no.zip", "groups.csv")), "no column|no image")
    one = read_folder(pack(tmp_path / "one.zip", "AK/1.jpg", "AK/2.jpg"))
    assert kinds(one)["one class only"].severity == "warning"
    apart = pack(
        tmp_path / "apart.zip", "data/AK/1.jpg", "data/NV/1.jpg", "groups.csv", **{"groups.csv": "image,lesion\n1,L"}
    )
    refused(lambda: read_folder(apart), "groups.csv")


# ---------------------------------------------------------------------------------------------------- medmnist


def npz(path: Path, *, shape: tuple[int, ...] = (4, 4, 3), classes: int = 7, dtype: str = "uint8", **replaced) -> Path:
    counts = {"train": 10, "val": 3, "test": 4}
    arrays = {}
    for part, count in counts.items():
        arrays[f"{part}_images"] = np.zeros((count, *shape), dtype)
        arrays[f"{part}_labels"] = (np.arange(count, dtype=np.uint8) % classes)[:, None]
    arrays.update(replaced)
    np.savez_compressed(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def read_medmnist(path: Path, **options: object) -> Catalog:
    return medmnist.read(path, medmnist.Config.model_validate(options))


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3), (64, 64, 3)])
def test_medmnist(tmp_path: Path, shape: tuple[int, ...]) -> None:
    catalog = read_medmnist(npz(tmp_path / "dermamnist_64.npz", shape=shape))
    assert catalog.classes == ("AKIEC", "BCC", "BKL", "DF", "MEL", "NV", "VASC")
    assert list(catalog.images[[0, 9, 10, 16]]) == ["train_00000", "train_00009", "val_00000", "test_00003"]
    assert catalog.table["location"][11] == "dermamnist_64.npz::val_images::1"
    assert catalog.table["official_part"].value_counts().to_dict() == {"train": 10, "validation": 3, "test": 4}
    assert list(catalog.labels) == [*(k % 7 for k in range(10)), 0, 1, 2, 0, 1, 2, 3]
    assert read_medmnist(tmp_path).table.equals(catalog.table), "a folder with one file"


def test_medmnist_says_what_dermamnist_leaks(tmp_path: Path) -> None:
    assert "shares lesions" in read_medmnist(npz(tmp_path / "dermamnist.npz")).note
    assert "shares lesions" not in read_medmnist(npz(tmp_path / "dermamnist_corrected_28.npz")).note
    assert "shares lesions" not in read_medmnist(npz(tmp_path / "bloodmnist.npz")).note


def test_medmnist_class_names(tmp_path: Path) -> None:
    assert read_medmnist(npz(tmp_path / "mine.npz", classes=3)).classes == ("0", "1", "2")
    assert read_medmnist(tmp_path, class_names=("a", "b", "c")).classes == ("a", "b", "c")
    refused(lambda: read_medmnist(tmp_path, class_names=("a", "b")), "label 2", "2 class names: a, b")
    assert read_medmnist(npz(tmp_path / "organsmnist.npz")).classes[0] == "bladder"
    sizes = {name: len(classes) for name, classes in medmnist.CLASS_NAMES.items()}
    official_sizes = {"bloodmnist": 8, "breastmnist": 2, "dermamnist": 7, "octmnist": 4, "organamnist": 11}
    official_sizes |= {"organcmnist": 11, "organsmnist": 11, "pathmnist": 9, "pneumoniamnist": 2}
    assert sizes == official_sizes | {"retinamnist": 5, "tissuemnist": 8}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"val_labels": None}, "no array val_labels.*\n.*Found: test_images.*Expected: train_images"),
        ({"train_labels": np.zeros((10, 14), np.uint8)}, "14 labels an image"),
        ({"shape": (4, 4, 4)}, "three-dimensional"),
        ({"shape": (4, 4, 4, 3)}, "three-dimensional"),
        ({"shape": (16,)}, r"train_images is uint8 \(10, 16\)"),
        ({"dtype": "float32"}, "is float32"),
        ({"train_labels": np.zeros((9, 1), np.uint8)}, r"\(9, 1\) for 10 images"),
        ({"train_labels": np.full((10, 1), -1)}, "from 0 up"),
        ({"train_labels": np.full((10, 1), 0.5)}, "whole number"),
        ({"train_labels": np.array([["a"]] * 10, object)}, "cannot be read"),
    ],
)
def test_medmnist_bad_arrays(tmp_path: Path, options: dict[str, object], said: str) -> None:
    path = npz(tmp_path / "set.npz", **options)  # pyright: ignore[reportArgumentType]
    refused(lambda: read_medmnist(path), "set.npz", said)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["labels", "images", "both"])
def test_medmnist_that_claims_too_much_is_refused_from_its_headers(tmp_path: Path, kind: str) -> None:
    """A file of 60 kB with headers of 50 million labels, or images, and zeros behind them."""
    arrays = {f"{part}_images": (4, 4, 4, 3) for part in ("train", "val", "test")}
    arrays |= {f"{part}_labels": (4, 1) for part in ("train", "val", "test")}
    arrays |= {"train_images": (5 * 10**7, 1, 1)} if kind != "labels" else {}
    arrays |= {"train_labels": (5 * 10**7, 1)} if kind != "images" else {}
    with zipfile.ZipFile(tmp_path / "set.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, shape in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(stream, header)
                for _ in range(-(-int(np.prod(shape)) // 10**6)):
                    stream.write(bytes(min(10**6, int(np.prod(shape)))))
    said = "for 4 images" if kind == "labels" else "claims 50,000,000 images"
    refused(lambda: read_medmnist(tmp_path / "set.npz"), said)


def test_medmnist_bad_files(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("this is no archive")
    refused(lambda: read_medmnist(tmp_path / "text.npz"), "text.npz cannot be read as .npz")
    whole = npz(tmp_path / "whole.npz", train_images=np.random.default_rng(0).integers(0, 255, (10, 9, 9), np.uint8))
    (tmp_path / "cut.npz").write_bytes(whole.read_bytes()[:-200])
    refused(lambda: read_medmnist(tmp_path / "cut.npz"), "cannot be read")
    refused(lambda: read_medmnist(tmp_path), "one .npz file", "cut.npz, text.npz, whole.npz")


def test_medmnist_reads_no_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = npz(tmp_path / "dermamnist.npz")
    opened = zipfile.ZipFile.open
    taken: dict[str, int] = {}

    def counting(self: zipfile.ZipFile, name: str, *args: object, **options: object) -> io.BufferedIOBase:
        stream = opened(self, name)
        read = stream.read

        def counted(*size: int) -> bytes:
            data = read(*size)
            taken[name] = taken.get(name, 0) + len(data)
            return data

        stream.read = counted  # pyright: ignore[reportAttributeAccessIssue]
        return stream  # pyright: ignore[reportReturnType]

    monkeypatch.setattr(zipfile.ZipFile, "open", counting)
    read_medmnist(path)
    assert taken["train_images.npy"] == 128, "the header alone"


# ---------------------------------------------------------------------------------------------------- real data


@pytest.mark.real_data
def test_real_isic2019(real_data: Path) -> None:
    catalog = read_isic(real_data / "isic2019-84px")
    counts = {"MEL": 3682, "NV": 10611, "BCC": 2656, "AK": 663, "BKL": 2134, "DF": 191, "VASC": 201, "SCC": 496}
    assert catalog.counts == counts
    assert len(catalog) == 20634
    assert int((catalog.table["lesion"] == "").sum()) == 2084
    assert int(catalog.table["image"].str.endswith("_downsampled").sum()) == 1910
    assert catalog.table["source"].value_counts().to_dict() == {"BCN": 9886, "HAM": 8009, "": 2084, "MSK": 655}
    assert catalog.unlabelled == ()
    assert not catalog.table["location"].str.startswith("missing").any()


@pytest.mark.real_data
def test_real_ham10000(real_data: Path) -> None:
    catalog = ham10000.read(real_data / "ham10000-200px", ham10000.Config())
    assert len(catalog) == 8009
    assert len(set(catalog.groups)) == 5955
    assert catalog.counts == {"MEL": 890, "NV": 5364, "BCC": 411, "AKIEC": 261, "BKL": 878, "DF": 92, "VASC": 113}
    assert (catalog.table["mask"] != "").all()
    assert catalog.unlabelled == ()


@pytest.mark.real_data
def test_real_labels_of_both_sets_agree(real_data: Path) -> None:
    """HAM's AKIEC is ISIC-2019's AK and SCC together; every other class is the same, and so are the lesions."""
    both = ham10000.read(real_data / "ham10000-200px", ham10000.Config()).table.merge(
        read_isic(real_data / "isic2019-84px").table, on="image", suffixes=("_ham", "_isic")
    )
    assert len(both) == 8009
    assert (both["lesion_ham"] == both["lesion_isic"]).all()
    joined = both["label_isic"].replace({"AK": "AKIEC", "SCC": "AKIEC"})
    assert (both["label_ham"] == joined).all()
    assert both["label_isic"][both["label_ham"] == "AKIEC"].value_counts().to_dict() == {"SCC": 157, "AK": 104}
