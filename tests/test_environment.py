"""What is said while packages install, by pip's own words."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clones import ROOT
from tools import environment

LOG = """\
Collecting tensorflow==2.21.0 (from -r requirements.txt (line 9))
  Downloading tensorflow-2.21.0-cp311-cp311-manylinux_2_27_x86_64.whl (620.8 MB)
Collecting six==1.17.0 (from -r requirements.txt (line 7))
  Downloading six-1.17.0-py2.py3-none-any.whl (11 kB)
Collecting idna==3.11 (from -r requirements.txt (line 8))
  Using cached idna-3.11-py3-none-any.whl (71 kB)
"""


def test_what_was_fetched_is_counted_and_what_came_from_the_cache_is_not():
    assert environment.megabytes(LOG) == pytest.approx(620.811)
    assert environment.report(LOG, 133, 2, 31.4) == (
        "3 of at most 133 packages fetched (621 MB), 2 unpacked, 31 s"
    )


def test_each_package_of_the_lock_file_is_counted():
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")

    assert len(environment.LOCKED.findall(text)) == text.count("==") - text.count(" == ")


def test_only_a_uv_of_the_users_own_is_taken(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "BIN", tmp_path)
    for folder in (tmp_path, other := tmp_path / "other"):
        folder.mkdir(exist_ok=True)
        (folder / "uv").touch(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.uv() is None
    monkeypatch.setenv("PATH", str(other))
    assert environment.uv() == str(other / "uv")


def test_what_pip_refuses_is_said_and_ends_with_its_exit_code(tmp_path):
    """In an environment of its own; the package is refused before anything is looked up."""
    shutil.copy(ROOT / "tools" / "environment.py", tmp_path)
    (tmp_path / "requirements.txt").write_text("six==1.17.0 --hash=sha256:" + "0" * 64 + "\n")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    done = subprocess.run(
        [tmp_path / "venv/bin/python", "environment.py", "requirements.txt"],
        cwd=tmp_path,
        env=os.environ | {"PATH": "/usr/bin:/bin", "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    first, *_ = done.stdout.splitlines()
    assert first == "installing requirements.txt into venv ..."
    assert done.stderr.startswith("ERROR: Could not find a version that satisfies the requirement ")


def test_it_imports_nothing_that_is_not_there_yet():
    source = Path(environment.__file__).read_text(encoding="utf-8")
    imported = {
        line.split()[1].partition(".")[0]
        for line in source.splitlines()
        if line.startswith(("import ", "from "))
    }

    assert imported <= sys.stdlib_module_names
