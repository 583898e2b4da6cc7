"""The verdict on two finished runs; `.ci/run` runs the whole tool on the real pipeline."""

import copy
import json
import subprocess
from pathlib import Path

import pytest
import yaml

from cnn.errors import UserError
from tools import verify

ALLOWED = {"accuracy": 0.0026, "log_loss": 0.0012, "agreement": 0.9952}
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
        write(folder, lock=LOCK, accuracy=0.993, log_loss=0.021, wrong=0, cpu="one")
    return folders


def write(folder: Path, *, lock=None, accuracy=None, log_loss=None, wrong=None, cpu=None):
    reports = folder / "reports"
    if lock is not None:
        (folder / "dvc.lock").write_text(yaml.safe_dump({"stages": lock}))
    if accuracy is not None:
        (reports / "evaluate/metrics.json").write_text(
            json.dumps({"accuracy": accuracy, "log_loss": log_loss})
        )
    if wrong is not None:
        rows = [f"{i},{i:016x},1,{7 if i < wrong else 1},0.9" for i in range(1000)]
        (reports / "predictions.csv").write_text(
            "\n".join(["index,image,actual,predicted,probability", *rows])
        )
    if cpu is not None:
        (reports / "train/environment.json").write_text(json.dumps({"cpu": cpu, "keras": "3"}))


def other_bytes() -> dict:
    lock = copy.deepcopy(LOCK)
    lock["train"]["outs"][0]["md5"] = "4" * 32
    return lock


def test_equal_outputs_stand(runs):
    stands, report = verify.verdict(*runs, ALLOWED)
    assert stands
    assert "all 2 outputs have the recorded bytes" in report
    assert report.count("same") == 2


def test_other_bytes_in_the_same_environment_fail(runs):
    write(runs[1], lock=other_bytes())
    stands, report = verify.verdict(*runs, ALLOWED)
    assert not stands
    assert "models/cnn.keras" in next(line for line in report.splitlines() if "DIFFERS" in line)


def test_other_bytes_on_another_cpu_stand_within_tolerance(runs):
    write(runs[1], lock=other_bytes(), accuracy=0.9925, log_loss=0.022, wrong=2, cpu="two")
    stands, report = verify.verdict(*runs, ALLOWED)
    assert stands
    assert "cpu: recorded one, here two" in report


@pytest.mark.parametrize(
    ("accuracy", "log_loss", "wrong", "quantity"),
    [
        (0.993 - ALLOWED["accuracy"] - 1e-4, 0.021, 0, "accuracy"),
        (0.993 + ALLOWED["accuracy"] + 1e-4, 0.021, 0, "accuracy"),
        (0.993, 0.021 + ALLOWED["log_loss"] + 1e-4, 0, "log_loss"),
        (0.993, 0.021, 1000 - round(1000 * ALLOWED["agreement"]) + 1, "images read alike"),
    ],
)
def test_each_bound_can_fail_on_another_cpu(runs, accuracy, log_loss, wrong, quantity):
    write(runs[1], lock=other_bytes(), accuracy=accuracy, log_loss=log_loss, wrong=wrong, cpu="two")
    stands, report = verify.verdict(*runs, ALLOWED)
    assert not stands
    refused = [line for line in report.splitlines() if line.endswith("NO")]
    assert len(refused) == 1
    assert quantity in refused[0]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda lock: lock["train"]["params"]["params.yaml"]["train"].update(seed=7),
         "train.seed: recorded 42, now 7"),
        (lambda lock: lock["train"]["deps"][1].update(md5="5" * 32),
         "stages/train.py (stage 'train') is not the one that was recorded"),
        (lambda lock: lock["train"].update(cmd="python -m other"), "command of stage 'train'"),
        (lambda lock: lock.pop("prepare"), "stage 'prepare' is in only one"),
    ],
)  # fmt: skip
def test_another_run_than_the_recorded_fails_even_on_another_cpu(runs, change, cause):
    lock = other_bytes()
    change(lock)
    write(runs[1], lock=lock, cpu="two")
    stands, report = verify.verdict(*runs, ALLOWED)
    assert not stands
    assert cause in report


def test_shards_are_a_cause_and_data_is_a_consequence():
    lock = copy.deepcopy(LOCK)
    lock["train"]["params"]["params.yaml"]["train"]["shards"] = 1
    lock["train"]["deps"][0]["md5"] = "6" * 32  # an output of prepare
    assert verify.causes(LOCK, lock) == ["train.shards: recorded 4, now 1"]


def test_a_clone_without_a_lock_is_refused(tmp_path):
    source = tmp_path / "source"
    subprocess.run(["git", "init", "--quiet", source], check=True)
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(
        ["git", "-C", source, *identity, "commit", "--quiet", "--allow-empty", "-m", "none"],
        check=True,
    )
    with pytest.raises(UserError, match=r"dvc\.lock is not committed"):
        verify.clone(source, tmp_path / "target")


def test_what_is_no_repository_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be cloned"):
        verify.clone(tmp_path, tmp_path / "target")


def test_the_bounds_are_twice_the_largest_measured_difference_with_the_same_seed():
    def row(seed, instruction_set, onednn, *results):
        values = (seed, instruction_set, onednn, *map(str, results))
        names = ("seed", "instruction_set", "onednn", "accuracy", "log_loss", "agreement")
        return dict(zip(names, values, strict=True))

    rows = [
        row("43", "AVX2", "on", 0.9, 0.2, 0.9),
        row("42", "SSE41", "on", 0.991, 0.0215, 0.998),
        row("42", "AVX2", "on", 0.992, 0.02, 1.0),
        row("42", "ALL", "off", 0.9935, 0.021, 0.999),
    ]

    assert verify.bounds(rows) == pytest.approx(
        {"accuracy": 0.003, "log_loss": 0.003, "agreement": 0.996}
    )


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
    for words in (
        ["git", "init", "--quiet"],
        ["git", "config", "user.name", "A"],
        ["git", "config", "user.email", "a@example.org"],
        ["dvc", "init", "--quiet"],
        ["dvc", "add", "--quiet", "data/raw/own.txt"],
        ["dvc", "repro", "--quiet"],
        ["git", "add", "."],
        ["git", "commit", "--quiet", "--message=all"],
    ):
        subprocess.run(words, cwd=root, env=verify.environment_for_clone(), check=True)

    verify.clone(root, tmp_path / "clone")
    verify.reproduce(tmp_path / "clone", root / ".dvc/cache")

    assert (tmp_path / "clone/out.txt").read_text() == "mine"
