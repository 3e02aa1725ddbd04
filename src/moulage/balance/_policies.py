"""Image policies of torchvision, each image by its own random numbers."""

from collections.abc import Callable

from moulage.treatment import Augment, Tensor


def trivialaugment() -> Augment:
    """TrivialAugment in its wide version (Müller and Hutter 2021)."""
    from torchvision.transforms import InterpolationMode, v2

    return image_by_image(v2.TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR))


def randaugment(num_operations: int, magnitude: int) -> Augment:
    """RandAugment (Cubuk et al. 2020)."""
    from torchvision.transforms import InterpolationMode, v2

    return image_by_image(v2.RandAugment(num_operations, magnitude, interpolation=InterpolationMode.BILINEAR))


def image_by_image(transform: Callable[[Tensor], Tensor]) -> Augment:
    """A transform that draws its numbers once a call, applied to each image [3, S, S] of a batch on its own."""
    import torch

    def augment(images: Tensor) -> Tensor:
        return torch.stack([transform(image) for image in images])

    return augment
