"""Fine-tuning of a pre-trained text-to-image diffusion model: LoRA and a prompt for each class.

The model is latent diffusion (Rombach et al. 2022, arXiv:2112.10752) in the folder layout of diffusers: unet, vae,
text_encoder, tokenizer, scheduler. Its weights stay as they are; low-rank matrices beside the projections of its
attention learn (Hu et al. 2021, arXiv:2106.09685). They alone are saved, with the digest of the model they belong to.
"""

from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor, nn

from moulage.errors import RecipeError
from moulage.generators import _learner
from moulage.generators._finetuned_diffusion import Adapter, Game, draw, open_base


class Config(_learner.Options):
    """The defaults are common for Stable Diffusion 1 and 2; a few thousand steps are enough."""

    weights: str = Field(
        min_length=1,
        description="the pre-trained model: a folder in the layout of diffusers, or the id of one on the hub",
    )
    prompts: dict[str, str] = Field(description="what each class is called in the model's language, by class")
    resolution: int | None = Field(
        None, ge=8, le=2048, description="pixels a side at which the model works; none: what it was trained at"
    )
    rank: int = Field(16, ge=1, le=1024, description="rank of the matrices that learn")
    alpha: float = Field(16.0, gt=0, le=4096, description="what they add is multiplied by alpha / rank")
    learning_rate: float = Field(1e-4, gt=0, le=1, description="step size of Adam")
    warmup_steps: int = Field(100, ge=0, le=1_000_000, description="steps in which the step size rises from 0")
    min_snr_gamma: float | None = Field(
        5.0,
        gt=0,
        le=1000,
        description="limit of the signal-to-noise ratio in the weights of the loss; none: no weights",
    )
    class_dropout: float = Field(
        0.1, ge=0, le=0.9, description="share of images that are learned under an empty prompt, for guidance"
    )
    guidance: float = Field(
        4.0,
        ge=0,
        le=30,
        description="strength of guidance away from the empty prompt; 1 is none and draws twice as fast",
    )
    sampler: Literal["dpm++", "ddim"] = Field("dpm++", description="DPM-Solver++ of second order, or DDIM")
    num_sampling_steps: int = Field(25, ge=1, le=1000, description="steps of the sampler")

    @model_validator(mode="after")
    def _prompts_say_something(self) -> Self:
        for name, prompt in self.prompts.items():
            if not prompt.strip():
                raise ValueError(f'the prompt of class "{name}" is empty')
        return self


class Generator(_learner.Learner[Config]):
    """Draws images of ``classes`` at ``size`` x ``size`` pixels, a multiple of 8 from 16 to 1024; see ``Learner``.

    Raises:
        RecipeError: a class has no prompt; later, where the model is opened: it is not there, or of another kind.
    """

    NAME, CONFIG, SIZES = "finetuned_diffusion", Config, range(16, 1025, 8)

    def __init__(self, config: Config, classes: tuple[str, ...], size: int) -> None:
        super().__init__(config, classes, size)
        missing = [name for name in classes if name not in config.prompts]
        if missing:
            raise RecipeError(
                f"finetuned_diffusion has no prompt for {', '.join(missing)}.",
                f'Add one for each class: prompts = {{ {missing[0]} = "a dermoscopy image of ..." }}.',
            )

    def game(self) -> Game:
        return Game(self.config, self._adapter(), self.device)

    def network_of(self) -> nn.Module:
        return self._adapter()

    def draw(self, network: Adapter, labels: Tensor, seeds: np.ndarray) -> Tensor:
        return draw(self.config, network, labels, seeds, self.size)

    def _adapter(self) -> Adapter:
        config = self.config
        prompts = [config.prompts[name] for name in self.classes]
        return Adapter(open_base(config.weights, prompts, config.resolution, config.rank, config.alpha))
