"""Views at prediction: what they are, and what a fine-tuned classifier makes of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from classifier_case import Case
from moulage.classifiers import _fitting, _views
from moulage.errors import RecipeError


def shown(**options: Any) -> list[tuple[torch.Tensor, int | None]]:
    """All views of one image whose pixels are all different."""
    image = torch.arange(3 * 20 * 20, dtype=torch.float32).view(1, 3, 20, 20) / 1200
    return list(_views.each(image, _views.Views(**options)))


@pytest.mark.parametrize("number", [1, 2, 4, 8])
def test_symmetries_are_different_and_as_many_as_asked(number: int):
    found, [(image, side)] = shown(symmetries=number), shown()
    assert side is None
    assert torch.equal(found[0][0], image)
    assert len(found) == number == _views.Views(symmetries=number).number  # pyright: ignore[reportArgumentType]
    assert len({view.numpy().tobytes() for view, _ in found}) == number
    assert all(torch.equal(view.sort().values.sum(), found[0][0].sort().values.sum()) for view, _ in found)


def test_crops_lie_on_a_grid_from_corner_to_corner():
    image = torch.zeros(1, 3, 20, 20)
    image[..., 0, 0], image[..., 19, 19] = 1, 1
    found = [view for view, _ in _views.each(image, _views.Views(crops=3, crop_share=0.5))]
    assert len(found) == 9
    assert all(view.shape == (1, 3, 20, 20) for view in found)
    assert [bool(view.max() > 0) for view in found] == [True, *[False] * 7, True]


def test_all_combinations_are_taken():
    found = shown(symmetries=2, crops=2, sizes=(16, 24))
    assert len(found) == 16 == _views.Views(symmetries=2, crops=2, sizes=(16, 24)).number
    assert [side for _, side in found] == [16, 24] * 8


def test_averages():
    logits = [torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 4.0]])]
    assert _views.averaged(logits, "logits").tolist() == [[1.0, 2.0]]
    mean = _views.averaged(logits, "probabilities").exp()
    assert mean.sum().item() == pytest.approx(1)
    assert mean[0, 0].item() == pytest.approx((np.exp(2) / (np.exp(2) + 1) + 1 / (1 + np.exp(4))) / 2)
    assert _views.averaged(logits[:1], "probabilities") is logits[0]


@pytest.mark.parametrize("sizes", [(16, 16), (8,), (2000,)])
def test_wrong_sizes_are_refused(sizes: tuple[int, ...]):
    with pytest.raises(ValueError, match="sizes"):
        _views.Views(sizes=sizes)


def fitted(folder: Path, **options: Any) -> tuple[Case, Any]:
    case = Case("finetune", epochs=1, **options)
    return case, case.fitted(folder)


@pytest.mark.slow
def test_predictions_are_the_mean_over_views_and_training_is_the_same(tmp_path: Path):
    case, plain = fitted(tmp_path / "plain")
    views = {"symmetries": 8, "crops": 2, "sizes": (32, 48)}
    _, seen = fitted(tmp_path / "views", views=views)
    for name, value in plain.network.state_dict().items():
        assert torch.equal(value, seen.network.state_dict()[name]), name
    inputs = case.validation.inputs
    turned = np.ascontiguousarray(np.rot90(inputs, 1, (1, 2)))
    assert np.abs(plain.predict(inputs) - plain.predict(turned)).max() > 1e-3
    assert seen.predict(inputs) == pytest.approx(seen.predict(turned), abs=1e-4)
    _, two = fitted(tmp_path / "two", views={"symmetries": 2, "average": "logits"})
    by_hand = (plain.predict(inputs) + plain.predict(np.ascontiguousarray(inputs[:, :, ::-1]))) / 2
    assert two.predict(inputs) == pytest.approx(by_hand, abs=1e-5)


@pytest.mark.slow
def test_a_temperature_is_fitted_on_the_validation_part_and_kept(tmp_path: Path):
    case, plain = fitted(tmp_path / "plain")
    _, calibrated = fitted(tmp_path / "calibrated", calibrate=True)
    inputs, labels = case.validation.inputs, case.validation.labels
    before, after = (_fitting.scores(c.predict(inputs), labels) for c in (plain, calibrated))
    assert calibrated.temperature != 1
    assert after["validation_loss"] < before["validation_loss"]
    assert after["validation_accuracy"] == before["validation_accuracy"]
    calibrated.save(tmp_path / "calibrated")
    again = case.module.Classifier.load(tmp_path / "calibrated")
    assert np.array_equal(again.predict(inputs), calibrated.predict(inputs))


def test_the_temperature_undoes_what_was_multiplied():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    logits = np.eye(3)[labels] + rng.normal(size=(300, 3))
    first = _fitting.temperature(logits, labels)
    assert _fitting.temperature(3 * logits, labels) == pytest.approx(3 * first, rel=1e-3)


def test_a_network_of_one_size_refuses_others():
    case = Case(
        "finetune",
        backbone={"name": "vit_tiny_patch16_224", "weights": "scratch", "input_size": 64},
        views={"sizes": (96,)},
    )
    with pytest.raises(RecipeError, match=r"views\.sizes"):
        case.new()._build(case.config.backbone)
