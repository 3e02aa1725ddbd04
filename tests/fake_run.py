"""A run folder as a study leaves it, with made-up numbers and drawn spots, for tests of what comes after a study."""

from pathlib import Path

import numpy as np
from PIL import Image

from moulage.runs import log, write_json

CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
TEST_IMAGES = (736, 2122, 531, 133, 427, 38, 40, 99)
ARMS = ("none", "duplicates", "balanced-softmax", "dcgan")
GAIN = {"none": 0.0, "duplicates": 0.004, "balanced-softmax": 0.03, "dcgan": 0.006}


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
            "average_precision": None,
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
) -> Path:
    """A run folder as a study leaves it, with made-up numbers; repeatable."""
    rng = np.random.default_rng(7)
    generators = make_generators(folder, target, image_name, num_trials, num_generated, rng)
    fits = []
    for a, arm in enumerate(arms):
        for trial in range(num_trials):
            place = f"classifiers/arm{a}-{trial}-ab12cd34ef56"
            make_log(folder / place, num_epochs, rng)
            both = {part: scores_of(arm, classes, support, rng) for part in ("validation", "test")}
            fits.append({"arm": arm, "trial": trial, "folder": place, "scores": both})
    write_json(
        folder / "results.json",
        {
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
                    "balance": "synthesize" if a == 3 else arm,
                    "generator": "ak" if a == 3 else None,
                    "extra": {target: 80} if a % 2 else {},
                    "num_real": 14440,
                    "num_slots": 80,
                    "images_seen": 14520 * num_epochs,
                }
                for a, arm in enumerate(arms)
            ],
            "fits": fits,
            "comparisons": comparisons(arms),
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


def comparisons(arms: tuple[str, ...]) -> list[dict]:
    rows = []
    for measure in ("recall:AK", "average_precision", "balanced_accuracy", "log_loss"):
        for arm, reference in [*((arm, arms[0]) for arm in arms[1:]), (arms[-1], arms[1])]:
            difference = GAIN.get(arm, 0.01) - GAIN.get(reference, 0.0)
            known = measure != "balanced_accuracy"
            rows.append(
                {
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
                    "num_trials": 3,
                    "num_images": 4126,
                    "num_lesions": 2113,
                    "method": "lesion bootstrap",
                    "notes": ["Fits vary by 1.3 points."],
                }
            )
    return rows
