"""The set-up: by which client, with which settings, and after what went wrong half-way.

With one small package of its own in place of the locked ones.
"""

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests.helpers.clones import ROOT
from tools import environment

UV = Path(sys.executable).parent / "uv"
BASE = os.path.realpath(sys._base_executable)
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
FIRST, LAST = (int(n) for n in re.findall(r"3\.(\d+)", PYPROJECT.partition("requires")[2])[:2])
LAST -= 1


def wheel(folder: Path, name: str, **scripts: str) -> str:
    """Write a wheel of a module and scripts; return its line for a requirements file."""
    info = f"{name}-1.dist-info"
    files = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files |= {f"{name}-1.data/scripts/{script}": text for script, text in scripts.items()}
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = folder / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            entry = zipfile.ZipInfo(file)
            entry.external_attr = 0o100755 << 16  # a file that may be executed
            archive.writestr(entry, text)
    return f"{name}==1 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


VENV = """
import os, shutil, sys
made, here = os.environ["MADE"], sys.argv[-1]
shutil.rmtree(here, ignore_errors=True)
shutil.copytree(made, here, symlinks=True)
with open(f"{here}/bin/activate", "r+") as file:
    text = file.read().replace(made, os.path.abspath(here))
    file.seek(0)
    file.truncate()
    file.write(text)
if "HALF" in os.environ:
    shutil.rmtree(f"{here}/lib")
    sys.exit("ensurepip is not available")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An environment to copy, since `python -m venv` takes seconds, and a `venv` that copies it."""
    folder = tmp_path_factory.mktemp("made")
    subprocess.run([BASE, "-m", "venv", folder / ".venv"], check=True)
    (site,) = folder.glob(".venv/lib/python3.*/site-packages")
    site.rename(folder / "site")  # pip and its files: linked, not copied
    site.mkdir()
    for part in (folder / "site").glob("pip*"):
        (site / part.name).symlink_to(part)
    (folder / "venv.py").write_text(VENV)
    return folder


@pytest.fixture
def project(tmp_path, monkeypatch, made):
    """A project with one package, where pip brings uv."""
    folder = tmp_path / "project"
    links = tmp_path / "links"
    (folder / "tools").mkdir(parents=True)
    links.mkdir()
    for name in ("pyproject.toml", "tools/environment.py"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    (folder / "requirements.txt").write_text(wheel(links, "small"))
    brought = f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\nexec {UV} "$@"\n'
    (folder / "requirements-uv.txt").write_text(wheel(links, "uv", uv=brought))
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_", "VIRTUAL_ENV")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(made))
    monkeypatch.setenv("MADE", str(made / ".venv"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def own_uv(tmp_path, monkeypatch):
    """The user's own uv."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own/uv").symlink_to(UV)
    monkeypatch.setenv("PATH", f"{tmp_path / 'own'}:/usr/bin:/bin")


COMMAND = [BASE, "tools/environment.py", "requirements.txt", ".venv/run"]


def set_up() -> subprocess.CompletedProcess:
    return subprocess.run(COMMAND, capture_output=True, text=True)


def works(folder: Path) -> bool:
    return not subprocess.run([folder / ".venv/bin/python", "-c", "import small"]).returncode


def calls(folder: Path) -> list[str]:
    log = folder.parent / "calls"
    return log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("global.index-url='https://a/simple'", {"UV_DEFAULT_INDEX": "https://a/simple"}),
        ("global.extra-index-url='https://a https://b'", {"UV_INDEX": "https://a https://b"}),
        (r"global.extra-index-url='\nhttps://a\nhttps://b'", {"UV_INDEX": "https://a https://b"}),
        ("global.find-links='/a /b'", {"UV_FIND_LINKS": "/a,/b"}),
        ("global.find-links='/a'\n:env:.find-links='/b'", {"UV_FIND_LINKS": "/b"}),
        ("install.find-links='/b'\nglobal.find-links='/a'", {"UV_FIND_LINKS": "/b"}),
        ("wheel.find-links='/a'", {}),
        ("global.find-links=''", {}),
        ("global.trusted-host='a b:8'", {"UV_INSECURE_HOST": "a b:8"}),
        ("global.cert='~/ca.pem'", {"SSL_CERT_FILE": "/home/me/ca.pem"}),
        ("global.client-cert='/c.pem'", {"SSL_CLIENT_CERT": "/c.pem"}),
        ("global.proxy='http://p:3'", {"HTTP_PROXY": "http://p:3", "HTTPS_PROXY": "http://p:3"}),
        ("global.timeout='60'", {"UV_HTTP_TIMEOUT": "60"}),
        ("install.constraint='/a.txt /b.txt'", {"UV_CONSTRAINT": "/a.txt /b.txt"}),
        (":env:.no-cache-dir='1'", {"UV_CACHE_DIR": ".venv/cache"}),
    ],
)
def test_uv_gets_what_pip_is_set_to(listed, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    done = subprocess.CompletedProcess([], 0, stdout=listed.encode())
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: done)

    variables = environment.for_uv(environment.pip_settings(), {})

    assert variables.pop("UV_INDEX_STRATEGY") == "unsafe-best-match"
    assert variables == expected


def test_what_the_user_has_set_for_uv_wins():
    own = {"UV_INDEX": "https://mine", "CURL_CA_BUNDLE": "/ca.pem", "LANG": "C"}

    variables = environment.for_uv({"extra-index-url": "https://pip"}, own)

    assert own.items() <= variables.items()
    assert variables["SSL_CERT_FILE"] == "/ca.pem"


@pytest.mark.parametrize(
    ("version", "said"),
    [((3, FIRST - 1, 9), "too old"), ((3, LAST + 1, 0), "too new"), ((2, 7, 18), "too old")],
)
def test_a_python_that_is_not_supported_is_refused_before_anything(
    version, said, project, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "version_info", version)

    assert environment.main("requirements.txt", Path(".venv/run")) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    number = ".".join(map(str, version))
    assert f"Python {number} is {said}, it must be 3.{FIRST} to 3.{LAST}" in error
    assert not (project / ".venv").exists()


def test_the_supported_pythons_are_the_same_everywhere():
    assert f"Python 3.{FIRST} to 3.{LAST}" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"--python-version 3.{FIRST} " in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_which_folders_are_refused():
    version = (3, FIRST, 0)

    assert environment.refusal(version, "/tmp/müller & söhne's (1)", PYPROJECT) == ""
    for character in ':\n$`"':
        assert repr(character) in environment.refusal(version, f"/a{character}b", PYPROJECT)


def test_pip_brings_uv_which_is_tried_before_it_installs_by_hash(project):
    done = set_up()

    assert done.returncode == 0, done.stderr
    assert works(project)
    trial, installation = calls(project)
    assert "--dry-run" in trial
    assert "--require-hashes --compile-bytecode" in installation
    assert list(project.glob(".venv/lib/*/site-packages/__pycache__/small.*.pyc"))
    assert not (project / ".venv/cache").exists()
    # Nothing is done twice, and what another file wants is added.
    before = (project / ".venv/run").stat().st_mtime_ns
    assert set_up().returncode == 0
    more = [".venv/bin/python", *COMMAND[1:-1], ".venv/development"]
    assert subprocess.run(more, check=True)
    assert (project / ".venv/run").stat().st_mtime_ns == before
    assert len(calls(project)) == 4
    assert (project / ".venv/development").exists()


def test_the_users_own_uv_is_taken_and_a_constraint_need_not_be_pinned(
    project, own_uv, monkeypatch, tmp_path
):
    (tmp_path / "constraints.txt").write_text("small<2\nother<3\n")
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "constraints.txt"))

    assert set_up().returncode == 0
    assert works(project)
    assert calls(project) == []
    assert not (project / ".venv/bin/uv").exists()


@pytest.mark.parametrize("missing", [True, False])
def test_pip_installs_where_uv_cannot_and_one_line_says_so(project, missing):
    """Whether uv is not to be had, or does not reach the packages."""
    text = (
        "uv==2 --hash=sha256:" + "0" * 64
        if missing
        else wheel(project.parent / "links", "uv", uv="#!/bin/sh\necho no route >&2\nexit 2\n")
    )
    (project / "requirements-uv.txt").write_text(text)

    done = set_up()

    assert done.returncode == 0, done.stderr
    assert works(project)
    (line,) = [line for line in done.stdout.splitlines() if "uv cannot" in line]
    assert ("No matching distribution found for uv==2" if missing else "(no route)") in line


def test_another_hash_is_refused(project, own_uv):
    locked = project / "requirements.txt"
    locked.write_text(re.sub("sha256:.*", "sha256:" + "0" * 64, locked.read_text()))

    done = set_up()

    assert done.returncode == 1
    assert "Hash mismatch for `small==1`" in done.stderr
    assert "uv cannot" not in done.stdout
    assert not (project / ".venv/run").exists()


def test_what_is_left_half_made_is_made_again(project, own_uv, monkeypatch):
    """Debian without python3-venv leaves an environment without pip."""
    monkeypatch.setenv("HALF", "1")
    failed = set_up()
    assert failed.returncode == 1
    assert failed.stderr == "ensurepip is not available\n"
    assert (project / ".venv/bin/python").exists()
    monkeypatch.delenv("HALF")

    assert set_up().returncode == 0
    assert works(project)


@pytest.mark.parametrize("behind", ["/usr/bin/removed", "/bin/sh"])
def test_an_environment_of_another_python_is_made_again(behind, project, own_uv):
    assert set_up().returncode == 0
    link = project / ".venv/bin/python"
    link.unlink()
    link.symlink_to(behind)
    (project / ".venv/mark").touch()

    assert set_up().returncode == 0
    assert works(project)
    assert not (project / ".venv/mark").exists()


@pytest.mark.parametrize("moment", ["bin/python", "partial", "bin/uv"])
def test_after_a_ctrl_c_the_next_call_gives_a_whole_one(project, moment):
    process = subprocess.Popen(COMMAND, stderr=subprocess.PIPE, start_new_session=True, text=True)
    while not (project / ".venv" / moment).exists():
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate()

    assert process.returncode == 130
    assert error.endswith("interrupted: the same command starts again\n")
    assert not (project / ".venv/run").exists()
    assert set_up().returncode == 0
    assert works(project)


def test_an_activated_environment_has_a_cache_of_the_projects_own(project, own_uv, monkeypatch):
    monkeypatch.delenv("DVC_SITE_CACHE_DIR", raising=False)
    assert set_up().returncode == 0

    def shown(before: str) -> str:
        command = f"{before}. .venv/bin/activate; sh -c 'echo \"$DVC_SITE_CACHE_DIR\"'"
        return subprocess.run(["sh", "-c", command], capture_output=True, text=True).stdout.strip()

    assert shown("") == str(project / ".dvc/tmp/site")
    assert shown("export DVC_SITE_CACHE_DIR=/mine; ") == "/mine"


def test_it_imports_nothing_that_is_not_there_yet():
    source = Path(environment.__file__).read_text(encoding="utf-8")
    imported = {
        line.split()[1].partition(".")[0]
        for line in source.splitlines()
        if line.startswith(("import ", "from "))
    }

    assert imported <= sys.stdlib_module_names


def test_a_program_that_is_started_by_its_path_finds_the_project(project, own_uv):
    assert set_up().returncode == 0
    for name in ("cnn/__init__.py", "tools/predict.py"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text("import cnn; print(cnn.__file__)" if "predict" in name else "")

    python, program = project / ".venv/bin/python", project / "tools/predict.py"
    done = subprocess.run([python, program], cwd="/", capture_output=True, text=True)

    assert done.stdout == f"{project}/cnn/__init__.py\n"
