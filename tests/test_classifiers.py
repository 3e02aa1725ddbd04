"""A contract that every classifier keeps, and what is particular to each."""

import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss

from classifier_case import CLASSES, DESCENT, OPTIONS, SIZE, TINY, Case, pictures
from moulage import backbones, epochs, plugins, runs
from moulage.classifiers import _fitting, _frozen, _optimum, _views, finetune, probe
from moulage.data.training_view import Examples, TrainingView
from moulage.epochs import State
from moulage.errors import CheckpointError, DataError, DivergedError, RecipeError, RunError
from moulage.treatment import PLAIN, Treatment

READS_METADATA = ("finetune", "metadata", "probe")


IN_EPOCHS = ["finetune", "finetune with metadata", "probe by descent", "probe by descent with metadata"]
AT_ONCE = ["probe", "probe with metadata", "metadata with metadata"]


def case_of(words: str, **options) -> Case:
    descent = {"descent": {**DESCENT, **options}} if "descent" in words else options
    return Case(words.partition(" ")[0], metadata="with" in words, **descent)


def in_epochs(case: Case):
    """The options of its training in epochs."""
    return case.config if case.module is finetune else case.config.descent


@pytest.fixture(scope="module", params=["probe", *IN_EPOCHS, *AT_ONCE[1:]])
def case(request) -> Case:
    return case_of(request.param)


@pytest.fixture(scope="module")
def fit(case, tmp_path_factory):
    """One fit for all tests that only look at it: classifier and folder."""
    folder = tmp_path_factory.mktemp("fit")
    return case.fitted(folder), folder


@pytest.fixture(scope="module", params=IN_EPOCHS)
def in_steps(request) -> Case:
    return case_of(request.param)


# The contract


def test_every_classifier_is_tested():
    assert set(plugins.names("classifiers")) == set(OPTIONS)
    reads = [name for name in OPTIONS if getattr(plugins.load("classifiers", name), "METADATA", "")]
    assert sorted(reads) == list(READS_METADATA)


def test_it_learns_and_predicts_logits(case, fit):
    logits = case.predict(fit[0])
    assert logits.dtype == np.float32
    assert logits.shape == (25, 3)
    assert balanced_accuracy_score(case.validation.labels, logits.argmax(1)) > 0.8


def test_features_are_what_the_head_is_given(case, fit):
    classifier, given = fit[0], (case.validation.inputs, case.validation.metadata)
    features = torch.from_numpy(classifier.features(*given))
    assert features.dtype == torch.float32
    with torch.inference_mode():
        if case.module is finetune:
            logits = classifier.network.head(features)
        else:
            logits = features @ classifier.network.weight.T + classifier.network.bias
    assert logits.numpy() == pytest.approx(case.predict(classifier), abs=1e-4)


def test_it_keeps_the_epoch_that_validated_best(in_steps, tmp_path):
    case = case_of("finetune" if in_steps.module is finetune else "probe by descent", choose="balanced_accuracy")
    classifier, folder = case.fitted(tmp_path), tmp_path
    records = runs.read_log(folder, "epoch")
    assert [r["epoch"] for r in records] == list(range(1, in_epochs(in_steps).epochs + 1))
    best = max(r["validation_balanced_accuracy"] for r in records)
    found = _fitting.scores(case.predict(classifier), case.validation.labels)
    assert found["validation_balanced_accuracy"] == best
    assert set(records[0]) == {"epoch", "train_loss", "train_accuracy", "num_images", "seconds", *found}


def test_a_fit_depends_on_its_seed_alone(case, fit, tmp_path):
    """At the optimum not even on that."""
    torch.manual_seed(99)  # what else draws from PyTorch's own generator must not matter
    before = torch.get_rng_state()
    again, other = case.fitted(tmp_path / "again"), case.fitted(tmp_path / "other", seed=1)
    assert (case.predict(again) == case.predict(fit[0])).all()
    in_steps = case.module is finetune or case.config.descent
    assert (case.predict(other) != case.predict(fit[0])).any() == bool(in_steps)
    assert (torch.get_rng_state() == before).all()


def test_interrupted_and_resumed_equals_uninterrupted(in_steps, tmp_path):
    whole, calls = in_steps.fitted(tmp_path / "whole"), []

    def stop(done, total, note):
        calls.append(done)
        if done > 0.6 * total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_steps.fitted(tmp_path / "broken", progress=stop)
    resumed = in_steps.fitted(tmp_path / "broken", progress=lambda done, total, note: calls.append(done))
    assert calls[-1] >= in_epochs(in_steps).epochs
    assert (in_steps.predict(resumed) == in_steps.predict(whole)).all()
    for mine, theirs in zip(
        *(runs.read_log(folder, "epoch") for folder in (tmp_path / "broken", tmp_path / "whole")), strict=True
    ):
        assert mine == theirs | {"seconds": mine["seconds"]}


def test_save_and_load_round_trip(case, fit, tmp_path):
    fit[0].save(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "weights.safetensors"]
    loaded = case.module.Classifier.load(tmp_path)
    assert loaded.classes == CLASSES
    assert loaded.config == case.config
    assert (case.predict(loaded) == case.predict(fit[0])).all()
    with pytest.raises(RunError, match=r"config\.json is missing"):
        case.module.Classifier.load(tmp_path / "nowhere")


def test_arms_without_extra_images_start_alike(case, tmp_path):
    """With slots that both arms leave empty, an arm is the same as the arm ``none``."""
    none = case.fitted(tmp_path / "a", view=TrainingView(case.train, None, 12))
    empty = Examples(case.extra.inputs[:0], case.extra.labels[:0])
    same = case.fitted(tmp_path / "b", view=TrainingView(case.train, empty, 12))
    assert (case.predict(none) == case.predict(same)).all()


def test_what_does_not_fit_is_refused(case, fit, tmp_path):
    known = case.validation

    def refused(words, validation=known, classes=CLASSES):
        with pytest.raises(DataError, match=words):
            case.new(classes).fit(case.view, validation, seed=0, folder=tmp_path)

    refused("No image of DF is among the training images", classes=(*CLASSES, "DF"))
    refused("no validation image", Examples(known.inputs[:0], known.labels[:0]))
    refused("validation image has the label 3", Examples(known.inputs, known.labels + 1))
    metadata = None if known.metadata is None else known.metadata[:2]
    for inputs in (np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 7), np.float32)):
        refused(None, Examples(inputs, np.zeros(2), metadata))
        with pytest.raises(DataError):
            fit[0].predict(inputs, metadata)


def test_an_unfitted_classifier_says_so(case, tmp_path):
    for call in (case.new().predict, case.new().features):
        with pytest.raises(RunError, match="not trained"):
            call(case.validation.inputs)
    with pytest.raises(RunError, match="nothing to save"):
        case.new().save(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_fit(in_steps, tmp_path):
    rate = {"head_learning_rate": 1e38} if in_steps.module is finetune else {"learning_rate": 1e38, "optimizer": "sgd"}
    with pytest.raises(DivergedError, match="diverged at step"):
        case_of("finetune" if in_steps.module is finetune else "probe by descent", **rate).fitted(tmp_path)


def test_steps_and_seconds(case):
    steps, seconds = case.new().steps_and_seconds(100)
    assert steps > 0
    assert 0 < steps * seconds < 60


def test_steps_are_those_of_the_epochs(in_steps):
    assert in_steps.new().steps_and_seconds(100)[0] == in_epochs(in_steps).epochs * -(
        -100 // in_epochs(in_steps).batch_size
    )


def test_a_class_that_the_mixed_epoch_does_not_draw_has_a_finite_logit(tmp_path):
    inputs = np.random.default_rng(0).normal(0, 1, (203, 5)).astype(np.float32)
    examples = Examples(inputs, np.repeat([0, 1], [200, 3]))
    treatment = Treatment(mix=lambda inputs, targets: (inputs, targets), class_weights=(1.0, 1e-3), key="rare")
    classifier = probe.Classifier(probe.Config(), ("a", "b"))
    classifier.fit(TrainingView(examples, None, 0), examples, seed=0, folder=tmp_path, treatment=treatment)
    assert np.isfinite(classifier.predict(inputs)).all()


def test_a_step_takes_as_long_in_short_epochs(monkeypatch: pytest.MonkeyPatch):
    """On a clock that counts the steps."""
    done, step = [0], State.step

    def counted(state: State[Any], number: int) -> None:
        done[0] += 1
        step(state, number)

    monkeypatch.setattr(State, "step", counted)
    monkeypatch.setattr("moulage.devices.spent", lambda device: float(done[0]))
    for steps_per_epoch in (None, 2):
        assert case_of("probe by descent", steps_per_epoch=steps_per_epoch).new().steps_and_seconds(100)[1] == 1


def test_a_prefix_of_the_epoch_is_enough(in_steps, tmp_path):
    short = case_of("finetune" if in_steps.module is finetune else "probe by descent", steps_per_epoch=2, epochs=1)
    assert short.new().steps_and_seconds(100)[0] == 2
    short.fitted(tmp_path)
    assert len(runs.read_log(tmp_path, "epoch")) == 1


def test_it_predicts_nothing_and_what_is_memory_mapped(case, fit, tmp_path):
    inputs, metadata = case.validation.inputs, case.validation.metadata
    assert fit[0].predict(inputs[:0], None if metadata is None else metadata[:0]).shape == (0, 3)
    np.save(tmp_path / "inputs.npy", inputs)
    mapped = np.load(tmp_path / "inputs.npy", mmap_mode="r")
    assert (fit[0].predict(mapped, metadata) == case.predict(fit[0])).all()


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


# The probe

SECOND = {"name": "test_resnet", "weights": "scratch", "input_size": 48}


def configured(**options):
    return probe.Config.model_validate({"size": SIZE, **options})


def test_each_image_is_forwarded_exactly_once(monkeypatch):
    seen, built = [], []
    build = backbones.build

    def counted(options, size):
        features = build(options, size)
        features.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0].mean((1, 2, 3)).tolist()))
        built.append(features)
        return features

    monkeypatch.setattr(backbones, "build", counted)
    config = configured(backbone=TINY)
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
    config = configured(backbone=TINY)
    pixels = pictures((20, 20, 10), 0)[0]
    together = probe.embed(config, pixels)
    assert np.allclose(together[45:], probe.embed(config, pixels[45:]), atol=1e-5)
    assert (together == probe.embed(config, pixels)).all()
    assert probe.embed(config, pixels[:0]).shape == (0, 256)
    with pytest.raises(DataError, match="option size"):
        probe.embed(config, pixels[:, :16, :16])


def test_features_of_several_networks_stand_side_by_side():
    pixels = pictures((5, 4, 3), 0)[0]
    config = configured(backbones=[{**TINY, "layers": [0, 2]}, {**SECOND, "symmetries": 2}])
    calls = []
    together = probe.embed(config, pixels, progress=lambda done, total, note: calls.append((done, total)))
    parts = probe.embed_parts(config)
    assert [part.networks for part in parts] == [(network,) for network in config.networks]
    assert (together == np.concatenate([probe.embed(part, pixels) for part in parts], axis=1)).all()
    assert together.shape == (12, probe.Classifier(config, ("a", "b"))._num_features())
    assert calls == [(12, 24), (24, 24)], "each image passes each network once"
    one, both = (probe.embed_seconds(given, 10**4) for given in (parts[0], config))
    assert both > one / 2 > 0


def test_layers_are_means_of_maps_beside_the_last_features():
    pixels = pictures((4, 3), 0)[0]
    plain, layered = (probe.embed(configured(backbone={**TINY, **more}), pixels) for more in ({}, {"layers": [1, 3]}))
    network = _frozen.build(_frozen.Options.model_validate(TINY), SIZE).features
    maps = []
    for number in (1, 3):
        name = network.network.feature_info[number]["module"]
        network.network.get_submodule(name).register_forward_hook(lambda _module, _given, found: maps.append(found))
    with torch.inference_mode():
        network(backbones.to_float(pixels))
    expected = np.concatenate([plain, *(each.mean((2, 3)).numpy() for each in maps)], axis=1)
    np.testing.assert_allclose(layered, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("number", [2, 4, 8])
def test_features_of_symmetries_are_means(number):
    pixels = pictures((3, 2), 0)[0]
    found = probe.embed(configured(backbone={**TINY, "symmetries": number}), pixels)
    turned = [np.rot90(pixels, turns, (1, 2)) for turns in range({2: 1, 4: 4, 8: 4}[number])]
    views = turned + ([np.flip(view, 2) for view in turned] if number != 4 else [])
    expected = np.mean([probe.embed(configured(backbone=TINY), np.ascontiguousarray(view)) for view in views], axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    mirrored = probe.embed(configured(backbone={**TINY, "symmetries": number}), np.ascontiguousarray(turned[-1]))
    np.testing.assert_allclose(found, mirrored, rtol=1e-4, atol=1e-5, err_msg="a turned image has the same features")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backbone": TINY, "backbones": [SECOND]}, "both given"),
        ({"backbones": [{"nam": "x"}]}, r'backbones.0.nam: unknown key "nam"'),
        ({"backbones": [{**TINY, "layers": [2, 1]}]}, "in rising order"),
        ({"backbones": [{**TINY, "layers": [-1]}]}, "from 0 on"),
        ({"backbones": [{**TINY, "symmetries": 3}]}, "1, 2, 4 or 8"),
    ],
)
def test_wrong_lists_of_networks_are_explained(options, words):
    with pytest.raises(RecipeError, match=words):
        plugins.configure("classifiers", "probe", options)


def test_the_same_network_twice_is_refused(tmp_path):
    save_file(
        _frozen.build(_frozen.Options.model_validate(TINY), SIZE).features.network.state_dict(),
        tmp_path / "w.safetensors",
    )
    for again in (TINY, {**TINY, "weights": str(tmp_path / "w.safetensors")}):
        with pytest.raises(RecipeError, match="a network twice"):
            probe.embed_key(configured(backbones=[TINY, again]))


def test_a_stage_that_a_network_does_not_have_is_explained():
    with pytest.raises(RecipeError, match=r"test_efficientnet has no stages \[0, 9\]"):
        probe.embed_key(configured(backbone={**TINY, "layers": [0, 9]}))


def test_the_time_for_embeddings_is_estimated():
    config = configured(backbone=TINY)
    assert 0 < probe.embed_seconds(config, 100) < 60


def test_the_key_names_what_the_features_depend_on():
    def key(**options):
        return probe.embed_key(configured(**{"backbone": TINY, **options}))

    assert key() == key(penalty=3, standardize=False)
    keys = {
        key(),
        key(size=64),
        key(backbone={**TINY, "input_size": 64}),
        key(backbone={**TINY, "mean": (0, 0, 0)}),
        key(backbone=SECOND),
        key(backbone={**TINY, "layers": (1,)}),
        key(backbone={**TINY, "symmetries": 2}),
        key(backbone=probe.DEFAULT.model_dump(), backbones=[TINY, SECOND]),
        key(backbone=probe.DEFAULT.model_dump(), backbones=[SECOND, TINY]),
    }
    assert len(keys) == 9
    assert key() == key(backbone=probe.DEFAULT.model_dump(), backbones=[TINY]), "one network, however it is asked for"


def overlapping(number: int = 400, seed: int = 0) -> Examples:
    """Three classes that overlap, so that the optimum is finite without a penalty; features of unlike scales."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, number, p=[0.7, 0.2, 0.1])
    inputs = rng.normal(0, 1, (number, 4)) + np.eye(3, 4)[labels] * [1.0, 0.8, 0.5, 0]
    return Examples(np.float32(inputs * [1, 20, 3, 1] + [0, 5, 7, 0]), labels)


def at_optimum(folder, view: TrainingView, seed: int = 0, validation: Examples | None = None, **options):
    """A probe of three classes, with its treatment and options."""
    treatment = options.pop("treatment", PLAIN)
    classifier = probe.Classifier(probe.Config(**options), CLASSES)
    given = validation or overlapping(200, 1)
    classifier.fit(view, given, seed=seed, folder=folder, treatment=treatment)
    return classifier


def judged(data: Examples, penalty: float, view: TrainingView | None = None, **options) -> LogisticRegression:
    """Scikit-learn's optimum of the same loss, of standardised features; C counts images, the penalty their mean."""
    mean, std = data.inputs.mean(0), data.inputs.std(0)
    given = view or TrainingView(data, None, 0)
    inputs = np.concatenate([given.real.inputs, *([given.extra.inputs] if given.extra else [])])
    found = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=5000, **options)
    return found.fit((inputs - mean) / std, given.labels, sample_weight=given.shares())


def centred(logits: np.ndarray) -> np.ndarray:
    return logits - logits.mean(1, keepdims=True)


@pytest.mark.parametrize("penalty", [0.001, 0.03, 1.0])
def test_the_probe_is_at_the_optimum_of_penalised_softmax_regression(penalty, tmp_path):
    """Judge: scikit-learn on the same standardised features."""
    data = overlapping()
    logits = at_optimum(tmp_path, TrainingView(data, None, 0), penalty=penalty).predict(data.inputs)
    judge = judged(data, penalty)
    expected = judge.decision_function((data.inputs - data.inputs.mean(0)) / data.inputs.std(0))
    np.testing.assert_allclose(centred(logits), centred(expected), atol=0.01)


def test_extra_images_and_empty_slots_weigh_what_they_are_seen(tmp_path):
    """Judge: scikit-learn with the mean share of an epoch as weight of each image."""
    data, extra = overlapping(), overlapping(60, 2)
    view = TrainingView(data, extra, 150)
    logits = at_optimum(tmp_path, view, penalty=0.01).predict(data.inputs)
    standardised = (data.inputs - data.inputs.mean(0)) / data.inputs.std(0)
    expected = judged(data, 0.01, view).decision_function(standardised)
    np.testing.assert_allclose(centred(logits), centred(expected), atol=0.01)
    alone = judged(data, 0.01).decision_function(standardised)
    assert np.abs(centred(logits) - centred(alone)).max() > 0.05, "the extra images matter"


def test_the_penalty_is_the_one_that_validates_best(tmp_path):
    """Over a fine grid no penalty has a clearly smaller validation loss, and the tried ones are kept."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (600, 60)).astype(np.float32)
    parts = [overlapping(150, 0), overlapping(300, 1)]
    train, validation = (
        Examples(np.concatenate([part.inputs, noise[start : start + len(part)]], 1), part.labels)
        for part, start in zip(parts, (0, 200), strict=True)
    )
    found = at_optimum(tmp_path, TrainingView(train, None, 0), validation=validation)

    def validated(classifier) -> float:
        return _fitting.scores(classifier.predict(validation.inputs), validation.labels)["validation_loss"]

    grid = {
        value: validated(at_optimum(tmp_path, TrainingView(train, None, 0), validation=validation, penalty=value))
        for value in np.geomspace(0.01, 10, 13)
    }
    assert validated(found) < min(grid.values()) + 0.003
    assert max(grid.values()) > min(grid.values()) + 0.1, "the penalty matters here"
    tried = dict(found.facts["tried"])
    assert min(tried) < found.facts["penalty"] < max(tried)
    assert found.facts["gradient"] <= _optimum.FINE
    found.save(tmp_path)
    assert probe.Classifier.load(tmp_path).facts == found.facts


def test_a_penalty_without_a_best_value_is_bounded(tmp_path):
    """Classes that are told apart without error: the weaker the penalty the better, and the search ends."""
    case = Case("probe")
    known = case.fitted(tmp_path, view=TrainingView(case.train, None, 0))
    assert np.isfinite(case.predict(known)).all()
    assert len(known.facts["tried"]) <= _optimum.MOST_STEPS + 2


def test_fits_of_two_seeds_are_one_fit_unless_pairs_are_drawn(tmp_path):
    data = overlapping()
    mixup = plugins.load("balance", "mixup")
    for treatment, alike in ((PLAIN, True), (mixup.treat(mixup.Config(), np.ones(3)), False)):
        logits = [
            at_optimum(tmp_path, TrainingView(data, None, 20), seed, penalty=0.1, treatment=treatment).predict(
                data.inputs
            )
            for seed in (0, 1, 0)
        ]
        assert (logits[0] == logits[2]).all()
        assert (logits[0] == logits[1]).all() == alike
        assert np.abs(logits[0] - logits[1]).max() < 0.5, "other pairs of the same images"


def test_the_probe_learns_how_rare_a_class_is(tmp_path):
    """At the optimum the mean predicted probability of a class is its share, also where features tell nothing."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 2], [780, 200, 20]))
    data = Examples(rng.normal(0, 1, (1000, 100)).astype(np.float32), labels)
    classifier = at_optimum(tmp_path, TrainingView(data, None, 0), validation=data, penalty=0.01)
    probabilities = torch.from_numpy(classifier.predict(data.inputs)).softmax(1).mean(0)
    assert probabilities.numpy() == pytest.approx([0.78, 0.2, 0.02], abs=1e-3)


def test_descent_comes_near_the_optimum(tmp_path):
    data = overlapping()
    steps = {"epochs": 60, "batch_size": 50, "learning_rate": 0.01, "weight_decay": 0, "choose": "loss"}
    found = at_optimum(tmp_path / "a", TrainingView(data, None, 0), validation=data, descent=steps)
    best = at_optimum(tmp_path / "b", TrainingView(data, None, 0), validation=data, penalty=1e-6)
    losses = [_fitting.scores(each.predict(data.inputs), data.labels)["validation_loss"] for each in (found, best)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)


def test_a_penalty_beside_descent_is_refused():
    with pytest.raises(RecipeError, match="weight_decay of its own"):
        plugins.configure("classifiers", "probe", {"penalty": 1.0, "descent": {}})


def test_features_are_standardised_by_the_real_images_alone(tmp_path):
    case = Case("probe")
    far = Examples(case.extra.inputs + 100, case.extra.labels)
    heads = [
        case.fitted(tmp_path / str(i), view=TrainingView(case.train, e, 8)).network for i, e in enumerate((None, far))
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
    assert classifier.network.std[::2].eq(1).all()
    assert np.abs(classifier.predict(validation)).max() < 100


# Fine-tuning


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


@pytest.mark.parametrize(("sizes", "words"), [((8, 32), "16 to 1024"), ((16, 20, 24, 32), "as many epochs")])
def test_progressive_sizes_that_cannot_be_are_refused(sizes, words):
    with pytest.raises(RecipeError, match=words):
        Case("finetune", progressive=sizes)


def test_checkpoints_of_other_settings_are_refused(tmp_path):
    case = Case("finetune", metadata=True, epochs=1)
    case.fitted(tmp_path)
    focal, real = plugins.load("balance", "focal"), case.train
    others = Examples(real.inputs, real.labels, real.metadata + 1)
    for change in (
        {"seed": 1},
        {"treatment": focal.treat(focal.Config(), np.array([3, 2, 1]))},
        {"view": TrainingView(others, case.extra, 12)},
        {"view": TrainingView(real, case.extra, 13)},
    ):
        with pytest.raises(CheckpointError, match="other settings"):
            case.fitted(tmp_path, **change)
    with pytest.raises(CheckpointError, match="other settings"):
        Case("finetune", metadata=True, epochs=2).fitted(tmp_path)


def test_two_learning_rates_and_no_decay_of_vectors():
    network = finetune.Network(backbones.build(backbones.Backbone(**TINY), SIZE), 3)
    groups = network.groups(0.1, 0.2, 0.3)
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(0.1, 0.3), (0.1, 0), (0.2, 0.3), (0.2, 0)]
    assert sum(len(g["params"]) for g in groups) == len(list(network.parameters()))
    assert all(p.ndim <= 1 for g in groups[1::2] for p in g["params"])
    head = network.groups(None, 0.2, 0.3)
    assert [(g["lr"], g["weight_decay"]) for g in head] == [(0.2, 0.3), (0.2, 0)]
    assert [p for g in head for p in g["params"]] == [network.head.weight, network.head.bias]


def test_a_frozen_backbone_stays_as_it_was(tmp_path):
    case = Case("finetune", backbone_learning_rate=0, weight_decay=0.5, ema_decay=0, epochs=1)
    weights = case.fitted(tmp_path).network.backbone.network.conv_stem.weight
    with finetune.randomness.reproducible("finetune", 0):
        initial = case.new()._build(case.config.backbone).backbone.network.conv_stem.weight
    assert torch.equal(weights, initial)


def averages(classifier: Any) -> torch.Tensor:
    """Of all batch normalisations of the backbone: means and variances, [n]."""
    buffers = classifier.network.backbone.network.named_buffers()
    return torch.cat([value.flatten() for name, value in buffers if "running" in name])


def test_batch_normalisation_keeps_the_averages_of_pretrained_weights(tmp_path):
    kept, taken = (Case("finetune", batch_norm=how, epochs=1, ema_decay=0) for how in ("frozen", "auto"))
    assert finetune.Config().freezes_batch_norm
    assert not taken.config.freezes_batch_norm  # of random weights
    classifier = kept.fitted(tmp_path / "kept")
    with finetune.randomness.reproducible("finetune", 0):
        initial = kept.new()
        initial.network = initial._build(kept.config.backbone)
    assert torch.equal(averages(classifier), averages(initial))
    assert not torch.equal(averages(taken.fitted(tmp_path / "taken")), averages(initial))
    norm = classifier.network.backbone.network.bn2
    assert (norm.weight != 1).any(), "what it scales by is learned all the same"


@pytest.mark.parametrize("most", [0.0, 1e-2])
def test_long_gradients_are_shortened(most, tmp_path, monkeypatch):
    lengths, step = [], State.step

    def measured(self, number):
        gradients = [p.grad for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        lengths.append(float(torch.cat([g.flatten() for g in gradients]).norm()))
        step(self, number)

    monkeypatch.setattr(State, "step", measured)
    Case("finetune", clip_norm=most, epochs=1).fitted(tmp_path)
    if most:
        assert lengths == pytest.approx([most] * len(lengths), rel=1e-3)
    else:
        assert min(lengths) > 0.1


@pytest.mark.parametrize(
    ("augment", "symmetries"),
    [
        ({}, 4),
        ({"rotation": "any", "flip": False}, 4),
        ({"rotation": "none"}, 2),
        ({"rotation": "none", "flip": False}, 1),
    ],
)
def test_views_are_those_that_the_augmentation_shows(augment, symmetries):
    config = finetune.Config.model_validate({"augment": augment})
    assert config.predicted_views == _views.Views(symmetries=symmetries)
    asked = {"augment": augment, "views": {"crops": 3}}
    assert finetune.Config.model_validate(asked).predicted_views == _views.Views(crops=3)


@pytest.mark.parametrize(
    ("accumulate", "options"),
    [
        (3, {"backbone": {"name": "test_vit", "weights": "scratch"}}),  # no batch norm
        (4, {"batch_norm": "frozen"}),
    ],
)
def test_a_batch_in_parts_gives_the_same_step(accumulate, options, tmp_path):
    options = {**options, "optimizer": "sgd", "epochs": 1}
    whole, parts = (Case("finetune", **options, accumulate=number) for number in (1, accumulate))
    logits = [case.fitted(tmp_path / str(n)).predict(case.validation.inputs) for n, case in enumerate((whole, parts))]
    np.testing.assert_allclose(*logits, rtol=1e-3, atol=1e-4)
    for key, value in runs.read_log(tmp_path / "0", "epoch")[0].items():
        if key.startswith("train"):
            assert runs.read_log(tmp_path / "1", "epoch")[0][key] == pytest.approx(value, rel=1e-4)


def test_a_part_of_one_image_is_refused():
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
    shares = [epochs.rise_then_fall(step, 4, 24) for step in range(24)]
    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert shares[14] == pytest.approx(0.5)
    assert all(a > b > 0 for a, b in itertools.pairwise(shares[4:]))
    assert epochs.rise_then_fall(0, 0, 10) == 1
    assert all(0 < epochs.rise_then_fall(step, 10, 10) < 1 for step in range(10)), "warm-up alone"


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
