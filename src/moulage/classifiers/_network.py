"""The network that is fine-tuned: a backbone, a head, and where there are metadata a small network that reads them."""

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional

from moulage import backbones, plugins


class MetadataOptions(plugins.Options):
    """The small network that reads metadata; it learns at the head's rate, and whenever the head does."""

    units: int = Field(32, ge=1, le=4096, description="units of its two layers")
    dropout: float = Field(
        0.1, ge=0, lt=1, description="share of the training images whose metadata are hidden: their features are 0"
    )


NO_CHANGE = MetadataOptions()  # pyright: ignore[reportCallIssue]


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
        """Fresh random weights."""
        self.first.reset_parameters()
        self.second.reset_parameters()


class Network(nn.Module):
    """Logits [N, K] of images float [N, 3, S, S] in 0..1 and of ``num_metadata`` numbers beside each, float [N, M]."""

    def __init__(
        self,
        backbone: backbones.Features,
        num_classes: int,
        num_metadata: int = 0,
        options: MetadataOptions = NO_CHANGE,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.num_features + (options.units if num_metadata else 0), num_classes)
        self.metadata = MetadataNetwork(num_metadata, options) if num_metadata else None

    @property
    def top(self) -> "tuple[nn.Linear | MetadataNetwork, ...]":
        """What learns at the head's rate."""
        return (self.head,) if self.metadata is None else (self.head, self.metadata)

    def forward(
        self, images: torch.Tensor, input_size: int | None = None, metadata: torch.Tensor | None = None
    ) -> torch.Tensor:
        return self.head(self.joined(self.backbone(images, input_size), metadata))

    def joined(self, features: torch.Tensor, metadata: torch.Tensor | None) -> torch.Tensor:
        """What the head is given: an image's features [n, D], then those of its metadata."""
        if self.metadata is None or metadata is None:
            return features
        return torch.cat([features, self.metadata(metadata).to(features.dtype)], 1)
