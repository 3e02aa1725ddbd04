"""The network that is fine-tuned: backbone and head, what reads metadata, what finds the lesion as a second task."""

import contextlib
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from moulage import backbones, optimisers, plugins
from moulage.errors import RecipeError
from moulage.losses import cross_entropy_and_dice

FINEST = 4  # maps of a backbone that are this many times smaller than the image are the finest that masks are made of


class MetadataOptions(plugins.Options):
    """The small network that reads metadata; it learns at the head's rate, and whenever the head does."""

    units: int = Field(default=32, ge=1, le=4096, description="units of its two layers")
    dropout: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="share of the training images whose metadata are hidden: their features are 0",
    )


DEFAULT = MetadataOptions()


class MaskOptions(plugins.Options):
    """Lesion masks as a second task, learned from the training images that have one; nothing is predicted from them."""

    weight: float = Field(
        default=0.0, ge=0, le=10, description="weight of the masks' loss beside the classes'; 0: not learned"
    )
    units: int = Field(
        default=32, ge=1, le=1024, description="filters of the layers that make masks of the backbone's maps"
    )


class MetadataNetwork(nn.Module):
    """Features [n, units] of metadata float [n, M], which join the pooled features of the image under the head.

    As in Gessert et al. 2020 (arXiv:1910.03910): dense layers beside the image network, and metadata that are hidden at
    random in training. Smaller, and hidden are all values of an image at once.
    """

    def __init__(self, num_metadata: int, options: MetadataOptions) -> None:
        super().__init__()
        self.first = nn.Linear(num_metadata, options.units)
        self.second = nn.Linear(options.units, options.units)
        self.dropout = options.dropout

    def forward(self, metadata: torch.Tensor) -> torch.Tensor:
        features = functional.relu(self.second(functional.relu(self.first(metadata))))
        if self.training and self.dropout:
            features = features * (torch.rand(len(features), 1).to(features.device) >= self.dropout)
        return features

    def reset_parameters(self) -> None:
        self.first.reset_parameters()
        self.second.reset_parameters()


@contextlib.contextmanager
def _made_by(backbone: backbones.Features, names: list[str]) -> Generator[dict[str, torch.Tensor]]:
    """What these modules of the network give while the block forwards images, by name."""
    made: dict[str, torch.Tensor] = {}
    network: Any = backbone.network

    def keep(name: str, _module: nn.Module, _given: Any, found: torch.Tensor) -> None:
        made[name] = found

    with contextlib.ExitStack() as hooks:
        for name in names:
            hooks.enter_context(network.get_submodule(name).register_forward_hook(partial(keep, name)))
        yield made


def _has_maps(backbone: backbones.Features, num_channels: dict[str, int]) -> bool:
    """Whether these modules exist and give maps [n, C, h, w] with so many channels."""
    size = backbone.input_size
    try:
        with torch.inference_mode(), _made_by(backbone, list(num_channels)) as made:
            backbone.eval()(backbone.mean.new_zeros(1, 3, size, size))
    except AttributeError:
        return False
    return all(
        isinstance(found := made.get(name), torch.Tensor) and found.ndim == 4 and found.shape[1] == number
        for name, number in num_channels.items()
    )


class MaskDecoder(nn.Module):
    """Logits [n, 1, s, s] of the lesion mask, from the maps that a backbone makes on its way to the features.

    From the coarsest map to the finest: enlarged, added to the next one, convolved (feature pyramid, Lin et al. 2017,
    arXiv:1612.03144, figure 3). ``s`` is the side of the finest map, a quarter of the image's for most networks.
    ``RecipeError`` for a network without maps of several resolutions, such as a plain vision transformer.
    """

    def __init__(self, backbone: backbones.Features, name: str, units: int) -> None:
        super().__init__()
        network: Any = backbone.network
        last = {level["reduction"]: level for level in getattr(network, "feature_info", []) if isinstance(level, dict)}
        levels = [level for reduction, level in sorted(last.items()) if reduction >= FINEST]
        self.names = [level["module"] for level in levels]
        if len(levels) < 2 or not _has_maps(backbone, {level["module"]: level["num_chs"] for level in levels}):
            raise RecipeError(
                f"mask_task: {name} has no maps of several resolutions that could be used.",
                "Take another network, such as resnet50.",
            )
        self.narrow = nn.ModuleList(nn.Conv2d(level["num_chs"], units, 1) for level in levels)
        self.join = nn.ModuleList(
            nn.Sequential(nn.Conv2d(units, units, 3, padding=1, bias=False), nn.BatchNorm2d(units), nn.ReLU())
            for _ in levels[1:]
        )
        self.last = nn.Conv2d(units, 1, 1)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        """``maps``: of the modules ``names``, finest first, float [n, C, h, w]."""
        narrow = [layer(found) for layer, found in zip(self.narrow, maps, strict=True)]
        x = narrow[-1]
        for layer, finer in zip(reversed(self.join), reversed(narrow[:-1]), strict=True):
            x = layer(finer + functional.interpolate(x, finer.shape[2:], mode="bilinear"))
        return self.last(x)


def mask_loss(logits: torch.Tensor, masks: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """``cross_entropy_and_dice`` of logits [n, 1, s, s] and masks [n, S, S], shrunk to s, where bool [n] ``known``."""
    if not known.any():
        return logits.sum() * 0
    small = functional.adaptive_avg_pool2d(masks[known], logits.shape[-1])
    return cross_entropy_and_dice(logits[known, 0], small)


class Network(nn.Module):
    """Logits [N, K] of images float [N, 3, S, S] in 0..1 and of M numbers beside each, float [N, M]: the metadata.

    ``decoder`` makes what makes masks, a second task; called last, so that all other initial weights are as without it.
    """

    def __init__(
        self,
        backbone: backbones.Features,
        num_classes: int,
        num_metadata: int = 0,
        options: MetadataOptions = DEFAULT,
        decoder: Callable[[], MaskDecoder] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.num_features + (options.units if num_metadata else 0), num_classes)
        self.metadata = MetadataNetwork(num_metadata, options) if num_metadata else None
        self.decoder = decoder() if decoder else None

    def groups(self, backbone_rate: float | None, head_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        """Groups of an optimiser: the backbone (None: frozen), and all else at the head's learning rate."""
        parts: list[tuple[nn.Module, float]] = [(part, head_rate) for part in self.top]
        if backbone_rate is not None:
            decoder = [] if self.decoder is None else [(self.decoder, head_rate)]
            parts = [(self.backbone, backbone_rate), *parts, *decoder]
        return [group for part, rate in parts for group in optimisers.decay_groups(part, rate, weight_decay)]

    def clip(self, most: float) -> None:
        """Shorten the gradient of what classifies to a norm of ``most``; a decoder's, a task apart, stays as it is."""
        nn.utils.clip_grad_norm_([p for part in (self.backbone, *self.top) for p in part.parameters()], most)

    def keep_batch_norm(self) -> None:
        """The backbone's batch normalisation normalises by the averages that it has, in training as well; its weights
        and biases go on learning. Until the next ``train()``.
        """
        for module in self.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    @property
    def top(self) -> tuple[nn.Linear | MetadataNetwork, ...]:
        """What learns at the head's rate."""
        return (self.head,) if self.metadata is None else (self.head, self.metadata)

    def forward(
        self, images: torch.Tensor, input_size: int | None = None, metadata: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.head(self.joined(self.backbone(images, input_size), metadata))

    def with_masks(
        self, images: torch.Tensor, input_size: int | None = None, metadata: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the classes, and of the masks [n, 1, s, s]; see ``MaskDecoder``."""
        assert self.decoder is not None
        with _made_by(self.backbone, self.decoder.names) as maps:
            logits = self(images, input_size, metadata)
        return logits, self.decoder([maps[name] for name in self.decoder.names])

    def joined(self, features: torch.Tensor, metadata: torch.Tensor | None) -> torch.Tensor:
        """What the head is given: an image's features [n, D], then those of its metadata."""
        if self.metadata is None or metadata is None:
            return features
        return torch.cat([features, self.metadata(metadata).to(features.dtype)], 1)
