"""Grad-CAM: where the last feature map of a convolutional network speaks for a class, and where against it."""

import copy
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from moulage import backbones, randomness
from moulage.classifiers import _fitting, _views
from moulage.errors import DataError, RecipeError, RunError

BATCH = 32
SHUFFLED = ("", "head", "network")
"""Which weights a map is computed with: the learned ones, a shuffled head, or head and backbone shuffled."""
INSTALL = "pip install 'moulage[explain]'"


class LookedAt(NamedTuple):
    """What gives a classifier's logits."""

    backbone: backbones.Features  # a convolutional network
    head: nn.Module  # features float [n, D] (or [n, D + M]) -> logits [n, K]
    # what the head is given behind the features of each image, float32 [N, M]: metadata
    beside: np.ndarray | None = None
    views: _views.Views = _views.AS_IT_IS  # what the classifier averages over
    # where the head reads features of further networks or layers, too: how many in all, and the column of its first
    width: int = 0
    first: int = 0


class GradCam:
    """Gives a classifier ``attention``; a subclass says in ``_looked_at`` what is looked at."""

    def attention(
        self,
        pixels: np.ndarray,
        labels: np.ndarray,
        metadata: np.ndarray | None = None,
        *,
        shuffled: str = "",
        draw: int = 0,
    ) -> tuple[np.ndarray, int]:
        """See ``contracts.Explains`` and ``grad_cam``; through everything that ``predict`` does."""
        return grad_cam(self._looked_at(pixels, metadata), pixels, labels, shuffled=shuffled, draw=draw)

    def _looked_at(self, pixels: np.ndarray, metadata: np.ndarray | None) -> list[LookedAt]:
        raise NotImplementedError


def grad_cam(
    given: Sequence[LookedAt], pixels: np.ndarray, labels: np.ndarray, *, shuffled: str = "", draw: int = 0
) -> tuple[np.ndarray, int]:
    """Maps of the evidence for a class (Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2).

    The feature map is what timm's ``forward_features`` gives, after its last normalisation and activation. Each view's
    map is put back where the view was cut from, and they are averaged. Maps of several networks under one linear head
    are summed, each cell by the share of its map that it is, so that none counts for more by being finer. Features of
    earlier layers are not looked at. What is positive is the paper's map. The largest absolute value of each is 1; all
    are 0 where the class's logit does not depend on the feature map. The cells are those of the finest map.

    Arguments and results are those of ``contracts.Explains``. A map that stays the same with shuffled weight matrices
    and filters says nothing of what was learned (Adebayo et al. 2018, arXiv:1810.03292, who draw the weights anew).
    ``RecipeError`` also where the head does not read the feature map, ``RunError`` where captum is not installed,
    ``DataError`` for pixels of another size, or a label that is no class.
    """
    if find_spec("captum") is None:
        raise RunError("Grad-CAM needs the package captum, which is not installed.", INSTALL)
    size = pixels.shape[1] if pixels.ndim == 4 else 0
    _fitting.check_pixels(pixels, size)
    if len(labels) and np.min(labels) < 0:
        raise DataError(f"The label {int(np.min(labels))} is none of the network's classes.")
    if shuffled not in SHUFFLED:
        raise RecipeError(f'shuffled is "{shuffled}".', f"Valid: {', '.join(SHUFFLED[1:])}, or nothing.")
    tails = [_Tail(each).eval() for each in given]
    if shuffled:
        tails = [_shuffled(tail, draw, whole=shuffled == "network") for tail in tails]
    maps, cells = np.empty((len(pixels), size, size), np.float32), 0
    for start in range(0, len(pixels), BATCH):
        batch = slice(start, start + BATCH)
        found = [_of_batch(tail, each, pixels, labels, batch) for tail, each in zip(tails, given, strict=True)]
        whole = torch.stack([of_network for of_network, _ in found]).sum(0)
        cells = max(finest for _, finest in found)
        maps[batch] = (whole / whole.abs().amax((1, 2), keepdim=True).clamp(min=1e-30)).cpu().numpy()
    return maps, cells


def _of_batch(
    tail: "_Tail", given: LookedAt, pixels: np.ndarray, labels: np.ndarray, batch: slice
) -> tuple[torch.Tensor, int]:
    """The map of one network, float [n, S, S], not scaled, and how many cells a side it has."""
    device, size, cells = given.backbone.mean.device, pixels.shape[1], 0
    wanted = torch.from_numpy(np.array(labels[batch], np.int64)).to(device)
    if given.beside is not None:
        tail.beside = torch.from_numpy(np.array(given.beside[batch], np.float32)).to(device)
    of_views: list[torch.Tensor] = []
    for view, side in _views.each(backbones.to_float(pixels[batch], device), given.views):
        found = _of_view(tail, view, side, wanted)
        cells = cells or found.shape[-1]
        of_views.append(functional.interpolate(found, (size, size), mode="bilinear"))
    # A weight of Grad-CAM is a mean over the cells: times their number, the map's sum is its part of the logit.
    return _put_back(of_views, given.views)[:, 0].nan_to_num(0, 0, 0) * cells**2, cells


class _Tail(nn.Module):
    """From the last feature map, float [n, C, h, w], to logits; ``map`` is the layer that Grad-CAM looks at.

    Where the head reads other columns too, those of further networks and layers, they are 0: under a linear head no
    gradient depends on them.
    """

    def __init__(self, given: LookedAt) -> None:
        super().__init__()
        self.backbone, self.map, self.head, self.first = given.backbone, nn.Identity(), given.head, given.first
        self.width = given.width
        self.last = False  # whether the network keeps the channels in the last dimension
        self.beside: torch.Tensor | None = None

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        network: Any = self.backbone.network
        maps = self.map(maps)
        features = network.forward_head(maps.permute(0, 2, 3, 1) if self.last else maps)
        if self.width:
            features = functional.pad(features, (self.first, self.width - self.first - features.shape[1]))
        return self.head(features if self.beside is None else torch.cat([features, self.beside], 1))

    def maps(self, images: torch.Tensor, side: int | None) -> torch.Tensor:
        """The last feature map, float [n, C, h, w], of images float [n, 3, S, S] seen at ``side`` pixels."""
        network: Any = self.backbone.network
        with torch.no_grad():
            found = network.forward_features(self.backbone.prepared(images, side))
        channels = getattr(network, "num_features", None)
        if not isinstance(found, torch.Tensor) or found.ndim != 4 or channels not in (found.shape[1], found.shape[3]):
            raise RecipeError(
                f"{type(network).__name__} has no last feature map of channels, rows and columns to look at.",
                "Grad-CAM is for convolutional networks; a transformer's class token has no place in the image.",
            )
        self.last = channels != found.shape[1]
        return found.permute(0, 3, 1, 2) if self.last else found


def _of_view(network: _Tail, view: torch.Tensor, side: int | None, labels: torch.Tensor) -> torch.Tensor:
    """Grad-CAM of one view, float [n, 1, h, w], not scaled."""
    from captum.attr import LayerGradCam

    maps = network.maps(view, side).clone().requires_grad_()
    try:
        found = LayerGradCam(network, network.map).attribute(maps, target=labels)
    except (AssertionError, IndexError) as error:
        raise DataError(f"The label {int(labels.max())} is none of the network's classes: {error}.") from None
    assert isinstance(found, torch.Tensor)
    return found.detach()


def _put_back(maps: list[torch.Tensor], views: _views.Views) -> torch.Tensor:
    """The mean of maps of views [n, 1, S, S] in the image's own place."""
    if len(maps) == 1:
        return maps[0]
    # What lies where is asked of the views themselves: they are linear, and their transpose puts each pixel back.
    with torch.enable_grad():
        blank = torch.zeros_like(maps[0], requires_grad=True)
        seen = [view * 1 for view, _ in _views.each(blank, views)]
    ones = [torch.ones_like(each) for each in maps]
    total, times = (torch.autograd.grad(seen, blank, values, retain_graph=True)[0] for values in (maps, ones))
    return total / times.clamp(min=1e-6)


def _shuffled(network: _Tail, draw: int, *, whole: bool) -> _Tail:
    """A copy with the entries of every weight matrix or filter of the head, or of all, in random order."""
    copied = copy.deepcopy(network)
    for name, parameter in (copied if whole else copied.head).named_parameters():
        if parameter.ndim > 1:
            order = torch.randperm(parameter.numel(), generator=randomness.generator_for("shuffled", name, draw))
            values = parameter.detach().flatten()[order.to(parameter.device)]
            parameter.data = values.view(parameter.shape)
    return copied
