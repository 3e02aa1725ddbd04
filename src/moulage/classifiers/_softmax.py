"""Softmax regression on numbers that describe an image: what the classifiers ``probe`` and ``metadata`` share."""

from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from moulage import devices, plugins, randomness
from moulage.classifiers import _descent, _fitting, _optimum
from moulage.classifiers._head import Head
from moulage.data.training_view import Examples, TrainingView
from moulage.errors import DataError, RecipeError
from moulage.treatment import Treatment
from moulage.use import Use

NUM_TIMED_STEPS = 8


class Options(plugins.Options):
    """Options of a softmax regression."""

    standardize: bool = Field(
        True, description="bring each feature to mean 0 and standard deviation 1 over the real training images"
    )
    penalty: float | None = Field(
        None,
        gt=0,
        description="of half the squared length of the weights, beside the mean loss of an image; none: the one with "
        "the least loss on the validation part",
    )
    descent: _descent.Descent | None = Field(
        None, description="a number of epochs of gradient descent, as the thesis trained; none: the optimum itself"
    )

    @model_validator(mode="after")
    def _one_way(self) -> "Options":
        if self.penalty is not None and self.descent is not None:
            raise ValueError("penalty is for the optimum; descent has a weight_decay of its own")
        return self


class Classifier(_fitting.Base[Head]):
    """Softmax regression on embeddings and metadata, at the optimum of its loss (``_optimum``) or by gradient steps.

    Metadata are further features beside the embedding (late fusion). An interrupted fit starts over: it takes seconds.
    The features are standardised by the real training images alone, so that they are the same in all arms.
    """

    facts: dict[str, Any]  # of the fit: the penalty, and which were tried with what validation loss

    def _num_features(self) -> int:
        """About how many numbers describe an image: for timing."""
        raise NotImplementedError

    def check_treatment(self, treatment: Treatment) -> None:
        """It refuses a treatment of pixels, and a frozen backbone: that is frozen anyway."""
        _fitting.check_class_weights(treatment, len(self.classes))
        if descent := self.config.descent:
            _fitting.stages(descent.epochs, treatment, len(self.classes))
        if treatment.needs_pixels:
            raise RecipeError(
                "The treatment changes pixels, and the probe is given embeddings.", "Use the classifier finetune."
            )
        if treatment.freeze_backbone:
            raise RecipeError(
                "The probe is a linear probe already: freezing its backbone is the same as the arm none.",
                "Leave the arm out, or use the classifier finetune.",
            )

    def check_use(self, use: Use) -> None:
        """At the optimum it refuses ``pretrain``: the loss has one, wherever the search begins."""
        if self.config.descent is not None:
            use.num_epochs(self.config.descent.epochs)
        elif use.way == "pretrain":
            raise RecipeError(
                "The head goes to the optimum of its loss on the last images, and an optimum does not depend on where "
                "the search began: pretrain would be the same as to add nothing.",
                "Give the classifier the option descent, which trains in epochs, or use the classifier finetune.",
            )

    def _check_inputs(self, view: TrainingView, validation: Examples) -> None:
        _check_embeddings(view.real.inputs)
        _check_embeddings(validation.inputs, view.real.inputs.shape[1])

    def _fit(self, job: _fitting.Job) -> None:
        extra = _joined(job.view.extra) if job.view.extra is not None and len(job.view.extra) else None
        view = replace(job.view, real=_joined(job.view.real), extra=extra)
        job = replace(job, view=view, validation=_joined(job.validation))
        num_classes, config = len(self.classes), self.config
        with randomness.reproducible("probe", job.seed, device=self.device):
            head = Head(view.real.inputs.shape[1], num_classes)
            if config.standardize:
                head.standardize(view.real.inputs)
            self.network = head.to(self.device)
            if config.descent is None:
                self.facts = _optimum.reach(head, job, config.penalty, num_classes)
            else:
                _descent.descend(config.descent, head, job, num_classes)
                self.facts = {}

    def steps_and_seconds(self, num_images: int, *, device: str = "cpu") -> tuple[int, float]:
        """See ``contracts``; a step at the optimum is one evaluation of the loss and its gradient on all images."""
        num_features, num_classes = self._num_features(), len(self.classes)
        descent, where = self.config.descent, devices.pick_device(device)
        if descent is None:
            a_step = _optimum.seconds_an_evaluation(num_images, num_features, num_classes, where)
            return _optimum.TYPICAL_EVALUATIONS, a_step
        labels: np.ndarray = np.arange(NUM_TIMED_STEPS * descent.batch_size) % num_classes
        view = TrainingView(Examples(np.zeros((len(labels), num_features), np.float32), labels), None, 0)
        head = Head(num_features, num_classes).to(where)
        steps = -(-num_images // descent.batch_size)
        a_step = _descent.seconds_a_step(descent, head, _fitting.Job.timing(view), num_classes)
        return descent.epochs * min(steps, descent.steps_per_epoch or steps), a_step

    def predict(self, inputs: np.ndarray, metadata: np.ndarray | None = None) -> np.ndarray:
        return self._trained().predict(self._features(inputs, metadata))

    def features(self, inputs: np.ndarray, metadata: np.ndarray | None = None) -> np.ndarray:
        """Embeddings and metadata, standardised."""
        head = self._trained()
        return (self._features(inputs, metadata) - head.mean.cpu().numpy()) / head.std.cpu().numpy()

    def _features(self, inputs: np.ndarray, metadata: np.ndarray | None) -> np.ndarray:
        """Checked embeddings, and metadata after them: float32 [N, D + M]."""
        _check_embeddings(inputs, len(self._trained().mean) - self.num_metadata)
        _fitting.check_metadata(metadata, len(inputs), self.num_metadata)
        return inputs if metadata is None else np.concatenate([inputs, metadata], axis=1)

    def _facts(self) -> dict[str, Any]:
        return {"num_features": len(self._trained().mean), **self.facts}

    def _empty(self, saved: dict[str, Any]) -> Head:
        self.facts = {key: saved[key] for key in ("penalty", "gradient", "tried") if key in saved}
        return Head(saved["num_features"], len(self.classes))


def _joined(examples: Examples) -> Examples:
    """The same examples with their metadata as further features: inputs [N, D + M]."""
    if examples.metadata is None:
        return examples
    return Examples(np.concatenate([examples.inputs, examples.metadata], axis=1), examples.labels)


def _check_embeddings(inputs: np.ndarray, num_features: int | None = None) -> None:
    if inputs.dtype != np.float32 or inputs.ndim != 2:
        raise DataError(
            f"The probe trains on embeddings, float32 [N, D], and got {inputs.dtype} {list(inputs.shape)}.",
            "Turn pixels into embeddings with probe.embed first.",
        )
    if num_features is not None and inputs.shape[1] != num_features:
        raise DataError(
            f"Embeddings have {inputs.shape[1]} features instead of {num_features}.", "They are of another backbone."
        )
