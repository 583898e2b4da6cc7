"""The interval of a share, against Wilson's formula and values worked out by hand."""

import math

import pytest

from cnn.intervals import wilson_interval


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (9935, 10_000, 0.9917244, 0.9948966),
        (8, 10, 0.4901625, 0.9433178),
        (0, 10, 0.0, 0.2775328),
        (10, 10, 0.7224672, 1.0),
    ],
)
def test_the_wilson_interval_by_hand(right, n, low, high):
    assert wilson_interval(right, n) == pytest.approx((low, high), abs=1e-7)


@pytest.mark.parametrize(("confidence", "z"), [(0.95, 1.959963984540054), (0.99, 2.5758293035489)])
def test_the_wilson_interval_is_wilsons_formula(confidence, z):
    share, n = 0.9935, 10_000
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))

    assert wilson_interval(9935, n, confidence) == pytest.approx((middle - half, middle + half))
