"""A run folder as a study leaves it, with made-up numbers and drawn spots, for tests of what comes after a study."""

from pathlib import Path

import numpy as np
from PIL import Image

from moulage.runs import log, write_json

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
"""Arm -> role, balance, treatment, generator; an arm that is not named is a rival."""


def lesions(number: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Brown spots on skin, uint8 [n, size, size, 3]."""
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    skin, spot = np.array([224, 178, 158.0]), np.array([120, 78, 62.0])
    images = []
    for _ in range(number):
        angle = np.arctan2(y, x)
        edge = 0.24 + 0.08 * rng.random() + 0.05 * np.sin(angle * rng.integers(2, 6) + 6 * rng.random())
        inside = 1 / (1 + np.exp(60 * (np.hypot(x - 0.1 * rng.normal(), y - 0.1 * rng.normal()) - edge)))[..., None]
        shade = 1 + 0.12 * rng.normal(size=3)
        image = skin * (1 - inside) + spot * shade * inside + 5 * rng.normal(size=(size, size, 1))
        images.append(np.clip(image, 0, 255).astype(np.uint8))
    return np.array(images).reshape(-1, size, size, 3)


def scores_of(arm: str, classes: tuple[str, ...], support: tuple[int, ...], rng: np.random.Generator) -> dict:
    """Scores with a confusion matrix that agrees with them."""
    size, gain = len(classes), GAIN.get(arm, 0.0)
    prior = np.array(support) / sum(support)
    chances = 0.3 * prior + (0.5 + gain) * np.eye(size) + 0.02
    confusion = np.array([rng.multinomial(n, row / row.sum()) for n, row in zip(support, chances, strict=True)])
    right, predicted = np.diag(confusion), np.maximum(confusion.sum(axis=0), 1)
    recall, precision = right / np.array(support), right / predicted
    f1 = 2 * right / (np.array(support) + predicted)
    rows = {
        name: {
            "precision": precision[k],
            "recall": recall[k],
            "f1": f1[k],
            "support": support[k],
            "auc": 0.9,
            "average_precision": 0.6 + gain,
        }
        for k, name in enumerate(classes)
    }
    return {
        "num_images": sum(support),
        "accuracy": right.sum() / sum(support),
        "balanced_accuracy": recall.mean(),
        "auc": 0.87 + 0.1 * gain,
        "average_precision": 0.5 + gain,
        "expected_calibration_error": float("nan"),
        "log_loss": 1.1 - gain,
        "classes": rows,
        "confusion": confusion.tolist(),
    }


def make_run(
    folder: Path,
    *,
    classes: tuple[str, ...] = CLASSES,
    support: tuple[int, ...] = TEST_IMAGES,
    arms: tuple[str, ...] = ARMS,
    target: str = "AK",
    image_name: str = "ISIC_0024306",
    num_trials: int = 3,
    num_epochs: int = 12,
    num_generated: int = 40,
    folds: tuple[int, int] | None = None,
    with_evidence: bool = True,
) -> Path:
    """A run folder as a study leaves it, with made-up numbers; repeatable.

    ``folds`` (folds, repeats) makes it a study in repeated folds; without ``with_evidence`` it is one of an older
    version, which recorded no verdicts, roles, controls, power or slices.
    """
    num_trials = folds[0] * folds[1] if folds else num_trials
    rng = np.random.default_rng(7)
    generators = make_generators(folder, target, image_name, num_trials, num_generated, rng)
    fits = []
    for a, arm in enumerate(arms):
        for trial in range(num_trials):
            place = f"classifiers/arm{a}-{trial}-ab12cd34ef56"
            make_log(folder / place, num_epochs, rng)
            both = {part: scores_of(arm, classes, support, rng) for part in ("validation", "test")}
            fits.append({"arm": arm, "trial": trial, "folder": place, "scores": both})
    compared = comparisons(arms, target, folds, num_trials)
    if not with_evidence:
        compared = [{key: row[key] for key in row if key not in NEW_IN_COMPARISONS} for row in compared]
    write_json(
        folder / "results.json",
        {
            **(evidence(classes, arms, target, folds, num_trials) if with_evidence else {}),
            "study": {
                "name": "thesis2020",
                "question": f"Do 80 generated images of {target} help a classifier find {target}?",
                "seed": 1,
                "num_trials": num_trials,
                "target_classes": [target],
                "primary": "average_precision",
                "smallest_effect": 0.02,
                "classes": list(classes),
                "budget": "cpu",
                "data": {
                    "name": "ISIC-2019 at 84 px",
                    "source": "isic2019",
                    "num_images": 20634,
                    "note": "BCN20000, HAM10000 and MSK; CC BY-NC 4.0. See https://challenge.isic-archive.com/data.",
                },
            },
            "command": "moulage study studies/thesis2020.toml --data data/isic2019-84px --budget cpu",
            "date": "2026-11-23",
            "answer": "Not enough data: adding 80 generated images changed average precision of AK by +0.6 points "
            "(−3.1 to +4.3), and the smallest effect that matters is ±2 points.",
            "details": [
                "Balanced softmax, the best cheap rival, was better than generated images by 2.4 points.",
                "About 14 trials, or 2.3 times as many test lesions, would settle it.",
            ],
            "arms": [
                {
                    "name": arm,
                    "balance": about(arm)[1],
                    "generator": about(arm)[3],
                    "extra": {target: 80} if about(arm)[0] != "rival" and arm != "none" else {},
                    "num_real": 14440,
                    "num_slots": 80,
                    "images_seen": 14520 * num_epochs,
                    **(arm_evidence(arm, num_trials) if with_evidence else {}),
                }
                for arm in arms
            ],
            "fits": fits,
            "comparisons": compared,
            "split": {
                part: {
                    name: {"images": n * 7 // 10 + 3, "lesions": n // 2 + 2}
                    for name, n in zip(classes, support, strict=True)
                }
                for part in ("train", "validation", "test")
            },
            "split_digest": "0f3a9c1b77de",
            "generators": generators,
            "cost": [
                {"kind": "prepare", "name": "pixels", "wall_seconds": 41, "cpu_seconds": 75, "device": "cpu"},
                {"kind": "generator", "name": "ak-0", "wall_seconds": 612, "cpu_seconds": 630, "device": "cuda"},
                {"kind": "classifier", "name": "none-0", "wall_seconds": 310, "cpu_seconds": 305, "device": "cpu"},
                {"kind": "classifier", "name": "none-1", "wall_seconds": 290, "cpu_seconds": 295, "device": "cpu"},
            ],
        },
    )
    write_json(
        folder / "audit.json",
        {
            "findings": [
                {
                    "kind": "truncated",
                    "severity": "error",
                    "num_images": 2,
                    "images": [image_name, "ISIC_2"],
                    "message": "The file ends before the image does.",
                    "advice": "Download it again.",
                },
                {
                    "kind": "no_lesion",
                    "severity": "note",
                    "num_images": 2084,
                    "images": [],
                    "message": "No lesion id.",
                    "advice": "",
                },
            ],
            "quarantined": {image_name: "truncated", **{f"bad_{k:03}": "unreadable" for k in range(100)}},
            "pairs": [
                {"first": image_name, "second": "ISIC_2", "accepted": True, "correlation": 0.998},
                {"first": "ISIC_3", "second": "ISIC_4"},
            ],
        },
    )
    write_json(folder / "environment.json", {"moulage": "0.1.0", "python": "3.11.9", "torch": "2.15", "cpu": "2 cores"})
    (folder / "recipe.toml").write_text('name = "thesis2020"\n[arms.dcgan]\nadd = { AK = 80 }\n', encoding="utf-8")
    return folder


def make_log(folder: Path, num_epochs: int, rng: np.random.Generator) -> None:
    for epoch in range(1, num_epochs + 1):
        loss = 0.75 + 1.1 * np.exp(-epoch / 4) + 0.03 * rng.normal()
        log(
            folder,
            epoch=epoch,
            train_loss=loss - 0.02 * epoch,
            train_accuracy=0.78 - 0.3 * np.exp(-epoch / 4),
            validation_loss=loss + 0.1,
            validation_accuracy=0.7 - 0.3 * np.exp(-epoch / 4) + 0.01 * rng.normal(),
            validation_balanced_accuracy=0.5,
            seconds=25.0,
        )


def make_generators(
    folder: Path, target: str, image_name: str, num_trials: int, num_generated: int, rng: np.random.Generator
) -> list[dict]:
    """Logs, previews and one gallery a trial."""
    made = []
    for trial in range(num_trials):
        place, gallery = f"generators/ak-{trial}-ab12cd34ef56", f"galleries/ak-{trial}.npz"
        for step in range(0, 2000, 5):
            log(
                folder / place,
                step=step,
                epoch=step // 20,
                loss_d=0.6 + 0.1 * rng.normal(),
                loss_g=1.5 + 0.2 * rng.normal(),
            )
        (folder / place / "previews").mkdir()
        for step in (0, 500, 1000, 2000):
            grid = lesions(16, 32, rng).reshape(4, 4, 32, 32, 3).swapaxes(1, 2).reshape(128, 128, 3)
            Image.fromarray(grid).save(folder / place / "previews" / f"step-{step}.png")
        (folder / "galleries").mkdir(exist_ok=True)
        np.savez(
            folder / gallery,
            real=lesions(30, 64, rng),
            real_labels=np.array([target] * 30),
            generated=lesions(num_generated, 64, rng),
            generated_labels=np.array([target] * num_generated),
            generated_seeds=np.arange(num_generated),
            nearest=lesions(num_generated, 64, rng),
            nearest_images=np.array([f"{image_name}_{k}" for k in range(num_generated)]),
            distance=rng.normal(24, 5, num_generated),
            real_distance=rng.normal(27, 5, 60),
        )
        made.append(
            {
                "name": "ak",
                "plugin": "dcgan",
                "trial": trial,
                "folder": place,
                "samples": f"samples/ak-{trial}-ab12cd34ef56",
                "classes": [target],
                "num_images": num_generated,
                "gallery": gallery,
            }
        )
    return made


NEW_IN_COMPARISONS = ("scheme", "num_folds", "num_repeats", "num_arms", "num_lesions_by_class", "variance_interaction")
NEW_IN_COMPARISONS += ("cautious_low", "cautious_high")


def about(arm: str) -> tuple[str, str, str, str | None]:
    return ABOUT.get(arm, ("rival", arm, "", None))


def arm_evidence(arm: str, num_trials: int) -> dict:
    role, _, treatment, _ = about(arm)
    strengths = [0.5 + 0.25 * trial for trial in range(num_trials)] if arm == "balanced-softmax" else None
    return {"role": role, "treatment": treatment or None, "num_distinct": 80, "logit_adjustment": strengths}


def comparisons(arms: tuple[str, ...], target: str, folds: tuple[int, int] | None, num_trials: int) -> list[dict]:
    """Every arm with ``none``; those that add images, and their rivals, with ``duplicates`` and the best rival."""
    judged = [arm for arm in arms if about(arm)[0] == "synthetic"]
    others = [name for name in ("duplicates", "balanced-softmax") if name in arms]
    pairs = [*((arm, arms[0]) for arm in arms[1:]), *((arm, other) for arm in judged for other in others)]
    return [
        comparison(arm, reference, measure, folds, num_trials)
        for measure in (f"recall:{target}", "average_precision", "balanced_accuracy", "log_loss")
        for arm, reference in pairs
    ]


def comparison(
    arm: str, reference: str, measure: str, folds: tuple[int, int] | None = None, num_trials: int = 3, shift: float = 0
) -> dict:
    difference = GAIN.get(arm, 0.01) - GAIN.get(reference, 0.0) + shift
    known = measure != "balanced_accuracy"
    return {
        "arm": arm,
        "reference": reference,
        "measure": measure,
        "estimate_arm": 0.5 + difference,
        "estimate_reference": 0.5,
        "difference": difference,
        "standard_error": 0.018,
        "degrees_of_freedom": 11.2,
        "low": difference - 0.037 if known else None,
        "high": difference + 0.037 if known else None,
        "p_value": 0.0004 if arm == "balanced-softmax" else 0.42,
        "num_trials": num_trials,
        "num_images": 4126,
        "num_lesions": 2113,
        "num_lesions_by_class": {name: n // 2 + 2 for name, n in zip(CLASSES, TEST_IMAGES, strict=True)},
        "method": "lesion jackknife",
        "notes": ["Fits vary by 1.3 points."],
        "scheme": "folds" if folds else "holdout",
        "num_folds": folds[0] if folds else 1,
        "num_repeats": folds[1] if folds else 1,
        "num_arms": 4,
        "variance_interaction": 0.0001,
        "cautious_low": difference - 0.055 if folds else None,
        "cautious_high": difference + 0.055 if folds else None,
    }


def evidence(
    classes: tuple[str, ...], arms: tuple[str, ...], target: str, folds: tuple[int, int] | None, num_trials: int
) -> dict:
    """The blocks on which a verdict stands."""
    judged = [arm for arm in arms if about(arm)[0] == "synthetic"]
    controls = [control(arm) for arm in arms if about(arm)[0] in ("null", "positive")]
    rivals = [arm for arm in arms if about(arm)[0] == "rival"]
    references = [name for name in ("none", "duplicates") if name in arms]
    scheme = "folds" if folds else "holdout"
    return {
        "registration": {
            "digest": "5be1c0ffee42",
            "date": "2026-11-20 08:15 UTC",
            "before_test": True,
            "declared": {
                "primary": "average_precision",
                "target_classes": [target],
                "smallest_effect": 0.02,
                "family": judged,
                "arms": {arm: about(arm)[0] for arm in arms},
                "num_trials": num_trials,
                "scheme": scheme,
            },
            "note": "Two arms were added on 2026-11-21, before the test part was opened.",
        },
        "verdicts": [verdict(arm, arms, target) for arm in judged],
        "controls": controls,
        "controls_missing": [name for name in ("noise", "permuted", "oracle") if name not in arms],
        "best_rival": {
            "arm": rivals[0],
            "measure": "average_precision",
            "validation": {arm: 0.5 + GAIN.get(arm, 0.01) for arm in rivals},
        }
        if rivals
        else None,
        "class_effects": [
            comparison(arm, reference, f"{measure}:{name}", folds, num_trials, 0.02 * np.sin(3 * k + len(measure)))
            for arm in judged
            for reference in references
            for measure in ("average_precision", "recall")
            for k, name in enumerate(classes)
        ],
        "power": [
            {
                "arm": arm,
                "reference": reference,
                "measure": "average_precision",
                "standard_error": 0.018,
                "detectable": 0.054 + 0.01 * (reference != "none"),
                "by_trials": [[n, 0.045 + 0.027 / n + 0.01 * (reference != "none")] for n in (3, 5, 10, 20, 50)],
                "by_size": [[f, 0.054 / f**0.5 + 0.01 * (reference != "none")] for f in (1, 2, 4, 8, 16)],
            }
            for arm in judged
            for reference in references
        ],
        "reliability": [
            {
                "arm": arm,
                "bins": [[None, None, 0]]
                + [[0.1 * k + 0.05, 0.1 * k + 0.01 * (k % 3), 40 * k * k] for k in range(2, 10)],
                "error": 0.062 + 0.01 * a,
            }
            for a, arm in enumerate(arms)
        ],
        "slices": slices(judged, references),
        "slice_warnings": [f"{arm} improves the average precision on the source HAM only." for arm in judged[-1:]],
        "trials": {
            "scheme": scheme,
            "num_folds": folds[0] if folds else 1,
            "num_repeats": folds[1] if folds else 1,
            "num_trials": num_trials,
            "random": "Initial weights, order, augmentation and generated images differ between trials.",
        },
    }


def verdict(arm: str, arms: tuple[str, ...], target: str) -> dict:
    """``r3gan`` would help, if the controls allowed it."""
    change = f"Adding 80 generated {target} images ({arm})"
    refused = "The null control noise helps: +9.9 points. It must not." if arm == "r3gan" else ""
    needed = "About 14 trials, or 2.3 times as many test lesions, would settle it."
    return {
        "arm": arm,
        "change": change,
        "outcome": "not enough data",
        "text": [
            f"{change}: not enough data (p = 0.840 after Holm over 2 arms).",
            f"{change} changed the average precision by +0.2 points against duplicates (95 % interval −3.5 to +3.9).",
            *([f"The numbers would allow the word helps, but a control forbids it. {refused}"] if refused else []),
            needed,
        ],
        "p_adjusted": 0.84,
        "equivalence_p_adjusted": None,
        "references": {
            role: name if name in arms else None
            for role, name in (("none", "none"), ("duplicates", "duplicates"), ("rival", "balanced-softmax"))
        },
        "detectable": 0.054,
        "needed": needed,
        "refused": refused,
    }


def control(arm: str) -> dict:
    role = about(arm)[0]
    state = "misbehaves" if arm == "noise" else "behaves"
    return {
        "arm": arm,
        "role": role,
        "expected": "must help" if role == "positive" else "must not help",
        "state": state,
        "text": f"The {role} control {arm} {state}: {100 * GAIN.get(arm, 0.01):+.1f} points of average precision.",
    }


def slices(judged: list[str], references: list[str]) -> list[dict]:
    found = []
    for measure in ("average_precision", "balanced_accuracy"):
        for column, values in (
            ("source", ("HAM", "BCN", "MSK")),
            ("sex", ("female", "male", "unknown")),
            ("age", ("0-30", "30-45", "45-60", "60-75", "75+")),
            ("lesion seen", ("once", "several times")),
        ):
            for k, value in enumerate(values):
                small = value == "0-30"
                block = {"column": column, "value": value, "num_images": 900 - 100 * k, "num_lesions": 500 - 90 * k}
                rows = [
                    {
                        "arm": arm,
                        "score": 0.48 + 0.02 * k,
                        "reference": reference,
                        "reference_score": 0.47,
                        "difference": 0.01 + 0.02 * k,
                        "low": -0.05 + 0.02 * k if value != "unknown" else None,
                        "high": 0.07 + 0.02 * k if value != "unknown" else None,
                    }
                    for arm in judged
                    for reference in references
                    if not small
                ]
                note = "Too small: 4 lesions of AK, fewer than 10." if small else ""
                found.append({**block, "measure": measure, "rows": rows, "note": note})
    return found
