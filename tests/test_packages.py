"""The stages depend on the versions that are locked and installed, and on no other package."""

from importlib.metadata import version

from cnn.base.files import read_text
from tests.helpers.clones import ROOT
from tools import packages


def test_the_committed_files_are_those_of_the_lock_file():
    for stage, text in packages.contents(
        packages.locked(read_text(ROOT / "requirements.txt"))
    ).items():
        assert (ROOT / "packages" / f"{stage}.txt").read_text() == text


def test_a_fix_of_an_http_client_changes_no_stage():
    text = read_text(ROOT / "requirements.txt")
    versions = packages.locked(text)
    assert "requests" in versions

    assert packages.contents(versions | {"requests": "99"}) == packages.contents(versions)
    assert (
        packages.contents(versions | {"keras": "99"})["train"]
        != (packages.contents(versions)["train"])
    )


def test_another_installed_version_is_one_line(tmp_path, monkeypatch, refusal):
    monkeypatch.chdir(tmp_path)
    text = read_text(ROOT / "requirements.txt")
    numpy = version("numpy")
    (tmp_path / "requirements.txt").write_text(text.replace(f"numpy=={numpy}", "numpy==1.0"))

    message = refusal(packages.main, [])

    assert message == f"numpy: {numpy} is installed, 1.0 is locked; run 'make repro'"
