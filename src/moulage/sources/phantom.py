"""Dermoscopy-like images drawn by code: eight classes, known lesions and masks, a planted worth of extra images.

The embedded data set of the demo and the tests. Classes, imbalance, several photographs a lesion and acquisition
sources follow ISIC-2019; every image shows a made-up lesion and is drawn from its lesion's seed and its own.

The rare classes are known by coarse patterns that no common class has. A textbook lesion shows the one of its class,
which a handful of images teaches; a lesion of a sub-type shows one of six others, and to learn all of them takes many
images. The share of sub-types is the square of ``planted_benefit``: what extra images add is about in proportion to
it then. docs/LOG.md has what was measured, for simple features and for those of a frozen network.
"""

import io
import zipfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator

from moulage.data.catalog import Catalog
from moulage.errors import RecipeError, nearest
from moulage.plugins import Options
from moulage.runs import atomic, cache_folder, digest
from moulage.sources import _once
from moulage.sources._camera import Camera, photograph
from moulage.sources._draw import Array, Traits, draw_lesion
from moulage.sources._patterns import KINDS, Pattern, families, layers

VERSION = 2
"""Version of the drawing; part of the cache's key. Raise it whenever an image would come out differently."""
INDIVIDUAL = 0.75
"""How far one lesion differs from the textbook: a standard deviation, in spreads."""
PATTERNED = 0.25
"""The same of a lesion with a pattern, which differs from others by how that lies anyway."""
PROP = 0.35
"""Share of a class's own value of a trait that ``SPREAD`` grows by."""
PHOTOGRAPHS = 2
"""Photographs a lesion in the mean; ISIC-2019 has 1.96."""
UNKNOWN = 0.04
"""Share of images without lesion id, and of lesions without age, sex or site."""


class Disease(NamedTuple):
    """What is known of a class."""

    share: float  # of the images of ISIC-2019
    sources: tuple[float, float, float]  # share of its lesions that each of ``CAMERAS`` photographs
    age: int  # mean, in years
    sun: float  # how much likelier than others on head and neck
    typical: Traits  # the textbook lesion
    pattern: Pattern | None = None  # which it shows beside its traits


# fmt: off
DISEASES = {
    "MEL": Disease(0.1785, (0.55, 0.25, 0.20), 60, 1, Traits(
        radius=0.29, elongation=0.35, irregularity=0.26, softness=0.10, asymmetry=0.45, variegation=0.70, melanin=1.35,
        blood=0.20, rim=0.05, network=0.30, globules=0.40, veil=0.50, scar=0.05)),
    "NV": Disease(0.5083, (0.33, 0.52, 0.15), 45, 0.5, Traits(
        radius=0.23, elongation=0.20, irregularity=0.12, softness=0.14, asymmetry=0.15, variegation=0.30, melanin=1.10,
        blood=0.08, network=0.50, globules=0.30)),
    "BCC": Disease(0.1312, (0.72, 0.20, 0.08), 68, 3, Traits(
        radius=0.26, elongation=0.25, irregularity=0.20, softness=0.16, asymmetry=0.20, variegation=0.40, melanin=0.20,
        blood=0.38, scar=0.12, nests=0.50, vessels=0.80, keratin=0.10)),
    "AK": Disease(0.0342, (0.68, 0.25, 0.07), 68, 4, Traits(
        radius=0.30, elongation=0.25, irregularity=0.18, softness=0.15, asymmetry=0.20, variegation=0.40, melanin=0.15,
        blood=0.42, follicles=0.70, keratin=0.25), Pattern("clods", "white", "red")),
    "BKL": Disease(0.1037, (0.35, 0.45, 0.20), 62, 1.5, Traits(
        radius=0.27, elongation=0.30, irregularity=0.18, softness=0.05, asymmetry=0.20, variegation=0.40, melanin=0.75,
        blood=0.08, rim=0.10, network=0.15, keratin=0.10, cysts=0.70)),
    "DF": Disease(0.0094, (0.40, 0.50, 0.10), 48, 0.2, Traits(
        radius=0.23, elongation=0.12, irregularity=0.10, softness=0.20, asymmetry=0.10, variegation=0.25, melanin=0.60,
        blood=0.22, rim=0.60, network=0.35, scar=0.70), Pattern("circles", "white", "brown")),
    "VASC": Disease(0.0099, (0.40, 0.55, 0.05), 48, 1, Traits(
        radius=0.24, elongation=0.20, irregularity=0.10, softness=0.07, asymmetry=0.10, variegation=0.25, melanin=0.20,
        blood=1.20, veil=0.30, lacunae=0.80), Pattern("cells", "black", "red")),
    "SCC": Disease(0.0248, (0.75, 0.20, 0.05), 72, 3, Traits(
        radius=0.27, elongation=0.20, irregularity=0.22, softness=0.18, asymmetry=0.20, variegation=0.50, melanin=0.15,
        blood=0.58, scar=0.10, vessels=0.40, keratin=0.70), Pattern("radial", "red", "yellow")),
}
PLAIN = Traits(radius=0.28, elongation=0.15, irregularity=0.12, softness=0.08, melanin=0.3, blood=0.15)
"""A lesion of a sub-type below its pattern: it tells nothing of the class."""
SPREAD = Traits(
    radius=0.04, elongation=0.10, irregularity=0.04, softness=0.03, asymmetry=0.07, variegation=0.09, melanin=0.25,
    blood=0.15, core=0.5, halo=0.5, grey=0.5, rim=0.09, network=0.12, globules=0.12, veil=0.07, scar=0.07, nests=0.07,
    vessels=0.07, follicles=0.07, keratin=0.07, cysts=0.07, lacunae=0.07)
"""Spread of each trait; ``PROP`` of the class's own value comes on top."""
LEAST = Traits(
    radius=0.10, elongation=0, irregularity=0.03, softness=0.03, asymmetry=0, variegation=0, core=-3, halo=-3, grey=-3)
"""Least value of each trait, so that every lesion can be drawn."""
# fmt: on

CLASSES = tuple(DISEASES)
"""Class names, spelled and ordered as in ISIC-2019."""
RARE = tuple(name for name, disease in DISEASES.items() if disease.share < 0.05)
"""Classes whose extra images are worth what ``planted_benefit`` says."""
SUBTYPES = dict(
    zip(RARE, families(len(RARE), [each.pattern for each in DISEASES.values() if each.pattern]), strict=True)
)
"""Patterns of each rare class's sub-types, all equally frequent."""
CAMERAS = {
    "PHA": Camera(cast=(1.02, 1.00, 0.92), vignette=(0.42, 0.72), hairs=4, ruler=0.03, bubbles=0.12),
    "PHB": Camera(cast=(1.02, 0.94, 0.99), vignette=(0.72, 1.2), hairs=3, ruler=0.05, bubbles=0.05),
    "PHC": Camera(cast=(0.96, 0.97, 0.96), vignette=(0.70, 1.5), hairs=6, ruler=0.35, bubbles=0.15),
}
"""Acquisition sources; only ``PHA`` mostly shows the black ring of the dermoscope's tube."""
SITES = {
    "anterior torso": 5.5,
    "lower extremity": 4.0,
    "head/neck": 2.5,
    "upper extremity": 2.4,
    "posterior torso": 2.3,
    "palms/soles": 0.3,
}
"""Relative frequency of lesions by place on the body."""


class Config(Options):
    """Options of ``phantom``."""

    num_images: int = Field(1600, ge=16, le=200_000, description="Images of all classes together.")
    size: int = Field(96, ge=16, le=1024, description="Pixels a side; images are square.")
    seed: int = Field(0, ge=0, lt=2**63, description="Draws another data set of the same kind.")
    planted_benefit: float = Field(
        0.5,
        ge=0,
        le=1,
        description="What extra images of AK, DF, VASC and SCC are worth. 0: a class has one look that a handful of "
        "images shows; 1: every lesion is of one of six sub-types, which take many images.",
    )
    mimicry: float = Field(
        0.15,
        ge=0,
        le=1,
        description="Share of lesions that look like a class drawn at random: more makes classes overlap more.",
    )
    min_lesions: int = Field(12, ge=1, description="Lesions of each class, at the least.")

    @model_validator(mode="after")
    def _room_for_all(self) -> "Config":
        if num_images(self)["NV"] < PHOTOGRAPHS * self.min_lesions:
            raise ValueError(
                f"num_images must be greater for min_lesions = {self.min_lesions} in each of {len(CLASSES)} classes"
            )
        return self


def read(path: Path | None, config: Config) -> Catalog:
    """The phantom's catalog; its images are drawn when they are asked for the first time.

    ``path`` is the folder that keeps drawn images (None: ``runs.cache_folder()``), in a sub-folder ``phantom-<digest>``
    for each config. The catalog has ``config.num_images`` images with masks, in ``images.zip`` and ``masks.zip`` below
    its root. ``RunError`` where the folder cannot be written.
    """
    plan = make_plan(config)
    folder = (path or cache_folder()) / f"phantom-{digest(VERSION, config.model_dump())}"
    advice = "Free space or name another folder, with --data or in the environment variable MOULAGE_CACHE."
    draw = partial(_draw_all, plan, config, folder)
    _once.make(folder, partial(_is_drawn, folder), draw, "The phantom's images", advice)
    rows = plan.drop(columns=["lesion_seed", "image_seed"])
    rows["location"] = "images.zip::" + rows["image"] + ".png"
    rows["mask"] = "masks.zip::" + rows["image"] + "_segmentation.png"
    note = "Drawn by code; shows no patient."
    return Catalog.build(rows, CLASSES, "phantom", folder.absolute(), note)


def draw_image(
    config: Config, label: str, lesion_seed: int, image_seed: int, source: str
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """One photograph of one lesion; it depends on these arguments alone (of ``config``: size, benefit and mimicry).

    ``label`` is one of ``CLASSES``, ``source`` one of ``CAMERAS``, else there is a ``RecipeError``. ``lesion_seed``
    draws the lesion and the skin around it, ``image_seed`` rotation, zoom, light, hairs ...; both are 0 or greater. The
    image is uint8 [size, size, 3], the lesion mask bool [size, size].
    """
    for kind, name, valid in (("class", label, CLASSES), ("source", source, CAMERAS)):
        if name not in valid:
            raise RecipeError(f'phantom has no {kind} "{name}".', nearest(name, valid))
    return photograph(default_rng(image_seed), _canvas(config, label, lesion_seed), CAMERAS[source], config.size)


def lesion_look(config: Config, label: str, rng: Generator) -> tuple[Traits, Pattern | None]:
    """Traits and pattern of one lesion: the textbook's of its class (or of one that it mimics) or its sub-type's.

    Whatever the planted benefit, a lesion takes the same random numbers: a greater benefit makes more lesions of a rare
    class one of a sub-type, and changes no other lesion.
    """
    look = label
    if rng.random() < config.mimicry:
        look = str(rng.choice(CLASSES, p=[d.share for d in DISEASES.values()]))
    chance, subtype = rng.random(), rng.choice(len(KINDS))
    traits, pattern = DISEASES[look].typical, DISEASES[look].pattern
    if look in SUBTYPES and chance < config.planted_benefit**2:  # so that the gain is in proportion
        traits, pattern = PLAIN, SUBTYPES[look][subtype]
    typical = np.array(traits)
    individual = PATTERNED if pattern else INDIVIDUAL
    traits = typical + individual * rng.standard_normal(len(typical)) * (np.array(SPREAD) + PROP * typical)
    return Traits(*np.maximum(traits, LEAST).tolist()), pattern


def num_images(config: Config) -> dict[str, int]:
    """Images of each class: its share, raised where ``min_lesions`` asks for more; NV takes what remains."""
    least = PHOTOGRAPHS * config.min_lesions
    counts = {label: max(least, round(d.share * config.num_images)) for label, d in DISEASES.items()}
    return counts | {"NV": counts["NV"] + config.num_images - sum(counts.values())}


def make_plan(config: Config) -> pd.DataFrame:
    """What there is to draw: one row an image, with the catalog's columns and the seeds of lesion and image."""
    rng = default_rng(config.seed)
    lesions = []
    for label, count in num_images(config).items():
        num_lesions = max(1, round(count / PHOTOGRAPHS))
        # Geometric counts of a given sum are a random composition of it: all sets of cuts are equally likely.
        cuts = np.sort(rng.choice(np.arange(1, count), num_lesions - 1, replace=False))
        lesions += [_lesion(label, int(n), rng) for n in np.diff([0, *cuts, count])]
    for number, row in enumerate(rng.permutation(len(lesions))):
        lesions[row]["lesion"] = f"PL_{number:07d}"
    table = pd.DataFrame(lesions)
    single = np.flatnonzero(table["photographs"] == 1)
    hidden = rng.choice(single, min(len(single), round(UNKNOWN * config.num_images)), replace=False)
    table.loc[hidden, "lesion"] = ""
    plan = table.loc[table.index.repeat(table.pop("photographs"))]
    plan = plan.iloc[rng.permutation(len(plan))].reset_index(drop=True)
    plan["image"] = [f"PHANTOM_{number:07d}" for number in range(len(plan))]
    plan["image_seed"] = rng.integers(2**63, size=len(plan))
    return plan


def _lesion(label: str, photographs: int, rng: Generator) -> dict:
    """Metadata and seed of one lesion."""
    disease = DISEASES[label]
    weights = np.array([w * (disease.sun if site == "head/neck" else 1) for site, w in SITES.items()])
    unknown = rng.random(3) < UNKNOWN
    age = float(np.clip(5 * np.round(rng.normal(disease.age, 15) / 5), 15, 85))
    return {
        "label": label,
        "photographs": photographs,
        "source": rng.choice(list(CAMERAS), p=disease.sources),
        "age": np.nan if unknown[0] else age,
        "sex": "" if unknown[1] else rng.choice(["female", "male"]),
        "site": "" if unknown[2] else rng.choice(list(SITES), p=weights / weights.sum()),
        "lesion_seed": int(rng.integers(2**63)),
    }


def _canvas(config: Config, label: str, lesion_seed: int) -> Array:
    rng = default_rng(lesion_seed)
    traits, pattern = lesion_look(config, label, rng)
    return draw_lesion(rng, traits, config.size, partial(layers, pattern) if pattern else None)


def _is_drawn(folder: Path) -> bool:
    return (folder / "images.zip").exists() and (folder / "masks.zip").exists()


def _draw_all(plan: pd.DataFrame, config: Config, folder: Path) -> None:
    """Draw each lesion once and all its photographs; both archives appear whole or not at all."""
    with (
        atomic(folder / "images.zip") as images_path,
        atomic(folder / "masks.zip") as masks_path,
        zipfile.ZipFile(images_path, "w") as images,
        zipfile.ZipFile(masks_path, "w") as masks,
    ):
        for _, photographs in plan.groupby("lesion_seed", sort=False):
            first = photographs.iloc[0]
            canvas, camera = _canvas(config, first["label"], first["lesion_seed"]), CAMERAS[first["source"]]
            for name, seed in zip(photographs["image"], photographs["image_seed"], strict=True):
                image, mask = photograph(default_rng(seed), canvas, camera, config.size)
                images.writestr(zipfile.ZipInfo(f"{name}.png"), _png(image))
                masks.writestr(zipfile.ZipInfo(f"{name}_segmentation.png"), _png(mask))


def _png(pixels: NDArray[np.uint8] | NDArray[np.bool_]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    return stream.getvalue()
