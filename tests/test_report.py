"""Every prediction is a row, and the model card says what the numbers say."""

import csv
import json
import re

import numpy as np
import pytest

from stages import report
from stages.dataset import write_arrays
from stages.evaluate import evaluate, write_results

ENVIRONMENT = {"keras": "3.15.1", "tensorflow": "2.21.0", "precision": "float32"}


def probabilities_of(labels, wrong: dict[int, tuple[int, float]]) -> np.ndarray:
    """Return rows of 0.955 for the label; `wrong` is {index: (another digit, confidence)}."""
    probabilities = np.full((len(labels), 10), 0.005)
    probabilities[np.arange(len(labels)), labels] = 0.955
    for index, (digit, confidence) in wrong.items():
        probabilities[index] = (1 - confidence) / 9
        probabilities[index, digit] = confidence
    return probabilities.astype(np.float32)


@pytest.fixture
def run_report(tmp_path):
    """Write what the stage reads for given mistakes, run it; return its rows and its card."""

    def call(wrong) -> tuple[list[dict[str, str]], str]:
        labels = np.arange(30) % 10
        probabilities = probabilities_of(labels, wrong)
        write_arrays(
            tmp_path / "predictions.npz",
            compressed=True,
            probabilities=probabilities,
            labels=labels,
        )
        write_results(evaluate(labels, probabilities, bins=5), tmp_path)
        (tmp_path / "environment.json").write_text(json.dumps(ENVIRONMENT))
        report.main(flags(tmp_path))
        with open(tmp_path / "predictions.csv", newline="") as stream:
            return list(csv.DictReader(stream)), (tmp_path / "card.md").read_text()

    return call


def flags(folder) -> list[str]:
    return [
        f"--predictions={folder / 'predictions.npz'}",
        f"--metrics={folder / 'metrics.json'}",
        f"--per-class={folder / 'per_class.json'}",
        f"--confusion={folder / 'confusion.csv'}",
        f"--environment={folder / 'environment.json'}",
        f"--rows={folder / 'predictions.csv'}",
        f"--card={folder / 'card.md'}",
    ]


def tables(card: str) -> list[list[list[str]]]:
    """Return the cells of each Markdown table."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", card, re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        for block in blocks
    ]


WRONG = {3: (5, 0.75), 13: (5, 0.9), 7: (1, 0.8)}


def test_each_image_is_a_row(run_report):
    rows, _ = run_report(WRONG)

    assert [row["index"] for row in rows] == [str(index) for index in range(30)]
    assert rows[0] == {
        "index": "0",
        "actual": "0",
        "predicted": "0",
        "probability": "0.955000",
    }
    assert rows[13] == {
        "index": "13",
        "actual": "3",
        "predicted": "5",
        "probability": "0.900000",
    }


def test_the_card_contains_the_numbers(run_report, tmp_path):
    _, card = run_report(WRONG)
    metrics = json.loads((tmp_path / "metrics.json").read_text())

    numbers = dict(tables(card)[0])
    assert numbers["on 30 test images"] == "value"
    assert numbers["accuracy"] == "90.00%, 95 % interval 74.38% to 96.54% (Wilson)"
    assert numbers["images read wrongly"] == "3"
    assert numbers["log loss"] == f"{metrics['log_loss']:.4f} nats"
    assert numbers["F1, mean of the digits"] == f"{metrics['macro_f1']:.4f}"
    assert numbers["expected calibration error"] == f"{metrics['calibration_error']:.4f}"
    assert "Keras 3.15.1 and TensorFlow 2.21.0 in\nfloat32" in card
    assert "The weakest digit is **3** (F1 0.5000)" in card


def test_the_card_names_the_worst_pairs_and_the_most_confident_mistakes(run_report):
    _, card = run_report(WRONG)

    _, pairs, mistakes = tables(card)
    assert pairs[2:] == [["3", "5", "2", "66.67%"], ["7", "1", "1", "33.33%"]]
    assert mistakes[2:] == [
        ["13", "3", "5", "90.0%"],
        ["7", "7", "1", "80.0%"],
        ["3", "3", "5", "75.0%"],
    ]


@pytest.mark.parametrize("wrong", [{}, WRONG], ids=["no mistake", "three mistakes"])
def test_the_tables_are_well_formed(run_report, wrong):
    _, card = run_report(wrong)

    for table in tables(card):
        assert len({len(row) for row in table}) == 1
        assert all(re.fullmatch("-+:?", cell) for cell in table[1])


def test_a_model_without_a_mistake_has_a_card(run_report):
    rows, card = run_report({})

    assert all(row["actual"] == row["predicted"] for row in rows)
    assert "| images read wrongly | 0 |" in card
    assert "100.00%" in card


def test_the_pictures_of_the_card_are_those_that_evaluate_draws(run_report, pytestconfig):
    _, card = run_report(WRONG)

    named = re.findall(r"!\[[\w ]+\]\(([\w.]+)\)", card)
    declared = re.findall(r"reports/(\w+\.png)", (pytestconfig.rootpath / "dvc.yaml").read_text())

    assert sorted(named) == sorted(declared)


def test_pairs_of_equal_count_stand_in_order_and_five_are_enough():
    cells = [(a, p, 2) for a in range(3) for p in range(3)] + [(9, 0, 7), (8, 0, 0)]
    confusion = [
        {"actual": str(a), "predicted": str(p), "count": str(count)} for a, p, count in cells
    ]

    assert report.worst_pairs(confusion) == [
        (9, 0, 7),
        (0, 1, 2),
        (0, 2, 2),
        (1, 0, 2),
        (1, 2, 2),
    ]


def test_the_same_predictions_give_the_same_bytes(run_report, tmp_path):
    contents = []
    for _ in range(2):
        run_report(WRONG)
        contents.append([(tmp_path / name).read_bytes() for name in ("card.md", "predictions.csv")])

    assert contents[0] == contents[1]


def test_a_missing_input_is_named(tmp_path, refusal):
    message = refusal(report.main, flags(tmp_path))

    assert message.startswith(f"{tmp_path / 'predictions.npz'}: cannot be read")
