"""A latent diffusion model with random weights, in the folder layout of diffusers, small enough for a test."""

import json
import string
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

KEPT: list[tempfile.TemporaryDirectory] = []
"""Removed when the process ends."""


@cache
def folder(seed: int = 0, prediction: str = "epsilon", dtype: str = "float32", variant: str = "") -> str:
    """Where such a model lies; made once a process. The test is skipped where its packages are not installed.

    Weights are saved in ``dtype``, and the files that hold them have ``variant`` in their names, as hubs have them.
    """
    for package in ("diffusers", "transformers", "peft"):
        pytest.importorskip(package, reason=f"finetuned_diffusion needs {package}: pip install 'moulage[finetune]'")
    KEPT.append(tempfile.TemporaryDirectory())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _write(Path(KEPT[-1].name), prediction, getattr(torch, dtype), variant or None)
    return KEPT[-1].name


def _write(folder: Path, prediction: str, dtype: torch.dtype, variant: str | None) -> None:
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = list(string.ascii_lowercase)
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=8)
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    last = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1}
    encoder = CLIPTextModel(CLIPTextConfig(vocab_size=len(tokens), max_position_embeddings=8, **text, **last))
    small: dict[str, Any] = {"block_out_channels": (4, 8), "norm_num_groups": 2, "layers_per_block": 1}
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
        **small,
    )
    kinds: dict[str, Any] = {}
    kinds |= {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = AutoencoderKL(latent_channels=4, sample_size=16, **small, **kinds)
    schedule = DDIMScheduler(1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, prediction_type=prediction)
    parts = {"tokenizer": tokenizer, "text_encoder": encoder, "unet": unet, "vae": vae, "scheduler": schedule}
    for name, part in parts.items():
        if isinstance(part, torch.nn.Module):
            part.to(dtype).save_pretrained(folder / name, variant=variant)
        else:
            part.save_pretrained(folder / name)
