"""The loop that all learned generators share: judged weights, class sampling, the condition's schedule, memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_generators
from moulage import checkpoints, devices, randomness, runs
from moulage.errors import DivergedError, RunError
from moulage.generators import _condition, _learner, dcgan, fastgan
from moulage.generators._adversary import Adversary
from tiny_generators import pictures


def make(**options: Any) -> dcgan.Generator:
    return tiny_generators.make("dcgan", **({"checkpoint_minutes": 0, "precision": "fp32"} | options))


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


@pytest.mark.parametrize(
    ("classes", "judged"), [(("AK", "NV"), [6, 8, 10]), (("AK",), [2, 4, 6, 8, 10])], ids=["two classes", "one class"]
)
def test_only_what_is_drawn_as_at_the_end_is_judged(classes: tuple[str, ...], judged: list[int], tmp_path: Path):
    """While the condition comes in, weights that know no class could be chosen; one class has no condition."""
    options = {"steps": 10, "preview_every": 2, "condition_start": 0.2, "condition_end": 0.6}
    generator = tiny_generators.make("dcgan", classes, **options)
    images, labels = pictures(num_classes=len(classes))
    generator.fit(images, labels, seed=0, folder=tmp_path, judge=lambda sample: {"AK": 1.0})
    assert [record["step"] for record in runs.read_log(tmp_path) if "kid" in record] == judged


def nan_at(wrong: set[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """At these steps the discriminator's loss is NaN."""
    loss_of = dcgan.Game.discriminator_loss

    def loss(self: dcgan.Game, real: Any, fake: Any, labels: Any, step: int, rng: Any) -> Any:
        loss, *rest = loss_of(self, real, fake, labels, step, rng)
        return (loss * (float("nan") if step in wrong else 1), *rest)

    monkeypatch.setattr(dcgan.Game, "discriminator_loss", loss)


def test_a_step_without_finite_gradients_is_left_out_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nan_at({2}, monkeypatch)
    generator = make(steps=6, preview_every=3)
    generator.fit(*pictures(), seed=0, folder=tmp_path)
    assert [record["left_out"] for record in runs.read_log(tmp_path)] == pytest.approx([1 / 3, 0])
    assert all(np.isfinite(record["loss_d"]) for record in runs.read_log(tmp_path))
    assert all(value.isfinite().all() for value in generator.network.state_dict().values())


def test_a_fit_without_finite_gradients_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    nan_at({4, 5, 6}, monkeypatch)
    with pytest.raises(DivergedError, match="step 6: gradients were not finite in 3 of the last 3"):
        make(steps=6, preview_every=3).fit(*pictures(), seed=0, folder=tmp_path)


def test_checkpoints_come_by_time_and_the_log_does_not_depend_on_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    written: list[int] = []
    save = checkpoints.save
    monkeypatch.setattr(
        checkpoints, "save", lambda folder, step, *rest: (written.append(step), save(folder, step, *rest))
    )
    logs = {}
    for minutes in (0.0, 1440.0):
        make(steps=5, preview_every=3, checkpoint_minutes=minutes).fit(
            *pictures(), seed=0, folder=tmp_path / str(minutes)
        )
        logs[minutes] = [(r["step"], r["loss_d"], r["loss_g"]) for r in runs.read_log(tmp_path / str(minutes))]
    assert written == [1, 2, 3, 4, 5, 5]
    assert logs[0.0] == logs[1440.0]


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


def test_the_length_of_a_fit_is_given_in_images_epochs_or_steps():
    assert dcgan.Config(steps=7).epochs is None
    assert dcgan.Config(steps=7).num_steps(100) == 7
    assert dcgan.Config(epochs=2, batch_size=32).num_steps(100) == 7
    assert dcgan.Config(images=200, batch_size=32).num_steps(100) == 7
    assert fastgan.Config(epochs=1).images is None
    assert fastgan.Config().num_steps(100) == 50_000  # the paper's, of batches of 8


@pytest.mark.parametrize("batch_size", [4, 32])
def test_the_average_forgets_half_in_so_many_images(batch_size: int):
    config = dcgan.Config(ema_images=320, batch_size=batch_size)
    assert config.ema_decay ** (320 / batch_size) == pytest.approx(0.5)
    assert dcgan.Config(ema_images=0).ema_decay == 0
