"""What is damaged is removed wherever the cache is; what is whole stays."""

import os

import pytest
from dvc.cli import main as dvc

from cnn.base.npz import write_arrays
from cnn.base.program import run
from tests.helpers.revisions import git
from tools import repair


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A DVC project whose cache lies elsewhere and is linked into the workspace."""
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    assert dvc(["init", "--quiet", "--no-scm"]) == 0
    assert dvc(["cache", "dir", "--quiet", str(tmp_path / "shared")]) == 0
    assert dvc(["config", "cache.type", "symlink"]) == 0
    (tmp_path / "project/dvc.yaml").write_text(
        "stages:\n  make:\n    cmd: cp ../made.npz made.npz\n    outs:\n    - made.npz\n"
    )
    write_arrays(tmp_path / "made.npz", images=[1, 2, 3])
    assert dvc(["repro", "--quiet"]) == 0
    return tmp_path / "project"


def damage(path) -> None:
    target = path.resolve()
    target.chmod(0o644)
    content = bytearray(target.read_bytes())
    content[len(content) // 2] ^= 1
    target.write_bytes(content)
    target.chmod(0o444)


def test_a_damaged_object_of_a_shared_cache_goes_and_comes_back_right(project, tmp_path, capsys):
    whole = (project / "made.npz").read_bytes()
    assert (project / "made.npz").is_symlink()
    damage(project / "made.npz")

    repair.main([])

    removed = capsys.readouterr().out
    assert "removed made.npz" in removed
    assert f"removed {tmp_path / 'shared'}" in removed
    assert dvc(["repro", "--quiet"]) == 0
    assert (project / "made.npz").read_bytes() == whole
    capsys.readouterr()
    repair.main([])
    assert capsys.readouterr().out == "nothing is damaged\n"


def test_a_file_that_was_changed_by_hand_and_is_whole_stays(project):
    os.unlink(project / "made.npz")
    write_arrays(project / "made.npz", images=[4])

    repair.main([])

    assert (project / "made.npz").is_file()


def test_a_list_of_locks_that_dvc_did_not_finish_goes(project, capsys):
    """DVC writes it in place; a kill at that moment leaves it empty, and DVC refuses to run."""
    (project / ".dvc/tmp/rwlock").write_text("")
    (project / "made.npz").unlink()
    assert dvc(["repro", "--quiet", "--force"]) != 0

    repair.main([])

    assert "removed .dvc/tmp/rwlock" in capsys.readouterr().out
    assert dvc(["repro", "--quiet", "--force"]) == 0


def test_outside_of_a_project_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(lambda: repair.main([])) == 1
    error = capsys.readouterr().err
    assert "run it where dvc.yaml is" in error
    assert error.count("\n") == 1


def test_own_data_is_named_though_its_commit_has_several_files_that_record_it(
    tmp_path, monkeypatch, capsys
):
    """With a blank in its name, tracked by a .dvc file and read by a stage, all in one commit."""
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "--quiet")
    assert dvc(["init", "--quiet"]) == 0
    (tmp_path / "my signs").mkdir()
    (tmp_path / "my signs/a.txt").write_text("a")
    assert dvc(["add", "--quiet", "my signs"]) == 0
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  make:\n    cmd: cp 'my signs/a.txt' out.txt\n    deps: [my signs]\n"
        "    outs: [out.txt]\n"
    )
    assert dvc(["repro", "--quiet"]) == 0
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message=all")
    commit = git(tmp_path, "log", "--format=%h")
    (listed,) = (tmp_path / ".dvc/cache/files/md5").glob("*/*.dir")
    damage(listed)
    capsys.readouterr()

    repair.main([])

    assert f"removed {listed}: my signs of commit {commit}\n" in capsys.readouterr().out
