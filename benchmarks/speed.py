"""How fast and how accurate the training is beside its peers, side by side in one run.

    python -m benchmarks.speed [--rounds 5] [--what training knobs whole growth reading]

Every round runs each candidate once, in turn, so that a machine that drifts drifts for all; the
ratios are taken round by round. Writes benchmarks/results/NAME.csv, one row a run, and prints the
tables that the README shows. Needs data/prepared/ (`make repro`); PyTorch is measured where
`.venv-torch` exists (see benchmarks/README.md).

training: the same work (5 epochs of 64) by Model.fit in the plain script, by our stage and by
    PyTorch, and the other recipes; each round with another seed. Beside it what the arithmetic
    alone would take, from a measured matrix product. Draws benchmarks/results/training.png.
knobs: the recipe `accurate`, 10 epochs of it, with one parameter at a time back at its default.
whole: `dvc repro --force`, data fetched, against the plain script from start to end.
growth: one epoch on 1, 2, 4 and 8 times the images: seconds, peak memory.
reading: `tools.predict` on one picture, on 1,000 and on one of 16 megapixels, against the import of
    TensorFlow: seconds, peak memory.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from benchmarks.accuracy import FIRST_SEED, RESULTS
from tools.verify import environment_for_clone

FIT = "Keras fit, float32"
RECIPES = ("fast", "accurate")
WITH = "all"
KNOBS = (
    "shift",
    "rotation",
    "shear",
    "scale",
    "dropout",
    "weight_decay",
    "averaging",
    "beta_2",
)
TORCH = Path(".venv-torch/bin/python")
# Multiplications and additions of one image, forward and twice as much backward, without the
# gradient of the first layer's input: 2 x (26² x 32 x 9 x 2 + 11² x 64 x 288 x 3 + (1600 x 128 +
# 128 x 10) x 3).
FLOP_PER_IMAGE = 2 * (26**2 * 32 * 9 * 2 + 11**2 * 64 * 288 * 3 + (1600 * 128 + 128 * 10) * 3)
IMAGES = 5 * 54_000
GEMM = """
import sys, time, tensorflow as tf
tf.config.threading.set_intra_op_parallelism_threads(2)
a = tf.random.normal((2048, 2048), dtype=sys.argv[1])
product = tf.function(lambda: tf.matmul(a, a))
product()
best = 9e9
for _ in range(20):
    began = time.perf_counter()
    product().numpy()
    best = min(best, time.perf_counter() - began)
print(2 * 2048**3 / best)
"""


# Run by a small process of its own: a new process counts its parent's memory as its own at first.
TIMED = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
seconds = time.perf_counter() - began
peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({"seconds": seconds, "peak": peak}))
"""


def recipe(name: str) -> dict[str, object]:
    """Return the parameters of section `train` that `make NAME` sets."""
    settings = subprocess.run(
        ["make", "--silent", f"settings-{name}"], check=True, capture_output=True, text=True
    ).stdout.split()
    pairs = (setting.removeprefix("train.").split("=") for setting in settings)
    return {key: yaml.safe_load(value) for key, value in pairs}


def last_line(command: list[object]) -> dict[str, float]:
    """Run a benchmark program and return its JSON line."""
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def ours(**settings: object) -> list[object]:
    pairs = [f"{key}={value}" for key, value in settings.items()]
    return [sys.executable, "-m", "benchmarks.our_training", *pairs]


def plain(folder: str, *flags: object) -> list[object]:
    return [sys.executable, "-m", "benchmarks.plain_keras", "data/raw/mnist.npz", folder, *flags]


def flops(precision: str) -> float:
    """Return how many operations a second a matrix product of 2048 x 2048 makes here."""
    return float(
        subprocess.run(
            [sys.executable, "-c", GEMM, precision],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ).stdout
    )


def record(name: str, rows: list[dict[str, object]], **row: object) -> None:
    """Add a row, say it, and write all rows so far to NAME.csv."""
    rows.append(row)
    print(row, file=sys.stderr, flush=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def of(rows: list[dict[str, object]], name: str, column: str) -> list[float]:
    return [float(row[column]) for row in rows if row["candidate"] == name]


def ratios_to(rows: list[dict[str, object]], name: str, base: str) -> list[float]:
    """Return seconds of `name` against those of `base`, round by round."""
    pairs = zip(of(rows, name, "seconds"), of(rows, base, "seconds"), strict=True)
    return [a / b for a, b in pairs]


def ranged(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def training(rounds: int) -> None:
    precisions = ("float32", "bfloat16")
    limit = {kind: FLOP_PER_IMAGE * IMAGES / flops(kind) for kind in precisions}
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, rounds + 1):
            seed = FIRST_SEED + number - 1
            candidates = {
                FIT: plain(folder, "--seed", seed),
                "ours, float32": ours(seed=seed),
                "ours, bfloat16": ours(seed=seed, precision="mixed_bfloat16"),
                **{f"recipe {name}": ours(seed=seed, **recipe(name)) for name in RECIPES},
            }
            if TORCH.exists():
                for kind in precisions:
                    script = [TORCH, "benchmarks/pytorch_training.py", "--seed", str(seed)]
                    candidates[f"PyTorch, {kind}"] = [*script, "--precision", kind]
            for name, command in candidates.items():
                result = last_line(list(map(str, command)))
                record(
                    "training",
                    rows,
                    round=number,
                    seed=seed,
                    candidate=name,
                    seconds=round(result["training"], 2),
                    accuracy=result["accuracy"],
                )
    print("| | seconds, median | against Keras' `fit`, median (range) | of it arithmetic |", end="")
    print(" test accuracy, mean ± standard deviation |\n| --- | ---: | ---: | ---: | ---: |")
    for name in candidates:
        seconds = statistics.median(of(rows, name, "seconds"))
        kind = name.rpartition(", ")[2]
        share = f"{limit[kind] / seconds:.0%}" if kind in limit else ""
        accuracies = [100 * share for share in of(rows, name, "accuracy")]
        print(
            f"| {name} | {seconds:.1f} | {ranged(ratios_to(rows, name, FIT))} | {share} "
            f"| {statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f} % |"
        )
    print(f"\nn = {rounds} rounds, seeds {FIRST_SEED} to {FIRST_SEED + rounds - 1}.")
    for kind, seconds in limit.items():
        print(f"Arithmetic alone, {kind}: {seconds:.1f} s at the speed of a matrix product.")
    draw(rows, list(candidates))


def draw(rows: list[dict[str, object]], names: list[str]) -> None:
    """Draw accuracy against time, a mark a candidate, with the standard deviations."""
    import matplotlib.pyplot as plt

    from stages.figures import PERCENT, set_style

    set_style()
    figure, ax = plt.subplots(figsize=(9, 5))
    for name in names:
        ratios, accuracies = ratios_to(rows, name, FIT), of(rows, name, "accuracy")
        x, y = statistics.median(ratios), statistics.mean(accuracies)
        own = name.startswith(("ours", "recipe"))
        colour = "tab:blue" if own else "tab:gray"
        ax.errorbar(
            x,
            y,
            xerr=[[x - min(ratios)], [max(ratios) - x]],
            yerr=statistics.stdev(accuracies),
            fmt="o",
            capsize=3,
            color=colour,
        )
        ax.annotate(
            name,
            (x, y),
            (8, 8) if own else (8, -8),
            textcoords="offset points",
            rotation=30 if own else -30,
            rotation_mode="anchor",
            va="bottom" if own else "top",
            color=colour,
        )
    ax.set(
        xscale="log",
        xlabel="training time against Keras' fit, median and range",
        ylabel="test accuracy, mean ± standard deviation",
        title="Accuracy against training time",
    )
    ticks = [0.1, 0.2, 0.5, 1, 2, 5]
    ax.set_xticks(ticks, map(str, ticks))
    ax.margins(x=0.15, y=0.25)
    ax.minorticks_off()
    ax.yaxis.set_major_formatter(PERCENT)
    figure.savefig(RESULTS / "training.png")


def knobs(rounds: int) -> None:
    defaults = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))["train"]
    base = recipe("accurate") | {"epochs": 10}
    rows: list[dict[str, object]] = []
    for number in range(1, rounds + 1):
        seed = FIRST_SEED + number - 1
        for knob in (WITH, *KNOBS):
            settings = base if knob == WITH else base | {knob: defaults[knob]}
            result = last_line(ours(**settings, seed=seed))
            record(
                "knobs",
                rows,
                round=number,
                seed=seed,
                candidate=knob,
                seconds=round(result["training"], 2),
                accuracy=result["accuracy"],
            )
    print("| parameter | here, default | test accuracy, points | training time |")
    print("| --- | --- | ---: | ---: |")
    for knob in KNOBS:
        pairs = zip(of(rows, WITH, "accuracy"), of(rows, knob, "accuracy"), strict=True)
        gains = [100 * (a - b) for a, b in pairs]
        print(
            f"| `{knob}` | {base[knob]}, {defaults[knob]} "
            f"| {statistics.mean(gains):+.2f} ({min(gains):+.2f} to {max(gains):+.2f}) "
            f"| x {ranged(ratios_to(rows, WITH, knob))} |"
        )
    accuracies = [100 * share for share in of(rows, WITH, "accuracy")]
    print(f"\nWith all of them {statistics.mean(accuracies):.2f} %; n = {rounds} seeds.")


def whole(rounds: int) -> None:
    environment = environment_for_clone(Path("data/raw"))
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder, "clone")
        subprocess.run(["git", "clone", "--quiet", ".", clone], check=True)
        repro = ["dvc", "repro", "--force", "--quiet"]
        quiet = {"cwd": clone, "env": environment, "check": True, "stdout": subprocess.DEVNULL}
        subprocess.run(repro, **quiet)  # warm, as the script is
        for number in range(1, rounds + 1):
            began = time.perf_counter()
            script = last_line(plain(folder))
            middle = time.perf_counter()
            subprocess.run(repro, **quiet)
            end = time.perf_counter()
            metrics = json.loads((clone / "reports/metrics.json").read_text(encoding="utf-8"))
            for name, seconds, accuracy in (
                ("plain script", middle - began, script["accuracy"]),
                ("dvc repro --force", end - middle, metrics["accuracy"]),
            ):
                record(
                    "whole",
                    rows,
                    round=number,
                    candidate=name,
                    seconds=round(seconds, 2),
                    accuracy=accuracy,
                )
    print("| | seconds, median | against the plain script, median (range) | accuracy, median |")
    print("| --- | ---: | ---: | ---: |")
    for name in ("plain script", "dvc repro --force"):
        print(
            f"| {name} | {statistics.median(of(rows, name, 'seconds')):.1f} "
            f"| {ranged(ratios_to(rows, name, 'plain script'))} "
            f"| {statistics.median(of(rows, name, 'accuracy')):.2%} |"
        )
    print(f"\nn = {rounds} rounds.")


def growth(rounds: int) -> None:
    rows: list[dict[str, object]] = []
    for number in range(1, rounds + 1):
        for copies in (1, 2, 4, 8):
            result = last_line([*ours(epochs=1), "--copies", str(copies)])
            record(
                "growth",
                rows,
                round=number,
                copies=copies,
                seconds=round(result["training"], 2),
                peak_bytes=result["peak"],
            )
    size = 54_000 * 28 * 28 * 4
    print("| images | seconds an epoch, median | peak memory, MB | times the images' size |")
    print("| ---: | ---: | ---: | ---: |")
    seconds, peaks = {}, {}
    for copies in (1, 2, 4, 8):
        here = [row for row in rows if row["copies"] == copies]
        seconds[copies] = statistics.median(float(row["seconds"]) for row in here)
        peaks[copies] = statistics.median(float(row["peak_bytes"]) for row in here)
        print(
            f"| {54_000 * copies:,} | {seconds[copies]:.1f} | {peaks[copies] / 1e6:.0f} "
            f"| {peaks[copies] / (size * copies):.1f} |"
        )
    print(
        f"\nFrom the first row to the last, 54,000 images more take "
        f"{(seconds[8] - seconds[1]) / 7:.1f} s, and a byte of images more "
        f"{(peaks[8] - peaks[1]) / (7 * size):.2f} bytes of memory; n = {rounds}."
    )


def reading(rounds: int) -> None:
    from sklearn.datasets import load_digits

    from benchmarks.handwriting import enlarged, photo, shaded

    base, one, many = "import tensorflow", "one picture, 192 x 192", "1,000 pictures, 192 x 192"
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        digits = load_digits().images / 16
        (Path(folder) / "many").mkdir()
        for number, digit in enumerate(digits[:1000]):
            shaded(digit, rng).save(f"{folder}/many/{number:04}.png")
        ink = enlarged(digits[0], 3000, 500)[..., np.newaxis]
        photo(ink, rng, (0.96, 0.95, 0.93), (0.1, 0.15, 0.5)).save(f"{folder}/large.jpg")
        predict = [sys.executable, "-m", "tools.predict"]
        candidates = {
            base: [sys.executable, "-c", "import tensorflow"],
            one: [*predict, f"{folder}/many/0000.png"],
            many: [*predict, f"{folder}/many"],
            "one photo, 16 megapixels": [*predict, f"{folder}/large.jpg"],
        }
        for number in range(1, rounds + 1):
            for name, command in candidates.items():
                result = last_line([sys.executable, "-c", TIMED, *command])
                record(
                    "reading",
                    rows,
                    round=number,
                    candidate=name,
                    seconds=round(result["seconds"], 2),
                    peak_bytes=result["peak"],
                )
    print("| | seconds, median | against `import tensorflow`, median (range) | peak memory, MB |")
    print("| --- | ---: | ---: | ---: |")
    for name in candidates:
        print(
            f"| {name} | {statistics.median(of(rows, name, 'seconds')):.1f} "
            f"| {ranged(ratios_to(rows, name, base))} "
            f"| {max(of(rows, name, 'peak_bytes')) / 1e6:.0f} |"
        )
    pairs = zip(of(rows, many, "seconds"), of(rows, one, "seconds"), strict=True)
    more = [a - b for a, b in pairs]
    print(f"\n999 pictures more take {ranged(more)} s more; n = {rounds} rounds.")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parts = {
        "training": training,
        "knobs": knobs,
        "whole": whole,
        "growth": growth,
        "reading": reading,
    }
    parser.add_argument("--what", nargs="+", choices=parts, default=list(parts))
    arguments = parser.parse_args()
    for name in arguments.what:
        parts[name](arguments.rounds)


if __name__ == "__main__":
    main()
