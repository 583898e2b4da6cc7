"""How accurate is the default, or its recipe, on each published data set?

    python -m benchmarks.datasets [--rounds 5] [--only fashion_mnist]

Fetches, prepares, trains and evaluates with the stages themselves, in a temporary folder, each
round with another seed. Writes results/datasets.csv.
"""

import statistics
import tempfile
from pathlib import Path

from benchmarks import harness
from benchmarks.commands import RAW, run_stage, write_params
from benchmarks.harness import FIRST_SEED, Candidate, Rows, markdown, names, of, spread
from cnn.base.errors import UserError
from cnn.base.files import read_json
from cnn.base.program import run
from cnn.published.datasets import PUBLISHED
from tools import recipe

RECIPES = {"fashion_mnist": recipe.load("fashion")["train"]}


def candidate(dataset: str, folder: Path) -> Candidate:
    """Return a data set as a candidate whose files lie in `folder`."""

    def measured(number: int) -> dict[str, object]:
        seed = FIRST_SEED + number - 1
        write_params(
            folder / "params.yaml",
            fetch={"dataset": dataset},
            prepare={"raw": RAW.as_posix()},
            train=RECIPES.get(dataset, {}) | {"seed": seed},
        )
        # What a published data set is split into does not depend on the seed.
        prepared = ("fetch", "prepare") if number == 1 else ()
        for stage in (*prepared, "train", "evaluate"):
            run_stage(stage, folder)
        metrics = read_json(folder / "reports/evaluate/metrics.json")
        return {"seed": seed, **{key: metrics[key] for key in ("accuracy", "log_loss")}}

    return {"dataset": dataset}, measured


def table(rows: Rows) -> str:
    """Return the table of datasets.csv."""
    lines = []
    for dataset in names(rows, "dataset"):
        shares = of(rows, dataset, "accuracy", "dataset")
        lines.append(
            [
                PUBLISHED[dataset].title,
                len(shares),
                spread(shares),
                f"{100 * min(shares):.2f} to {100 * max(shares):.2f} %",
                f"{statistics.mean(of(rows, dataset, 'log_loss', 'dataset')):.4f}",
            ]
        )
    titles = ["", "n", "test accuracy, mean ± standard deviation", "range"]
    seeds = sorted(map(int, names(rows, "seed")))
    return (
        markdown([*titles, "log loss, mean"], lines)
        + f"\n\nn is the number of seeds, {seeds[0]} to {seeds[-1]}."
    )


def cost_and_result(rows: Rows, dataset: str) -> str:
    """Return what a data set's recipe costs and gives, as it states it.

    Raises
    ------
    UserError
        It has not been measured.
    """
    shares = of(rows, dataset, "accuracy", "dataset")
    if not shares:
        raise UserError(f"{harness.path_of('datasets')} has no row of '{dataset}'")
    return f"that of the default; {spread(shares)} (n = {len(shares)} seeds)."


def main(argv: list[str] | None = None) -> None:
    arguments = harness.parser(__doc__).parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        candidates = [candidate(dataset, Path(folder, dataset)) for dataset in PUBLISHED]
        rows = harness.measure("datasets", candidates, arguments.rounds, arguments.only)
    print(table(rows))


if __name__ == "__main__":
    raise SystemExit(run(main))
