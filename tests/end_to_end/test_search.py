"""A search on a project that has run: its trials, its verdict, and what becomes of them in DVC."""

import json
import sys

import pytest

from tests.helpers.clones import attempt, dvc, git, run

SPACE = """
train.learning_rate: {low: 0.0005, high: 0.05, log: true}
train.batch_size: [16, 32]
"""
EACH = """
import json, sys
from functools import partial
from cnn.base.program import run
from tools.search.__main__ import main
print([run(partial(main, words)) for words in json.loads(sys.argv[1])])
"""
SEARCH = ("--trials", "6", "--candidates", "2", "--seeds", "2")


@pytest.fixture(scope="module")
def clone(clone):
    (clone / "mine.yaml").write_text(SPACE)
    return clone


def search(clone, *words):
    return attempt(clone, sys.executable, "-m", "tools.search", "mine.yaml", *SEARCH, *words)


@pytest.fixture(scope="module")
def searched(clone):
    """What the search said when it ran for the first time."""
    done = search(clone)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_search_says_in_one_sentence_whether_something_better_was_found(clone, searched):
    lines = searched.splitlines()
    assert [line.split()[1] for line in lines[:6]] == list("012345")
    assert "learning_rate" in lines[1]
    said = " ".join(searched.split())
    assert "test images correctly than the default, mean of 2 seeds" in said
    assert "corrected for 2 candidates" in said
    folder = clone / "data/searches/mine"
    verdict = json.loads((folder / "verdict.json").read_text())
    assert len(verdict["validation_accuracy"]) == 3  # the default and two candidates
    # The winner alone, beside the default, is tested.
    assert set(verdict["test_accuracy"]) == {"default", f"trial {verdict['winner']['trial']}"}
    assert (folder / "search.png").is_file()
    assert git(clone, "status", "--porcelain", "--", "data", "models", "reports") == ""


def test_the_same_command_trains_nothing_again_and_says_the_same(clone, searched):
    folder = clone / "data/searches/mine"
    before = (folder / "trials.jsonl").read_bytes()
    again = search(clone).stdout.splitlines()
    assert again == [line for line in searched.splitlines() if ", seed " not in line]
    assert (folder / "trials.jsonl").read_bytes() == before
    another = search(clone, "--name", "again")
    assert another.stdout == searched.replace("searches/mine", "searches/again")


def test_a_trial_that_is_kept_is_a_dvc_experiment_of_the_same_bytes(clone, searched):
    folder = clone / "data/searches/mine"
    verdict = json.loads((folder / "verdict.json").read_text())
    number, values = verdict["winner"]["trial"], verdict["winner"]["values"]
    names = [
        json.loads(line)["name"] for line in (folder / "trials.jsonl").read_text().splitlines()[1:]
    ]
    assert f"trial {number}, seed 43" in names

    before = git(clone, "status", "--porcelain")
    run(clone, sys.executable, "-m", "tools.search", "mine.yaml", "--keep", str(number))
    assert f"mine-{number}" in dvc(clone, "exp", "list", "--name-only")
    assert git(clone, "status", "--porcelain") == before
    seeded = ("-S", "train.seed=43", "-S", f"train.learning_rate={values['learning_rate']}")
    batch = ("-S", f"train.batch_size={values['batch_size']}")
    dvc(clone, "exp", "run", "--quiet", *seeded, *batch, "train")
    model = folder / f"trial-{number}-43.keras"
    assert (clone / "models/cnn.keras").read_bytes() == model.read_bytes()
    run(clone, "git", "checkout", "--quiet", ".")
    dvc(clone, "checkout", "--force", "--quiet")


def test_what_cannot_be_done_is_one_line(clone, searched):
    """In one process, since its imports take longest."""
    refused = {
        ("--seed", "1"): "trials.jsonl: is of another search (seed differ); remove it",
        ("--keep", "9"): "--keep 9: data/searches/mine/trials.jsonl has no such trial",
        ("--keep", "1", "--name", "new"): "data/searches/new/trials.jsonl: is missing; search",
        ("--jobs", "0"): "--jobs is 0; allowed: 1 to 64",
    }
    words = json.dumps([["mine.yaml", *SEARCH, *each] for each in refused])

    done = attempt(clone, sys.executable, "-c", EACH, words)

    assert done.stdout == f"{[1] * len(refused)}\n"
    errors = done.stderr.splitlines()
    assert all(what in error for error, what in zip(errors, refused.values(), strict=True))
