"""Every prediction is a row, and the model card says what the files say."""

import csv
import json
import math
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cnn.base.files import REPAIR
from cnn.base.npz import write_arrays
from cnn.base.params import read_yaml
from cnn.reporting import card as library
from cnn.results import gallery, metrics, tables
from stages import report

EXACT = {"engine": "exact", "numpy": "2.4.2", "h5py": "3.15.1"}
KERAS = {
    "engine": "keras",
    "tensorflow": "2.21.0",
    "keras": "3.15.1",
    "cpu": "GenuineIntel 6 106",
    "GPUs": "none",
}
TEN = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibex", "jay"]
DATA = {
    "title": "Ten animals",
    "description": "Drawings of animals.",
    "limits": "Animals only.",
    "licence": "CC0",
    "height": 20,
    "width": 30,
    "channels": 3,
    "classes": 10,
    "train_images": 1234,
    "validation_images": 137,
    "test_images": 30,
    "validation": "0.1 of the training images, drawn by class with seed 7",
    "test": "0.2 of all images, drawn by class with seed 7",
    "test_images_also_in_training": 0,
}
INPUTS = ["data.json", "environment.json", "metrics.json", "scores.json", "per_class.json"]
WRONG = {3: (5, 0.75), 13: (5, 0.9), 7: (1, 0.8)}


@cache
def evaluated(wrong, classes) -> tuple[np.ndarray, np.ndarray, metrics.Evaluation]:
    """Return labels, probabilities of 0.955 for them, and what is found of those.

    wrong : (index, (another class, confidence)) of each image that is read wrongly.
    """
    labels = np.arange(30) % 10
    probabilities = np.full((30, 10), 0.005, np.float32)
    probabilities[np.arange(30), labels] = 0.955
    for index, (read, confidence) in wrong:
        probabilities[index] = (1 - confidence) / 9
        probabilities[index, read] = confidence
    found = metrics.evaluate(labels, probabilities, list(classes), bins=5)
    found.scores["labels_in_doubt"] = 2
    return labels, probabilities, found


def flags(folder) -> list[str]:
    files = {"params": "params.yaml", "predictions": "predictions.npz", "rows": "predictions.csv"}
    files |= {"pictures": "evaluate/pictures", "card": "README.md"}
    files |= {Path(name).stem.replace("_", "-"): name for name in INPUTS}
    return [f"--{flag}={folder / name}" for flag, name in files.items()]


@pytest.fixture
def run_report(tmp_path):
    """Write what the stage reads for given mistakes, run it; return its rows and its card."""

    def call(wrong=WRONG, classes=TEN, environment=EXACT, **data) -> tuple[list[dict], str]:
        labels, probabilities, found = evaluated(tuple(wrong.items()), tuple(classes))
        write_arrays(
            tmp_path / "predictions.npz",
            probabilities=probabilities,
            labels=labels,
            classes=np.array(classes),
            images=np.array([f"{index:016x}" for index in range(30)]),
        )
        tables.write(*found, tmp_path)
        captions = {name: picture.caption for name, picture in gallery.PICTURES.items()}
        pictures = tmp_path / "evaluate" / "pictures"
        pictures.mkdir(parents=True, exist_ok=True)
        (pictures / "captions.json").write_text(json.dumps(captions))
        (tmp_path / "environment.json").write_text(json.dumps(environment))
        (tmp_path / "data.json").write_text(json.dumps(DATA | data))
        (tmp_path / "params.yaml").write_text(
            "train: {epochs: 010, filters: [8, 16], dense_units: [32], fill: 0.5, resume: true}\n"
        )
        report.main(flags(tmp_path))
        with open(tmp_path / "predictions.csv", newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        return rows, (tmp_path / "README.md").read_text(encoding="utf-8")

    return call


def cells(card: str) -> list[list[list[str]]]:
    """Return the cells of each Markdown table: metrics, pairs, mistakes, parameters."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", card, re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        for block in blocks
    ]


def in_one_line(card: str) -> str:
    return " ".join(card.split())


def test_each_image_is_a_row_with_its_fingerprint_and_class_names(run_report):
    rows, _ = run_report()

    columns = ["index", "image", "actual", "predicted", "probability"]
    assert list(rows[0]) == columns
    assert [row["index"] for row in rows] == [str(index) for index in range(30)]
    assert list(rows[0].values()) == ["0", "0000000000000000", "ant", "ant", "0.955000"]
    assert list(rows[13].values()) == ["13", "000000000000000d", "dog", "fox", "0.900000"]


def test_the_card_contains_the_numbers(run_report, tmp_path):
    _, card = run_report()
    metrics, scores = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("metrics", "scores")
    )

    numbers = dict(cells(card)[0])
    assert numbers["on 30 test images"] == "value"
    assert numbers["accuracy"] == "90.00%, 95 % interval 74.38% to 96.54% (Wilson)"
    # Of three images each, dogs are read correctly once, hens twice, the others always.
    recalls = [1 / 3, 2 / 3] + [1] * 8
    right = [(3 * recall + 0.2) / 3.4 for recall in recalls]
    half = 1.959964 * math.sqrt(sum(p * (1 - p) / 3.4 for p in right)) / 10
    low, high = sum(right) / 10 - half, min(1, sum(right) / 10 + half)
    assert numbers["balanced accuracy, the mean of the classes' recalls"] == (
        f"90.00%, 95 % interval {low:.2%} to {high:.2%} (Price and Bonett)"
    )
    assert numbers["images read wrongly"] == "3"
    assert numbers["log loss"] == f"{metrics['log_loss']:.4f} nats"
    assert numbers["F1, mean of the classes"] == f"{scores['macro_f1']:.4f}"
    assert numbers["expected calibration error"] == f"{scores['calibration_error']:.4f}"
    assert "The weakest class is **dog** (F1 0.5000)" in card


def test_what_the_card_claims_of_data_and_network_stands_in_what_it_reads(run_report):
    card = in_one_line(run_report()[1])

    assert card.startswith("# A CNN that tells 10 classes of images apart: Ten animals ")
    assert "Drawings of animals. 20 x 30 pixels, colour; 10 classes." in card
    assert (
        "1,234 images for training, 137 for validation (0.1 of the training images, drawn by class "
        "with seed 7), 30 for the test (0.2 of all images, drawn by class with seed 7)." in card
    )
    assert "Licence of the data: CC0." in card
    assert "**2 of the 167 labels of test and validation images are in doubt**: " in card
    assert (
        "**Few test images.** 10 of 10 classes have fewer than 20 test images (ant 3, bee 3, cat 3 "
        "and 7 more): what is measured of such a class alone says little. **Data.**" in card
    )
    assert "one of them. Animals only. Not for decisions" in card
    assert (
        "**Model.** 2 convolutions, each with max pooling, 1 hidden dense layer and a softmax, "
        "trained from scratch by the project's own kernels, which give the same bytes on every "
        "CPU, with the parameters [below](#parameters)."
    ) in card
    for word in ("in training too", "MNIST", "digit", "Keras", "TensorFlow"):
        assert word not in card


def test_the_card_says_on_what_keras_trained_it_and_which_test_images_leaked(run_report):
    card = in_one_line(run_report(environment=KERAS, test_images_also_in_training=4)[1])

    assert (
        "**Model.** A network of Keras' layers, trained from scratch by Keras 3.15.1 and "
        "TensorFlow 2.21.0 on GenuineIntel 6 106, GPUs: none, with the parameters"
    ) in card
    assert "same bytes" not in card
    assert "**4 of the test images are in training too**, to the bit." in card


@pytest.mark.parametrize(
    ("filters", "dense_units", "start"),
    [
        ([8], [], "1 convolution, each with max pooling, 0 hidden dense layers and a softmax, "),
        ([8] * 6, [9] * 3, "6 convolutions, each with max pooling, 3 hidden dense layers and a "),
    ],
)
def test_the_layers_are_counted(filters, dense_units, start):
    train = {"filters": filters, "dense_units": dense_units}

    assert library.model_text(EXACT, train).startswith(start)


def test_without_licence_and_limits_nothing_is_said_of_them(run_report):
    card = in_one_line(run_report(licence="", limits="", channels=1)[1])

    assert "Licence" not in card
    assert "one of them. Not for decisions" in card
    assert "20 x 30 pixels, grey;" in card


def test_the_tables_of_pairs_mistakes_and_parameters(run_report):
    """The parameters as DVC reads them; the mistakes by confidence."""
    _, pairs, mistakes, parameters = cells(run_report()[1])

    assert pairs[2:] == [["dog", "fox", "2", "66.67%"], ["hen", "bee", "1", "33.33%"]]
    assert mistakes[2:] == [
        ["13", "dog", "fox", "90.0%"],
        ["7", "hen", "bee", "80.0%"],
        ["3", "dog", "fox", "75.0%"],
    ]
    assert parameters[2:] == [
        ["`epochs`", "10"],
        ["`filters`", "[8, 16]"],
        ["`dense_units`", "[32]"],
        ["`fill`", "0.5"],
        ["`resume`", "true"],
    ]


@pytest.mark.parametrize("wrong", [{}, WRONG], ids=["no mistake", "three mistakes"])
@pytest.mark.parametrize("last", ["jay", 'a, "b" *c* [d](e) & $f$ 100 %'], ids=["plain", "odd"])
def test_the_tables_are_well_formed(run_report, wrong, last):
    rows, card = run_report(wrong, [*TEN[:9], last])

    assert rows[9]["actual"] == last
    assert len(cells(card)) == 4
    for table in cells(card):
        assert len({len(row) for row in table}) == 1
        assert all(re.fullmatch("-+:?", cell) for cell in table[1])
    assert f"| images read wrongly | {len(wrong)} |" in card


def test_every_picture_stands_on_the_card_with_its_caption(run_report):
    card = run_report()[1]

    named = re.findall(r"!\[([\w ]+)\]\(evaluate/pictures/(\w+)\.png\)\n\n(.+)\n", card)

    assert named == [
        (name.replace("_", " "), name, picture.caption)
        for name, picture in gallery.PICTURES.items()
    ]


def test_the_paths_of_the_committed_card_lead_to_its_pictures(pytestconfig):
    stage = read_yaml(pytestconfig.rootpath / "dvc.yaml")["stages"]["report"]["cmd"]
    reports = pytestconfig.rootpath / "reports"

    linked = re.findall(r"\]\(([\w/.]+)\)", (reports / "README.md").read_text(encoding="utf-8"))

    assert "--card reports/README.md" in stage
    assert len(linked) == 2 + len(gallery.PICTURES)  # those, and two tables
    assert all((reports / path).is_file() for path in linked)


def test_pairs_of_equal_count_stand_in_order_and_five_are_enough():
    pairs = [("a", "b"), ("a", "c"), ("b", "a"), ("b", "c"), ("c", "a"), ("c", "c")] * 2
    rows = [
        {"index": index, "actual": actual, "predicted": read, "probability": "0.5"}
        for index, (actual, read) in enumerate([*pairs, *[("d", "a")] * 7])
    ]

    assert library.worst_pairs(rows) == [
        ("d", "a", 7),
        ("a", "b", 2),
        ("a", "c", 2),
        ("b", "a", 2),
        ("b", "c", 2),
    ]


def test_mistakes_of_equal_confidence_stand_by_index():
    each = [("b", 0.5), ("a", 0.9), ("b", 0.7), ("b", 0.5), ("b", 0.7)]
    rows = [
        {"index": index, "actual": "a", "predicted": read, "probability": f"{probability:.6f}"}
        for index, (read, probability) in enumerate(each)
    ]

    assert [row["index"] for row in library.wrong(rows)] == [2, 4, 0, 3]


@pytest.mark.parametrize(
    "name", [*INPUTS, "predictions.npz", "evaluate/pictures/captions.json", "params.yaml"]
)
def test_an_input_that_is_missing_or_of_another_form_is_refused(
    run_report, tmp_path, refusal, name
):
    run_report()
    (tmp_path / "README.md").unlink()
    (tmp_path / name).unlink()

    assert refusal(report.main, flags(tmp_path)).startswith(f"{tmp_path / name}: ")

    (tmp_path / name).write_text("- train\n")
    assert refusal(report.main, flags(tmp_path)).startswith(f"{tmp_path / name}: ")
    assert not (tmp_path / "README.md").exists()


@pytest.mark.parametrize("name", INPUTS[:4])
def test_a_file_that_lacks_what_the_card_says_is_refused(run_report, tmp_path, refusal, name):
    run_report()
    (tmp_path / name).write_text("{}")

    message = refusal(report.main, flags(tmp_path))

    assert message.startswith("what the other stages wrote lacks '")
    assert message.endswith(REPAIR)
