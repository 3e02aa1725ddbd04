"""A U-Net that finds the lesion in a photograph, and the two measures of how well it does.

The U-Net of Ronneberger et al. 2015 (arXiv:1505.04597) on the encoder of any timm network, built by
segmentation-models-pytorch. ``learn`` trains it on a source, ``predict`` makes masks for another.
"""

import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from moulage import backbones, checkpoints, devices, monitoring, optimisers, plugins, randomness, runs
from moulage.data import symmetries
from moulage.data.masks import LESION, binary
from moulage.epochs import State, fall, rise
from moulage.errors import DataError, RecipeError, RunError
from moulage.losses import cross_entropy_and_dice

KIND = "lesion segmenter"  # stands in ``config.json``, so that the folder of something else is refused
INSTALL = "pip install 'moulage[masks]'"
PREDICT_BATCH = 64
HASHED = 256  # images that are digested at once


class Config(plugins.Options):
    """Options of a segmenter and of its training."""

    size: int = Field(128, ge=32, le=1024, multiple_of=32, description="pixels a side of images and masks")
    backbone: backbones.Backbone = Field(
        default=backbones.Backbone(), description="the network of the encoder and the weights it starts from"
    )
    decoder_channels: tuple[int, int, int, int, int] = Field(
        default=(128, 64, 32, 16, 16), description="feature maps of the decoder's blocks, the coarsest first"
    )
    symmetries: bool = Field(True, description="show each image in one of the 8 symmetries of the square, at random")
    brightness: float = Field(0.1, ge=0, lt=1, description="brightness is multiplied by 1 +- this")
    contrast: float = Field(0.1, ge=0, lt=1, description="contrast is multiplied by 1 +- this")
    colour: float = Field(0.05, ge=0, lt=1, description="red, green and blue are each multiplied by 1 +- this")
    learning_rate: float = Field(1e-3, gt=0, description="highest learning rate of AdamW")
    weight_decay: float = Field(0.01, ge=0, description="weight decay of filters, not of biases and norms")
    warmup_steps: int = Field(20, ge=0, description="steps in which the learning rate rises; a cosine falls to 0")
    batch_size: int = Field(16, ge=2, description="images a step")
    epochs: int = Field(10, ge=1, description="number of epochs; the best by validation Dice is kept")
    steps_per_epoch: int | None = Field(None, ge=1, description="steps an epoch; none: as many as show all images once")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the hardware has it")

    @model_validator(mode="after")
    def _encoder(self) -> "Config":
        if self.backbone.stride != "v1.5" or self.backbone.input_size is not None:
            raise ValueError("an encoder takes neither backbone.stride nor backbone.input_size; set size instead")
        if min(self.decoder_channels) < 1:
            raise ValueError("decoder_channels must be 1 or more")
        return self


class Network(nn.Module):
    """Logits float [N, S, S] of images float [N, 3, S, S] in 0..1: above 0 on the lesion."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, unet: nn.Module, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.unet = unet
        self.register_buffer("mean", mean.clone())
        self.register_buffer("std", std.clone())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.unet((images - self.mean) / self.std)[:, 0]


class Segmenter:
    """Finds lesions. Masks are uint8 [N, S, S], 255 on the lesion and 0 around it, where S is ``config.size``."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.device = torch.device("cpu")
        self.network: Network | None = None

    def fit(
        self,
        images: np.ndarray,
        masks: np.ndarray,
        validation_images: np.ndarray,
        validation_masks: np.ndarray,
        *,
        seed: int,
        folder: Path,
        device: str = "cpu",
        progress: runs.Progress = runs.no_progress,
    ) -> dict[str, float]:
        """Train on images uint8 [N, S, S, 3], 2 or more, that may be memory-mapped.

        The epoch with the best mean Dice of the validation images is kept (the first of equals); its number (from 1)
        and ``validation_dice`` are returned. Initial weights, order and augmentation come from ``seed``: the same call
        again gives the same network, also after a break; ``folder`` gets checkpoints and ``log.jsonl``. Errors: see
        ``contracts.Classifier.fit``; also ``RecipeError`` where something is not installed or makes no encoder.
        """
        _check(images, self.config.size, masks)
        _check(validation_images, self.config.size, validation_masks)
        if not len(validation_images):
            raise DataError("There is no validation image.", "Give the split a validation part: it chooses the epoch.")
        config, self.device = self.config, devices.pick_device(device)
        batches = randomness.Shuffle(len(images), config.batch_size, "segmentation", seed)
        num_steps = config.steps_per_epoch or batches.num_steps(1)
        with randomness.reproducible("segmentation", seed, device=self.device):
            self.network = network = _build(config).to(self.device)
            data = map(_digest, (images, masks, validation_images, validation_masks))
            settings = runs.digest(config.model_dump(), backbones.digest(network), seed, list(data))
            done, saved = checkpoints.load(folder, settings) or (0, None)
            state = _begin(network, config, config.epochs * num_steps)
            if saved:
                state.load(saved)
            for epoch in range(done + 1, config.epochs + 1):
                start = time.perf_counter()
                torch.manual_seed(randomness.seed_from("segmentation", seed, epoch))
                network.train()
                total = torch.zeros((), device=self.device)
                so_far = f", best Dice {state.best_merit:.3f}" if state.best else ""
                for step in range((epoch - 1) * num_steps, epoch * num_steps):
                    rows = batches[step]
                    total += self._step(state, step, images[rows], masks[rows], seed)
                    progress(step + 1, config.epochs * num_steps, f"steps, epoch {epoch}{so_far}")
                found, train_loss = self.predict(validation_images), float(total) / num_steps
                monitoring.check_finite(epoch * num_steps, train_loss=train_loss)
                mean_dice = float(dice(found, validation_masks).mean())
                state.keep_best(epoch, mean_dice)
                scored = {"validation_dice": mean_dice, "validation_jaccard": jaccard(found, validation_masks).mean()}
                runs.log(folder, epoch=epoch, train_loss=train_loss, **scored, seconds=time.perf_counter() - start)
                checkpoints.save(folder, epoch, state.dump(), settings)
            network.load_state_dict(state.best)
        return {"epoch": state.best_epoch, "validation_dice": state.best_merit}

    def _step(self, state: State[Network], step: int, images: np.ndarray, masks: np.ndarray, seed: int) -> torch.Tensor:
        """One step on a batch, uint8 [n, S, S, 3] and [n, S, S]; the loss before it."""
        rng = randomness.numpy_rng("augment", seed, step)
        pixels, truth = augmented(images, masks, rng, self.config, self.device)
        with devices.precision(self.device, self.config.precision):
            logits = state.network(pixels)
        loss = cross_entropy_and_dice(logits, truth)
        state.optimizer.zero_grad()
        loss.backward()
        state.step(step)
        return loss.detach()

    @torch.inference_mode()
    def predict(self, images: np.ndarray, *, progress: runs.Progress = runs.no_progress) -> np.ndarray:
        """Masks of images uint8 [N, S, S, 3]; ``RunError`` before ``fit`` or ``load``, ``DataError`` for others."""
        if self.network is None:
            raise RunError("The segmenter was not trained.", "Call fit or Segmenter.load first.")
        _check(images, self.config.size)
        self.network.eval()
        found = np.empty(images.shape[:3], np.uint8)
        with randomness.reproducible("masks", device=self.device):
            for start in range(0, len(images), PREDICT_BATCH):
                batch = slice(start, start + PREDICT_BATCH)
                pixels = backbones.to_float(images[batch], self.device, channels_last=True)
                with devices.precision(self.device, self.config.precision):
                    logits = self.network(pixels)
                found[batch] = binary((logits.float() > 0).cpu().numpy())
                progress(min(batch.stop, len(images)), len(images), "masks")
        return found

    def save(self, folder: Path) -> None:
        """Write ``weights.safetensors`` and ``config.json``."""
        if self.network is None:
            raise RunError("The segmenter was not trained, so there is nothing to save.", "Call fit first.")
        checkpoints.save_weights(folder / "weights.safetensors", self.network)
        runs.write_json(folder / "config.json", {"kind": KIND, "config": self.config.model_dump(mode="json")})

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Segmenter":
        """Read what ``save`` wrote; ``RunError`` for no or a damaged one, ``RecipeError`` as ``check_installed``."""
        saved = runs.read_json(folder / "config.json")
        if not isinstance(saved, dict) or saved.get("kind") != KIND:
            raise RunError(f"{folder} holds no lesion segmenter.", "Name a folder that `moulage masks learn` wrote.")
        segmenter = cls(plugins.validate(Config, saved["config"], str(folder)))
        segmenter.device, config = devices.pick_device(device), segmenter.config
        with randomness.reproducible("load"):  # the random weights that are overwritten take nothing from the caller
            backbone = config.backbone.model_copy(update={"weights": "scratch"})
            network = _build(config.model_copy(update={"backbone": backbone}))
        checkpoints.load_weights(folder / "weights.safetensors", network)
        segmenter.network = network.to(segmenter.device)
        return segmenter


def dice(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Dice coefficients float64 [N] of masks uint8 [N, S, S]: twice the common area over both; 1 for two empty ones."""
    common, either = _areas(predicted, true)
    return np.divide(2 * common, common + either, out=np.ones(len(common)), where=either > 0)


def jaccard(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Jaccard index of each image, float64 [N] in 0..1: the common area over the area of either; see ``dice``."""
    common, either = _areas(predicted, true)
    return np.divide(common, either, out=np.ones(len(common)), where=either > 0)


def _areas(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of each image that are lesion in both masks, and in at least one, float64 [N]."""
    if predicted.shape != true.shape or predicted.ndim != 3:
        raise DataError(f"Masks [N, S, S] are compared, not {list(predicted.shape)} with {list(true.shape)}.")
    ours, theirs = predicted > LESION // 2, true > LESION // 2
    return (ours & theirs).sum((1, 2)).astype(np.float64), (ours | theirs).sum((1, 2)).astype(np.float64)


def augmented(
    images: np.ndarray, masks: np.ndarray, rng: np.random.Generator, config: Config, device: torch.device | str = "cpu"
) -> tuple[torch.Tensor, torch.Tensor]:
    """In random symmetries and slightly other light: images float32 [n, 3, S, S] in 0..1, masks float32, 0 or 1."""
    which = rng.integers(8, size=len(images)) if config.symmetries else np.zeros(len(images), np.int64)
    light = torch.from_numpy(rng.uniform(-1, 1, (len(images), 5)).astype(np.float32)).to(device)[:, :, None, None]
    pixels = backbones.to_float(symmetries.in_symmetry(images, which), device, channels_last=True)
    mean = pixels.mean((1, 2, 3), keepdim=True)
    pixels = mean + (1 + config.contrast * light[:, :1]) * (pixels - mean)
    pixels = pixels * (1 + config.brightness * light[:, 1:2]) * (1 + config.colour * light[:, 2:])
    truth = torch.from_numpy(symmetries.in_symmetry(masks, which) > LESION // 2).to(device, torch.float32)
    return pixels.clamp(0, 1), truth


def check_installed(config: Config) -> None:
    """Raise ``RecipeError`` where segmentation-models-pytorch or the encoder's weights are not installed."""
    _library()
    backbones.check_installed(config.backbone)


def _library() -> Any:
    try:
        import segmentation_models_pytorch
    except ImportError as error:
        raise RecipeError(f"Lesion masks need segmentation-models-pytorch: {error}.", INSTALL) from None
    return segmentation_models_pytorch


def _build(config: Config) -> Network:
    """The U-Net with its encoder's weights, on the CPU; ``RecipeError`` where that is not possible."""
    library, name = _library(), config.backbone.name
    backbone = backbones.build(config.backbone, config.size)
    try:
        unet = library.Unet(f"tu-{name}", encoder_weights=None, decoder_channels=config.decoder_channels)
        network = Network(unet, backbone.mean, backbone.std).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        with torch.inference_mode():
            shape = tuple(network.eval()(torch.zeros(1, 3, config.size, config.size)).shape)
        if shape != (1, config.size, config.size):
            raise ValueError(f"its masks would be {list(shape[1:])}")
    except (RuntimeError, ValueError, AssertionError, AttributeError, KeyError, TypeError) as error:
        raise RecipeError(
            f"{name} does not make a U-Net for images of {config.size} pixels: {error}.",
            "Take a network with feature maps at 1/2 or 1/4 to 1/32 of the side, such as tf_efficientnet_lite0.",
        ) from None
    if config.backbone.weights != "scratch":
        _give_weights(unet.encoder, backbone.network, name)
    return network


def _give_weights(encoder: nn.Module, network: nn.Module, name: str) -> None:
    """Copy a timm network's weights to the encoder that is made of it; the encoder may lack its last layers."""
    known = {key.replace(".", "_"): value for key, value in network.state_dict().items()}
    wanted = encoder.state_dict()  # some networks have "_" in place of "." where features are taken out
    keys = {key: key.removeprefix("model.").replace(".", "_") for key in wanted}
    lost = [key for key in wanted if keys[key] not in known or known[keys[key]].shape != wanted[key].shape]
    if lost:
        raise RecipeError(
            f"The pre-trained weights of {name} do not fit its encoder: {lost[0]} is missing or of another shape.",
            'Take another network, or set backbone.weights to "scratch".',
        )
    encoder.load_state_dict({key: known[keys[key]] for key in wanted})


def _begin(network: Network, config: Config, num_steps: int) -> State[Network]:
    """A network before its first of ``num_steps``."""
    groups = optimisers.decay_groups(network, config.learning_rate, config.weight_decay)
    # Unlike a classifier's, the fall begins with the first step: the rise is a factor of it.
    optimizer = torch.optim.AdamW(groups, fused=True)
    return State(network, optimizer, lambda step: rise(step, config.warmup_steps) * fall(step, num_steps))


def _digest(array: np.ndarray) -> str:
    """Of shape and values, read piece by piece."""
    pieces = [runs.digest(array[start : start + HASHED].tobytes()) for start in range(0, len(array), HASHED)]
    return runs.digest(list(array.shape), pieces)


def _check(images: np.ndarray, size: int, masks: np.ndarray | None = None) -> None:
    """Raise ``DataError`` unless images are uint8 [N, size, size, 3] and masks, where given, uint8 [N, size, size]."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (size, size, 3):
        raise DataError(
            f"The segmenter takes images uint8 [N, {size}, {size}, 3] and got {images.dtype} {list(images.shape)}.",
            "Set the option size to the size of the images.",
        )
    if masks is not None and (masks.dtype != np.uint8 or masks.shape != images.shape[:3]):
        raise DataError(
            f"{len(images)} images need masks uint8 {list(images.shape[:3])}, not {masks.dtype} {list(masks.shape)}."
        )
