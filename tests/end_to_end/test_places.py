"""Where a project can lie in Git, or without it: the tools read it, or say in one line why not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.clones import attempt, commit, dvc, git, run
from tools import verify


@pytest.fixture(scope="module")
def clone(clone):
    """One whose user has a name."""
    git(clone, "config", "--global", "user.name", "User")
    git(clone, "config", "--global", "user.email", "user@example.org")
    return clone


def folder(clone: Path, top: Path) -> Path:
    project = top / "mono/project"
    project.mkdir(parents=True)
    for name in git(clone, "ls-files").splitlines():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(clone / name, project / name)
    run(clone, "git", "init", "--quiet", str(top / "mono"))
    commit(top / "mono", "all")
    return project


def submodule(clone: Path, top: Path) -> Path:
    run(clone, "git", "init", "--quiet", str(top / "outer"))
    local = ("-c", "protocol.file.allow=always")
    git(top / "outer", *local, "submodule", "add", "--quiet", str(clone), "project")
    return top / "outer/project"


def worktree(clone: Path, top: Path) -> Path:
    git(clone, "worktree", "add", "--quiet", str(top / "tree"))
    return top / "tree"


def shallow(clone: Path, top: Path) -> Path:
    git(clone, "clone", "--quiet", "--depth=1", f"file://{clone}", str(top / "shallow"))
    return top / "shallow"


@pytest.mark.parametrize("place", [folder, submodule, worktree, shallow])
def test_what_is_committed_is_compared_and_cloned(clone, tmp_path, monkeypatch, place):
    (tmp_path / "home").symlink_to(clone.parent / "home")
    (tmp_path / place.__name__).mkdir()
    project = place(clone, tmp_path)

    compared = run(project, sys.executable, "-m", "tools.compare", "HEAD", "workspace")
    again = verify.clone(project, tmp_path / "again")

    assert "A and B read all 200 images alike" in compared
    assert (again / "dvc.lock").read_bytes() == (clone / "dvc.lock").read_bytes()
    assert "train" in dvc(project, "status")  # nothing is in its cache


def test_an_archive_goes_without_git(clone, tmp_path):
    project = tmp_path / "unpacked"
    project.mkdir()
    git(clone, "archive", f"--output={tmp_path / 'archive.tar'}", "HEAD")
    subprocess.run(["tar", "xf", tmp_path / "archive.tar", "-C", project], check=True)
    shutil.copytree(clone / ".dvc/cache", project / ".dvc/cache", symlinks=True)

    dvc(project, "checkout")

    assert "up to date" in dvc(project, "repro")
    for tool in ("compare", "verify", "seeds", "recipe"):
        words = {"compare": ("HEAD", "HEAD"), "recipe": ("fast",)}.get(tool, ())
        done = attempt(project, sys.executable, "-m", f"tools.{tool}", *words)
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {project}: not in a Git repository")
        assert done.stderr.count("\n") == 1
