"""Which candidate is best, and whether it is better than the default, without fooling oneself."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05  # at most this share of claims is false where nothing is better


class Verdict(NamedTuple):
    """How a winner compares with the default on test images, in shares of them.

    mean, low, high : of the differences by seed; the interval is one of 1 - LEVEL / looked_at.
    p : two-sided, corrected.
    better : whether it may be claimed.
    """

    mean: float
    low: float
    high: float
    p: float
    looked_at: int
    better: bool


def choose(validation: dict[str, NDArray[np.float64]]) -> str:
    """Return the candidate with the highest mean accuracy on validation images, (seeds,) each."""
    return max(validation, key=lambda name: float(validation[name].mean()))


def judge(default: NDArray[np.float64], winner: NDArray[np.float64], looked_at: int) -> Verdict:
    """Compare test accuracies, (seeds,) each, paired by seed.

    Student's t of the differences (Student 1908), its p-value and the interval's error corrected
    for the number of candidates that were looked at (Bonferroni; Dunn 1961). The winner was chosen
    by validation images, and a seed that is lucky there may be lucky on test images too; the
    correction would hold even for one that test images had chosen.
    """
    from scipy.stats import t

    differences = np.round(winner - default, 12)  # what is not there in decimals is rounding
    n, mean = len(differences), float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    if error == 0:  # nothing varies, so chance cannot be judged
        return Verdict(mean, mean, mean, 1.0, looked_at, False)
    half = float(t.ppf(1 - LEVEL / looked_at / 2, n - 1)) * error
    p = min(1.0, looked_at * 2 * float(t.sf(abs(mean) / error, n - 1)))
    return Verdict(mean, mean - half, mean + half, p, looked_at, p < LEVEL and mean > 0)


def sentence(name: str, verdict: Verdict, images: int, seeds: int) -> str:
    """Return the verdict in words."""
    more = "more" if verdict.mean >= 0 else "fewer"
    level = 100 * (1 - LEVEL / verdict.looked_at)
    says = "it is not shown to be better"
    if verdict.p < LEVEL:
        says = "it is better" if verdict.better else "it is worse"
    return (
        f"{name} reads {abs(verdict.mean) * images:,.1f} {more} of {images:,} test images "
        f"correctly than the default, mean of {seeds} seeds ({100 * verdict.mean:+.3f} points, "
        f"{level:.3g} % interval {100 * verdict.low:+.3f} to {100 * verdict.high:+.3f}, "
        f"p {verdict.p:#.2g} corrected for {verdict.looked_at} candidates): {says}."
    )
