"""Reading and decoding: good pictures in every mode, every kind of bad file, archives in place."""

import contextlib
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps

from moulage.data import images
from moulage.data.images import ImageError, decode, examined, header, square
from moulage.data.reader import Reader
from moulage.errors import DataError, RecipeError
from pictures import encoded, png_header


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colour with finer and finer detail, like a photograph's spectrum."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32) + np.array([190, 140, 120], np.float32)
    for cells, strength in ((6, 50), (24, 25), (96, 12), (300, 6)):
        for channel in range(3):
            coarse = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
            total[..., channel] += strength * np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    error = np.mean((first.astype(float) - second.astype(float)) ** 2)
    return 10 * np.log10(255**2 / error) if error else np.inf


def status(data: bytes, side: int = 64) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data, side)
    return caught.value.status


# ---- decoding -------------------------------------------------------------------------------------------------------


def test_png_comes_back_exactly() -> None:
    picture = photograph(50, 40)
    np.testing.assert_array_equal(decode(encoded(picture, "PNG"), 64), np.asarray(picture))


@pytest.mark.parametrize(
    ("width", "height", "side", "expected"),
    [
        (1024, 1024, 64, (128, 128)),  # 1/8
        (1023, 1500, 64, (375, 256)),  # 1/8 would give 127
        (600, 450, 64, (225, 300)),  # 1/2
        (1024, 1024, 224, (512, 512)),
        (84, 84, 64, (84, 84)),
        (1024, 1024, 8, (128, 128)),  # never below twice 64: small sizes share the decode
    ],
)
def test_jpeg_is_decoded_at_the_smallest_scale_that_keeps_twice_the_side(
    width: int, height: int, side: int, expected: tuple[int, int]
) -> None:
    assert decode(encoded(Image.new("RGB", (width, height), "red"), "JPEG"), side).shape == (*expected, 3)


@pytest.mark.parametrize(("width", "height"), [(1024, 1024), (1500, 1000), (600, 450)])
@pytest.mark.parametrize("size", [64, 128])
def test_scaled_decode_is_close_to_the_full_one(width: int, height: int, size: int) -> None:
    data = encoded(photograph(width, height), "JPEG")
    full = Image.open(io.BytesIO(data)).resize((size, size), Image.Resampling.LANCZOS)
    assert psnr(square(decode(data, size), size, "squash"), np.asarray(full)) >= 45


def test_a_picture_does_not_depend_on_what_else_is_asked_for() -> None:
    data = encoded(photograph(700, 600), "JPEG")
    together = images.pictures(data, header(data), [32, 64, 224])
    for side, picture in zip([32, 64, 224], together, strict=True):
        np.testing.assert_array_equal(np.asarray(picture), decode(data, side))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "RGB"])
def test_png_modes_become_rgb(mode: str) -> None:
    picture = photograph(40, 30).convert(mode)
    data = encoded(picture, "PNG")
    assert header(data).mode == mode
    np.testing.assert_array_equal(decode(data, 64), np.asarray(picture.convert("RGB")))


@pytest.mark.filterwarnings("error")
def test_what_is_transparent_is_black_in_every_mode_and_said() -> None:
    picture = photograph(40, 30)
    alpha = np.full((30, 40), 255, np.uint8)
    alpha[:10], alpha[10:20] = 0, 51
    seen = np.asarray(picture).astype(float) * alpha[..., None] / 255
    cut = picture.copy()
    cut.putalpha(Image.fromarray(alpha))
    data = encoded(cut, "PNG")
    assert np.abs(decode(data, 64) - seen).max() <= 1
    assert examined(data, header(data), [32])[1] == ("transparent",)
    palette = Image.fromarray(np.arange(200, dtype=np.uint8).reshape(10, 20) % 4, "P")
    palette.putpalette([200, 10, 10, 10, 200, 10, 10, 10, 200, 50, 50, 50])
    found = decode(encoded(palette, "PNG", transparency=bytes([0, 255, 51])), 64)
    assert [found[0, k].tolist() for k in range(4)] == [[0, 0, 0], [10, 200, 10], [2, 2, 40], [50, 50, 50]]
    one_colour = Image.new("RGB", (20, 20), (9, 99, 199))
    assert decode(encoded(one_colour, "PNG", transparency=(9, 99, 199)), 64).max() == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_alpha_channel_that_hides_nothing_changes_nothing(mode: str) -> None:
    data = encoded(photograph(40, 30).convert(mode), "PNG")
    assert examined(data, header(data), [32])[1] == ()


def test_cmyk_and_grey_jpeg_become_rgb() -> None:
    grey = decode(encoded(Image.new("L", (40, 30), 77), "JPEG"), 64)
    assert grey.shape == (30, 40, 3)
    assert set(np.unique(grey)) == {77}
    data = encoded(Image.new("CMYK", (40, 30), (0, 255, 255, 0)), "JPEG")
    assert header(data).mode == "CMYK"
    assert np.abs(decode(data, 64).astype(int) - [255, 0, 0]).max() <= 3


def test_sixteen_bit_grey_keeps_its_upper_byte() -> None:
    values = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    data = encoded(Image.fromarray(values), "PNG")
    assert header(data).mode == "I;16"
    np.testing.assert_array_equal(decode(data, 64)[..., 1], values // 256)


def test_float_pixels_are_refused() -> None:
    assert status(encoded(Image.fromarray(np.ones((20, 20), np.float32)), "TIFF")) == "unreadable"


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_grey_levels_of_fewer_bits_in_sixteen_are_shown_in_full(bits: int) -> None:
    values = np.linspace(0, 2**bits - 1, 400).astype(np.uint16).reshape(20, 20)
    data = encoded(Image.fromarray(values), "PNG")
    picture, remarks = examined(data, header(data), [32])
    np.testing.assert_array_equal(np.asarray(picture[0])[..., 0], values // 2 ** (bits - 8))
    assert remarks == (f"{bits} bits in 16",)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(40, 30), (700, 600)])
def test_exif_orientation_is_applied_at_every_scale(orientation: int, size: tuple[int, int]) -> None:
    exif, picture = Image.Exif(), photograph(*size)
    exif[0x0112] = orientation
    data = encoded(picture, "JPEG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    found = header(data)
    assert (found.width, found.height) == upright.size
    for side in (32, 224):
        shown, remarks = examined(data, found, [side])
        assert shown[0].size[0] / shown[0].size[1] == pytest.approx(upright.size[0] / upright.size[1], rel=0.02)
        assert psnr(np.asarray(shown[0].resize((20, 20))), np.asarray(upright.resize((20, 20)))) > 30
        assert ("turned" in remarks) == (orientation > 1)


def test_broken_exif_does_not_matter() -> None:
    data = encoded(photograph(40, 30), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xffnonsense")
    assert decode(data, 64).shape == (30, 40, 3)


# ---- what is said of a picture --------------------------------------------------------------------------------------


def said(data: bytes) -> tuple[str, ...]:
    return examined(data, header(data), [32])[1]


@pytest.mark.parametrize("colour", ["black", "white", (120, 60, 60)])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_one_colour_all_over_is_blank_even_with_a_few_hot_pixels(colour: str, kind: str) -> None:
    picture = Image.new("RGB", (200, 150), colour)
    assert said(encoded(picture, kind)) == ("blank image",)
    for place in range(5):
        picture.putpixel((place * 30, 40), (0, 255, 90))
    assert "blank image" in said(encoded(picture, "PNG"))


@pytest.mark.parametrize(
    ("divisor", "offset", "expected"), [(8, 0, ("low range",)), (8, 220, ("low range",)), (1, 0, ())]
)
def test_a_nearly_black_or_white_picture_is_of_low_range(divisor: int, offset: int, expected: tuple[str, ...]) -> None:
    picture = np.linspace(0, 255, 60 * 50 * 3).reshape(60, 50, 3) // divisor + offset
    assert said(encoded(picture.clip(0, 255).astype(np.uint8), "PNG")) == expected


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG"])
def test_pages_and_frames_beyond_the_first_are_said(kind: str) -> None:
    pages = [photograph(40, 30, seed).convert("P" if kind == "GIF" else "RGB") for seed in (0, 1)]
    several = encoded(pages[0], kind, save_all=True, append_images=pages[1:])
    assert said(several) == ("several pages",)
    assert said(encoded(pages[0], kind)) == ()
    assert decode(several, 64).shape == (30, 40, 3)


# ---- bad bytes ------------------------------------------------------------------------------------------------------


def test_text_called_jpg_and_an_empty_file_are_unreadable() -> None:
    assert status(b"<html>404 not found</html>") == "unreadable"
    assert status(b"") == "unreadable"


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("part", [0.3, 0.7, 0.95, 0.999])
def test_cut_jpeg_is_truncated_at_every_scale(progressive: bool, part: float) -> None:
    data = encoded(photograph(800, 640), "JPEG", progressive=progressive)
    for side in (64, 400):
        assert status(data[: int(len(data) * part)], side) == "truncated"


@pytest.mark.parametrize("missing", [1, 2])
def test_jpeg_without_its_end_marker_is_truncated(missing: int) -> None:
    assert status(encoded(photograph(800, 640), "JPEG")[:-missing]) == "truncated"


def test_jpeg_with_bytes_after_its_end_or_a_thumbnail_before_is_whole() -> None:
    data = encoded(photograph(200, 200), "JPEG")
    rng = np.random.default_rng(0)
    video = b"\0\0\0\x18ftypmp42" + rng.integers(0, 256, 2**20, np.uint8).tobytes()
    for more in (bytes(40), video, b"\xff\xda" + video, data[: len(data) // 2]):
        np.testing.assert_array_equal(decode(data + more, 64), decode(data, 64))
    thumbnail = encoded(photograph(16, 16), "JPEG")
    segment = b"\xff\xe9" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    whole = data[:2] + segment + data[2:]
    assert decode(whole, 64).shape == (200, 200, 3)
    assert status(whole[:-2]) == "truncated"


def test_cut_png_is_bad_even_where_another_library_lets_it_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encoded(photograph(200, 160), "PNG")
    assert status(data[: len(data) // 2]) == "truncated"


@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (10_000, 6_401)])
def test_a_bomb_is_refused_from_its_header(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    assert status(png_header(width, height)) == "bomb"


def test_large_jpegs_are_decoded_at_a_part_of_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", 100_000)  # stands for 64 million
    data = encoded(photograph(1200, 900), "JPEG")
    assert decode(data, 1000).shape == (225, 300, 3)
    assert status(encoded(photograph(1200, 900), "PNG")) == "bomb"
    monkeypatch.setattr(images, "MAX_JPEG_PIXELS", 1_000_000)
    assert status(data) == "bomb"
    monkeypatch.setattr(images, "MAX_JPEG_PIXELS", 2_000_000)
    monkeypatch.setattr(images, "MAX_PROGRESSIVE_PIXELS", 1_000_000)
    assert status(encoded(photograph(1200, 900), "JPEG", progressive=True)) == "bomb"


@pytest.mark.parametrize(("width", "height", "scale"), [(12_000, 9_000, 4), (16_384, 12_288, 4), (60_000, 3_500, 2)])
def test_the_photographs_of_phones_are_no_bombs(width: int, height: int, scale: int) -> None:
    data = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    found = header(bytes(data))
    assert (found.width, found.height) == (width, height)
    assert found.scale(1000) == scale
    assert found.width * found.height / scale**2 <= images.MAX_PIXELS


@pytest.mark.filterwarnings("ignore")
def test_random_damage_never_escapes_as_another_error() -> None:
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM"):
        whole = np.frombuffer(encoded(photograph(40, 30), kind), np.uint8)
        for _ in range(60):
            data = whole.copy()
            data[rng.integers(0, min(len(data), 400), 6)] = rng.integers(0, 256, 6)
            with contextlib.suppress(ImageError):
                assert decode(data.tobytes(), 64).dtype == np.uint8


# ---- squares --------------------------------------------------------------------------------------------------------


def stripes() -> np.ndarray:
    """[20, 60, 3]: left third red, middle green, right blue."""
    picture = np.zeros((20, 60, 3), np.uint8)
    for third in range(3):
        picture[:, 20 * third : 20 * third + 20, third] = 255
    return picture


def test_squash_keeps_all_three_stripes() -> None:
    found = square(stripes(), 30, "squash")
    assert [found[15, x].tolist() for x in (3, 15, 26)] == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_crop_keeps_the_centre_exactly() -> None:
    np.testing.assert_array_equal(square(stripes(), 20, "crop"), stripes()[:, 20:40])
    np.testing.assert_array_equal(square(stripes().transpose(1, 0, 2), 20, "crop"), stripes().transpose(1, 0, 2)[20:40])


def test_pad_puts_black_above_and_below() -> None:
    found = square(stripes(), 60, "pad")
    np.testing.assert_array_equal(found[20:40], stripes())
    assert found.sum() == stripes().sum()
    assert square(np.full((4, 400, 3), 9, np.uint8), 16, "pad").sum() == 9 * 16 * 3  # never thinner than a pixel


@pytest.mark.parametrize("framing", images.FRAMINGS)
def test_a_square_of_the_right_size_is_untouched(framing: str) -> None:
    picture = np.asarray(photograph(64, 64))
    np.testing.assert_array_equal(square(picture, 64, framing), picture)


def test_an_unknown_fit_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match='"squash"'):
        square(stripes(), 8, "squish")


# ---- reader ---------------------------------------------------------------------------------------------------------


def write_npz(path: Path, *, deflated: bool, **arrays: np.ndarray) -> Path:
    (np.savez_compressed if deflated else np.savez)(path, **arrays)
    return path


def test_a_file_and_a_zip_member_give_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"abc")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/a.jpg", b"abc")
    with Reader() as reader:
        assert reader.bytes(f"{tmp_path}/a.jpg") == reader.bytes(f"{tmp_path}/a.zip::in/a.jpg") == b"abc"


def test_a_damaged_member_is_an_image_that_cannot_be_read_however_it_is_packed(tmp_path: Path) -> None:
    content = bytes(range(256)) * 40
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA):
        path = tmp_path / f"{method}.zip"
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("a", content)
        packed = bytearray(path.read_bytes())
        packed[60:120] = b"\xff" * 60
        path.write_bytes(packed)
        with Reader() as reader, pytest.raises(ImageError, match="damaged"):
            reader.bytes(f"{path}::a")


def test_an_array_that_is_encrypted_is_refused(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "a.npz", deflated=False, images=np.zeros((1, 4, 4), np.uint8))
    packed = bytearray(path.read_bytes())
    packed[6] |= 1  # the flag in the member's own header and in the directory
    packed[packed.rfind(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(packed)
    with Reader() as reader, pytest.raises(DataError, match=r"a\.npz::images cannot be read"):
        reader.array(f"{path}::images::0")


def test_what_is_not_there_is_missing_but_an_archive_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w"):
        pass
    with Reader() as reader:
        for location in (f"{tmp_path}/no.jpg", f"{tmp_path}/a.zip::no.jpg", "missing::ISIC_1"):
            with pytest.raises(ImageError) as caught:
                reader.bytes(location)
            assert caught.value.status == "missing"
            assert reader.fingerprint(location) == "missing"
        for ask in (reader.bytes, reader.fingerprint):
            with pytest.raises(DataError, match=r"no\.zip") as other:
                ask(f"{tmp_path}/no.zip::a.jpg")
            assert not isinstance(other.value, ImageError)


def test_a_damaged_member_is_unreadable_and_a_damaged_archive_is_an_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.jpg", b"payload!" * 10)
    data = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "bad.zip").write_bytes(data.replace(b"payload!", b"pAyload!", 1))
    (tmp_path / "cut.zip").write_bytes(data[:-30])
    with Reader() as reader:
        with pytest.raises(ImageError) as caught:
            reader.bytes(f"{tmp_path}/bad.zip::a.jpg")
        assert caught.value.status == "unreadable"
        with pytest.raises(DataError, match=r"cut\.zip is damaged"):
            reader.bytes(f"{tmp_path}/cut.zip::a.jpg")


@pytest.mark.parametrize("deflated", [True, False])
def test_npz_rows_come_in_any_order_and_from_several_arrays(tmp_path: Path, deflated: bool) -> None:
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (7, 9, 8, 3), np.uint8)
    grey = rng.integers(0, 256, (5, 9, 8), np.uint8)
    path = write_npz(tmp_path / "m.npz", deflated=deflated, train=colour, test=grey)
    with Reader() as reader:
        for index in (0, 3, 6, 2, 2):
            np.testing.assert_array_equal(reader.array(f"{path}::train::{index}"), colour[index])
            np.testing.assert_array_equal(reader.array(f"{path}::test::{index % 5}"), grey[index % 5])


def test_npz_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = write_npz(
        tmp_path / "m.npz",
        deflated=True,
        real=np.zeros((3, 8, 8), np.float32),
        turned=np.asfortranarray(np.zeros((3, 8, 8), np.uint8)),
        flat=np.zeros((3, 8), np.uint8),
        good=np.zeros((3, 8, 8), np.uint8),
    )
    with Reader() as reader:
        for name, words in (("real", "float32"), ("turned", "Fortran"), ("flat", r"\[3, 8\]")):
            with pytest.raises(DataError, match=words):
                reader.array(f"{path}::{name}::0")
        for place in ("good::3", "none::0"):
            with pytest.raises(ImageError):
                reader.array(f"{path}::{place}")
        for place in ("good", "good::x", "good::-1"):
            with pytest.raises(DataError, match="does not name a row"):
                reader.array(f"{path}::{place}")


def test_fingerprints_follow_the_content(tmp_path: Path) -> None:
    def fingerprints(first: bytes, row: int) -> list[str]:
        (tmp_path / "a.jpg").write_bytes(first)
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("a.jpg", first)
        array = write_npz(tmp_path / "m.npz", deflated=True, x=np.full((2, 8, 8), len(first), np.uint8))
        with Reader() as reader:
            return [
                reader.fingerprint(f"{tmp_path}/{end}") for end in ("a.jpg", "a.zip::a.jpg", f"{array.name}::x::{row}")
            ]

    before, after = fingerprints(b"one", 0), fingerprints(b"three", 0)
    assert all(x != y for x, y in zip(before, after, strict=True))
    assert fingerprints(b"three", 0)[1:] == after[1:]
    assert fingerprints(b"three", 1)[2] != after[2]
