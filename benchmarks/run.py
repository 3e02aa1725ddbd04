"""All benchmarks, one after the other, each against a named peer in the same run.

make bench                                   # or: python benchmarks/run.py [--data ISIC_2019_Training_Input.zip]
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ALL = ("bench_decode.py", "bench_cache.py", "bench_features.py", "bench_dcgan.py", "bench_keras.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a ZIP of JPEG images for the cache; else images are made")
    data = parser.parse_args().data
    folder = Path(__file__).parent
    for name in ALL:
        print(f"\n== {name}", flush=True)
        extra = ["--data", str(data)] if data and name == "bench_cache.py" else []
        subprocess.run(
            [sys.executable, str(folder / name), *extra], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )


if __name__ == "__main__":
    main()
