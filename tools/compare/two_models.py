"""Compare two trained models on the test images that both read, image by image."""

import numpy as np
from numpy.typing import NDArray

from cnn.base.errors import UserError
from cnn.results.intervals import mean_share, wilson_interval
from tools.compare.runs import PREDICTIONS, Predictions
from tools.compare.verdict import chance, columns

MOST_CHANGED = 3  # classes that the text names


def shared(a: Predictions, b: Predictions) -> tuple[NDArray, NDArray, NDArray]:
    """Return actual, A's and B's class of the images that both were tested on, str (n,) each.

    An image whose class was corrected between the two is left out: they were asked another thing.
    """
    keys = [key for key, actual in a.actual.items() if b.actual.get(key) == actual]
    return tuple(
        np.array([names[key] for key in keys]) for names in (a.actual, a.predicted, b.predicted)
    )


def mcnemar(actual: NDArray, predicted_a: NDArray, predicted_b: NDArray) -> dict[str, object]:
    """Compare two models' readings of the same n images; McNemar 1947, in its exact form.

    Parameters
    ----------
    actual, predicted_a, predicted_b : (n,), names or numbers of classes.

    Returns
    -------
    Counts, accuracies and balanced ones with their intervals, the exact two-sided McNemar p-value
    (of images that just one model reads correctly, the share that is B's, against a half), and the
    classes by change.
    """
    from scipy.stats import binomtest

    n = len(actual)
    right_a, right_b = predicted_a == actual, predicted_b == actual
    only_a, only_b = right_a & ~right_b, right_b & ~right_a
    discordant = int(only_a.sum() + only_b.sum())
    classes = [
        {
            "class": name.item(),
            "images": int((actual == name).sum()),
            "only_a_right": int(only_a[actual == name].sum()),
            "only_b_right": int(only_b[actual == name].sum()),
        }
        for name in np.unique(actual)
    ]
    classes.sort(key=lambda row: -abs(row["only_b_right"] - row["only_a_right"]))
    return {
        "images": n,
        **{
            name: {
                "wrong": n - int(right.sum()),
                "accuracy": float(right.mean()),
                "interval_95": wilson_interval(int(right.sum()), n),
                **balanced(actual, right),
            }
            for name, right in (("a", right_a), ("b", right_b))
        },
        "read_differently": int((predicted_a != predicted_b).sum()),
        "only_a_right": int(only_a.sum()),
        "only_b_right": int(only_b.sum()),
        "p_value": binomtest(int(only_b.sum()), discordant).pvalue if discordant else 1.0,
        "classes": classes,
    }


def balanced(actual: NDArray, right: NDArray[np.bool_]) -> dict[str, object]:
    """Return the mean of the classes' recalls with its interval; right : (n,), which were read."""
    each = [right[actual == name] for name in np.unique(actual)]
    mean, low, high = mean_share([int(some.sum()) for some in each], list(map(len, each)))
    return {"balanced_accuracy": mean, "balanced_interval_95": (low, high)}


def sentence(result: dict) -> str:
    """Return what `compare` found, as one sentence."""
    only_a, only_b, p = result["only_a_right"], result["only_b_right"], result["p_value"]
    if not result["read_differently"]:
        return f"A and B read all {result['images']:,} images alike: nothing tells them apart."
    if only_a == only_b:
        count = f"{only_a:,} images" if only_a else "no image"
        return f"Each reads {count} correctly that the other does not: neither is better."
    better = "B" if only_b > only_a else "A"
    return (
        f"{better} is better on {max(only_a, only_b):,} images and worse on "
        f"{min(only_a, only_b):,}; {chance(p)}."
    )


def compare(a: Predictions, b: Predictions, names: tuple[str, str]) -> dict:
    """Return the result of `mcnemar` on the images that both have, and a sentence.

    Raises
    ------
    UserError
        They share no image.
    """
    actual, predicted_a, predicted_b = shared(a, b)
    if not len(actual):
        raise UserError(
            f"{PREDICTIONS}: '{names[0]}' and '{names[1]}' share no test image; "
            "compare revisions whose test sets overlap"
        )
    result = mcnemar(actual, predicted_a, predicted_b)
    result["a"]["test_images"], result["b"]["test_images"] = len(a.actual), len(b.actual)
    return result | {"sentence": sentence(result)}


def table(result: dict) -> str:
    """Return the numbers behind the sentence, and the sentence, for a terminal of 80 columns."""
    a, b, n = result["a"], result["b"], result["images"]
    rows = [
        ("accuracy", *(f"{model['accuracy']:.2%}" for model in (a, b))),
        ("95 % interval", *("{:.2%} to {:.2%}".format(*model["interval_95"]) for model in (a, b))),
        ("balanced accuracy", *(f"{model['balanced_accuracy']:.2%}" for model in (a, b))),
        (
            "95 % interval",
            *("{:.2%} to {:.2%}".format(*model["balanced_interval_95"]) for model in (a, b)),
        ),
        (f"wrong of {n:,}", *(f"{model['wrong']:,}" for model in (a, b))),
        ("right where the other is wrong", result["only_a_right"], result["only_b_right"]),
    ]
    for row in result["classes"][:MOST_CHANGED]:
        if row["only_a_right"] != row["only_b_right"]:
            title = f"  of these, images of {row['class']}"[:31]
            rows.append((title, row["only_a_right"], row["only_b_right"]))
    lines = [*columns("", result, rows), "", result["sentence"]]
    if not n == a["test_images"] == b["test_images"]:
        lines[:0] = [
            f"Compared on the {n:,} test images that both share "
            f"(A has {a['test_images']:,}, B {b['test_images']:,}).",
            "",
        ]
    return "\n".join(lines)
