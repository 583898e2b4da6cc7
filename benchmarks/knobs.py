"""What does each parameter of the recipe `accurate` do?

    python -m benchmarks.knobs [--rounds 5]

Trains the recipe, 10 epochs of it, with one parameter at a time back at its default in params.yaml,
a seed per round. Writes results/knobs.csv.
"""

import statistics

from benchmarks.rows import (
    FIRST_SEED,
    Rows,
    append,
    last_line,
    markdown,
    names,
    of,
    ours,
    pairs,
    parser,
    ranged,
    ratios,
    spread,
)
from cnn.errors import run
from cnn.params import read_yaml
from tools import recipe

WITH = "all"
KNOBS = (
    "shift",
    "rotation",
    "shear",
    "scale",
    "dropout",
    "weight_decay",
    "averaging",
    "beta_2",
)


def measure(rounds: int) -> Rows:
    """Return the rows of knobs.csv, measured anew."""
    defaults = read_yaml("params.yaml")["train"]
    base = recipe.load("accurate")["train"] | {"epochs": 10}
    rows: Rows = []
    for number in range(1, rounds + 1):
        seed = FIRST_SEED + number - 1
        for knob in (WITH, *KNOBS):
            settings = base if knob == WITH else base | {knob: defaults[knob]}
            result = last_line(ours(**settings | {"seed": seed}))
            append(
                "knobs",
                rows,
                round=number,
                seed=seed,
                candidate=knob,
                seconds=round(result["training"], 2),
                accuracy=result["accuracy"],
            )
    return rows


def table(rows: Rows) -> str:
    """Return the table of knobs.csv: what each parameter gains in accuracy and costs in time."""
    lines = []
    for knob in names(rows):
        if knob != WITH:
            gains = [100 * (a - b) for a, b in pairs(rows, WITH, knob, "accuracy")]
            gained = f"{statistics.mean(gains):+z.2f} ({min(gains):+z.2f} to {max(gains):+z.2f})"
            lines.append([f"`{knob}`", gained, f"x {ranged(ratios(rows, WITH, knob))}"])
    accuracies = of(rows, WITH, "accuracy")
    return (
        markdown(["parameter", "test accuracy, points", "training time"], lines)
        + f"\n\nWith all of them {spread(accuracies)}; "
        f"n = {len(accuracies)} seeds."
    )


def main(argv: list[str] | None = None) -> None:
    print(table(measure(parser(__doc__).parse_args(argv).rounds)))


if __name__ == "__main__":
    raise SystemExit(run(main))
