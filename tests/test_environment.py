"""What is said while packages install, by pip's own words."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.clones import ROOT
from tools import environment

PIP = """\
#!/bin/sh
cat <<END
Collecting tensorflow==2.21.0 (from -r requirements.txt (line 9))
  Downloading tensorflow-2.21.0-cp311-cp311-manylinux_2_27_x86_64.whl.metadata (4 kB)
  Downloading tensorflow-2.21.0-cp311-cp311-manylinux_2_27_x86_64.whl (620.8 MB)
Collecting idna==3.11 (from -r requirements.txt (line 8))
  Using cached idna-3.11-py3-none-any.whl (71 kB)
Installing collected packages: idna, tensorflow
END
"""
LOCKED = (
    "tensorflow==2.21.0 \\\n    --hash=sha256:0\nidna==3.11\nwin-only==1 ; sys_platform == 'x'\n"
)


@pytest.mark.parametrize("terminal", [True, False])
def test_each_package_that_was_fetched_is_counted(tmp_path, monkeypatch, capfd, terminal):
    (tmp_path / "python").write_text(PIP)
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "requirements.txt").write_text(LOCKED)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(environment, "EVERY", 2)

    assert environment.install_with_pip(str(tmp_path / "requirements.txt"), terminal) == 0

    lines = capfd.readouterr().out.replace("\r\x1b[K", "" if not terminal else "\n").split("\n")
    first = ["  1 of at most 3 packages: tensorflow (620.8 MB)"] if terminal else []
    assert list(filter(None, lines)) == [
        *first,
        "  2 of at most 3 packages: idna (71 kB)",
        "  unpacking them, which takes about a minute",
    ]


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
    (tmp_path / "requirements.txt").write_text(f"not-there==1 --hash=sha256:{'0' * 64}\n")
    done = subprocess.run(
        [sys.executable, ROOT / "tools/environment.py", "requirements.txt"],
        cwd=tmp_path,
        env=os.environ | {"PATH": "/usr/bin:/bin", "PIP_NO_INDEX": "1"},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 1
    assert done.stdout.startswith("installing requirements.txt into ")
    assert done.stderr.startswith("ERROR: Could not find a version that satisfies the requirement ")


def test_it_imports_nothing_that_is_not_there_yet():
    source = Path(environment.__file__).read_text(encoding="utf-8")
    imported = {
        line.split()[1].partition(".")[0]
        for line in source.splitlines()
        if line.startswith(("import ", "from "))
    }

    assert imported <= sys.stdlib_module_names
