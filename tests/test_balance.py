"""Arms: catalog in, extra rows out, and how both classifiers train under every treatment."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from classifier_case import Case
from moulage import plugins, runs
from moulage.data.catalog import Catalog, concatenate
from moulage.data.training_view import Examples, TrainingView
from moulage.errors import DataError, LeakError, RecipeError
from moulage.stages.classifier import check_extra
from moulage.treatment import PLAIN, Treatment

CLASSES = ("AK", "DF", "NV")


def catalog(labels, prefix, **columns):
    names = [f"{prefix}{i}" for i in range(len(labels))]
    table = pd.DataFrame({"image": names, "label": labels, "location": names, "seed": range(len(labels)), **columns})
    return Catalog.build(table, CLASSES, prefix)


TRAIN = catalog(["AK"] * 4 + ["DF"] * 2 + ["NV"] * 30, "t")
HELD_BACK = catalog(["AK"] * 3 + ["DF"] * 2, "r")
DRAWN = catalog(["AK"] * 8, "s", origin="dcgan-0-abc", split_digest="d")


def extend(name, add, samples=None, seed=0):
    module = plugins.load("balance", name)
    return module.extend(module.Config(), TRAIN, samples, add, np.random.default_rng(seed))


NAMES = plugins.names("balance")
ROLES = {
    "none": "reference",
    "duplicates": "reference",
    "permuted": "null",
    "oracle": "positive",
    "synthesize": "synthetic",
}
EXTENDING = [name for name in NAMES if hasattr(plugins.load("balance", name), "extend")]
SOURCES = {"synthesize": DRAWN, "oracle": HELD_BACK}


@pytest.mark.parametrize("name", EXTENDING)
def test_contract_of_what_adds(name):
    samples = SOURCES.get(name)
    number = 3 if name == "oracle" else 7  # of which no more than are held back
    one, two = (extend(name, {"AK": number}, samples) for _ in range(2))
    assert one.classes == CLASSES
    assert one.images.tolist() == two.images.tolist()
    assert one.counts == {"AK": 0 if name == "none" else number, "DF": 0, "NV": 0}
    assert len(extend(name, {}, samples)) == len(extend(name, {"AK": 0}, samples)) == 0


@pytest.mark.parametrize("name", NAMES)
def test_contract_of_every_plug_in(name):
    module = plugins.load("balance", name)
    assert ROLES.get(name, "rival") == module.ROLE
    assert hasattr(module, "extend") != (module.ROLE == "rival"), "rivals add nothing, everything else does"
    assert hasattr(module, "treat") == (module.ROLE == "rival" and not hasattr(module, "strength"))


def test_duplicates_are_even_real_and_seeded():
    found = extend("duplicates", {"AK": 7, "NV": 2})
    assert found.counts == {"AK": 7, "DF": 0, "NV": 2}
    times = pd.Series(found.only(label="AK").images).value_counts()
    assert set(times) == {1, 2}
    assert set(found.images) <= set(TRAIN.images)
    assert extend("duplicates", {"NV": 5}, seed=1).images.tolist() != extend("duplicates", {"NV": 5}).images.tolist()


def test_duplicates_of_an_absent_class():
    module = plugins.load("balance", "duplicates")
    with pytest.raises(DataError, match='"AK" has no training image'):
        module.extend(module.Config(), TRAIN.only(label="NV"), None, {"AK": 1}, np.random.default_rng(0))


def test_synthesize_takes_the_first_seeds():
    shuffled = DRAWN.take([5, 3, 0, 1, 2, 4, 6, 7])
    assert extend("synthesize", {"AK": 3}, shuffled).images.tolist() == ["s0", "s1", "s2"]


def test_synthesize_refuses_too_few_none_and_real():
    with pytest.raises(DataError, match="only 8 were drawn"):
        extend("synthesize", {"AK": 9}, DRAWN)
    with pytest.raises(DataError, match="no samples"):
        extend("synthesize", {"AK": 1})
    with pytest.raises(LeakError, match="real images among its samples"):
        extend("synthesize", {"AK": 1}, TRAIN)


def test_permuted_adds_the_counts_with_pictures_of_any_class():
    found = extend("permuted", {"AK": 40, "DF": 14})
    assert found.counts == {"AK": 40, "DF": 14, "NV": 0}
    assert set(found.images) == set(TRAIN.images)
    times = pd.Series(found.images).value_counts()
    assert set(times) == {1, 2}
    assert extend("permuted", {"AK": 5}, seed=1).images.tolist() != extend("permuted", {"AK": 5}).images.tolist()


def test_permuted_labels_tell_nothing_of_the_picture():
    """Over many draws a class's share among the pictures under a label is its share of the training part."""
    truth = dict(zip(TRAIN.images, TRAIN.table["label"], strict=True))
    seen = {"AK": [], "DF": []}
    for seed in range(300):
        found = extend("permuted", {"AK": 4, "DF": 4}, seed=seed)
        for image, label in zip(found.images, found.table["label"], strict=True):
            seen[label].append(truth[image] == "AK")
    for shares in seen.values():  # 1,200 draws of 4 in 36: standard error 0.009
        assert np.mean(shares) == pytest.approx(4 / 36, abs=0.035)


def test_permuted_rows_are_taken_for_training_images():
    """A row keeps name and lesion, so that its pixels are found and the guard against leaks knows it."""
    found = extend("permuted", {"AK": 20})
    check_extra(found, TRAIN, "digest")
    groups = dict(zip(TRAIN.images, TRAIN.groups, strict=True))
    assert found.groups.tolist() == [groups[image] for image in found.images]
    assert (found.labels == 0).all()
    assert (TRAIN.counts["AK"], TRAIN.counts["NV"]) == (4, 30)
    pixels = np.zeros((len(TRAIN), 8, 8, 3), np.uint8)
    view = TrainingView(Examples(pixels, TRAIN.labels), Examples(pixels[:20], found.labels), 20)
    assert np.bincount(view.labels).tolist() == [24, 2, 30]


def test_oracle_draws_held_back_images_each_once_and_more_of_them_are_the_same_and_others():
    found = extend("oracle", {"AK": 3, "DF": 1}, HELD_BACK)
    assert found.counts == {"AK": 3, "DF": 1, "NV": 0}
    assert set(found.only(label="AK").images) == {"r0", "r1", "r2"}
    assert set(found.table["origin"]) == {"real"}
    fewer = extend("oracle", {"AK": 2, "DF": 1}, HELD_BACK)
    assert fewer.images.tolist() == [*found.images[:2], found.images[3]]
    orders = {tuple(extend("oracle", {"AK": 3}, HELD_BACK, seed).images) for seed in range(20)}
    assert len(orders) > 1


def test_oracle_says_what_is_missing():
    with pytest.raises(DataError, match=r"none were held back(.|\n)*split\.reserve"):
        extend("oracle", {"AK": 1})
    with pytest.raises(DataError, match=r'2 images of "NV", and 0 were held back(.|\n)*split\.reserve'):
        extend("oracle", {"AK": 1, "NV": 2}, HELD_BACK)
    with pytest.raises(DataError, match=r'4 images of "AK", and 3 were held back'):
        extend("oracle", {"AK": 4}, HELD_BACK)
    with pytest.raises(DataError, match="generated images"):
        extend("oracle", {"AK": 1}, concatenate(HELD_BACK, DRAWN))


# Both classifiers under every treatment

RIVALS = [name for name in NAMES if hasattr(plugins.load("balance", name), "treat")]
REFUSED = {
    "probe": {"linear_probe": "the same as the arm none"}
    | dict.fromkeys(("cutmix", "randaugment", "trivialaugment", "oversampling_strong"), "given embeddings"),
    "finetune": {},
}
SMALL = {
    "probe": {"descent": {"epochs": 2, "batch_size": 16, "learning_rate": 0.01, "choose": "balanced_accuracy"}},
    "finetune": {"epochs": 2, "ema_decay": 0.0, "batch_size": 16},
}


def treatment_of(name: str, case: Case) -> Treatment:
    module = plugins.load("balance", name)
    return module.treat(module.Config(), np.bincount(case.view.labels)) if hasattr(module, "treat") else PLAIN


@pytest.fixture(scope="module", params=["probe", pytest.param("finetune", marks=pytest.mark.slow)])
def case(request) -> Case:
    return Case(request.param, **SMALL[request.param])


@pytest.fixture(scope="module")
def plain(case, tmp_path_factory):
    """Logits and log of the plain fit."""
    folder = tmp_path_factory.mktemp("plain")
    return case.fitted(folder).predict(case.validation.inputs), runs.read_log(folder, "epoch")


@pytest.mark.parametrize("name", RIVALS)
def test_every_treatment_trains_on_equally_many_images_or_is_refused(name, case, plain, tmp_path):
    treatment = treatment_of(name, case)
    refusal = REFUSED[case.name].get(name)
    if refusal:
        with pytest.raises(RecipeError, match=refusal):
            case.new().check_treatment(treatment)
        with pytest.raises(RecipeError, match="finetune"):
            case.fitted(tmp_path, treatment=treatment)
        assert not list(tmp_path.iterdir()), "refused before anything is written"
        return
    case.new().check_treatment(treatment)
    fitted = case.fitted(tmp_path / "whole", treatment=treatment)
    log = runs.read_log(tmp_path / "whole", "epoch")
    assert [r["num_images"] for r in log] == [r["num_images"] for r in plain[1]] == [len(case.view)] * 2
    logits = fitted.predict(case.validation.inputs)
    assert np.isfinite(logits).all()
    assert (logits != plain[0]).any(), "the treatment does something"

    for newest in (tmp_path / "whole").glob("checkpoint-00000002.pt"):  # as if the second epoch had been broken off
        newest.unlink()
    steps = []
    resumed = case.fitted(tmp_path / "whole", treatment=treatment, progress=lambda done, *_: steps.append(done))
    assert len(steps) == (case.view.num_steps(16) if case.name == "finetune" else 2)
    assert (resumed.predict(case.validation.inputs) == logits).all()


def test_the_loss_hears_how_far_the_training_is(case, tmp_path):
    heard = []

    def loss(logits, targets, progress):
        heard.append(progress)
        return torch.nn.functional.cross_entropy(logits, targets, reduction="none")

    fitted = case.fitted(tmp_path, treatment=Treatment(loss=loss, key="hears"))
    steps = 2 * case.view.num_steps(16)
    assert heard == pytest.approx(np.arange(steps) / steps)
    plain = case.fitted(tmp_path / "plain")
    assert (fitted.predict(case.validation.inputs) == plain.predict(case.validation.inputs)).all()


def test_weights_reach_the_order_of_every_epoch(case, tmp_path, monkeypatch):
    seen = []
    epoch = TrainingView.epoch
    monkeypatch.setattr(TrainingView, "epoch", lambda *a, **k: (seen.append(a[1:]), epoch(*a, **k))[1])
    case.fitted(tmp_path / "weights", treatment=Treatment(class_weights=(1.0, 2.0, 3.0), key="w"))
    case.fitted(tmp_path / "crt", treatment=treatment_of("crt", case))
    case.fitted(tmp_path / "plain")
    weights = [(1.0, 2.0, 3.0), (1.0, 2.0, 3.0), None, (1.0, 1.0, 1.0), None, None]
    assert seen == [(0, number, w) for number, w in zip((1, 2) * 3, weights, strict=True)]


# The two-stage training of cRT, and the frozen backbone


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_crt_leaves_the_backbone_of_the_first_stage_untouched(ema_decay, tmp_path):
    """The first of two stages is a plain training of as many epochs; running averages are part of the comparison."""
    options = {"ema_decay": ema_decay, "choose": "last"}
    short, whole = Case("finetune", epochs=2, **options), Case("finetune", epochs=4, **options)
    module = plugins.load("balance", "crt")
    first = short.fitted(tmp_path / "first").network
    second = whole.fitted(tmp_path / "second", treatment=module.treat(module.Config(share=0.5), None)).network
    assert same(state(first.backbone), state(second.backbone))
    assert not torch.equal(first.head.weight, second.head.weight)


def test_crt_begins_with_a_fresh_head_and_keeps_none_of_the_first_stage(tmp_path):
    case = Case("finetune", epochs=2, head_learning_rate=1e-30, ema_decay=0.0)
    found = case.fitted(tmp_path, treatment=treatment_of("crt", case)).network.head
    with case.module.randomness.reproducible("head", 0):
        fresh = torch.nn.Linear(found.in_features, 3)
    assert torch.allclose(found.weight, fresh.weight, atol=1e-12)
    assert torch.allclose(found.bias, fresh.bias, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_crt_resumes_in_either_stage(stop_after, tmp_path_factory, tmp_path):
    case = Case("finetune", epochs=4, batch_size=32)
    module = plugins.load("balance", "crt")
    treatment = module.treat(module.Config(share=0.5), None)
    whole = case.fitted(tmp_path / "whole", treatment=treatment)
    steps = case.view.num_steps(32)

    def stop(done, total, note):
        if done > stop_after * steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        case.fitted(tmp_path / "broken", treatment=treatment, progress=stop)
    assert max(int(p.stem[-8:]) for p in (tmp_path / "broken").glob("checkpoint-*")) == stop_after
    resumed = case.fitted(tmp_path / "broken", treatment=treatment)
    assert (resumed.predict(case.validation.inputs) == whole.predict(case.validation.inputs)).all()
    again = case.fitted(tmp_path / "whole", treatment=treatment)  # done already: only the kept weights are read
    assert (again.predict(case.validation.inputs) == whole.predict(case.validation.inputs)).all()


def test_a_linear_probe_trains_the_head_alone(tmp_path):
    case = Case("finetune", epochs=2)
    network = case.fitted(tmp_path, treatment=treatment_of("linear_probe", case)).network
    with case.module.randomness.reproducible("finetune", 0):
        initial = case.new()._build(case.config.backbone)
    assert same(state(network.backbone), state(initial.backbone)), "weights and running averages"
    assert not torch.equal(network.head.weight, initial.head.weight)


def test_mixed_batches_reach_the_network(tmp_path):
    """Where every batch is replaced by zeros, nothing can be learned but how rare a class is."""
    case = Case("finetune", epochs=2)

    def mix(inputs, targets):
        assert inputs.shape[1:] == (3, 32, 32)
        assert 0 <= inputs.min() <= inputs.max() <= 1
        assert torch.equal(targets.sum(1), torch.ones(len(targets)))
        return inputs * 0, targets

    blind = case.fitted(tmp_path, treatment=Treatment(mix=mix, key="zeros"))
    assert runs.read_log(tmp_path, "epoch")[-1]["train_accuracy"] < 0.6
    shutil.rmtree(tmp_path)
    assert blind.predict(case.validation.inputs).shape == (25, 3)


def test_policies_get_the_pixels_that_the_network_was_given(tmp_path):
    case, seen = Case("finetune", epochs=1), []

    def augment(images):
        seen.append(images.clone())
        return images

    treatment = Treatment(augment=augment, needs_pixels=True, key="looks")
    same_pixels = case.fitted(tmp_path / "a", treatment=treatment)
    order = case.view.epoch(0, 1)
    assert torch.equal(torch.cat(seen).permute(0, 2, 3, 1), torch.from_numpy(case.view.inputs_at(order)))
    plain = case.fitted(tmp_path / "b")
    assert (same_pixels.predict(case.validation.inputs) == plain.predict(case.validation.inputs)).all()
