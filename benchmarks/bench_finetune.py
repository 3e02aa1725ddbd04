"""An epoch of ``finetune`` against one of timm's ``train.py``: the same network, images, batches and kind of optimiser.

    python benchmarks/bench_finetune.py
    python benchmarks/bench_finetune.py --width 84 --height 84        # files that are small already

The images are JPEG files drawn here, of HAM10000's size, 600 x 450. An epoch is training, validation on a quarter as
many images, and a checkpoint. timm decodes, crops and resizes every file in every epoch; moulage decodes and resizes
them once, for all epochs, arms and trials, and augments batches: so its pass over the files is given by itself. Both
run in fp32 with random weights and one thread; whole fits take turns, and the first round is warm-up. CPU time (user
and system, of the process and its children), medians. ``timm_peer.py`` says what stands for ``train.py``.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from timm.models import create_model

import timm_peer
from bench_cache import cpu_seconds
from bench_dcgan import ALLOCATOR
from bench_decode import photograph
from moulage.classifiers import finetune
from moulage.data import pixels
from moulage.data.catalog import Catalog
from moulage.data.training_view import Examples, TrainingView

NETWORK, CLASSES = "tf_efficientnet_lite0", ("AK", "BCC", "MEL", "NV")
PEER = "timm"
Options = argparse.Namespace


def draw(folder: Path, options: Options) -> None:
    """``folder/PART/CLASS/NUMBER.jpg``: as many images of each class, timm's ImageFolder."""
    for part, number in (("train", options.images), ("validation", options.images // 4)):
        for i in range(number):
            path = folder / part / CLASSES[i % len(CLASSES)] / f"{i}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            source = folder / f"{i % 16}.jpg"
            if not source.exists():
                source.write_bytes(photograph(max(options.width, options.height), i))
            picture = Image.open(source).crop((0, 0, options.width, options.height))
            picture.rotate(180 * (i % 2)).save(path, quality=90)


def examples(folder: Path, part: str, size: int, cache: Path) -> Examples:
    """The part's pixels through the cache."""
    paths = sorted((folder / part).glob("*/*.jpg"))
    names = [str(path.relative_to(folder)) for path in paths]
    rows = pd.DataFrame({"image": names, "label": [path.parent.name for path in paths], "location": names})
    catalog = Catalog.build(rows, CLASSES, part, folder)
    found = pixels.build(catalog, [size], "squash", cache)
    return Examples(found.array(size), catalog.labels)


class Timed(finetune.Classifier):
    """Notes when each epoch begins."""

    def __init__(self, config: finetune.Config, classes: tuple[str, ...]) -> None:
        super().__init__(config, classes)
        self.begun: list[float] = []

    def _train(self, state, job, epoch, stage) -> dict[str, float]:
        self.begun.append(cpu_seconds())
        return super()._train(state, job, epoch, stage)


def ours(train: Examples, validation: Examples, out: Path, options: Options, num_epochs: int) -> list[float]:
    """CPU seconds of each epoch."""
    config = finetune.Config.model_validate(
        {
            "size": options.size,
            "batch_size": options.batch_size,
            "epochs": num_epochs,
            "precision": "fp32",
            "backbone": {"name": NETWORK, "weights": "scratch"},
        }
    )
    classifier = Timed(config, CLASSES)
    classifier.fit(TrainingView(train, None, 0), validation, seed=0, folder=out)
    return [end - start for start, end in itertools.pairwise([*classifier.begun, cpu_seconds()])]


def peer(folder: Path, out: Path, options: Options, num_epochs: int, *, channels_last: bool) -> list[float]:
    """CPU seconds of each epoch."""
    run: Iterator[float] = timm_peer.epochs(
        create_model(NETWORK, num_classes=len(CLASSES)),
        folder,
        out,
        size=options.size,
        batch_size=options.batch_size,
        number=num_epochs,
        channels_last=channels_last,
    )
    taken, start = [], cpu_seconds()
    for _ in run:
        taken.append(cpu_seconds() - start)
        start = cpu_seconds()
    return taken


def measure(options: Options) -> tuple[dict[str, list[list[float]]], float]:
    """CPU seconds by variant, round and epoch, without the round of warm-up; and of the pass over the files."""
    taken: dict[str, list[list[float]]] = {PEER: [], f"{PEER} --channels-last": [], "finetune": []}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "images"
        draw(folder, options)
        start = cpu_seconds()
        train, validation = (
            examples(folder, part, options.size, Path(scratch) / "cache") for part in ("train", "validation")
        )
        cache = cpu_seconds() - start
        for number in range(options.rounds + 1):
            num_epochs = options.epochs if number else 1
            for name, rounds in taken.items():
                with tempfile.TemporaryDirectory(dir=scratch) as out:
                    if name.startswith(PEER):
                        last = name != PEER
                        rounds.append(peer(folder, Path(out), options, num_epochs, channels_last=last))
                    else:
                        rounds.append(ours(train, validation, Path(out), options, num_epochs))
    return {name: rounds[1:] for name, rounds in taken.items()}, cache


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=256, help="training images; a quarter as many validate")
    parser.add_argument("--width", type=int, default=600, help="of the files")
    parser.add_argument("--height", type=int, default=450, help="of the files")
    parser.add_argument("--size", type=int, default=84, help="pixels a side that the network sees")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=3, help="of a fit")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    options.images -= options.images % options.batch_size  # timm drops a last batch that is not full
    torch.set_num_threads(1)
    taken, cache = measure(options)
    epoch = {name: statistics.median(itertools.chain(*rounds)) for name, rounds in taken.items()}
    print(f"{options.images} files of {options.width} x {options.height} seen at {options.size}, CPU s of an epoch:")
    for name, rounds in taken.items():
        each = ", ".join(f"{statistics.median(found):.2f}" for found in zip(*rounds, strict=True))
        rate = f"{options.images / epoch[name]:.1f} images/s, {epoch[PEER] / epoch[name]:.2f} x {PEER}"
        print(f"    {name + ':':24}{epoch[name]:6.2f} ({rate}); epochs in turn: {each}")
    print(f"    finetune's one pass over the files: {cache:.2f}, once for all epochs and fits")
    best = min(value for name, value in epoch.items() if name != "finetune")
    result = {
        "ratio": epoch[PEER] / epoch["finetune"],
        "ratio to the faster": best / epoch["finetune"],
        "with the pass": epoch[PEER] / (epoch["finetune"] + cache),
    }
    print(f"    {', '.join(f'{name} {value:.2f}' for name, value in result.items())} (a single epoch)")
    return result


if __name__ == "__main__":
    if not ALLOCATOR.items() <= os.environ.items():  # glibc reads them when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR | {"OMP_NUM_THREADS": "1"})
    main()
