"""All benchmarks, one after the other, each against a named peer in the same run; ends with a table of the ratios.

make bench                                   # or: python benchmarks/run.py [--data ISIC_2019_Training_Input.zip]
"""

import argparse
import os
import sys
from pathlib import Path

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a ZIP of JPEG images for the cache; else images are made")
    options = parser.parse_args()

    # Each is imported when its turn comes: the memory that the cache needs is measured before torch is loaded.
    import bench_decode

    decode = bench_decode.main()
    import bench_cache

    cache = bench_cache.main(options.data)
    import bench_compare

    inference = bench_compare.main()
    import bench_features

    features = bench_features.main()
    import bench_dcgan

    plain = bench_dcgan.measure()
    import bench_keras

    keras = bench_keras.main()
    import bench_finetune

    tuned = bench_finetune.main(["--rounds", "1"])
    import bench_finetune_scores

    better = bench_finetune_scores.main(["--seeds", "1"])
    measures = ("mean_average_precision", "balanced_accuracy", "auc", "expected_calibration_error")
    rows = [
        ("inference, 13 arms x 10 fits x 5,000 images, seconds", f"{sum(inference[m] for m in measures):.1f}", "10"),
        ("  memory beside the logits", f"{inference['memory']:.0f} MiB", "200 MB"),
        ("  lesions left out, against scikit-learn", f"{inference['jackknife']:.0f}x", ""),
        ("decode + resize 1024 px to 64 px, against Pillow", f"{decode['ratio']:.1f}x", "3x"),
        ("  worst picture", f"{decode['worst_psnr_db']:.1f} dB", "45 dB"),
        ("cache, images a second with 2 workers", f"{cache['images_per_second']:.0f}", "344 (20,634 in 60 s)"),
        ("  memory", f"{cache['peak_mib']:.0f} MiB", "under 1 GB"),
        ("an epoch from the cache, against decoding", f"{cache['ratio']:.0f}x", ""),
        ("frozen features kept, against a forward pass an epoch", f"{features['features']:.0f}x", ""),
        ("dcgan step fp32, against plain PyTorch", f"{plain['dcgan fp32'] / plain['plain fp32']:.2f}x", ""),
        ("dcgan step fp32, against the Keras graph", f"{keras['step fp32']:.2f}x", "1.4x"),
        (
            "dcgan step bf16, against the Keras graph",
            f"{keras['step bf16']:.2f}x" if "step bf16" in keras else "-",
            "1.8x",
        ),
        ("draw and write 80 images, against the thesis's loop", f"{keras['drawing']:.0f}x", "100x"),
        ("an epoch of finetune, against timm's train.py", f"{tuned['ratio']:.2f}x", "1x"),
        ("  against its faster memory layout", f"{tuned['ratio to the faster']:.2f}x", "1x"),
        ("finetune's log-loss less that of timm's loop, nats", f"{better['log-loss']:+.2f}", "below 0"),
        ("  macro average precision, points", f"{100 * better['macro AP']:+.1f}", "above 0"),
    ]
    print(f"\n{'CPU time, one thread':58}{'measured':>12}   wanted")
    for what, measured, wanted in rows:
        print(f"{what:58}{measured:>12}   {wanted}")


if __name__ == "__main__":
    if not ENVIRONMENT.items() <= os.environ.items():  # glibc reads them when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ENVIRONMENT)
    main()
