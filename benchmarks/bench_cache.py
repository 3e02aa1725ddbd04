"""The pixel cache of a data set in a ZIP: how long it takes, how much memory, and what an epoch from it saves.

Without ``--data`` the images are 84 px JPEG files drawn here. With ``--data ARCHIVE.zip`` they are every JPEG of that
archive, which is read in place. The peer is what a loader without a cache does in every epoch: Pillow decodes each
image in full and resizes it with LANCZOS. Reading and decoding take turns over the same images; CPU time, medians.
"""

import argparse
import io
import resource
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from moulage.data import pixels
from moulage.data.catalog import Catalog

BATCH = 32


def draw_archive(path: Path, num_images: int) -> None:
    """A ZIP of 84 px JPEG files: a coarse random pattern with grain."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(num_images):
            coarse = Image.fromarray(rng.integers(60, 220, (6, 6, 3), np.uint8)).resize((84, 84))
            grain = np.asarray(coarse) + rng.normal(0, 6, (84, 84, 3))
            stream = io.BytesIO()
            Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
            archive.writestr(f"images/{number:06d}.jpg", stream.getvalue())


def catalog_of(archive: Path) -> Catalog:
    """Every JPEG of an archive, in one class."""
    with zipfile.ZipFile(archive) as opened:
        members = [name for name in opened.namelist() if name.lower().endswith(".jpg")]
    locations = [f"{archive.name}::{name}" for name in members]
    rows = pd.DataFrame({"image": members, "label": "any", "location": locations})
    return Catalog.build(rows, ["any"], archive.stem, archive.parent)


def epoch_from_cache(array: np.ndarray, order: np.ndarray) -> float:
    """CPU seconds to read every image once in random order, in batches."""
    start = time.process_time()
    for first in range(0, len(order), BATCH):
        array[order[first : first + BATCH]].sum()
    return time.process_time() - start


def epoch_from_files(archive: Path, names: np.ndarray, size: int) -> float:
    """CPU seconds to decode these images with Pillow."""
    with zipfile.ZipFile(archive) as opened:
        start = time.process_time()
        for name in names:
            image = Image.open(io.BytesIO(opened.read(name))).convert("RGB")
            np.asarray(image.resize((size, size), Image.Resampling.LANCZOS)).sum()
        return time.process_time() - start


def peak_mebibytes() -> float:
    """The largest resident set of this process plus that of its largest child, MiB."""
    return sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) / 1024


def cpu_seconds() -> float:
    """Of this process and its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def run(archive: Path, cache: Path, *, size: int, num_workers: int, rounds: int) -> dict[str, float]:
    catalog = catalog_of(archive)
    start, cpu_before = time.perf_counter(), cpu_seconds()
    found = pixels.build(catalog, [size], "squash", cache, num_workers=num_workers)
    seconds, cpu = time.perf_counter() - start, cpu_seconds() - cpu_before
    peak = peak_mebibytes()
    start = time.perf_counter()
    pixels.build(catalog, [size], "squash", cache, num_workers=num_workers)
    again = time.perf_counter() - start
    orders = [np.random.default_rng(seed).permutation(len(catalog))[:4096] for seed in range(rounds)]
    array = found.array(size)
    epochs = np.array(
        [(epoch_from_cache(array, order), epoch_from_files(archive, catalog.images[order], size)) for order in orders]
    )
    per_image = 1e6 * np.median(epochs, axis=0) / len(orders[0])
    return {
        "num_images": len(catalog),
        "num_bad": int((found.scan["status"] != "ok").sum()),
        "seconds": seconds,
        "cpu_seconds": cpu,
        "images_per_second": len(catalog) / seconds,
        "seconds_when_cached": again,
        "peak_mib": peak,
        "cache_us": float(per_image[0]),
        "pillow_us": float(per_image[1]),
        "ratio": float(np.median(epochs[:, 1] / epochs[:, 0])),
    }


def main(
    data: Path | None = None, *, num_images: int = 4000, size: int = 64, num_workers: int = 2, rounds: int = 3
) -> dict[str, float]:
    """Print two lines; return seconds, images a second, MiB, and CPU microseconds an image of cache and Pillow."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "drawn.zip" if data is None else data.resolve()
        if data is None:
            draw_archive(archive, num_images)
        result = run(archive, Path(folder) / "cache", size=size, num_workers=num_workers, rounds=rounds)
    print(
        f"cache of {result['num_images']} images at {size} px, {num_workers} workers: {result['seconds']:.1f} s, "
        f"{result['cpu_seconds']:.1f} s of CPU, "
        f"{result['images_per_second']:.0f} images/s, {result['peak_mib']:.0f} MiB (this process and its largest "
        f"worker), {result['num_bad']} bad; found again in {result['seconds_when_cached']:.2f} s"
    )
    print(
        f"an epoch from it: {result['cache_us']:.1f} µs of CPU an image, decoding with Pillow "
        f"{result['pillow_us']:.0f} µs: {result['ratio']:.0f}x"
    )
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a ZIP archive of JPEG files")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode")
    options = parser.parse_args()
    main(options.data, num_workers=options.workers)
