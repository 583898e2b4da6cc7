"""Surroundings are what their names say, and a run in them is held against dvc.lock."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import surroundings
from benchmarks.surroundings import SURROUNDINGS, Surroundings
from tests.clones import ROOT

LOCK = """stages:
  train:
    outs:
    - path: models/cnn.keras
      md5: {}
"""


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder with what is cloned, and beside Git the data, as the working folder."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "dvc.lock").write_text(LOCK.format("1" * 32))
    (project / "params.yaml").write_text("fetch: {dataset: mnist}\n")
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=all"]):
        subprocess.run(["git", *identity, *words], cwd=project, check=True)
    (project / surroundings.RAW.parent).mkdir(parents=True)
    (project / surroundings.RAW).write_text("data")
    monkeypatch.chdir(project)
    return project


@pytest.fixture
def only(monkeypatch):
    """Put one of one's own in place of all surroundings."""

    def put(*given: str, **variables: str) -> None:
        monkeypatch.setattr(
            surroundings, "SURROUNDINGS", {"mine": Surroundings(given[0], variables, *given[1:])}
        )

    return put


def python_there(name: str, tmp_path: Path, code: str) -> str:
    """Return what Python prints in the surroundings of a name."""
    surroundings.prepare(tmp_path)
    (tmp_path / "clone").mkdir()
    variables = SURROUNDINGS[name].variables
    paths = f"{variables.get('PYTHONPATH', '')}:{ROOT}"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "clone",
        env=surroundings.environment_for_clone() | variables | {"PYTHONPATH": paths},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def test_a_run_with_the_recorded_outputs_is_a_success(project, only, capsys):
    only('cat "$MNIST_DIR/mnist.npz" && test -f dvc.lock && test "$WORD" = yes', WORD="yes")
    assert surroundings.main([]) == 0
    assert capsys.readouterr().out.split(maxsplit=1) == ["mine", "1 of 1 outputs the same\n"]


def test_another_byte_fails(project, only, capsys):
    only(f"sed -i s/{'1' * 32}/{'2' * 32}/ dvc.lock")
    assert surroundings.main([]) == 1
    assert "0 of 1 outputs the same" in capsys.readouterr().out


def test_a_run_that_fails_says_why_though_the_record_is_as_it_was(project, only, capsys):
    only("echo no room >&2; exit 7")
    assert surroundings.main([]) == 1
    assert "exit code 7: no room" in capsys.readouterr().out


def test_what_is_not_to_be_had_is_said_and_is_no_failure(project, only, capsys):
    only("exit 1", "python9.99 -V")
    assert surroundings.main([]) == 0
    assert capsys.readouterr().out.split(maxsplit=1) == ["mine", "not here: python9.99 -V\n"]


def test_a_word_that_no_name_holds_runs_nothing(project, only, capsys):
    only("exit 1")
    assert surroundings.main(["--only", "other"]) == 0
    assert not capsys.readouterr().out


def test_without_the_data_nothing_is_run(tmp_path, monkeypatch, refusal):
    monkeypatch.chdir(tmp_path)
    message = refusal(surroundings.main, [])
    assert message == "data/raw/published.npz: is missing; run 'dvc repro fetch'"


def test_a_python_is_told_of_64_cores(tmp_path):
    code = "from cnn.runtime import cores; print(cores())"
    assert python_there("told of 64 cores", tmp_path, code) == "64"


def test_numpy_and_openblas_leave_what_is_new_aside(tmp_path):
    code = (
        "import numpy, threadpoolctl\n"
        "from numpy._core._multiarray_umath import __cpu_features__ as has\n"
        "print(has['X86_V2'], has['X86_V3'], threadpoolctl.threadpool_info()[0]['architecture'])"
    )
    told = python_there("oldest kernels of numpy and OpenBLAS", tmp_path, code)
    assert told == "True False Katmai"  # OpenBLAS' name for all that has SSE only
