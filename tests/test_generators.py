"""The contract that every generator keeps; what is particular to one is in a file of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moulage import contracts, plugins, runs
from moulage.errors import CheckpointError, DataError, RunError
from tiny_generators import CLASSES, RUN, SIZE, TINY, make, marked, pictures, rates

every_generator = pytest.mark.parametrize("name", [marked(name) for name in plugins.names("generators")])


def steps_of(name: str) -> int:
    """Steps of a tiny fit on two classes, each of which ends with a checkpoint."""
    return RUN["steps"] if name in TINY else 2


@every_generator
@pytest.mark.parametrize("num_classes", [1, 2])
def test_fit_draws_the_same_images_for_the_same_seeds(name: str, num_classes: int, tmp_path: Path):
    generator = make(name, CLASSES[:num_classes])
    images, labels = pictures(num_classes=num_classes)
    before, state = images.copy(), torch.get_rng_state()
    generator.fit(images, labels, seed=0, folder=tmp_path)
    many = generator.sample(0, np.arange(40))
    assert many.shape == (40, SIZE, SIZE, 3)
    assert many.dtype == np.uint8
    assert np.array_equal(generator.sample(0, np.array([33, 5])), many[[33, 5]])
    assert not np.array_equal(many[0], many[1])
    if num_classes == 2:
        assert not np.array_equal(generator.sample(1, np.arange(40)), many)
    assert np.array_equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


@every_generator
def test_fit_depends_on_its_seed_alone(name: str, tmp_path: Path):
    drawn = []
    for i, seed in enumerate((0, 0, 1)):
        generator = make(name)
        torch.manual_seed(i)
        generator.fit(*pictures(), seed=seed, folder=tmp_path / str(i))
        drawn.append(generator.sample(0, np.arange(3)))
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


class Interrupt(Exception):
    """Stands for a kill."""


@every_generator
def test_an_interrupted_fit_resumes_exactly(name: str, tmp_path: Path):
    whole = make(name)
    whole.fit(*pictures(), seed=3, folder=tmp_path / "whole")
    expected = whole.sample(1, np.arange(4))
    num_steps = steps_of(name)
    for stop, num_lost in {(1, 1), (min(3, num_steps), 1), (num_steps, 0)}:  # steps, and checkpoints lost of these
        folder = tmp_path / str(stop) / str(num_lost)

        def interrupt(done: int, total: int, note: str, stop: int = stop) -> None:
            if done == stop:
                raise Interrupt

        with pytest.raises(Interrupt):
            make(name).fit(*pictures(), seed=3, folder=folder, progress=interrupt)
        for path in sorted(folder.glob("checkpoint-*"), reverse=True)[:num_lost]:
            path.unlink()
        again, done = make(name), []
        again.fit(*pictures(), seed=3, folder=folder, progress=lambda d, t, n, done=done: done.append((d, t)))
        assert np.array_equal(again.sample(1, np.arange(4)), expected)
        assert [d for d, _ in done] == list(range(stop + 1 - num_lost, num_steps + 1))
        for mine, theirs in zip(runs.read_log(folder), runs.read_log(tmp_path / "whole"), strict=True):
            assert (mine["step"], mine["epoch"]) == (theirs["step"], theirs["epoch"])
            assert {k: v for k, v in mine.items() if "loss" in k} == {k: v for k, v in theirs.items() if "loss" in k}


@every_generator
def test_a_fit_with_other_settings_does_not_go_on(name: str, tmp_path: Path):
    make(name).fit(*pictures(), seed=3, folder=tmp_path)
    with pytest.raises(CheckpointError):
        make(name).fit(*pictures(), seed=4, folder=tmp_path)
    with pytest.raises(CheckpointError):
        make(name).fit(*pictures(11), seed=3, folder=tmp_path)


@every_generator
def test_fit_leaves_log_previews_and_weights(name: str, tmp_path: Path):
    generator = make(name)
    generator.fit(*pictures(), seed=0, folder=tmp_path)
    last = runs.read_log(tmp_path)[-1]
    assert {"step", "epoch", "images_per_second", "seconds"} <= set(last)
    assert last["step"] == steps_of(name)
    assert list((tmp_path / "previews").glob("*.png"))
    assert list((tmp_path / "tensorboard").iterdir())
    generator.save(tmp_path / "saved")
    state = torch.get_rng_state()
    loaded = plugins.load("generators", name).Generator.load(tmp_path / "saved")
    loaded.drawing = generator.drawing
    assert torch.equal(torch.get_rng_state(), state)
    assert (loaded.classes, loaded.size) == (CLASSES, SIZE)
    assert np.array_equal(loaded.sample(1, np.arange(3)), generator.sample(1, np.arange(3)))


@every_generator
def test_larger_batches_change_no_image(name: str, tmp_path: Path):
    generator, seeds = make(name, precision="fp32") if name in TINY else make(name), np.arange(40)
    generator.fit(*pictures(), seed=0, folder=tmp_path)
    images = generator.sample(0, seeds)
    for batch_size in (20, 32, 1000):
        generator.batch_size = batch_size
        assert np.array_equal(generator.sample(0, seeds), images)


@every_generator
def test_a_way_between_two_images_begins_and_ends_with_them(name: str, tmp_path: Path):
    generator = make(name)
    generator.fit(*pictures(), seed=0, folder=tmp_path)
    between = contracts.interpolates(generator)
    if between is None:
        assert name not in TINY
        return
    first, last, shares = np.array([3, 3, 3, 8]), np.array([4, 4, 4, 9]), np.array([0.0, 0.5, 1.0, 0.25])
    images, ends = between.between(1, first, last, shares), generator.sample(1, np.array([3, 4]))
    assert np.array_equal(images[0], ends[0])
    if name == "pix2pixhd":  # the mask stays that of the first
        return
    assert np.array_equal(images[2], ends[1])
    assert not np.array_equal(images[1], images[0])
    assert not np.array_equal(images[1], images[2])


@every_generator
def test_what_was_not_fitted_cannot_draw(name: str, tmp_path: Path):
    with pytest.raises(RunError):
        make(name).sample(0, np.arange(2))
    with pytest.raises(RunError):
        make(name).save(tmp_path)
    with pytest.raises(RunError):
        plugins.load("generators", name).Generator.load(tmp_path)


@every_generator
def test_wrong_images_are_refused_before_any_work(name: str, tmp_path: Path):
    images, labels = pictures()
    wrong = {
        "shape": (images[:, :8], labels),
        "float": (images / 255, labels),
        "Labels": (images, labels + 1),
        "NV": (images, (labels == 8).astype(np.int64)),
        "AK": (images[:0], labels[:0]),
    }
    for message, (some, targets) in wrong.items():
        with pytest.raises(DataError, match=message):
            make(name).fit(some, targets, seed=0, folder=tmp_path)
    assert not any(tmp_path.iterdir())


@every_generator
def test_the_estimate_counts_steps_and_leaves_the_network_alone(name: str, tmp_path: Path):
    generator = make(name)
    generator.fit(*pictures(), seed=0, folder=tmp_path)
    before = generator.sample(0, np.arange(2))
    num_steps, seconds = generator.steps_and_seconds(100)
    assert num_steps == steps_of(name)
    assert 0 < seconds < 10
    assert np.array_equal(generator.sample(0, np.arange(2)), before)


LARGER = {"base_channels": 16, "generator_channels": (16, 8), "discriminator_channels": (8, 16)}
STYLE = {"base_channels": 256, "max_channels": 16, "latent_size": 16, "mapping_layers": 2, "deviation_group": 4}
GROWN = rates(5e-3) | {"base_channels": 4, "penalty": 1.0, "attention_size": 0, "ema_images": 53}
COLOURED: list[tuple[str, dict[str, Any]]] = [
    ("dcgan", rates(2e-3) | LARGER | {"steps": 100}),
    ("fastgan", rates(2e-3) | {"steps": 150, "base_channels": 4, "diffaugment_policy": ["translation"]}),
    ("stylegan2", STYLE | {"steps": 200, "r1_every": 16, "path_length_every": 8, "ema_images": 53}),
    ("progressive", GROWN | {"steps": 150}),
    ("progressive", GROWN | {"steps": 300, "loss": "logistic"}),
    ("diffusion", {"steps": 120, "drawing": {"num_sampling_steps": 8}, "learning_rate": 3e-3, "dropout": 0.0}),
]


@pytest.mark.parametrize(("name", "options"), [marked(*case) for case in COLOURED])
def test_each_class_is_drawn_in_its_own_colour(name: str, options: dict[str, Any], tmp_path: Path):
    images = np.random.default_rng(0).integers(60, 120, (24, SIZE, SIZE, 3)).astype(np.uint8)
    labels = np.arange(24, dtype=np.int64) % 2
    images[labels == 0, :, :, 0] += 100
    images[labels == 1, :, :, 2] += 100
    run = {"batch_size": 8, "checkpoint_minutes": 5, "preview_every": 300, "ema_images": 108}
    generator = make(name, **(run | options))
    generator.fit(images, labels, seed=0, folder=tmp_path)
    for label, channel in ((0, 0), (1, 2)):
        mean = generator.sample(label, np.arange(32)).mean((0, 1, 2))
        assert mean.argmax() == channel
        assert mean[channel] - np.delete(mean, channel).max() > (40 if name == "progressive" else 50)
