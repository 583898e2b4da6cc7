"""`dvc repro` as chief and other workers beside it, with a train stage that only says who it is."""

import json
import socket
import subprocess
import sys

import pytest
import yaml

from tests.helpers import clones
from tests.helpers.clones import ROOT, commit, git
from tests.helpers.recorded import make_repository
from tools import workers

PIPELINE = """\
stages:
  prepare:
    cmd: python -c "open('prepared', 'w').write('1')"
    outs: [prepared]
  train:
    cmd: python train.py --model model ${train.shards}
    deps: [prepared, train.py]
    params: [train.seed]
    outs: [model]
"""
# Each waits for the others, as workers do, by a file of its own.
TRAIN = """\
import json, os, pathlib, sys, time
config = json.loads(os.environ["TF_CONFIG"])
index = config["task"]["index"]
assert pathlib.Path("prepared").read_text() == "1"
pathlib.Path(os.environ["NOTES"], str(index)).write_text(" ".join(sys.argv))
while len(os.listdir(os.environ["NOTES"])) < len(config["cluster"]["worker"]):
    time.sleep(0.02)
print("I am", index, flush=True)
if index == 0:
    pathlib.Path("model").write_text("trained")
sys.exit(3 if index == int(os.environ["FAILS"]) else 0)
"""


@pytest.fixture(scope="module")
def clone(params, tmp_path_factory):
    root = tmp_path_factory.mktemp("workers") / "clone"
    root.mkdir()
    make_repository(root)
    text = yaml.safe_dump(params)
    for name, content in {"dvc.yaml": PIPELINE, "train.py": TRAIN, "params.yaml": text}.items():
        (root / name).write_text(content)
    git(root, "config", "user.name", "test")
    git(root, "config", "user.email", "test@localhost")
    commit(root, "pipeline")
    return root


@pytest.fixture
def call(clone, tmp_path):
    def run(*words, fails=9, force=True):
        if force:
            (clone / "model").unlink(missing_ok=True)
            (clone / "dvc.lock").unlink(missing_ok=True)
            subprocess.run(["rm", "-rf", clone / ".dvc/cache"], check=True)
        more = {"PYTHONPATH": str(ROOT), "NOTES": str(tmp_path), "FAILS": str(fails)}
        return subprocess.run(
            [sys.executable, "-m", "tools.workers", *words],
            cwd=clone,
            env=clones.environment(clone) | more,
            capture_output=True,
            text=True,
        )

    return run


def test_each_runs_the_stages_own_command_and_the_chief_is_dvc_repro(call, clone, tmp_path):
    done = call("4")

    assert done.returncode == 0, done.stderr
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == dict.fromkeys(
        "0123", "train.py --model model 4"
    )
    assert sorted(done.stderr.splitlines()) == [f"worker {n}: I am {n}" for n in (1, 2, 3)]
    assert "I am 0" in done.stdout.splitlines()
    assert (clone / "model").read_text() == "trained"
    assert clones.dvc(clone, "status").startswith("Data and pipelines are up to date.")

    for file in tmp_path.iterdir():
        file.unlink()
    again = call("2", force=False)
    assert again.returncode == 0
    assert again.stdout.splitlines()[-1] == "the training was up to date: no worker was needed"


def test_a_worker_that_fails_fails_the_whole(call):
    assert call("2", fails=1).returncode == 1


@pytest.mark.parametrize(
    ("n", "problem"),
    [
        ("1", "N is 1; allowed: 2 or more, and 'dvc repro' trains on one"),
        ("3", "TF_CONFIG has 3 workers; train.shards 4 can be shared by 2 or 4; unset TF_CONFIG"),
        ("8", "TF_CONFIG has 8 workers; train.shards 4 can be shared by 2 or 4; unset TF_CONFIG"),
    ],
)
def test_a_number_that_cannot_share_the_shards_is_refused(n, problem, refusal, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert refusal(workers.main, [n]).startswith(problem)


def test_the_addresses_are_free_and_different():
    addresses = workers.free_addresses(8)

    assert len(set(addresses)) == 8
    for address in addresses:
        host, port = address.split(":")
        with socket.socket() as probe:
            probe.bind((host, int(port)))
    assert json.loads(workers.config(addresses, 5)) == {
        "cluster": {"worker": addresses},
        "task": {"type": "worker", "index": 5},
    }
