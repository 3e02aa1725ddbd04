"""Lesion masks as a second task of ``finetune``: the loss, the decoder, what trains with it, and a study with them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from classifier_case import OPTIONS as DEFAULTS
from classifier_case import SIZE
from moulage import backbones, plugins, runs
from moulage import recipe as recipes
from moulage.classifiers import _augment, _network, finetune
from moulage.data import masks
from moulage.data.training_view import Examples, TrainingView
from moulage.errors import DataError, RecipeError
from moulage.stages import data
from moulage.stages.plan import plan
from moulage.treatment import PLAIN, Treatment
from recipes import phantom_recipe
from small_study import Small

CLASSES = ("dark", "light")
OPTIONS = DEFAULTS["finetune"]


def config(**options) -> finetune.Config:
    return plugins.configure("classifiers", "finetune", {**OPTIONS, **options})


def discs(number: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Dark or light discs on noise: pixels uint8 [n, SIZE, SIZE, 3], labels, and masks uint8 [n, SIZE, SIZE]."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((SIZE, SIZE))
    inside = np.stack([(y - a) ** 2 + (x - b) ** 2 < c**2 for a, b, c in rng.uniform(8, 16, (number, 3))])
    labels = np.arange(number) % 2
    pixels = rng.integers(100, 140, (number, SIZE, SIZE, 3))
    pixels = np.where(inside[..., None], np.array([60, 200])[labels][:, None, None, None], pixels)
    return pixels.astype(np.uint8), labels, masks.binary(inside)


PIXELS, LABELS, MASKS = discs(48, 1)
VALIDATION = Examples(*discs(16, 2)[:2])
SECOND = {"mask_task": {"weight": 1.0, "units": 8}}


def fitted(folder, given: np.ndarray | None, options=SECOND, **more) -> finetune.Classifier:
    classifier = finetune.Classifier(config(**options), CLASSES)
    view = TrainingView(Examples(PIXELS, LABELS, masks=given), None, 0)
    classifier.fit(view, VALIDATION, seed=0, folder=folder, **more)
    return classifier


def test_the_loss_by_hand():
    """Logits 0 are probabilities 1/2; half of 16 pixels are lesion: Dice (2 * 4 + 1) / (8 + 8 + 1)."""
    mask = torch.zeros(1, 8, 8)
    mask[:, :4] = 1
    expected = math.log(2) + 1 - 9 / 17
    assert _network.mask_loss(torch.zeros(1, 1, 4, 4), mask, torch.tensor([True])) == pytest.approx(expected)
    sure = (2 * torch.nn.functional.adaptive_avg_pool2d(mask, 4)[:, None] - 1) * 30
    assert _network.mask_loss(sure, mask, torch.tensor([True])) == pytest.approx(0, abs=1e-6)


def test_unknown_masks_are_no_part_of_the_loss():
    logits, mask = torch.randn(3, 1, 4, 4, requires_grad=True), torch.rand(3, 8, 8)
    known = torch.tensor([True, False, True])
    found = _network.mask_loss(logits, mask, known)
    alone = _network.mask_loss(logits[known], mask[known], known[known])
    assert torch.allclose(found, alone)
    found.backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum((1, 2, 3)).gt(0).tolist() == known.tolist()
    assert _network.mask_loss(logits, mask, known & False).item() == 0


def test_masks_go_where_their_images_go():
    """With the colours left alone an image that shows its mask goes on showing it."""
    still = _augment.Augment(rotation="any", crop_area=0.4, brightness=0, contrast=0, saturation=0, hue_degrees=0)
    plane = torch.from_numpy(MASKS[:, None]).float() / 255
    both = torch.cat([plane.expand(-1, 3, -1, -1), plane], 1)
    found = _augment.augment(both, torch.rand(len(both), _augment.NUM_DRAWS), still)
    assert torch.allclose(found[:, 0], found[:, 3], atol=1e-5)
    assert (found[:, 3] - plane[:, 0]).abs().mean() > 0.1
    unknown = torch.full((2, 4, SIZE, SIZE), masks.UNKNOWN / 255)
    coloured = _augment.augment(unknown, torch.rand(2, _augment.NUM_DRAWS), _augment.Augment())
    assert torch.allclose(coloured[:, 3], unknown[:, 3])


def test_the_decoder_learns_where_the_lesion_is(tmp_path):
    """After training the mask's logits are higher inside than outside, on images never seen; saving keeps them."""
    classifier = fitted(tmp_path / "fit", MASKS, {**SECOND, "epochs": 8, "choose": "last"})
    log = runs.read_log(tmp_path / "fit", "epoch")
    assert log[-1]["train_mask_loss"] < 0.8 * log[0]["train_mask_loss"]
    classifier.save(tmp_path / "saved")
    pixels, labels, truth = discs(16, 3)
    for each in (classifier, finetune.Classifier.load(tmp_path / "saved")):
        network = each.network
        assert isinstance(network, _network.Network)
        with torch.no_grad():
            logits = network.eval().with_masks(backbones.to_float(pixels))[1][:, 0]
        small = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(truth / 255), logits.shape[-1])
        assert roc_auc_score((small > 0.5).flatten(), logits.flatten()) > 0.9
    np.testing.assert_array_equal(
        classifier.predict(pixels), finetune.Classifier.load(tmp_path / "saved").predict(pixels)
    )
    assert (classifier.predict(pixels).argmax(1) == labels).mean() > 0.8


def test_masks_that_are_all_unknown_change_nothing(tmp_path):
    """Initial weights, order and augmentation are those of a network without the task."""
    without = fitted(tmp_path / "a", None, {})
    unknown = fitted(tmp_path / "b", masks.unknown(len(LABELS), SIZE))
    known = fitted(tmp_path / "c", MASKS)
    np.testing.assert_array_equal(without.predict(PIXELS), unknown.predict(PIXELS))
    assert not np.allclose(without.predict(PIXELS), known.predict(PIXELS))


def test_a_break_changes_nothing(tmp_path):
    def stop(done: int, total: int, note: str) -> None:
        if note == "epoch 2":
            raise KeyboardInterrupt

    whole = fitted(tmp_path / "whole", MASKS)
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "broken", MASKS, progress=stop)
    again = fitted(tmp_path / "broken", MASKS)
    np.testing.assert_array_equal(whole.predict(PIXELS), again.predict(PIXELS))


def test_parts_of_a_batch_weigh_masks_as_the_whole_does(tmp_path, monkeypatch):
    """What the loss of masks is worth in a step, and its mean in the log, do not depend on how the batch is cut.

    The loss is replaced by the mean area of the known masks, times a number whose gradient sums what each was worth.
    """
    given = MASKS.copy()
    given[::3] = masks.UNKNOWN
    worth = []

    def areas(logits, planes, known):
        if not known.any():
            return logits.sum() * 0
        return worth[-1] * planes[known].mean() + logits.sum() * 0

    monkeypatch.setattr(finetune, "mask_loss", areas)
    logged = []
    for parts in (1, 4):
        worth.append(torch.ones((), requires_grad=True))
        fitted(tmp_path / str(parts), given, {**SECOND, "accumulate": parts})
        logged.append([row["train_mask_loss"] for row in runs.read_log(tmp_path / str(parts), "epoch")])
    assert float(worth[0].grad) == pytest.approx(float(worth[1].grad), rel=1e-5)
    assert logged[0] == pytest.approx(logged[1], rel=1e-5)
    assert float(worth[0].grad) == pytest.approx(6 * sum(logged[0]), rel=0.1)  # 3 epochs of 6 steps


def test_no_masks_are_learned_while_the_backbone_is_frozen(tmp_path):
    frozen = fitted(tmp_path, MASKS, treatment=Treatment(freeze_backbone=True, key="frozen"))
    assert np.isfinite(frozen.predict(PIXELS)).all()
    assert "train_mask_loss" not in runs.read_log(tmp_path, "epoch")[0]
    steps, seconds = finetune.Classifier(config(**SECOND, steps_per_epoch=1), CLASSES).steps_and_seconds(48)
    assert (steps, seconds > 0) == (3, True)


def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(DataError, match="come without"):
        fitted(tmp_path, None)
    with pytest.raises(DataError, match=r"mask_task.weight is 0"):
        fitted(tmp_path, MASKS, {})
    second = finetune.Classifier(config(**SECOND), CLASSES)
    second.check_treatment(PLAIN)
    with pytest.raises(RecipeError, match="do not follow"):
        second.check_treatment(Treatment(mix=lambda a, b: (a, b), key="x"))
    for name, size in (("test_vit", 160), ("swin_tiny_patch4_window7_224", 224)):  # tokens; maps with channels last
        other = {**SECOND, "backbone": {"name": name, "weights": "scratch", "input_size": size}}
        transformer = finetune.Classifier(config(**other), CLASSES)
        with pytest.raises(RecipeError, match="several resolutions"):
            transformer.steps_and_seconds(10)
    with pytest.raises(DataError, match="Masks are uint8"):
        Examples(PIXELS, LABELS, masks=MASKS[:, :8])
    with pytest.raises(DataError, match="Only the real"):
        TrainingView(Examples(PIXELS, LABELS, masks=MASKS), Examples(PIXELS[:2], LABELS[:2]), 2)


RECIPE = phantom_recipe(
    generators={"noise": {"plugin": "noise", "classes": ["AK"], "size": 32}},
    fidelity={"num_images": 0, "judge_images": 0},
    classifier={"plugin": "finetune", "options": {**OPTIONS, "epochs": 1, "steps_per_epoch": 3, **SECOND}},
    arms={"noise": {"balance": "synthesize", "generator": "noise", "add": {"AK": 4}}},
)


def test_masks_of_what_an_arm_adds(tmp_path):
    """Copies have those of their images, held-back images their own, drawn ones and those without any none."""
    recipe = recipes.parse(RECIPE)
    prepared = data.prepare(recipe, tmp_path / "run")
    stage = next(stage for stage in plan(recipe, prepared) if stage.kind == "classifier")
    catalog = prepared.catalog.take(np.arange(12))
    catalog = catalog.with_columns(mask=catalog.table["mask"].where(np.arange(12) != 2, ""))
    train = catalog.take(np.arange(6))
    drawn = catalog.take([0, 1]).with_columns(origin="noise-0")

    def of(extra):
        return stage.lesion_masks(replace(prepared, catalog=catalog), train, extra)

    of_train, of_copies = of(train.take([3, 2, 3]))
    assert (of_train.shape, of_train.dtype) == ((6, SIZE, SIZE), np.uint8)
    assert np.array_equal(of_copies, of_train[[3, 2, 3]])
    assert (of_train[2] == masks.UNKNOWN).all()
    known = [0, 1, 3, 4, 5]
    assert np.array_equal(of_train[known], masks.read(catalog.take(known), SIZE, recipe.data.fit))
    assert (of(drawn)[1] == masks.UNKNOWN).all()
    expected = masks.read(catalog.take([7, 9]), SIZE, recipe.data.fit)[[0, 1, 0]]
    assert np.array_equal(of(catalog.take([7, 9, 7]))[1], expected)
    assert of(train.take([]))[1].shape == (0, SIZE, SIZE)


def test_an_empty_mask_is_unknown(tmp_path):
    catalog = data.read(recipes.parse(RECIPE)).take([0, 1])
    Image.new("L", (32, 32)).save(tmp_path / "empty.png")
    catalog = catalog.with_columns(mask=[str(tmp_path / "empty.png"), catalog.table["mask"][1]])
    kept = masks.build(catalog, SIZE, "squash")
    found = masks.read_known(kept, SIZE, [*catalog.images, "else"])
    assert [np.unique(mask).tolist() for mask in found] == [[masks.UNKNOWN], [0, 255], [masks.UNKNOWN]]


def test_other_masks_are_another_fit(tmp_path, monkeypatch):
    """In the same run folder nothing that learned from masks is taken for what learned from others."""
    recipe, read = recipes.parse(RECIPE), data.read

    def folders(given: recipes.Recipe) -> set[str]:
        prepared = data.prepare(given, tmp_path / "run")
        assert data.load(tmp_path / "run")[1].masks == prepared.masks
        return {stage.folder for stage in plan(given, prepared) if stage.kind == "classifier"}

    first, again = folders(recipe), folders(recipe)
    alone = recipes.parse(recipes.merge(RECIPE, {"classifier": {"options": {"mask_task": {"weight": 0}}}}))
    without = folders(alone)

    def fewer(given):
        catalog = read(given)
        return catalog.with_columns(mask=catalog.table["mask"].where(np.arange(len(catalog)) % 2 > 0, ""))

    monkeypatch.setattr(data, "read", fewer)
    assert first == again
    assert not first & folders(recipe)
    assert without == folders(alone), "what learns from no mask does not care"


@pytest.mark.slow
def test_a_study_learns_masks_beside_classes(tmp_path):
    small = Small(RECIPE, tmp_path / "run")
    folders = [small.run / stage.folder for stage in small.of_kind("classifier")]
    assert len(folders) == 2
    for folder in folders:
        assert runs.read_log(folder, "epoch")[0]["train_mask_loss"] > 0
        assert (folder / "test.parquet").exists()


def test_data_without_masks_are_refused_before_the_work(tmp_path, monkeypatch):
    recipe, read = recipes.parse(RECIPE), data.read
    monkeypatch.setattr(data, "read", lambda given: read(given).with_columns(mask=""))
    with pytest.raises(RecipeError, match="moulage masks predict"):
        data.prepare(recipe, tmp_path / "run")
