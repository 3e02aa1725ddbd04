"""What is particular to ``finetuned_diffusion``, on a latent diffusion model with random weights."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_file_of_torch
from safetensors.torch import save_file as save_file_of_torch

import tiny_generators
import tiny_latent_diffusion
from moulage.errors import RecipeError, RunError
from moulage.generators import _editing, finetuned_diffusion
from moulage.generators._learner import latents as latents_of
from recipes import SCRATCH, phantom_recipe
from small_study import Small
from tiny_generators import SIZE, pictures

pytestmark = pytest.mark.slow  # the packages take ten seconds to import


def make(**options: Any) -> finetuned_diffusion.Generator:
    return tiny_generators.make(
        "finetuned_diffusion", **({"drawing": {"num_sampling_steps": 3}, "precision": "fp32"} | options)
    )


def fitted(folder: Path, **options: Any) -> finetuned_diffusion.Generator:
    generator = make(**options)
    generator.fit(*pictures(), seed=0, folder=folder)
    return generator


def open_base(weights: str, **options: Any) -> finetuned_diffusion.Base:
    return finetuned_diffusion.open_base(weights, ["a", "b c"], options.get("resolution"), 2, options.get("alpha", 2.0))


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


# The model and what learns beside it


def test_an_adapter_starts_as_the_model_and_moves_it_by_alpha_over_rank():
    base = open_base(tiny_latent_diffusion.folder(), alpha=6.0)
    adapter = finetuned_diffusion.Adapter(base)
    latents, times, labels = normal(2, 4, 8, 8), torch.tensor([3, 700]), torch.tensor([0, 1])
    prompts = base.embeddings[labels]

    import diffusers

    plain = diffusers.UNet2DConditionModel.from_pretrained(tiny_latent_diffusion.folder(), subfolder="unet")
    start = adapter(latents, times, labels, torch.ones(2))
    torch.testing.assert_close(start, plain(latents, times, prompts).sample)
    matrices = dict(adapter.matrices.items())
    for name in [name for name in matrices if "lora_B" in name]:
        owner = name.split("/lora_B")[0].replace("/", ".")
        with torch.no_grad():
            matrices[name].copy_(normal(*matrices[name].shape))
            plain.get_submodule(owner).weight += 3 * matrices[name] @ matrices[name.replace("lora_B", "lora_A")]
    moved = adapter(latents, times, labels, torch.ones(2))
    torch.testing.assert_close(moved, plain(latents, times, prompts).sample, atol=1e-3, rtol=0)
    assert (moved - start).abs().max() > 0.01
    assert all(".attn" in name.replace("/", ".") for name in matrices)


def test_a_hidden_prompt_is_the_empty_one():
    prompts = finetuned_diffusion.Prompts(normal(3, 8, 8))
    labels = torch.tensor([0, 1, 0])
    shown = prompts(labels, torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(shown, prompts.embeddings[[0, 1, 2]])
    prompts.strength.fill_(0.5)
    torch.testing.assert_close(prompts(labels[:1], torch.ones(1))[0], prompts.embeddings[[0, 2]].mean(0))


def test_what_is_saved_is_small_and_knows_its_model(tmp_path: Path):
    generator = fitted(tmp_path / "fit")
    generator.save(tmp_path / "saved")
    saved = load_file(tmp_path / "saved" / "weights.safetensors")
    others = {name for name in saved if "lora_" not in name}
    assert others == {"base_digest", "prompts.strength"}
    facts = json.loads((tmp_path / "saved" / "config.json").read_text())
    facts["config"]["weights"] = tiny_latent_diffusion.folder(seed=1)
    (tmp_path / "saved" / "config.json").write_text(json.dumps(facts))
    with pytest.raises(RunError, match="another pre-trained model"):
        finetuned_diffusion.Generator.load(tmp_path / "saved")


def test_a_fit_does_not_go_on_from_another_model_in_the_same_place(tmp_path: Path):
    place = tmp_path / "model"
    shutil.copytree(tiny_latent_diffusion.folder(), place)
    fitted(tmp_path / "fit", weights=str(place))
    shutil.rmtree(place)
    shutil.copytree(tiny_latent_diffusion.folder(seed=1), place)
    with pytest.raises(RunError, match="another pre-trained model"):
        fitted(tmp_path / "fit", weights=str(place))


# Weights in half precision, as hubs have them

HALVES = [("float16", ""), ("bfloat16", ""), ("float16", "fp16")]


@pytest.mark.parametrize(("dtype", "variant"), HALVES)
def test_half_precision_weights_are_computed_with_in_full(dtype: str, variant: str, tmp_path: Path):
    """The model is the one whose weights are those numbers in float32, to the last bit of its images."""
    half = tiny_latent_diffusion.folder(dtype=dtype, variant=variant)
    base = open_base(half)
    for network in (base.unet, base.vae):
        assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    assert base.embeddings.dtype == torch.float32
    assert not torch.equal(base.digest, open_base(tiny_latent_diffusion.folder()).digest)
    whole = rewritten(half, tmp_path / "whole")
    assert torch.equal(base.digest, open_base(str(whole)).digest)
    images = [
        fitted(tmp_path / Path(weights).name, weights=str(weights)).sample(0, np.arange(3)) for weights in (half, whole)
    ]
    assert np.array_equal(*images)


def rewritten(model: str, place: Path) -> Path:
    """A model whose weights are written in float32, in files of the usual names."""
    shutil.copytree(model, place)
    for path in place.rglob("*.safetensors"):
        state = load_file_of_torch(path)
        path.unlink()
        save_file_of_torch({name: value.float() for name, value in state.items()}, str(path).replace(".fp16.", "."))
    return place


@pytest.mark.parametrize(("dtype", "precision"), [("float16", "fp32"), ("bfloat16", "bf16")])
def test_from_a_folder_of_half_precision_weights_to_a_study(dtype: str, precision: str, tmp_path: Path):
    options = tiny_generators.TINY["finetuned_diffusion"] | {"weights": tiny_latent_diffusion.folder(dtype=dtype)}
    options |= {"steps": 2, "batch_size": 4, "precision": precision}
    few = {"num_sampling_steps": 2}
    table = {"plugin": "finetuned_diffusion", "classes": ["AK", "NV"], "size": 16, "options": options, "drawing": few}
    added: dict[str, Any] = {"balance": "synthesize", "generator": "lora", "add": {"AK": 3}}
    ways = {"unguided": {"guidance": 1.0}, "edited": {"strength": 0.5, "edit": "lesion"}}
    arms = {"lora": added, **{arm: added | {"drawing": way} for arm, way in ways.items()}}
    scored = {"num_images": 20, "judge_images": 0, "features": {"backbone": SCRATCH}}
    data = {"options": {"num_images": 420}}
    finished = Small(phantom_recipe(data=data, generators={"lora": table}, fidelity=scored, arms=arms), tmp_path)
    found = finished.collect()
    assert {fit.arm for fit in found.fits} == {"none", "lora", *ways}
    assert [made.drawing for made in found.generators] == [few, *(few | way for way in ways.values())]
    assert [made.edit for made in found.generators] == ["", "", "lesion"]
    assert len(finished.of_kind("generator")) == 1
    for stage in finished.of_kind("samples"):
        paths = sorted((tmp_path / stage.folder / "AK").glob("*.png"))
        drawn = np.stack([np.asarray(Image.open(path)) for path in paths])
        assert drawn.shape == (3, 16, 16, 3)
        assert drawn.std() > 1


# The loss


def oracle(network: Any, kind: str, clean: torch.Tensor, off: float, noise: list[torch.Tensor]) -> Any:
    """A ``forward`` that says the clean latents are ``clean + off / sqrt(SNR)``, and notes down what it guesses."""

    def forward(latents: torch.Tensor, times: torch.Tensor, labels: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        signal = network.base.schedule.alphas_cumprod[times].view(-1, 1, 1, 1)
        a, b = signal.sqrt(), (1 - signal).sqrt()
        said = clean + off * b / a
        noise.append((latents - a * said) / b)
        return {"epsilon": noise[-1], "v_prediction": a * noise[-1] - b * said, "sample": said}[kind]

    return forward


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_loss_is_that_of_what_the_model_predicts(kind: str, monkeypatch: pytest.MonkeyPatch):
    """A perfect prediction has no loss; one that is off counts min(SNR, gamma) times its error in the latents."""
    generator = make(weights=tiny_latent_diffusion.folder(prediction=kind), class_dropout=0.0, min_snr_gamma=1000.0)
    game, clean, noise = generator.game(), torch.full((64, 4, 8, 8), 0.7), []
    monkeypatch.setattr(finetuned_diffusion, "encode", lambda *args: clean)
    args = torch.zeros(64, 3, SIZE, SIZE), torch.zeros(64, dtype=torch.long)
    for off in (0.0, 0.5):
        game.network.forward = oracle(game.network, kind, clean, off, noise)
        assert float(game.loss(*args, torch.Generator().manual_seed(0))) == pytest.approx(off**2, rel=1e-2, abs=1e-5)
    assert noise[0].std() == pytest.approx(1, abs=0.05)


def test_weights_are_the_limited_ratio_on_the_clean_image():
    snr = torch.tensor([0.1, 1.0, 5.0, 50.0])
    assert finetuned_diffusion.snr_weight(snr, "epsilon", 5).tolist() == pytest.approx([1, 1, 1, 0.1])
    assert finetuned_diffusion.snr_weight(snr, "v_prediction", 5).tolist() == pytest.approx(
        [0.1 / 1.1, 0.5, 5 / 6, 5 / 51]
    )
    assert finetuned_diffusion.snr_weight(snr, "v_prediction", None).tolist() == [1, 1, 1, 1]


# Drawing


@pytest.mark.parametrize("sampler", ["dpm++", "ddim"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_an_ideal_model_draws_the_only_image_it_knows(sampler: str, kind: str, monkeypatch: pytest.MonkeyPatch):
    generator = make(weights=tiny_latent_diffusion.folder(prediction=kind))
    adapter = generator.network_of()
    clean, decoded = torch.linspace(-1, 1, 256).view(1, 4, 8, 8), []
    adapter.forward = oracle(adapter, kind, clean, 0.0, [])
    decode = adapter.base.vae.decode
    monkeypatch.setattr(adapter.base.vae, "decode", lambda z: decoded.append(z) or decode(z))
    drawing = finetuned_diffusion.Drawing(sampler=sampler, guidance=1.0, num_sampling_steps=3)
    with torch.no_grad():
        finetuned_diffusion.draw(drawing, adapter, torch.zeros(2, dtype=torch.long), np.arange(2), SIZE)
    for latents in decoded:
        torch.testing.assert_close(latents * adapter.base.vae.config.scaling_factor, clean, atol=1e-3, rtol=0)


@pytest.mark.parametrize("sampler", ["dpm++", "ddim"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_what_an_ideal_model_edits_becomes_its_only_image_and_the_rest_stays(
    sampler: str, kind: str, monkeypatch: pytest.MonkeyPatch
):
    """The network sees the image as noisy as the strength says, and outside of the region sees it all the way."""
    generator = make(weights=tiny_latent_diffusion.folder(prediction=kind))
    adapter, seen, decoded = generator.network_of(), [], []
    base, clean = adapter.base, torch.linspace(-1, 1, 256).view(1, 4, 8, 8)
    knows = oracle(adapter, kind, clean, 0.0, [])
    adapter.forward = lambda latents, times, *rest: (
        seen.append((latents, int(times[0]))) or knows(latents, times, *rest)
    )
    decode = base.vae.decode
    monkeypatch.setattr(base.vae, "decode", lambda z: decoded.append(z) or decode(z))
    images, region = normal(2, 3, SIZE, SIZE) / 3, torch.zeros(2, 1, SIZE, SIZE, dtype=torch.bool)
    region[..., : SIZE // 2] = True
    drawing = finetuned_diffusion.Drawing(sampler=sampler, guidance=1.0, num_sampling_steps=10, strength=0.4)
    with torch.no_grad():
        parent = finetuned_diffusion.encode(base, images)
        for given in (_editing.Given(images, region), _editing.Given(images, None)):
            seen.clear(), decoded.clear()
            finetuned_diffusion.draw(drawing, adapter, torch.zeros(2, dtype=torch.long), np.arange(2), SIZE, given)
            latents = torch.cat(decoded) * base.vae.config.scaling_factor
            torch.testing.assert_close(latents[..., :4], clean[..., :4].expand(2, -1, -1, -1), atol=2e-3, rtol=0)
            right = parent if given.region is not None else clean.expand(2, -1, -1, -1)
            torch.testing.assert_close(latents[..., 4:], right[..., 4:], atol=2e-3, rtol=0)
            assert len(seen) == 4
            assert 300 <= seen[0][1] <= 400
            noise = latents_of(np.arange(2), 4, 8, 8, name="noise")
            for state, time in seen if given.region is not None else seen[:1]:
                signal = base.schedule.alphas_cumprod[time]
                noisy = signal.sqrt() * parent + (1 - signal).sqrt() * noise
                torch.testing.assert_close(state[..., 4:], noisy[..., 4:], atol=2e-3, rtol=0)


def test_the_model_works_at_its_own_size_and_images_come_out_at_theirs():
    generator = make(resolution=24)
    adapter = generator.network_of()
    assert adapter.base.side == 12
    assert open_base(tiny_latent_diffusion.folder()).resolution == 16
    latents = finetuned_diffusion.encode(adapter.base, torch.zeros(2, 3, SIZE, SIZE), torch.Generator())
    assert latents.shape == (2, 4, 12, 12)
    with torch.no_grad():
        drawn = generator.draw(adapter, torch.zeros(2, dtype=torch.long), np.arange(2))
    assert drawn.shape == (2, 3, SIZE, SIZE)


def test_finetuned_diffusion_refuses_what_it_cannot_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(RecipeError, match="no prompt for NV"):
        make(prompts={"AK": "a"})
    with pytest.raises(RecipeError, match='class "NV" is empty'):
        make(prompts={"AK": "a", "NV": " "})
    with pytest.raises(RecipeError, match="multiple of 4"):
        make(resolution=18).network_of()
    broken = make(weights=shutil.copytree(tiny_latent_diffusion.folder(), str(tmp_path / "model")))
    (tmp_path / "model" / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(RecipeError, match="text_encoder"):
        broken.network_of()
    monkeypatch.setattr(finetuned_diffusion, "find_spec", lambda name: None if name == "peft" else sys)
    with pytest.raises(RecipeError, match=r"needs peft.*\n.*moulage\[finetune\]"):
        make().network_of()
