"""Fine-tunes any timm backbone with a softmax head, at two learning rates and with classical augmentation."""

import time
from functools import partial
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from moulage import backbones, checkpoints, devices, monitoring, plugins, randomness, runs
from moulage.classifiers import _attention, _augment, _fitting, _views
from moulage.classifiers._network import MaskDecoder, MaskOptions, MetadataOptions, Network, mask_loss
from moulage.data.masks import UNKNOWN, unknown
from moulage.data.training_view import Examples, TrainingView
from moulage.epochs import State, rise_then_fall
from moulage.errors import DataError, RecipeError
from moulage.treatment import Treatment
from moulage.use import Use

METADATA = "optional"
PREDICT_BATCH = 128
NUM_TIMED_STEPS = 3


class Config(plugins.Options):
    """Options of a fine-tuning."""

    size: int = Field(64, ge=16, le=1024, description="pixels a side of the images handed in")
    backbone: backbones.Backbone = Field(
        default=backbones.Backbone(), description="the network and the weights it starts from"
    )
    augment: _augment.Augment = Field(default=_augment.Augment(), description="classical augmentation")
    optimizer: Literal["adamw", "sgd"] = Field("adamw", description="AdamW, or SGD with Nesterov momentum 0.9")
    backbone_learning_rate: float = Field(3e-4, ge=0, description="highest learning rate of the backbone")
    head_learning_rate: float = Field(3e-3, gt=0, description="highest learning rate of the head")
    weight_decay: float = Field(0.02, ge=0, description="weight decay of matrices and filters, not of biases and norms")
    warmup_epochs: float = Field(1.0, ge=0, description="epochs in which learning rates rise; a cosine to 0 follows")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target that is spread over all classes")
    batch_size: int = Field(
        64, ge=3, description="images a step, at most; 3 or more, so that none is alone in a batch normalisation"
    )
    accumulate: int = Field(
        1, ge=1, le=256, description="parts of 2 images or more that a batch is computed in, to need less memory"
    )
    epochs: int = Field(15, ge=1, description="number of epochs")
    steps_per_epoch: int | None = Field(
        None, ge=1, description="at most this many steps an epoch, the first of its order; none: all images"
    )
    progressive: tuple[int, ...] = Field(
        (),
        description="pixels a side at which the network sees images in the first, second ... equal share of the "
        "epochs; smaller ones first cost less (Tan and Le 2021, section 4). None: the backbone's input size",
    )
    batch_norm: Literal["auto", "frozen", "trained"] = Field(
        "auto",
        description="whether the backbone's batch normalisation keeps the averages that it starts with, or takes those "
        "of the batches; auto: it keeps them where the weights are pre-trained",
    )
    clip_norm: float = Field(
        1.0, ge=0, description="the gradient of a step is shortened to this Euclidean norm where it is longer; 0: never"
    )
    ema_decay: float = Field(0.0, ge=0, lt=1, description="decay of the average of the weights; 0: no average")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the hardware has it")
    channels_last: bool = Field(True, description="memory layout of images and filters; faster for most networks")
    choose: _fitting.Choice = Field("last", description=_fitting.CHOICE)
    views: _views.Views | None = Field(
        None,
        description="views of an image at prediction; none: the quarter turns, or the mirror image, where the "
        "augmentation shows such. Epochs are chosen by the image as it is",
    )
    calibrate: bool = Field(False, description=_fitting.CALIBRATE)
    metadata_network: MetadataOptions = Field(
        default=MetadataOptions(),
        description="the network that reads the metadata, where the recipe's classifier.metadata asks",
    )
    mask_task: MaskOptions = Field(default=MaskOptions(), description="lesion masks as a second task")

    @model_validator(mode="after")
    def _parts_are_batches(self) -> Self:
        if self.accumulate > self.batch_size // 2:
            raise ValueError("accumulate cuts a batch into parts of fewer than 2 images")
        if any(not 16 <= side <= 1024 for side in self.progressive):
            raise ValueError("progressive sizes are numbers of pixels from 16 to 1024")
        if len(self.progressive) > self.epochs:
            raise ValueError(
                f"{len(self.progressive)} progressive sizes need as many epochs, and there are {self.epochs}"
            )
        return self

    def side_in(self, epoch: int) -> int | None:
        """Pixels a side at which the network sees images in an epoch (from 1); None: the backbone's own."""
        sizes = self.progressive
        return sizes[(epoch - 1) * len(sizes) // self.epochs] if sizes else None

    @property
    def predicted_views(self) -> _views.Views:
        """``views``, or those that the augmentation has taught."""
        if self.views is not None:
            return self.views
        if self.augment.rotation != "none":
            return _views.Views(symmetries=4)
        return _views.Views(symmetries=2) if self.augment.flip else _views.AS_IT_IS

    @property
    def freezes_batch_norm(self) -> bool:
        """Averages of a random network are of no use: kept, they would leave its layers without a normalisation."""
        return self.batch_norm == "frozen" or (self.batch_norm == "auto" and self.backbone.weights != "scratch")

    @property
    def predict_batch(self) -> int:
        """Images a forward pass; fewer where memory is short. Without gradients an image needs far less of it."""
        return PREDICT_BATCH if self.accumulate == 1 else min(PREDICT_BATCH, 2 * (self.batch_size // self.accumulate))


def learns_masks(config: Config) -> bool:
    """Whether training images are wanted with their lesion masks."""
    return config.mask_task.weight > 0


class Classifier(_attention.GradCam, _fitting.Base[Network]):
    """A fine-tuned network. A fit resumes after its last epoch."""

    config: Config
    CONFIG = Config

    def __init__(self, config: Config, classes: tuple[str, ...]) -> None:
        super().__init__(config, classes)
        self.temperature = 1.0

    def _check_inputs(self, view: TrainingView, validation: Examples) -> None:
        for inputs in (view.real.inputs, validation.inputs):
            _fitting.check_pixels(inputs, self.config.size)
        if (view.real.masks is not None) != learns_masks(self.config):
            raise DataError(
                "The training images have lesion masks, and mask_task.weight is 0."
                if view.real.masks is not None
                else "mask_task learns lesion masks, and the training images come without.",
                "masks.read_known reads those of a catalog.",
            )

    def check_treatment(self, treatment: Treatment) -> None:
        super().check_treatment(treatment)
        if learns_masks(self.config) and (treatment.mix or treatment.augment):
            raise RecipeError(
                "It changes images where their lesion masks do not follow.",
                "Leave the arm out, or mask_task.weight = 0.",
            )

    def check_use(self, use: Use) -> None:
        super().check_use(use)
        if learns_masks(self.config) and use.way == "weight":
            raise RecipeError(
                "It weighs the loss of an image, and mask_task has a loss of its own that is of whole batches.",
                "Leave the arm out, or mask_task.weight = 0.",
            )

    def _fit(self, job: _fitting.Job) -> None:
        config, folder = self.config, job.folder
        num_steps = job.view.num_steps(config.batch_size, config.steps_per_epoch)
        stages = _fitting.stages(config.epochs, job.treatment, len(self.classes))
        reproducible = randomness.reproducible("finetune", job.seed, device=self.device)
        with reproducible, devices.enough_memory(config.batch_size, accumulate=config.accumulate):
            network = self._build(config.backbone)
            settings = self._settings(job, network)
            done, saved = checkpoints.load(folder, settings) or (0, None)
            stage = _fitting.stage_of(stages, done)
            state = self._begin(network, num_steps, stage)
            if saved:
                state.load(saved)
            with monitoring.Board(folder, done + 1) as board:
                for epoch in range(done + 1, config.epochs + 1):
                    start = time.perf_counter()
                    if epoch > stage.last:
                        stage = _fitting.stage_of(stages, epoch)
                        self._fresh_head(state, job.seed)
                        state = self._begin(network, num_steps, stage)
                    self.network = state.evaluated
                    torch.manual_seed(randomness.seed_from("finetune", job.seed, epoch))
                    trained = self._train(state, job, epoch, stage)
                    plain = self._predict(job.validation.inputs, job.validation.metadata, _views.AS_IT_IS)
                    scored = _fitting.scores(plain, job.validation.labels)
                    monitoring.check_finite(epoch * num_steps, train_loss=trained["train_loss"], **scored)
                    state.keep_best(epoch, _fitting.merit(config.choose, epoch, scored))
                    if job.forgets_after(epoch, config.epochs):
                        state.forget_best()
                    runs.log(folder, epoch=epoch, **trained, **scored, seconds=time.perf_counter() - start)
                    board.scalars(epoch, **trained, **scored)
                    checkpoints.save(folder, epoch, state.dump(), settings)
            self.network = state.evaluated
            self.network.load_state_dict(state.best)
            self.temperature = 1.0
            if config.calibrate:
                logits = self._predict(job.validation.inputs, job.validation.metadata, config.predicted_views)
                self.temperature = _fitting.temperature(logits, job.validation.labels)

    def _begin(self, network: Network, num_steps: int, stage: _fitting.Stage) -> State[Network]:
        """Everything but the weights as at the start of a stage, with ``num_steps`` an epoch."""
        config = self.config
        network.backbone.requires_grad_(not stage.head_only)
        backbone_rate = None if stage.head_only else config.backbone_learning_rate
        groups = network.groups(backbone_rate, config.head_learning_rate, config.weight_decay)
        if config.optimizer == "adamw":
            optimizer = torch.optim.AdamW(groups, fused=True)
        else:
            optimizer = torch.optim.SGD(groups, lr=config.head_learning_rate, momentum=0.9, nesterov=True)
        # Each stage has a schedule of its own, and only the first a warm-up: a softmax regression needs none.
        first, total = (stage.first - 1) * num_steps, (stage.last + 1 - stage.first) * num_steps
        num_warmup = config.warmup_epochs * num_steps if stage.first == 1 else 0.0
        return State(network, optimizer, lambda step: rise_then_fall(step - first, num_warmup, total), config.ema_decay)

    @staticmethod
    def _fresh_head(state: State[Network], seed: int) -> None:
        """The weights that the first stage kept, with a head of fresh random ones."""
        state.network.load_state_dict(state.best)
        torch.manual_seed(randomness.seed_from("head", seed))
        for part in state.network.top:
            part.reset_parameters()

    def _settings(self, job: _fitting.Job, initial: Network) -> str:
        """Digest of what a checkpoint depends on; pixels and masks themselves are named by the run folder."""
        view, validation = job.view, job.validation
        options = (self.config.model_dump(), backbones.digest(initial.backbone), self.classes, job.seed)
        labels = (view.labels.tobytes(), validation.labels.tobytes())
        metadata = (view.metadata_at(np.arange(len(view.labels))), validation.metadata)
        optional = (view.weights, view.in_place_of, *metadata)
        given = (values.tobytes() for values in optional if values is not None)
        return runs.digest(*options, *labels, view.num_real, view.num_slots, repr(view.use), job.treatment.key, *given)

    def _build(self, options: backbones.Backbone) -> Network:
        features = backbones.build(options, self.config.size)
        for side in {*self.config.predicted_views.sizes, *self.config.progressive}:
            features.check_size(side, options.name)
        units = self.config.mask_task.units
        decoder = partial(MaskDecoder, features, options.name, units) if learns_masks(self.config) else None
        network = Network(features, len(self.classes), self.num_metadata, self.config.metadata_network, decoder)
        if self.config.channels_last:
            network.to(memory_format=torch.channels_last)
        return network.to(self.device)

    def _train(self, state: State[Network], job: _fitting.Job, epoch: int, stage: _fitting.Stage) -> dict[str, float]:
        """One epoch; the mean loss and accuracy of its (augmented) batches, each before its own step."""
        config, view, treatment = self.config, job.drawn_in(epoch, self.config.epochs), job.treatment
        num_steps = view.num_steps(config.batch_size, config.steps_per_epoch)
        side = config.side_in(epoch)
        rng = randomness.generator_for("augment", job.seed, epoch)
        draws = torch.rand(len(view), _augment.NUM_DRAWS, generator=rng)
        tally = _fitting.Tally(self.device)
        state.network.train()
        if stage.head_only:  # a frozen backbone keeps the averages of its batch normalisation as well
            state.network.backbone.eval()
        elif config.freezes_batch_norm:
            state.network.keep_batch_norm()
        batches = view.batches(job.seed, epoch, config.batch_size, config.steps_per_epoch, stage.class_weights)
        for step, batch in enumerate(batches, (epoch - 1) * num_steps):
            inputs = batch.inputs
            if treatment.augment is not None:  # on the CPU on every machine
                inputs = treatment.augment(torch.from_numpy(inputs).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
            images, has_mask = self._with_masks(inputs, batch.masks)
            images = _augment.augment(images, draws[batch.place].to(self.device), config.augment)
            targets = _fitting.soft_targets(batch.labels, len(self.classes), self.device, config.label_smoothing)
            known = None if batch.metadata is None else torch.from_numpy(batch.metadata).to(self.device)
            weights = _fitting.on_device(batch.weights, self.device)
            images, targets, known, weights = _fitting.mixed(treatment, images, targets, known, weights)
            state.optimizer.zero_grad()
            num_parts = min(config.accumulate, len(images) // 2) or 1
            for rows in torch.arange(len(images)).tensor_split(num_parts):
                part = slice(int(rows[0]), int(rows[-1]) + 1)
                given = images[part, :3], side, None if known is None else known[part]
                with devices.precision(self.device, config.precision):
                    if has_mask is None or stage.head_only:
                        logits, of_masks = state.network(*given), None
                    else:
                        logits, of_masks = state.network.with_masks(*given)
                of_part = None if weights is None else weights[part]
                loss = _fitting.loss_of(logits, targets[part], treatment, step / (config.epochs * num_steps), of_part)
                whole = loss * (len(rows) / len(images))
                if of_masks is not None and has_mask is not None:
                    # A mean over the masks that are known, however the batch is cut.
                    number = int(has_mask[part].sum())
                    second = mask_loss(of_masks, images[part, 3], has_mask[part].to(self.device))
                    whole = whole + config.mask_task.weight * second * (number / max(1, int(has_mask.sum())))
                    tally.add_sum("train_mask_loss", second * number, number)
                whole.backward()
                tally.add(loss, logits, targets[part])
            if config.clip_norm:
                state.network.clip(config.clip_norm)
            state.step(step)
            job.progress(step + 1, config.epochs * num_steps, f"epoch {epoch}")
        return tally.means()

    def _with_masks(self, inputs: np.ndarray, masks: np.ndarray | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images float [n, 3, S, S] in 0..1 on the device, masks as a fourth plane; on the CPU, which are known."""
        if masks is not None:
            inputs = np.concatenate([inputs, masks[..., None]], 3)
        images = backbones.to_float(inputs, self.device, channels_last=self.config.channels_last)
        return images, None if masks is None else torch.from_numpy(masks[:, 0, 0] != UNKNOWN)

    def predict(self, inputs: np.ndarray, metadata: np.ndarray | None = None) -> np.ndarray:
        """Averaged over the views and calibrated."""
        return self._predict(inputs, metadata, self.config.predicted_views) / np.float32(self.temperature)

    @torch.inference_mode()
    def features(self, inputs: np.ndarray, metadata: np.ndarray | None = None) -> np.ndarray:
        """Of one view, the image as it is; those of the metadata follow."""
        network = self._checked(inputs, metadata)
        size = self.config.predict_batch
        features = backbones.embed(network.backbone, inputs, device=self.device, batch_size=size)
        if metadata is None:
            return features
        known = torch.from_numpy(metadata).to(self.device)
        return network.joined(torch.from_numpy(features).to(self.device), known).cpu().numpy()

    def _looked_at(self, pixels: np.ndarray, metadata: np.ndarray | None) -> list[_attention.LookedAt]:
        network, beside = self._checked(pixels, metadata), None
        if metadata is not None and network.metadata is not None:
            with torch.no_grad():
                beside = network.metadata(torch.from_numpy(metadata).to(self.device)).cpu().numpy()
        return [_attention.LookedAt(network.backbone, network.head, beside, self.config.predicted_views)]

    @torch.inference_mode()
    def _predict(self, inputs: np.ndarray, metadata: np.ndarray | None, views: _views.Views) -> np.ndarray:
        """Logits float32 [N, K], not calibrated."""
        network = self._checked(inputs, metadata)
        logits = np.empty((len(inputs), len(self.classes)), np.float32)
        size = self.config.predict_batch
        for start in range(0, len(inputs), size):
            batch = slice(start, start + size)
            images = backbones.to_float(inputs[batch], self.device, channels_last=self.config.channels_last)
            known = None if metadata is None else torch.from_numpy(metadata[batch]).to(self.device)
            with devices.precision(self.device, self.config.precision):
                of_views = [network(view, side, known).float() for view, side in _views.each(images, views)]
            logits[batch] = _views.averaged(of_views, views.average).cpu().numpy()
        return logits

    def _checked(self, inputs: np.ndarray, metadata: np.ndarray | None) -> Network:
        """The trained network, ready to predict these."""
        network = self._trained()
        _fitting.check_pixels(inputs, self.config.size)
        _fitting.check_metadata(metadata, len(inputs), self.num_metadata)
        return network.eval()

    def _facts(self) -> dict[str, Any]:
        return {"temperature": self.temperature}

    def _empty(self, saved: dict[str, Any]) -> Network:
        self.temperature = saved["temperature"]
        return self._build(self.config.backbone.model_copy(update={"weights": "scratch"}))

    def _seconds_a_step(self) -> float:
        config = self.config
        with devices.enough_memory(config.batch_size, self._seconds_in_parts, config.accumulate):
            return self._seconds_in_parts(config.accumulate)

    def _seconds_in_parts(self, accumulate: int) -> float:
        """Mean over the epochs, timed on a few steps of each progressive size, batches computed in so many parts."""
        config = self.config.model_copy(update={"accumulate": accumulate, "steps_per_epoch": None})
        labels = np.arange((NUM_TIMED_STEPS + 1) * config.batch_size) % len(self.classes)
        pixels = np.zeros((len(labels), config.size, config.size, 3), np.uint8)
        masks = unknown(len(labels), config.size) if learns_masks(config) else None
        view = TrainingView(Examples(pixels, labels, masks=masks), None, 0)
        sides = [config.side_in(epoch) for epoch in range(1, config.epochs + 1)]
        times: list[float] = []
        seconds: dict[int | None, float] = {}
        job = _fitting.Job.timing(view, lambda done, total, note: times.append(devices.spent(self.device)))
        timed = Classifier(config, self.classes)
        timed.device = self.device
        with randomness.reproducible("timing", device=self.device):
            stage = _fitting.Stage(1, config.epochs, None, False)
            state = timed._begin(timed._build(config.backbone), NUM_TIMED_STEPS + 1, stage)
            for side in dict.fromkeys(sides):
                times.clear()
                timed._train(state, job, 1 + sides.index(side), stage)
                seconds[side] = (times[-1] - times[0]) / (len(times) - 1)
        return float(np.mean([seconds[side] for side in sides]))
