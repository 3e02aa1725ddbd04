"""What the search for near-duplicates finds, misses and costs: changes planted in a data set of your own.

    python benchmarks/near_duplicates.py --source folder --data mydata.zip [--images 4000] [--copies 60]

Each change is made to as many images as ``--copies``, each of which is changed once and saved as JPEG (quality 85).
Told are how many copies are found, the accepted pairs among the images as they are, how many of these are of two groups
(lesions, clips, fields: to be looked at by eye), and CPU-seconds.
"""

import argparse
import io
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from moulage import contracts, runs
from moulage.data import duplicates, images, pixels
from moulage.data.catalog import Catalog
from moulage.data.reader import Reader


def cut(share: float, edges: int = 2):
    def change(picture: Image.Image) -> Image.Image:
        width, height = picture.size
        left, top = round(share * width), round(share * height)
        return picture.crop((left, top, width - left * (edges - 1), height - top * (edges - 1)))

    return change


def framed(colour: str):
    return lambda picture: ImageOps.expand(picture, tuple(round(0.1 * side) for side in picture.size), colour)


def shifted(picture: Image.Image) -> Image.Image:
    return picture.transform(picture.size, Image.Transform.AFFINE, (1, 0, -8, 0, 1, -8))


def recoloured(picture: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(picture) * [0.8, 0.9, 1.0]).astype(np.uint8))


CHANGES = {
    "saved again": lambda picture: picture,
    "cut 2.5 %": cut(0.025),
    "cut 5 %": cut(0.05),
    "cut 10 %": cut(0.10),
    "cut 20 %": cut(0.20),
    "cut 10 % at a corner": cut(0.10, edges=1),
    "framed in black": framed("black"),
    "framed in white": framed("white"),
    "shifted by 8 px": shifted,
    "turned by 10 degrees": lambda picture: picture.rotate(10, Image.Resampling.BICUBIC),
    "mirrored": ImageOps.mirror,
    "mirrored, cut 10 %": lambda picture: cut(0.10)(ImageOps.mirror(picture)),
    "mirrored, framed": lambda picture: framed("black")(ImageOps.mirror(picture)),
    "turned right, cut 10 %": lambda picture: cut(0.10)(picture.transpose(Image.Transpose.ROTATE_270)),
    "re-coloured": recoloured,
    "re-coloured, cut 5 %": lambda picture: cut(0.05)(recoloured(picture)),
    "darker": lambda picture: picture.point(lambda value: value * 0.7),
    "brighter": lambda picture: picture.point(lambda value: min(255, value * 1.2)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", default="folder")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--copies", type=int, default=60)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    plug = contracts.source(asked.source)
    catalog = plug.read(asked.data, plug.configure({}))
    chosen = rng.permutation(len(catalog.images))[: asked.images]
    catalog = catalog.take(np.sort(chosen))
    seen = pixels.build(catalog, (), "squash", runs.cache_folder()).thumbnails
    num = len(seen)
    copied = rng.choice(num, asked.copies * len(CHANGES), replace=asked.copies * len(CHANGES) > num)
    made = np.resize(np.array(list(CHANGES), object), len(copied))
    thumbnails = np.concatenate([seen, _planted(catalog, copied, made)])
    for what, shown in (("as they are", seen), ("with planted copies", thumbnails)):
        start = time.process_time()
        pairs = duplicates.search(np.arange(len(shown)).astype(str), shown)
        seconds = time.process_time() - start
        print(f"{len(shown):,} images {what}: {seconds:.1f} CPU-seconds, complete: {pairs.is_complete}")
        accepted = {(int(pair.first), int(pair.second)) for pair in pairs if pair.accepted}
        own = [pair for pair in accepted if max(pair) < num]
        apart = [pair for pair in own if catalog.groups[pair[0]] != catalog.groups[pair[1]]]
        print(f"  {len(own)} accepted pairs of the set's own images, {len(apart)} of two groups:")
        for first, second in apart[:40]:
            print(f"    {catalog.images[first]} = {catalog.images[second]}")
    for change in CHANGES:
        found = [(row, num + k) in accepted for k, row in enumerate(copied) if made[k] == change]
        print(f"  {change:24} {sum(found)} of {len(found)}")


def _planted(catalog: Catalog, rows: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """Thumbnails uint8 [n, 32, 32, 3] of these images, each changed and saved as JPEG."""
    planted = []
    with Reader() as reader:
        for row, change in zip(rows, changes, strict=True):
            data = reader.bytes(catalog.resolve(catalog.table["location"].iloc[row]))
            picture = CHANGES[change](Image.open(io.BytesIO(data)).convert("RGB"))
            stream = io.BytesIO()
            picture.save(stream, "JPEG", quality=85)
            planted.append(images.square(Image.open(stream), 32, "squash"))
    return np.stack(planted)


if __name__ == "__main__":
    main()
