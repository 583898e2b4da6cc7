"""How accurate is the default on each published data set?

    python -m benchmarks.datasets [--seeds 5] [--only fashion_mnist]

Fetches, prepares, trains and evaluates with the stages themselves, in a temporary folder, once per
seed from 42 on. Writes results/datasets.csv. A run that the CSV has already is not run
again; delete its row to measure anew.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from benchmarks.rows import (
    FIRST_SEED,
    RAW,
    RESULTS,
    Rows,
    append,
    count,
    markdown,
    names,
    of,
    read,
    spread,
    stage,
    write_params,
)
from cnn.errors import UserError, run
from cnn.files import read_json
from cnn.published import PUBLISHED


def measure(dataset: str, seeds: list[int], rows: Rows) -> None:
    """Add the rows of a data set that are missing among `rows`."""
    done = {(row["dataset"], row["seed"]) for row in rows}
    missing = [seed for seed in seeds if (dataset, str(seed)) not in done]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed in missing:
            write_params(
                folder / "params.yaml",
                fetch={"dataset": dataset},
                prepare={"raw": RAW.as_posix()},
                train={"seed": seed},
            )
            if seed == missing[0]:  # they do not depend on it
                stage("fetch", folder)
                stage("prepare", folder)
            stage("train", folder)
            stage("evaluate", folder)
            metrics = read_json(folder / "reports/evaluate/metrics.json")
            append(
                "datasets",
                rows,
                dataset=dataset,
                seed=seed,
                accuracy=metrics["accuracy"],
                log_loss=metrics["log_loss"],
            )


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
    """Return what the default costs and gives on a data set, as its recipe says it.

    Raises
    ------
    UserError
        It has not been measured.
    """
    shares = of(rows, dataset, "accuracy", "dataset")
    if not shares:
        raise UserError(f"{RESULTS}/datasets.csv has no row of '{dataset}'")
    return f"that of the default; {spread(shares)} (n = {len(shares)} seeds)."


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=count, default=5, metavar="N")
    parser.add_argument("--only", choices=PUBLISHED, help="one data set")
    arguments = parser.parse_args(argv)
    rows = read("datasets", needed=False)
    for dataset in [arguments.only] if arguments.only else PUBLISHED:
        measure(dataset, list(range(FIRST_SEED, FIRST_SEED + arguments.seeds)), rows)
    print(table(rows))


if __name__ == "__main__":
    raise SystemExit(run(main))
