"""The numbers of two recipes are checked by hand, and the words that follow from them."""

import json
import warnings

import numpy as np
import pytest
from scipy import stats

from tools.compare import two_recipes
from tools.compare.runs import Run

A, B = np.array([0.90, 0.92, 0.94]), np.array([0.93, 0.93, 0.95])
TESTED = {(f"{image}", 1): "7" for image in range(1000)}
# Two degrees of freedom have a closed form: P(|T| > t) = 1 - t / sqrt(2 + t²); so 5 % lie beyond
# t = sqrt(2 · 0.95² / (1 - 0.95²)) = 4.302653.
T_2 = 4.302653


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def runs(accuracies, seeds=None, **others) -> list[Run]:
    """Return runs with errors of 1,000 images and, by name, further metrics."""
    seeds = range(42, 42 + len(accuracies)) if seeds is None else seeds
    columns = {"accuracy": accuracies, "errors": [1000 - round(1000 * a) for a in accuracies]}
    return [
        Run(f"run-{seed}", seed, {}, dict(zip([*columns, *others], row, strict=True)), TESTED)
        for seed, *row in zip(seeds, *columns.values(), *others.values(), strict=True)
    ]


def test_a_set_by_hand():
    # Deviations of 0.02 either way: sqrt((0.02² + 0 + 0.02²) / 2) = 0.02.
    found = two_recipes.summary(A)
    assert (found["n"], found["mean"]) == (3, pytest.approx(0.92))
    assert found["standard_deviation"] == pytest.approx(0.02)
    half = T_2 * 0.02 / np.sqrt(3)
    assert found["interval_95"] == pytest.approx([0.92 - half, 0.92 + half])


def test_a_set_of_one_has_no_spread():
    expected = {"n": 1, "mean": 0.5, "standard_deviation": None, "interval_95": None}
    assert two_recipes.summary(np.array([0.5])) == expected


def test_pairs_by_hand():
    # B - A is 0.03, 0.01, 0.01: mean 0.05 / 3, deviation sqrt((4 + 1 + 1) / 9 · 0.0002)
    # = sqrt(0.0004 / 3), of the mean sqrt(0.0004) / 3 = 0.02 / 3; t = 0.05 / 0.02 = 2.5.
    found = two_recipes.difference(A, B, paired=True)
    assert found["mean"] == pytest.approx(0.05 / 3)
    assert found["degrees_of_freedom"] == 2
    assert found["p_value"] == pytest.approx(1 - 2.5 / np.sqrt(8.25))
    half = T_2 * 0.02 / 3
    assert found["interval_95"] == pytest.approx([0.05 / 3 - half, 0.05 / 3 + half])


def test_welch_by_hand():
    # Variances of the means: 0.0004 / 3 and 0.0002 / 2, as 4 to 3. Degrees of freedom:
    # (4 + 3)² / (4² / 2 + 3² / 1) = 49 / 17.
    found = two_recipes.difference(A, np.array([0.93, 0.95]), paired=False)
    assert found["mean"] == pytest.approx(0.02)
    assert found["degrees_of_freedom"] == pytest.approx(49 / 17)
    assert found["p_value"] == pytest.approx(
        2 * stats.t.sf(0.02 / np.sqrt(0.0004 / 3 + 0.0001), 49 / 17)
    )


def test_one_against_three_by_hand():
    # Deviation 0.02 · sqrt(1 + 1 / 3); t = 0.01 / that = sqrt(3 / 16); t² + 2 = 35 / 16.
    for a, b, mean in [(A, np.array([0.93]), 0.01), (np.array([0.91]), A, 0.01)]:
        found = two_recipes.difference(a, b, paired=False)
        assert found["mean"] == pytest.approx(mean)
        assert found["degrees_of_freedom"] == 2
        assert found["p_value"] == pytest.approx(1 - np.sqrt(3 / 35))


@pytest.mark.parametrize("paired", [True, False])
def test_values_that_do_not_vary(paired):
    """A third of them is no binary fraction: rounding must not pass for a spread."""
    a = np.array([0.9934, 0.9934, 0.9934])
    same = two_recipes.difference(a, a.copy(), paired)
    assert (same["mean"], same["interval_95"], same["p_value"]) == (0, [0, 0], 1)
    other = two_recipes.difference(a, a - 0.0001, paired)
    assert (other["mean"], other["interval_95"], other["p_value"]) == (-0.0001, None, None)
    shifted = two_recipes.difference(A, A + 0.0001, paired=True)
    assert (shifted["mean"], shifted["p_value"]) == (0.0001, None)


@pytest.mark.parametrize(
    ("seeds_a", "seeds_b", "test", "why"),
    [
        ([1, 2, 3], [1, 2, 3], "paired", "Paired t-test: both sets have the same 3 seeds."),
        ([1, 2, 3], [2, 3, 4], "welch",
         "Welch's t-test, not paired: the sets share only 2 of their 3 and 3 seeds."),
        ([1, 2, 3], [7, 8], "welch", "Welch's t-test, not paired: the sets share no seed."),
        ([1, 1, 2], [1, 1, 2], "welch",
         "Welch's t-test, not paired: the sets share only 2 of their 3 and 3 seeds."),
        ([None, None], [None, None], "welch",
         "Welch's t-test, not paired: the sets share no seed."),
        ([1], [1, 2, 3], "student", "Student's t-test of one run against 3, whose spread is used."),
    ],
)  # fmt: skip
def test_the_test_is_chosen_by_the_seeds(seeds_a, seeds_b, test, why):
    a, b = ([Run("x", seed, {}, {}, {}) for seed in seeds] for seeds in (seeds_a, seeds_b))
    assert two_recipes.choose_test(a, b) == (test, why)


def test_the_metrics_are_those_that_all_have_without_the_ends_of_intervals():
    a = runs(
        [0.9, 0.92], log_loss=[0.3, 0.2], accuracy_low=[0.8, 0.8], accuracy_high=[1, 1], x=[1, 2]
    )
    b = runs([0.91, 0.93, 0.95], log_loss=[0.2, 0.2, 0.1], y=[1, 2, 3])

    result = two_recipes.compare(a, b)

    assert list(result["difference"]) == ["accuracy", "errors", "log_loss"]
    assert result["a"]["runs"][1] == {
        "name": "run-43", "seed": 43, "accuracy": 0.92, "errors": 80, "log_loss": 0.2
    }  # fmt: skip
    assert result["b"]["metrics"]["errors"]["mean"] == 70
    assert (result["test"], result["images"]) == ("welch", 1000)
    json.dumps(result, allow_nan=False)


SPREAD = [0.0, 0.001, -0.001, 0.002, -0.002]


@pytest.mark.parametrize(
    ("shifts", "expected"),
    [
        ([0.010, 0.011, 0.009, 0.010, 0.010],
         "B is better by 10.0 of 1,000 images on average; a difference this large is hardly chance "
         "(p < 0.0001)."),
        ([-0.010, -0.011, 0.001, -0.002, 0],
         "A is better by 4.4 of 1,000 images on average; a difference this small may well be "
         "chance (p = 0.16)."),
        ([0.010, -0.011, 0.001, 0.002, 0],
         "B is better by 0.4 of 1,000 images on average; a difference this small is expected by "
         "chance (p = 0.91)."),
        ([0.001, -0.001, 0, 0, 0],
         "A and B read equally many images correctly on average: neither is better."),
        ([0, 0, 0, 0, 0],
         "A and B read equally many images correctly on average: neither is better."),
        ([0.001] * 5,
         "B is better by 1.0 of 1,000 images on average; the difference never varies, so chance "
         "cannot be judged."),
    ],
)  # fmt: skip
def test_the_sentence(shifts, expected):
    a = [0.95 + change for change in SPREAD]
    b = [round(value + shift, 6) for value, shift in zip(a, shifts, strict=True)]
    assert two_recipes.compare(runs(a), runs(b))["sentence"] == expected


@pytest.mark.parametrize("b", [[0.93, 0.93, 0.95], [0.93], [0.94, 0.94]])
def test_the_table_fits_a_terminal_and_says_all(b):
    result = two_recipes.compare(
        runs(list(A), log_loss=[0.3, 0.2, 0.1]), runs(b, log_loss=[0.1] * len(b))
    )

    result["a"]["revision"] = "a-name-that-is-much-longer-than-a-column-*"
    result["b"]["revision"] = "b-*"

    table = two_recipes.table(result)

    lines = table.splitlines()
    assert max(map(len, lines)) <= 80
    assert "nan" not in table
    assert lines[0].split()[:4] == ["mean", "±", "standard", "deviation"]
    assert lines[1].split() == ["runs", "3", str(len(b))]
    assert "92.000% ± 2.000%" in lines[2]
    starts = ["accuracy", "95", "errors", "95", "log_loss", "95"]
    assert [line.split()[0] for line in lines[2:8]] == starts
    assert " ".join(table.split()).endswith(f"{result['why']} {result['sentence']}")


def test_the_table_of_pairs_by_hand():
    result = two_recipes.compare(runs(list(A)), runs(list(B)))
    result["a"]["revision"], result["b"]["revision"] = "a", "b"
    rows = [line.split() for line in two_recipes.table(result).splitlines()]
    # In per cent: 5 / 3 ± 4.302653 · 2 / 3; p = 1 - 2.5 / sqrt(8.25) = 0.1296.
    assert ["accuracy,", "%", "points", "+1.667", "-1.202", "to", "+4.535", "0.13"] in rows
    assert ["errors", "-16.7", "-45.4", "to", "+12.0", "0.13"] in rows
