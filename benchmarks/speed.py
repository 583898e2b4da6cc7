"""How fast the training is beside its peers, side by side in one run.

    python -m benchmarks.speed [--rounds 5] [--what training whole growth]

Every round runs each candidate once, in turn, so that a machine that drifts drifts for all; the
ratios are taken round by round. Writes benchmarks/results/NAME.csv, one row a run, and prints the
tables that the README shows. Needs data/prepared/ (`make repro`); PyTorch is measured where
`.venv-torch` exists (see benchmarks/README.md).

training: the same work (5 epochs of 64) by Model.fit in the plain script, by our stage and by
    PyTorch, and the recipe `fast`; beside what the arithmetic alone would take, from a measured
    matrix product.
whole: `dvc repro --force`, data fetched, against the plain script from start to end.
growth: one epoch on 1, 2, 4 and 8 times the images: seconds, peak memory.
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

from benchmarks.accuracy import RESULTS, recipe
from tools.verify import environment_for_clone

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


def last_line(command: list[object]) -> dict[str, float]:
    """Run a benchmark program and return its JSON line."""
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def ours(**settings: object) -> list[object]:
    pairs = [f"{key}={value}" for key, value in settings.items()]
    return [sys.executable, "-m", "benchmarks.our_training", *pairs]


def plain(folder: str, precision: str = "float32") -> list[object]:
    flags = ["data/raw/mnist.npz", folder, "--precision", precision]
    return [sys.executable, "-m", "benchmarks.plain_keras", *flags]


def record(name: str, rows: list[dict[str, object]]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    with (RESULTS / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def summary(rows: list[dict[str, object]], base: str) -> None:
    """Print median seconds, the ratio to `base` round by round, and accuracy, of each candidate."""
    names = list(dict.fromkeys(str(row["candidate"]) for row in rows))
    seconds = {
        name: [float(row["seconds"]) for row in rows if row["candidate"] == name] for name in names
    }
    print(f"| | seconds, median | against {base}, median (range) | test accuracy, median |")
    print("| --- | ---: | ---: | ---: |")
    for name in names:
        ratios = [a / b for a, b in zip(seconds[name], seconds[base], strict=True)]
        accuracy = statistics.median(
            float(row["accuracy"]) for row in rows if row["candidate"] == name
        )
        print(
            f"| {name} | {statistics.median(seconds[name]):.1f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) | {accuracy:.2%} |"
        )
    print(f"\nn = {len(seconds[base])} rounds.")


def training(rounds: int) -> None:
    peaks = {
        kind: float(
            subprocess.run(
                [sys.executable, "-c", GEMM, kind],
                check=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            ).stdout
        )
        for kind in ("float32", "bfloat16")
    }
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        candidates = {
            "Keras fit, float32": plain(folder),
            "ours, float32": ours(),
            "ours, mixed_bfloat16": ours(precision="mixed_bfloat16"),
            "ours, recipe fast": ours(**recipe("fast")),
        }
        if TORCH.exists():
            script = [TORCH, "benchmarks/pytorch_training.py"]
            candidates["PyTorch, float32"] = script
            candidates["PyTorch, bfloat16"] = [*script, "--precision", "bfloat16"]
        for number in range(1, rounds + 1):
            for name, command in candidates.items():
                result = last_line(command)
                rows.append(
                    {
                        "round": number,
                        "candidate": name,
                        "seconds": round(result["training"], 2),
                        "peak_bytes": result.get("peak", ""),
                        "accuracy": result["accuracy"],
                    }
                )
                print(rows[-1], file=sys.stderr, flush=True)
            record("training", rows)
    summary(rows, "Keras fit, float32")
    for kind, peak in peaks.items():
        print(
            f"Arithmetic limit, {kind}: {FLOP_PER_IMAGE * IMAGES / peak:.1f} s at "
            f"{peak / 1e9:.0f} GFLOP/s, the speed of a matrix product of 2048 x 2048."
        )
    peak_memory = max(float(row["peak_bytes"]) for row in rows if row["peak_bytes"])
    print(f"Peak memory: {peak_memory / 1e6:.0f} MB.")


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
                rows.append(
                    {
                        "round": number,
                        "candidate": name,
                        "seconds": round(seconds, 2),
                        "accuracy": accuracy,
                    }
                )
                print(rows[-1], file=sys.stderr, flush=True)
            record("whole", rows)
    summary(rows, "plain script")


def growth(rounds: int) -> None:
    rows: list[dict[str, object]] = []
    for number in range(1, rounds + 1):
        for copies in (1, 2, 4, 8):
            result = last_line([*ours(epochs=1), "--copies", copies])
            rows.append(
                {
                    "round": number,
                    "copies": copies,
                    "seconds": round(result["training"], 2),
                    "peak_bytes": result["peak"],
                }
            )
            print(rows[-1], file=sys.stderr, flush=True)
        record("growth", rows)
    size = 54_000 * 28 * 28 * 4
    print("| images | seconds an epoch, median | peak memory, MB | times the images' size |")
    print("| ---: | ---: | ---: | ---: |")
    peaks = {}
    for copies in (1, 2, 4, 8):
        here = [row for row in rows if row["copies"] == copies]
        seconds = statistics.median(float(row["seconds"]) for row in here)
        peaks[copies] = statistics.median(float(row["peak_bytes"]) for row in here)
        print(
            f"| {54_000 * copies:,} | {seconds:.1f} | {peaks[copies] / 1e6:.0f} "
            f"| {peaks[copies] / (size * copies):.1f} |"
        )
    slope = (peaks[8] - peaks[1]) / (7 * size)
    print(f"\nA further byte of images costs {slope:.2f} bytes; n = {rounds}.")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    names = ("training", "whole", "growth")
    parser.add_argument("--what", nargs="+", choices=names, default=names)
    arguments = parser.parse_args()
    for name in arguments.what:
        {"training": training, "whole": whole, "growth": growth}[name](arguments.rounds)


if __name__ == "__main__":
    main()
