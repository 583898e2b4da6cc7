"""The verdict on two finished runs; `.ci/run` runs the whole tool on the real pipeline."""

import copy
import json
from pathlib import Path

import pytest
import yaml

from cnn.base.errors import UserError
from tests.helpers import clones
from tests.helpers.revisions import git
from tools import verify

LOCK = {
    "train": {
        "cmd": "python -m stages.train",
        "deps": [
            {"path": "data/prepared/train.npz", "md5": "1" * 32},
            {"path": "stages/train.py", "md5": "2" * 32},
        ],
        "params": {"params.yaml": {"train": {"seed": 42, "shards": 4}}},
        "outs": [{"path": "models/cnn.keras", "md5": "3" * 32}],
    },
    "evaluate": {  # it names one key of another stage's section
        "cmd": "python -m stages.evaluate",
        "params": {"params.yaml": {"evaluate": {"samples": 10}, "train.engine": "exact"}},
    },
    "prepare": {
        "cmd": "python -m stages.prepare",
        "outs": [{"path": "data/prepared/train.npz", "md5": "1" * 32}],
    },
}


@pytest.fixture
def runs(tmp_path):
    """Two checkouts with equal results: (recorded, obtained)."""
    folders = tmp_path / "recorded", tmp_path / "obtained"
    for folder in folders:
        (folder / "reports/evaluate").mkdir(parents=True)
        (folder / "reports/train").mkdir()
        write(folder, lock=LOCK, accuracy=0.993, engine="exact")
    return folders


def write(folder: Path, *, lock=None, accuracy=None, engine=None, cpu="one"):
    reports = folder / "reports"
    if lock is not None:
        (folder / "dvc.lock").write_text(yaml.safe_dump({"stages": lock}))
    if accuracy is not None:
        (reports / "evaluate/metrics.json").write_text(
            json.dumps({"accuracy": accuracy, "accuracy_low": 0.99, "accuracy_high": 0.995})
        )
    if engine is not None:
        (reports / "train/environment.json").write_text(json.dumps({"engine": engine, "cpu": cpu}))


def other_bytes() -> dict:
    lock = copy.deepcopy(LOCK)
    lock["train"]["outs"][0]["md5"] = "4" * 32
    return lock


def test_equal_outputs_stand(runs):
    stands, report = verify.verdict(*runs)
    assert stands
    assert "all 2 outputs have the recorded bytes" in report
    assert report.count("same") == 2


def test_other_bytes_fail_whatever_the_machine(runs):
    write(runs[1], lock=other_bytes(), engine="exact", cpu="two")

    stands, report = verify.verdict(*runs)

    assert not stands
    assert "models/cnn.keras" in next(line for line in report.splitlines() if "DIFFERS" in line)
    assert "FAILED: outputs differ, which they may on no machine" in report
    assert "cpu: recorded one, here two" in report


@pytest.mark.parametrize(("accuracy", "stands"), [(0.991, True), (0.9899, False), (0.9951, False)])
def test_what_keras_trained_is_judged_by_the_recorded_interval(runs, accuracy, stands):
    write(runs[0], engine="keras")
    write(runs[1], lock=other_bytes(), accuracy=accuracy, engine="keras", cpu="two")

    found, report = verify.verdict(*runs)

    assert found == stands
    assert "cpu: recorded one, here two" in report
    assert ("NOT in its 95 % interval" in report) == (not stands)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda lock: lock["train"]["params"]["params.yaml"]["train"].update(seed=7),
         "train.seed: recorded 42, now 7"),
        (lambda lock: lock["evaluate"]["params"]["params.yaml"].update({"train.engine": "keras"}),
         "train.engine: recorded exact, now keras"),
        (lambda lock: lock["train"]["deps"][1].update(md5="5" * 32),
         "stages/train.py (stage 'train') is not the one that was recorded"),
        (lambda lock: lock["train"].update(cmd="python -m other"), "command of stage 'train'"),
        (lambda lock: lock.pop("prepare"), "stage 'prepare' is in only one"),
    ],
)  # fmt: skip
def test_another_run_than_the_recorded_fails_even_on_another_cpu(runs, change, cause):
    lock = other_bytes()
    change(lock)
    write(runs[0], engine="keras")
    write(runs[1], lock=lock, engine="keras", cpu="two")
    stands, report = verify.verdict(*runs)
    assert not stands
    assert cause in report


def test_shards_are_a_cause_and_data_is_a_consequence():
    lock = copy.deepcopy(LOCK)
    lock["train"]["params"]["params.yaml"]["train"]["shards"] = 1
    lock["train"]["deps"][0]["md5"] = "6" * 32  # an output of prepare
    assert verify.causes(LOCK, lock) == ["train.shards: recorded 4, now 1"]


def test_a_clone_without_a_lock_is_refused(tmp_path):
    git(tmp_path, "init", "--quiet", "source")
    git(tmp_path / "source", "commit", "--quiet", "--allow-empty", "--message=none")
    with pytest.raises(UserError, match=r"dvc\.lock is not committed"):
        verify.clone(tmp_path / "source", tmp_path / "target")
    with pytest.raises(UserError, match="not in a Git repository"):
        verify.clone(tmp_path, tmp_path / "another")
    (tmp_path / "target2/there").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot be cloned"):
        verify.clone(tmp_path / "source", tmp_path / "target2")


def test_ones_own_data_comes_from_the_cache_here(tmp_path):
    """`make verify` of a project that works on data in DVC's cache, with no remote."""
    root = tmp_path / "mine"
    (root / "data/raw").mkdir(parents=True)
    (root / "data/raw/own.txt").write_text("mine")
    (root / "params.yaml").write_text("prepare: {raw: data/raw/own.txt}\n")
    (root / "dvc.yaml").write_text(
        "stages:\n  copy:\n    cmd: cp ${prepare.raw} out.txt\n    deps: ['${prepare.raw}']\n"
        "    outs: [out.txt]\n"
    )
    (root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    git(tmp_path, "init", "--quiet")  # the project is a folder of a repository
    clones.dvc(root, "init", "--quiet", "--subdir")
    clones.dvc(root, "add", "--quiet", "data/raw/own.txt")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message=all")

    project = verify.clone(root, tmp_path / "clone")
    verify.reproduce(project, root / ".dvc/cache")

    assert (tmp_path / "clone/mine/out.txt").read_text() == "mine"
