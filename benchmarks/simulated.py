"""Simulated studies: logits of several arms and fits, from a model whose every source of chance is known.

The logit of image i of lesion l under arm a and fit s for class k is

    bias_k + [k is the true class] (signal_k + planted_a + G_ask) + B_ask    class, planted effect, trial effects
    + lesion_lk + image_ik                                                   shared by all arms and fits
    + arm_alk + arm_aik                                                      how this arm sees lesion and image
    + fit_aslk + fit_asik                                                    what this fit adds

where every term in the last three lines, G and B are independent normal. In repeated folds a trial effect belongs to
one arm, repeat and fold. Each study draws its own lesions; null arms follow the same law as the reference, so their
true difference is 0. No model is trained: what is tested is the inference, and the variances are assumed.
"""

from dataclasses import dataclass, field

import numpy as np

from moulage.evaluation.alignment import Fits

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
TARGETS = ("AK", "DF", "VASC", "SCC")
SHARES = (0.1785, 0.5083, 0.1312, 0.0342, 0.1037, 0.0094, 0.0099, 0.0248)
"""Shares of the images of ISIC-2019."""
IMAGES_A_LESION = 0.51
"""Parameter of a geometric law, cut at 12: 1.96 images a lesion, as in ISIC-2019."""


@dataclass(frozen=True)
class Model:
    """Standard deviations in logits, and what each class gets."""

    bias: tuple[float, ...] = (0.8, 1.2, 0.6, -0.2, 0.4, -1.05, -0.9, -0.35)  # of each class, [K]
    signal: tuple[float, ...] = (1.8, 2.4, 2.6, 2.1, 2.0, 2.7, 3.4, 2.2)
    lesion: float = 1.0  # shared by all arms and fits
    image: float = 0.7
    arm_lesion: float = 0.15  # of an arm, shared by its fits
    arm_image: float = 0.12
    fit_lesion: float = 0.12  # of one fit
    fit_image: float = 0.2
    trial_signal: float = 0.1  # G and B, which make recall vary between seeds
    trial_bias: float = 0.1


@dataclass(frozen=True)
class Design:
    """A study."""

    num_images: int = 5000  # about how many images in all, in lesions of 1.96 each; the lesions of a class are fixed
    num_sets: int = 5  # fits on a hold-out, or repeats of the folds
    num_folds: int = 1  # 1 is a hold-out
    num_arms: int = 11  # reference and others
    # arm -> factor on its trial effects, such as 2 for a noisy arm
    noise: dict[str, float] = field(default_factory=dict)
    planted: dict[str, float] = field(default_factory=dict)  # arm -> signal added to the target classes
    model: Model = field(default_factory=Model)  # the law of the logits

    @property
    def arms(self) -> tuple[str, ...]:
        """The reference first."""
        return ("reference", *(f"arm{number}" for number in range(1, self.num_arms)))


def draw(design: Design, rng: np.random.Generator) -> Fits:
    """One study: its lesions, and the logits of all arms and fits."""
    model = design.model
    strata, of = draw_lesions(design.num_images, rng)
    labels, num_classes = strata[of], len(CLASSES)
    rows, num_images, num_lesions = np.arange(len(of)), len(of), len(strata)

    def normal(sigma: float, *shape: int) -> np.ndarray:
        return np.float32(sigma) * rng.standard_normal(shape, np.float32)

    shared = normal(model.lesion, num_lesions, num_classes)[of] + normal(model.image, num_images, num_classes)
    shared += np.array(model.bias, np.float32)
    shared[rows, labels] += np.array(model.signal, np.float32)[labels]
    folds = deal(strata, design, rng)[:, of] if design.num_folds > 1 else None
    is_target, logits = np.isin(CLASSES, TARGETS), {}
    for name in design.arms:
        mine = shared + normal(model.arm_lesion, num_lesions, num_classes)[of]
        mine += normal(model.arm_image, num_images, num_classes)
        mine[rows, labels] += np.float32(design.planted.get(name, 0.0)) * is_target[labels]
        loudness = design.noise.get(name, 1.0)
        logits[name] = normal(model.fit_image, design.num_sets, num_images, num_classes)
        for s, found in enumerate(logits[name]):
            found += mine
            found += normal(model.fit_lesion, num_lesions, num_classes)[of]
            signal = normal(loudness * model.trial_signal, design.num_folds, num_classes)
            bias = normal(loudness * model.trial_bias, design.num_folds, num_classes)
            fold = np.zeros(num_images, np.int64) if folds is None else folds[s]
            found[rows, labels] += signal[fold, labels]
            found += bias[0] if folds is None else bias[fold]
    return Fits(CLASSES, labels, of, strata, num_lesions, logits, folds)


def draw_lesions(num_images: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Class of each lesion, [L] int64, and lesion of each image, [N] int64."""
    num_lesions = num_images * IMAGES_A_LESION
    strata = np.repeat(np.arange(len(CLASSES)), np.rint(num_lesions * np.array(SHARES)).astype(int))
    sizes = np.minimum(rng.geometric(IMAGES_A_LESION, len(strata)), 12)
    return strata, np.repeat(np.arange(len(strata)), sizes)


def deal(strata: np.ndarray, design: Design, rng: np.random.Generator) -> np.ndarray:
    """Fold of each lesion in each repeat, [S, L]: the lesions of a class are shuffled and dealt in turn."""
    folds = np.empty((design.num_sets, len(strata)), np.int64)
    for row in folds:
        for k in range(len(CLASSES)):
            members = rng.permutation(np.flatnonzero(strata == k))
            row[members] = (np.arange(len(members)) + rng.integers(design.num_folds)) % design.num_folds
    return folds
