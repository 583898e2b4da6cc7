"""What it cannot push is one line; what it pushed, tests of remotes and the pipeline take."""

import pytest
from dvc.cli import main as dvc

from tools import push_runs


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A DVC project in which one stage ran, with a file that DVC does not keep."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    assert dvc(["init", "--quiet", "--no-scm"]) == 0
    (tmp_path / "project/dvc.yaml").write_text(
        "stages:\n  make:\n    cmd: cp read made && echo 1 > score.json\n    deps: [read]\n"
        "    outs: [made]\n    metrics: [score.json: {cache: false}]\n"
    )
    (tmp_path / "project/read").write_text("read")
    assert dvc(["repro", "--quiet"]) == 0
    return tmp_path / "project"


def test_all_that_came_of_a_run_is_pushed_once(project, tmp_path, capsys):
    assert dvc(["remote", "add", "--quiet", "storage", str(tmp_path / "storage")]) == 0

    push_runs.main(["storage"])
    push_runs.main(["storage"])

    assert capsys.readouterr().out == "1 runs and 2 files pushed\n1 runs and 0 files pushed\n"
    objects = (tmp_path / "storage" / "files").rglob("*")
    assert {path.read_text() for path in objects if path.is_file()} == {"read", "1\n"}


def test_without_a_remote_and_outside_of_a_project(project, tmp_path, monkeypatch, refusal):
    assert "dvc remote add" in refusal(push_runs.main, [])
    assert "nowhere" in refusal(push_runs.main, ["nowhere"])
    monkeypatch.chdir(tmp_path)
    assert "not inside of a DVC repository" in refusal(push_runs.main, [])


def test_a_remote_that_takes_nothing_is_one_line(project, tmp_path, refusal, caplog):
    (tmp_path / "file").write_text("no folder")
    assert dvc(["remote", "add", "--quiet", "storage", str(tmp_path / "file")]) == 0

    assert "Not a directory" in refusal(push_runs.main, ["storage"])
    assert not caplog.records
