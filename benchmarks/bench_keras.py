"""The thesis's work in Keras against ours: one training step of the GAN, and drawing and saving 80 images.

    python benchmarks/bench_keras.py

Keras runs in an environment of its own (``.bench/keras``, made at the first call with tensorflow-cpu and matplotlib);
``keras_peer.py`` is our writing of the thesis's layer table and drawing loop. Both sides have one thread and take turns
in one run; CPU time, medians. The drawing peer is the thesis's: a prediction an image, saved by a plotting library.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from bench_dcgan import ALLOCATOR, BATCH, SIZE, ours
from moulage import devices, randomness
from moulage.data.samples import draw
from moulage.generators import dcgan

ENVIRONMENT = Path(__file__).parents[1] / ".bench" / "keras"
NUM_STEPS, NUM_IMAGES = 2, 80


class Peer:
    """The Keras side, in a process of its own that waits for commands."""

    def __init__(self) -> None:
        python = ENVIRONMENT / "bin" / "python"
        if not python.exists():
            print("setting up tensorflow-cpu (once)", file=sys.stderr)
            subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "-q", "tensorflow-cpu", "matplotlib"], check=True)
        self.process = subprocess.Popen(
            [str(python), str(Path(__file__).parent / "keras_peer.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.version = self._answer()["tensorflow"]

    def cpu_seconds(self, command: str) -> float:
        """CPU time of one command."""
        assert self.process.stdin
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self._answer()["cpu_seconds"]

    def _answer(self) -> dict:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("keras_peer.py ended; run it by hand to see why")
        return json.loads(line)


def cpu_seconds(function) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def measure_steps(peer: Peer, rounds: int) -> dict[str, float]:
    """Images a CPU second of a training step: Keras, and ours in fp32 and, where the CPU computes it natively, bf16."""
    with randomness.reproducible("bench"):
        real = torch.rand(BATCH, 3, SIZE, SIZE) * 2 - 1
        variants = {name: ours(name) for name in dict.fromkeys(("fp32", devices.resolve_precision("cpu")))}
        taken: dict[str, list[float]] = {name: [] for name in ("keras", *variants)}
        for _ in range(rounds + 1):
            taken["keras"].append(peer.cpu_seconds(f"step {NUM_STEPS}") / NUM_STEPS)
            for name, step in variants.items():
                taken[name].append(cpu_seconds(lambda step=step: [step(real) for _ in range(NUM_STEPS)]) / NUM_STEPS)
    return {name: BATCH / statistics.median(found[1:]) for name, found in taken.items()}


def measure_drawing(peer: Peer, rounds: int = 1) -> dict[str, float]:
    """CPU milliseconds an image, drawn and written: the thesis's loop and ours, with the thesis's networks.

    One round: the thesis's loop never clears its figure, so that each image costs more than the one before.
    """
    generator = dcgan.Generator(dcgan.Config(), ("AK",), SIZE)
    with randomness.reproducible("bench"):
        generator._network = dcgan.Synthesis(generator.config, 1, SIZE).to(memory_format=torch.channels_last).eval()
        taken: dict[str, list[float]] = {"keras loop": [], "sample": []}
        for number in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                taken["keras loop"].append(peer.cpu_seconds(f"draw {NUM_IMAGES} {folder}"))
            with tempfile.TemporaryDirectory() as folder:
                seeds = {"AK": np.arange(NUM_IMAGES) + number * NUM_IMAGES}
                about = {"origin": "bench", "split_digest": "none", "classes": ("AK",)}
                taken["sample"].append(cpu_seconds(lambda s=seeds, f=folder, a=about: draw(generator, s, Path(f), **a)))
    return {name: 1000 * statistics.median(found) / NUM_IMAGES for name, found in taken.items()}


def main(rounds: int = 5) -> dict[str, float]:
    peer = Peer()
    steps = measure_steps(peer, rounds)
    print(f"training step, images/s/core: Keras {peer.version} graph {steps['keras']:.1f}", end="")
    for name in steps.keys() - {"keras"}:
        print(f", dcgan {name} {steps[name]:.1f} ({steps[name] / steps['keras']:.2f}x)", end="")
    print("" if "bf16" in steps else "; bf16 left out: this CPU does not compute it natively", flush=True)
    drawing = measure_drawing(peer)
    ratio = drawing["keras loop"] / drawing["sample"]
    print(f"drawing and writing: thesis's loop {drawing['keras loop']:.0f} ms an image, ", end="")
    print(f"sample {drawing['sample']:.1f} ms ({ratio:.0f}x)")
    return {**{f"step {name}": rate / steps["keras"] for name, rate in steps.items()}, "drawing": ratio}


if __name__ == "__main__":
    if not ALLOCATOR.items() <= os.environ.items():  # glibc reads them when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ALLOCATOR | {"OMP_NUM_THREADS": "1"})
    main()
