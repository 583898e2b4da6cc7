"""Images and labels given as arrays are brought into one form, or refused by their name."""

import hashlib

import numpy as np
import pytest

from cnn.data.arrays import (
    check_labels,
    check_lengths,
    note_if_transposed,
    published_as,
    square,
    to_images,
    to_labels,
)
from cnn.data.raw import Options, Split
from cnn.published.datasets import ARRAYS, PUBLISHED, to_idx

GREY = (np.arange(4 * 10 * 12) % 100).astype(np.uint8).reshape(4, 10, 12)


@pytest.mark.parametrize(
    ("given", "expected", "notes"),
    [
        (GREY, GREY[..., None], []),
        (GREY.astype(np.int64), GREY[..., None], []),
        (GREY[:, None], GREY[..., None], ["channels first"]),
        (np.stack([GREY] * 3, 1), np.stack([GREY] * 3, -1), ["channels first"]),
        (GREY[:, :, :10].reshape(4, 100), GREY[:, :, :10, None], ["100 pixels per image, 10 x 10"]),
        (GREY / 255, (GREY / 255).astype(np.float32)[..., None], ["lies in [0, 1] already"]),
        (GREY % 2, (GREY % 2).astype(np.float32)[..., None], ["lies in [0, 1] already"]),
        (GREY // 8, GREY[..., None] // 8, ["its brightest pixel is 12 of 255"]),
    ],
    ids=["as it is", "int64", "grey first", "colour first", "flat", "floats", "bits", "dim"],
)
def test_each_form_of_images_becomes_one_and_what_is_odd_a_note(given, expected, notes):
    found: list[str] = []

    images = to_images("x", given, Options(), found)

    np.testing.assert_array_equal(images, expected)
    assert images.dtype == expected.dtype
    assert all(part in note for part, note in zip(notes, found, strict=True))


def test_rows_and_columns_are_exchanged_and_then_resized():
    images = to_images("x", GREY, Options(transpose=True), [])
    np.testing.assert_array_equal(images[..., 0], GREY.swapaxes(1, 2))

    resized = to_images("x", GREY, Options(size=8, channels=3), [])
    assert (resized.shape, resized.dtype) == ((4, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("given", "options", "reason"),
    [
        (np.zeros(5), Options(), "x is float64 (5,); expected uint8 or float"),
        (np.full((2, 3, 3), "a"), Options(), "x is <U1 (2, 3, 3)"),
        (GREY[:0], Options(), "x has no images"),
        (np.zeros((2, 99)), Options(), "x has 99 pixels per image, which is no square"),
        (GREY.astype(int) - 1, Options(), "x has whole numbers from -1 to 98; expected 0 to 255"),
        (
            GREY.astype(np.uint16) * 257,
            Options(),
            "x has whole numbers from 0 to 25443; expected 0 to 255; 'x // 257'",
        ),
        (GREY + 0.5, Options(), "x has floats from 0.5 to 99.5; expected floats in [0, 1]"),
        (GREY * np.nan, Options(), "x has floats from nan to nan"),
        (GREY / 255, Options(size=8), "x is of floats; prepare.image_size and prepare.channels"),
        (np.stack([GREY] * 5, -1), Options(size=8), "x has 5 channels; 1 or 3 are possible"),
    ],
)
def test_images_of_another_form_are_refused_by_name(refusal, given, options, reason):
    assert refusal(to_images, "x", given, options, []).startswith(reason)


def test_of_16_bits_it_is_said_how_they_become_8(refusal):
    message = refusal(to_images, "x", GREY.astype(np.uint16) * 257, Options(), [])

    assert message.endswith("; 'x // 257' makes 8 bits of 16")


@pytest.mark.parametrize(
    ("pixels", "shape"), [(784, (28, 28, 1)), (3072, (32, 32, 3)), (99, None), (1, (1, 1, 1))]
)
def test_a_number_of_pixels_is_a_square_in_grey_or_else_in_colour(pixels, shape):
    assert square(pixels) == shape


@pytest.mark.parametrize(
    "given",
    [
        np.uint8([2, 0, 1]),
        np.int32([[2], [0], [1]]),
        np.eye(3)[[2, 0, 1]],
        np.eye(3, dtype=bool)[[2, 0, 1]],
    ],
    ids=["flat", "a column", "one-hot", "one-hot bits"],
)
def test_each_form_of_labels_becomes_one(given):
    labels = to_labels("y", given)

    assert (labels.tolist(), labels.dtype) == ([2, 0, 1], np.int64)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (np.zeros(3), "y is float64 (3,); expected whole numbers (n,), as y.astype('int64')"),
        (np.array(["a"]), "y is <U1 (1,)"),
        (np.int64([]), "y has no labels"),
        (np.ones((2, 2), int), "y has images of several classes, or of none"),
        (np.zeros((2, 2), int), "y has images of several classes, or of none"),
    ],
)
def test_labels_of_another_form_are_refused_by_name(refusal, given, reason):
    assert refusal(to_labels, "y", given).startswith(reason)


@pytest.mark.parametrize(
    ("labels", "classes", "reason"),
    [
        ([1, 2], [], "y starts at 1; labels count the classes from 0"),
        ([0, 2], [], "y has no image of label 1; labels count without gaps"),
        ([0, 100], [], "y has labels up to 100; at most 100 classes"),
        ([0, 2], ["a", "b"], "y holds labels from 0 to 2; 2 classes are counted from 0 to 1"),
        ([-1, 0], ["a", "b"], "y holds labels from -1 to 0"),
    ],
)
def test_labels_that_are_no_index_into_the_classes_are_refused(refusal, labels, classes, reason):
    assert refusal(check_labels, "y", np.int64(labels), classes).startswith(reason)
    check_labels("y", np.int64([0, 1]), classes)  # without a gap, these are fine


def test_another_number_of_images_than_of_labels_is_refused(refusal):
    check_lengths("x", Split(GREY, np.arange(4)), "y")

    assert (
        refusal(check_lengths, "x", Split(GREY, np.arange(3)), "y") == "x has 4 images, y 3 labels"
    )


def test_the_published_ones_are_recognized_by_all_four_arrays(raw, monkeypatch):
    small = PUBLISHED["mnist"]._replace(
        sha256=tuple(hashlib.sha256(b"".join(to_idx(raw[name]))).hexdigest() for name in ARRAYS)
    )
    monkeypatch.setitem(PUBLISHED, "mnist", small)
    images = {"train": raw["x_train"], "test": raw["x_test"]}
    labels = {"train": raw["y_train"], "test": raw["y_test"]}

    assert published_as(images, labels) is small
    assert published_as(images, labels | {"test": raw["y_test"][::-1]}) is None
    assert published_as({"train": raw["x_train"]}, {"train": raw["y_train"]}) is None


def test_characters_on_their_side_are_noticed_by_their_width_or_by_the_name():
    upright = np.zeros((9, 20, 20, 1), np.uint8)
    upright[:, 2:18, 8:12] = 255
    lying = upright.swapaxes(1, 2)
    turned = Options(transpose=True)

    assert note_if_transposed("digits", upright, 10, Options()) == []
    assert "prepare.transpose: true" in note_if_transposed("digits", lying, 10, Options())[0]
    assert note_if_transposed("digits", lying, 10, turned) == []
    assert note_if_transposed("trousers", lying, 11, Options()) == []  # no alphabet has 11
    assert len(note_if_transposed("EMNIST-letters", upright, 26, Options())) == 1
