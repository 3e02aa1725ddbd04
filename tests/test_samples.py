"""Checks data/samples.py with a generator that takes no training: files, provenance, resuming, leaks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from moulage.data import samples
from moulage.data.catalog import Catalog
from moulage.errors import DataError, LeakError, RecipeError, RunError

CLASSES = ("NV", "AK", "a/../b ü")


class Painter:
    """Draws noise from each seed, and counts."""

    classes = ("AK", "a/../b ü")

    def __init__(self) -> None:
        self.drawn: list[int] = []

    def sample(self, label: int, seeds: np.ndarray) -> np.ndarray:
        self.drawn += list(seeds)
        return np.stack([np.random.default_rng([label, s]).integers(0, 256, (16, 16, 3), np.uint8) for s in seeds])


def draw(generator: Painter, folder: Path, seeds: dict[str, Any] | None = None, **options: Any) -> Catalog:
    about = {"origin": "dcgan-0-abc", "split_digest": "d1", "classes": CLASSES, **options}
    return samples.draw(generator, seeds or {"AK": range(70), "a/../b ü": [5]}, folder, **about)


def test_files_are_lossless_and_listed(tmp_path: Path):
    catalog = draw(Painter(), tmp_path)
    assert catalog.counts == {"NV": 0, "AK": 70, "a/../b ü": 1}
    assert catalog.classes == CLASSES
    assert set(catalog.table["origin"]) == {"dcgan-0-abc"}
    assert set(catalog.table["split_digest"]) == {"d1"}
    assert catalog.images[3] == "dcgan-0-abc/AK-3"
    assert len(set(catalog.groups)) == 71
    expected = Painter().sample(0, np.arange(70))
    for row in catalog.table[:70].itertuples():
        assert np.array_equal(np.asarray(Image.open(str(row.location))), expected[row.seed])
    assert all(path.is_relative_to(tmp_path) for path in tmp_path.rglob("*.png"))
    assert Catalog.load(tmp_path / "catalog.parquet").digest == catalog.digest


def test_every_file_says_what_it_is(tmp_path: Path):
    catalog = draw(Painter(), tmp_path)
    found = samples.read_provenance(Path(catalog.table["location"].iloc[-1]))
    assert found["origin"] == "dcgan-0-abc"
    assert found["class"] == "a/../b ü"
    assert found["seed"] == 5
    assert found["split_digest"] == "d1"
    assert found["description"] == "Synthetic image, not a patient. Not for clinical use."
    assert found["digital_source_type"].endswith("/digitalsourcetype/trainedAlgorithmicMedia")
    assert found["software"].startswith("moulage")


def test_drawing_again_draws_only_what_is_missing_or_broken(tmp_path: Path):
    first = draw(Painter(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    missing, broken = tmp_path / "AK" / "AK-3.png", tmp_path / "AK" / "AK-7.png"
    missing.unlink()
    broken.write_bytes(broken.read_bytes()[:600])
    again, calls = Painter(), []
    second = draw(again, tmp_path, progress=lambda done, total, note: calls.append((done, total)))
    assert again.drawn == [3, 7]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == before
    assert second.digest == first.digest
    assert calls[-1] == (71, 71)


def test_a_killed_drawing_leaves_only_whole_files(tmp_path: Path):
    class Dies(Painter):
        def sample(self, label: int, seeds: np.ndarray) -> np.ndarray:
            if len(self.drawn) >= 64:
                raise KeyboardInterrupt
            return super().sample(label, seeds)

    with pytest.raises(KeyboardInterrupt):
        draw(Dies(), tmp_path)
    assert len(list(tmp_path.rglob("*.png"))) == 64
    assert not (tmp_path / "catalog.parquet").exists()
    again = Painter()
    draw(again, tmp_path)
    assert len(again.drawn) == 7


def test_a_folder_of_another_run_is_refused(tmp_path: Path):
    draw(Painter(), tmp_path)
    with pytest.raises(RunError, match="another run"):
        draw(Painter(), tmp_path, origin="dcgan-1-def")


@pytest.mark.parametrize("seeds", [[1, 1], [-1], [0, -3]])
def test_wrong_seeds_are_refused(tmp_path: Path, seeds: list[int]):
    with pytest.raises(RecipeError, match="seeds"):
        draw(Painter(), tmp_path, {"AK": seeds})
    assert not any(tmp_path.iterdir())


def test_wrong_classes_are_refused(tmp_path: Path):
    with pytest.raises(RecipeError, match="generator"):
        draw(Painter(), tmp_path, {"NV": [1]})
    with pytest.raises(RecipeError, match="data set"):
        draw(Painter(), tmp_path, {"AK": [1]}, classes=("NV",))


def test_no_write_permission_is_one_clear_error(tmp_path: Path):
    (tmp_path / "AK").write_text("a file where the folder should be")
    with pytest.raises(RunError, match="Cannot write"):
        draw(Painter(), tmp_path)


def test_provenance_of_other_files_is_an_error(tmp_path: Path):
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no image")
    for name in ("plain.png", "text.png", "none.png"):
        with pytest.raises(DataError, match=name):
            samples.read_provenance(tmp_path / name)


def test_samples_of_another_split_are_a_leak(tmp_path: Path):
    catalog = draw(Painter(), tmp_path)
    samples.check_provenance(catalog, "d1")
    with pytest.raises(LeakError, match="dcgan-0-abc/AK-0 and 70 more"):
        samples.check_provenance(catalog, "d2")
    one = catalog.with_columns(split_digest=["d1"] * 70 + [""])
    with pytest.raises(LeakError, match="unknown"):
        samples.check_provenance(one, "d1")
    samples.check_provenance(one.with_columns(origin="real"), "d1")


def test_safe_names_stay_in_the_folder_and_apart():
    names = samples.safe_names(("../x", "a b", "a/b", "A_B", "", "..", "naïve.1", "x" * 300))
    assert len({name.lower() for name in names.values()}) == 8
    assert all(name and "/" not in name and not name.startswith(".") and len(name) < 70 for name in names.values())
