"""The interval of a share is the one of Wilson's formula."""

import math

import pytest

from cnn.results.intervals import wilson_interval


@pytest.mark.parametrize(("right", "n"), [(9935, 10_000), (8, 10), (0, 10), (10, 10)])
@pytest.mark.parametrize(("confidence", "z"), [(0.95, 1.959963984540054), (0.99, 2.5758293035489)])
def test_the_wilson_interval_is_wilsons_formula(right, n, confidence, z):
    share = right / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))

    low, high = wilson_interval(right, n, confidence)

    assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-12)
