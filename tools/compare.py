"""Say whether one model is better than another, and where; or one recipe, from several seeds.

    python -m tools.compare A [B] [--json]
    python -m tools.compare 'fast-*' 'default-*' [--json] [--picture [PATH.png]]

A and B are commits, branches, tags, experiments, `workspace` (the default of B), or patterns that
match the names of experiments, branches and tags. Reads what both have on record through DVC,
without a checkout; writes nothing but the picture that it is asked for.

Two runs are two trained models, compared image by image on the test images that both share.
Another seed gives another model of the same recipe: a verdict on recipes takes a pattern that
matches several runs, and compares their means.
"""

import argparse
import json
import sys

import numpy as np
from numpy.typing import NDArray

from cnn.errors import UserError, run
from cnn.intervals import wilson_interval
from tools import groups
from tools.revisions import PREDICTIONS, Reading, matching, parse, read_texts
from tools.runs import Run, distinct, in_both, read_run, unlike

MOST_CHANGED = 3  # classes that the text names
PICTURE = "dvc_plots/compare.png"  # beside what `dvc plots` draws; Git ignores it


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
    return (
        f"{better} is better on {max(only_a, only_b):,} images and worse on "
        f"{min(only_a, only_b):,}; {groups.chance(p)}."
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


def compare_two(names: tuple[str, str], as_json: bool) -> None:
    """Compare two trained models image by image, and print what was found."""
    a, b = (parse(read_texts(name, PREDICTIONS)[0], f"{PREDICTIONS} of '{name}'") for name in names)
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
    if as_json:
        print(json.dumps(result, indent=2))
    else:
        n = result["images"]
        if not n == len(a.actual) == len(b.actual):
            print(
                f"Compared on the {n:,} test images that both share "
                f"(A has {len(a.actual):,}, B {len(b.actual):,}).\n"
            )
        print(f"{table(result, names)}\n\n{result['sentence']}")


def compare_sets(
    sets: list[list[Run]],
    patterns: tuple[str, str],
    warnings: list[str],
    as_json: bool,
    picture: str | None,
) -> None:
    """Compare two recipes, several runs of at least one, and print what was found."""
    result = groups.compare(*sets)
    result["a"]["revision"], result["b"]["revision"] = patterns
    result["warnings"] = warnings + (in_both(*sets) if result["test"] != "paired" else [])
    if picture:
        from tools import strip_plot

        strip_plot.save(result, picture)
        result["picture"] = picture
    if as_json:
        print(json.dumps(result, indent=2))
        return
    for warning in result["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print(groups.table(result, patterns))
    if picture:
        print(f"\nThe runs are drawn in {picture}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "a",
        metavar="A",
        help="commit, branch, tag or experiment, or a quoted pattern such as 'x-*'",
    )
    parser.add_argument("b", metavar="B", nargs="?", default="workspace", help="as A")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--picture",
        metavar="PATH.png",
        nargs="?",
        const=PICTURE,
        help=f"draw the runs of two sets; without a path into {PICTURE}",
    )
    arguments = parser.parse_args(argv)
    picture = arguments.picture
    if picture and not picture.endswith(".png"):
        raise UserError(f"--picture is '{picture}'; allowed: a path that ends with .png")
    patterns = (arguments.a, arguments.b)
    names = [matching(pattern) for pattern in patterns]
    if any(len(found) > 1 for found in names):
        read = [distinct([read_run(name) for name in found]) for found in names]
        sets = [runs for runs, _ in read]
        if any(len(runs) > 1 for runs in sets):
            warnings = [line for runs, told in read for line in told + unlike(runs)]
            compare_sets(sets, patterns, warnings, arguments.json, picture)
            return
        names = [[runs[0].name] for runs in sets]
    if picture:
        raise UserError("--picture draws several runs; name them by a pattern such as 'fast-*'")
    compare_two((names[0][0], names[1][0]), arguments.json)


if __name__ == "__main__":
    raise SystemExit(run(main))
