"""Fits that go on from the weights of another one: what is taken over, what is frozen, what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moulage import recipe as recipes
from moulage import runs
from moulage.checkpoints import newest, read_weights
from moulage.errors import CheckpointError, LeakError, RecipeError, RunError
from moulage.generators import _start
from moulage.stages import plan
from recipes import phantom_recipe, tiny_gan
from small_study import Small
from tiny_generators import TINY, make, marked, pictures, rates

GANS = [name for name in TINY if "diffusion" not in name]


def fitted(name: str, folder: Path, **options: Any) -> Path:
    """The folder of a finished fit."""
    start = options.pop("start", None)
    settings: dict[str, Any] = {"precision": "fp32"} | options
    generator = make(name, **settings)
    generator.fit(*pictures(), seed=0, folder=folder, start=start)
    generator.save(folder)
    return folder


def discriminator(folder: Path) -> dict[str, torch.Tensor]:
    """Of the last checkpoint."""
    state = newest(folder)
    assert state
    return state["game"]["discriminator"]


@pytest.mark.parametrize("name", [marked(name) for name in TINY])
def test_a_fit_begins_with_the_averaged_weights_of_another(name: str, tmp_path: Path):
    first = fitted(name, tmp_path / "first")
    game = make(name, precision="fp32").game()
    shares = _start.begin(game, first)
    assert set(shares.values()) == {1.0}
    assert ("discriminator" in shares) == (name in GANS)
    known, mine = read_weights(first / "weights.safetensors"), game.ema.model.state_dict()
    learning = (game.generator if name in GANS else game.network).state_dict()
    for key, value in known.items():
        assert torch.equal(mine[key], value), key
        assert torch.equal(learning[key], value), key


@pytest.mark.parametrize("name", [marked(name) for name in GANS if name not in ("pix2pixhd", "projected_gan")])
def test_the_first_layers_of_a_discriminator_are_frozen(name: str, tmp_path: Path):
    """With two layers frozen the layer on the image stays to the last bit, and the head learns; without, both do."""
    fast: dict[str, Any] = rates(1e-2)
    first = fitted(name, tmp_path / "first", **fast)
    before = discriminator(first)
    changed = {}
    for num in (0, 2):
        after = discriminator(fitted(name, tmp_path / str(num), start=first, freeze_discriminator=num, **fast))
        same = [torch.equal(after[key], value) for key, value in before.items()]
        changed[num] = {key for key, equal in zip(before, same, strict=True) if not equal}
    frozen = {key for key in changed[0] - changed[2] if before[key].ndim > 1}
    assert len(frozen) == (3 if name == "progressive" else 2)  # there it is the first two at each resolution
    assert any(before[key].shape[1] in (3, 12, 48) for key in frozen)  # of the image, or of patches of it
    assert any("head" in key or "last" in key for key in changed[2])


def test_an_interrupted_fit_goes_on_and_does_not_start_again(tmp_path: Path):
    first = fitted("dcgan", tmp_path / "first")
    whole = read_weights(fitted("dcgan", tmp_path / "whole", start=first) / "weights.safetensors")
    options: dict[str, Any] = {"precision": "fp32", "checkpoint_minutes": 0}

    class Stop(Exception):
        pass

    def stop(done: int, total: int, note: str) -> None:
        if done == 3:
            raise Stop

    with pytest.raises(Stop):
        make("dcgan", **options).fit(*pictures(), seed=0, folder=tmp_path / "again", start=first, progress=stop)
    generator = make("dcgan", **options)
    generator.fit(*pictures(), seed=0, folder=tmp_path / "again", start=first)
    for key, value in generator.network.state_dict().items():
        assert torch.equal(value, whole[key]), key
    with pytest.raises(CheckpointError):
        make("dcgan", **options).fit(*pictures(), seed=0, folder=tmp_path / "again")
    other = fitted("dcgan", tmp_path / "other", steps=3)
    with pytest.raises(CheckpointError):
        make("dcgan", **options).fit(*pictures(), seed=0, folder=tmp_path / "again", start=other)


def test_what_does_not_fit_starts_anew(tmp_path: Path):
    first = fitted("dcgan", tmp_path / "first")
    one = make("dcgan", ("AK",), precision="fp32")
    images, _ = pictures(num_classes=1)
    one.fit(images, np.zeros(len(images), np.int64), seed=0, folder=tmp_path / "one", start=first)
    [line] = [line for line in (tmp_path / "one" / "log.jsonl").read_text().splitlines() if "started_from" in line]
    assert '"started_from": "first"' in line
    shares = _start.begin(make("dcgan", latent_size=7).game(), first)
    assert 0.3 < shares["generator"] < 1
    assert shares["discriminator"] == 1
    for path in first.glob("checkpoint-*.pt"):
        path.unlink()
    assert _start.begin(make("dcgan").game(), first) == {"generator": 1.0}
    assert _start.begin(make("dcgan").game(), first / "weights.safetensors") == {"generator": 1.0}
    with pytest.raises(RunError, match=r"Nothing in .* fits"):
        _start.begin(make("r3gan", ("AK",)).game(), first)
    with pytest.raises(RunError, match="cannot be read"):
        fitted("dcgan", tmp_path / "none", start=tmp_path / "missing")


# In a study


def recipe_with(**generators: Any) -> dict[str, Any]:
    tables = {name: tiny_gan("NV", "AK", steps=4) | table for name, table in generators.items()}
    arms = {name: {"balance": "synthesize", "generator": name, "add": {"AK": 2}} for name in [*tables][-1:]}
    return phantom_recipe(generators=tables, fidelity={"num_images": 0, "judge_images": 0}, arms=arms)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Small:
    values = recipe_with(all={}, rare={"classes": ["AK"], "start": "all"})
    return Small(values, tmp_path_factory.mktemp("start"))


@pytest.mark.slow
def test_a_generator_goes_on_from_another_of_its_study(finished: Small):
    rare, everything = finished.stage("generator", "rare"), finished.stage("generator", "all")
    assert rare.start == everything
    assert everything in rare.needs
    records = (finished.run / rare.folder / "log.jsonl").read_text()
    assert Path(everything.folder).name in records
    assert "has seen is not known here" not in finished.collect().model_dump_json()
    assert not any("seen is not known" in note for verdict in finished.collect().verdicts for note in verdict.notes)


@pytest.mark.slow
def test_weights_from_elsewhere_are_known_by_content_and_told(finished: Small, tmp_path: Path):
    fit = finished.run / finished.stage("generator", "all").folder
    place = tmp_path / "weights.safetensors"
    place.write_bytes((fit / "weights.safetensors").read_bytes())
    small = Small(recipe_with(rare={"start": str(place)}), tmp_path / "run")
    [verdict] = small.collect().verdicts
    assert any("seen is not known" in note for note in verdict.notes)
    before = small.stage("generator", "rare").folder
    moved = place.rename(tmp_path / "moved.safetensors")
    again = plan.plan(recipes.parse(recipe_with(rare={"start": str(moved)})), small.prepared)
    assert [stage.folder for stage in again if stage.kind == "generator"] == [before]
    weights = read_weights(moved)
    first = next(iter(weights))
    from safetensors.torch import save_file

    save_file(weights | {first: weights[first] + 1}, moved)
    other = plan.plan(recipes.parse(recipe_with(rare={"start": str(moved)})), small.prepared)
    assert [stage.folder for stage in other if stage.kind == "generator"] != [before]


@pytest.mark.slow
def test_a_start_that_saw_another_split_is_a_leak(finished: Small, tmp_path: Path):
    fit = tmp_path / "fit"
    fit.mkdir()
    for path in (finished.run / finished.stage("generator", "all").folder).iterdir():
        if path.is_file():
            (fit / path.name).write_bytes(path.read_bytes())
    recipe = recipes.parse(recipe_with(rare={"start": str(fit)}))
    plan.check(recipe)
    plan.plan(recipe, finished.prepared)
    about = runs.read_json(fit / "generator.json")
    runs.write_json(fit / "generator.json", about | {"split_digest": "of another"})
    with pytest.raises(LeakError, match="another split"):
        plan.plan(recipe, finished.prepared)
    runs.write_json(fit / "generator.json", about | {"plugin": "r3gan"})
    with pytest.raises(RecipeError, match="it is of r3gan"):
        plan.check(recipe)


@pytest.mark.parametrize(
    ("generators", "message"),
    [
        ({"a": {"start": "b"}, "b": {"start": "a"}}, "in a circle: a <- b <- a"),
        ({"a": {"start": "a"}}, "in a circle"),
        ({"a": {}, "b": {"start": "c"}}, 'no generator "c" in this recipe, nor such a path'),
        ({"a": {"plugin": "r3gan", "options": {}}, "b": {"start": "a"}}, "it is of r3gan, and this is dcgan"),
        ({"a": {"plugin": "noise", "options": {}, "start": "b"}, "b": {}}, "noise has no weights"),
        ({"a": {"options": {"freeze_discriminator": 2}}}, "freeze_discriminator holds layers"),
        ({"a": {"options": {"freeze_discriminator": 2}, "start": __file__}}, "there is no discriminator in"),
    ],
)
def test_a_start_that_cannot_be_is_refused_before_any_work(generators: dict[str, Any], message: str):
    with pytest.raises(RecipeError, match=message):
        plan.check(recipes.parse(recipe_with(**generators)))
