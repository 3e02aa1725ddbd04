"""A frozen backbone: forwarding every image in every epoch, against features that are computed once and kept.

    python benchmarks/bench_features.py

The peer is the usual loop over a frozen network: forward the batch, step the head. Ours is ``probe``: ``embed`` once,
then the optimum on the embeddings. The peer does 10 epochs for each of 2 arms x 3 seeds; its forward passes are
measured in one epoch of one fit and multiplied, since every epoch forwards every image again. CPU time, one thread.
"""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from moulage import randomness
from moulage.classifiers import probe
from moulage.data.training_view import Examples, TrainingView

NUM_IMAGES, NUM_EPOCHS, NUM_ARMS, NUM_SEEDS = 512, 10, 2, 3


def main() -> dict[str, float]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (NUM_IMAGES, 64, 64, 3), np.uint8)
    labels = np.arange(NUM_IMAGES) % 8
    config = probe.Config()
    with randomness.reproducible("bench"), TemporaryDirectory() as folder:
        probe.embed(config, pixels[:64])  # warm-up
        start = time.process_time()
        features = probe.embed(config, pixels)
        forward = time.process_time() - start
        start = time.process_time()
        for seed in range(NUM_SEEDS * NUM_ARMS):
            view = TrainingView(Examples(features, labels), None, 0)
            classifier = probe.Classifier(config, tuple("abcdefgh"))
            classifier.fit(view, Examples(features, labels), seed=seed, folder=Path(folder) / str(seed))
        heads = time.process_time() - start
    peer = forward * NUM_EPOCHS * NUM_ARMS * NUM_SEEDS + heads
    ratio = peer / (forward + heads)
    print(
        f"{NUM_ARMS} arms x {NUM_SEEDS} seeds x {NUM_EPOCHS} epochs of {NUM_IMAGES} images, CPU s: "
        f"forward each epoch {peer:.1f}, features kept {forward + heads:.1f} ({ratio:.0f}x)"
    )
    return {"features": ratio}


if __name__ == "__main__":
    main()
