"""Say whether one model is better than another, and where: two revisions on shared test images.

    python -m tools.compare REV_A [REV_B] [--json]

REV is a commit, a branch, a tag, an experiment's name or `workspace` (the default of REV_B). Reads
reports/predictions.csv of both through DVC, without a checkout; writes nothing.

It compares two trained models. Another seed gives another model of the same recipe, so a verdict
on recipes needs several seeds of each.
"""

import argparse
import csv
import json
from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnn.errors import UserError, run
from cnn.intervals import wilson_interval

PREDICTIONS = "reports/predictions.csv"
HEADER = ["index", "image", "actual", "predicted", "probability"]
SIGNIFICANT = 0.05
MOST_CHANGED = 3  # classes that the text names


def read_text(revision: str) -> str:
    """Return the text of PREDICTIONS in `revision`, from Git, the cache or the workspace."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import resolve_rev

    if not revision or ":" in revision:  # Git would take these for HEAD and for a folder
        raise UserError(f"'{revision}': unknown Git revision")
    try:
        with Repo() as repo:
            commit = None if revision == "workspace" else resolve_rev(repo.scm, revision)
            return DVCFileSystem(repo.root_dir, rev=commit).read_text(PREDICTIONS, encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{PREDICTIONS}: not in '{revision}'; `dvc repro` writes it, and a commit keeps it"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{PREDICTIONS} of '{revision}': is not text; restore it") from None
    except (DvcException, OSError) as error:
        raise UserError(f"'{revision}': {' '.join(str(error).split())}") from None


class Reading(NamedTuple):
    """What one model read, by the image's fingerprint and which of equal images it is."""

    actual: dict[tuple[str, int], str]
    predicted: dict[tuple[str, int], str]


def parse(text: str, name: str) -> Reading:
    """Return what the CSV `text` says of each image.

    Raises
    ------
    UserError
        Naming `name` and the first line that is damaged.
    """
    rows = csv.reader(text.splitlines())
    if next(rows, None) != HEADER:
        raise UserError(f"{name}: does not start with '{','.join(HEADER)}'; `dvc repro` mends it")
    reading, seen = Reading({}, {}), Counter()
    for number, row in enumerate(rows):
        try:
            index, image, actual, predicted, probability = row
            whole = int(index) == number and 0 <= float(probability) <= 1
        except ValueError:
            whole = False
        if not (whole and image and actual and predicted):
            raise UserError(
                f"{name}: line {number + 2} is damaged: {','.join(row)[:60]!r}; "
                "`dvc repro` mends it"
            )
        seen[image] += 1
        reading.actual[image, seen[image]] = actual
        reading.predicted[image, seen[image]] = predicted
    if not reading.actual:
        raise UserError(f"{name}: has no row per image; `dvc repro` mends it")
    return reading


def shared(a: Reading, b: Reading) -> tuple[NDArray, NDArray, NDArray]:
    """Return actual, A's and B's class of the images that both were tested on, str (n,) each.

    An image whose class was corrected between the two is left out: they were asked another thing.
    """
    keys = [key for key, actual in a.actual.items() if b.actual.get(key) == actual]
    return tuple(
        np.array([names[key] for key in keys]) for names in (a.actual, a.predicted, b.predicted)
    )


def compare(actual: NDArray, predicted_a: NDArray, predicted_b: NDArray) -> dict[str, object]:
    """Compare two models' readings of the same n images; McNemar 1947, in its exact form.

    Parameters
    ----------
    actual, predicted_a, predicted_b : (n,), names or numbers of classes.

    Returns
    -------
    Counts, accuracies with Wilson intervals, the exact two-sided McNemar p-value (of images that
    just one model reads correctly, the share that is B's, against a half), and the classes by
    change.
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
            }
            for name, right in (("a", right_a), ("b", right_b))
        },
        "read_differently": int((predicted_a != predicted_b).sum()),
        "only_a_right": int(only_a.sum()),
        "only_b_right": int(only_b.sum()),
        "p_value": binomtest(int(only_b.sum()), discordant).pvalue if discordant else 1.0,
        "classes": classes,
    }


def sentence(result: dict) -> str:
    """Return what `compare` found, as one sentence."""
    only_a, only_b, p = result["only_a_right"], result["only_b_right"], result["p_value"]
    if not result["read_differently"]:
        return f"A and B read all {result['images']:,} images alike: nothing tells them apart."
    if only_a == only_b:
        count = f"{only_a:,} images" if only_a else "no image"
        return f"Each reads {count} correctly that the other does not: neither is better."
    better = "B" if only_b > only_a else "A"
    size, verdict = (
        ("large", "is hardly chance")
        if p < SIGNIFICANT
        else ("small", "is expected by chance" if p > 0.2 else "may well be chance")
    )
    value = f"= {p:#.2g}" if p >= 0.0001 else "< 0.0001"
    return (
        f"{better} is better on {max(only_a, only_b):,} images and worse on "
        f"{min(only_a, only_b):,}; a difference this {size} {verdict} (p {value})."
    )


def table(result: dict, names: tuple[str, str]) -> str:
    """Return the numbers behind the sentence, for a terminal of 80 columns."""
    models = (result["a"], result["b"])
    intervals = [model["interval_95"] for model in models]
    rows = [
        ("", *(f"{letter}: {name}"[:22] for letter, name in zip("AB", names, strict=True))),
        ("accuracy", *(f"{model['accuracy']:.2%}" for model in models)),
        ("95 % interval", *(f"{low:.2%} to {high:.2%}" for low, high in intervals)),
        (f"wrong of {result['images']:,}", *(f"{model['wrong']:,}" for model in models)),
        ("right where the other is wrong", result["only_a_right"], result["only_b_right"]),
    ]
    for row in result["classes"][:MOST_CHANGED]:
        if row["only_a_right"] != row["only_b_right"]:
            title = f"  of these, images of {row['class']}"[:31]
            rows.append((title, row["only_a_right"], row["only_b_right"]))
    return "\n".join(f"{title:32}{a!s:>22}  {b!s:>22}" for title, a, b in rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("a", metavar="REV_A", help="commit, branch, tag or experiment")
    parser.add_argument("b", metavar="REV_B", nargs="?", default="workspace", help="as REV_A")
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_args(argv)
    names = (arguments.a, arguments.b)
    a, b = (parse(read_text(name), f"{PREDICTIONS} of '{name}'") for name in names)
    actual, predicted_a, predicted_b = shared(a, b)
    if not len(actual):
        raise UserError(
            f"{PREDICTIONS}: '{names[0]}' and '{names[1]}' share no test image; "
            "compare revisions whose test sets overlap"
        )
    result = compare(actual, predicted_a, predicted_b)
    result["a"]["test_images"], result["b"]["test_images"] = len(a.actual), len(b.actual)
    result["a"]["revision"], result["b"]["revision"] = names
    result["sentence"] = sentence(result)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        n = result["images"]
        if not n == len(a.actual) == len(b.actual):
            print(
                f"Compared on the {n:,} test images that both share "
                f"(A has {len(a.actual):,}, B {len(b.actual):,}).\n"
            )
        print(f"{table(result, names)}\n\n{result['sentence']}")


if __name__ == "__main__":
    raise SystemExit(run(main))
