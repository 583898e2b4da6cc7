"""Compare two recipes by two sets of runs, several seeds of each."""

import math
import textwrap
import warnings

import numpy as np
from numpy.typing import NDArray

from tools.compare.runs import Run, check_tested
from tools.compare.verdict import chance, columns, p_value

WIDTH = 80
# How a metric is shown: times what, decimals, unit. A mean of accuracies has more digits than one.
SHARE = (100, 3, "%")
FORMS = {"accuracy": SHARE, "balanced_accuracy": SHARE, "errors": (1, 1, "")}
OTHER_FORM = (1, 5, "")


def spread(values: NDArray) -> float:
    """Return the sample standard deviation (n - 1); 0 of equal values, and of a single one."""
    return 0.0 if np.ptp(values) == 0 else float(values.std(ddof=1))


def summary(values: NDArray) -> dict[str, object]:
    """Return n, mean, standard deviation (n - 1) and the mean's 95 % t-interval (Student 1908).

    A single value has neither deviation nor interval: None.
    """
    from scipy.stats import t

    n, mean, deviation = len(values), float(values.mean()), spread(values)
    if n == 1:
        return {"n": 1, "mean": mean, "standard_deviation": None, "interval_95": None}
    half = float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    interval = [mean - half, mean + half]
    return {"n": n, "mean": mean, "standard_deviation": deviation, "interval_95": interval}


def difference(a: NDArray, b: NDArray, paired: bool) -> dict[str, object]:
    """Return the mean of B less that of A, its 95 % interval and the two-sided p-value.

    Paired: Student's t of the differences (Student 1908). Else Welch's t (Welch 1947) with
    Satterthwaite's degrees of freedom. A set of one has no variance of its own: Student's t for two
    samples, in which the other's variance stands for both.

    Parameters
    ----------
    a, b : float (n,) and (m,), two values or more in at least one of them. If `paired`, n = m and
        they stand in the same order.

    Returns
    -------
    `interval_95`, `p_value` and `degrees_of_freedom` are None where the sets differ and neither
    varies: without a variance there is no saying what chance does.
    """
    from scipy import stats

    mean = round(float(b.mean() - a.mean()), 12) + 0.0  # what is not there in decimals is rounding
    found = {"mean": mean, "interval_95": None, "p_value": None, "degrees_of_freedom": None}
    varying = [np.round(b - a, 12)] if paired else [a, b]
    if not any(map(np.ptp, varying)):
        return found if mean else found | {"interval_95": [0.0, 0.0], "p_value": 1.0}
    with warnings.catch_warnings():  # where one of the sets does not vary
        warnings.simplefilter("ignore", RuntimeWarning)
        test = (
            stats.ttest_1samp(varying[0], 0)
            if paired
            else stats.ttest_ind(b, a, equal_var=min(len(a), len(b)) == 1)
        )
    low, high = map(float, test.confidence_interval(0.95))
    return found | {
        "interval_95": [low, high],
        "p_value": float(test.pvalue),
        "degrees_of_freedom": float(test.df),
    }


def choose_test(a: list[Run], b: list[Run]) -> tuple[str, str]:
    """Return 'paired', 'welch' or 'student' for two sets by seed, and a sentence that says why."""
    seeds_a, seeds_b = ([run.seed for run in runs] for runs in (a, b))
    n, m = len(a), len(b)
    if min(n, m) == 1:
        return "student", f"Student's t-test of one run against {max(n, m)}, whose spread is used."
    common = set(seeds_a) & set(seeds_b) - {None}
    if seeds_a == seeds_b and len(common) == n:
        return "paired", f"Paired t-test: both sets have the same {n} seeds."
    few = f"only {len(common)} of their {n} and {m} seeds" if common else "no seed"
    return "welch", f"Welch's t-test, not paired: the sets share {few}."


def compare(a: list[Run], b: list[Run]) -> dict[str, object]:
    """Compare two sets of runs, each by seed, in every metric that all runs have.

    Returns
    -------
    Per set its runs and the `summary` of each metric, the test and why it was taken, and the
    `difference` of each metric.

    Raises
    ------
    UserError
        Two runs were not tested on the same images.
    """
    both = [*a, *b]
    check_tested(both)
    metrics = [
        name
        for name in a[0].metrics
        if all(name in run.metrics for run in both) and not name.endswith(("_low", "_high"))
    ]
    result = {"images": len(a[0].tested)}
    for letter, runs in (("a", a), ("b", b)):
        rows = [{name: run.metrics[name] for name in metrics} for run in runs]
        result[letter] = {
            "runs": [
                {"name": run.name, "seed": run.seed} | row
                for run, row in zip(runs, rows, strict=True)
            ],
            "metrics": {name: summary(column(rows, name)) for name in metrics},
        }
    result["test"], result["why"] = choose_test(a, b)
    runs_a, runs_b = result["a"]["runs"], result["b"]["runs"]
    result["difference"] = {
        name: difference(column(runs_a, name), column(runs_b, name), result["test"] == "paired")
        for name in metrics
    }
    result["sentence"] = sentence(result)
    return result


def column(rows: list[dict], name: str) -> NDArray[np.float64]:
    """Return a metric of each run, (n,)."""
    return np.array([row[name] for row in rows], dtype=np.float64)


def sentence(result: dict) -> str:
    """Return what `compare` found of the accuracy, as one sentence."""
    found = result["difference"]["accuracy"]
    mean, p = found["mean"], found["p_value"]
    if not mean:
        return "A and B read equally many images correctly on average: neither is better."
    images = f"{abs(mean) * result['images']:,.1f} of {result['images']:,} images"
    start = f"{'B' if mean > 0 else 'A'} is better by {images} on average; "
    if p is None:
        return f"{start}the difference never varies, so chance cannot be judged."
    return f"{start}{chance(p)}."


def show(name: str, value: float, sign: str = "") -> str:
    """Return a value of metric `name` in words; with `sign` "+" a difference, without its unit."""
    factor, decimals, unit = FORMS.get(name, OTHER_FORM)
    return f"{factor * value:{sign},.{decimals}f}{'' if sign else unit}"


def span(name: str, interval: list[float] | None, sign: str = "") -> str:
    return " to ".join(show(name, end, sign) for end in interval) if interval else "-"


def table(result: dict) -> str:
    """Return the numbers behind the sentence, and the sentence, for a terminal of 80 columns."""
    sides = result["a"], result["b"]
    rows = [("runs", *(len(side["runs"]) for side in sides))]
    changes = [("B - A", "difference", "95 % interval", "p")]
    for name, found in result["difference"].items():
        means = []
        for side in sides:
            mean, deviation = (side["metrics"][name][key] for key in ("mean", "standard_deviation"))
            spread = "" if deviation is None else f" ± {show(name, deviation)}"
            means.append(f"{show(name, mean)}{spread}")
        intervals = (span(name, side["metrics"][name]["interval_95"]) for side in sides)
        rows += [(name, *means), ("  95 % interval of the mean", *intervals)]
        title = f"{name}, % points" if FORMS.get(name) == SHARE else name
        change, interval = show(name, found["mean"], "+"), span(name, found["interval_95"], "+")
        p = "-" if found["p_value"] is None else p_value(found["p_value"])
        changes.append((title, change, interval, p))
    return "\n".join(
        [
            *columns("mean ± standard deviation", result, rows),
            "",
            *(f"{title:32}{change:>12}{ends:>24}{p:>10}" for title, change, ends, p in changes),
            "",
            textwrap.fill(result["why"], WIDTH),
            "",
            textwrap.fill(result["sentence"], WIDTH),
        ]
    )
