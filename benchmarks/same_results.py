"""Shows that a change of the code changes no result: six small studies that use every kind of stage, before and after.

    PYTHONPATH=OLD/src python benchmarks/same_results.py run OUT_OLD     with the code before the change
    python benchmarks/same_results.py run OUT_NEW                        with the code after it
    python benchmarks/same_results.py compare OUT_OLD OUT_NEW

``run`` calls the command line alone, so that it works with any version. What is compared: every value of
``results.json`` and of the summaries of what is done with a finished run, and every logit. Left out are dates, digests,
names of folders, costs and the format. A value that differs is an error; keys that only one of the two has are listed.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

DATA = """
[data]
source = "phantom"
options = { num_images = 300, size = 32, min_lesions = 14 }
"""
PROBE = """
[classifier]
plugin = "probe"
options = { size = 32, penalty = 0.05, backbone = { name = "test_resnet", weights = "scratch" } }
"""
DCGAN = """
[generators.gan]
plugin = "dcgan"
classes = ["AK", "VASC"]
size = 32

[generators.gan.options]
steps = 12
batch_size = 8
base_channels = 8
generator_channels = [8, 8]
discriminator_channels = [8, 8]
discriminator_strides = [2, 2]
preview_every = 6

[fidelity]
num_images = 24
judge_images = 20
features = { backbone = { name = "test_resnet", weights = "scratch" } }
"""
NONE = '\n[arms.none]\nbalance = "none"\n'
COPIES = '\n[arms.copies]\nbalance = "duplicates"\nlike = "drawn"\n'
DRAWN = '\n[arms.drawn]\nbalance = "synthesize"\ngenerator = "gan"\nadd = { AK = 8, VASC = 6 }\n'


def _study(name: str, more: str = "", trials: int = 2) -> str:
    return f'[study]\nname = "{name}"\nnum_trials = {trials}\ntarget_classes = ["AK", "VASC"]\n{more}\n'


RECIPES = {
    # a hold-out with a selection, fidelity, every control, rivals, a null generator and a budget
    "holdout": _study("holdout", trials=3)
    + DATA
    + "\n[split]\nvalidation = 0.2\ntest = 0.3\nreserve = 0.3\n"
    + PROBE
    + DCGAN
    + NONE
    + COPIES
    + DRAWN
    + """
[generators.noise]
plugin = "noise"
classes = ["AK", "VASC"]
size = 32

[selections.best]
draw = 2.0
rules = [{ plugin = "near_copies" }, { plugin = "off_manifold", options = { k = 2 } }, { plugin = "best" }]
features = { backbone = { name = "test_resnet", weights = "scratch" } }

[arms.chosen]
balance = "synthesize"
generator = "gan"
selection = "best"
like = "drawn"

[arms.noise]
balance = "synthesize"
generator = "noise"
like = "drawn"

[arms.permuted]
balance = "permuted"
like = "drawn"

[arms.oracle]
balance = "oracle"
like = "drawn"

[arms.softmax]
balance = "balanced_softmax"
treatment = "mixup"

[arms.weights]
balance = "class_weights"

[budget.cpu.classifier.options]
epochs = 2
""",
    # repeated folds, metadata, an arm with a treatment
    "folds": _study("folds").replace("num_trials = 2\n", 'primary = "mean_recall"\n')
    + DATA
    + '\n[split]\nscheme = "folds"\nnum_folds = 3\nvalidation = 0.2\n'
    + PROBE
    + 'metadata = ["age", "sex", "site"]\n'
    + DCGAN
    + NONE
    + COPIES
    + DRAWN
    + '\n[arms.focal]\nbalance = "focal"\n\n[arms.adjusted]\nbalance = "logit_adjustment_posthoc"\n',
    # lesion masks: a generator that draws from them, steps that look at them, a classifier that learns them
    "masks": _study("masks", 'primary = "balanced_accuracy"')
    + DATA
    + 'steps = [{ plugin = "lesion_crop" }, { plugin = "background" }]\n'
    + "\n[split]\nvalidation = 0.2\ntest = 0.3\n"
    + """
[classifier]
plugin = "finetune"

[classifier.options]
size = 32
epochs = 2
batch_size = 16
steps_per_epoch = 4
mask_task = { weight = 1.0, units = 8 }
backbone = { name = "test_resnet", weights = "scratch" }

[generators.gan]
plugin = "pix2pixhd"
classes = ["AK", "VASC"]
size = 32
options = { steps = 4, batch_size = 4 }

[fidelity]
num_images = 0
judge_images = 0
"""
    + NONE
    + COPIES
    + DRAWN,
    # two data sets, one of them weighted
    "several": _study("several")
    + DATA
    + """
[data.also.more]
source = "phantom"
options = { num_images = 200, size = 32, min_lesions = 8, seed = 7 }
weight = 2.0
"""
    + "\n[split]\nvalidation = 0.2\ntest = 0.3\n"
    + PROBE
    + NONE
    + """
[arms.drawn]
balance = "duplicates"
ratio = { AK = 1.0, VASC = 0.5 }

[arms.oversampling]
balance = "oversampling"
""",
    # samples that were drawn beforehand, and the most probable class said in every arm
    "given": _study("given", 'operating_point = "argmax"')
    + DATA
    + PROBE
    + NONE
    + COPIES
    + '\n[arms.drawn]\nbalance = "synthesize"\nsamples = "GIVEN"\nadd = { AK = 8, VASC = 6 }\n',
    # a class that nothing learns; and all that is done with a finished run
    "unknown": _study("unknown").replace('"VASC"', '"BKL"')
    + DATA
    + 'unknown = ["VASC"]\n'
    + "\n[split]\nvalidation = 0.2\ntest = 0.3\n"
    + PROBE
    + NONE
    + '\n[arms.copies]\nbalance = "duplicates"\nadd = { AK = 12 }\n\n[arms.oversampling]\nbalance = "oversampling"\n',
}
"""One study each."""

LEFT_OUT = {"date", "command", "digest", "settings", "cost", "format", "folder", "samples", "gallery", "pictures"}
LEFT_OUT |= {"closest", "predictions", "fits_folders", "out", "seconds", "key"}
"""Keys whose values are dates, digests, costs or names of folders."""


def run(out: Path) -> None:
    """Run all studies into ``out``, with the moulage that Python imports."""
    out.mkdir(parents=True, exist_ok=True)
    options = ["--source-set", "num_images=300", "--source-set", "size=32", "--source-set", "min_lesions=14"]
    small = [
        "--set",
        "steps=6",
        "--set",
        "batch_size=8",
        "--set",
        "base_channels=8",
        "--set",
        "generator_channels=[8, 8]",
    ]
    small += ["--set", "discriminator_channels=[8, 8]", "--set", "discriminator_strides=[2, 2]"]
    generator = out / "fit"
    _moulage("fit", "dcgan", "--classes", "AK,VASC", "--size", "32", *options, *small, "--out", str(generator))
    [fitted] = (generator / "generators").glob("dcgan-0-*")
    _moulage("sample", str(fitted), "--count", "10", "--out", str(out / "samples"))
    for name, text in RECIPES.items():
        recipe = out / f"{name}.toml"
        recipe.write_text(text.replace("GIVEN", str(out / "samples")), encoding="utf-8")
        _moulage("study", str(recipe), "--budget", "cpu" if "[budget.cpu" in text else "full", "--out", str(out / name))
    last = str(out / "unknown")
    _moulage("unknown", last)
    _moulage("explain", str(out / "holdout"), "--images", "2")
    other = ["--source-set", "num_images=200", "--source-set", "size=32", "--source-set", "seed=9"]
    other += ["--source-set", "min_lesions=8"]
    _moulage("evaluate", last, "--source", "phantom", *other, "--class-map", "VASC=")
    _moulage("ensemble", last, "--out", str(out / "ensemble"))


def _moulage(*arguments: str) -> None:
    print("moulage", *arguments, file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "moulage.cli", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


def compare(old: Path, new: Path) -> int:
    """Number of values that differ; each is printed."""
    differing = 0
    paths = [f"{name}/results.json" for name in RECIPES]
    paths += ["unknown/unknown/summary.json", "holdout/explanations/summary.json", "ensemble/ensemble.json"]
    pairs = [(old / path, new / path) for path in paths]
    first, second = (next((root / "unknown/external").glob("*/summary.json")) for root in (old, new))
    pairs.append((first, second))
    for first, second in pairs:
        a, b = (json.loads(path.read_text(encoding="utf-8")) for path in (first, second))
        for line in differences(_plain(a), _plain(b)):
            fatal = not line.endswith(("only in the first", "only in the second"))
            differing += fatal
            print(f"{first.relative_to(old)}: {line}")
    for root in (old / name for name in RECIPES):
        for path in sorted(root.glob("classifiers/*/*.parquet")):
            arm = re.sub(r"-[0-9a-f]{12}$", "", path.parent.name)
            found = list((new / root.name / "classifiers").glob(f"{arm}-*/{path.name}"))
            same = len(found) == 1 and _same_table(pd.read_parquet(path), pd.read_parquet(found[0]))
            differing += not same
            if not same:
                print(f"{path.relative_to(old)}: differs, or is not there once")
    return differing


def _same_table(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    a, b = (table.drop(columns="split_digest", errors="ignore") for table in (a, b))
    for table in (a, b):  # names of drawn images begin with the folder that drew them
        for column in ("image", "origin"):
            if column in table:
                table[column] = [_unhashed(str(value)) for value in table[column]]
    return a.equals(b)


def _plain(value: Any) -> Any:
    """Without what may differ, and with hashes taken out of names."""
    if isinstance(value, dict) and "statement" in value:  # a verdict: its sentences have keys of their own now
        value = dict(value)
        forbidden = f"The numbers would allow the word helps, but a control forbids it. {value['refused']}"
        said = [value.pop("statement"), *value.pop("comparisons"), forbidden if value["refused"] else ""]
        said += [value.pop("missing"), value["needed"], *value.pop("notes")]
        value["text"] = [text for text in said if text]
    if isinstance(value, dict) and "false_positives" in value:  # its lesions were drawn by the name of a folder
        value = {k: v for k, v in value.items() if k not in ("low", "high")}
    if isinstance(value, dict):
        return {_unhashed(k): _plain(v) for k, v in value.items() if k not in LEFT_OUT}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, str):
        return _unhashed(value)
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _unhashed(text: str) -> str:
    return re.sub(r"\b[0-9a-f]{12}\b", "HASH", text)


def differences(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """Places in which two JSON values differ, a line each."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b}):
            if key not in b or key not in a:
                yield f"{where}.{key}: only in the {'first' if key in a else 'second'}"
            else:
                yield from differences(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from differences(x, y, f"{where}.{number}")
    elif a != b:
        yield f"{where}: {str(a)[:200]} -> {str(b)[:200]}"


def main() -> None:
    match sys.argv[1:]:
        case ["run", out]:
            run(Path(out).absolute())
        case ["compare", old, new]:
            differing = compare(Path(old), Path(new))
            print(f"{differing} values differ")
            raise SystemExit(differing > 0)
        case _:
            raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
