"""Fine-tuning of a pre-trained text-to-image diffusion model: LoRA and a prompt for each class.

The model is latent diffusion (Rombach et al. 2022, arXiv:2112.10752) in the folder layout of diffusers: unet, vae,
text_encoder, tokenizer, scheduler. Its weights stay as they are; low-rank matrices beside the projections of its
attention learn (Hu et al. 2021, arXiv:2106.09685). They alone are saved, with the digest of the model they belong to.
"""

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from moulage.errors import RecipeError, RunError
from moulage.generators import _learner
from moulage.generators._condition import Conditional
from moulage.generators._descent import OneLoss
from moulage.generators._editing import Editing, Editor, Given

PACKAGES = ("diffusers", "peft", "transformers")
HALF = "fp16"  # in the names of files of weights in half precision
PROJECTIONS = ["to_q", "to_k", "to_v", "to_out.0"]  # how diffusers calls the projections of attention


class Config(_learner.Options):
    """The defaults are common for Stable Diffusion 1 and 2.

    Diffusers' example of text-to-image LoRA sees some 1,200 images 60,000 times in all, 15,000 steps of 4 at this rate;
    for some hundred images 3,000 steps of 8, a third as many, are enough (2,000 to 4,000; batches of 4 where memory is
    short).
    """

    steps: _learner.Steps = 3000
    epochs: _learner.Epochs = None
    batch_size: _learner.BatchSize = 8
    weights: str = Field(
        min_length=1,
        description="the pre-trained model: a folder in the layout of diffusers, or the id of one on the hub",
    )
    prompts: dict[str, str] = Field(description="what each class is called in the model's language, by class")
    resolution: int | None = Field(
        None, ge=8, le=2048, description="pixels a side at which the model works; none: what it was trained at"
    )
    rank: int = Field(16, ge=1, le=1024, description="rank of the matrices that learn")
    alpha: float = Field(16.0, gt=0, le=4096, description="what they add is multiplied by alpha / rank")
    learning_rate: float = Field(1e-4, gt=0, le=1, description="step size of Adam")
    warmup_steps: int = Field(100, ge=0, le=1_000_000, description="steps in which the step size rises from 0")
    min_snr_gamma: float | None = Field(
        5.0,
        gt=0,
        le=1000,
        description="limit of the signal-to-noise ratio in the weights of the loss; none: no weights",
    )
    class_dropout: float = Field(
        0.1, ge=0, le=0.9, description="share of images that are learned under an empty prompt, for guidance"
    )

    @model_validator(mode="after")
    def _prompts_say_something(self) -> Self:
        for name, prompt in self.prompts.items():
            if not prompt.strip():
                raise ValueError(f'the prompt of class "{name}" is empty')
        return self


class Drawing(Editing):
    """How images are drawn from a fit."""

    guidance: float = Field(
        4.0,
        ge=0,
        le=30,
        description="strength of guidance away from the empty prompt; 1 is none and draws twice as fast",
    )
    sampler: Literal["dpm++", "ddim"] = Field("dpm++", description="DPM-Solver++ of second order, or DDIM")
    num_sampling_steps: int = Field(25, ge=1, le=1000, description="steps of the sampler; fewer by strength")


@dataclass(eq=False)
class Base:
    """A pre-trained model: it never changes, and copies of what learns beside it share it."""

    unet: Any  # the denoiser, with places for low-rank matrices
    vae: Any  # pixels -> latents and back
    schedule: Any  # the noise schedule that the denoiser was trained on
    embeddings: Tensor  # float32 [K + 1, L, D], the prompts of K classes and the empty one
    resolution: int  # pixels a side of what the VAE encodes
    digest: Tensor  # uint8 [32], of all weights and of the schedule

    def __deepcopy__(self, memo: dict[int, Any]) -> "Base":
        return self

    @property
    def side(self) -> int:
        """Side of the latents."""
        return self.resolution // vae_factor(self.vae)


def open_base(weights: str, prompts: Sequence[str], resolution: int | None, rank: int, alpha: float) -> Base:
    """Read a model in the layout of diffusers, and encode prompts with it, one a class; see ``Config`` for the rest.

    ``RecipeError`` where packages are missing, the model cannot be read or used, or the resolution is wrong. For
    ``rank`` and ``alpha`` see Hu et al. 2021, arXiv:2106.09685, section 4.1.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise RecipeError(
            f"finetuned_diffusion needs {', '.join(missing)}.", "Install them with: pip install 'moulage[finetune]'."
        )
    # Untyped: the three are typed too loosely, or as what they never are, for a type checker to help.
    diffusers, peft, transformers = (importlib.import_module(name) for name in PACKAGES)
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    unet = _read(weights, "unet", diffusers.UNet2DConditionModel)
    vae = _read(weights, "vae", diffusers.AutoencoderKL)
    schedule = _read(weights, "scheduler", diffusers.DDPMScheduler)
    encoder = _read(weights, "text_encoder", transformers.CLIPTextModel)
    tokenizer = _read(weights, "tokenizer", transformers.CLIPTokenizer)
    for network in (unet, vae, encoder):  # hubs keep half-precision weights: what is computed from them is not
        network.float().eval().requires_grad_(False)
    if unet.config.addition_embed_type or unet.config.in_channels != vae.config.latent_channels:
        raise RecipeError(
            f"The model {weights} takes more than a prompt and latents (as SDXL or inpainting models do).",
            "Use a model of the kind of Stable Diffusion 1 or 2.",
        )
    digest = _digest(unet, vae, encoder, schedule.alphas_cumprod, schedule.config.prediction_type)
    embeddings = _encode(tokenizer, encoder, [*prompts, ""])
    unet.add_adapter(peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=PROJECTIONS))
    side = int(resolution or unet.config.sample_size * vae_factor(vae))
    smallest = vae_factor(vae) * 2 ** (len(unet.config.block_out_channels) - 1)
    if side % smallest:
        raise RecipeError(
            f"The model {weights} cannot work at {side} pixels.", f"Set resolution to a multiple of {smallest}."
        )
    return Base(unet, vae, schedule, embeddings, side, digest)


def vae_factor(vae: Any) -> int:
    """Pixels a side for one place of the latents."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def _read(weights: str, name: str, part: Any) -> Any:
    """One part of a model; of a local folder nothing is looked up elsewhere, and pickled weights are not read.

    Files of weights may be called as they are by themselves or, in half precision, ``*.fp16.safetensors``.
    """
    is_local, more = Path(weights).is_dir(), dict[str, Any]()
    if hasattr(part, "eval"):
        more["use_safetensors"] = True
        if is_local and _is_half(Path(weights) / name):
            more["variant"] = HALF
    try:
        try:
            return part.from_pretrained(weights, subfolder=name, local_files_only=is_local, **more)
        except OSError:
            if is_local or not more:
                raise
            return part.from_pretrained(weights, subfolder=name, variant=HALF, **more)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise RecipeError(
            f'The {name} of the model "{weights}" cannot be read: {error}',
            "weights names a folder with unet, vae, text_encoder, tokenizer and scheduler, as diffusers saves them "
            "(with safetensors), or the id of such a model on the hub.",
        ) from None


def _is_half(folder: Path) -> bool:
    """Whether a folder has weights in half precision alone."""
    names = [path.name for path in folder.glob("*.safetensors*")]
    return bool(names) and all(f".{HALF}." in name for name in names)


def _digest(*parts: Any) -> Tensor:
    total = hashlib.sha256()
    for part in parts:
        tensors = part.state_dict() if isinstance(part, nn.Module) else {"": part}
        for name, value in sorted(tensors.items()):
            total.update(name.encode())
            total.update(value.numpy().tobytes() if isinstance(value, Tensor) else str(value).encode())
    return torch.tensor(list(total.digest()), dtype=torch.uint8)


@torch.no_grad()
def _encode(tokenizer: Any, encoder: Any, prompts: list[str]) -> Tensor:
    length = tokenizer.model_max_length
    tokens = tokenizer(prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return encoder(tokens.input_ids)[0]


class Prompts(Conditional):
    """Labels int64 [B] -> embedded prompts [B, L, D]: from the empty prompt to that of the class by ``strength``."""

    embeddings: Tensor

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__()
        self.register_buffer("embeddings", embeddings, persistent=False)

    def forward(self, labels: Tensor, keep: Tensor) -> Tensor:
        """``keep`` float [B]: 0 gives the empty prompt."""
        empty = self.embeddings[-1:].expand(len(labels), -1, -1)
        return torch.lerp(empty, self.embeddings[labels], (keep * self.strength)[:, None, None])


class Adapter(nn.Module):
    """Low-rank matrices for a shared ``Base``; its state is theirs, with the base's digest, which loading checks."""

    base_digest: Tensor

    def __init__(self, base: Base) -> None:
        super().__init__()
        self.base, self.prompts = base, Prompts(base.embeddings)
        self.register_buffer("base_digest", base.digest)
        self.matrices = nn.ParameterDict()
        for name, value in base.unet.named_parameters():
            if "lora_" in name:  # A is drawn, B is zero: the model starts as it was
                start = torch.zeros_like(value) if "lora_B" in name else torch.randn_like(value) / value.shape[0]
                self.matrices[name.replace(".", "/")] = nn.Parameter(start)

    def forward(self, latents: Tensor, times: Tensor, labels: Tensor, keep: Tensor) -> Tensor:
        """The prediction (noise or v) for latents [B, C, s, s] at times int64 [B]; ``keep`` as in ``Prompts``."""
        weights = {name.replace("/", "."): value for name, value in self.matrices.items()}
        inputs = (latents, times, self.prompts(labels, keep))
        return torch.func.functional_call(self.base.unet, weights, inputs).sample.float()

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        digest = state_dict.get("base_digest")
        if digest is None or not torch.equal(digest.cpu(), self.base_digest.cpu()):
            raise RunError(
                "These fine-tuned weights belong to another pre-trained model.",
                "Set weights to the model that they were made with, or fit again in a new folder.",
            )
        return super().load_state_dict(state_dict, strict, assign)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """The base goes to the device where its adapter goes."""
        for part in (self.base.unet, self.base.vae):
            part._apply(fn)
        return super()._apply(fn, recurse)


class Game(OneLoss):
    """An adapter in training."""

    def loss(self, images: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Squared error of the predicted noise or velocity, as the model was trained, weighted by ``snr_weight``."""
        base, num = self.network.base, len(images)
        clean = encode(base, images, rng)
        noise = torch.randn(clean.shape, generator=rng).to(self.device)
        times = torch.randint(0, len(base.schedule.alphas_cumprod), (num,), generator=rng)
        keep = (torch.rand(num, generator=rng) >= self.config.class_dropout).float().to(self.device)
        noisy, target = noised(base, clean, noise, times)
        predicted = self.network(noisy, times.to(self.device), labels, keep)
        signal, kind = base.schedule.alphas_cumprod[times].to(self.device), base.schedule.config.prediction_type
        weight = snr_weight(signal / (1 - signal), kind, self.config.min_snr_gamma)
        return (weight * (predicted - target).square().mean((1, 2, 3))).mean()


def snr_weight(snr: Tensor, kind: str, gamma: float | None) -> Tensor:
    """Weights [B] of the losses at signal-to-noise ratios [B] (Hang et al. 2023, arXiv:2303.09556, section 3.4).

    min(SNR, gamma) on the error of the clean image, written for what is predicted: the error of the noise is SNR times
    that, the error of v SNR + 1 times.
    """
    if gamma is None:
        return torch.ones_like(snr)
    limited = snr.clamp(max=gamma)
    return {"epsilon": limited / snr.clamp(min=1e-8), "v_prediction": limited / (snr + 1), "sample": limited}[kind]


@torch.no_grad()
def encode(base: Base, images: Tensor, rng: torch.Generator | None = None) -> Tensor:
    """Images [B, 3, S, S] in -1..1 as latents float32 [B, C, s, s] of about unit variance; the mean if no ``rng``."""
    config, spread = base.vae.config, base.vae.encode(resized(images, base.resolution)).latent_dist
    latents = spread.mean
    if rng is not None:
        latents = latents + spread.std * torch.randn(spread.mean.shape, generator=rng).to(images.device)
    return (latents.float() - (config.shift_factor or 0)) * config.scaling_factor


def noised(base: Base, clean: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Latents with the noise of times int64 [B] of the model's schedule, and what a perfect model predicts of them."""
    signal = base.schedule.alphas_cumprod[times.cpu()].to(clean)
    a, b = signal.sqrt()[:, None, None, None], (1 - signal).sqrt()[:, None, None, None]
    target = {"epsilon": noise, "v_prediction": a * noise - b * clean, "sample": clean}
    return a * clean + b * noise, target[base.schedule.config.prediction_type]


def sampler_of(drawing: Drawing, base: Base) -> tuple[Any, Tensor]:
    """A scheduler of diffusers, and its falling times int64: of all of them the last, by the drawing's strength."""
    diffusers: Any = importlib.import_module("diffusers")
    if drawing.sampler == "ddim":
        sampler = diffusers.DDIMScheduler.from_config(base.schedule.config, clip_sample=False)
    else:
        sampler = diffusers.DPMSolverMultistepScheduler.from_config(base.schedule.config)
    sampler.set_timesteps(drawing.num_sampling_steps)
    return sampler, sampler.timesteps[-max(1, round(drawing.way * drawing.num_sampling_steps)) :]


def draw(
    drawing: Drawing, adapter: Adapter, labels: Tensor, seeds: np.ndarray, size: int, given: Given | None = None
) -> Tensor:
    """Images [B, 3, size, size] of labels int64 [B] from int64 seeds [B], one each, and from given images, if any."""
    base, device = adapter.base, labels.device
    sampler, schedule = sampler_of(drawing, base)
    noise = _learner.latents(seeds, base.unet.config.in_channels, base.side, base.side, name="noise").to(device)
    known, latents, clean, region = torch.ones(len(labels), device=device), noise * sampler.init_noise_sigma, None, None
    if given is not None:
        clean = torch.cat([encode(base, one[None]) for one in given.images])  # one by one, as they are decoded
        latents, _ = noised(base, clean, noise, schedule[:1].expand(len(labels)))
        region = None if given.region is None else F.adaptive_max_pool2d(given.region.float(), base.side) > 0
    for time in schedule:
        times = time.to(device).expand(len(labels))
        predicted = adapter(latents, times, labels, known)
        if drawing.guidance != 1:  # Ho & Salimans 2022, arXiv:2207.12598, eq. 6
            predicted = adapter(latents, times, labels, known * 0).lerp(predicted, drawing.guidance)
        if clean is not None and region is not None:  # so that the rest stays on the way to the given image
            predicted = torch.where(region, predicted, noised(base, clean, noise, times)[1])
        latents = sampler.step(predicted, time, latents).prev_sample
    vae = base.vae.config
    latents = latents / vae.scaling_factor + (vae.shift_factor or 0)
    # One by one: the decoder is what needs memory.
    images = [base.vae.decode(one[None]).sample.float() for one in latents]
    return resized(torch.cat(images), size)


def resized(images: Tensor, size: int) -> Tensor:
    """Images at another size, by bicubic interpolation with anti-aliasing."""
    if images.shape[-1] == size:
        return images
    return F.interpolate(images, (size, size), mode="bicubic", antialias=True, align_corners=False)


class Generator(Editor[Config]):
    """At a multiple of 8 pixels from 16 to 1024; ``RecipeError`` where a class has no prompt, and as ``open_base``."""

    NAME, CONFIG, DRAWING, SIZES = "finetuned_diffusion", Config, Drawing, range(16, 1025, 8)

    def __init__(self, config: Config, classes: tuple[str, ...], size: int) -> None:
        super().__init__(config, classes, size)
        missing = [name for name in classes if name not in config.prompts]
        if missing:
            raise RecipeError(
                f"finetuned_diffusion has no prompt for {', '.join(missing)}.",
                f'Add one for each class: prompts = {{ {missing[0]} = "a dermoscopy image of ..." }}.',
            )

    def game(self) -> Game:
        return Game(self.config, self.network_of(), self.device)

    def network_of(self) -> Adapter:
        config, prompts = self.config, [self.config.prompts[name] for name in self.classes]
        return Adapter(open_base(config.weights, prompts, config.resolution, config.rank, config.alpha))

    def edit(self, network: Adapter, labels: Tensor, seeds: np.ndarray, given: Given | None) -> Tensor:
        return draw(self.drawing, network, labels, seeds, self.size, given)
