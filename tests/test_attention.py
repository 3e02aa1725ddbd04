"""Grad-CAM: the formula by hand, what the classifier really sees, and networks that it does not fit."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from moulage import backbones, randomness
from moulage.classifiers import _attention, _views, finetune, probe
from moulage.data.training_view import Examples, TrainingView
from moulage.errors import DataError, RecipeError, RunError

SIZE, NUM_CLASSES = 64, 3
LABELS = np.array([0, 1, 2, 0, 1])
SCRATCH = {"name": "test_resnet", "weights": "scratch"}


def images(number: int = 5) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (number, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def network() -> tuple[backbones.Features, nn.Linear]:
    with randomness.reproducible("test"):
        features = backbones.build(backbones.Backbone(**SCRATCH), SIZE).eval()
        return features, nn.Linear(features.num_features, NUM_CLASSES)


def grad_cam(
    network: tuple[backbones.Features, nn.Module], pixels: np.ndarray, views: Any = None, **options: Any
) -> Any:
    labels = options.pop("labels", LABELS[: len(pixels)])
    given = _attention.LookedAt(*network, views=_views.Views(**(views or {})))
    return _attention.grad_cam([given], pixels, labels, **options)[0]


def test_under_global_average_pooling_it_is_the_head_s_weights_over_the_feature_map(network):
    features, head = network
    with torch.no_grad():
        maps = features.network.forward_features(features.prepared(backbones.to_float(images())))
        by_hand = torch.einsum("nk,nkhw->nhw", head.weight[LABELS], maps)[:, None]
        by_hand = functional.interpolate(by_hand, (SIZE, SIZE), mode="bilinear")[:, 0].numpy()
    by_hand /= np.abs(by_hand).max((1, 2), keepdims=True)
    found, cells = _attention.grad_cam([_attention.LookedAt(features, head)], images(), LABELS)
    assert found.dtype == np.float32
    assert cells == maps.shape[-1] == 2
    np.testing.assert_allclose(found, by_hand, atol=1e-5)
    assert by_hand.min() < 0 < by_hand.max()


def test_with_all_symmetries_a_turned_image_has_the_turned_map(network):
    views = {"symmetries": 8}
    turned = np.ascontiguousarray(np.rot90(images(2), axes=(1, 2)))
    there = grad_cam(network, turned, views=views)
    np.testing.assert_allclose(there, np.rot90(grad_cam(network, images(2), views=views), axes=(1, 2)), atol=1e-4)
    alone = np.rot90(grad_cam(network, images(2)), axes=(1, 2))
    assert np.abs(grad_cam(network, turned) - alone).max() > 0.1


@pytest.mark.parametrize("options", [{"symmetries": 8}, {"crops": 3}, {"symmetries": 2, "crops": 2, "sizes": [32, 64]}])
def test_views_of_a_picture_are_put_back_where_they_were_cut_from(options: dict[str, Any]):
    views = _views.Views.model_validate(options)
    row, column = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    picture = ((row + 2 * column) / (3 * SIZE))[None, None].float()
    back = _attention._put_back([view for view, _ in _views.each(picture, views)], views)
    inner = (..., slice(6, -6), slice(6, -6))  # crops do not reach the rim as often
    assert (back - picture)[inner].abs().max() < 0.02


def test_shuffled_weights_give_other_maps_and_leave_the_network_as_it_was(network):
    before = {name: value.clone() for name, value in nn.ModuleList(network).state_dict().items()}
    own = grad_cam(network, images())
    shuffled = [grad_cam(network, images(), shuffled=part) for part in ("head", "network")]
    assert all(np.abs(own - other).max() > 0.1 for other in shuffled)
    assert np.abs(shuffled[0] - grad_cam(network, images(), shuffled="head", draw=1)).max() > 0.1
    np.testing.assert_array_equal(shuffled[1], grad_cam(network, images(), shuffled="network"))
    after = nn.ModuleList(network).state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    np.testing.assert_array_equal(own, grad_cam(network, images()))


def test_a_head_that_reads_nothing_has_an_empty_map(network):
    head = nn.Linear(network[0].num_features, NUM_CLASSES)
    nn.init.zeros_(head.weight)
    assert not grad_cam((network[0], head), images()).any()


def test_a_transformer_is_refused_in_words():
    features = backbones.build(backbones.Backbone(name="test_vit", weights="scratch"), SIZE)
    with pytest.raises(RecipeError, match="no last feature map") as caught:
        grad_cam((features, nn.Linear(features.num_features, NUM_CLASSES)), images())
    assert "convolutional" in caught.value.hint


def test_a_missing_captum_is_an_error_with_the_command(network, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_attention, "find_spec", lambda name: None)
    with pytest.raises(RunError, match="captum") as caught:
        grad_cam(network, images())
    assert "pip install 'moulage[explain]'" in caught.value.hint


def test_maps_of_several_networks_are_summed_by_what_they_give_the_logit():
    """Under average pooling the sum of a network's map is its part of the logit; the map of all is the sum of both."""
    networks = [{**SCRATCH, "layers": [1]}, {**SCRATCH, "input_size": 2 * SIZE}]
    config = probe.Config.model_validate({"size": SIZE, "backbones": networks})
    pixels, labels = images(8), np.arange(8) % NUM_CLASSES
    inputs = probe.embed(config, pixels)
    classifier = probe.Classifier(config, ("a", "b", "c"))
    with randomness.reproducible("head"):
        classifier.network = nn.Linear(inputs.shape[1], NUM_CLASSES)
    total, first = np.zeros((8, SIZE, SIZE)), 0
    for network in classifier._looked_at(pixels, None):
        with torch.no_grad():
            maps = network.backbone.network.forward_features(network.backbone.prepared(backbones.to_float(pixels)))
            weight = classifier.network.weight[labels, network.first : network.first + maps.shape[1]]
            part = torch.einsum("nk,nkhw->nhw", weight, maps)[:, None]
            total += functional.interpolate(part, (SIZE, SIZE), mode="bilinear")[:, 0].numpy()
        assert network.first == first
        first += probe.embed(probe.embed_parts(config)[0], pixels).shape[1]
    found, cells = classifier.attention(pixels, labels)
    total /= np.abs(total).max((1, 2), keepdims=True)
    np.testing.assert_allclose(found, total, rtol=1e-3, atol=1e-4)
    assert cells == maps.shape[-1], "those of the finest map"
    only = _attention.grad_cam(classifier._looked_at(pixels, None)[:1], pixels, labels)[0]
    assert np.abs(only - found).max() > 0.1


def test_wrong_inputs_are_refused(network):
    for label in (NUM_CLASSES, -1):
        with pytest.raises(DataError, match="none of the network's classes"):
            grad_cam(network, images(1), labels=np.array([label]))
    with pytest.raises(DataError, match="pixels uint8"):
        grad_cam(network, images(1).astype(np.float32))
    with pytest.raises(RecipeError, match="tail"):
        grad_cam(network, images(1), shuffled="tail")


@pytest.mark.parametrize("with_metadata", [False, True])
@pytest.mark.parametrize(
    ("module", "options"),
    [
        (probe, {"backbone": {**SCRATCH, "input_size": 96}}),
        (
            finetune,
            {
                "backbone": {**SCRATCH, "mean": [0.2, 0.3, 0.4], "std": [0.1, 0.2, 0.3]},
                "batch_size": 8,
                "epochs": 1,
                "precision": "fp32",
                "views": {},
            },
        ),
    ],
)
def test_the_map_is_of_the_network_that_predicts(
    module: ModuleType, options: dict[str, Any], with_metadata: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """What Grad-CAM differentiates gives the classifier's own logits, normalised, resized, and beside metadata."""
    config = module.Config.model_validate({"size": SIZE, **options})
    pixels, labels = images(12), np.arange(12) % NUM_CLASSES
    inputs = module.embed(config, pixels) if hasattr(module, "embed") else pixels
    metadata = np.random.default_rng(1).normal(size=(12, 4)).astype(np.float32) if with_metadata else None
    known = Examples(inputs, labels, metadata)
    classifier = module.Classifier(config, ("a", "b", "c"))
    classifier.fit(TrainingView(known, None, 0), known, seed=0, folder=tmp_path)
    classifier.save(tmp_path)
    classifier = module.Classifier.load(tmp_path)
    seen = []
    watched = _attention._of_view

    def watch(tail: Any, view: torch.Tensor, side: int | None, wanted: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            seen.append(tail(tail.maps(view, side)).numpy())
        return watched(tail, view, side, wanted)

    monkeypatch.setattr(_attention, "_of_view", watch)
    maps, cells = classifier.attention(pixels, labels, metadata)
    np.testing.assert_allclose(np.concatenate(seen), classifier.predict(inputs, metadata), rtol=1e-3, atol=1e-4)
    assert maps.shape == (12, SIZE, SIZE)
    assert cells in (2, 3)
    with pytest.raises(RunError, match="not trained"):
        module.Classifier(config, ("a", "b", "c")).attention(pixels, labels)
