"""A browser is found or installed; without a way to one, a line says what to install."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnn.base.program import run
from tools import browser


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine without a browser and without a way to one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(browser, "APPLICATIONS", ())
    monkeypatch.setattr(browser, "playwright_path", lambda: str(tmp_path / "own" / "chrome"))
    monkeypatch.setattr(browser, "driver_problem", lambda: "")
    monkeypatch.setattr(browser, "ways", lambda: iter([]))
    return tmp_path


def program(path: Path, code: int = 0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("name", ["chromium", "google-chrome", "microsoft-edge"])
def test_a_browser_on_path_is_taken(bare, name, capsys):
    path = program(bare / name)
    assert run(lambda: browser.main(["--install"])) == 0
    assert capsys.readouterr().out == f"{path}\n"


def test_one_that_does_not_start_is_passed_over(bare):
    program(bare / "chromium", code=127)  # a library is missing
    own = program(bare / "own" / "chrome")
    assert browser.find() == own


def test_the_first_way_that_gives_one_is_taken_and_said(bare, monkeypatch, capsys):
    script = f"printf '#!/bin/sh\\n' > {bare}/chromium; /bin/chmod +x {bare}/chromium"
    ways = [
        ("a download", [["/bin/sh", "-c", "echo Error: no network >&2; exit 1"]]),
        ("a package", [["/bin/sh", "-c", "true"], ["/bin/sh", "-c", script]]),
        ("a third", [["/bin/sh", "-c", "echo never"]]),
    ]
    monkeypatch.setattr(browser, "ways", lambda: iter(ways))
    assert run(lambda: browser.main(["--install"])) == 0
    out, err = capsys.readouterr()
    assert out == f"{bare}/chromium\n"
    assert err.splitlines() == [
        "no browser to drive; trying a download ...",
        "  failed: Error: no network",
        "no browser to drive; trying a package ...",
    ]


def test_without_a_way_one_line_says_what_to_install(bare, capsys):
    assert run(lambda: browser.main(["--install"])) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: the tests need a browser")
    assert "install Chromium, Chrome or Edge" in err
    assert err.count("\n") == 1


def test_a_driver_that_does_not_start_is_one_line(tmp_path, monkeypatch, capsys):
    """As on a Debian 12 with nothing but Python on it."""
    assert browser.driver_problem() == ""
    said = "/a/driver/node: error while loading shared libraries: libatomic.so.1: cannot open"
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{said}' >&2\necho Traceback >&2\nexit 127\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(browser, "ways", lambda: iter([("a package", [["/bin/true"]])]))
    chromium = program(tmp_path / "chromium")

    assert browser.playwright_path() is None
    assert run(lambda: browser.main([])) == 0
    assert capsys.readouterr().out == f"{chromium}\n"
    assert run(lambda: browser.main(["--install"])) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("no browser to drive; trying a package ...\nerror: Playwright")
    assert err.count("\n") == 2
    assert "does not start: node: error while loading shared libraries: libatomic.so.1" in err
    assert "apt-get install libatomic1" in err


@pytest.mark.parametrize(("user", "prefix"), [(0, []), (1000, ["sudo", "--non-interactive"])])
def test_the_package_is_installed_as_root_or_with_sudo(tmp_path, monkeypatch, user, prefix):
    for name in ("sudo", "apt-get"):
        program(tmp_path / name)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    (_, download), (said, package) = browser.ways()
    assert download == [[sys.executable, "-m", "playwright", "install", "chromium"]]
    assert said == "the system's package, by apt-get"
    assert package[-1][: len(prefix) + 2] == [*prefix, "apt-get", "install"]
    assert package[-1][-2:] == ["chromium", "libatomic1"]  # the driver's, which nothing else brings


def test_make_test_stops_before_the_suite_without_a_browser(tmp_path):
    """The Makefile's own recipe, with a tool that finds none."""
    text = (Path(__file__).parent.parent / "Makefile").read_text()
    recipe = text.split(".venv/browser: ", 1)[1].splitlines()[1]
    (tmp_path / "Makefile").write_text(
        f"BIN := .\ntest: browser\n\techo suite\nbrowser:\n{recipe}\n"
    )
    (tmp_path / "python").write_text("#!/bin/sh\necho 'error: none' >&2\nexit 1\n")
    (tmp_path / "python").chmod(0o755)
    done = subprocess.run(["make", "test"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "suite" not in done.stdout
    assert "error: none" in done.stderr
    assert not (tmp_path / "browser").exists()
