"""Results of several branches, machines and systems come together: nothing is computed twice."""

import json

from tests.helpers.clones import (
    attempt,
    commit,
    dvc,
    git,
    hashes,
    repro,
    run,
    set_params,
)


def test_a_clone_with_windows_line_endings_has_nothing_to_do(clone, tmp_path):
    copy = tmp_path / "copy"
    git(clone, "clone", "--quiet", "--config=core.autocrlf=true", str(clone), str(copy))

    for name in git(clone, "ls-files").split("\n"):
        if name and name != "params.yaml":
            assert (copy / name).read_bytes() == (clone / name).read_bytes(), name


def test_what_ran_here_another_machine_does_not_run(clone, tiny, tmp_path):
    """Not even what is in no commit; the other has no data and not a file of this one's cache."""
    storage = str(tmp_path / "storage")
    other_params = tiny | {"evaluate": tiny["evaluate"] | {"calibration_bins": 7}}
    set_params(clone, other_params)
    repro(clone)
    known = (clone / "reports/evaluate/reliability.csv").read_text()
    git(clone, "checkout", "--quiet", ".")
    dvc(clone, "checkout", "--force")
    dvc(clone, "remote", "add", "--local", "--default", "storage", storage)
    assert " runs and " in run(clone, "python", "-m", "tools.push_runs")
    other = tmp_path / "other" / "clone"
    git(clone, "clone", "--quiet", str(clone), str(other))
    dvc(other, "remote", "add", "--local", "--default", "storage", storage)

    dvc(other, "pull")

    assert repro(other) == []
    set_params(other, other_params)
    assert repro(other, "--pull") == ["report"]
    assert (other / "reports/evaluate/reliability.csv").read_text() == known
    set_params(other, tiny)
    assert repro(other, "--pull") == ["report"]
    assert hashes(other) == hashes(clone)
    assert git(other, "status", "--porcelain") == ""


def test_two_branches_with_other_results_are_merged(clone, tiny):
    """As docs/experiments.md says it: take one side of what is computed, then run what is due."""
    for name, change in (("one", {"mistakes": 8}), ("two", {"calibration_bins": 7})):
        git(clone, "checkout", "--quiet", "-b", name, "main")
        set_params(clone, tiny | {"evaluate": tiny["evaluate"] | change})
        repro(clone)
        commit(clone, name)
    merged = attempt(clone, "git", "merge", "one")
    assert merged.returncode != 0  # dvc.lock and the reports are in conflict

    git(clone, "checkout", "--ours", "dvc.lock", "reports")
    both = {"mistakes": 8, "calibration_bins": 7}
    set_params(clone, tiny | {"evaluate": tiny["evaluate"] | both})
    repro(clone)
    commit(clone, "merged")

    assert json.loads(dvc(clone, "status", "--json")) == {}
    assert git(clone, "status", "--porcelain") == ""
    git(clone, "checkout", "--quiet", "main")
    dvc(clone, "checkout", "--force")
    assert repro(clone) == []
