"""A small Git repository with runs on record: an experiment of its one commit for each."""

import json
from pathlib import Path

import yaml

from tests.helpers.revisions import git

IMAGES = 100


def lock(seed: int | None, settings: dict, code: str) -> dict:
    """Return a dvc.lock of two stages: the second reads what the first has made."""
    parameters = {"epochs": 2} | settings | ({} if seed is None else {"seed": seed})
    return {
        "schema": "2.0",
        "stages": {
            "prepare": {
                "cmd": "prepare",
                "params": {"params.yaml": {"prepare": {"seed": 42}}},
                "outs": [{"path": "data/train.npz", "md5": "1" * 32}],
            },
            "train": {
                "cmd": "train",
                "deps": [
                    {"path": "cnn/model", "md5": code * 32},
                    {"path": "data/train.npz", "md5": f"{seed}"},
                    {"path": "params.yaml", "md5": f"{seed}"},
                ],
                "params": {"params.yaml": {"train": parameters}},
                "outs": [{"path": "models/cnn.keras", "md5": f"{seed}"}],
            },
        },
    }


def predictions(images: int, wrong: int) -> str:
    rows = [f"{i},{i:04x},1,{7 if i < wrong else 1},0.9" for i in range(images)]
    return "\n".join(["index,image,actual,predicted,probability", *rows, ""])


def write_run(root: Path, seed, errors, images=IMAGES, code="2", settings=(), **metrics) -> None:
    """Write what a run leaves on record, of which the tools read three files."""
    (root / "reports/evaluate").mkdir(parents=True, exist_ok=True)
    (root / "dvc.lock").write_text(yaml.safe_dump(lock(seed, dict(settings), code)))
    (root / "reports/predictions.csv").write_text(predictions(images, errors))
    accuracy = round(1 - errors / images, 6)
    document = {"accuracy": accuracy, "accuracy_low": 0.5, "accuracy_high": 1.0, "errors": errors}
    (root / "reports/evaluate/metrics.json").write_text(json.dumps(document | metrics))


def make_repository(root: Path) -> None:
    """Fill the empty folder `root` with a DVC repository that has one commit and no run."""
    (root / ".dvc").mkdir()
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (root / ".dvc/.gitignore").write_text("/config.local\n/tmp\n/cache\n")
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "first")


def record(root: Path, name: str, **run) -> None:
    """Add a run as an experiment, which leaves the workspace as it was."""
    base = git(root, "rev-parse", "HEAD")
    write_run(root, **run)
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", name)
    git(root, "update-ref", f"refs/exps/{base[:2]}/{base[2:]}/{name}", "HEAD")
    git(root, "reset", "--quiet", "--hard", base)
