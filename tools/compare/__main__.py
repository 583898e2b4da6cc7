"""Say whether one model is better than another, and where; or one recipe, from several seeds.

    python -m tools.compare A [B] [--json]
    python -m tools.compare 'fast-*' 'default-*' [--json] [--picture [PATH.png]]

A and B are commits, branches, tags, experiments, `workspace` (the default of B), or patterns that
match the names of experiments, branches and tags. Reads what Git has of both, without a checkout;
writes nothing but the picture that it is asked for.

Two runs are two trained models, compared image by image on the test images that both share.
Another seed gives another model of the same recipe: a verdict on recipes takes a pattern that
matches several runs, and compares their means.
"""

import argparse
import json
import sys

from cnn.base.errors import UserError
from cnn.base.program import run
from tools.compare import two_models, two_recipes
from tools.compare.revisions import matching
from tools.compare.runs import distinct, in_both, read_predictions, read_run, unlike

PICTURE = "dvc_plots/compare.png"  # where `dvc plots` draws too; Git ignores it


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
        help=f"draw the runs of two recipes; without a path into {PICTURE}",
    )
    arguments = parser.parse_args(argv)
    picture, patterns = arguments.picture, (arguments.a, arguments.b)
    if picture and not picture.endswith(".png"):
        raise UserError(f"--picture is '{picture}'; allowed: a path that ends with .png")
    names = [matching(pattern) for pattern in patterns]
    sets, repeated = [], []
    if any(len(found) > 1 for found in names):
        for found in names:
            runs, lines = distinct([read_run(name) for name in found])
            sets.append(runs)
            repeated.append(lines)
        names = [[run.name for run in runs] for runs in sets]
    if any(len(found) > 1 for found in names):
        result = two_recipes.compare(*sets)
        result["warnings"] = [
            line
            for runs, lines in zip(sets, repeated, strict=True)
            for line in lines + unlike(runs)
        ] + (in_both(*sets) if result["test"] != "paired" else [])
        table = two_recipes.table
    elif picture:
        raise UserError("--picture draws several runs; name them by a pattern such as 'fast-*'")
    else:
        patterns = tuple(found[0] for found in names)
        result = two_models.compare(*map(read_predictions, patterns), patterns)
        table = two_models.table
    result["a"]["revision"], result["b"]["revision"] = patterns
    if picture:
        from tools.compare import strip_plot

        strip_plot.save(result, picture)
        result["picture"] = picture
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    for warning in result.get("warnings", ()):
        print(f"warning: {warning}", file=sys.stderr)
    print(table(result))
    if picture:
        print(f"\nThe runs are drawn in {picture}")


if __name__ == "__main__":
    raise SystemExit(run(main))
