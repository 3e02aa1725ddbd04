"""A run folder as a study leaves it, with made-up numbers and images, for tests of what comes after a study."""

import types
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
from PIL import Image
from pydantic import BaseModel

from moulage import results as found
from moulage.data.audit import Audit, Finding
from moulage.data.duplicates import Pair
from moulage.evaluation.compare import Comparison
from moulage.evaluation.verdict import Control
from moulage.results import Results
from moulage.results.generated import GeneratorRun
from moulage.runs import log, write_json

Kind = TypeVar("Kind")

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
TEST_IMAGES = (736, 2122, 531, 133, 427, 38, 40, 99)
ARMS = ("none", "duplicates", "balanced-softmax", "dcgan")
WIDE = (*ARMS, "r3gan", "focal", "mixup", "noise", "permuted", "oracle")
GAIN = {"none": 0.0, "duplicates": 0.004, "balanced-softmax": 0.03, "dcgan": 0.006, "r3gan": 0.061, "oracle": 0.083}
ABOUT = {
    "none": ("reference", "none", "", None),
    "duplicates": ("reference", "duplicates", "", None),
    "balanced-softmax": ("rival", "balanced_softmax", "", None),
    "dcgan": ("synthetic", "synthesize", "", "ak"),
    "r3gan": ("synthetic", "synthesize", "balanced_softmax", "ak-large"),
    "focal": ("rival", "focal", "", None),
    "mixup": ("rival", "mixup", "", None),
    "noise": ("null", "synthesize", "", "noise"),
    "permuted": ("null", "permuted", "", None),
    "oracle": ("positive", "oracle", "", None),
}
"""Arm -> role, balance, treatment, generator."""


def filled(kind: type[Kind], /, **given: Any) -> Kind:
    """A record with these values, and with nothing in all other fields that must be given."""
    hints = get_type_hints(kind)
    if is_dataclass(kind):
        asked = [field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING]
    else:
        assert issubclass(kind, BaseModel)
        asked = [name for name, field in kind.model_fields.items() if field.is_required()]
    return kind(**{name: _nothing(hints[name]) for name in asked if name not in given} | given)


def _nothing(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):  # one of ours is always optional
        return None
    if get_origin(hint) is Literal:
        return get_args(hint)[0]
    kind = get_origin(hint) or hint
    return filled(kind) if is_dataclass(kind) or issubclass(kind, BaseModel) else kind()


def noise(number: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Images uint8 [n, size, size, 3] that PNG cannot make smaller."""
    return rng.integers(0, 255, (number, size, size, 3), np.uint8)


def make_run(
    folder: Path, *, num_epochs: int = 12, num_generated: int = 40, image_name: str = "ISIC_0024306", **design: Any
) -> Results:
    """Write a run folder as a study leaves it; repeatable. ``design`` is that of ``make_results``."""
    results, rng = make_results(**design), np.random.default_rng(7)
    results.save(folder)
    for made in results.generators:
        write_generator(folder, made, image_name, num_generated, rng)
    for fit in results.fits:
        write_log(folder / fit.folder, num_epochs, rng)
    cut = Finding("truncated image", "error", 2, (image_name, "ISIC_2"), "The file ends before the image does.")
    bad = {image_name: "truncated", **{f"bad_{k:03}": "unreadable" for k in range(100)}}
    pairs = tuple(filled(Pair, first=image_name, second=name, accepted=name == "a") for name in "ab")
    Audit((cut,), bad, pairs).save(folder / "audit.json")
    write_json(folder / "environment.json", {"moulage": "0.1.0", "python": "3.11.9", "torch": "2.15", "cpu": "2 cores"})
    (folder / "recipe.toml").write_text('name = "thesis2020"\n[arms.dcgan]\nadd = { AK = 80 }\n', encoding="utf-8")
    return results


def write_log(folder: Path, num_epochs: int, rng: np.random.Generator) -> None:
    for epoch in range(1, num_epochs + 1):
        loss = 0.75 + 1.1 * np.exp(-epoch / 4) + 0.03 * rng.normal()
        accuracy = 0.78 - 0.3 * np.exp(-epoch / 4)
        log(folder, epoch=epoch, train_loss=loss - 0.02 * epoch, train_accuracy=accuracy, validation_loss=loss + 0.1)


def write_generator(folder: Path, made: GeneratorRun, image_name: str, number: int, rng: np.random.Generator) -> None:
    """The log, previews and gallery of one fit."""
    for step in range(0, 2000, 5):
        log(folder / made.folder, step=step, loss_d=0.6 + 0.1 * rng.normal(), loss_g=1.5 + 0.2 * rng.normal())
    for step in (0, 500, 1000, 2000):
        (folder / made.folder / "previews").mkdir(exist_ok=True)
        Image.fromarray(noise(1, 128, rng)[0]).save(folder / made.folder / "previews" / f"step-{step}.png")
    assert made.gallery is not None
    (folder / made.gallery).parent.mkdir(exist_ok=True)
    labels = np.array(made.classes)
    np.savez(
        folder / made.gallery,
        real=noise(30, 64, rng),
        real_labels=labels.repeat(30),
        generated=noise(number, 64, rng),
        generated_labels=labels.repeat(number),
        generated_seeds=np.arange(number),
        nearest=noise(number, 64, rng),
        nearest_images=np.array([f"{image_name}_{k}" for k in range(number)]),
        distance=rng.normal(24, 5, number),
        real_distance=rng.normal(27, 5, 60),
    )


def make_results(
    *,
    classes: tuple[str, ...] = CLASSES,
    support: tuple[int, ...] = TEST_IMAGES,
    arms: tuple[str, ...] = ARMS,
    target: str = "AK",
    num_trials: int = 3,
    folds: tuple[int, int] = (1, 1),
) -> Results:
    """What a study found; ``folds`` (folds, repeats) makes it one in repeated folds, of as many trials."""
    cautious, num_trials = folds != (1, 1), num_trials if folds == (1, 1) else folds[0] * folds[1]
    judged, rivals, rng = of_role(arms, "synthetic"), of_role(arms, "rival"), np.random.default_rng(7)
    references = [name for name in ("none", "duplicates") if name in arms]
    others = [name for name in ("duplicates", "balanced-softmax") if name in arms]
    pairs = [*((arm, arms[0]) for arm in arms[1:]), *((arm, other) for arm in judged for other in others)]
    primary, scheme = "average_precision", "folds" if cautious else "holdout"
    effects = [
        (arm, reference, f"{kind}:{name}", 0.02 * np.sin(3 * k + len(kind)))
        for arm in judged
        for reference in references
        for kind in (primary, "recall")
        for k, name in enumerate(classes)
    ]
    measures = (f"recall:{target}", primary, "balanced_accuracy", "log_loss")
    planned = {"family": judged, "arms": {arm: about(arm)[0] for arm in arms}, "scheme": scheme}
    parts = {name: found.Count(images=n, lesions=n // 2 + 2) for name, n in zip(classes, support, strict=True)}
    return filled(
        Results,
        study=filled(
            found.Study,
            name="thesis2020",
            question=f"Do 80 generated images of {target} help a classifier find {target}?",
            target_classes=(target,),
            primary=primary,
            classes=classes,
            data=filled(found.Data, name="ISIC-2019 at 84 px", note="BCN20000, HAM10000 and MSK; CC BY-NC 4.0."),
        ),
        date="2026-11-24 10:02 UTC",
        command="moulage study studies/thesis2020.toml --data data/isic2019-84px --budget cpu",
        answer="Not enough data: adding 80 generated images changed average precision of AK by +0.6 points.",
        details=["dcgan: 80 images of AK were wanted, and the selection best kept 71."],
        registration=filled(
            found.Registration,
            digest="5be1c0ffee42",
            date="2026-11-20 08:15 UTC",
            before_test=True,
            declared=filled(found.Declared, primary=primary, **planned),
            note="Two arms were added on 2026-11-21, before the test part was opened.",
        ),
        best_rival=filled(found.BestRival, arm=rivals[0], measure=primary) if rivals else None,
        trials=filled(found.Trials, scheme=scheme, num_folds=folds[0], num_repeats=folds[1], num_trials=num_trials),
        arms=[make_arm(arm, target, num_trials) for arm in arms],
        fits=[make_fit(a, arm, t, scores_of(arm, parts, rng)) for a, arm in enumerate(arms) for t in range(num_trials)],
        comparisons=[comparison(*pair, name, num_trials, cautious=cautious) for name in measures for pair in pairs],
        controls=[control(arm) for arm in of_role(arms, "null", "positive")],
        controls_missing=[name for name in ("noise", "permuted", "oracle") if name not in arms],
        verdicts=[verdict(arm, arms, target) for arm in judged],
        class_effects=[comparison(*effect[:3], num_trials, effect[3], cautious=cautious) for effect in effects],
        power=[power(arm, reference) for arm in judged for reference in references],
        reliability=[reliability(arm, 0.062 + 0.01 * a) for a, arm in enumerate(arms)],
        slices=slices(judged, references),
        slice_warnings=[f"{arm} improves the average precision on the source HAM only." for arm in judged[-1:]],
        split=dict.fromkeys(("train", "validation", "test"), parts),
        split_digest="0f3a9c1b77de",
        generators=[make_generator("ak", trial, target) for trial in range(num_trials)],
        cost=[
            found.Cost(kind=kind, name="", device=device, wall_seconds=wall, cpu_seconds=cpu)
            for kind, device, wall, cpu in (
                ("prepare", "cpu", 41, 75),
                ("generator", "cuda", 612, 630),
                ("classifier", "cpu", 310, 305),
                ("classifier", "cpu", 290, 295),
            )
        ],
    )


def about(arm: str) -> tuple[str, str, str, str | None]:
    return ABOUT.get(arm, ("rival", arm, "", None))


def of_role(arms: tuple[str, ...], *roles: str) -> list[str]:
    return [arm for arm in arms if about(arm)[0] in roles]


def make_fit(number: int, arm: str, trial: int, scores: found.Scores) -> found.Fit:
    return found.Fit(arm=arm, trial=trial, folder=f"classifiers/arm{number}-{trial}", scores={"test": scores})


def make_generator(name: str, trial: int, target: str) -> GeneratorRun:
    places = {"folder": f"generators/{name}-{trial}", "gallery": f"galleries/{name}-{trial}.npz"}
    return filled(GeneratorRun, name=name, generator=name, plugin="dcgan", trial=trial, classes=[target], **places)


def make_arm(arm: str, target: str, num_trials: int) -> found.Arm:
    role, balance, treatment, generator = about(arm)
    return filled(
        found.Arm,
        name=arm,
        role=role,
        balance=balance,
        treatment=treatment,
        generator=generator,
        extra={} if role == "rival" or arm == "none" else {target: 80},
        num_distinct=80,
        strength=[0.5 + 0.25 * k for k in range(num_trials)] if arm == "balanced-softmax" else [1.0] * num_trials,
    )


def scores_of(arm: str, part: dict[str, found.Count], rng: np.random.Generator) -> found.Scores:
    """Scores with a confusion matrix that agrees with them; there is no calibration error."""
    gain, sizes = GAIN.get(arm, 0.0), np.array([count.images for count in part.values()])
    chances = 0.3 * sizes / sizes.sum() + (0.5 + gain) * np.eye(len(part)) + 0.02
    confusion = np.array([rng.multinomial(n, row / row.sum()) for n, row in zip(sizes, chances, strict=True)])
    right, predicted = np.diag(confusion), np.maximum(confusion.sum(axis=0), 1)
    of_class = zip(part, right / predicted, right / sizes, 2 * right / (sizes + predicted), sizes.tolist(), strict=True)
    return filled(
        found.Scores,
        accuracy=right.sum() / sizes.sum(),
        balanced_accuracy=(right / sizes).mean(),
        expected_calibration_error=float("nan"),
        log_loss=1.1 - gain,
        classes={
            name: filled(found.ClassScores, precision=precision, recall=recall, f1=f1, support=number)
            for name, precision, recall, f1, number in of_class
        },
        confusion=confusion.tolist(),
    )


def comparison(
    arm: str, reference: str, measure: str, num_trials: int = 3, shift: float = 0, *, cautious: bool = False
) -> Comparison:
    """One with an interval, but for balanced accuracy."""
    difference = GAIN.get(arm, 0.01) - GAIN.get(reference, 0.0) + shift
    known = measure != "balanced_accuracy"
    return filled(
        Comparison,
        arm=arm,
        reference=reference,
        measure=measure,
        estimate_arm=0.5 + difference,
        estimate_reference=0.5,
        difference=difference,
        low=difference - 0.037 if known else None,
        high=difference + 0.037 if known else None,
        cautious_low=difference - 0.055 if cautious else None,
        cautious_high=difference + 0.055 if cautious else None,
        p_value=0.0004 if arm == "balanced-softmax" else 0.42,
        num_trials=num_trials,
        num_images=4126,
        num_lesions=2113,
        method="lesion jackknife",
        notes=("Fits vary by 1.3 points.",),
    )


def verdict(arm: str, arms: tuple[str, ...], target: str) -> found.Verdict:
    """``r3gan`` would help, if the controls allowed it."""
    roles = (("none", "none"), ("duplicates", "duplicates"), ("rival", "balanced-softmax"))
    return filled(
        found.Verdict,
        arm=arm,
        change=f"Adding 80 generated {target} images ({arm})",
        outcome="not enough data",
        comparisons=["It changed the measure by +0.2 points against duplicates (95 % interval -3.5 to +3.9)."],
        refused="The null control noise helps: +9.9 points. It must not." if arm == "r3gan" else "",
        needed="About 14 trials, or 2.3 times as many test lesions, would settle it.",
        p_adjusted=0.84,
        references={role: name for role, name in roles if name in arms},
        detectable=0.054,
    )


def control(arm: str) -> Control:
    role, state = about(arm)[0], "misbehaves" if arm == "noise" else "behaves"
    return filled(Control, arm=arm, role=role, state=state, text=f"The {role} control {arm} {state}.")


def power(arm: str, reference: str) -> found.Power:
    more = 0.01 * (reference != "none")
    by_trials = [(n, 0.045 + 0.027 / n + more) for n in (3, 5, 10, 20, 50)]
    by_size = [(factor, 0.054 / factor**0.5 + more) for factor in (1, 2, 4, 8, 16)]
    known = {"measure": "average_precision", "standard_error": 0.018, "detectable": 0.054 + more}
    return filled(found.Power, arm=arm, reference=reference, by_trials=by_trials, by_size=by_size, **known)


def reliability(arm: str, error: float) -> found.Reliability:
    bins = [(0.1 * k + 0.05, 0.1 * k + 0.01 * (k % 3), 40 * k * k) for k in range(2, 10)]
    return found.Reliability(arm=arm, bins=bins, error=error)


def slices(judged: list[str], references: list[str]) -> list[found.Slice]:
    """By three columns, under two measures; the youngest are too few, and those of unknown sex have no interval."""
    columns = {
        "source": ("HAM", "BCN", "MSK"),
        "sex": ("female", "male", "unknown"),
        "age": ("0-30", "30-45", "45-60", "60-75", "75+"),
    }
    blocks = []
    for measure in ("balanced_accuracy", "average_precision"):
        for column, k, value in ((column, *pair) for column, of in columns.items() for pair in enumerate(of)):
            few, difference = value == "0-30", 0.01 + 0.02 * k
            ends = {"low": None, "high": None} if value == "unknown" else {"low": k / 50 - 0.05, "high": k / 50 + 0.07}
            values = {"score": 0.48 + 0.02 * k, "difference": difference, **ends}
            rows = [filled(found.SliceRow, arm=arm, reference=name, **values) for arm in judged for name in references]
            sizes = {"num_images": 900 - 100 * k, "num_lesions": 500 - 90 * k, "rows": [] if few else rows}
            note = "Too small: 4 lesions of AK, fewer than 10." if few else ""
            blocks.append(filled(found.Slice, column=column, value=value, measure=measure, note=note, **sizes))
    return blocks
