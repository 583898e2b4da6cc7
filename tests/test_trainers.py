"""Processes train side by side, to the bytes of the train stage, and say what became of each."""

import json
from multiprocessing import active_children

import pytest

from cnn.training.params import TrainParams
from stages import train as stage
from tools.search import trainers
from tools.search.trainers import DONE, FAILED, STOPPED, Task


def go_on(name, history):
    return True


@pytest.fixture
def files(prepared):
    return prepared / "train.npz", prepared / "validation.npz"


@pytest.fixture
def given(tiny) -> TrainParams:
    return TrainParams.model_validate(tiny["train"] | {"epochs": 3})


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_training_gives_the_bytes_of_the_train_stage(tmp_path, tiny, given, files, jobs):
    tasks = {
        f"seed {seed}": Task(given.model_copy(update={"seed": seed}), tmp_path / f"{seed}.keras")
        for seed in (1, 2, 3)
    }
    with trainers.started(jobs) as processes:
        outcomes = dict(trainers.train_all(tasks, files, processes, go_on))
    assert not active_children()

    for seed in (1, 2, 3):
        same = tiny | {"train": tiny["train"] | {"epochs": 3, "seed": seed}}
        (tmp_path / "params.yaml").write_text(json.dumps(same))
        stage.main(
            [f"--params={tmp_path}/params.yaml", f"--train={files[0]}", f"--validation={files[1]}"]
            + [f"--model={tmp_path}/stage.keras", f"--history={tmp_path}/history.csv"]
            + [f"--environment={tmp_path}/environment.json"]
        )
        assert (tmp_path / f"{seed}.keras").read_bytes() == (tmp_path / "stage.keras").read_bytes()
        last = (tmp_path / "history.csv").read_text().splitlines()[-1]
        found = outcomes[f"seed {seed}"]
        assert found.state == DONE
        assert last.split(",")[3] == f"{found.history[-1]['validation_accuracy']:.6g}"


def test_one_that_is_stopped_ends_after_that_epoch_and_the_next_one_starts(given, files):
    seen = []

    def on_epoch(name, history):
        seen.append((name, history[-1]["epoch"]))
        return history[-1]["epoch"] < (2 if name == "a" else 3)

    with trainers.started(1) as processes:
        tasks = {"a": Task(given), "b": Task(given)}
        outcomes = dict(trainers.train_all(tasks, files, processes, on_epoch))

    assert outcomes["a"].state == STOPPED
    assert outcomes["b"].state == DONE
    assert seen == [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("b", 3)]


def test_what_fails_says_why_and_the_others_go_on(given, files, tmp_path):
    (tmp_path / "file").touch()
    tasks = {
        "too deep": Task(given.model_copy(update={"filters": (4,) * 6})),
        "nowhere": Task(given, tmp_path / "file/model.keras"),
        "whole": Task(given),
    }
    with trainers.started(2) as processes:
        outcomes = dict(trainers.train_all(tasks, files, processes, go_on))

    assert outcomes["whole"].state == DONE
    assert outcomes["too deep"].state == FAILED
    assert "\n" not in outcomes["too deep"].why
    assert str(tmp_path / "file") in outcomes["nowhere"].why


def test_a_trainer_that_was_killed_is_reported_as_what_it_mostly_is(given, files):
    with trainers.started(1) as processes:
        active_children()[0].kill()
        with pytest.raises(MemoryError, match="a process that trains was ended"):
            list(trainers.train_all({"a": Task(given)}, files, processes, go_on))
