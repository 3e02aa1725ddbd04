"""JPEG files of 1024 px to 64 px squares: moulage's scaled decode against Pillow's full decode with LANCZOS.

Both take the same bytes to the same uint8 array, in turns, in one process. CPU time, the median over rounds; the
peak signal-to-noise ratio is that of moulage's squares against Pillow's.
"""

import argparse
import io
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from moulage.data.images import decode, square


def photograph(side: int, seed: int) -> bytes:
    """A JPEG (quality 92) of smooth colour with finer and finer detail: amplitudes fall as in photographs."""
    rng = np.random.default_rng(seed)
    total = np.full((side, side, 3), (190, 140, 120), np.float32)
    for cells, strength in ((4, 50), (16, 28), (64, 15), (256, 8), (side, 3)):
        for channel in range(3):
            coarse = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
            total[..., channel] += strength * np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
    stream = io.BytesIO()
    Image.fromarray(total.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def with_moulage(data: bytes, size: int) -> np.ndarray:
    return square(decode(data, size), size, "squash")


def with_pillow(data: bytes, size: int) -> np.ndarray:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS))


def cpu_milliseconds(function: Callable[[bytes, int], np.ndarray], files: list[bytes], size: int) -> float:
    """CPU time an image."""
    start = time.process_time()
    for data in files:
        function(data, size)
    return 1000 * (time.process_time() - start) / len(files)


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """In dB, of uint8 arrays."""
    error = np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def main(*, num_images: int = 16, rounds: int = 7, side: int = 1024, size: int = 64) -> dict[str, float]:
    """Print one line; return CPU milliseconds an image of both, their ratio (median over rounds) and the worst PSNR."""
    files = [photograph(side, seed) for seed in range(num_images)]
    both = np.array([[cpu_milliseconds(f, files, size) for f in (with_moulage, with_pillow)] for _ in range(rounds)])
    ours, pillow = np.median(both, axis=0)
    result = {
        "moulage_ms": float(ours),
        "pillow_ms": float(pillow),
        "ratio": float(np.median(both[:, 1] / both[:, 0])),
        "worst_psnr_db": min(psnr(with_moulage(data, size), with_pillow(data, size)) for data in files),
    }
    print(
        f"decode {side} px JPEG to {size} px: moulage {result['moulage_ms']:.2f} ms, "
        f"Pillow {result['pillow_ms']:.2f} ms of CPU an image: "
        f"{result['ratio']:.1f}x, at {result['worst_psnr_db']:.1f} dB or better"
    )
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=1024, help="pixels a side of the JPEG files")
    parser.add_argument("--size", type=int, default=64, help="pixels a side of the squares")
    options = parser.parse_args()
    main(side=options.side, size=options.size)
