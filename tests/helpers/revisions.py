"""A small Git history to compare: the project's own reports, then those of two other models."""

import csv
import shutil
import subprocess
from pathlib import Path

import numpy as np

from cnn.base.files import read_json, write_csv
from cnn.results import metrics, suspects, tables
from stages import report

PROJECT = Path(__file__).parents[2]
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

    with open(root / "reports/predictions.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    classes = list(read_json(root / "reports/evaluate/per_class.json"))
    images = [row["image"] for row in rows]
    labels = np.array([classes.index(row["actual"]) for row in rows])
    wrong = np.array([row["predicted"] != row["actual"] for row in rows])
    rng = np.random.default_rng(0)

    def another_model(name: str, misread: np.ndarray) -> None:
        predicted = np.where(misread, (labels + 1 + labels % 3) % len(classes), labels)
        probabilities = rng.random((len(labels), len(classes)), dtype=np.float32) / 20
        probabilities[np.arange(len(labels)), predicted] = 1
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        results = metrics.evaluate(labels, probabilities, classes, bins=15)
        tested = suspects.Split(labels, probabilities, images)
        results.tables["suspects"] = suspects.table({"test": tested}, classes)[:20]
        tables.write(*results, root / "reports/evaluate")
        write_csv(
            root / "reports/predictions.csv",
            report.prediction_rows(images, classes, labels, probabilities),
        )
        commit(root, name)

    another_model("other", np.roll(wrong, 1))
    history = root / "reports/train/training.csv"
    history.write_text("".join(history.read_text().splitlines(keepends=True)[:3]))
    another_model("poor", wrong | (np.arange(len(labels)) % (len(labels) // 300) == 0))
