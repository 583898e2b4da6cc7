import sys
from types import SimpleNamespace

import pytest
from dvc.cli import main as dvc

from cnn.base.program import run
from tests.helpers.revisions import PROJECT
from tools import offline_plots


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A DVC project with the page of this one, and a package that holds a short script."""
    monkeypatch.chdir(tmp_path)
    assert dvc(["init", "--quiet", "--no-scm"]) == 0
    page = tmp_path / offline_plots.PAGE
    page.parent.mkdir()
    page.write_text((PROJECT / offline_plots.PAGE).read_text())
    package = SimpleNamespace(javascript_bundle=lambda: "var vegaEmbed = 1;")
    monkeypatch.setitem(sys.modules, "vl_convert", package)
    return tmp_path


def refused(capsys):
    assert run(lambda: offline_plots.main([])) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert not offline_plots.OFFLINE_PAGE.exists()
    return output.err


def test_the_page_holds_the_scripts_and_dvc_uses_it(clone, capsys):
    for _ in range(2):
        offline_plots.main([])
    page = offline_plots.OFFLINE_PAGE.read_text()
    assert "<script>var vegaEmbed = 1;</script>" in page
    assert page.count("{plot_divs}") == 1
    assert "{scripts}" not in page
    assert "://" not in page
    assert dvc(["config", "--local", "plots.html_template"]) == 0
    assert capsys.readouterr().out.endswith("offline.html\n")
    assert dvc(["config", "--local", "--unset", "plots.html_template"]) == 0


def test_git_ignores_what_it_writes():
    ignored = (PROJECT / ".dvc/.gitignore").read_text().splitlines()
    assert {"/config.local", f"/{offline_plots.OFFLINE_PAGE.name}"} <= set(ignored)


def test_without_the_package(clone, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    assert "`make offline-plots` installs it" in refused(capsys)


def test_elsewhere(clone, tmp_path, monkeypatch, capsys):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert ".dvc/plots/page.html: No such file" in refused(capsys)
