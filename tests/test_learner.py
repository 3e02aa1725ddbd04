"""The loop that all learned generators share: judged weights, class sampling, the condition's schedule, memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_generators
from moulage import devices, randomness, runs
from moulage.errors import RunError
from moulage.generators import _condition, _learner, dcgan
from moulage.generators._adversary import Adversary
from tiny_generators import SIZE, pictures


def make(**options: Any) -> dcgan.Generator:
    return tiny_generators.make("dcgan", **({"checkpoint_every": 3, "precision": "fp32"} | options))


def preferring(step: int) -> Callable[[Any], dict[str, float]]:
    """A judge who finds the preview with this number (from 1) best."""
    calls: list[int] = []

    def judge(sample: Any) -> dict[str, float]:
        assert sample(1, np.arange(2)).shape == (2, 16, 16, 3)
        calls.append(1)
        return {"AK": abs(len(calls) - step) + 0.5, "NV": float("nan")}

    return judge


def test_the_judged_best_weights_are_kept_not_the_last(tmp_path: Path):
    shorter, longer = make(steps=4, preview_every=2), make(steps=8, preview_every=2)
    shorter.fit(*pictures(), seed=0, folder=tmp_path / "4")
    longer.fit(*pictures(), seed=0, folder=tmp_path / "8", judge=preferring(2))
    assert np.array_equal(longer.sample(0, np.arange(3)), shorter.sample(0, np.arange(3)))
    kids = {record["step"]: record["kid"] for record in runs.read_log(tmp_path / "8") if "kid" in record}
    assert kids == {2: 1.5, 4: 0.5, 6: 1.5, 8: 2.5}
    last = make(steps=8, preview_every=2)
    last.fit(*pictures(), seed=0, folder=tmp_path / "last")
    assert not np.array_equal(last.sample(0, np.arange(3)), longer.sample(0, np.arange(3)))


@pytest.mark.parametrize("stop", [3, 5, 7])
def test_a_judged_fit_resumes_exactly(stop: int, tmp_path: Path):
    def kid_of_pixels(sample: Any) -> dict[str, float]:
        return {"AK": float(sample(0, np.arange(4)).mean() % 7)}

    whole = make(steps=8, preview_every=2)
    whole.fit(*pictures(), seed=0, folder=tmp_path / "whole", judge=kid_of_pixels)

    def interrupt(done: int, total: int, note: str) -> None:
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(steps=8, preview_every=2).fit(
            *pictures(), seed=0, folder=tmp_path / "again", judge=kid_of_pixels, progress=interrupt
        )
    again = make(steps=8, preview_every=2)
    again.fit(*pictures(), seed=0, folder=tmp_path / "again", judge=kid_of_pixels)
    assert np.array_equal(again.sample(0, np.arange(3)), whole.sample(0, np.arange(3)))
    assert (tmp_path / "again" / _learner.BEST).read_bytes() == (tmp_path / "whole" / _learner.BEST).read_bytes()


def test_a_judge_without_a_score_keeps_the_last_weights(tmp_path: Path):
    judged, plain = make(steps=4, preview_every=2), make(steps=4, preview_every=2)
    judged.fit(*pictures(), seed=0, folder=tmp_path / "judged", judge=lambda sample: {"AK": float("nan")})
    plain.fit(*pictures(), seed=0, folder=tmp_path / "plain")
    assert np.array_equal(judged.sample(0, np.arange(3)), plain.sample(0, np.arange(3)))


def test_progress_says_images_a_second_and_the_judges_score(tmp_path: Path):
    notes: list[str] = []
    make(steps=4, preview_every=2).fit(
        *pictures(), seed=0, folder=tmp_path, judge=preferring(1), progress=lambda d, t, note: notes.append(note)
    )
    assert "images/s" in notes[0]
    assert "KID 1.5000 (best 0.5000 at 2)" in notes[-1]


@pytest.mark.parametrize(("sampling", "shares"), [("natural", (90, 10)), ("sqrt", (75, 25)), ("balanced", (50, 50))])
def test_sampling_decides_how_often_a_class_is_seen(sampling: str, shares: tuple[int, int]):
    labels = np.repeat([0, 1], [90, 10])
    drawn = randomness.batches(labels, 50, sampling, "test")
    seen = np.concatenate([drawn[step] for step in range(200)])
    assert 100 * np.bincount(labels[seen]) / len(seen) == pytest.approx(shares, abs=1.5)
    assert np.array_equal(drawn[7], randomness.batches(labels, 50, sampling, "test")[7])
    assert len(np.unique(seen)) == 100


@pytest.mark.parametrize(
    ("options", "strengths"),
    [
        ({}, (1, 1, 1, 1)),
        ({"condition_end": 1.0}, (0, 0.25, 0.5, 1)),
        ({"condition_start": 0.25, "condition_end": 0.75}, (0, 0, 0.5, 1)),
        ({"condition_start": 0.5, "condition_end": 0.5}, (0, 0, 1, 1)),
    ],
)
def test_the_condition_comes_in_as_scheduled(options: dict[str, Any], strengths: tuple[float, ...]):
    config = dcgan.Config(**options)
    assert tuple(config.condition_at(p) for p in (0, 0.25, 0.5, 1)) == pytest.approx(strengths)
    game = make(**options).game()
    _condition.set_strength(game, 0.25)
    for network in (game.generator, game.discriminator):
        found = [float(m.strength) for m in network.modules() if isinstance(m, _condition.Conditional)]
        assert found == [0.25]


def test_a_batch_in_parts_has_nearly_the_same_gradient():
    """Exactly the same where no batch norm mixes the images of a batch, as in r3gan."""
    options = {"precision": "fp32", "discriminator_augment": "none"}
    after = []
    for accumulate in (1, 2):
        generator = tiny_generators.make("r3gan", ("AK",), 8, accumulate=accumulate, **options)
        with randomness.reproducible("test"):
            game = generator.game()
            real = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
            facts = game.step(real, torch.zeros(4, dtype=torch.long), 1, torch.Generator().manual_seed(1))
        gradients = [p.grad for p in (*game.generator.parameters(), *game.discriminator.parameters())]
        after.append((float(facts["loss_d"]), gradients))
    assert after[0][0] == pytest.approx(after[1][0], rel=1e-5)
    for one, other in zip(after[0][1], after[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_out_of_memory_says_what_to_try(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr("moulage.generators._adversary.Adversary.step", fail)
    with pytest.raises(RunError, match="batches of 4 images") as raised:
        make(steps=2).fit(*pictures(), seed=0, folder=tmp_path)
    assert "accumulate = 2" in raised.value.hint
    assert "batch_size = 2" in raised.value.hint


def test_the_parts_that_fit_the_memory_are_found_before_the_work(monkeypatch: pytest.MonkeyPatch):
    step = Adversary.step

    def limited(self: Adversary, *rest: Any) -> dict[str, Any]:
        if self.config.accumulate < 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, *rest)

    monkeypatch.setattr(Adversary, "step", limited)
    generator = make(steps=2)
    with pytest.raises(RunError, match="batches of 4 images") as raised:
        generator.steps_and_seconds(10)
    assert "accumulate = 2: a batch in 2 parts was tried and fits" in raised.value.hint
    assert generator.config.accumulate == 1


def test_other_runtime_errors_pass_through():
    with pytest.raises(RuntimeError, match="shape"), devices.enough_memory(4):
        raise RuntimeError("shape mismatch")


def test_steps_replace_epochs_and_epochs_steps():
    assert dcgan.Config(steps=7).epochs is None
    assert dcgan.Config(steps=7).num_steps(100) == 7
    assert dcgan.Config(epochs=2, batch_size=32).num_steps(100) == 7


# Drawing


class Remembers(dcgan.Generator):
    """Notes the sizes of the batches that it draws; those of more than ``differs`` have other bits."""

    differs = 10**9

    def draw(self, network: Any, labels: torch.Tensor, seeds: np.ndarray) -> torch.Tensor:
        self.sizes: list[int] = [*getattr(self, "sizes", []), len(seeds)]
        values = _learner.latents(seeds, 3, self.size, self.size) / 4
        return values + 1e-7 * (len(seeds) > self.differs)


def test_large_batches_are_drawn_where_they_have_the_bits_of_small_ones():
    generator = Remembers(tiny_generators.configure("dcgan"), ("AK",), SIZE)
    generator._network = torch.nn.Identity()
    plain = generator.sample(0, np.arange(100))
    assert generator.sizes == [16] * 7
    generator.batch_size = 40
    for differs, sizes in ((10**9, [32, 32, 32, 16]), (31, [16] * 7)):
        generator.differs, generator._is_same, generator.sizes = differs, {}, []
        assert np.array_equal(generator.sample(0, np.arange(100)), plain)
        assert generator.sizes == [16, 16, 32, *sizes]  # 32 are tried both ways before
        generator.sizes = []
        assert np.array_equal(generator.sample(0, np.arange(100)), plain)
        assert generator.sizes == sizes


def test_latents_stay_standard_normal_on_the_way_from_one_to_another():
    places = np.zeros(2000, _learner.BETWEEN)
    places["first"], places["last"] = np.arange(2000), np.arange(1, 2001)
    for share in (0.25, 0.5, 0.9):
        places["share"] = share
        drawn = _learner.latents(places, 16)
        assert float(drawn.mean()) == pytest.approx(0, abs=0.02)
        assert float(drawn.std()) == pytest.approx(1, abs=0.02)
    ends = _learner.latents(np.arange(2001), 16)
    for share, expected in ((0.0, ends[:-1]), (1.0, ends[1:])):
        places["share"] = share
        assert torch.equal(_learner.latents(places, 16), expected)
