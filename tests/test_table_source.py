"""The source ``table``: columns guessed and named, images wherever they lie, Excel, and public sets as downloaded."""

import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import openpyxl
import pytest

from call_cli import Result
from moulage import plugins
from moulage.data.catalog import Catalog
from moulage.data.reader import Reader
from moulage.errors import DataError
from moulage.proposal.survey import source_of
from moulage.sources import _excel, folder, ham10000, table
from pictures import encoded, write_pictures

PICTURE = encoded(np.zeros((4, 4, 3), np.uint8))


def read(path: Path | None, **options: object) -> Catalog:
    return table.read(path, table.Config.model_validate(options))


def images(root: Path, *names: str) -> Path:
    return write_pictures(root, dict.fromkeys(names, PICTURE))


def csv(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def excel(path: Path, **sheets: Sequence[Sequence[object]]) -> Path:
    book = openpyxl.Workbook()
    book.remove(book.worksheets[0])
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
    book.save(path)
    return path


def pack(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, PICTURE)
    return path


def refused(call, *patterns: str) -> None:
    with pytest.raises(DataError) as caught:
        call()
    for pattern in patterns:
        assert re.search(pattern, str(caught.value)), f"{pattern!r} is not in {caught.value}"


def told(catalog: Catalog, kind: str) -> str:
    return next(finding.message for finding in catalog.findings if finding.kind == kind)


def bytes_of(catalog: Catalog) -> set[bytes]:
    with Reader() as reader:
        return {reader.bytes(catalog.resolve(place)) for place in catalog.table["location"]}


# ---------------------------------------------------------------------------------------------------- columns


def test_every_column_is_read_and_told(tmp_path: Path) -> None:
    images(tmp_path, "a/1.png", "a/2.png", "b/1.png", "m/1.png")
    where = csv(
        tmp_path / "all.csv",
        "Path;Diagnosis;Patient ID;Lesion-ID;Hospital;Source;Age;Gender;Region;Mask;Split;Colour",
        "a/1.png;AK;p1;l1;x;HAM;45;F;face;m/1.png;train;red",
        "a/2.png;NV;p1;l2;x;BCN;?;m;;;val;red",
        "b/1.png;NV;;l2;x;;60-69;;arm;;test;red",
    )
    catalog = read(where)
    assert catalog.name == "all"
    assert catalog.root == tmp_path.resolve()
    assert list(catalog.images) == list(catalog.table["location"]) == ["a/1.png", "a/2.png", "b/1.png"]
    assert list(catalog.groups) == ["patient:p1"] * 3, "the third row's patient is known by its lesion"
    assert list(catalog.table["lesion"]) == ["l1", "l2", "l2"]
    assert list(catalog.table["source"]) == ["HAM", "BCN", ""]
    assert catalog.table["age"].fillna(-1).tolist() == [45, -1, 64.5]
    assert list(catalog.table["sex"]) == ["female", "male", ""]
    assert list(catalog.table["site"]) == ["face", "", "arm"]
    assert list(catalog.table["mask"]) == ["m/1.png", "", ""]
    assert list(catalog.table["official_part"]) == ["train", "validation", "test"]
    assert catalog.unlabelled == ()
    assert told(catalog, "columns of the table") == (
        f'{where}, 3 rows, is read guessed, image "Path", class "Diagnosis", lesion "Lesion-ID", patient "Patient ID", '
        'source "Source", age "Age", sex "Gender", site "Region", mask "Mask", official part "Split"; not read: '
        "Hospital, Colour."
    )
    assert "train 1, validation 1, test 1" in told(catalog, "official parts")


def test_columns_are_named_and_those_that_are_none_left_out(tmp_path: Path) -> None:
    images(tmp_path, "1.png", "2.png")
    csv(tmp_path / "t.tsv", "Datei\tBefund\tFall\tage\tsex\tlabel", "1.png\tx\tc1\t3\tF\t7", "2.png\ty\tc1\t9\tM\t8")
    catalog = read(tmp_path, label_column="Befund", patient_column="Fall", ignore=["age"])
    assert catalog.classes == ("x", "y")
    assert list(catalog.groups) == ["patient:c1"] * 2
    assert catalog.table["age"].isna().all()
    said = told(catalog, "columns of the table")
    assert 'as named, class "Befund", patient "Fall"; guessed, image "Datei", sex "sex"; not read: age, label.' in said


@pytest.mark.parametrize(
    ("header", "patterns"),
    [
        ("image,label,dx", ["the class may be in the column label or dx", "label_column=NAME"]),
        ("image,a,b", ["no column is called as the class", r"a \(2 values\), b \(2 values\)"]),
        ("u,label,x", ["no column names images", "Columns: u, label, x"]),
        ("derm,label,clinic", ["image may be in the column derm or clinic", "image_column=NAME"]),
    ],
)
def test_what_cannot_be_guessed_is_asked_for(tmp_path: Path, header: str, patterns: list[str]) -> None:
    images(tmp_path, "1.png", "2.png", "3.png", "4.png")
    first = {"u": ("x1", "x2")}.get(header.split(",")[0], ("1.png", "2.png"))
    last = ("3.png", "4.png") if "clinic" in header else ("p", "q")
    where = csv(tmp_path / "t.csv", header, f"{first[0]},AK,{last[0]}", f"{first[1]},NV,{last[1]}")
    refused(lambda: read(where), re.escape(str(where)), *patterns)


@pytest.mark.parametrize("option", ["label_column", "age_column", "part_column"])
def test_a_column_that_is_not_there_is_refused_with_the_nearest(tmp_path: Path, option: str) -> None:
    images(tmp_path, "1.png")
    where = csv(tmp_path / "t.csv", "image,label", "1.png,AK")
    refused(lambda: read(where, **{option: "labell"}), 'no column "labell"', "label")
    refused(lambda: read(where, ignore=["labell"]), 'no column "labell"')


def test_parts_are_guessed_where_all_are_and_refused_by_row_where_they_were_named(tmp_path: Path) -> None:
    images(tmp_path, "1.png", "2.png")
    where = csv(tmp_path / "t.csv", "image,label,set", "1.png,AK,train", "2.png,NV,7")
    catalog = read(where)
    assert set(catalog.table["official_part"]) == {""}
    assert "not read: set" in told(catalog, "columns of the table")
    refused(lambda: read(where, part_column="set"), 'row 3: "7" is no part')


def test_classes_are_chosen_joined_and_left_out(tmp_path: Path) -> None:
    images(tmp_path, *(f"{k}.png" for k in range(6)))
    lines = [f"{k}.png,{name}" for k, name in enumerate(["clark nevus", "blue nevus", "MEL", "mel ", "misc", "nan"])]
    where = csv(tmp_path / "t.csv", "image,label", *lines)
    joined = {"clark nevus": "NV", "blue nevus": "NV", "misc": ""}
    refused(lambda: read(where, rename=joined), "'MEL' .*'mel'", "merge_spellings")
    catalog = read(where, rename=joined, merge_spellings=True)
    assert catalog.counts == {"MEL": 2, "NV": 2}
    assert "misc" in catalog.note
    assert told(catalog, "row without class").startswith("1 rows")
    assert read(where, rename=joined, merge_spellings=True, classes=["NV", "MEL"]).classes == ("NV", "MEL")
    refused(lambda: read(where, rename={"clark nevis": "NV"}), 'no row has the class "clark nevis"', "clark nevus")
    refused(lambda: read(where, classes=["NW"], merge_spellings=True), 'no image of the class "NW"')


# ---------------------------------------------------------------------------------------------------- where images lie


@pytest.mark.parametrize("written", ["{root}/deep/{n}.png", "deep/{n}.png", "./deep/{n}.png", "{n}", r"deep\{n}.png"])
def test_an_image_is_found_however_it_is_written(tmp_path: Path, written: str) -> None:
    images(tmp_path, "deep/one.png", "deep/two.png", "deep/three.png")
    names = [written.format(root=tmp_path, n=name) for name in ("one", "two")]
    catalog = read(csv(tmp_path / "t.csv", "image,label", f"{names[0]},AK", f"{names[1]},NV"))
    assert bytes_of(catalog) == {PICTURE}
    assert [Path(catalog.resolve(place)).resolve() for place in catalog.table["location"]] == [
        (tmp_path / f"deep/{name}.png").resolve() for name in ("one", "two")
    ]
    assert not any(str(tmp_path) in name for name in catalog.images), "where the data lie is nobody's name"


def test_images_elsewhere(tmp_path: Path) -> None:
    images(tmp_path / "store/x", "1.png", "2.png")
    where = csv(tmp_path / "lists/t.csv", "image,label", "x/1.png,AK", "x/2.png,NV")
    refused(lambda: read(where), 'no image such as "x/1.png" is below', "images=FOLDER")
    assert bytes_of(read(where, images=Path("../store"))) == {PICTURE}
    assert bytes_of(read(where, images=tmp_path / "store")) == {PICTURE}
    refused(lambda: read(where, images="../nowhere"), "nowhere is no folder")


def test_a_table_of_paths_is_read_without_listing_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images(tmp_path, "1.png", "2.png")
    where = csv(tmp_path / "t.csv", "image,label", "1.png,AK", "2.png,NV")
    monkeypatch.setattr("moulage.sources._files.listing", lambda path: pytest.fail(f"{path} was listed"))
    assert len(read(where)) == 2


def test_what_is_not_there_what_is_there_twice_and_what_nobody_names(tmp_path: Path) -> None:
    images(tmp_path, "a/1.png", "b/1.png", "b/2.png", "b/3.png")
    where = csv(tmp_path / "t.csv", "image,label", "a/1.png,AK", "b/2.png,NV", "gone.png,NV", ",NV", "a/1.png,AK")
    catalog = read(tmp_path)
    assert list(catalog.table["location"]) == ["a/1.png", "b/2.png", "missing::gone.png"]
    assert list(catalog.unlabelled) == ["b/1.png", "b/3.png"]
    assert told(catalog, "row without image").startswith("1 rows")
    csv(where, "image,label", "1.png,AK", "2.png,NV")
    refused(lambda: read(where), "row 2", "a/1.png or b/1.png")
    csv(where, "image,label", "a/1.png,AK", "./a/1.png,NV")
    refused(lambda: read(where), "row 2 and in row 3")
    csv(where, "image,label,mask", "a/1.png,AK,m.png", "b/2.png,NV,")
    refused(lambda: read(where), 'row 2: there is no mask "m.png"')


def test_the_table_of_a_folder(tmp_path: Path) -> None:
    images(tmp_path, "1.png", "2.png")
    refused(lambda: read(tmp_path), "holds none of the tables", "--data PATH")
    csv(tmp_path / "deep/t.csv", "image,label", "1.png,AK", "2.png,NV")
    refused(lambda: read(tmp_path), "deep/t.csv")
    assert len(read(tmp_path, table="deep/t.csv")) == 2
    csv(tmp_path / "a.csv", "image,label", "1.png,AK", "2.png,NV")
    csv(tmp_path / "b.csv", "image,label", "1.png,AK", "2.png,NV")
    refused(lambda: read(tmp_path), r"a.csv, b.csv", "table=NAME")
    refused(lambda: read(tmp_path / "1.png"), "no table by its name")
    refused(lambda: read(None), "--data PATH")
    refused(lambda: read(tmp_path / "nowhere.csv"), "does not exist")


@pytest.mark.parametrize("name", ["t.csv", "t.xlsx"])
def test_the_source_folder_says_who_reads_tables_and_takes_a_workbook_for_no_archive(tmp_path: Path, name: str) -> None:
    images(tmp_path, "AK/1.png", "NV/2.png")
    excel(tmp_path / name, List=[("image", "label"), ("1.png", "AK")])
    refused(lambda: folder.read(tmp_path / name, folder.Config()), "is a table", "--source table")
    kinds = {finding.kind for finding in folder.read(tmp_path, folder.Config()).findings}
    assert "pictures that are not read" not in kinds


def test_init_takes_a_table_by_its_name(tmp_path: Path) -> None:
    where = csv(images(tmp_path, "1.png") / "t.csv", "image,label", "1.png,AK")
    assert source_of(where) == "table"
    assert source_of(tmp_path) == "folder"
    assert "table" in plugins.names("sources")


# ---------------------------------------------------------------------------------------------------- Excel


def test_excel_is_read_as_csv_is(tmp_path: Path) -> None:
    images(tmp_path, "1.png", "2.png", "3.png")
    rows = [
        ("image", "label", "patient_id", "age", "checked", None),
        (1, "AK", 7.0, 45.5, True, None),
        (),
        (2, "NV", "007", None, False, None),
        (3, "NV", "#N/A", "85+", None, None),
    ]
    catalog = read(excel(tmp_path / "t.xlsx", List=rows, Empty=[]))
    assert list(catalog.images) == ["1", "2", "3"]
    assert list(catalog.table["location"]) == ["1.png", "2.png", "3.png"]
    assert list(catalog.groups) == ["patient:7", "patient:007", "image:3"]
    assert catalog.table["age"].fillna(-1).tolist() == [45.5, -1, 85]
    excel(tmp_path / "t.xlsx", List=rows, Other=rows[:2])
    refused(lambda: read(tmp_path / "t.xlsx"), "several sheets: List, Other", "sheet=NAME")
    refused(lambda: read(tmp_path / "t.xlsx", sheet="list"), 'no sheet "list"', "List, Other")
    assert len(read(tmp_path / "t.xlsx", sheet="Other")) == 1
    excel(tmp_path / "t.xlsx", List=[*rows[:2], (9, "NV")])
    assert read(tmp_path / "t.xlsx").table["location"].tolist() == ["1.png", "missing::9"]


def test_an_error_names_the_row_of_the_sheet(tmp_path: Path) -> None:
    images(tmp_path, "1.png")
    where = excel(tmp_path / "t.xlsx", List=[(), ("image", "label"), ("1.png", "AK"), (), ("1.png", "NV")])
    refused(lambda: read(where), "row 3 and in row 5")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04 no archive", b"\xd0\xcf\x11\xe0 an old or encrypted one"])
def test_what_is_no_workbook_is_one_sentence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "t.xlsx").write_bytes(data)
    refused(lambda: read(tmp_path / "t.xlsx"), "cannot be read as an Excel workbook", "CSV in UTF-8")


def test_a_zip_that_is_no_workbook_and_one_that_unpacks_to_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(tmp_path / "t.xlsx", "a.png")
    refused(lambda: read(tmp_path / "t.xlsx"), "cannot be read as an Excel workbook")
    monkeypatch.setattr(_excel, "MOST_UNPACKED", 10)
    refused(lambda: read(tmp_path / "t.xlsx"), "would unpack to")


def test_without_openpyxl_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    excel(tmp_path / "t.xlsx", List=[("image", "label"), ("1.png", "AK")])
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    refused(lambda: read(tmp_path / "t.xlsx"), r"moulage\[excel\]")


# ---------------------------------------------------------------------------------------------------- public sets


def test_pad_ufes_20_as_it_is_downloaded(tmp_path: Path) -> None:
    header = "patient_id,lesion_id,smoke,age,gender,fitspatrick,region,diameter_1,diagnostic,itch,img_id,biopsed"
    people = [("PAT_1516", "1765", "NEV"), ("PAT_46", "881", "BCC"), ("PAT_46", "882", "ACK")]
    names = [f"{patient}_{lesion}_{10 + k}.png" for k, (patient, lesion, _) in enumerate(people)]
    lines = [
        f"{patient},{lesion},,{k + 50},FEMALE,3.0,NECK,6.0,{label},True,{name},True"
        for k, ((patient, lesion, label), name) in enumerate(zip(people, names, strict=True))
    ]
    csv(tmp_path / "metadata.csv", header, *lines)
    for part, name in enumerate(names, start=1):
        pack(tmp_path / f"images/imgs_part_{part}.zip", f"imgs_part_{part}/{name}")
    before = sorted(tmp_path.rglob("*"))
    catalog = read(tmp_path)
    assert catalog.classes == ("ACK", "BCC", "NEV")
    assert list(catalog.groups) == ["patient:PAT_1516", "patient:PAT_46", "patient:PAT_46"]
    assert catalog.table["location"][1] == f"images/imgs_part_2.zip::imgs_part_2/{names[1]}"
    assert catalog.table["age"].tolist() == [50, 51, 52]
    assert set(catalog.table["site"]) == {"NECK"}
    assert set(catalog.table["sex"]) == {"female"}
    assert bytes_of(catalog) == {PICTURE}
    assert sorted(tmp_path.rglob("*")) == before, "something was written beside the data"


def test_derm7pt_as_it_is_downloaded(tmp_path: Path) -> None:
    header = "case_num,diagnosis,seven_point_score,pigment_network,location,sex,clinic,derm,case_id,notes,management"
    images(tmp_path / "images", *(f"{name}.jpg" for name in ("NEL/NEL025", "NEL/NEL027", "Gdl/Gdl015", "Gdl/Gdl016")))
    csv(
        tmp_path / "meta/meta.csv",
        header,
        "1,basal cell carcinoma,0,absent,abdomen,female,NEL/NEL025.jpg,NEL/NEL027.jpg,N1,,excision",
        "2,blue nevus,1,absent,head neck,male,Gdl/Gdl015.jpg,Gdl/Gdl016.jpg,,,no further examination",
    )
    csv(tmp_path / "meta/train_indexes.csv", "indexes", "0")
    options = {"table": "meta/meta.csv", "patient_column": "case_num", "rename": {"blue nevus": "NEV"}}
    refused(lambda: read(tmp_path, **options), "derm or clinic|clinic or derm")
    catalog = read(tmp_path, image_column="derm", **options)
    assert list(catalog.table["location"]) == ["images/NEL/NEL027.jpg", "images/Gdl/Gdl016.jpg"]
    assert catalog.classes == ("NEV", "basal cell carcinoma")
    assert list(catalog.groups) == ["patient:1", "patient:2"]
    assert list(catalog.table["site"]) == ["abdomen", "head neck"]


# ---------------------------------------------------------------------------------------------------- the verb


def test_prepare_reads_a_table_and_says_what_it_took_for_what(tmp_path: Path, call: Callable[..., Result]) -> None:
    rng, lines = np.random.default_rng(0), []
    for k in range(36):
        write_pictures(tmp_path / "data", {f"x/{k}.png": rng.integers(0, 255, (24, 24, 3)).astype(np.uint8)})
        lines.append((f"x/{k}.png", "ABC"[k % 3], f"p{k // 2}"))
    where = excel(tmp_path / "data/t.xlsx", List=[("file", "dx", "patient"), *lines])
    shown = call("prepare", "--source", "table", "--data", where, "--out", tmp_path / "run").out
    assert "columns of the" in shown
    catalog = Catalog.load(tmp_path / "run/catalog.parquet")
    assert len(catalog) == 36
    assert len(set(catalog.groups)) == 18


@pytest.mark.real_data
def test_the_real_ham10000_is_read_as_its_own_source_reads_it(real_data: Path) -> None:
    root = real_data / "ham10000-200px"
    guessed = read(root / "HAM10000_metadata.csv")
    known = ham10000.read(root, ham10000.Config())
    assert [name.upper() for name in guessed.table["label"]] == list(known.table["label"])
    for column in ("image", "lesion", "group", "sex", "site", "location"):
        assert list(guessed.table[column]) == list(known.table[column]), column
