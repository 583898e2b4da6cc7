"""A real DVC queue runs a pipeline of one stage, which notes on which cores it was."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from cnn.runtime import cores
from tests import clones
from tests.clones import ROOT, commit, git
from tests.recorded import make_repository
from tools import seeds
from tools.queue_workers import running_workers

PIPELINE = """\
stages:
  train:
    cmd: python train.py
    deps:
    - train.py
    params:
    - train
    metrics:
    - reports/evaluate/metrics.json:
        cache: false
"""
TRAIN = """\
import json, os, pathlib, time
from cnn.params import read_yaml

params = read_yaml("params.yaml")["train"]
seed = params["seed"]
with open(os.environ["NOTES"], "a") as notes:
    notes.write(json.dumps([seed, sorted(os.sched_getaffinity(0))]) + "\\n")
while seed == 99 and not pathlib.Path(os.environ["NOTES"]).with_name("go").exists():
    time.sleep(0.1)
time.sleep(0.5)
assert seed != 44, "no luck with 44"
path = pathlib.Path("reports/evaluate/metrics.json")
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(json.dumps({"accuracy": (900 + seed) / 1000, "epochs": params["epochs"]}))
"""
JOBS = min(2, cores())


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
        "README.md": "one\n",
    }.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    git(root, "config", "user.name", "test")
    git(root, "config", "user.email", "test@localhost")
    commit(root, "pipeline")
    (root.parent / "notes").touch()
    yield root
    clones.dvc(root, "queue", "stop", "--kill")


def environment(clone):
    return clones.environment(clone) | {
        "PYTHONPATH": str(ROOT),
        "NOTES": str(clone.parent / "notes"),
    }


def train(clone, *words):
    """Run the tool; return exit code, standard output and standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "tools.seeds", *words],
        cwd=clone, env=environment(clone), capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines(), done.stderr


def accuracies(clone) -> dict[str, float]:
    """Return {name: accuracy} of the experiments that the clone has."""
    names = git(clone, "for-each-ref", "--format=%(refname)", "refs/exps").split()
    names = [name for name in names if name.count("/") == 4 and "/celery/" not in name]
    return {
        name.rpartition("/")[2]: json.loads(git(clone, "show", f"{name}:{seeds.METRICS}"))[
            "accuracy"
        ]
        for name in names
    }


def test_seeds_are_trained_side_by_side_and_kept(clone):
    code, lines, errors = train(clone, "fast", "--n", "3", "--jobs", str(JOBS))

    assert (code, errors) == (1, "")
    assert lines[0] == f"fast: 0 of 3 runs are there, 3 to train, {JOBS} at a time"
    ended = {line.split(":")[0]: line for line in lines[1:4]}
    rest = r"\d of 3, (about \d+ s left|the rest soon|the last)"
    assert re.fullmatch(rf"fast-42: 94\.20%, {rest}", ended["fast-42"])
    assert re.fullmatch(rf"fast-43: 94\.30%, {rest}", ended["fast-43"])
    why = "'dvc queue logs fast-44' says why"
    assert re.fullmatch(rf"fast-44: failed, {rest}; {why}", ended["fast-44"])
    # 94.2 and 94.3: 0.05 either way, sqrt(2 · 0.05²) = 0.0707.
    assert lines[4] == "fast: accuracy 94.250% ± 0.071%, mean ± standard deviation"
    assert "no luck with 44" in clones.dvc(clone, "queue", "logs", "fast-44")
    assert accuracies(clone) == {"fast-42": 0.942, "fast-43": 0.943}
    notes = [json.loads(line) for line in (clone.parent / "notes").read_text().splitlines()]
    given = {tuple(own) for _, own in notes}
    assert sorted(core for own in given for core in own) == sorted(os.sched_getaffinity(0))
    assert len(given) == JOBS
    assert git(clone, "status", "--porcelain") == ""

    (clone / "README.md").write_text("two\n")  # changes no run
    again, lines, _ = train(clone, "fast", "--n", "2")

    assert again == 0
    assert lines[0] == "fast: 2 of 2 runs are there"
    assert len((clone.parent / "notes").read_text().splitlines()) == 3
    git(clone, "checkout", "--quiet", ".")


def test_another_run_of_that_name_is_replaced_by_the_bytes_of_a_single_one(clone):
    settings = ["-S", "train.epochs=3"]
    code, lines, _ = train(clone, "fast", "--n", "1", *settings)
    assert (code, lines[0]) == (0, "fast: 0 of 1 runs are there, 1 to train, 1 at a time")

    single = ["dvc", "exp", "run", "--temp", "--name", "single", *settings]
    subprocess.run(single, cwd=clone, env=environment(clone), check=True, capture_output=True)

    trees = git(clone, "for-each-ref", "--format=%(refname) %(tree)", "refs/exps").splitlines()
    by_name = dict(line.rpartition("/")[2].split() for line in trees)
    assert by_name["fast-42"] == by_name["single"]


def test_a_run_outlives_ctrl_c_and_one_whose_worker_was_killed_is_taken_up_again(clone):
    words = ["--n", "1", "--first", "99", "--name", "slow"]
    with subprocess.Popen(
        [sys.executable, "-m", "tools.seeds", *words], cwd=clone, env=environment(clone),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "slow: 0 of 1 runs are there, 1 to train, 1 at a time\n"
        notes = clone.parent / "notes"
        deadline = time.monotonic() + 60
        while "[99, " not in notes.read_text() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        asked = time.monotonic()
        output, errors = process.communicate(timeout=20)
        assert time.monotonic() - asked < 3
    assert (process.returncode, output, errors) == (130, "", f"{seeds.GOING_ON}\n")

    code, _, errors = train(clone, *words, "-S", "train.epochs=3")
    assert code == 1
    assert errors.startswith("error: 'slow-99' is running with other code or parameters; ")

    folder = clone / ".dvc/tmp/exps/celery"
    for process_id in running_workers(SimpleNamespace(wdir=str(folder))).values():
        os.kill(process_id, signal.SIGKILL)
    (clone.parent / "go").touch()
    code, lines, errors = train(clone, *words)
    assert (code, errors) == (0, "")
    assert lines == [
        "slow: 0 of 1 runs are there, 1 to train, 1 at a time",
        "slow-99: 99.90%, 1 of 1, the last",
    ]


def test_what_cannot_be_done_is_one_line(clone, refusal, monkeypatch):
    monkeypatch.chdir(clone)
    assert refusal(seeds.main, ["--n", "0"]) == "--n is 0; allowed: 1 to 1000"
    assert "--first is -1; allowed: 0 to " in refusal(seeds.main, ["--first", "-1"])
    assert f"--jobs is 999; allowed: 1 to {cores()}" in refusal(seeds.main, ["--jobs", "999"])
    assert "recipes/fats.yaml: is missing; choose one of fast" in refusal(seeds.main, ["fats"])
    message = refusal(seeds.main, ["--n", "1", "-S", "train.epoch=3"])
    assert "epoch" in message
    monkeypatch.chdir(clone.parent)
    assert "not inside of a DVC repository" in refusal(seeds.main, ["--n", "1"])


@pytest.mark.parametrize(
    ("elapsed", "done", "total", "jobs", "expected"),
    [
        (10, 1, 10, 1, "about 90 s left"),
        (10, 1, 10, 2, "about 40 s left"),  # five rounds of two, of which one is nearly over
        (10, 2, 10, 2, "about 40 s left"),
        (60, 4, 10, 2, "about 90 s left"),
        (600, 4, 10, 2, "about 15 min left"),
        (50, 9, 10, 2, "the rest soon"),
        (50, 10, 10, 2, "the last"),
    ],
)
def test_the_time_left_is_counted_in_rounds(elapsed, done, total, jobs, expected):
    assert seeds.time_left(elapsed, done, total, jobs) == expected
