"""DICOM: pictures against what they were made of, headers, groups, and that nothing identifying is ever written."""

import gzip
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import convert_color_space
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

from call_cli import Result
from moulage.data import dicom as pictures
from moulage.data.catalog import Catalog
from moulage.data.images import ImageError, decode
from moulage.data.reader import Reader
from moulage.errors import DataError
from moulage.sources import dicom, folder, table
from pictures import encoded

SECRET = {
    "PatientID": "MRN-7731904",
    "PatientName": "Okonkwo^Adaeze",
    "PatientBirthDate": "19310417",
    "StudyDate": "20190823",
    "AccessionNumber": "ACC5520417",
    "InstitutionName": "Klinikum Unterdorf",
    "ReferringPhysicianName": "Zweifel^Beat",
    "OtherPatientIDs": "SSN-881-22",
    "DeviceSerialNumber": "SN0099817",
    "StationName": "ROOM12B",
    "PatientComments": "lives at Lindenweg",
}


def dataset(values: np.ndarray, photometric: str = "", bits: int = 0, **tags: Any) -> Dataset:
    """A DICOM file of these pixels: [H, W] or [H, W, 3]."""
    found = Dataset()
    found.file_meta = FileMetaDataset()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    found.SOPClassUID = found.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.4"
    found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    found.Rows, found.Columns = values.shape[:2]
    found.SamplesPerPixel = 3 if values.ndim == 3 else 1
    if values.ndim == 3:
        found.PlanarConfiguration = 0
    found.PhotometricInterpretation = photometric or ("RGB" if values.ndim == 3 else "MONOCHROME2")
    found.BitsAllocated = 8 * values.dtype.itemsize
    found.BitsStored = bits or found.BitsAllocated
    found.HighBit = found.BitsStored - 1
    found.PixelRepresentation = int(np.issubdtype(values.dtype, np.signedinteger))
    found.PixelData = values.tobytes()
    for name, value in tags.items():
        setattr(found, name, value)
    return found


def stored(found: Dataset) -> bytes:
    stream = pydicom.filebase.DicomBytesIO()
    found.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def put(path: Path, found: Dataset) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(stored(found))
    return path


def shown(found: Dataset) -> np.ndarray:
    return decode(pictures.picture(stored(found)), 64)


def noise(*shape: int, most: int = 256, kind: Any = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, most, shape).astype(kind)


def read(path: Path | None, **options: object) -> Catalog:
    return dicom.read(path, dicom.Config.model_validate(options))


def refused(call: Callable[[], object], *patterns: str) -> None:
    with pytest.raises(DataError) as caught:
        call()
    for pattern in patterns:
        assert re.search(pattern, str(caught.value)), f"{pattern!r} is not in {caught.value}"


def told(catalog: Catalog, kind: str) -> str:
    return next((finding.message for finding in catalog.findings if finding.kind == kind), "")


# ---------------------------------------------------------------------------------------------------- pictures


def test_colours_of_eight_bits_are_those_that_were_stored() -> None:
    values = noise(6, 8, 3)
    np.testing.assert_array_equal(shown(dataset(values)), values)
    planar = dataset(values, PlanarConfiguration=1, PixelData=values.transpose(2, 0, 1).tobytes())
    np.testing.assert_array_equal(shown(planar), values)


@pytest.mark.parametrize("bits", [10, 12, 16])
def test_of_more_bits_the_upper_eight_are_kept(bits: int) -> None:
    values = noise(6, 8, 3, most=2**bits, kind=np.uint16)
    np.testing.assert_array_equal(shown(dataset(values, bits=bits)), values >> (bits - 8))
    grey = noise(6, 8, most=2**bits, kind=np.uint16)
    wanted = np.round(grey / (2**bits - 1) * 255)
    np.testing.assert_array_equal(shown(dataset(grey, bits=bits))[..., 1], wanted)


def test_ybr_becomes_rgb() -> None:
    smooth = np.tile(np.linspace(40, 210, 8)[:, None, None], (1, 8, 3)) + np.array([20, 0, -30])
    values = smooth.astype(np.uint8)
    found = dataset(convert_color_space(values, "RGB", "YBR_FULL"), "YBR_FULL")
    assert np.abs(shown(found).astype(int) - values).max() <= 2


def test_a_jpeg_inside_is_decoded() -> None:
    values = np.tile(np.linspace(30, 200, 16)[:, None, None], (1, 16, 3)).astype(np.uint8)
    values[..., 2] //= 2
    data = encoded(values, "JPEG", subsampling=0)
    found = dataset(values, "YBR_FULL_422")
    found.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    found.PixelData = pydicom.encaps.encapsulate([data])
    assert np.abs(shown(found).astype(int) - decode(data, 64)).max() <= 3


def test_monochrome1_is_turned() -> None:
    values = noise(6, 8)
    np.testing.assert_array_equal(shown(dataset(values, "MONOCHROME1"))[..., 0], 255 - values)
    np.testing.assert_array_equal(shown(dataset(values))[..., 0], values)


def test_signed_levels_and_a_falling_slope() -> None:
    values = np.array([[-2048, 0, 2047]], np.int16).repeat(2, 0)
    wanted = [0, round(2048 / 4095 * 255), 255]
    assert shown(dataset(values, bits=12))[0, :, 0].tolist() == wanted
    turned = dataset(values, bits=12, RescaleSlope=-1, RescaleIntercept=0)
    assert shown(turned)[0, :, 0].tolist() == [255 - level for level in wanted]


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        ("LINEAR", [0, 0, 191, 255]),  # ((x - 99.5) / 199 + 0.5), PS3.3 C.11.2.1.2.1
        ("LINEAR_EXACT", [0, 0, 191, 255]),  # ((x - 100) / 200 + 0.5)
        ("SIGMOID", [5, 30, 186, 255]),  # 1 / (1 + exp(-4 (x - 100) / 200))
    ],
)
def test_a_window_is_looked_through(function: str, wanted: list[int]) -> None:
    stored_values = np.array([[900, 1000, 1150, 1500]], np.uint16)
    levels = {"RescaleSlope": 1, "RescaleIntercept": -1000, "WindowCenter": ["100", "7"], "WindowWidth": ["200", "3"]}
    found = dataset(stored_values, bits=12, VOILUTFunction=function, **levels)
    assert np.abs(shown(found)[0, :, 0].astype(int) - wanted).max() <= 1


def test_tables_of_levels_and_palettes() -> None:
    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [4, 0, 8], np.array([255, 100, 50, 0], np.uint16).tobytes()
    found = dataset(np.array([[0, 1, 2, 3]], np.uint8), VOILUTSequence=[lut])
    assert shown(found)[0, :, 0].tolist() == [255, 100, 50, 0]
    found = dataset(np.array([[0, 1]], np.uint8), "PALETTE COLOR")
    for colour, levels in (("Red", [0, 65535]), ("Green", [256, 512]), ("Blue", [65280, 0])):
        setattr(found, f"{colour}PaletteColorLookupTableDescriptor", [2, 0, 16])
        setattr(found, f"{colour}PaletteColorLookupTableData", np.array(levels, np.uint16).tobytes())
    assert shown(found).tolist() == [[[0, 1, 255], [255, 2, 0]]]


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"NumberOfFrames": 3}, "3 frames. .*Export each frame"),
        ({"Rows": 60_000, "Columns": 60_000}, "60000 x 60000 pixels"),
        ({"PhotometricInterpretation": "CMYK"}, "neither grey nor RGB"),
        ({"BitsStored": 7}, "7 bits"),
        ({"PixelData": b"\0\0"}, "cannot be decoded"),
    ],
)
def test_what_is_not_read_is_refused_and_nothing_of_the_file_is_repeated(change: dict[str, Any], pattern: str) -> None:
    with pytest.raises(ImageError, match=pattern) as caught:
        shown(dataset(noise(4, 4), **SECRET, **change))
    assert not any(value in str(caught.value) for value in SECRET.values())


def test_what_holds_no_picture_or_is_cut_off() -> None:
    found = dataset(noise(4, 4))
    del found.PixelData
    with pytest.raises(ImageError, match="no picture"):
        pictures.picture(stored(found))
    with pytest.raises(ImageError):
        pictures.picture(stored(dataset(noise(64, 64)))[:400])


def test_without_pydicom_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "AK/1", dataset(noise(4, 4)))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    refused(lambda: read(tmp_path), r"moulage\[dicom\]")


# ---------------------------------------------------------------------------------------------------- the source


def export(root: Path, **tags: Any) -> Path:
    """Two classes, three patients, four series; one series of a patient who is not known."""
    files = {"AK/a": ("p1", "1.1"), "AK/b.dcm": ("p1", "1.2"), "NV/c": ("p2", "1.3"), "NV/d": ("", "1.4")}
    files |= {"NV/e.IMA": ("", "1.4"), "NV/f": ("p2", "1.5")}
    for name, (patient, series) in files.items():
        put(root / name, dataset(noise(8, 8, 3), PatientID=patient, SeriesInstanceUID=series, **tags))
    return root


def test_patients_and_series_are_groups_under_numbers(tmp_path: Path) -> None:
    age_and_more = {"PatientAge": "093Y", "PatientSex": "F", "BodyPartExamined": "SKIN", "ManufacturerModelName": "X1"}
    catalog = read(export(tmp_path, **age_and_more))
    assert list(catalog.images) == ["AK/a", "AK/b.dcm", "NV/c", "NV/d", "NV/e.IMA", "NV/f"]
    assert list(catalog.table["label"]) == ["AK"] * 2 + ["NV"] * 4
    assert list(catalog.groups) == [
        *("patient:1", "patient:1", "patient:2", "lesion:series 4", "lesion:series 4", "patient:2"),
    ]
    first = catalog.table.iloc[0]
    assert (first["age"], first["sex"], first["site"], first["source"]) == (90, "female", "skin", "X1")
    with Reader() as reader:
        assert decode(reader.bytes(catalog.resolve("AK/a")), 64).shape == (8, 8, 3)


def test_equal_ids_of_two_issuers_are_two_patients(tmp_path: Path) -> None:
    for name, issuer in (("AK/1", "A"), ("AK/2", "B"), ("NV/3", "A")):
        put(tmp_path / name, dataset(noise(8, 8), PatientID="17", IssuerOfPatientID=issuer))
    assert list(read(tmp_path).groups) == ["patient:1", "patient:2", "patient:1"]


def test_a_zip_and_official_parts(tmp_path: Path) -> None:
    export(tmp_path / "set/train")
    export(tmp_path / "set/test")
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "set"))
    catalog = read(packed)
    assert len(catalog) == 12
    assert set(catalog.table["official_part"]) == {"train", "test"}
    assert catalog.table["location"].str.startswith("packed.zip::").all()
    with Reader() as reader:
        assert decode(reader.bytes(catalog.resolve(catalog.table["location"][0])), 64).shape == (8, 8, 3)


def test_labels_from_a_table(tmp_path: Path) -> None:
    for name in ("1.dcm", "2.dcm", "3.dcm"):
        put(tmp_path / name, dataset(noise(8, 8), **SECRET))
    refused(lambda: read(tmp_path), "no class folders", "table=NAME")
    lines = ["file,diagnosis,patient_id", "1.dcm,AK,MRN-7731904", "2,NV,MRN-7731904"]
    (tmp_path / "list.csv").write_text("\n".join(lines) + "\n")
    catalog = read(tmp_path, table="list.csv")
    assert list(catalog.table["label"]) == ["AK", "NV"]
    assert list(catalog.unlabelled) == ["3.dcm"]
    for name in ("list.csv", "./list.csv", str(tmp_path / "list.csv")):
        assert not told(read(tmp_path, table=name), "files passed over"), name
    assert set(catalog.groups) == {"patient:1"}, "the table's ids are no more kept than the files'"


def test_several_frames_are_refused_or_left_out_and_what_is_no_picture_is_told(tmp_path: Path) -> None:
    export(tmp_path)
    put(tmp_path / "AK/many", dataset(noise(8, 8), NumberOfFrames=5))
    report = dataset(noise(8, 8))
    del report.Rows
    put(tmp_path / "AK/report", report)
    (tmp_path / "AK/broken").write_bytes(b"\0" * 128 + b"DICM" + b"\x07\xff")
    (tmp_path / "AK/cut").write_bytes(stored(report)[:153])
    refused(lambda: read(tmp_path), "1 of 7 DICOM files", "AK/many with 5", "several_frames=exclude")
    catalog = read(tmp_path, several_frames="exclude")
    assert len(catalog) == 6
    assert told(catalog, "DICOM files of several frames").startswith("1 ")
    assert "without a picture" in told(catalog, "DICOM files without a picture")
    assert told(catalog, "DICOM files that cannot be read").startswith("1 ")


def test_what_names_a_patient_all_the_same_is_warned_of_without_the_name(tmp_path: Path) -> None:
    for name in ("AK/okonkwo/1", "AK/2", "NV/MRN-7731904", "NV/4"):
        put(tmp_path / name, dataset(noise(8, 8), BurnedInAnnotation="YES", **SECRET))
    catalog = read(tmp_path)
    assert told(catalog, "file names that name patients").startswith("2 files")
    assert told(catalog, "text in the picture").startswith("4 images")
    clean = put(tmp_path / "clean/AK/1", dataset(noise(8, 8), **SECRET)).parents[1]
    assert not told(read(clean), "file names that name patients")


def test_errors_of_the_source(tmp_path: Path) -> None:
    refused(lambda: read(None), "--data PATH")
    refused(lambda: read(tmp_path / "nowhere"), "does not exist")
    refused(lambda: read(tmp_path), "no image in a DICOM file", "--source folder")
    export(tmp_path)
    refused(lambda: read(tmp_path, classes=["AKK"]), 'no image of the class "AKK"')
    assert read(tmp_path, classes=["NV", "AK"]).classes == ("NV", "AK")


def test_the_source_folder_says_who_reads_dicom_files(tmp_path: Path) -> None:
    export(tmp_path)
    refused(lambda: folder.read(tmp_path, folder.Config()), "It holds 6 DICOM files", "--source dicom")
    for name in ("AK/1.png", "NV/2.png"):
        (tmp_path / name).write_bytes(encoded(noise(4, 4, 3)))
    catalog = folder.read(tmp_path, folder.Config())
    advice = next(finding.advice for finding in catalog.findings if finding.kind == "pictures that are not read")
    assert "--source dicom" in advice


def test_a_table_of_images_may_name_dicom_files(tmp_path: Path) -> None:
    export(tmp_path)
    (tmp_path / "t.csv").write_text("file,label\nAK/a,x\nNV/c,y\n")
    catalog = table.read(tmp_path / "t.csv", table.Config(image_column="file"))
    with Reader() as reader:
        assert decode(reader.bytes(catalog.resolve("NV/c")), 64).shape == (8, 8, 3)


def _readable(path: Path) -> bytes:
    """All that a file says, unpacked."""
    if path.suffix == ".parquet":
        found = pd.read_parquet(path)
        return path.read_bytes() + found.to_csv().encode()
    if path.suffix == ".npz" or zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return b"".join(archive.read(name) for name in archive.namelist())
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def test_nothing_that_identifies_is_in_anything_that_is_written(
    tmp_path: Path, call: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOULAGE_CACHE", str(tmp_path / "cache"))
    rng, hidden = np.random.default_rng(1), set(SECRET.values())
    for k in range(30):
        mine = SECRET | {"PatientID": f"MRN-77{k // 2:05d}", "PatientName": f"Okonkwo{k // 2}^Adaeze"}
        found = dataset(rng.integers(0, 255, (24, 24, 3)).astype(np.uint8), PatientAge="051Y", **mine)
        found.SeriesInstanceUID, found.StudyInstanceUID = f"1.2.826.0.1.77.{k}", f"1.2.826.0.1.88.{k // 2}"
        put(tmp_path / f"data/{'ABC'[k % 3]}/{k}.dcm", found)
        hidden |= {*mine.values(), found.SeriesInstanceUID, found.StudyInstanceUID, str(found.SOPInstanceUID)}
    said = call("prepare", "--source", "dicom", "--data", tmp_path / "data", "--out", tmp_path / "run")
    assert said.code == 0, said.err
    assert len(set(Catalog.load(tmp_path / "run/catalog.parquet").groups)) == 15
    written = {
        path: _readable(path)
        for folder in ("run", "cache")
        for path in (tmp_path / folder).rglob("*")
        if path.is_file()
    }
    assert len(written) > 5
    assert any(b"51" in data for path, data in written.items() if path.name == "catalog.parquet")
    words = {word for value in hidden for word in re.split(r"[\^\s]", value) if len(word) > 4}
    everything = {**written, Path("screen"): (said.out + said.err).encode()}
    found = {(path.name, word) for path, data in everything.items() for word in words if word.encode() in data}
    assert not found
