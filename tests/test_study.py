"""Trials follow from the seed and from results; what was done is not done again."""

import json

import pytest

from tools.search import space as spaces
from tools.search.study import Journal, Search
from tools.search.trainers import DONE, FAILED, STOPPED, Outcome

TEXT = (
    "train.learning_rate: {low: 0.0001, high: 0.1, log: true}\ntrain.dropout: {low: 0, high: 0.9}"
)
DEFAULT = {"learning_rate": 0.002, "dropout": 0.0}
GIVEN = DEFAULT | {"epochs": 5}


@pytest.fixture
def space(tmp_path, params):
    (tmp_path / "space.yaml").write_text(TEXT)
    return spaces.read(tmp_path / "space.yaml", params["train"])


class Trained:
    """Trainings of a made-up model, whose accuracy has its peak at a dropout of 0.6."""

    def __init__(self, fail: tuple[int, ...] = ()):
        self.numbers: list[int] = []
        self.fail = fail

    def __call__(self, tried, goes_on):
        for number, values in tried.items():
            self.numbers.append(number)
            best = 1 - (values["dropout"] - 0.6) ** 2
            history, state = [], FAILED if number in self.fail else DONE
            for epoch in range(1, 5 * (state == DONE) + 1):
                accuracy = best * epoch / 5
                history.append(
                    {"epoch": epoch, "validation_accuracy": accuracy, "validation_loss": -accuracy}
                )
                if not goes_on(number, history) and epoch < 5:
                    state = STOPPED
                    break
            yield number, Outcome(state, history, "diverged" if state == FAILED else "")


def run(space, path, n=30, jobs=1, trained=None, seed=0, at_random=False):
    search = Search(space, GIVEN, seed, at_random)
    journal = Journal(path, {"seed": seed})
    for start in range(0, n, jobs):
        search.round(min(jobs, n - start), journal, trained or Trained())
    return search


@pytest.mark.parametrize("jobs", [1, 3])
def test_the_same_seed_gives_the_same_trials_and_another_one_others(space, tmp_path, jobs):
    one, same, other = (
        run(space, tmp_path / f"{name}.jsonl", jobs=jobs, seed=seed).trials
        for name, seed in (("one", 0), ("same", 0), ("other", 1))
    )
    assert one == same
    assert [trial.values for trial in one] != [trial.values for trial in other]
    assert one[0].values == DEFAULT


def test_results_are_followed_and_what_is_worse_is_stopped(space, tmp_path):
    search = run(space, tmp_path / "one.jsonl", 40)
    (best,) = search.best(1)
    assert best.values["dropout"] == pytest.approx(0.6, abs=0.05)
    stopped = [trial for trial in search.trials if trial.outcome.state == STOPPED]
    assert 5 < len(stopped) < 35
    assert {len(trial.outcome.history) for trial in stopped} <= {3, 4}  # in the second half
    importances = search.importances()
    assert importances["dropout"] > importances["learning_rate"]
    assert sum(importances.values()) == pytest.approx(1)


@pytest.mark.parametrize("jobs", [1, 4])
def test_a_search_that_was_killed_goes_on_to_the_same_trials(space, tmp_path, jobs):
    whole = run(space, tmp_path / "whole.jsonl", jobs=jobs).trials
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "killed.jsonl").write_text("".join(lines[:14]) + lines[14][:40])

    trained = Trained()
    again = run(space, tmp_path / "killed.jsonl", jobs=jobs, trained=trained).trials

    assert again == whole
    assert trained.numbers == list(range(13, 30))
    assert (tmp_path / "killed.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()


def test_a_journal_of_another_search_is_refused(tmp_path, refusal):
    path = tmp_path / "trials.jsonl"
    Journal(path, {"seed": 0, "train.epochs": "5"})
    message = refusal(Journal, path, {"seed": 0, "train.epochs": "6"})
    assert message.startswith(f"{path}: is of another search (train.epochs differ); remove it")


def test_what_a_journal_has_is_of_the_same_values(tmp_path):
    outcome = Outcome(DONE, [{"epoch": 1}])
    Journal(tmp_path / "a", {}).add("trial 1", {"filters": [8]}, outcome)
    journal = Journal(tmp_path / "a", {})
    assert journal.get("trial 1", {"filters": [8]}) == outcome
    assert journal.get("trial 1", {"filters": [9]}) is None
    assert journal.get("trial 2", {"filters": [8]}) is None


def test_failed_trials_and_the_default_are_no_candidates(space, tmp_path):
    search = run(space, tmp_path / "one.jsonl", 12, trained=Trained(fail=(3, 4)))
    best = search.best(20)
    assert {3, 4}.isdisjoint(trial.number for trial in best)
    assert DEFAULT not in [trial.values for trial in best]
    assert [trial.accuracy for trial in best] == sorted(
        (trial.accuracy for trial in best), reverse=True
    )
    lines = (tmp_path / "one.jsonl").read_text().splitlines()[1:]
    assert [json.loads(line)["name"] for line in lines] == [f"trial {n}" for n in range(12)]
