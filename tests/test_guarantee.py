"""What the guarantee costs: the table, what is left out, and that both trainers here are timed."""

import pytest

from benchmarks import guarantee
from benchmarks.rows import read
from cnn.params import load
from stages.train import TrainParams


def row(number: int, candidate: str, milliseconds: int) -> dict[str, str]:
    return {
        "round": str(number),
        "candidate": candidate,
        "milliseconds": str(milliseconds),
        "steps": "100",
    }


MEASURED = [
    row(1, "ours", 10),
    row(1, "Keras fit", 15),
    row(1, "RepDL", 800),
    row(2, "ours", 8),
    row(2, "Keras fit", 16),
    row(2, "RepDL", 800),
]


@pytest.fixture
def torch_python(tmp_path, monkeypatch):
    """Put a program of these lines where PyTorch's Python is looked for."""

    def call(*lines: str) -> None:
        path = tmp_path / "python"
        path.write_text("\n".join(["#!/bin/sh", *lines, ""]), encoding="utf-8")
        path.chmod(0o755)
        monkeypatch.setattr(guarantee, "TORCH", path)

    return call


def test_the_table_has_ratios_round_by_round_and_names_what_is_left_out():
    head, _, text = guarantee.table(MEASURED).partition("\n\n")

    assert [line.strip("| ").split(" | ") for line in head.splitlines()[2:]] == [
        ["ours", guarantee.PROMISES["ours"], "9.0", "1.00 (1.00 to 1.00)"],
        ["Keras fit", "nothing", "15.5", "1.75 (1.50 to 2.00)"],  # 15 / 10 and 16 / 8
        ["RepDL", "every device", "800.0", "90.00 (80.00 to 100.00)"],
    ]
    assert text == (
        "Steps timed: 100; n = 2 rounds. Not installed, and left out: Keras fit, deterministic; "
        "PyTorch; PyTorch, deterministic."
    )


def test_what_is_not_installed_is_left_out_and_told(tmp_path, monkeypatch, torch_python, capsys):
    monkeypatch.setattr(guarantee, "TORCH", tmp_path / "missing")
    assert list(guarantee.candidates(7)) == ["ours", "Keras fit", "Keras fit, deterministic"]
    told = capsys.readouterr().err.splitlines()
    assert told[-1] == "note: RepDL is not in .venv-torch, and is left out"
    assert len(told) == 3

    torch_python("exit 1")  # as `import repdl` ends where RepDL is not
    assert "PyTorch, deterministic" in guarantee.candidates(7)
    assert capsys.readouterr().err.splitlines() == [told[-1]]

    torch_python("exit 0")
    assert list(guarantee.candidates(7)) == list(guarantee.PROMISES)
    assert not capsys.readouterr().err


def test_every_candidate_runs_in_every_round(tmp_path, monkeypatch, torch_python):
    torch_python('echo \'{"milliseconds": 2.5, "steps": 7}\'')
    monkeypatch.setattr(guarantee.sys, "executable", str(guarantee.TORCH))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks/results").mkdir(parents=True)

    rows = guarantee.measure(rounds=2, steps=7)
    assert [line["candidate"] for line in rows] == 2 * list(guarantee.PROMISES)
    assert {line["milliseconds"] for line in rows} == {"2.5"}
    assert read("guarantee") == rows


@pytest.mark.parametrize("name", [guarantee.OURS, guarantee.FIT])
def test_a_second_pass_is_timed(tf, digits, tiny_yaml, name):
    params = load(tiny_yaml, "train", TrainParams)

    assert 0 < guarantee.second_pass(name, params, *digits, classes=10) < 60
