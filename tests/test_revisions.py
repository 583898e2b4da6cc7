"""Names, patterns of names, and the files that a revision has."""

import pytest

from tests.helpers.recorded import make_repository, record
from tests.helpers.revisions import git
from tools.compare import revisions
from tools.compare.runs import METRICS, PREDICTIONS


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    root = tmp_path_factory.mktemp("history")
    make_repository(root)
    for seed in (1, 2, 10):
        record(root, f"fast-{seed}", seed=seed, errors=seed)
    git(root, "branch", "fast-branch")
    git(root, "branch", "work/one")
    git(root, "tag", "v1")
    return root


@pytest.fixture
def inside(history, monkeypatch):
    monkeypatch.chdir(history)
    return history


def test_experiments_branches_and_tags_have_names(inside):
    names = ["fast-1", "fast-10", "fast-2", "fast-branch", "main", "v1", "work/one"]
    assert revisions.names() == names


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("fast-?", ["fast-1", "fast-2"]),
        ("fast-[0-9]*", ["fast-1", "fast-10", "fast-2"]),
        ("*/*", ["work/one"]),
        ("v*", ["v1"]),
        ("fast-1", ["fast-1"]),
        ("HEAD~2", ["HEAD~2"]),
        ("HEAD^{/fir.*}", ["HEAD^{/fir.*}"]),  # of Git's own language
        ("nothing", ["nothing"]),  # refused when it is read
    ],
)
def test_a_pattern_stands_for_the_names_that_it_matches(inside, pattern, expected):
    assert revisions.matching(pattern) == expected


def test_a_pattern_that_matches_nothing(inside, refusal):
    assert refusal(revisions.matching, "FAST-*") == (
        "'FAST-*': matches no experiment, branch or tag; "
        "'dvc exp list --all-commits' names the experiments"
    )


def test_where_git_reads_nothing(inside, tmp_path, monkeypatch, refusal):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    message = refusal(revisions.matching, "fast-*")
    assert message.endswith(f"git config --global --add safe.directory {inside}")
    monkeypatch.chdir(tmp_path)
    assert "not in a Git repository" in refusal(revisions.read_texts, "HEAD", PREDICTIONS)


def test_the_same_name_under_two_commits_is_the_one_of_this_commit(tmp_path, monkeypatch, refusal):
    make_repository(tmp_path)
    monkeypatch.chdir(tmp_path)
    record(tmp_path, "fast-1", seed=1, errors=1)
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "second")
    record(tmp_path, "fast-1", seed=1, errors=2)
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "third")

    assert revisions.matching("fast-*") == ["fast-1"]
    message = refusal(revisions.read_texts, "fast-1", PREDICTIONS)
    assert message.startswith("'fast-1': 2 experiments of other commits have this name; ")

    git(tmp_path, "reset", "--quiet", "--hard", "HEAD~")
    (text,) = revisions.read_texts("fast-1", PREDICTIONS)
    assert text.count(",7,") == 2


def test_files_of_a_revision_and_of_the_workspace(inside, refusal):
    metrics, predictions = revisions.read_texts("fast-2", METRICS, PREDICTIONS)
    assert '"errors": 2' in metrics
    assert predictions.count(",7,") == 2
    (config,) = revisions.read_texts("workspace", ".dvc/config")
    assert "analytics" in config
    message = refusal(revisions.read_texts, "main", ".dvc/config", "dvc.lock")
    assert message == "dvc.lock: not in 'main'; `dvc repro` writes it, and a commit keeps it"


def test_a_project_in_a_folder_of_a_repository(tmp_path, monkeypatch):
    """Paths are those of the folder; the file of that name at the top is another."""
    (tmp_path / "project").mkdir()
    for folder in (tmp_path, tmp_path / "project"):
        (folder / "dvc.lock").write_text(f"{folder.name}\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    monkeypatch.chdir(tmp_path / "project")
    assert revisions.read_texts("HEAD", "dvc.lock") == ["project\n"]
