"""Losses, samplers and mixings against the papers' formulas, worked by hand, and that what must help does."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

from moulage import contracts, plugins
from moulage import treatment as treatments
from moulage.balance import _weights
from moulage.classifiers import _fitting, probe
from moulage.data.training_view import Examples, TrainingView
from moulage.errors import DataError, RecipeError
from moulage.treatment import PLAIN, Loss, Treatment, check_counts

LN = math.log
ODDS = (1.0, 2.0, 5.0)
"""Logits are their logarithms: the probabilities are 1/8, 2/8 and 5/8."""


def treat(name: str, counts=(1, 2, 4), **options) -> Treatment:
    return plugins.load("balance", name).treat(plugins.configure("balance", name, options), np.array(counts))


def loss_of(name: str, counts=(1, 2, 4), **options) -> Loss:
    found = treat(name, counts, **options).loss
    assert found is not None
    return found


def loss(found: Loss, *labels: int, progress: float = 0.0) -> float:
    """The loss of images that all have the logits log(ODDS), with these labels."""
    logits = torch.tensor(ODDS).log().repeat(len(labels), 1)
    return float(found(logits, torch.eye(3)[list(labels)], progress).mean())


LOSSES = ("class_weights", "focal", "ldam_drw", "balanced_softmax", "logit_adjustment", "label_smoothing")
RARE = (1, 16, 81)
ROOTS = 11 + 2 * math.sqrt(2)
BY_HAND = [
    # 1 : 1/2 : 1/4 with the sum 3 is 12/7, 6/7, 3/7; the mean is over images, not over weights.
    ("class_weights", {"mode": "inverse"}, {(0,): 12 / 7 * LN(8), (0, 2): (12 / 7 * LN(8) + 3 / 7 * LN(8 / 5)) / 2}),
    # Beta 1/2: 1 - beta^n = 1/2, 3/4, 15/16, so 1 : 2/3 : 8/15 with the sum 3 is 15/11, 10/11, 8/11.
    ("class_weights", {"beta": 0.5}, {(0,): 15 / 11 * LN(8), (1,): 10 / 11 * LN(4), (2,): 8 / 11 * LN(8 / 5)}),
    ("class_weights", {"beta": 0}, {(0,): LN(8)}),
    ("focal", {}, {(1,): (6 / 8) ** 2 * LN(4), (2,): (3 / 8) ** 2 * LN(8 / 5)}),
    ("focal", {"gamma": 0}, {(0, 1): (LN(8) + LN(4)) / 2}),
    ("focal", {"gamma": 0.5, "alpha": "inverse"}, {(1,): 6 / 7 * math.sqrt(6 / 8) * LN(4)}),
    # Margins ln 4 times 1, 1/2, 1/3. Class 0: (1/4) / (1/4 + 2 + 5); class 1: 1 / (1 + 1 + 5).
    (
        "ldam_drw",
        {"counts": RARE, "scale": LN(4), "max_margin": 1.0},
        {(0,): LN(29), (1,): LN(7), (2,): -LN(5 * 4 ** (-1 / 3) / (1 + 2 + 5 * 4 ** (-1 / 3)))},
    ),
    ("ldam_drw", {"counts": RARE, "max_margin": 0}, {(0,): LN(8)}),
    # Counts 1, 2, 4 times odds 1, 2, 5: 1, 4, 20 of 25.
    ("balanced_softmax", {}, {(0,): LN(25), (1,): LN(25 / 4), (2,): LN(25 / 20)}),
    ("logit_adjustment", {}, {(0,): LN(25), (1,): LN(25 / 4), (2,): LN(25 / 20)}),
    # Square roots 1, sqrt 2, 2 of the counts times the odds.
    ("logit_adjustment", {"tau": 0.5}, {(0,): LN(ROOTS), (1,): LN(ROOTS / math.sqrt(8)), (2,): LN(ROOTS / 10)}),
    ("logit_adjustment", {"tau": 0}, {(0,): LN(8)}),
    ("label_smoothing", {"epsilon": 0.3}, {(1,): 0.1 * LN(8) + 0.8 * LN(4) + 0.1 * LN(8 / 5)}),
]


def test_every_loss_is_tested():
    rivals = [n for n in plugins.names("balance") if hasattr(plugins.load("balance", n), "treat")]
    assert {n for n in rivals if treat(n).loss is not None} == set(LOSSES) == {name for name, *_ in BY_HAND}


@pytest.mark.parametrize(("name", "options", "expected"), BY_HAND)
def test_losses_by_hand(name, options, expected):
    found = loss_of(name, **options)
    assert {labels: loss(found, *labels) for labels in expected} == pytest.approx(expected)


def test_effective_number_near_1_is_inverse():
    limit, inverse = loss_of("class_weights", beta=1 - 1e-9), loss_of("class_weights", mode="inverse")
    assert loss(limit, 0, 1, 2) == pytest.approx(loss(inverse, 0, 1, 2), rel=1e-5)


def test_focal_is_accurate_where_an_image_is_classified_well():
    logits = torch.tensor([[12.0, 0.0]], dtype=torch.float32)
    p = 1 / (1 + math.exp(-12))
    found = float(loss_of("focal", (1, 1))(logits, torch.tensor([[1.0, 0.0]]), 0))
    assert found == pytest.approx(-((1 - p) ** 2) * LN(p), rel=1e-4)


def test_the_weights_of_ldam_are_deferred():
    found = loss_of("ldam_drw", max_margin=0, beta=0.5, defer=0.8)
    assert loss(found, 0, progress=0.79) == pytest.approx(LN(8))
    assert loss(found, 0, progress=0.8) == pytest.approx(15 / 11 * LN(8))
    assert loss(loss_of("ldam_drw", max_margin=0, defer=1.0), 0, progress=0.999) == pytest.approx(LN(8))


@pytest.mark.parametrize("name", LOSSES)
def test_losses_take_soft_targets(name):
    soft, logits = torch.tensor([[0.3, 0.0, 0.7]]), torch.tensor([ODDS]).log()
    found = loss_of(name, RARE)
    by_class = [found(logits, torch.eye(3)[[k]], 0.9).item() for k in range(3)]
    assert found(logits, soft, 0.9).item() == pytest.approx(0.3 * by_class[0] + 0.7 * by_class[2], rel=1e-5)
    assert found(logits.repeat(5, 1), soft.repeat(5, 1), 0.9).shape == (5,)


@pytest.mark.parametrize(("name", "options"), [*((n, {}) for n in LOSSES), ("focal", {"gamma": 0.5})])
def test_gradients_are_finite(name, options):
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(60, 3, generator=rng) * torch.tensor([1.0, 30.0, 300.0]).repeat_interleave(20)[:, None]
    logits[:2] = torch.tensor([[0.0, 0.0, 0.0], [200.0, 0.0, -200.0]])
    logits.requires_grad_()
    targets = torch.eye(3)[torch.arange(60) % 3]
    found = loss_of(name, (1, 500, 12000), **options)
    for progress in (0.0, 1.0):
        (gradient,) = torch.autograd.grad(found(logits, targets, progress).mean(), logits)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_differences(name):
    logits = torch.tensor([ODDS, (4.0, 1.0, 0.5)], dtype=torch.float64).log().requires_grad_()
    targets = torch.tensor([[0.0, 1.0, 0.0], [0.2, 0.0, 0.8]], dtype=torch.float64)
    found = loss_of(name, RARE)
    assert torch.autograd.gradcheck(lambda z: found(z, targets, 1.0), logits)


@pytest.mark.parametrize(("power", "shares"), [(1.0, (1, 1, 1)), (0.5, (1, 2, 3)), (0.0, (1, 4, 9))])
def test_oversampling_weights(power, shares):
    for name in ("oversampling", "oversampling_strong"):
        weights = treat(name, (100, 400, 900), power=power).class_weights
        assert np.array(weights) / sum(weights) == pytest.approx(np.array(shares) / sum(shares))


@pytest.mark.parametrize("shape", [(3, 4, 4), (7,)])
def test_mixup_blends_inputs_and_targets_alike(shape):
    torch.manual_seed(0)
    inputs, targets = torch.rand(5, *shape), torch.eye(5)
    mix = treat("mixup", alpha=1.0).mix
    assert mix is not None
    mixed, soft = mix(inputs, targets)
    share = soft.diagonal()
    assert soft.sum(1).numpy() == pytest.approx(np.ones(5))
    assert share.unique().numel() == 1
    assert 0.02 < share[0] < 0.98
    assert torch.allclose(mixed, share[0] * inputs + (1 - share[0]) * inputs.roll(1, 0), atol=1e-6)
    assert torch.allclose(soft, share[0] * targets + (1 - share[0]) * targets.roll(1, 0), atol=1e-6)
    assert mixed.shape == inputs.shape


@pytest.mark.parametrize(("name", "alpha"), [("mixup", 0.2), ("mixup", 2.0)])
def test_the_share_of_mixup_has_the_beta_distribution(name, alpha):
    torch.manual_seed(1)
    mix = treat(name, alpha=alpha).mix
    assert mix is not None
    shares = np.array([float(mix(torch.zeros(2, 1), torch.eye(2))[1][0, 0]) for _ in range(2000)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert shares.mean() == pytest.approx(0.5, abs=4 * math.sqrt(variance / 2000))
    assert shares.var() == pytest.approx(variance, rel=0.1)


def test_cutmix_pastes_a_rectangle_and_blends_targets_by_its_area():
    torch.manual_seed(0)
    mix = treat("cutmix").mix
    assert mix is not None
    inputs = torch.arange(4.0)[:, None, None, None].expand(4, 3, 16, 16).contiguous()
    areas = []
    for _ in range(60):
        mixed, soft = mix(inputs, torch.eye(4))
        pasted = mixed[1, 0] == 0  # the neighbour of image 1 is image 0
        rows, columns = pasted.any(1), pasted.any(0)
        assert (pasted == rows[:, None] & columns[None]).all(), "one rectangle"
        assert (mixed[1, 0][~pasted] == 1).all()
        areas.append(float(pasted.float().mean()))
        assert soft[1].tolist() == pytest.approx([areas[-1], 1 - areas[-1], 0, 0])
    assert np.ptp(areas) > 0.5


@pytest.mark.parametrize(
    ("name", "options"),
    [("randaugment", {}), ("trivialaugment", {}), ("oversampling_strong", {"policy": "randaugment"})],
)
def test_policies_change_each_image_on_its_own(name, options):
    found = treat(name, **options)
    image = torch.randint(0, 256, (3, 24, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    batch = image.repeat(16, 1, 1, 1)
    assert found.needs_pixels
    assert found.augment is not None
    torch.manual_seed(3)
    result = found.augment(batch)
    assert result.dtype == torch.uint8
    assert result.shape == batch.shape
    assert len(torch.unique(result, dim=0)) > 8
    assert (batch == image).all(), "the batch itself is left alone"
    torch.manual_seed(3)
    assert torch.equal(found.augment(batch), result), "all random numbers are PyTorch's"


def test_counts_of_0_are_refused():
    for name in ("class_weights", "focal", "ldam_drw", "balanced_softmax", "logit_adjustment", "oversampling"):
        with pytest.raises(DataError, match="image of every class"):
            treat(name, (5, 0, 2))
    assert check_counts(np.array([3, 1])).tolist() == [3.0, 1.0]


def test_a_treatment_that_contradicts_itself_is_refused():
    assert PLAIN.is_plain
    with pytest.raises(RecipeError, match="no key"):
        Treatment(class_weights=(1.0, 1.0))
    with pytest.raises(RecipeError, match="needs pixels"):
        Treatment(augment=lambda images: images, key="a")
    with pytest.raises(RecipeError, match="as well"):
        Treatment(retrain_head=0.5, freeze_backbone=True, key="a")
    with pytest.raises(RecipeError, match="share of 1 of"):
        Treatment(retrain_head=1.0, key="a")


def both(*named: str, **settings) -> Treatment:
    """Two plug-ins at once, as an arm's ``balance`` and ``treatment``."""
    plugs = [(plug := contracts.balance(name), plug.configure(settings.get(name, {}))) for name in named]
    return treatments.treat(plugs, np.array((1, 2, 4)))


def test_a_loss_and_a_mixing_go_together_in_either_order():
    for names in (("balanced_softmax", "mixup"), ("mixup", "balanced_softmax")):
        found = both(*names)
        assert found.mix is not None
        assert found.class_weights is None
        assert found.loss is not None
        assert loss(found.loss, 0, 2) == pytest.approx(loss(loss_of("balanced_softmax"), 0, 2))
        assert found.key not in (treat(names[0]).key, treat(names[1]).key)
    assert both("focal", "cutmix").needs_pixels
    assert both("none", "mixup").key == treat("mixup").key
    assert both("none") is PLAIN


@pytest.mark.parametrize(("power", "shares"), [(1.0, (1, 1, 1)), (0.5, (1, 2**0.5, 2))])
def test_a_loss_beside_a_sampling_answers_the_imbalance_that_is_left(power, shares):
    """Drawn in equal shares, classes are balanced already: what is left is cross-entropy."""
    found = both("balanced_softmax", "oversampling", oversampling={"power": power})
    assert found.class_weights == pytest.approx(treat("oversampling", power=power).class_weights)
    odds = np.array(ODDS) * shares
    assert found.loss is not None
    assert loss(found.loss, 0) == pytest.approx(-LN(odds[0] / odds.sum()))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("focal", "balanced_softmax"), "both set loss"),
        (("oversampling", "oversampling_strong"), "both set class_weights"),
        (("mixup", "cutmix"), "both set mix"),
        (("crt", "linear_probe"), "freezes the backbone"),
        (("crt", "logit_adjustment"), "balanced classes"),
    ],
)
def test_treatments_that_contradict_each_other_are_refused(names, words):
    for order in (names, names[::-1]):
        with pytest.raises(RecipeError, match=words):
            both(*order)


def test_keys_name_plug_in_and_options():
    rivals = [n for n in plugins.names("balance") if hasattr(plugins.load("balance", n), "treat")]
    keys = {n: treat(n).key for n in rivals}
    assert all(keys.values())
    assert len(set(keys.values())) == len(rivals)
    assert treat("focal").key == treat("focal", (9, 9, 9)).key == treat("focal", gamma=2.0).key
    assert treat("focal").key != treat("focal", gamma=1.0).key


# What must help does

MEANS = 2.0 * np.eye(4, 8)


def clouds(counts: tuple[int, ...], seed: int) -> Examples:
    """Overlapping Gaussian clouds, as embeddings: float32 [N, 8]."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    return Examples((rng.normal(0, 1, (len(labels), 8)) + MEANS[labels]).astype(np.float32), labels)


def balanced_accuracy(treatment: Treatment, folder) -> float:
    train, test = clouds((500, 100, 25, 12), 0), clouds((400,) * 4, 1)
    classifier = probe.Classifier(probe.Config(penalty=1e-3), ("a", "b", "c", "d"))
    classifier.fit(TrainingView(train, None, 0), test, seed=0, folder=folder, treatment=treatment)
    return float(balanced_accuracy_score(test.labels, classifier.predict(test.inputs).argmax(1)))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> float:
    return balanced_accuracy(PLAIN, tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize(
    "name", ["class_weights", "balanced_softmax", "logit_adjustment", "oversampling", "ldam_drw", "crt"]
)
def test_rivals_raise_balanced_accuracy_on_unbalanced_clouds(name, plain, tmp_path):
    """The clouds are the same but for their sizes, so a balanced rule is better by far: Bayes reaches about 0.8."""
    assert plain < 0.7
    assert balanced_accuracy(treat(name, (500, 100, 25, 12)), tmp_path) > plain + 0.05


# The probe at the optimum of each loss

COUNTS = (500, 100, 25, 12)
SHARES = np.array(COUNTS) / sum(COUNTS)
PENALTY = 0.02


def head_of(treatment: Treatment, folder, seed: int = 0) -> probe.Classifier:
    train = clouds(COUNTS, 0)
    classifier = probe.Classifier(probe.Config(penalty=PENALTY, standardize=False), ("a", "b", "c", "d"))
    classifier.fit(TrainingView(train, None, 0), clouds((9,) * 4, 1), seed=seed, folder=folder, treatment=treatment)
    return classifier


def logits_of(treatment: Treatment, folder) -> np.ndarray:
    return head_of(treatment, folder).predict(clouds((400,) * 4, 1).inputs)


@pytest.mark.parametrize("name", ["balanced_softmax", "logit_adjustment"])
def test_counts_in_the_loss_are_an_adjustment_afterwards(name, tmp_path):
    """With a free bias the optimum is that of cross-entropy less the log of the counts (Menon et al. 2021)."""
    shifted = logits_of(PLAIN, tmp_path) - np.log(SHARES)
    found = logits_of(treat(name, COUNTS), tmp_path)
    centre = [each - each.mean(1, keepdims=True) for each in (found, shifted)]
    np.testing.assert_allclose(*centre, atol=0.02)


@pytest.mark.parametrize("name", ["class_weights", "oversampling", "crt"])
def test_weights_and_balanced_draws_are_scikit_learns_balanced_weights(name, tmp_path):
    """Draws by class weigh an image by the inverse of its class; a loss so weighted has a smaller sum of weights."""
    options = {"mode": "inverse"} if name == "class_weights" else {}
    found, train = logits_of(treat(name, COUNTS, **options), tmp_path), clouds(COUNTS, 0)
    total = 1.0 if name != "class_weights" else float(_weights.inverse(np.array(COUNTS)) @ SHARES)
    judge = LogisticRegression(C=total / PENALTY, tol=1e-9, max_iter=9999)
    weights = 1 / np.array(COUNTS)[train.labels] / 4
    judge.fit(train.inputs, train.labels, sample_weight=weights)
    expected = judge.decision_function(clouds((400,) * 4, 1).inputs)
    centre = [each - each.mean(1, keepdims=True) for each in (found, expected)]
    np.testing.assert_allclose(*centre, atol=0.02)


def smoothed(log_p: np.ndarray, z: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return -(0.9 * log_p[np.arange(len(z)), labels] + 0.1 * log_p.mean(1))


def focussed(log_p: np.ndarray, z: np.ndarray, labels: np.ndarray) -> np.ndarray:
    of_label = log_p[np.arange(len(z)), labels]
    return -((1 - np.exp(of_label)) ** 2) * of_label


def with_margins(log_p: np.ndarray, z: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The last stage, with its weights: a convex loss forgets how its training began."""
    lowered = z.copy()
    lowered[np.arange(len(z)), labels] -= 4 * 0.5 * (12 / np.array(COUNTS)[labels]) ** 0.25
    weights = 1 / (1 - 0.9999 ** np.array(COUNTS))
    return -log_softmax(lowered, axis=1)[np.arange(len(z)), labels] * (weights / weights.sum() * 4)[labels]


@pytest.mark.parametrize(
    ("name", "formula"), [("label_smoothing", smoothed), ("focal", focussed), ("ldam_drw", with_margins)]
)
def test_the_head_is_where_the_formula_of_its_loss_is_flat(name, formula, tmp_path):
    """Judge: finite differences of the loss as the paper has it, with the penalty."""
    network, train = head_of(treat(name, COUNTS), tmp_path).network, clouds(COUNTS, 0)
    weight, bias = network.weight.detach().double().numpy(), network.bias.detach().double().numpy()

    def objective(parameters: np.ndarray) -> float:
        weight, bias = parameters[:32].reshape(4, 8), parameters[32:]
        z = train.inputs @ weight.T + bias
        return formula(log_softmax(z, axis=1), z, train.labels).mean() + PENALTY / 2 * (weight**2).sum()

    slope = approx_fprime(np.concatenate([weight.ravel(), bias]), objective, 1e-6)
    assert np.abs(slope).max() < 5e-4
    assert np.abs(approx_fprime(np.zeros(36), objective, 1e-6)).max() > 0.05


def test_stages_take_the_second_from_the_first():
    crt = treat("crt", share=0.25)
    first, second = _fitting.stages(15, crt, 3)
    assert (first.first, first.last, first.class_weights, first.head_only) == (1, 11, None, False)
    assert (second.first, second.last, second.class_weights, second.head_only) == (12, 15, (1.0, 1.0, 1.0), True)
    assert [_fitting.stage_of((first, second), epoch) for epoch in (1, 11, 12, 15)] == [first, first, second, second]
    assert [s.last for s in _fitting.stages(2, treat("crt", share=0.9), 3)] == [1, 2]
    assert [s.last for s in _fitting.stages(2, treat("crt", share=0.01), 3)] == [1, 2]
    assert _fitting.stages(4, treat("linear_probe"), 3) == (_fitting.Stage(1, 4, None, True),)
    assert _fitting.weights_of_head(crt, 3) == second.class_weights
    for plain in (treat("linear_probe"), treat("oversampling")):
        assert _fitting.weights_of_head(plain, 3) == _fitting.stages(4, plain, 3)[-1].class_weights
    with pytest.raises(RecipeError, match="training of one epoch"):
        _fitting.stages(1, crt, 3)
    with pytest.raises(RecipeError, match="weighs 3 classes, and the classifier has 4"):
        _fitting.stages(5, treat("oversampling"), 4)
