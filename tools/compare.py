"""Say whether one model is better than another, and where: two revisions on the same test images.

    python -m tools.compare REV_A [REV_B] [--json]

REV is a commit, a branch, a tag, an experiment's name or `workspace` (the default of REV_B). Reads
reports/predictions.csv of both through DVC, without a checkout; writes nothing.

It compares two trained models. Another seed gives another model of the same recipe, so a verdict
on recipes needs several seeds of each.
"""

import argparse
import json

import numpy as np
from numpy.typing import NDArray

from stages.dataset import DIGITS
from stages.evaluate import wilson_interval
from stages.params import UserError, run

PREDICTIONS = "reports/predictions.csv"
HEADER = "index,actual,predicted,probability"
SIGNIFICANT = 0.05
MOST_CHANGED = 3  # digits that the text names


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


def parse(text: str, name: str) -> NDArray[np.int64]:
    """Return index, actual and predicted digit of each image, (n, 3), from the CSV `text`."""
    header, *lines = text.splitlines() or [""]
    if header != HEADER or not lines:
        raise UserError(f"{name}: is not '{HEADER}' and a row an image; `dvc repro` mends it")
    rows = np.empty((len(lines), 3), dtype=np.int64)
    for number, line in enumerate(lines):
        try:
            *row, probability = line.split(",")
            rows[number] = index, actual, predicted = [int(value) for value in row]
            whole = index == number and 0 <= float(probability) <= 1
        except (ValueError, OverflowError):
            whole = False
        if not (whole and actual in range(DIGITS) and predicted in range(DIGITS)):
            raise UserError(
                f"{name}: line {number + 2} is damaged: {line[:60]!r}; `dvc repro` mends it"
            )
    return rows


def compare(
    actual: NDArray[np.int64], predicted_a: NDArray[np.int64], predicted_b: NDArray[np.int64]
) -> dict[str, object]:
    """Compare two models' readings of the same n images; McNemar 1947, in its exact form.

    Parameters
    ----------
    actual, predicted_a, predicted_b : (n,), 0-9.

    Returns
    -------
    Counts, accuracies with Wilson intervals, the exact two-sided McNemar p-value (of images that
    just one model reads rightly, the share that is B's, against a half), and the digits by change.
    """
    from scipy.stats import binomtest

    n = len(actual)
    right_a, right_b = predicted_a == actual, predicted_b == actual
    only_a, only_b = right_a & ~right_b, right_b & ~right_a
    discordant = int(only_a.sum() + only_b.sum())
    digits = [
        {
            "digit": digit,
            "images": int((actual == digit).sum()),
            "only_a_right": int(only_a[actual == digit].sum()),
            "only_b_right": int(only_b[actual == digit].sum()),
        }
        for digit in range(DIGITS)
    ]
    digits.sort(key=lambda row: -abs(row["only_b_right"] - row["only_a_right"]))
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
        "digits": digits,
    }


def sentence(result: dict) -> str:
    """Return what `compare` found, as one sentence."""
    only_a, only_b, p = result["only_a_right"], result["only_b_right"], result["p_value"]
    if not result["read_differently"]:
        return f"A and B read all {result['images']:,} images alike: nothing tells them apart."
    if only_a == only_b:
        count = f"{only_a:,} images" if only_a else "no image"
        return f"Each reads {count} rightly that the other does not: neither is better."
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
    for row in result["digits"][:MOST_CHANGED]:
        if row["only_a_right"] != row["only_b_right"]:
            title = f"  of these, images of a {row['digit']}"
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
    if not np.array_equal(a[:, :2], b[:, :2]):
        raise UserError(
            f"{PREDICTIONS}: '{names[0]}' and '{names[1]}' were tested on different images "
            f"({len(a):,} and {len(b):,}); compare revisions with one test set"
        )
    result = compare(a[:, 1], a[:, 2], b[:, 2])
    result["a"]["revision"], result["b"]["revision"] = names
    result["sentence"] = sentence(result)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        print(f"{table(result, names)}\n\n{result['sentence']}")


if __name__ == "__main__":
    raise SystemExit(run(main))
