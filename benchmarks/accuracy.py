"""How far do the surroundings and the seed move a result?

    python -m benchmarks.accuracy

Trains and evaluates the default with the stages themselves, in a temporary folder, on
data/prepared/: with nine other seeds, and as machines compute that do not take the portable path.
oneDNN is told to do with a lesser instruction set, as on a CPU without AVX2, or is off, as where
TensorFlow has none: then Eigen's kernels compute. Writes results/accuracy.csv. A run that the CSV
has already is not run again; delete the CSV to measure anew.

tools/verify.py takes its tolerance from the CSV: the largest differences of a result between the
portable environment and others, with the seed the same.
"""

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.rows import FIRST_SEED, Rows, append, markdown, read, spread, stage, write_params
from cnn.errors import run
from cnn.files import read_json, read_text
from cnn.npz import read_arrays
from tools.verify import REFERENCE, bounds

PREPARED = Path("data/prepared")
KEY = ("seed", "instruction_set", "onednn")
PORTABLE = REFERENCE["instruction_set"], REFERENCE["onednn"]
# What oneDNN calls the levels, "ALL" for what the CPU has.
VARIANTS = (("AVX", "on"), ("SSE41", "on"), ("ALL", "off"))
WANTED = (
    *((seed, *PORTABLE) for seed in range(FIRST_SEED, FIRST_SEED + 10)),
    *((FIRST_SEED, *variant) for variant in VARIANTS),
)


def result_of(seed: int, instruction_set: str, onednn: str) -> tuple[dict, list[str]]:
    """Train and evaluate once; return metrics.json and the class read in each test image."""
    portable = (instruction_set, onednn) == PORTABLE
    variables = (
        {}
        if portable
        else {
            "ONEDNN_MAX_CPU_ISA": instruction_set,
            "TF_ENABLE_ONEDNN_OPTS": str(int(onednn == "on")),
        }
    )
    settings = {"seed": seed, "instruction_set": "avx2" if portable else "native"}
    splits = {name: PREPARED / f"{name}.npz" for name in ("train", "validation", "test")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_params(folder / "params.yaml", train=settings)
        given = {f"--{name}": splits[name] for name in ("train", "validation")}
        stage("train", folder, given, variables)
        stage("evaluate", folder, {"--test": splits["test"]})
        probabilities, classes = read_arrays(
            folder / "data/predictions.npz", ("probabilities", "classes")
        )
        read_as = classes[np.argmax(probabilities, axis=1)].tolist()
        return read_json(folder / "reports/evaluate/metrics.json"), read_as


def measure() -> Rows:
    """Return the rows of accuracy.csv, after running those that it lacks.

    `agreement` is the share of test images in which the same class is read as in the committed
    reports/predictions.csv.
    """
    committed = csv.DictReader(read_text("reports/predictions.csv").splitlines())
    reference = [row["predicted"] for row in committed]
    rows = read("accuracy", needed=False)
    done = {tuple(row[column] for column in KEY) for row in rows}
    for combination in WANTED:
        if tuple(map(str, combination)) in done:
            continue
        metrics, read_as = result_of(*combination)
        alike = sum(a == b for a, b in zip(read_as, reference, strict=True)) / len(reference)
        append(
            "accuracy",
            rows,
            **dict(zip(KEY, combination, strict=True)),
            accuracy=metrics["accuracy"],
            log_loss=metrics["log_loss"],
            agreement=alike,
        )
    return rows


def summary(rows: Rows) -> str:
    """Return how the default does over its seeds, and the bounds of tools/verify.py."""
    home = [row for row in rows if (row["instruction_set"], row["onednn"]) == PORTABLE]
    shares = [float(row["accuracy"]) for row in home]
    allowed = bounds(rows)
    return (
        f"Over {len(shares)} seeds the default has {spread(shares)} test accuracy "
        f"({100 * min(shares):.2f} to {100 * max(shares):.2f}). The bounds of `make verify` are "
        f"twice the first row: {allowed['accuracy']:.4f} in accuracy, {allowed['log_loss']:.4f} in "
        f"log loss, {100 * allowed['agreement']:.2f} % read alike."
    )


def table(rows: Rows) -> str:
    """Return the table of accuracy.csv: differences from the row of the portable environment."""
    (reference,) = (row for row in rows if REFERENCE.items() <= row.items())
    groups = {
        "other instruction sets, oneDNN off": [
            row for row in rows if row["seed"] == REFERENCE["seed"] and row is not reference
        ],
        "other seeds": [row for row in rows if row["seed"] != REFERENCE["seed"]],
    }
    lines = []
    for title, group in groups.items():
        largest = [
            max(abs(float(row[column]) - float(reference[column])) for row in group)
            for column in ("accuracy", "log_loss")
        ]
        least = min(float(row["agreement"]) for row in group)
        lines.append([title, len(group), *(f"{x:.4f}" for x in largest), f"{100 * least:.2f} %"])
    titles = ["", "n", "accuracy differs by at most", "log loss by at most", "read alike, at least"]
    return f"{markdown(titles, lines)}\n\n{summary(rows)}"


def main(argv: list[str] | None = None) -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args(argv)
    print(table(measure()))


if __name__ == "__main__":
    raise SystemExit(run(main))
