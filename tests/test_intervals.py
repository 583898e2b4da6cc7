"""The intervals are those of the published formulas, and hold what they should."""

import math

import numpy as np
import pytest

from cnn.results.intervals import mean_share, small_classes, wilson_interval


@pytest.mark.parametrize(("right", "n"), [(9935, 10_000), (8, 10), (0, 10), (10, 10)])
@pytest.mark.parametrize(("confidence", "z"), [(0.95, 1.959963984540054), (0.99, 2.5758293035489)])
def test_the_wilson_interval_is_wilsons_formula(right, n, confidence, z):
    share = right / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))

    low, high = wilson_interval(right, n, confidence)

    assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-12)


def test_the_interval_of_a_mean_of_shares_is_price_and_bonetts():
    """Of 3 of 4 and 9 of 10, by hand: one success and one failure more each."""
    one, other = 4 / 6, 10 / 12
    half = 1.959963984540054 / 2 * math.sqrt(one * (1 - one) / 6 + other * (1 - other) / 12)

    assert mean_share([3, 9], [4, 10]) == pytest.approx(
        ((3 / 4 + 9 / 10) / 2, (one + other) / 2 - half, min(1, (one + other) / 2 + half))
    )


@pytest.mark.parametrize("n", [[712, 6], [10] * 10, [200] * 13 + [5] * 13])
def test_a_mean_of_shares_without_a_mistake_is_not_certain(n):
    mean, low, high = mean_share(n, n)

    assert (mean, high) == (1, 1)
    assert low < 1 - 0.5 / sum(n)


@pytest.mark.parametrize(
    ("n", "shares"),
    [([1000] * 10, [0.99] * 10), ([712, 6], [0.99, 0.5]), ([500, 50, 5], [0.98, 0.9, 0.7])],
)
def test_the_interval_of_a_mean_of_shares_holds_it_about_as_often_as_it_says(n, shares):
    drawn = np.random.default_rng(0).binomial(n, shares, (1000, len(n))).tolist()
    intervals = [mean_share(right, n)[1:] for right in drawn]

    held = sum(low <= np.mean(shares) <= high for low, high in intervals)

    assert 900 <= held <= 990


def test_classes_with_few_test_images_are_named_the_fewest_first():
    assert small_classes({"ant": 20, "bee": 980}) == ""
    assert small_classes({"ant": 19, "bee": 980, "cat": 3}) == (
        "2 of 3 classes have fewer than 20 test images (cat 3, ant 19): what is measured of such a "
        "class alone says little"
    )
    assert "(c0 1, c1 1, c2 1 and 97 more)" in small_classes({f"c{n}": 1 for n in range(100)})
