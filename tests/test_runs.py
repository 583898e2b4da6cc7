"""What a run has on record, and which runs are one recipe with several seeds."""

import pytest

from tests.helpers.recorded import lock, make_repository, record, write_run
from tools.compare import runs

HEADER = "index,image,actual,predicted,probability"


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    root = tmp_path_factory.mktemp("history")
    make_repository(root)
    record(root, "one", seed=1, errors=3, log_loss=0.5, note="x", flag=True, broken=float("nan"))
    record(root, "unseeded", seed=None, errors=3)
    return root


@pytest.fixture
def inside(history, monkeypatch):
    monkeypatch.chdir(history)
    return history


def run(name="one", seed=1, settings=None, accuracy=0.9, tested=2):
    images = {(f"{image}", 1): "7" for image in range(tested)}
    return runs.Run(name, seed, settings or {"train.epochs": 2}, {"accuracy": accuracy}, images)


def test_a_run_is_its_seed_its_settings_and_its_numbers(inside):
    read = runs.read_run("one")

    assert (read.name, read.seed, len(read.tested)) == ("one", 1, 100)
    assert read.settings == {"train.epochs": 2, "prepare.seed": 42, "cnn/model": "2" * 32}
    assert read.metrics == {
        "accuracy": 0.97, "accuracy_low": 0.5, "accuracy_high": 1.0, "errors": 3, "log_loss": 0.5
    }  # fmt: skip
    assert runs.read_run("unseeded").seed is None


def test_neither_what_a_stage_made_nor_the_file_of_parameters_is_a_setting():
    assert runs.settings_of(lock(7, {}, "3")).keys() == {
        "train.seed", "train.epochs", "prepare.seed", "cnn/model"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("reports/evaluate/metrics.json", "{", "has no accuracy; `dvc repro` repairs it"),
        ("reports/evaluate/metrics.json", "[1]", "has no accuracy"),
        ("reports/evaluate/metrics.json", '{"accuracy": NaN}', "has no accuracy"),
        ("dvc.lock", "stages: [", "is damaged; `dvc repro` repairs it"),
        ("dvc.lock", "schema: '2.0'", "is damaged"),
        ("reports/predictions.csv", "index", "does not start with"),
    ],
)
def test_a_damaged_record_is_refused(tmp_path, monkeypatch, refusal, path, text, expected):
    make_repository(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path, seed=1, errors=1)
    (tmp_path / path).write_text(text)

    message = refusal(runs.read_run, "workspace")

    assert message.startswith(f"{path} of 'workspace': {expected}")


def test_the_same_run_under_two_names_counts_once():
    both = [
        run("fast-2", 2, accuracy=0.8),
        run("fast"),
        run("fast-1"),
        run("x", None),
        run("y", None),
    ]

    kept, lines = runs.distinct(both)

    assert [each.name for each in kept] == ["fast", "fast-2", "x"]
    assert lines == [
        "'fast-1' is the same run as 'fast' and counts once",
        "'y' is the same run as 'x' and counts once",
    ]


def test_runs_with_the_same_seed_and_other_results_are_two():
    kept, lines = runs.distinct([run("a", accuracy=0.8), run("b", settings={"train.epochs": 3})])
    assert len(kept) == 2
    assert not lines


def test_a_run_in_both_sets_is_named():
    assert runs.in_both([run("a", 1), run("b", 2)], [run("c", 3), run("d", 2)]) == [
        "'b' of A and 'd' of B are one run"
    ]


def test_what_differs_within_a_set_is_named():
    alike = [run("a", 1), run("b", 2)]
    assert runs.unlike(alike) == []
    assert runs.unlike(alike[:1]) == []
    assert runs.unlike([*alike, run("c", 3, {"train.epochs": 5, "cnn/model": "x"})]) == [
        "not one recipe with several seeds: train.epochs is 2 in 'a' and 5 in 'c'; and 1 more"
    ]
    files = [run("a", 1, {"cnn/model": "1"}), run("b", 2, {"cnn/model": "2"})]
    assert runs.unlike(files) == [
        "not one recipe with several seeds: cnn/model is not the same in 'a' and 'b'"
    ]


def test_runs_that_were_tested_on_other_images_are_refused(refusal):
    runs.check_tested([run("a"), run("b", 2)])
    assert refusal(runs.check_tested, [run("a"), run("b", 2), run("c", 3, tested=3)]) == (
        "reports/predictions.csv: 'a' was tested on 2 images, 'c' on 3; "
        "compare runs with the same test images"
    )
    other = run("b", 2)
    other.tested["0", 1] = "8"
    assert "'b' on others; compare" in refusal(runs.check_tested, [run("a"), other])


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
def test_damaged_predictions_are_refused(refusal, text, expected):
    message = refusal(runs.parse, text, "FILE")
    assert message.startswith("FILE: ")
    assert expected in message
