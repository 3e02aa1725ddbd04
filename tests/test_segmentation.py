"""The U-Net that finds lesions: its measures, its training, the masks that it writes."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from call_cli import Result, settings
from moulage import backbones, plugins
from moulage.data import masks as lesion_masks
from moulage.data import symmetries
from moulage.errors import CheckpointError, DataError, RecipeError, RunError
from moulage.losses import cross_entropy_and_dice
from moulage.masks import predict
from moulage.masks import segmenter as module
from moulage.masks.learn import learn_masks
from moulage.masks.segmenter import Config, Segmenter, dice, jaccard
from moulage.sources import folder as folder_source

pytest.importorskip("segmentation_models_pytorch")

SIZE = 32
TINY: dict[str, Any] = {
    "size": SIZE,
    "backbone": {"name": "test_resnet", "weights": "scratch"},
    "decoder_channels": (16, 16, 8, 8, 8),
    "learning_rate": 5e-3,
    "warmup_steps": 2,
    "batch_size": 8,
    "epochs": 2,
    "steps_per_epoch": 11,
}


def blobs(number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Bright discs on a dark ground: images uint8 [n, 32, 32, 3] and their masks."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((SIZE, SIZE))
    row, column = rng.uniform(10, 22, (2, number, 1, 1))
    inside = (y - row) ** 2 + (x - column) ** 2 < rng.uniform(5, 9, (number, 1, 1)) ** 2
    images = np.where(inside, 190, 60)[..., None] + rng.normal(0, 12, (number, SIZE, SIZE, 3))
    return images.clip(0, 255).astype(np.uint8), lesion_masks.binary(inside)


def config(**changes: Any) -> Config:
    return plugins.validate(Config, {**TINY, **changes}, "segmenter")


def fitted(folder: Path, seed: int = 0, progress: Any = lambda *_: None, **changes: Any) -> Segmenter:
    segmenter = Segmenter(config(**changes))
    segmenter.fit(*blobs(40), *blobs(12, 1), seed=seed, folder=folder, progress=progress)
    return segmenter


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Segmenter, Path]:
    """A segmenter that was trained without a break, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return fitted(folder), folder


def test_dice_and_jaccard_by_hand():
    true, found = np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    true[0, :2], found[0, 1:3] = 255, 255  # 8 pixels each, 4 in common
    true[1, :1] = 255  # nothing found
    true[2, :2], found[2, :2] = 255, 255
    assert dice(found, true).tolist() == [0.5, 0, 1, 1]  # the last: both empty
    assert jaccard(found, true).tolist() == pytest.approx([1 / 3, 0, 1, 1])
    with pytest.raises(DataError, match="compared"):
        dice(found, true[:2])


def test_the_loss_falls_with_the_overlap_and_takes_images_without_lesion():
    true = torch.zeros(2, 8, 8)
    true[0, :4] = 1
    right, wrong = 40 * (true - 0.5), 40 * (0.5 - true)
    assert cross_entropy_and_dice(right, true) < 1e-3
    assert cross_entropy_and_dice(wrong, true) > 10
    half = torch.zeros(1, 8, 8)  # 0.5 everywhere: cross-entropy log 2, Dice (2 * 16 + 1) / (32 + 32 + 1)
    assert float(cross_entropy_and_dice(half, true[:1])) == pytest.approx(np.log(2) + 1 - 33 / 65, abs=1e-5)


def test_image_and_mask_are_turned_alike_into_eight_symmetries():
    images, masks = blobs(8)
    images[:, :, :, 0] = masks
    pixels, truth = module.augmented(
        images, masks, np.random.default_rng(0), config(brightness=0, contrast=0, colour=0)
    )
    assert torch.equal((pixels[:, 0] > 0.5).float(), truth)
    picture = np.arange(9).reshape(3, 3)
    turned = symmetries.in_symmetry(np.stack([picture] * 8), np.arange(8))
    assert len({t.tobytes() for t in turned}) == 8
    assert np.array_equal(turned[0], picture)
    plain = config(symmetries=False, brightness=0, contrast=0, colour=0)
    pixels, truth = module.augmented(images, masks, np.random.default_rng(0), plain)
    assert np.array_equal((pixels * 255).round().byte().permute(0, 2, 3, 1).numpy(), images)
    assert np.array_equal(truth.numpy() * 255, masks)
    lit, _ = module.augmented(images, masks, np.random.default_rng(0), config(symmetries=False))
    assert 0.01 < (lit - pixels).abs().mean() < 0.1


def test_it_learns_bright_blobs_and_is_saved(whole: tuple[Segmenter, Path], tmp_path: Path):
    segmenter, folder = whole
    images, true = blobs(20, 2)
    found = segmenter.predict(images)
    assert (found.shape, found.dtype, set(np.unique(found))) == (true.shape, np.uint8, {0, 255})
    assert dice(found, true).mean() > 0.85
    segmenter.save(tmp_path)
    assert np.array_equal(Segmenter.load(tmp_path).predict(images), found)
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in log] == [1, 2]


def test_a_fit_that_was_broken_off_ends_with_the_same_weights(whole: tuple[Segmenter, Path], tmp_path: Path):
    def stop(done: int, total: int, note: str) -> None:
        if done == 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path, progress=stop)
    steps: list[int] = []
    again = fitted(tmp_path, progress=lambda done, total, note: steps.append(done))
    assert steps[0] == 12  # after the first epoch
    for name, value in whole[0].network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name]), name


def test_a_fit_in_the_folder_of_another_is_refused(whole: tuple[Segmenter, Path]):
    with pytest.raises(CheckpointError, match="other settings"):
        fitted(whole[1], seed=1)
    segmenter, (images, masks) = Segmenter(config()), blobs(40)
    with pytest.raises(CheckpointError, match="other settings"):
        segmenter.fit(images, 255 - masks, *blobs(12, 1), seed=0, folder=whole[1])


def test_imagenet_weights_reach_the_encoder():
    pytest.importorskip(backbones.PIP_PACKAGE)
    chosen = config(backbone={}, decoder_channels=(8, 8, 8, 8, 8))
    network = module._build(chosen)
    known = backbones.build(chosen.backbone, SIZE).network.state_dict()
    encoder: Any = network.unet.encoder
    found = encoder.model.state_dict()
    assert len(found) > 250
    assert all(torch.equal(value, known[name]) for name, value in found.items())


def test_what_is_wrong_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    images, masks = blobs(4)
    segmenter = Segmenter(config())
    with pytest.raises(RunError, match="not trained"):
        segmenter.predict(images)
    with pytest.raises(RunError, match="nothing to save"):
        segmenter.save(tmp_path)
    about: dict[str, Any] = {"seed": 0, "folder": tmp_path}
    with pytest.raises(DataError, match=r"uint8 \[N, 32, 32, 3\] and got uint8 \[4, 16, 16, 3\]"):
        segmenter.fit(images[:, :16, :16], masks, images, masks, **about)
    with pytest.raises(DataError, match="4 images need masks"):
        segmenter.fit(images, masks[:3], images, masks, **about)
    with pytest.raises(DataError, match="no validation image"):
        segmenter.fit(images, masks, images[:0], masks[:0], **about)
    for changes, message in (
        ({"size": 40}, "multiple of 32"),
        ({"backbone": {**TINY["backbone"], "input_size": 64}}, "set size instead"),
        ({"decoder_channels": (8, 8, 8, 8, 0)}, "1 or more"),
    ):
        with pytest.raises(RecipeError, match=message):
            config(**changes)
    with pytest.raises(RecipeError, match="test_vit does not make a U-Net"):
        module._build(config(backbone={"name": "test_vit", "weights": "scratch"}))
    (tmp_path / "config.json").write_text('{"config": {}, "classes": []}')
    with pytest.raises(RunError, match="no lesion segmenter"):
        Segmenter.load(tmp_path)
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(RecipeError) as error:
        module.check_installed(config())
    assert "pip install 'moulage[masks]'" in str(error.value)


def test_masks_are_called_after_their_images():
    names = predict.file_names(np.array(["ISIC_1", "AK/2.jpg", "AK/3.jpg", "AK/3.png"], object))
    assert names == [
        "ISIC_1_segmentation.png",
        "AK/2_segmentation.png",
        "AK/3.jpg_segmentation.png",
        "AK/3.png_segmentation.png",
    ]
    with pytest.raises(DataError, match=r"\.\./a"):
        predict.file_names(np.array(["../a"], object))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of 30 blobs each, two images a lesion, all but one with a mask."""
    root = tmp_path_factory.mktemp("data")
    rows = []
    images, masks = blobs(60, 3)
    for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
        name = f"{'AB'[i % 2]}/{i}.png"
        files = {root / name: image} | ({root / "masks" / f"{i}.png": mask} if i else {})
        for path, picture in files.items():
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(picture).save(path)
        rows.append({"image": name, "lesion": f"{i % 2}-{i // 4}", "mask": f"masks/{i}.png" if i else ""})
    pd.DataFrame(rows).to_csv(root / "groups.csv", index=False)
    return root


@pytest.fixture(scope="module")
def learned(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What ``learn_masks`` says of the blobs, and its folder."""
    out = tmp_path_factory.mktemp("learned") / "masks"
    return learn_masks("folder", data, {}, out, settings=TINY), out


def test_learning_scores_held_out_lesions(learned: tuple[dict[str, Any], Path], data: Path):
    found, out = learned
    assert found == json.loads((out / "segmentation.json").read_text())
    assert found["data"]["num_images"] == 59
    assert sum(found["num_images"].values()) == 59
    scores = found["test"]["all"]
    assert scores["num_images"] == found["num_images"]["test"]
    assert scores["dice"] > 0.8 > scores["jaccard"] - 0.2
    for name in ("dice", "jaccard"):
        low, high = scores[f"{name}_interval"]
        assert low <= scores[name] <= high
        by_class = [found["test"]["classes"][k] for k in "AB"]
        total = sum(values[name] * values["num_images"] for values in by_class)
        assert total / scores["num_images"] == pytest.approx(scores[name])
    assert found["test"]["same_outline"]["dice"] < scores["dice"]
    with Image.open(out / "examples.png") as picture:
        assert min(picture.size) > 3 * SIZE
    assert not list(out.glob("checkpoint-*"))
    assert learn_masks("folder", data, {}, out, settings=TINY) == found
    with pytest.raises(RunError, match="other data, options or seed"):
        learn_masks("folder", data, {}, out, settings=TINY, seed=1)


def test_masks_are_predicted_once_and_can_be_read(learned: tuple[dict[str, Any], Path], data: Path, tmp_path: Path):
    first = predict.predict_masks(learned[1], "folder", data, {}, tmp_path)
    assert (first["num_images"], first["num_new"], first["unusable"]) == (60, 60, {})
    assert first["num_seen"] == 59 - learned[0]["num_images"]["test"]
    table = pd.read_csv(tmp_path / "masks.csv")
    assert list(table.columns) == ["image", "path", "area_share", "num_components"]
    kept = (tmp_path / "A/4_segmentation.png").read_bytes()
    (tmp_path / "A/4_segmentation.png").unlink()
    assert predict.predict_masks(learned[1], "folder", data, {}, tmp_path)["num_new"] == 1
    assert (tmp_path / "A/4_segmentation.png").read_bytes() == kept
    catalog = folder_source.read(data, folder_source.Config())
    masked = lesion_masks.with_predicted(catalog, tmp_path)
    [told] = masked.findings
    assert (told.kind, told.severity) == ("segmenter saw these lesions", "warning")
    assert told.num_images >= first["num_seen"], "and other images of their lesions"
    read = lesion_masks.read(masked, SIZE, "squash")
    for row in (0, 41):
        with Image.open(tmp_path / table["path"][row]) as picture:
            assert (picture.mode, picture.size) == ("L", (SIZE, SIZE))
            assert np.array_equal(np.array(picture), read[row])
        assert table["area_share"][row] == pytest.approx((read[row] > 0).mean(), abs=1e-6)
    true = lesion_masks.read(catalog.take(np.arange(1, 60)), SIZE, "squash")
    assert dice(read[1:], true).mean() > 0.8
    with pytest.raises(RunError, match="no predicted masks"):
        lesion_masks.with_predicted(catalog, data)


def test_files_of_others_are_left_as_they_are(learned: tuple[dict[str, Any], Path], data: Path, tmp_path: Path):
    mine = tmp_path / "png" / "A" / "0_segmentation.png"
    mine.parent.mkdir(parents=True)
    Image.new("L", (SIZE, SIZE)).save(mine)
    table = tmp_path / "csv" / "masks.csv"
    table.parent.mkdir()
    table.write_text("mine")
    for path in (mine, table):
        before = path.read_bytes()
        with pytest.raises(RunError, match=r"files of something else|in the way"):
            predict.predict_masks(learned[1], "folder", data, {}, tmp_path / path.relative_to(tmp_path).parts[0])
        assert path.read_bytes() == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "predicted.json").write_text('{"segmenter": "abc"}')
    (tmp_path / "other" / ".lock").touch()
    with pytest.raises(RunError, match="another segmenter"):
        predict.predict_masks(learned[1], "folder", data, {}, tmp_path / "other")


def test_the_verbs(learned: tuple[dict[str, Any], Path], data: Path, call: Callable[..., Result]):
    common = ("--source", "folder", "--data", data)
    shown = call("masks", "learn", *common, "--out", learned[1], *settings(TINY))
    assert shown.code == 0, shown.err
    assert "same outline for all" in shown.out
    assert str(learned[1] / "examples.png") in shown.out
    shown = call("masks", "predict", learned[1], *common, "--out", "here", "--json")
    assert json.loads(shown.out)["num_images"] == 60
    shown = call("masks", "predict", learned[1], *common, "--out", "here")
    assert "60 masks in here (0 new)" in shown.out
    shown = call("masks", "learn", *common, "--set", "epoch=2")
    assert (shown.code, "epochs" in shown.err) == (1, True)
    shown = call("masks", "predict", data, *common)
    assert (shown.code, "config.json is missing" in shown.err) == (1, True)


@pytest.mark.real_data
def test_it_finds_lesions_of_ham10000(real_data: Path, tmp_path: Path):
    from moulage.data import pixels
    from moulage.sources import ham10000

    pytest.importorskip(backbones.PIP_PACKAGE)
    found = ham10000.read(real_data / "ham10000-200px", ham10000.Config()).only(label="NV").take(np.arange(70))
    images = np.array(pixels.build(found, (64,), "squash", tmp_path).array(64))
    true = lesion_masks.read(found, 64, "squash", tmp_path)
    small = {"size": 64, "backbone": {}, "epochs": 1, "steps_per_epoch": 30, "batch_size": 8}
    segmenter = Segmenter(config(**small))
    segmenter.fit(images[:55], true[:55], images[55:60], true[55:60], seed=0, folder=tmp_path / "fit")
    assert dice(segmenter.predict(images[60:]), true[60:]).mean() > 0.7
