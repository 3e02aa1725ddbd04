"""The source ``huggingface``: Parquet shards and folders of save_to_disk, as ``datasets`` writes them."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moulage.data.catalog import Catalog
from moulage.data.images import decode
from moulage.data.reader import Reader
from moulage.errors import DataError
from moulage.proposal.survey import source_of
from moulage.sources import huggingface
from pictures import encoded

NAMES = ["MEL", "NV", "AK"]
FEATURES = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOULAGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(k: int) -> np.ndarray:
    return np.full((4, 4, 3), k, np.uint8)


def shard(numbers: Sequence[int], features: Mapping[str, object] = FEATURES, **columns: Sequence[object]) -> pa.Table:
    """A table as ``datasets`` writes one; image k is all grey level k, and of class k % 3."""
    values = {
        "image": pa.array([{"bytes": encoded(picture(k)), "path": None} for k in numbers], IMAGE),
        "label": pa.array([k % 3 for k in numbers], pa.int64()),
        "patient_id": pa.array([f"p{k // 2}" for k in numbers]),
        "age": pa.array([40.0 + k % 50 for k in numbers]),
    }
    made = pa.table(values | {name: pa.array(column) for name, column in columns.items()})
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def hub(root: Path, **splits: pa.Table) -> Path:
    (root / "data").mkdir(parents=True)
    for name, made in splits.items():
        pq.write_table(made, root / f"data/{name}-00000-of-00001.parquet")
    return root


def saved(root: Path, *shards: pa.Table) -> Path:
    """What ``Dataset.save_to_disk`` writes."""
    root.mkdir(parents=True)
    files = [f"data-{k:05d}-of-{len(shards):05d}.arrow" for k in range(len(shards))]
    for name, made in zip(files, shards, strict=True):
        with pa.ipc.new_stream(str(root / name), made.schema) as stream:
            stream.write_table(made)
    (root / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": name} for name in files], "_split": None})
    )
    (root / "dataset_info.json").write_text("{}")
    return root


def read(path: Path | None, **options: object) -> Catalog:
    return huggingface.read(path, huggingface.Config.model_validate(options))


def levels(catalog: Catalog) -> list[int]:
    """The grey level of each image, which is its number."""
    with Reader() as reader:
        return [int(decode(reader.bytes(catalog.resolve(p)), 64)[0, 0, 0]) for p in catalog.table["location"]]


def refused(call: Callable[[], object], *patterns: str) -> None:
    with pytest.raises(DataError) as caught:
        call()
    for pattern in patterns:
        assert re.search(pattern, str(caught.value)), f"{pattern!r} is not in {caught.value}"


def test_shards_of_the_hub_with_their_splits(tmp_path: Path, own_cache: Path) -> None:
    data = hub(tmp_path / "set", train=shard(range(150)), test=shard(range(150, 159)), extra=shard([200]))
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    catalog = read(data)
    assert catalog.name == "set"
    assert catalog.classes == tuple(NAMES), "in the set's own order"
    numbers = [200, *range(150, 159), *range(150)]
    assert levels(catalog) == numbers, "every image is that of its row"
    assert list(catalog.table["label"]) == [NAMES[k % 3] for k in numbers]
    assert list(catalog.groups) == [f"patient:p{k // 2}" for k in numbers]
    assert catalog.table["age"].tolist() == [40 + k % 50 for k in numbers]
    assert catalog.table["official_part"].value_counts().to_dict() == {"train": 150, "test": 9, "": 1}
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before
    [packed] = own_cache.rglob("images.zip")
    written = packed.stat().st_mtime_ns
    read(data)
    assert packed.stat().st_mtime_ns == written, "images are written once"


def test_folders_of_save_to_disk(tmp_path: Path) -> None:
    single = saved(tmp_path / "single", shard([1, 2]), shard([3]))
    catalog = read(single)
    assert levels(catalog) == [1, 2, 3]
    assert set(catalog.table["official_part"]) == {""}
    both = tmp_path / "both"
    saved(both / "train", shard([4, 5, 6]))
    saved(both / "validation", shard([7]))
    (both / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    catalog = read(both)
    assert levels(catalog) == [4, 5, 6, 7]
    assert list(catalog.table["official_part"]) == ["train"] * 3 + ["validation"]
    (both / "dataset_dict.json").write_text("{")
    refused(lambda: read(both), "no whole folder of save_to_disk")


def test_changed_data_are_written_anew(tmp_path: Path) -> None:
    data = hub(tmp_path / "set", train=shard([1, 2]))
    assert levels(read(data)) == [1, 2]
    pq.write_table(shard([3, 4, 5]), data / "data/train-00000-of-00001.parquet")
    assert levels(read(data)) == [3, 4, 5]


def test_without_features_columns_are_known_by_type_and_name(tmp_path: Path) -> None:
    made = shard([1, 2, 3], {}, label=["x", "y", "nan"], site=["arm", None, "leg"])
    catalog = read(hub(tmp_path / "set", train=made))
    assert catalog.classes == ("x", "y")
    assert list(catalog.unlabelled) == ["train_000002"]
    assert list(catalog.table["site"]) == ["arm", ""]


def test_columns_can_be_named_and_unlabelled_rows_are_left_out(tmp_path: Path) -> None:
    made = shard([1, 2, 3], label=[0, -1, 2], case=["a", "a", "b"])
    data = hub(tmp_path / "set", train=made)
    catalog = read(data, group_column="case")
    assert list(catalog.groups) == ["lesion:a", "lesion:b"]
    assert catalog.counts == {"MEL": 1, "AK": 1}
    assert list(catalog.unlabelled) == ["train_000001"]
    assert read(data, label_column="case").classes == ("a", "b")
    assert read(data, classes=["AK", "MEL"]).classes == ("AK", "MEL")
    refused(lambda: read(data, classes=["NV"]), 'no image of the class "NV"')
    refused(lambda: read(data, group_column="cas"), 'no column "cas"', "case")
    refused(lambda: read(data, image_column="imag"), 'no column "imag"', "image")
    refused(lambda: read(data, image_column="case"), "holds no images")


def test_columns_that_may_be_meant_are_asked_for(tmp_path: Path) -> None:
    two = FEATURES | {"clinic": {"_type": "Image"}}
    data = hub(tmp_path / "two", train=shard([1, 2], two).append_column("clinic", shard([1, 2])["image"]))
    refused(lambda: read(data), "image may be the column image or clinic", "image_column=NAME")
    data = hub(tmp_path / "none", train=shard([1, 2], {"image": {"_type": "Image"}}).drop_columns(["label"]))
    refused(lambda: read(data), "label is in no column", "label_column=NAME")


def test_images_that_lie_beside_and_those_that_are_nowhere(tmp_path: Path) -> None:
    made = shard([1, 2, 3]).to_pydict()
    images = [{"bytes": None, "path": "beside.png"}, made["image"][1], {"bytes": None, "path": None}]
    mixed = shard([1, 2, 3]).set_column(0, "image", pa.array(images, IMAGE))
    data = hub(tmp_path / "set", train=mixed)
    (data / "beside.png").write_bytes(encoded(picture(1)))
    catalog = read(data)
    assert catalog.table["location"][2] == "missing::train_000002"
    assert levels(catalog.take([0, 1])) == [1, 2]


def test_errors_and_what_init_takes_it_for(tmp_path: Path) -> None:
    refused(lambda: read(None), "--data PATH")
    refused(lambda: read(tmp_path / "nowhere"), "does not exist")
    (tmp_path / "empty").mkdir()
    refused(lambda: read(tmp_path / "empty"), "holds no Parquet file")
    data = hub(tmp_path / "set", train=shard([1, 2]))
    file = data / "data/train-00000-of-00001.parquet"
    assert len(read(file)) == 2
    assert source_of(data) == source_of(file) == source_of(saved(tmp_path / "disk", shard([1]))) == "huggingface"
    file.write_bytes(b"PAR1 no more")
    refused(lambda: read(data), "cannot be read", "Download or save it again")


def test_classes_whose_names_have_spaces_around_them_are_kept(tmp_path: Path) -> None:
    features = FEATURES | {"label": {"names": ["MEL ", "NV", " AK"], "_type": "ClassLabel"}}
    data = hub(tmp_path / "set", train=shard(range(6), features))
    catalog = read(data)
    assert catalog.classes == ("MEL", "NV", "AK")
    assert len(catalog) == 6
    assert read(data, classes=("AK", "MEL")).classes == ("AK", "MEL")


def test_images_that_are_in_the_cache_are_read_from_one_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = hub(tmp_path / "set", train=shard(range(6)))
    before = read(data)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("moulage.runs._lock_file", refuse)
    assert read(data).table.equals(before.table)


@pytest.mark.parametrize("label", [3, 99])
def test_a_label_that_the_features_do_not_name_is_told(tmp_path: Path, label: int):
    root = hub(tmp_path / "set", train=shard(range(4), label=[0, 1, 2, label]))
    with pytest.raises(DataError, match=f'label "{label}", and the features name 3 classes'):
        huggingface.read(root, huggingface.Config())


def test_an_image_without_a_label_is_no_class(tmp_path: Path):
    found = huggingface.read(hub(tmp_path / "set", train=shard(range(4), label=[0, 1, 2, -1])), huggingface.Config())
    assert len(found) == 3


def test_spellings_of_a_class_are_merged_where_asked(tmp_path: Path):
    features = {**FEATURES, "label": {"names": ["MEL", "NV", "mel"], "_type": "ClassLabel"}}
    root = hub(tmp_path / "set", train=shard(range(6), features))
    with pytest.raises(DataError, match="merge_spellings"):
        huggingface.read(root, huggingface.Config())
    assert len(huggingface.read(root, huggingface.Config(merge_spellings=True)).classes) == 2
