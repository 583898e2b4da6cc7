"""Nothing is claimed where nothing is better, and what is better is found."""

import numpy as np
import pytest

from tools.search import winner

SEEDS = 5


def searched(rng, candidates: int, better: float, shared: float) -> winner.Verdict:
    """Choose and judge made-up accuracies; those of one training share a part of their luck."""
    names = ["default", *(f"trial {number}" for number in range(candidates))]
    validation, tested = {}, {}
    for name in names:
        luck = rng.normal(size=SEEDS)
        gain = better if name != "default" else 0
        for accuracies in (validation, tested):
            own = rng.normal(size=SEEDS)
            mixed = np.sqrt(shared) * luck + np.sqrt(1 - shared) * own
            accuracies[name] = 0.99 + gain + 0.0005 * mixed
    default = tested["default"]
    validation.pop("default")
    name = winner.choose(validation)
    return winner.judge(default, tested[name], candidates)


@pytest.mark.parametrize("candidates", [1, 3, 10])
@pytest.mark.parametrize("shared", [0, 0.5, 1])
def test_at_most_one_claim_in_twenty_is_false_where_nothing_is_better(candidates, shared):
    rng = np.random.default_rng(candidates)
    claims = [searched(rng, candidates, 0, shared).better for _ in range(1500)]
    assert np.mean(claims) <= winner.LEVEL


def test_without_the_correction_more_would_be():
    """The simulation notices a rule that fools itself."""
    rng, claims = np.random.default_rng(0), 0
    for _ in range(1500):
        verdict = searched(rng, 10, 0, 1)
        claims += verdict.p / verdict.looked_at < winner.LEVEL and verdict.mean > 0
    assert claims / 1500 > 2 * winner.LEVEL


def test_what_is_clearly_better_is_claimed():
    rng = np.random.default_rng(1)
    claims = [searched(rng, 3, 0.003, 0.5).better for _ in range(100)]
    assert np.mean(claims) > 0.9


def test_the_numbers_are_students_and_bonferronis():
    from scipy import stats

    default = np.array([0.990, 0.991, 0.992, 0.990, 0.991])
    other = np.array([0.992, 0.992, 0.994, 0.991, 0.994])
    test = stats.ttest_rel(other, default)
    low, high = test.confidence_interval(1 - 0.05 / 3)

    verdict = winner.judge(default, other, 3)

    assert verdict.p == pytest.approx(3 * test.pvalue)
    assert (verdict.low, verdict.high) == pytest.approx((low, high))
    assert verdict.mean == pytest.approx(0.0018)
    assert winner.sentence("trial 7", verdict, 10_000, 5) == (
        "trial 7 reads 18.0 more of 10,000 test images correctly than the default, mean of 5 "
        f"seeds (+0.180 points, 98.3 % interval {100 * low:+.3f} to {100 * high:+.3f}, "
        f"p {verdict.p:#.2g} corrected for 3 candidates): it is "
        f"{'' if verdict.better else 'not shown to be '}better."
    )


def test_what_is_shown_to_be_worse_is_called_worse():
    default = np.array([0.990, 0.991, 0.992, 0.990, 0.991])
    verdict = winner.judge(default, default - np.array([4, 5, 4, 5, 4]) / 1000, 3)

    assert not verdict.better
    assert winner.sentence("trial 7", verdict, 10_000, 5).endswith("it is worse.")


def test_where_nothing_varies_nothing_is_claimed():
    same = np.full(5, 0.99)
    assert not winner.judge(same, same + 0.001, 1).better
    assert winner.judge(same, same, 1).p == 1


def test_the_best_mean_is_chosen():
    assert winner.choose({"a": np.array([0.9, 0.8]), "b": np.array([0.86, 0.86])}) == "b"
