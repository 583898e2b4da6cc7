"""How far the surroundings and the seed move a result.

    python -m benchmarks.accuracy

Trains and evaluates the default recipe with the stages themselves, in a temporary folder, on
data/prepared/: under other instruction sets and threads, and with nine other seeds. Writes
benchmarks/results/accuracy.csv, one row a run, and prints the summary that the README shows. A run
that the CSV has already is not run again; delete the CSV to measure anew.

It gives tools/verify.py its tolerance: the largest differences of a result between the default
environment and others, with the seed the same.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

PREPARED = Path("data/prepared")
RESULTS = Path("benchmarks/results")
COLUMNS = ("seed", "instruction_set", "threads", "accuracy", "log_loss", "agreement")
FIRST_SEED = 42  # the committed one
# What oneDNN calls the levels, "ALL" for what the CPU has, with the number of threads.
VARIANTS = (
    ("AVX512_CORE_VNNI", 2),
    ("AVX512_CORE", 2),
    ("AVX2", 2),
    ("ALL", 1),
    ("ALL", 4),
    ("AVX2", 1),
)


def run(settings: dict[str, object], instruction_set: str) -> tuple[dict[str, float], list[str]]:
    """Train and evaluate once; return metrics.json and the digit read in each test image."""
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    params["train"] |= settings
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
        common = ["--params", folder / "params.yaml", "--model", folder / "cnn.keras"]
        common += ["--history", folder / "training.csv"]
        train = ["--train", PREPARED / "train.npz", "--validation", PREPARED / "validation.npz"]
        train += ["--environment", folder / "environment.json"]
        evaluate = ["--test", PREPARED / "test.npz", "--predictions", folder / "predictions.npz"]
        evaluate += ["--reports", folder]
        environment = os.environ | {"ONEDNN_MAX_CPU_ISA": instruction_set}
        for stage, flags in (("train", train), ("evaluate", evaluate)):
            subprocess.run(
                [sys.executable, "-m", f"stages.{stage}", *common, *flags],
                check=True,
                env=environment,
                stdout=subprocess.DEVNULL,
            )
        import numpy as np

        with np.load(folder / "predictions.npz") as arrays:
            read = arrays["probabilities"].argmax(axis=1).astype(str).tolist()
        return json.loads((folder / "metrics.json").read_text(encoding="utf-8")), read


def measure(wanted: list[tuple[int, str, int]]) -> list[dict[str, str]]:
    """Return the rows of accuracy.csv for the wanted runs, running those that it lacks.

    `agreement` is the share of test images read as the default recipe with seed 42 reads them.
    """
    with (Path("reports/predictions.csv")).open(encoding="utf-8", newline="") as stream:
        reference = [row["predicted"] for row in csv.DictReader(stream)]
    path = RESULTS / "accuracy.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = []
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    key = COLUMNS[:3]
    for number, combination in enumerate(wanted, start=1):
        identity = dict(zip(key, map(str, combination), strict=True))
        if any(all(row[column] == identity[column] for column in key) for row in rows):
            continue
        seed, instruction_set, threads = combination
        metrics, read = run({"seed": seed, "threads": threads}, instruction_set)
        alike = sum(a == b for a, b in zip(read, reference, strict=True)) / len(reference)
        rows.append(
            identity
            | {"accuracy": metrics["accuracy"], "log_loss": metrics["log_loss"], "agreement": alike}
        )
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(f"{number}/{len(wanted)} {rows[-1]}", file=sys.stderr, flush=True)
    return [
        row
        for combination in wanted
        for row in rows
        if [row[column] for column in key] == list(map(str, combination))
    ]


def spread(values: list[float]) -> str:
    """Return mean ± sample standard deviation, the range and n, of shares in per cent."""
    shares = [100 * value for value in values]
    return (
        f"{statistics.mean(shares):.2f} ± {statistics.stdev(shares):.2f} % "
        f"({min(shares):.2f} to {max(shares):.2f}, n = {len(shares)})"
    )


def main() -> None:
    """Print what other surroundings do to a result, beside what other seeds do."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    home = [(FIRST_SEED, "ALL", 2)]
    elsewhere = [(FIRST_SEED, *variant) for variant in VARIANTS]
    seeds = [(seed, "ALL", 2) for seed in range(FIRST_SEED + 1, FIRST_SEED + 10)]
    reference = measure(home)[0]
    for title, wanted in (
        ("other instruction sets and threads", elsewhere),
        ("other seeds", seeds),
    ):
        rows = measure(wanted)
        largest = {
            column: max(abs(float(row[column]) - float(reference[column])) for row in rows)
            for column in ("accuracy", "log_loss")
        }
        least = min(float(row["agreement"]) for row in rows)
        print(
            f"{title} (n = {len(rows)}): accuracy differs by at most {largest['accuracy']:.4f}, "
            f"log loss by at most {largest['log_loss']:.4f}, at least {least:.2%} read alike"
        )
    rows = measure(home + seeds)
    print(f"default recipe: {spread([float(row['accuracy']) for row in rows])}")


if __name__ == "__main__":
    main()
