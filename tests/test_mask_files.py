"""What is above the background of a mask is lesion, however it is written; what cannot be meant is refused by name."""

import io
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, PngImagePlugin

from moulage.data import mask_files, mask_remarks, masks
from moulage.data import pixels as pixel_cache
from moulage.data.audit import audit
from moulage.data.catalog import Catalog
from moulage.data.filters import Filters
from moulage.data.images import ImageError
from pictures import encoded, write_pictures

INSIDE = np.zeros((40, 60), bool)
INSIDE[10:30, 15:40] = True
PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0, *[0] * 759]


def picture(kind: str) -> bytes:
    """The mask ``INSIDE``, written in one of many ways."""
    lesion, number = INSIDE, INSIDE.astype(np.uint8)
    rgb = np.repeat(number[..., None], 3, 2)
    if kind == "palette":
        image = Image.fromarray(2 * number, "P")
        image.putpalette(PALETTE)
        return encoded(image)
    if kind == "labels of a palette":  # a part of the lesion is of another structure
        labels = number.copy()
        labels[10:15, 15:40] = 2
        image = Image.fromarray(labels, "P")
        image.putpalette([0, 0, 0, 250, 0, 0, 0, 60, 0, *[0] * 759])
        return encoded(image)
    if kind == "labels":
        return encoded(np.where(np.arange(60) < 30, 1, 4).astype(np.uint8) * number)
    values: dict[str, np.ndarray | Image.Image] = {
        "0 and 255": 255 * number, "0 and 1": number, "1 bit": lesion, "1 and 2": number + 1, "0 and 100": 100 * number,
        "16 bits": number.astype(np.uint16) * 65535, "16 bits, 0 and 1": number.astype(np.uint16),
        "12 bits": number.astype(np.uint16) * 4095, "RGB": 255 * rgb, "RGB of 0 and 1": rgb,
        "red": (rgb * [200, 0, 0]).astype(np.uint8), "green": (rgb * [0, 90, 0]).astype(np.uint8),
        "white behind transparency": np.dstack([255 * np.ones_like(rgb), 255 * number]),
        "black behind transparency": np.dstack([np.zeros_like(rgb), 255 * number]),
        "opaque": np.dstack([255 * rgb, 255 * np.ones_like(number)]),
        "grey and transparency": Image.merge("LA", [Image.fromarray(255 * number), Image.new("L", (60, 40), 255)]),
    }  # fmt: skip
    if kind == "probabilities":
        return encoded(Image.fromarray(np.where(lesion, 0.9, 0.2).astype(np.float32)), "TIFF")
    if kind == "JPEG":
        return encoded(255 * number, "JPEG")
    if kind == "smooth edges":
        soft = np.asarray(Image.fromarray(255 * number).resize((120, 80)).resize((60, 40)))
        return encoded(soft)
    return encoded(values[kind])


WAYS = (
    *("0 and 255", "0 and 1", "1 bit", "1 and 2", "0 and 100", "16 bits", "16 bits, 0 and 1", "12 bits", "RGB", "red"),
    *("RGB of 0 and 1", "green", "white behind transparency", "black behind transparency", "opaque", "palette"),
    *("grey and transparency", "labels", "labels of a palette", "probabilities", "JPEG", "smooth edges"),
)


@pytest.mark.parametrize("kind", WAYS)
def test_a_mask_is_read_however_it_is_written(kind):
    found = mask_files.decode(picture(kind)).inside
    assert np.array_equal(found, INSIDE) if kind not in ("JPEG", "smooth edges") else (found == INSIDE).mean() > 0.98


@pytest.mark.parametrize("kind", WAYS)
def test_masks_of_a_catalog_are_read_so(kind, tmp_path: Path):
    suffix = {"probabilities": "tif", "JPEG": "jpg"}.get(kind, "png")
    write_pictures(tmp_path, {f"m.{suffix}": picture(kind)})
    rows = pd.DataFrame({"image": ["a"], "label": "AK", "location": "a.jpg", "mask": [f"m.{suffix}"]})
    found = masks.read(Catalog.build(rows, ["AK"], "t", tmp_path), 40, "squash", tmp_path / "cache")
    assert (found[0] > 0).mean() == pytest.approx(INSIDE.mean(), abs=0.02)


def test_masks_that_say_nothing_are_refused():
    green_on_red = np.where(INSIDE[..., None], [0, 255, 0], [255, 0, 0]).astype(np.uint8)
    with pytest.raises(ImageError, match="equally bright"):
        mask_files.decode(encoded(green_on_red))
    few = (np.random.default_rng(0).random((40, 60)) < 0.5).astype(np.uint8) * 9
    with pytest.raises(ImageError, match=r"a JPEG of levels .* save it as PNG"):
        mask_files.decode(encoded(few, "JPEG"))
    with pytest.raises(ImageError, match="not finite"):
        mask_files.decode(encoded(Image.fromarray(np.full((20, 20), np.nan, np.float32)), "TIFF"))
    with pytest.raises(ImageError):
        mask_files.decode(b"nothing")


def test_a_mask_of_one_level_is_skin_or_lesion():
    assert not mask_files.decode(encoded(np.zeros((20, 20), np.uint8))).inside.any()
    assert mask_files.decode(encoded(np.full((20, 20), 255, np.uint8))).inside.all()


def test_a_mask_is_turned_as_its_exif_says():
    exif = Image.Exif()
    exif[0x112] = 6
    stream = io.BytesIO()
    Image.fromarray(INSIDE.astype(np.uint8) * 255).transpose(Image.Transpose.ROTATE_90).save(stream, "PNG", exif=exif)
    assert np.array_equal(mask_files.decode(stream.getvalue()).inside, INSIDE)


@pytest.mark.parametrize(
    ("width", "height", "fits"), [(60, 40, True), (600, 401, True), (1024, 683, True), (40, 60, False), (60, 48, False)]
)
def test_a_mask_fits_an_image_of_its_aspect_ratio(width, height, fits):
    mask = mask_files.decode(picture("0 and 255"))
    assert mask.fits(width, height) == fits
    info = PngImagePlugin.PngInfo()
    info.add_text(mask_files.PREDICTED_BY, "x")
    predicted = mask_files.decode(encoded(np.eye(40, dtype=np.uint8) * 255, pnginfo=info))
    assert predicted.fits(width, height), "predicted masks are of squashed photographs"


def folder(root: Path, of_two: dict[int, bytes]) -> Catalog:
    """Twelve images of 60 x 40 pixels with masks of 0 and 255, but for these."""
    names = [f"{n:02d}" for n in range(12)]
    made = {
        f"{name}.png": np.random.default_rng(n).integers(0, 256, (40, 60, 3), np.uint8) for n, name in enumerate(names)
    }
    made |= {f"m{name}.png": of_two.get(n, picture("0 and 255")) for n, name in enumerate(names)}
    write_pictures(root, made)
    rows = pd.DataFrame({"image": names, "label": ["AK", "NV"] * 6, "location": [f"{n}.png" for n in names]})
    return Catalog.build(rows.assign(mask=[f"m{name}.png" for name in names]), ["AK", "NV"], "t", root)


def test_a_mask_of_another_frame_is_refused_by_name(tmp_path: Path):
    catalog = folder(tmp_path, {3: encoded(np.ascontiguousarray(INSIDE.T))})
    pixels = pixel_cache.build(catalog, (16,), "squash", tmp_path / "cache")
    report = audit(catalog, pixels)
    [said] = [f for f in report.findings if f.kind == "mask of another frame"]
    assert (said.severity, said.images) == ("error", ("03",))
    assert "03: its mask is 40 x 60 pixels, the image 60 x 40. Used without a mask." in said.message
    clean = report.clean(catalog)
    assert list(clean.table["mask"] == "") == [name == "03" for name in clean.images]
    cut = pixel_cache.build(
        catalog, (16,), "squash", tmp_path / "cache", filters=Filters.of([("lesion_crop", {"margin": 0.2})])
    )
    assert cut.scan.set_index("image")["status"]["03"] == mask_files.MISFIT
    assert (cut.scan["status"] == "ok").sum() == 11


def test_the_audit_says_how_masks_are_written_and_which_are_odd(tmp_path: Path, monkeypatch):
    odd = {1: picture("0 and 1"), 2: picture("palette"), 4: encoded(np.zeros((40, 60), np.uint8)), 5: b"broken"}
    catalog = folder(tmp_path, {**odd, 6: encoded(~INSIDE), 7: encoded(np.ones((40, 60), bool))})
    scan = pixel_cache.build(catalog, (), "squash", tmp_path / "cache").scan
    found, unusable = mask_remarks.check(catalog, scan)
    said = {f.kind: (f.severity, f.images) for f in found}
    assert unusable == ("05",)
    assert said["unreadable mask"] == ("error", ("05",))
    assert said["empty masks"] == ("warning", ("04",))
    assert said["full masks"] == ("warning", ("07",))
    assert said["masks inside out"] == ("warning", ("06",))
    [levels] = [f.message for f in found if f.kind == "masks of other levels"]
    assert "0 and 1 (2), colours of a palette (1): what is above" in levels
    monkeypatch.setattr(mask_remarks, "MOST_READ", 3)
    some, _ = mask_remarks.check(catalog, scan)
    assert all("of 3 of 12 that were looked at" in f.message for f in some if f.kind == "masks of other levels")


def test_whatever_the_decoder_raises_is_a_damaged_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise struct.error("unpack requires a buffer of 4 bytes")

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", broken)
    with pytest.raises(ImageError, match="the mask is damaged"):
        mask_files.decode(encoded(Image.fromarray(INSIDE)))
