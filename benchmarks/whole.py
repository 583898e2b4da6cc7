"""How long does the whole pipeline take beside the plain script, from start to end?

    python -m benchmarks.whole [--rounds 5]

Runs `dvc repro --force` in a clone of HEAD and the plain script, in turn, both with the data
fetched. Writes results/whole.csv.
"""

import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.rows import (
    Rows,
    append,
    last_line,
    markdown,
    names,
    of,
    parser,
    plain,
    ranged,
    ratios,
)
from cnn.errors import UserError, run
from cnn.files import read_json
from tools.verify import clone, environment_for_clone

PLAIN, REPRO = "plain script", "dvc repro --force"


def reproduce(folder: Path) -> None:
    """Run the pipeline in a clone, every stage of it."""
    done = subprocess.run(
        ["dvc", "repro", "--force", "--quiet"],
        cwd=folder,
        env=environment_for_clone(),
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise UserError(f"'{REPRO}' failed in a clone (exit code {done.returncode})")


def measure(rounds: int) -> Rows:
    """Return the rows of whole.csv, measured anew."""
    rows: Rows = []
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "clone")
        clone(Path(), target)
        reproduce(target)  # warm, as the script is
        for number in range(1, rounds + 1):
            began = time.perf_counter()
            script = last_line(plain(folder))
            middle = time.perf_counter()
            reproduce(target)
            end = time.perf_counter()
            metrics = read_json(target / "reports/evaluate/metrics.json")
            for name, seconds, result in (
                (PLAIN, middle - began, script),
                (REPRO, end - middle, metrics),
            ):
                append(
                    "whole",
                    rows,
                    round=number,
                    candidate=name,
                    seconds=round(seconds, 2),
                    accuracy=result["accuracy"],
                )
    return rows


def table(rows: Rows) -> str:
    """Return the table of whole.csv."""
    lines = [
        [
            f"`{name}`" if name == REPRO else name,
            f"{statistics.median(of(rows, name, 'seconds')):.1f}",
            ranged(ratios(rows, name, PLAIN)),
            f"{100 * statistics.median(of(rows, name, 'accuracy')):.2f} %",
        ]
        for name in names(rows)
    ]
    titles = ["", "seconds, median", "against the plain script, median (range)"]
    return (
        markdown([*titles, "test accuracy, median"], lines)
        + f"\n\nn = {len(names(rows, 'round'))} rounds."
    )


def main(argv: list[str] | None = None) -> None:
    print(table(measure(parser(__doc__).parse_args(argv).rounds)))


if __name__ == "__main__":
    raise SystemExit(run(main))
