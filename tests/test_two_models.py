"""The numbers of two models are checked by hand, and the words that follow from them."""

import numpy as np
import pytest

from tools.compare import two_models
from tools.compare.runs import parse

HEADER = "index,image,actual,predicted,probability"


def predictions(actual, *changes):
    """Return a model's readings of `actual`: right but for the (position, digit) in `changes`."""
    predicted = np.array(actual)
    for position, digit in changes:
        predicted[position] = digit
    return predicted


def readings(only_a, only_b, n=100):
    """Return (actual, a, b) of n images, all ones: how many just A and just B reads."""
    actual = np.ones(n, dtype=np.int64)
    a, b = actual.copy(), actual.copy()
    b[:only_a] = 7
    a[only_a : only_a + only_b] = 7
    return actual, a, b


def test_a_table_worked_by_hand():
    actual = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
    a = predictions(actual, (0, 6), (2, 7), (3, 7), (9, 8))  # wrong: a 0, both 1s, a 4
    b = predictions(actual, (0, 5), (4, 7))  # wrong: the same 0 as another digit, a 2
    result = two_models.mcnemar(actual, a, b)
    assert (result["images"], result["a"]["wrong"], result["b"]["wrong"]) == (10, 4, 2)
    assert (result["a"]["accuracy"], result["b"]["accuracy"]) == (0.6, 0.8)
    assert (result["only_a_right"], result["only_b_right"], result["read_differently"]) == (1, 3, 5)
    # Of 4 images that one alone reads correctly: 2 (C(4,0) + C(4,1)) / 2^4 = 10/16.
    assert result["p_value"] == pytest.approx(0.625)
    # Wilson, z = 1.959964, 6 of 10: (0.6 + z²/20 ± z sqrt(0.024 + z²/400)) / (1 + z²/10).
    assert result["a"]["interval_95"] == pytest.approx((0.3127, 0.8318), abs=1e-4)
    # Recalls of a: 1/2, 0, 1, 1, 1/2; of b: 1/2, 1, 1/2, 1, 1.
    assert [result[letter]["balanced_accuracy"] for letter in "ab"] == [0.6, 0.8]
    assert result["classes"][0] == {"class": 1, "images": 2, "only_a_right": 0, "only_b_right": 2}
    assert sum(row["only_b_right"] for row in result["classes"]) == 3


@pytest.mark.parametrize(
    ("only_a", "only_b", "expected"),
    [
        (9, 14, "B is better on 14 images and worse on 9; a difference this small is expected by "
                "chance (p = 0.40)."),
        (14, 9, "A is better on 14 images and worse on 9; a difference this small is expected by "
                "chance (p = 0.40)."),
        (5, 14, "B is better on 14 images and worse on 5; a difference this small may well be "
                "chance (p = 0.064)."),
        (4, 14, "B is better on 14 images and worse on 4; a difference this large is hardly chance "
                "(p = 0.031)."),
        (0, 40, "B is better on 40 images and worse on 0; a difference this large is hardly chance "
                "(p < 0.0001)."),
        (9, 10, "B is better on 10 images and worse on 9; a difference this small is expected by "
                "chance (p = 1.0)."),
        (9, 9, "Each reads 9 images correctly that the other does not: neither is better."),
        (0, 0, "A and B read all 100 images alike: nothing tells them apart."),
    ],
)  # fmt: skip
def test_the_sentence(only_a, only_b, expected):
    assert two_models.sentence(two_models.mcnemar(*readings(only_a, only_b))) == expected


def test_mistakes_that_differ_are_not_called_alike():
    actual = np.array([1, 2, 3])
    result = two_models.mcnemar(actual, np.array([1, 2, 4]), np.array([1, 2, 5]))
    expected = "Each reads no image correctly that the other does not: neither is better."
    assert two_models.sentence(result) == expected


def test_images_that_both_have_are_compared_wherever_they_stand():
    """Equal images count as often as both have them; a corrected label is another question."""
    a = parse(f"{HEADER}\n0,aa,x,x,1\n1,bb,x,y,1\n2,bb,x,x,1\n3,cc,y,y,1\n", "A")
    b = parse(f"{HEADER}\n0,cc,x,y,1\n1,bb,x,x,1\n2,dd,y,y,1\n3,aa,x,y,1\n", "B")

    actual, predicted_a, predicted_b = two_models.shared(a, b)

    assert actual.tolist() == ["x", "x"]  # aa and the first bb; cc was relabelled
    assert predicted_a.tolist() == ["x", "y"]
    assert predicted_b.tolist() == ["y", "x"]
