"""What training loops share: devices, seeds, batches, averages, checkpoints, guards."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from moulage import checkpoints, devices, monitoring, optimisers, randomness, runs, sheets
from moulage.errors import CheckpointError, CollapsedError, DataError, DivergedError, RecipeError, RunError


def test_wrong_device_and_precision_are_recipe_errors():
    assert devices.pick_device("cpu").type == "cpu"
    for name in ("gpu", "cuda:99"):
        with pytest.raises(RecipeError):
            devices.pick_device(name)
    with pytest.raises(RecipeError, match="fp16"):
        devices.resolve_precision("cpu", "fp16")


def test_precision_decides_the_type_of_products():
    a = torch.ones(2, 2)
    with devices.precision("cpu", "bf16"):
        assert (a @ a).dtype == torch.bfloat16
    with devices.precision("cpu", "fp32"):
        assert (a @ a).dtype == torch.float32


def test_seeds_depend_on_values_and_order_not_on_number_types():
    assert randomness.seed_from("a", np.int64(5)) == randomness.seed_from("a", 5) != randomness.seed_from(5, "a")
    first, again = (torch.randn(3, generator=randomness.generator_for("z", 1)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, torch.randn(3, generator=randomness.generator_for("z", 2)))


def test_reproducible_repeats_and_restores():
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    draws = []
    for parts in (("x", 1), ("x", 1), ("x", 2)):
        with randomness.reproducible(*parts, num_threads=1):
            assert torch.are_deterministic_algorithms_enabled()
            draws.append(torch.rand(4))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_random_state_goes_on_where_it_was():
    with randomness.reproducible("state"):
        state = randomness.random_state()
        first = torch.rand(5)
        randomness.restore_random_state(state)
        assert torch.equal(torch.rand(5), first)


@pytest.mark.parametrize(("num_items", "batch_size"), [(10, 4), (3, 8), (2, 5), (8, 8), (100, 32)])
def test_shuffle_shows_every_item_once_an_epoch(num_items: int, batch_size: int):
    shuffle = randomness.Shuffle(num_items, batch_size, 7)
    num_steps = shuffle.num_steps(4)
    stream = np.concatenate([shuffle[step] for step in range(num_steps)])
    assert len(stream) == num_steps * batch_size >= 4 * num_items > len(stream) - batch_size
    for epoch in range(4):
        assert sorted(stream[epoch * num_items : (epoch + 1) * num_items]) == list(range(num_items))
    assert np.array_equal(randomness.Shuffle(num_items, batch_size, 7)[num_steps - 1], shuffle[num_steps - 1])


def test_shuffle_orders_differ_by_seed_and_epoch():
    shuffle = randomness.Shuffle(50, 50, 0)
    assert not np.array_equal(shuffle[0], shuffle[1])
    assert not np.array_equal(shuffle[0], randomness.Shuffle(50, 50, 1)[0])


@pytest.mark.parametrize("num_items", [0, 1])
def test_a_class_below_two_images_is_refused(num_items: int):
    with pytest.raises(DataError, match=f"AK has {num_items} image"):
        randomness.Shuffle(num_items, 4, 0, what="AK")


def test_ema_follows_the_formula_in_fp32_and_copies_buffers():
    model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1)).to(torch.bfloat16)
    ema = optimisers.EMA(model, 0.5)
    expected = float(model[0].weight.detach())
    for t in range(1, 30):
        with torch.no_grad():
            model[0].weight.fill_(t)
            model[1].running_mean.fill_(t)
        ema.update(model)
        decay = min(0.5, (1 + t) / (10 + t))
        expected = decay * expected + (1 - decay) * t
    assert float(ema.model[0].weight) == pytest.approx(expected, rel=1e-6)
    assert ema.model[0].weight.dtype == torch.float32
    assert float(ema.model[1].running_mean) == 29
    copy = optimisers.EMA(model, 0.5)
    copy.load_state_dict(ema.state_dict())
    assert copy.num_updates == 29


def _save(folder: Path, *steps: int) -> None:
    for step in steps:
        checkpoints.save(folder, step, {"w": torch.full((100,), float(step)), "note": ["a", 1]}, "settings")


def test_checkpoints_keep_the_two_newest(tmp_path: Path):
    assert checkpoints.load(tmp_path, "settings") is None
    (tmp_path / ".checkpoint-00000001.pt.99.tmp").write_text("half")
    _save(tmp_path, 9, 10, 100)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-00000010.pt", "checkpoint-00000100.pt"]
    step, state = checkpoints.load(tmp_path, "settings") or (0, {})
    assert (step, float(state["w"][0]), state["note"]) == (100, 100.0, ["a", 1])


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "text"])
def test_a_damaged_newest_checkpoint_yields_to_the_one_before(tmp_path: Path, damage: str):
    _save(tmp_path, 1, 2)
    newest = tmp_path / "checkpoint-00000002.pt"
    data = bytearray(newest.read_bytes())
    at = data.index(np.full(100, 2.0, np.float32).tobytes())
    data[at] ^= 255
    newest.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "flipped": data, "text": b"hello"}[damage])
    assert (checkpoints.load(tmp_path, "settings") or (0,))[0] == 1
    assert "checkpoint-00000002.pt" in json.loads((tmp_path / "log.jsonl").read_text())["warning"]
    (tmp_path / "checkpoint-00000001.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoints.load(tmp_path, "settings")


def test_other_settings_and_versions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _save(tmp_path, 1)
    with pytest.raises(CheckpointError, match="other settings"):
        checkpoints.load(tmp_path, "else")
    monkeypatch.setattr(runs, "FORMAT", runs.FORMAT + 1)
    with pytest.raises(CheckpointError, match=f"format {runs.FORMAT - 1}"):
        checkpoints.load(tmp_path, "settings")


def test_the_newest_state_is_that_of_the_newest_checkpoint_that_can_be_read(tmp_path: Path):
    assert checkpoints.newest(tmp_path) is None
    _save(tmp_path, 1)
    torch.save({"something": "else"}, tmp_path / "checkpoint-00000002.pt")
    (tmp_path / "checkpoint-00000003.pt").mkdir()
    assert (checkpoints.newest(tmp_path) or {})["w"][0] == 1


def test_a_checkpoint_that_cannot_be_written_says_so(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="Cannot write"):
        _save(tmp_path / "file", 1)


def test_weights_round_trip_and_refuse(tmp_path: Path):
    a, b = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    checkpoints.save_weights(tmp_path / "w.safetensors", a)
    checkpoints.load_weights(tmp_path / "w.safetensors", b)
    assert torch.equal(a.weight, b.weight)
    with pytest.raises(RunError):
        checkpoints.load_weights(tmp_path / "w.safetensors", torch.nn.Linear(4, 2))
    with pytest.raises(RunError):
        checkpoints.load_weights(tmp_path / "none.safetensors", a)
    (tmp_path / "w.safetensors").write_bytes(b"nonsense")
    with pytest.raises(RunError):
        checkpoints.load_weights(tmp_path / "w.safetensors", a)


def test_nan_stops():
    monitoring.check_finite(3, loss_d=1.0)
    with pytest.raises(DivergedError, match="step 3: loss_d nan"):
        monitoring.check_finite(3, loss_d=float("nan"), loss_g=1.0)


@pytest.mark.parametrize("name", ["adam", "sgd"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_step_whose_gradient_is_not_finite_changes_nothing(name: str, wrong: float):
    """Afterwards all goes on as if it had never been; also where it was the first."""
    after = []
    for gradients in ([1.0, -2.0], [wrong, 1.0, wrong, -2.0]):
        weights = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.full((2, 2), 5.0))]
        optimiser: torch.optim.Optimizer = torch.optim.Adam(weights, 0.1, fused=True)
        if name == "sgd":
            optimiser = torch.optim.SGD(weights, 0.1, 0.5, fused=True)
        for value in gradients:
            weights[0].grad, weights[1].grad = torch.ones(3), torch.ones(2, 2)
            weights[1].grad[1, 0] = value
            assert float(optimisers.guarded_step(optimiser)) == (not np.isfinite(value))
        after.append([*weights, *(value for state in optimiser.state.values() for value in state.values())])
    for once, again in zip(*after, strict=True):
        assert torch.equal(once, again)


def records(losses: list[float], left_out: list[float]) -> list[dict[str, torch.Tensor]]:
    return [{"loss": torch.tensor(a), "left_out": torch.tensor(b)} for a, b in zip(losses, left_out, strict=True)]


def test_steps_that_were_left_out_do_not_count_in_the_means():
    nan = float("nan")
    assert monitoring.means_of(4, records([1, nan, 3, 5], [0, 1, 0, 0])) == {"loss": 3, "left_out": 0.25}
    with pytest.raises(DivergedError, match="step 4: gradients were not finite in 3 of the last 4"):
        monitoring.means_of(4, records([1, nan, nan, 2], [0, 1, 1, 1]))
    # A log right after another one may be of a single step.
    assert monitoring.means_of(501, records([nan], [1])) == {"left_out": 1.0}
    with pytest.raises(DivergedError, match="step 2: loss nan"):
        monitoring.means_of(2, records([1, nan], [0, 0]))


def test_a_clock_strikes_after_so_many_minutes(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock, struck = checkpoints.Clock(2), []
    for now[0] in (60.0, 119.0, 121.0, 230.0, 242.0):
        struck.append(clock.strikes())
    assert struck == [False, False, True, False, True]
    assert checkpoints.Clock(0).strikes()


def test_collapse_is_judged_against_real_images():
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (90, 8, 8, 3), np.uint8)
    same = np.repeat(real[:1], 36, 0)
    monitoring.check_collapse(1, real[:36], real)
    monitoring.check_collapse(1, same, same)  # the real images are all alike too
    with pytest.raises(CollapsedError, match="step 1"):
        monitoring.check_collapse(1, same, real)


def test_board_writes_events(tmp_path: Path):
    with monitoring.Board(tmp_path, step=5) as board:
        board.scalars(6, loss=1.0)
        board.picture(6, "previews", sheets.grid(np.zeros((2, 4, 4, 3), np.uint8), 2))
    assert sum(p.stat().st_size for p in (tmp_path / "tensorboard").iterdir()) > 100
