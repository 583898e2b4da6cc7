"""Which workers run, and which cores are whose; tests/test_seeds.py starts real ones."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tools import queue_workers


@pytest.mark.parametrize(
    ("available", "jobs", "expected"),
    [
        ([0, 1], 1, [[0, 1]]),
        ([0, 1], 2, [[0], [1]]),
        ([2, 3, 5, 7, 8], 2, [[2, 3], [5, 7, 8]]),
        (list(range(16)), 3, [list(range(5)), list(range(5, 10)), list(range(10, 16))]),
    ],
)
def test_the_cores_are_parted(available, jobs, expected):
    assert queue_workers.parts(available, jobs) == expected


def test_a_worker_is_what_runs_as_one(tmp_path):
    """A number may be another process's by now."""
    queue = SimpleNamespace(wdir=str(tmp_path))
    assert queue_workers.running_workers(queue) == {}
    program = [sys.executable, "-c", "input()", "exp", "queue-worker", "x"]
    with subprocess.Popen(program, stdin=subprocess.PIPE) as process:
        for number, told in enumerate((process.pid, os.getpid(), 2**22 + 1, ""), 1):
            (tmp_path / f"dvc-exp-worker-{number}.pid").write_text(str(told))
        assert queue_workers.running_workers(queue) == {1: process.pid}
        process.communicate(b"\n")
    assert queue_workers.running_workers(queue) == {}


def test_workers_that_do_not_start(tmp_path, monkeypatch, refusal):
    monkeypatch.setattr(queue_workers, "PATIENCE", 0)
    monkeypatch.setattr(queue_workers.subprocess, "run", lambda *_, **__: None)
    message = refusal(queue_workers.start_workers, SimpleNamespace(wdir=str(tmp_path)), 1)
    assert message == "DVC's queue workers do not start; 'dvc queue start -v' says why"
