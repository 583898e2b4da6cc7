"""The real DVC runs a pipeline of one stage, which notes the seeds that it was trained with."""

import os
import signal
import subprocess
import sys
import time
from subprocess import PIPE

import psutil
import pytest

from tests.helpers import clones
from tests.helpers.clones import ROOT, commit, git
from tests.helpers.recorded import make_repository
from tools import recipe, seeds

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
import json, os, pathlib, time
from cnn.base.params import read_yaml

params = read_yaml("params.yaml")["train"]
with open(os.environ["NOTES"], "a") as notes:
    notes.write(f"{params['seed']} {params['epochs']} {len(os.sched_getaffinity(0))}\\n")
print("trained")
time.sleep(params["wait"])
assert params["seed"] != 44, "no luck with 44"
path = pathlib.Path("reports/evaluate/metrics.json")
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(json.dumps({"accuracy": (900 + params["seed"]) / 1000}))
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    root = tmp_path_factory.mktemp("seeds") / "a clone"
    root.mkdir()
    make_repository(root)
    for name, text in {
        "dvc.yaml": PIPELINE,
        "train.py": TRAIN,
        "params.yaml": "train:\n  seed: 42   # a remark\n  epochs: 5\n  wait: 0\n  fill:\n",
        "recipes/fast.yaml": "train:\n  epochs: 2\n",
        "recipes/slow.yaml": "train:\n  wait: 600\n",
        "recipes/filled.yaml": "train:\n  epochs: 9\n  fill: 0.5\n",
    }.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    git(root, "config", "user.name", "test")
    git(root, "config", "user.email", "test@localhost")
    commit(root, "pipeline")
    return root


@pytest.fixture
def command(clone):
    """Arguments for a process that runs tools.seeds in the clone, and its notes."""
    notes = clone.parent / "notes"
    notes.write_text("")
    variables = clones.environment(clone) | {"PYTHONPATH": str(ROOT), "NOTES": str(notes)}
    kept = {"cwd": clone, "env": variables, "stdout": PIPE, "stderr": PIPE, "text": True}
    return kept, notes


def test_seeds_are_trained_once_and_what_failed_is_named(clone, command, monkeypatch):
    kept, notes = command

    def train(*words):
        return subprocess.run([sys.executable, "-m", "tools.seeds", "fast", *words], **kept)

    (clone / "untracked").write_text("stays")
    done = train("--n", "5", "--jobs", "2")

    assert done.returncode == 1
    assert done.stderr == "error: fast-44: failed, for the reason that its lines above give\n"
    lines = done.stdout.splitlines()
    assert lines[0] == "fast: 0 of 5 runs are there"
    # 94.2, 94.3, 94.5, 94.6.
    assert lines[-2] == "fast: accuracy 94.400% ± 0.183%, mean ± standard deviation"
    assert "fast-45: trained" in lines
    assert "fast-44: AssertionError: no luck with 44" in lines
    noted = [tuple(map(int, line.split())) for line in sorted(notes.read_text().splitlines())]
    assert [(seed, epochs) for seed, epochs, _ in noted] == [(n, 2) for n in range(42, 47)]
    *others, last = (cores for _, _, cores in noted)
    cores = len(os.sched_getaffinity(0))
    assert {1, cores // 2, -(-cores // 2)}.issuperset(others)
    assert last == cores
    assert git(clone, "status", "--porcelain") == "?? untracked\n"
    (clone / "untracked").unlink()

    again = train("--n", "2")

    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.splitlines()[0] == "fast: 2 of 2 runs are there"
    assert again.stdout.count("\n") == 3
    # With other parameters or other code it is another run.
    monkeypatch.chdir(clone)
    assert seeds.accuracy_of("fast-43", {"train": {"seed": 43, "epochs": 2}}) == 0.943
    assert seeds.accuracy_of("fast-43", {"train": {"seed": 43, "epochs": 3}}) is None
    (clone / "train.py").write_text(f"{TRAIN}# changed\n")
    assert seeds.accuracy_of("fast-43", {"train": {"seed": 43, "epochs": 2}}) is None
    git(clone, "checkout", "--quiet", "train.py")


def test_a_recipe_that_was_left_in_the_workspace_is_not_trained_with(
    clone, command, monkeypatch, capsys
):
    """What a person wrote there is, again and again, also when an experiment has the same."""
    kept, notes = command
    once = [sys.executable, "-m", "tools.seeds", "--n", "1"]
    left = [sys.executable, "-m", "tools.recipe", "filled", "-S", "train.seed=43"]
    bare = kept | {"env": kept["env"] | {"PATH": os.defpath}}  # as without `activate`
    assert subprocess.run(left, **bare).returncode == 0

    done = subprocess.run(once, **kept)

    assert (done.returncode, done.stderr) == (
        0,
        "note: train.epochs, train.fill: as committed, not as recipe filled left it\n",
    )
    monkeypatch.chdir(clone)
    given = {"train": {"epochs": 2}, "fetch": {"dataset": "mnist"}}
    assert recipe.on_commit(given) == given | {"train": {"fill": None, "epochs": 2}}
    assert "note: train.seed: as in params.yaml, which" in capsys.readouterr().err
    (clone / "params.yaml").write_text("train:\n  seed: 42\n  epochs: 8\n  wait: 0\n  fill: 0.5\n")
    for found in (0, 1):
        again = subprocess.run(once, **kept)
        assert again.stdout.splitlines()[0] == f"default: {found} of 1 runs are there"
        assert (
            again.stderr
            == "note: train.epochs, train.fill: as in params.yaml, which is not as committed\n"
        )
    assert [line.split()[1] for line in notes.read_text().splitlines()] == ["9", "5", "8"]
    git(clone, "checkout", "--quiet", ".")
    git(clone, "clean", "--quiet", "-d", "--force")


def test_ctrl_c_ends_the_runs_and_starts_no_other(clone, command):
    kept, notes = command
    words = [sys.executable, "-m", "tools.seeds", "slow", "--n", "3", "--jobs", "2"]
    process = subprocess.Popen(words, **kept, start_new_session=True)
    while notes.read_text().count("\n") < 2:
        assert process.poll() is None
        time.sleep(0.1)

    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130
    assert err == "interrupted: what was not finished is not written\n"
    assert {line.split()[0] for line in notes.read_text().splitlines()} == {"42", "43"}
    assert "slow-44" not in out
    assert not any(
        each.info["cmdline"] == ["python", "train.py"] for each in psutil.process_iter(["cmdline"])
    )
    assert git(clone, "status", "--porcelain") == ""


def test_what_cannot_be_done_is_one_line(clone, refusal, monkeypatch):
    monkeypatch.chdir(clone)
    assert refusal(seeds.main, ["--n", "0"]) == "--n is 0; allowed: 1 to 1000"
    assert refusal(seeds.main, ["--jobs", "65"]) == "--jobs is 65; allowed: 1 to 64"
    assert "recipes/fats.yaml: is missing; choose one of fast" in refusal(seeds.main, ["fats"])
    (clone.parent / "müller").symlink_to(clone)
    monkeypatch.setattr(os, "getcwd", lambda: str(clone.parent / "müller"))
    assert "no folder with letters beyond ASCII" in refusal(seeds.main, ["slow", "--n", "1"])
    monkeypatch.undo()
    monkeypatch.chdir(clone.parent)
    assert "not in a Git repository" in refusal(seeds.main, ["--n", "1"])
