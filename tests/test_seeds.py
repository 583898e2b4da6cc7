"""A real DVC queue runs a pipeline of one stage, which notes the seeds that it was trained with."""

import subprocess
import sys

import pytest

from tests.helpers import clones
from tests.helpers.clones import ROOT, commit, git
from tests.helpers.recorded import make_repository
from tools import seeds

PIPELINE = """\
stages:
  train:
    cmd: python train.py
    deps: [train.py]
    params: [train]
    metrics:
    - reports/evaluate/metrics.json: {cache: false}
"""
TRAIN = """\
import json, os, pathlib
from cnn.base.params import read_yaml

params = read_yaml("params.yaml")["train"]
with open(os.environ["NOTES"], "a") as notes:
    notes.write(f"{params['seed']} {params['epochs']}\\n")
assert params["seed"] != 44, "no luck with 44"
path = pathlib.Path("reports/evaluate/metrics.json")
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(json.dumps({"accuracy": (900 + params["seed"]) / 1000}))
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    root = tmp_path_factory.mktemp("seeds") / "clone"
    root.mkdir()
    make_repository(root)
    for name, text in {
        "dvc.yaml": PIPELINE,
        "train.py": TRAIN,
        "params.yaml": "train:\n  seed: 42   # a remark\n  epochs: 5\n",
        "recipes/fast.yaml": "train:\n  epochs: 2\n",
    }.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    git(root, "config", "user.name", "test")
    git(root, "config", "user.email", "test@localhost")
    commit(root, "pipeline")
    yield root
    clones.dvc(root, "queue", "stop", "--kill")


def test_seeds_are_trained_once_and_what_failed_is_named(clone, monkeypatch):
    notes = clone.parent / "notes"
    variables = clones.environment(clone) | {"PYTHONPATH": str(ROOT), "NOTES": str(notes)}

    def train(*words):
        command = [sys.executable, "-m", "tools.seeds", "fast", *words]
        return subprocess.run(command, cwd=clone, env=variables, capture_output=True, text=True)

    # DVC would keep neither of two that are queued under one name.
    clones.dvc(clone, "exp", "run", "--queue", "-n", "fast-42", "-S", "train.epochs=2")
    done = train("--n", "3", "--jobs", "2")

    assert done.returncode == 1
    assert done.stderr.endswith("error: fast-44: failed; 'dvc queue logs fast-44' says why\n")
    lines = done.stdout.splitlines()
    assert lines[0] == "fast: 0 of 3 runs are there"
    # 94.2 and 94.3: 0.05 either way, sqrt(2 · 0.05²) = 0.0707.
    assert lines[-2] == "fast: accuracy 94.250% ± 0.071%, mean ± standard deviation"
    assert "no luck with 44" in clones.dvc(clone, "queue", "logs", "fast-44")
    assert sorted(notes.read_text().splitlines()) == ["42 2", "43 2", "44 2"]
    assert git(clone, "status", "--porcelain") == ""

    again = train("--n", "2")

    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.splitlines() == ["fast: 2 of 2 runs are there", *lines[-2:]]
    # With other parameters or other code it is another run.
    monkeypatch.chdir(clone)
    assert seeds.accuracy_of("fast-43", {"train": {"seed": 43, "epochs": 2}}) == 0.943
    assert seeds.accuracy_of("fast-43", {"train": {"seed": 43, "epochs": 3}}) is None
    (clone / "train.py").write_text(f"{TRAIN}# changed\n")
    assert seeds.accuracy_of("fast-43", {"train": {"seed": 43, "epochs": 2}}) is None


def test_what_cannot_be_done_is_one_line(clone, refusal, monkeypatch):
    monkeypatch.chdir(clone)
    assert refusal(seeds.main, ["--n", "0"]) == "--n is 0; allowed: 1 to 1000"
    assert refusal(seeds.main, ["--jobs", "65"]) == "--jobs is 65; allowed: 1 to 64"
    assert "recipes/fats.yaml: is missing; choose one of fast" in refusal(seeds.main, ["fats"])
    monkeypatch.chdir(clone.parent)
    assert "not in a Git repository" in refusal(seeds.main, ["--n", "1"])
