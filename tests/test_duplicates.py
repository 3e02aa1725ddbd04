"""Near-duplicates: changed copies are found in a crowd, look-alikes are not accepted."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import ndimage

from moulage.data import copy_candidates, copy_evidence, duplicates, frames, images, pixels
from moulage.data.duplicates import Pair
from moulage.data.thumbnails import ORIENTATIONS, inside, orient
from moulage.sources import isic2019
from pictures import encoded

SIDE = 120
RADIUS = np.hypot(*(np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2))
Change = Callable[[Image.Image], Image.Image]


def photograph(seed: int) -> Image.Image:
    """A lesion with texture and a ragged outline on textured skin with hairs."""
    rng = np.random.default_rng(seed)
    coarse, middle, fine = (ndimage.gaussian_filter(rng.normal(size=(SIDE, SIDE)), s) * s for s in (14, 6, 3))
    lesion = ndimage.gaussian_filter((RADIUS + 60 * coarse + 30 * middle < rng.uniform(24, 36)) * 1.0, 2)
    grey = 180 + 30 * coarse + 25 * middle + 25 * fine - lesion * (80 - 60 * middle)
    for row, slope in zip(rng.uniform(0, SIDE, 4), rng.uniform(-1, 1, 4), strict=True):
        column = np.arange(SIDE)
        line = np.round(row + slope * (column - SIDE / 2)).astype(int)
        shown = (line > 0) & (line < SIDE - 1)
        for offset in (-1, 0, 1):
            grey[line[shown] + offset, column[shown]] -= 60
    return coloured(grey)


def blob(seed: int, radius: float) -> Image.Image:
    """A smooth dark spot in the middle of plain skin, in a round black vignette."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(SIDE, SIDE)), 2) * 20
    grey = 190 - 110 / (1 + np.exp((RADIUS - radius) / 2)) + noise
    return coloured(np.where(RADIUS < 52, grey, 5))


def coloured(grey: np.ndarray) -> Image.Image:
    return Image.fromarray((np.clip(grey, 0, 255)[..., None] * [1, 0.85, 0.75]).astype(np.uint8))


def compressed(image: Image.Image) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, "JPEG", quality=50))).convert("RGB")


def cropped(image: Image.Image) -> Image.Image:
    return image.crop((2, 3, SIDE - 3, SIDE - 1)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def recoloured(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image) * [0.8, 0.9, 1.0]).astype(np.uint8))


def turned(method: Image.Transpose) -> Change:
    return lambda image: image.transpose(method)


def thumbnails(*pictures: Image.Image) -> np.ndarray:
    return np.stack([images.square(picture, 32, "squash") for picture in pictures])


def names(number: int) -> np.ndarray:
    return np.array([f"image-{k}" for k in range(number)], object)


def found(*pictures: Image.Image) -> tuple[Pair, ...]:
    return duplicates.search(names(len(pictures)), thumbnails(*pictures))


@pytest.fixture(scope="module")
def crowd() -> list[Image.Image]:
    return [photograph(seed) for seed in range(60)]


CHANGES = {
    "copied": (lambda image: image, 0),
    "compressed": (compressed, 0),
    "cropped": (cropped, 0),
    "recoloured": (recoloured, 0),
    "brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.2), 0),
    "darker": (lambda image: ImageEnhance.Brightness(image).enhance(0.7), 0),
    "mirrored": (turned(Image.Transpose.FLIP_LEFT_RIGHT), 1),
    "upside down": (turned(Image.Transpose.FLIP_TOP_BOTTOM), 2),
    "turned around": (turned(Image.Transpose.ROTATE_180), 3),
    "transposed": (turned(Image.Transpose.TRANSPOSE), 4),
    "transversed": (turned(Image.Transpose.TRANSVERSE), 7),
    "mirrored, cropped, darker and compressed": (
        lambda image: compressed(recoloured(cropped(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))),
        1,
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_the_only_pair_accepted_in_a_crowd(crowd: list[Image.Image], change: str) -> None:
    changed, orientation = CHANGES[change]
    accepted = [pair for pair in found(*crowd, changed(crowd[17])) if pair.accepted]
    assert [(pair.first, pair.second) for pair in accepted] == [("image-17", "image-60")]
    assert accepted[0].orientation == ORIENTATIONS[orientation]
    assert accepted[0].detail > 0.85
    assert accepted[0].overlap > 0.6
    assert accepted[0].agreement > copy_evidence.ACCEPTED


def cut(share: float) -> Change:
    edge = round(share * SIDE)
    return lambda image: image.crop((edge, edge, SIDE - edge, SIDE - edge))


def framed(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.pad(np.asarray(image), ((12, 12), (12, 12), (0, 0))))


def shifted(image: Image.Image) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, (1, 0, -8, 0, 1, -8))


def framed_in_white(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.pad(np.asarray(image), ((12, 12), (12, 12), (0, 0)), constant_values=255))


def mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


MOVED = {
    "cut by 5 %": cut(0.05),
    "cut by 10 %": cut(0.10),
    "cut by 10 % at a corner": lambda image: image.crop((12, 12, SIDE, SIDE)),
    "framed in black": framed,
    "framed in white": framed_in_white,
    "shifted by 8 px": shifted,
    "turned by 10 degrees": lambda image: image.rotate(10, Image.Resampling.BICUBIC),
    "mirrored and cut by 10 %": lambda image: cut(0.10)(mirrored(image)),
    "mirrored and framed": lambda image: framed(mirrored(image)),
    "turned right and cut by 5 %": lambda image: cut(0.05)(image.transpose(Image.Transpose.ROTATE_270)),
    "re-coloured and cut by 10 %": lambda image: cut(0.10)(recoloured(image)),
}


@pytest.mark.parametrize("change", MOVED)
def test_a_moved_copy_is_the_only_pair_accepted_in_a_crowd(crowd: list[Image.Image], change: str) -> None:
    for number in (5, 17, 40):
        pairs = found(*crowd, compressed(MOVED[change](crowd[number])))
        assert [(pair.first, pair.second) for pair in pairs if pair.accepted] == [(f"image-{number}", "image-60")]
        assert pairs.is_complete


def test_too_many_that_are_alike_are_told(crowd: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    copies = [*crowd[:3], *(compressed(picture) for picture in crowd[:3])]
    assert found(*copies).is_complete
    monkeypatch.setattr(duplicates, "MAX_CANDIDATES", 2)
    assert not found(*copies).is_complete


def test_more_copies_of_one_image_than_are_looked_at_are_told(
    crowd: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [*crowd[:8], *(crowd[0].crop((0, 0, SIDE - k, SIDE)) for k in range(1, 5))]
    assert found(*pictures).is_complete
    monkeypatch.setattr(copy_candidates, "NUM_NEAREST", 3)
    assert not found(*pictures).is_complete


def test_pairs_of_one_side_are_not_looked_for(crowd: list[Image.Image]) -> None:
    pictures = thumbnails(*crowd[:9], compressed(crowd[0]), compressed(crowd[8]))
    pairs = duplicates.search(names(11), pictures, sides=np.repeat([0, 1], [8, 3]))
    assert [(pair.first, pair.second) for pair in pairs if pair.accepted] == [("image-0", "image-9")]


@pytest.mark.parametrize("method", [Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270])
def test_a_quarter_turn_is_found(crowd: list[Image.Image], method: Image.Transpose) -> None:
    assert any(pair.accepted for pair in found(*crowd, crowd[17].transpose(method)))


def test_blobs_in_the_same_vignette_are_candidates_but_not_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [blob(seed, radius) for seed, radius in enumerate(np.linspace(14, 20, 12))]
    monkeypatch.setattr(copy_evidence, "LISTED", -2.0)
    pairs = found(*pictures)
    assert len(pairs) >= 12, "the test is void unless the search takes a close look at these pairs"
    assert not [pair for pair in pairs if pair.accepted]


def test_a_copy_in_a_vignette_is_accepted_among_blobs() -> None:
    pictures = [blob(seed, radius) for seed, radius in enumerate(np.linspace(14, 20, 12))]
    accepted = [pair for pair in found(*pictures, compressed(pictures[4])) if pair.accepted]
    assert [(pair.first, pair.second) for pair in accepted] == [("image-4", "image-12")]


@pytest.mark.parametrize(
    ("detail", "unexplained", "shear", "overlap", "agreement"),
    [
        (1.0, 0.0, 0.0, 1.0, 1.0),
        (0.9, 0.1, 0.0, 1.0, 0.85),
        (0.9, 0.1, 0.1, 0.26, 0.80),
        (0.9, 0.1, 0.1, 0.24, 0.75),
        (1.0, 0.0, 0.0, 0.09, -np.inf),
        (1.0, np.inf, 0.0, 1.0, -np.inf),
    ],
)
def test_agreement_is_detail_less_what_speaks_against_one_photograph(detail, unexplained, shear, overlap, agreement):
    each = (np.array([value], np.float32) for value in (detail, overlap, unexplained, shear))
    assert copy_evidence.Evidence(*each).agreement[0] == pytest.approx(agreement)


def test_pairs_across_blocks_are_found_once_and_the_strongest_comes_first(
    crowd: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [*crowd[:20], compressed(crowd[3]), crowd[5]]
    whole, steps = found(*pictures), []
    monkeypatch.setattr(copy_candidates, "_BLOCK", 7)
    monkeypatch.setattr(copy_candidates, "_BATCH", 11)
    monkeypatch.setattr(copy_evidence, "_BATCH", 5)
    parts = duplicates.search(names(22), thumbnails(*pictures), lambda done, total, _: steps.append((done, total)))
    assert [(pair.first, pair.second) for pair in parts] == [("image-5", "image-21"), ("image-3", "image-20")]
    assert [pair.second for pair in parts] == [pair.second for pair in whole]
    assert parts[0].detail == pytest.approx(1, abs=1e-3)
    assert steps[-1] == (22, 22)
    assert steps == sorted(steps)


def test_a_symmetric_image_is_paired_once() -> None:
    half = np.asarray(photograph(0))[:, : SIDE // 2]
    symmetric = Image.fromarray(np.concatenate([half, half[:, ::-1]], axis=1))
    assert [(pair.first, pair.second) for pair in found(symmetric, compressed(symmetric))] == [("image-0", "image-1")]


def test_the_most_similar_candidates_are_kept_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [*[compressed(photograph(0)) for _ in range(2)], *[cropped(photograph(k)) for k in (1, 2, 3)]]
    pictures += [photograph(k) for k in (1, 2, 3)]
    assert len([pair for pair in found(*pictures) if pair.accepted]) == 4
    monkeypatch.setattr(duplicates, "MAX_CANDIDATES", 1)
    assert [(pair.first, pair.second) for pair in found(*pictures)] == [("image-0", "image-1")]


@pytest.mark.parametrize("colour", [0, 128, 255])
def test_a_frame_is_found_on_each_side_and_undone(colour: int) -> None:
    picture = np.asarray(photograph(3))
    for top, bottom, left, right in ((12, 12, 12, 12), (12, 0, 0, 0), (0, 12, 0, 0), (0, 0, 12, 0), (0, 0, 0, 12)):
        wide = np.pad(picture, ((top, bottom), (left, right), (0, 0)), constant_values=colour)
        shown = thumbnails(Image.fromarray(wide), Image.fromarray(picture))
        maps = frames.find(shown)
        np.testing.assert_array_equal(maps[1], frames.NONE)
        height, width = wide.shape[:2]
        # a pixel of the picture, at most one and a half wide, is lost where a frame begins
        assert 0 <= (SIDE / height - maps[0, 0, 0]) * 32 <= 1.5 * ((top > 0) + (bottom > 0))
        assert 0 <= (SIDE / width - maps[0, 1, 1]) * 32 <= 1.5 * ((left > 0) + (right > 0))
        inner = frames.inside(shown, maps)
        alike = np.corrcoef(inner[0, 2:-2, 2:-2].ravel(), inner[1, 2:-2, 2:-2].ravel())[0, 1]
        assert alike > 0.85
        assert alike > np.corrcoef(shown[0].ravel(), shown[1].ravel())[0, 1] + 0.05


def test_plain_water_is_no_frame() -> None:
    fading = np.repeat(np.linspace(60, 200, 32)[:, None], 32, axis=1)
    picture = np.stack([fading, fading, fading], axis=2)[None].astype(np.uint8)
    np.testing.assert_array_equal(frames.find(picture)[0], frames.NONE)


@pytest.mark.parametrize("number", [0, 1, 5])
@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.filterwarnings("error")
def test_images_without_content_are_no_pairs(number: int, level: int) -> None:
    assert duplicates.search(names(number), np.full((number, 32, 32, 3), level, np.uint8)) == ()


def test_inside_leaves_out_the_vignette_and_keeps_a_black_lesion() -> None:
    shown = inside(thumbnails(blob(0, 16), photograph(0)))
    assert not shown[0][[0, 0, -1, -1], [0, -1, 0, -1]].any()
    assert 0.3 < shown[0].mean() < np.pi * (52 / 120) ** 2
    assert shown[1].all()
    dark = np.full((1, 32, 32, 3), 200, np.uint8)
    dark[:, 12:20, 12:20] = 0
    assert inside(dark).all()


TURNED_RIGHT = np.array([[6, 3, 0], [7, 4, 1], [8, 5, 2]])


def test_orient_turns_by_the_bits_of_its_index() -> None:
    image = np.arange(9).reshape(3, 3)
    left = TURNED_RIGHT[::-1, ::-1]
    wanted = [image, image[:, ::-1], image[::-1], image[::-1, ::-1]]
    wanted += [image.T, TURNED_RIGHT, left, image.T[::-1, ::-1]]
    for index, turn in enumerate(wanted):
        np.testing.assert_array_equal(orient(image[None], index)[0], turn, ORIENTATIONS[index])
    assert ORIENTATIONS[5] == "turned right"  # what is done to the second image


@pytest.mark.real_data
def test_pairs_of_real_images_agree_with_labels_and_lesion_ids(real_data: Path, tmp_path: Path) -> None:
    """About 4,000 images, whole lesions; chance would give one shared lesion in some thousand pairs."""
    catalog = isic2019.read(real_data / "isic2019-84px", isic2019.Config())
    groups = np.unique(catalog.groups)
    chosen = np.random.default_rng(0).choice(groups, len(groups) // 5, replace=False)
    catalog = catalog.take(np.isin(catalog.groups, chosen))
    seen = pixels.build(catalog, (), "squash", tmp_path)
    pairs = [pair for pair in duplicates.search(catalog.images, seen.thumbnails) if pair.accepted]
    table = catalog.table.set_index("image")
    label, lesion = table["label"].to_dict(), table["lesion"].to_dict()
    known = [pair for pair in pairs if lesion[pair.first] and lesion[pair.second]]
    assert len(known) >= 50
    assert np.mean([label[pair.first] != label[pair.second] for pair in pairs]) <= 0.01
    assert np.mean([lesion[pair.first] == lesion[pair.second] for pair in known]) >= 0.95
