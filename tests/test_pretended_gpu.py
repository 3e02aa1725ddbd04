"""Every GAN's step on a GPU that is not there: tensors of shapes, types and devices without numbers.

An operation on tensors of two devices, or of types that do not go together under a GPU's autocast, raises here as it
would there. Blind to numbers, to the backward pass and to speed, which are stubbed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from moulage import devices
from moulage.generators import progressive
from test_gans import CASES
from tiny_generators import SIZE, make


@contextmanager
def autocast(*_: Any) -> Iterator[None]:
    """``devices.precision`` in bf16 of a GPU, which ``torch.autocast`` switches off where there is none."""
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])


def to_gpu(game: Any) -> None:
    """Give every network weights and buffers on the pretended GPU, and build the optimisers anew."""
    game.device = torch.device("cuda")
    networks = [value for value in vars(game).values() if isinstance(value, torch.nn.Module)]
    for module in [module for network in [*networks, game.ema.model] for module in network.modules()]:
        for name, weight in module._parameters.items():
            if weight is not None:
                empty = torch.empty_like(weight, device="cuda")
                module._parameters[name] = torch.nn.Parameter(empty, weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device="cuda")
    game.generator_optimiser = game.config.generator_optimiser.build(game.generator)
    game.discriminator_optimiser = game.config.discriminator_optimiser.build(game.discriminator)


@pytest.fixture
def without_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs a number gets 1; gradients have the shape of what they are of."""
    monkeypatch.setattr(devices, "precision", autocast)
    for name, one in (("item", 1), ("__int__", 1), ("__float__", 1.0)):
        monkeypatch.setattr(torch.Tensor, name, lambda self, one=one: one)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: np.ones(tuple(self.shape), int).tolist())
    monkeypatch.setattr(torch.autograd, "grad", lambda of, at, **_: [torch.empty_like(at).requires_grad_()])


@pytest.mark.parametrize(("name", "more"), CASES, ids=str)
def test_a_step_keeps_to_one_device_and_to_types_that_go_together(
    name: str, more: dict[str, Any], without_numbers: None, monkeypatch: pytest.MonkeyPatch
):
    num_steps = 4 if name == "progressive" else 2  # at both ends, and while a resolution fades in
    options = more | {"discriminator_augment": "ada", "ada_probability": 0.8, "ada_images": 100, "accumulate": 2}
    generator = make(name, **(options | {"precision": "bf16", "steps": num_steps}))
    generator.num_steps = num_steps
    game, steps = generator.game(), range(1, num_steps + 1)
    grown = [progressive.upper(generator.growth_at(step)) for step in steps] if name == "progressive" else []

    def backward(loss: torch.Tensor) -> None:
        assert loss.device.type == "cuda"
        for weight in (*game.generator.parameters(), *game.discriminator.parameters()):
            weight.grad = torch.empty_like(weight) if weight.requires_grad else weight.grad

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    with FakeTensorMode(allow_non_fake_inputs=True):
        to_gpu(game)
        real = torch.empty(4, generator.NUM_PLANES, SIZE, SIZE, device="cuda")
        labels = torch.zeros(4, dtype=torch.long, device="cuda")
        for step in steps:
            if name == "progressive":  # the buffer that says how far it has grown has no number
                monkeypatch.setattr(progressive, "upper", lambda _, now=grown[step - 1]: now)
            logged = game.step(real, labels, step, torch.Generator().manual_seed(step))
            assert {value.device.type for key, value in logged.items() if key != "ada_p"} == {"cuda"}
