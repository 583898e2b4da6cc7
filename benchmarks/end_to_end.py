"""How long does the whole pipeline take beside the plain script, from start to end?

    python -m benchmarks.end_to_end [--rounds 5]

Runs `dvc repro --force` in a clone of HEAD and the plain script, both with the data fetched. Writes
results/end_to_end.csv.
"""

import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.commands import plain, result_of
from benchmarks.harness import Rows, markdown, measure, names, of, parser, ranged, ratios
from cnn.base.errors import UserError
from cnn.base.files import read_json
from cnn.base.program import environment_with_python, run
from tools.verify import clone

PLAIN, REPRO = "plain script", "dvc repro --force"


def reproduce(folder: Path) -> dict[str, object]:
    """Run every stage of the pipeline in a clone; return its metrics."""
    done = subprocess.run(
        [*REPRO.split(), "--quiet"],
        cwd=folder,
        env=environment_with_python(),
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise UserError(f"'{REPRO}' failed in a clone (exit code {done.returncode})")
    return read_json(folder / "reports/evaluate/metrics.json")


def timed(work: Callable[[], dict]) -> dict[str, object]:
    """Return how long `work` takes, and the accuracy that it gives."""
    began = time.perf_counter()
    accuracy = work()["accuracy"]
    return {"seconds": round(time.perf_counter() - began, 2), "accuracy": accuracy}


def table(rows: Rows) -> str:
    """Return the table of end_to_end.csv."""
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
    arguments = parser(__doc__).parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "clone")
        clone(Path(), target)
        reproduce(target)  # warm, as the script is
        candidates = [
            ({"candidate": PLAIN}, lambda _: timed(lambda: result_of(plain(folder)))),
            ({"candidate": REPRO}, lambda _: timed(lambda: reproduce(target))),
        ]
        rows = measure("end_to_end", candidates, arguments.rounds, arguments.only)
    print(table(rows))


if __name__ == "__main__":
    raise SystemExit(run(main))
