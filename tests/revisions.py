"""A small Git history to compare: the project's own reports, then those of two other models."""

import csv
import shutil
import subprocess
from pathlib import Path

import numpy as np

from stages import evaluate, report

PROJECT = Path(__file__).parents[1]
COPIED = (".dvc/config", ".dvc/.gitignore", ".dvc/plots", "dvc.yaml", "dvc.lock", "params.yaml")


def git(root: Path, *words: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    command = ["git", *identity, *words]
    return subprocess.run(
        command, cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


def commit(root: Path, name: str) -> None:
    git(root, "add", ".")
    git(root, "commit", "--message", name)
    git(root, "branch", name)


def write_predictions(root: Path, labels: np.ndarray, probabilities: np.ndarray) -> None:
    rows = report.prediction_rows(labels, probabilities)
    lines = ["index,actual,predicted,probability", *(",".join(map(str, row)) for row in rows)]
    (root / "reports/predictions.csv").write_text("\n".join(lines) + "\n")


def make_history(root: Path) -> None:
    """Fill the empty folder `root`: branches `good` (the project's reports), `other` and `poor`.

    `other` misreads as many images as `good`, but other ones; `poor` misreads 300 more and was
    trained for two epochs.
    """
    for name in (*COPIED, "reports"):
        (root / name).parent.mkdir(exist_ok=True)
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, root / name)
        else:
            shutil.copy(PROJECT / name, root / name)
    git(root, "init", "--quiet", "--initial-branch=main")
    commit(root, "good")

    with open(root / "reports/predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    labels = np.array([int(row["actual"]) for row in rows])
    predicted = np.array([int(row["predicted"]) for row in rows])
    wrong = predicted != labels
    rng = np.random.default_rng(0)

    def another_model(name: str, misread: np.ndarray) -> None:
        digits = np.where(misread, (labels + 1 + labels % 3) % 10, labels)
        probabilities = rng.random((len(labels), 10), dtype=np.float32) / 20
        probabilities[np.arange(len(labels)), digits] = 1
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        results = evaluate.evaluate(labels, probabilities, bins=15)
        evaluate.write_results(results, root / "reports")
        write_predictions(root, labels, probabilities)
        commit(root, name)

    another_model("other", np.roll(wrong, 1))
    history = root / "reports/training.csv"
    history.write_text("".join(history.read_text().splitlines(keepends=True)[:3]))
    another_model("poor", wrong | (np.arange(len(labels)) % (len(labels) // 300) == 0))
