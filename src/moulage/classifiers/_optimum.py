"""A softmax head at the optimum of its loss with an L2 penalty, and the choice of that penalty.

With targets t_i, shares s_i that sum to 1, and logits z_i = W x_i + b of standardised features x_i, the head minimises

    sum_i s_i loss(z_i, t_i) + penalty / 2 |W|^2

by L-BFGS (Liu and Nocedal 1989; scipy), the bias unpenalised. With cross-entropy and equal shares this is
scikit-learn's ``LogisticRegression(C=1 / (penalty * N))``. The optimum is unique where the loss is convex (focal loss
is not: there it is the one that is reached from zeros), so a fit depends on its rows alone, and on no seed.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize

from moulage import devices, monitoring, randomness, runs
from moulage.classifiers import _fitting
from moulage.classifiers._head import Head
from moulage.data.training_view import Examples
from moulage.treatment import PLAIN

STEP = 3.0
MOST_STEPS = 8
"""Penalties are tried in steps of this factor, from one over the images a feature, at most so many steps either way."""
ROUGH, FINE = 1e-3, 1e-4
"""Largest component of the gradient at which a fit ends, while penalties are compared and in the end (scikit-learn's
default). The validation loss of rough fits of 1,280 features was right to 0.001 nats; 3e-3 moved the chosen penalty by
half a step.
"""
MEMORY = 20  # steps that L-BFGS remembers
MOST_ITERATIONS = 2000
MIX_BATCH = 64  # images that are mixed by one draw, as in training on batches
TYPICAL_EVALUATIONS = 200  # of the loss and its gradient in a fit that chooses its penalty


@dataclass(frozen=True)
class Rows:
    """What is fitted, or scored: standardised features, soft targets, and what share of the whole each image is."""

    inputs: torch.Tensor  # float32 [N, D]
    targets: torch.Tensor  # float64 [N, K]
    shares: torch.Tensor  # float64 [N], sum 1


Losses = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # logits and targets float64 [N, K] to losses [N]


def reach(head: Head, job: _fitting.Job, penalty: float | None, num_classes: int) -> dict[str, Any]:
    """Bring this head [K, D] to the optimum on the job's embeddings; facts of the fit.

    Without a penalty that one is taken whose fit has the least mean loss on the validation part: the loss of the
    treatment, with classes in the shares in which the treatment draws them.
    """
    start = time.perf_counter()
    treatment, class_weights = job.treatment, _fitting.weights_of_head(job.treatment, num_classes)
    train = _mixed_rows(head, job, class_weights) if treatment.mix else _rows(head, job, class_weights)

    def losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return _fitting.losses_of(logits, targets, treatment, 1.0)  # at the optimum the whole training lies behind

    tried: dict[float, float] = {}
    parameters = _start(head, train)
    if penalty is None:
        validation = _validation_rows(head, job.validation, class_weights)
        penalty, parameters = _chosen_penalty(train, validation, losses, parameters, tried, job.progress)
    parameters, gradient = minimised(train, losses, penalty, parameters, FINE)
    _put(head, parameters)
    scored = _fitting.scores(head.predict(job.validation.inputs), job.validation.labels)
    loss = float(_mean_loss(train, losses, parameters))
    monitoring.check_finite(1, train_loss=loss, **scored)
    runs.log(
        job.folder,
        epoch=1,
        train_loss=loss,
        num_images=len(job.view),
        **scored,
        penalty=penalty,
        gradient=gradient,
        seconds=time.perf_counter() - start,
    )
    job.progress(1, 1, f"validation {scored['validation_loss']:.3f} nats")
    return {"penalty": penalty, "gradient": gradient, "tried": [[key, tried[key]] for key in sorted(tried)]}


def minimised(
    rows: Rows, losses: Losses, penalty: float, start: np.ndarray, tolerance: float
) -> tuple[np.ndarray, float]:
    """Weights and, after them, biases that minimise the mean loss and the penalty: float64 [K * D + K].

    And the largest component of the gradient there: above ``tolerance`` where rounding or ``MOST_ITERATIONS`` ended it.

    Args:
        rows: what is fitted.
        losses: of logits and targets, one an image.
        penalty: of half the squared length of the weights.
        start: where the search begins, float64 [K * D + K].
        tolerance: largest component of the gradient at which it ends.
    """
    num_classes, num_features = rows.targets.shape[1], rows.inputs.shape[1]
    num_weights = num_classes * num_features

    def value(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        logits = _logits(rows, parameters).requires_grad_()
        mean = (losses(logits, rows.targets) * rows.shares).sum()
        (slope,) = torch.autograd.grad(mean, logits)
        # Products of many features are in single precision, sums over them and the parameters in double.
        of_weights = (slope.T.float() @ rows.inputs).double().cpu().numpy().ravel()
        weights = parameters[:num_weights]
        gradient = np.concatenate([of_weights + penalty * weights, slope.sum(0).cpu().numpy()])
        return mean.item() + penalty / 2 * float(weights @ weights), gradient

    options = {"gtol": tolerance, "ftol": 1e-13, "maxcor": MEMORY, "maxiter": MOST_ITERATIONS}
    found: Any = minimize(value, start, jac=True, method="L-BFGS-B", options=options)
    return found.x, float(np.abs(found.jac).max())


def _chosen_penalty(
    train: Rows,
    validation: Rows,
    losses: Losses,
    start: np.ndarray,
    tried: dict[float, float],
    progress: runs.Progress,
) -> tuple[float, np.ndarray]:
    """The penalty with the least validation loss, and a fit near its own; fills ``tried`` with penalty and loss.

    From one that grows with the features for each image, in steps up or down to where the loss rises again; then the
    vertex of the parabola through the best three over the logarithm: neighbours of one optimum are then chosen alike.
    """
    first = train.inputs.shape[1] / len(train.inputs)
    fits: dict[int, np.ndarray] = {}
    found: dict[int, float] = {}

    def try_step(step: int, begin: np.ndarray) -> None:
        fits[step], _ = minimised(train, losses, first * STEP**step, begin, ROUGH)
        found[step] = tried[first * STEP**step] = float(_mean_loss(validation, losses, fits[step]))
        progress(0, 1, f"penalty {first * STEP**step:.2g}: validation {found[step]:.3f}")

    try_step(0, start)
    while True:
        best = min(found, key=lambda step: found[step])
        beside = [step for step in (best + 1, best - 1) if step not in found and abs(step) <= MOST_STEPS]
        if not beside:
            break
        try_step(beside[0], fits[best])
    if abs(best) == MOST_STEPS:  # the loss has no minimum: the strongest or the weakest penalty
        return first * STEP**best, fits[best]
    lower, middle, upper = (found[step] for step in (best - 1, best, best + 1))
    bend = lower - 2 * middle + upper
    shift = 0.5 * (lower - upper) / bend if bend > 0 else 0.0
    return first * STEP ** (best + shift), fits[best]


def _rows(head: Head, job: _fitting.Job, class_weights: tuple[float, ...] | None) -> Rows:
    """Real and extra images, each with the share of an epoch that it makes up on average."""
    view = job.view
    inputs = view.real.inputs if not view.extra else np.concatenate([view.real.inputs, view.extra.inputs])
    return _made(head, inputs, view.labels, view.shares(class_weights))


def _mixed_rows(head: Head, job: _fitting.Job, class_weights: tuple[float, ...] | None) -> Rows:
    """One epoch of mixed images: which are paired, and how, is drawn once from the seed.

    A mixed image weighs what its two do, in the shares in which they are mixed.
    """
    torch.manual_seed(randomness.seed_from("pairs", job.seed))
    num_classes, device = len(head.bias), head.mean.device
    inputs, targets, weights = list[torch.Tensor](), list[torch.Tensor](), list[torch.Tensor]()
    for batch in job.view.batches(job.seed, 1, MIX_BATCH, None, class_weights):
        given = head.standardised(batch.inputs), _fitting.soft_targets(batch.labels, num_classes, device)
        weight = _fitting.on_device(batch.weights, device)
        *found, _, weight = _fitting.mixed(job.treatment, *given, weights=weight)
        inputs.append(found[0])
        targets.append(found[1])
        weights.append(torch.ones(len(found[1]), device=device) if weight is None else weight)
    shares = torch.cat(weights).double()
    return Rows(torch.cat(inputs), torch.cat(targets).double(), shares / shares.sum())


def _validation_rows(head: Head, validation: Examples, class_weights: tuple[float, ...] | None) -> Rows:
    """The validation part, its classes in the shares in which training draws them."""
    shares = np.ones(len(validation))
    if class_weights is not None:
        shares = (np.array(class_weights) / np.maximum(np.bincount(validation.labels, minlength=len(head.bias)), 1))[
            validation.labels
        ]
    return _made(head, validation.inputs, validation.labels, shares / shares.sum())


def _made(head: Head, inputs: np.ndarray, labels: np.ndarray, shares: np.ndarray) -> Rows:
    device = head.mean.device
    targets = _fitting.soft_targets(labels, len(head.bias), device).double()
    return Rows(head.standardised(inputs), targets, torch.from_numpy(shares).to(device))


def _start(head: Head, rows: Rows) -> np.ndarray:
    """No weights, and the logarithm of each class's share as bias: the optimum under an endless penalty.

    A class that is not among the rows, as the one epoch that is mixed may not draw it, counts as half an image.
    """
    share = (rows.targets * rows.shares[:, None]).sum(0).cpu().numpy()
    share = np.where(share > 0, share, 0.5 / len(rows.inputs))
    return np.concatenate([np.zeros(head.weight.numel()), np.log(share)])


def _logits(rows: Rows, parameters: np.ndarray) -> torch.Tensor:
    """Logits float64 [N, K]."""
    num_classes, num_features = rows.targets.shape[1], rows.inputs.shape[1]
    weights, biases = np.split(parameters, [num_classes * num_features])
    weight = torch.from_numpy(weights.reshape(num_classes, num_features)).to(rows.inputs)
    return (weight @ rows.inputs.T).T.double() + torch.from_numpy(biases).to(rows.targets)


@torch.no_grad()
def _mean_loss(rows: Rows, losses: Losses, parameters: np.ndarray) -> torch.Tensor:
    return (losses(_logits(rows, parameters), rows.targets) * rows.shares).sum()


@torch.no_grad()
def _put(head: Head, parameters: np.ndarray) -> None:
    weights, biases = np.split(parameters, [head.weight.numel()])
    head.weight.copy_(torch.from_numpy(weights.reshape(head.weight.shape)))
    head.bias.copy_(torch.from_numpy(biases))


def seconds_an_evaluation(num_images: int, num_features: int, num_classes: int, device: torch.device) -> float:
    """Time of one evaluation of the loss and its gradient on so many images (``devices.spent``)."""
    rng, number = np.random.default_rng(0), min(num_images, 4096)
    labels = np.arange(number) % num_classes
    inputs = torch.from_numpy(rng.normal(0, 1, (number, num_features)).astype(np.float32)).to(device)
    targets = _fitting.soft_targets(labels, num_classes, device).double()
    rows = Rows(inputs, targets, torch.full((number,), 1 / number, dtype=torch.float64, device=device))
    count = [0]

    def losses(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        count[0] += 1
        return _fitting.losses_of(logits, targets, PLAIN, 1.0)

    begin = np.zeros(num_classes * (num_features + 1))
    start = devices.spent(device)
    minimised(rows, losses, 1.0, begin, 1e-2)
    return (devices.spent(device) - start) / count[0] * num_images / number
