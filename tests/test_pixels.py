"""The pixel cache: what it holds, when it is made again, and that a crash at any point changes nothing."""

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from hashlib import sha256
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from moulage import runs
from moulage.data import images, picture_remarks, pixel_writer, pixels
from moulage.data.catalog import Catalog, concatenate
from moulage.errors import DataError, RecipeError, RunError
from pictures import encoded, png_header, write_pictures


def picture(seed: int, width: int = 24, height: int = 20, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def catalog_of(files: dict[str, bytes], root: Path) -> Catalog:
    """The files in a folder, as a catalog with relative locations."""
    return listed([*files], write_pictures(root, files))


def listed(locations: list[str], root: Path) -> Catalog:
    names = [f"ISIC_{k}" for k in range(len(locations))]
    return Catalog.build(pd.DataFrame({"image": names, "label": "NV", "location": locations}), ["NV"], "t", root)


def many(num_images: int) -> dict[str, bytes]:
    return {f"{k}.png": encoded(picture(k)) for k in range(num_images)}


def contents(found: pixels.Pixels, *sizes: int) -> dict[str, bytes]:
    arrays = {str(size): found.array(size).tobytes() for size in sizes}
    return {**arrays, "thumbnails": found.thumbnails.tobytes(), "scan": found.scan.to_csv().encode()}


class Crash(BaseException):
    """Like a kill: nothing in the package may catch it."""


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "CHUNK", 4)


# ---- what it holds --------------------------------------------------------------------------------------------------


def test_arrays_and_scan_of_good_images(tmp_path: Path) -> None:
    files = {"a.png": encoded(picture(0)), "b.png": encoded(picture(1, mode="L")), "c.png": encoded(picture(2, 40, 40))}
    calls: list[tuple[int, int]] = []
    found = pixels.build(
        catalog_of(files, tmp_path / "in"),
        [16, 20],
        "crop",
        tmp_path / "cache",
        progress=lambda done, total, note="": calls.append((done, total)),
    )
    assert found.scan["image"].tolist() == ["ISIC_0", "ISIC_1", "ISIC_2"]
    assert found.scan["sha256"].tolist() == [sha256(data).hexdigest() for data in files.values()]
    assert found.scan[["width", "height"]].to_numpy().tolist() == [[24, 20], [24, 20], [40, 40]]
    assert found.scan["mode"].tolist() == ["RGB", "L", "RGB"]
    assert set(found.scan["status"]) == {"ok"}
    assert set(found.scan["message"]) == {""}
    assert isinstance(found.array(16), np.memmap)
    np.testing.assert_array_equal(found.array(20)[0], np.asarray(picture(0))[:, 2:22])
    np.testing.assert_array_equal(found.array(16)[2], images.square(picture(2, 40, 40), 16, "crop"))
    np.testing.assert_array_equal(found.thumbnails[1], images.square(picture(1, mode="L").convert("RGB"), 32, "crop"))
    assert found.rows(["ISIC_2", "ISIC_0", "ISIC_2"]).tolist() == [2, 0, 2]
    assert found.rows([]).shape == (0,)
    assert calls == [(0, 3), (3, 3)]


def test_every_bad_file_is_named_with_its_kind_and_left_black(tmp_path: Path) -> None:
    jpeg = encoded(picture(0, 300, 200), "JPEG")
    files = {
        "good.jpg": jpeg,
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "text.jpg": b"<html>not found</html>",
        "empty.jpg": b"",
        "tiny.png": encoded(picture(1, 40, 15)),
        "bomb.png": png_header(50_000, 50_000),
        "rgba.png": encoded(picture(2, mode="RGBA")),
        "cmyk.jpg": encoded(picture(3, mode="CMYK"), "JPEG"),
    }
    catalog_of(files, tmp_path)
    found = pixels.build(listed([*files, "gone.jpg", "missing::ISIC_9"], tmp_path), [32], "pad", tmp_path / "cache")
    assert found.scan["status"].tolist() == [
        *("ok", "truncated", "unreadable", "unreadable", "tiny", "bomb", "ok", "ok", "missing", "missing")
    ]
    assert found.scan["mode"].tolist()[-4:] == ["RGBA", "CMYK", "", ""]
    assert found.scan["sha256"][8] == ""
    bad = (found.scan["status"] != "ok").to_numpy()
    assert (found.scan["message"] != "").to_numpy().tolist() == bad.tolist()
    assert found.array(32)[bad].sum() == found.thumbnails[bad].sum() == 0
    assert (found.array(32)[~bad].reshape(3, -1).max(1) > 0).all()


def test_what_is_odd_about_a_picture_stands_in_the_scan_and_in_the_audit(tmp_path: Path) -> None:
    black = Image.new("RGB", (24, 20))
    files = {
        "good.png": encoded(picture(0)),
        "black.png": encoded(black),
        "pages.tif": encoded(black, "TIFF", save_all=True, append_images=[picture(1)]),
        "dark.png": encoded(Image.fromarray(np.asarray(picture(2)) // 9)),
    }
    found = pixels.build(catalog_of(files, tmp_path / "in"), [16], "squash", tmp_path / "cache")
    assert found.scan["remarks"].tolist() == ["", "blank image", "several pages; blank image", "low range"]
    told = {finding.kind: (finding.severity, finding.images) for finding in picture_remarks.check(found.scan)}
    assert told == {
        "blank image": ("warning", ("ISIC_1", "ISIC_2")),
        "low range": ("warning", ("ISIC_3",)),
        "several pages": ("note", ("ISIC_2",)),
    }
    np.savez(tmp_path / "m.npz", images=np.stack([np.asarray(black), np.asarray(picture(0))]))
    rows = listed([f"m.npz::images::{k}" for k in range(2)], tmp_path)
    found = pixels.build(rows, [16], "squash", tmp_path / "cache")
    assert found.scan["remarks"].tolist() == ["blank image", ""]


def test_npz_rows_are_images(tmp_path: Path) -> None:
    colour = np.stack([np.asarray(picture(k, 28, 28)) for k in range(6)])
    np.savez_compressed(tmp_path / "m.npz", train_images=colour, test_images=colour[..., 0])
    rows = ["m.npz::train_images::5", "m.npz::train_images::0", "m.npz::test_images::2"]
    found = pixels.build(listed(rows, tmp_path), [28], "squash", tmp_path / "cache")
    np.testing.assert_array_equal(found.array(28)[:2], colour[[5, 0]])
    np.testing.assert_array_equal(found.array(28)[2], np.repeat(colour[2, ..., :1], 3, 2))
    assert found.scan["mode"].tolist() == ["RGB", "RGB", "L"]
    assert found.scan["sha256"][0] == sha256(colour[5].tobytes()).hexdigest()


def test_rows_refuses_an_unknown_name_and_array_an_unknown_size(tmp_path: Path) -> None:
    found = pixels.build(catalog_of(many(2), tmp_path / "in"), [], "squash", tmp_path / "cache")
    with pytest.raises(DataError, match="ISIC_7"):
        found.rows(["ISIC_0", "ISIC_7"])
    with pytest.raises(RunError, match="size-16"):
        found.array(16)


@pytest.mark.parametrize(("sizes", "framing"), [([16], "squish"), ([0, 16], "squash")])
def test_a_wrong_request_is_refused_before_any_work(tmp_path: Path, sizes: list[int], framing: str) -> None:
    with pytest.raises(RecipeError):
        pixels.build(catalog_of(many(1), tmp_path / "in"), sizes, framing, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_repeated_image_is_refused(tmp_path: Path) -> None:
    catalog = catalog_of(many(2), tmp_path / "in")
    with pytest.raises(DataError, match="more than once"):
        pixels.build(concatenate(catalog, catalog.take([1])), [16], "squash", tmp_path / "cache")


# ---- what is done once ----------------------------------------------------------------------------------------------


def count_decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    scales: list[int] = []
    decode = images._decode

    def counted(data: bytes, found: images.Header, scale: int) -> Image.Image:
        scales.append(scale)
        return decode(data, found, scale)

    monkeypatch.setattr(images, "_decode", counted)
    return scales


def test_one_decode_serves_all_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scales = count_decodes(monkeypatch)
    pixels.build(catalog_of(many(3), tmp_path / "in"), [16, 64, 224], "squash", tmp_path / "cache")
    assert scales == [1, 1, 1]


def test_sizes_far_apart_each_use_their_jpeg_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scales = count_decodes(monkeypatch)
    catalog = catalog_of({"a.jpg": encoded(picture(0, 1024, 1024), "JPEG")}, tmp_path / "in")
    pixels.build(catalog, [32, 48, 64, 224], "squash", tmp_path / "cache")
    assert sorted(scales) == [2, 8]


def test_a_further_size_is_added_and_equals_one_made_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jpegs = {f"{k}.jpg": encoded(picture(k, 640, 520), "JPEG") for k in range(3)}
    catalog = catalog_of({**jpegs, "bad.jpg": b"text"}, tmp_path / "in")
    at_once = pixels.build(catalog, [16, 48, 128], "crop", tmp_path / "one")
    pixels.build(catalog, [16], "crop", tmp_path / "two")
    scales = count_decodes(monkeypatch)
    pixels.build(catalog, [128, 48], "crop", tmp_path / "two")
    assert len(scales) == 2 * 3  # 128 and 48 want different scales; the text was known to be bad
    later = pixels.build(catalog, [16, 48], "crop", tmp_path / "two")
    assert len(scales) == 2 * 3
    assert contents(later, 16, 48, 128) == contents(at_once, 16, 48, 128)
    assert runs.read_json(later.folder / "done.json")["sizes"] == [16, 48, 128]


def test_a_deleted_file_is_made_again(tmp_path: Path) -> None:
    catalog = catalog_of(many(5), tmp_path / "in")
    found = pixels.build(catalog, [16, 20], "squash", tmp_path / "cache")
    before = contents(found, 16, 20)
    for name in ("size-16.npy", "scan.parquet", "thumbnails.npy"):
        (found.folder / name).unlink()
        assert contents(pixels.build(catalog, [16, 20], "squash", tmp_path / "cache"), 16, 20) == before


def test_the_key_follows_content_order_and_fit_but_not_names_or_place(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in many(3).items():
            archive.writestr(name, data)
    shutil.copy(tmp_path / "a.zip", tmp_path / "moved.zip")
    catalog = listed([f"a.zip::{k}.png" for k in range(3)], tmp_path)

    def folder(which: Catalog, framing: str = "squash") -> Path:
        return pixels.build(which, [16], framing, tmp_path / "cache").folder

    base = folder(catalog)
    renamed = catalog.with_columns(image=["x", "y", "z"], location=[f"moved.zip::{k}.png" for k in range(3)])
    again = pixels.build(renamed, [16], "squash", tmp_path / "cache")
    assert again.folder == base
    assert again.scan["image"].tolist() == ["x", "y", "z"]
    assert len({base, folder(catalog, "crop"), folder(catalog.take([1, 0, 2])), folder(catalog.take([0, 1]))}) == 4


def test_a_changed_file_changes_the_key_and_an_untouched_one_does_not(tmp_path: Path) -> None:
    catalog = catalog_of(many(3), tmp_path)
    before = pixels.key([catalog.resolve(x) for x in catalog.table["location"]], "squash")
    assert pixels.key([catalog.resolve(x) for x in catalog.table["location"]], "squash") == before
    (tmp_path / "1.png").write_bytes(encoded(picture(99)))
    os.utime(tmp_path / "1.png", ns=(1, 1))
    assert pixels.key([catalog.resolve(x) for x in catalog.table["location"]], "squash") != before


def test_a_missing_image_that_appears_changes_the_key(tmp_path: Path) -> None:
    catalog = listed(["a.png"], tmp_path)
    assert pixels.build(catalog, [16], "squash", tmp_path / "cache").scan["status"].tolist() == ["missing"]
    (tmp_path / "a.png").write_bytes(encoded(picture(0)))
    assert pixels.build(catalog, [16], "squash", tmp_path / "cache").scan["status"].tolist() == ["ok"]


# ---- processes and crashes ------------------------------------------------------------------------------------------


def test_two_workers_give_what_one_gives(tmp_path: Path) -> None:
    catalog = catalog_of({**many(290), "bad.jpg": b"text"}, tmp_path / "in")
    one = pixels.build(catalog, [16, 20], "squash", tmp_path / "one")
    two = pixels.build(catalog, [16, 20], "squash", tmp_path / "two", num_workers=2)
    assert contents(one, 16, 20) == contents(two, 16, 20)
    assert sorted(x.name for x in two.folder.iterdir()) == [
        *(".lock", "done.json", "scan.parquet", "size-16.npy", "size-20.npy", "thumbnails.npy")
    ]


@pytest.mark.usefixtures("small_chunks")
def test_a_chunk_counts_only_for_the_array_it_was_written_to(tmp_path: Path) -> None:
    catalog = catalog_of(many(10), tmp_path / "in")
    whole = contents(pixels.build(catalog, [16], "squash", tmp_path / "whole"), 16)

    def stop(done: int, total: int, note: str = "") -> None:
        if done:
            raise Crash

    for sizes in ([16], [16, 20]):
        with pytest.raises(Crash):
            pixels.build(catalog, sizes, "squash", tmp_path / "cache", progress=stop)
        next((tmp_path / "cache").glob("*/size-16.npy")).unlink()
    assert contents(pixels.build(catalog, [16], "squash", tmp_path / "cache"), 16) == whole


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("point", range(20))
def test_after_a_crash_at_any_write_the_result_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: int
) -> None:
    """Counts chunk flushes, renames into place and folder removals, and stops before number ``point``."""
    catalog = catalog_of(many(14), tmp_path / "in")
    whole = contents(pixels.build(catalog, [16, 20], "squash", tmp_path / "whole"), 16, 20)
    steps = iter(range(100))

    def crashing(real):
        def step(*args: object, **options: object) -> object:
            if next(steps) == point:
                raise Crash
            return real(*args, **options)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", crashing(os.fsync))
        patch.setattr(Path, "replace", crashing(Path.replace))
        patch.setattr(pixels.shutil, "rmtree", crashing(shutil.rmtree))
        with pytest.raises(Crash):
            pixels.build(catalog, [16, 20], "squash", tmp_path / "cache")
    done_before = len(list((tmp_path / "cache").glob("*/pass-*/*.json")))
    counted = Mock(wraps=pixel_writer.write_chunk)
    monkeypatch.setattr(pixel_writer, "write_chunk", counted)
    found = pixels.build(catalog, [16, 20], "squash", tmp_path / "cache")
    assert contents(found, 16, 20) == whole
    assert counted.call_count == 4 - done_before
    assert not list(found.folder.glob("*.tmp"))


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from moulage.data import pixels
    from moulage.data.catalog import Catalog

    def progress(done, total, note=""):
        if done:
            print(*[p.pid for p in __import__("multiprocessing").active_children()], flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

    if __name__ == "__main__":
        catalog = Catalog.load(Path(sys.argv[1]))
        pixels.build(catalog, [16], "squash", Path(sys.argv[2]), num_workers=int(sys.argv[3]), progress=progress)
"""


@pytest.mark.parametrize("num_workers", [1, 2])
def test_kill_9_frees_the_folder_ends_the_workers_and_resumes(tmp_path: Path, num_workers: int) -> None:
    catalog = catalog_of(many(300), tmp_path / "in")
    catalog.save(tmp_path / "catalog.parquet")
    (tmp_path / "killed.py").write_text(textwrap.dedent(KILLED))
    command = [sys.executable, "killed.py", "catalog.parquet", "cache", str(num_workers)]
    killed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    workers = [int(pid) for pid in killed.stdout.split()]
    assert len(workers) == (num_workers if num_workers > 1 else 0)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in workers):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)
    assert list((tmp_path / "cache").glob("*/pass-*/*.json"))
    resumed = pixels.build(catalog, [16], "squash", tmp_path / "cache")
    assert contents(resumed, 16) == contents(pixels.build(catalog, [16], "squash", tmp_path / "whole"), 16)


def hold(folder: Path, ready, release) -> None:
    with runs.lock(folder):
        ready.set()
        release.wait(20)


def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    catalog = catalog_of(many(2), tmp_path / "in")
    folder = pixels.build(catalog, [16], "squash", tmp_path / "cache").folder
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    other = context.Process(target=hold, args=(folder, ready, release))
    other.start()
    assert ready.wait(20)
    notes: list[str] = []

    def progress(done: int, total: int, note: str = "") -> None:
        notes.append(note)
        release.set()

    assert pixels.build(catalog, [20], "squash", tmp_path / "cache", progress=progress).array(20).any()
    other.join()
    assert "waiting" in notes[0]


# ---- the disk -------------------------------------------------------------------------------------------------------


def test_a_disk_that_is_too_small_is_found_out_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 4096, 4096))
    scales = count_decodes(monkeypatch)
    with pytest.raises(RunError, match="MiB free"):
        pixels.build(catalog_of(many(2), tmp_path / "in"), [16], "squash", tmp_path / "cache")
    assert not scales


@pytest.mark.usefixtures("small_chunks")
def test_a_disk_that_fills_up_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = catalog_of(many(12), tmp_path / "in")
    real, calls = pixel_writer.write_json, iter(range(100))

    def full(path: Path, value: object) -> None:
        if next(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(pixel_writer, "write_json", full)
        with pytest.raises(RunError, match="No space left on device") as caught:
            pixels.build(catalog, [16], "squash", tmp_path / "cache")
    assert "What is done is kept" in caught.value.hint
    scales = count_decodes(monkeypatch)
    pixels.build(catalog, [16], "squash", tmp_path / "cache")
    assert len(scales) == 4


def test_a_cache_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(RunError, match="cannot be written"):
        pixels.build(catalog_of(many(1), tmp_path / "in"), [16], "squash", tmp_path / "cache")


# ---- real images ----------------------------------------------------------------------------------------------------


@pytest.mark.real_data
def test_real_images_from_their_zip(real_data: Path, tmp_path: Path) -> None:
    root = real_data / "isic2019-84px"
    with zipfile.ZipFile(root / "ISIC_2019_Training_Input.zip") as archive:
        members = [x for x in archive.namelist() if x.endswith(".jpg")][:300]
    found = pixels.build(
        listed([f"ISIC_2019_Training_Input.zip::{x}" for x in members], root), [64], "squash", tmp_path, num_workers=2
    )
    assert set(found.scan["status"]) == {"ok"}
    assert set(found.scan["width"]) == {84}
    assert 60 < found.array(64).mean() < 200
