"""The model card says what the stages wrote, for any data set, engine and network."""

import math
import re

import pytest

from cnn.reporting import card as card_module
from cnn.results import gallery
from tests.helpers.evaluated import DATA, EXACT, KERAS, TEN, WRONG, evaluated

TRAIN = {"epochs": 10, "filters": [8, 16], "dense_units": [32], "fill": None, "resume": True}


def make_card(wrong=WRONG, classes=TEN, environment=EXACT, **data) -> tuple[list[dict], str]:
    """Return the rows of given mistakes, and the card of them."""
    labels, probabilities, found = evaluated(tuple(wrong.items()), tuple(classes))
    rows = [
        {
            "index": index,
            "actual": classes[label],
            "predicted": classes[row.argmax()],
            "probability": f"{row.max():.6f}",
        }
        for index, (label, row) in enumerate(zip(labels, probabilities, strict=True))
    ]
    return rows, card_module.model_card(
        data=DATA | data,
        environment=environment,
        train=TRAIN,
        metrics=found.headlines,
        scores=found.scores,
        per_class=found.tables["per_class"].set_index("class").to_dict(orient="index"),
        rows=rows,
        captions={name: picture.caption for name, picture in gallery.PICTURES.items()},
        pictures="evaluate/pictures",
    )


def cells(card: str) -> list[list[list[str]]]:
    """Return the cells of each Markdown table: metrics, pairs, mistakes, parameters."""
    blocks = re.findall(r"(?:^\|.*\|\n)+", card, re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        for block in blocks
    ]


def in_one_line(card: str) -> str:
    return " ".join(card.split())


def test_the_card_contains_the_numbers():
    _, card = make_card()
    _, _, found = evaluated(tuple(WRONG.items()), tuple(TEN))

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
    assert numbers["log loss"] == f"{found.headlines['log_loss']:.4f} nats"
    assert numbers["F1, mean of the classes"] == f"{found.scores['macro_f1']:.4f}"
    assert numbers["expected calibration error"] == f"{found.scores['calibration_error']:.4f}"
    assert "The weakest class is **dog** (F1 0.5000)" in card


def test_what_the_card_claims_of_data_and_network_stands_in_what_it_reads():
    card = in_one_line(make_card()[1])

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


def test_the_card_says_on_what_keras_trained_it_and_which_test_images_leaked():
    card = in_one_line(make_card(environment=KERAS, test_images_also_in_training=4)[1])

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

    assert card_module.model_text(EXACT, train).startswith(start)


def test_without_licence_and_limits_nothing_is_said_of_them():
    card = in_one_line(make_card(licence="", limits="", channels=1)[1])

    assert "Licence" not in card
    assert "one of them. Not for decisions" in card
    assert "20 x 30 pixels, grey;" in card


def test_the_tables_of_pairs_mistakes_and_parameters():
    """The mistakes by confidence."""
    _, pairs, mistakes, parameters = cells(make_card()[1])

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
        ["`fill`", ""],
        ["`resume`", "true"],
    ]


@pytest.mark.parametrize("wrong", [{}, WRONG], ids=["no mistake", "three mistakes"])
@pytest.mark.parametrize("last", ["jay", 'a, "b" *c* [d](e) & $f$ 100 %'], ids=["plain", "odd"])
def test_the_tables_are_well_formed(wrong, last):
    rows, card = make_card(wrong, [*TEN[:9], last])

    assert rows[9]["actual"] == last
    assert len(cells(card)) == 4
    for table in cells(card):
        assert len({len(row) for row in table}) == 1
        assert all(re.fullmatch("-+:?", cell) for cell in table[1])
    assert f"| images read wrongly | {len(wrong)} |" in card


def test_every_picture_stands_on_the_card_with_its_caption():
    card = make_card()[1]

    named = re.findall(r"!\[([\w ]+)\]\(evaluate/pictures/(\w+)\.png\)\n\n(.+)\n", card)

    assert named == [
        (name.replace("_", " "), name, picture.caption)
        for name, picture in gallery.PICTURES.items()
    ]


def test_pairs_of_equal_count_stand_in_order_and_five_are_enough():
    pairs = [("a", "b"), ("a", "c"), ("b", "a"), ("b", "c"), ("c", "a"), ("c", "c")] * 2
    rows = [
        {"index": index, "actual": actual, "predicted": read, "probability": "0.5"}
        for index, (actual, read) in enumerate([*pairs, *[("d", "a")] * 7])
    ]

    assert card_module.worst_pairs(rows) == [
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

    assert [row["index"] for row in card_module.wrong(rows)] == [2, 4, 0, 3]
