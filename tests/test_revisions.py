"""Names, patterns of names, and the files that a revision has."""

import pytest

from cnn.errors import UserError
from tests.recorded import make_repository, record
from tests.revisions import git
from tools import revisions

HEADER = "index,image,actual,predicted,probability"


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
    assert revisions.named() == names


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


def test_outside_of_a_project(tmp_path, monkeypatch, refusal):
    monkeypatch.chdir(tmp_path)
    assert "not inside of a DVC repository" in refusal(revisions.matching, "fast-*")


def test_the_same_name_under_two_commits_is_the_one_of_this_commit(tmp_path, monkeypatch, refusal):
    make_repository(tmp_path)
    monkeypatch.chdir(tmp_path)
    record(tmp_path, "fast-1", seed=1, errors=1)
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "second")
    record(tmp_path, "fast-1", seed=1, errors=2)
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message", "third")

    assert revisions.matching("fast-*") == ["fast-1"]
    message = refusal(revisions.read_texts, "fast-1", revisions.PREDICTIONS)
    assert "ambiguous Git revision 'fast-1'" in message

    git(tmp_path, "reset", "--quiet", "--hard", "HEAD~")
    (text,) = revisions.read_texts("fast-1", revisions.PREDICTIONS)
    assert text.count(",7,") == 2


def test_files_of_a_revision_and_of_the_workspace(inside, refusal):
    metrics, predictions = revisions.read_texts(
        "fast-2", "reports/evaluate/metrics.json", revisions.PREDICTIONS
    )
    assert '"errors": 2' in metrics
    assert predictions.count(",7,") == 2
    (config,) = revisions.read_texts("workspace", ".dvc/config")
    assert "analytics" in config
    message = refusal(revisions.read_texts, "main", ".dvc/config", "dvc.lock")
    assert message == "dvc.lock: not in 'main'; `dvc repro` writes it, and a commit keeps it"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "does not start with"),
        (HEADER + "\n", "has no row per image"),
        ("index,actual\n0,1\n", "does not start with"),
        (f"{HEADER}\n0,aa,7,7,0.9\n1,bb,2,2", "line 3 is damaged"),
        (f"{HEADER}\n0,aa,7,7,0.9,1\n", "line 2 is damaged"),
        (f"{HEADER}\n0,aa,7,,0.9\n", "line 2 is damaged"),
        (f"{HEADER}\n1,aa,7,7,0.9\n", "line 2 is damaged"),
        (f"{HEADER}\n0,aa,7,7,nan\n", "line 2 is damaged"),
        (f"{HEADER}\n<<<<<<< HEAD\n0,aa,7,7,0.9\n", "line 2 is damaged"),
    ],
)
def test_a_damaged_file_is_refused(text, expected):
    with pytest.raises(UserError, match=f"FILE: .*{expected}"):
        revisions.parse(text, "FILE")
