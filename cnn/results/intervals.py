"""How far a share could be from what was counted; apart, since a tool needs no pandas for it."""


def wilson_interval(right: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share (Wilson 1927), as SciPy computes it."""
    from scipy.stats import binomtest

    interval = binomtest(right, n).proportion_ci(confidence, method="wilson")
    return interval.low, interval.high
