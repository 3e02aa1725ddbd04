"""How different two images look to a frozen network (Johnson et al. 2016, arXiv:1603.08155, section 3.2)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moulage import backbones


class Perceptual(nn.Module):
    """Images ``ours`` and ``theirs`` float [B, 3, S, S] in -1..1 -> mean absolute difference of their features.

    The mean over the network's stages; no gradient goes to ``theirs``.

    Raises:
        RecipeError: the network's weights cannot be loaded, or it does not take images of this size.
    """

    def __init__(self, options: backbones.Backbone, size: int) -> None:
        super().__init__()
        self.backbone = backbones.build(options, size).requires_grad_(False)

    def forward(self, ours: Tensor, theirs: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self._stages(theirs)
        pairs = zip(self._stages(ours), wanted, strict=True)
        return torch.stack([(a.float() - b.float()).abs().mean() for a, b in pairs]).mean()

    def _stages(self, images: Tensor) -> list[Tensor]:
        images, side = (images + 1) / 2, self.backbone.input_size
        if images.shape[-1] != side:
            images = F.interpolate(images, (side, side), mode=self.backbone.interpolation, antialias=True)
        images = (images - self.backbone.mean) / self.backbone.std
        return self.backbone.network.forward_intermediates(images, intermediates_only=True)
