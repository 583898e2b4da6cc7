"""Write the tables in the documents from the CSVs that were measured.

    python -m benchmarks.tables [--check]

Replaces what stands between a line `<!-- table: NAME -->` and the next line `<!-- end -->` in the
README, in docs/, benchmarks/ and handwriting/, with the table of results/NAME.csv; and the line
`# Cost and result: ...` of a recipe. With --check it changes nothing, and names the files that
differ. Exit code 1 if one differs, or if a CSV is missing.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    cores,
    datasets,
    first_run,
    growth,
    handwriting,
    killed,
    knobs,
    large,
    reading,
    training,
    whole,
    workers,
)
from benchmarks.rows import read
from cnn.errors import UserError, run
from cnn.files import read_text, write_text
from tools.recipe import load

TABLES: dict[str, Callable[[], str]] = {
    "cores": lambda: cores.table(read("cores")),
    "datasets": lambda: datasets.table(read("datasets")),
    "first_run": lambda: first_run.table(read("first_run")),
    "growth": lambda: growth.table(read("growth")),
    "handwriting": lambda: handwriting.table(read("handwriting")),
    "killed": lambda: killed.table(read("killed")),
    "knobs": lambda: knobs.table(read("knobs")),
    "large": lambda: large.table(read("large")),
    "reading": lambda: reading.table(read("reading")),
    "training": lambda: training.table(read("training"), read("arithmetic", needed=False)),
    "whole": lambda: whole.table(read("whole")),
    "worker_delays": lambda: workers.table_of_delays(read("worker_delays")),
    "worker_faults": lambda: workers.table_of_faults(read("worker_faults")),
    "workers": lambda: workers.table(read("workers")),
}
DOCUMENTS = ("README.md", "docs/*.md", "benchmarks/README.md", "handwriting/README.md")
RECIPES = "recipes/*.yaml"
# A line of its own: what stands in running text only tells of the marker.
BEGIN = re.compile(r"^<!-- table: (.*) -->$")
END = "<!-- end -->"
COST = "# Cost and result: "


def written(make: Callable[[], str], name: str) -> str:
    """Return what `make` makes of results/NAME.csv, or refuse the file in one line."""
    try:
        return make()
    except (KeyError, ValueError, TypeError, ArithmeticError, IndexError) as error:
        raise UserError(
            f"benchmarks/results/{name}.csv: is not what 'python -m benchmarks.{name}' writes: "
            f"{type(error).__name__}: {error}"
        ) from None


def document(text: str) -> str:
    """Return a Markdown text with its tables as the CSVs give them.

    Raises
    ------
    UserError
        There is no such table, no CSV for it, or no end of the block.
    """
    lines: list[str] = []
    inside = ""  # the table whose old lines are left out
    for line in text.split("\n"):
        begins = BEGIN.match(line)
        if inside and begins:
            break
        if begins:
            inside = begins[1]
            if inside not in TABLES:
                raise UserError(f"no table '{inside}'; there are {', '.join(TABLES)}")
            lines += [line, "", written(TABLES[inside], inside), ""]
        elif line == END:
            inside = ""
        if not inside:
            lines.append(line)
    if inside:
        raise UserError(f"the table '{inside}' has no line '{END}' after it")
    return "\n".join(lines)


def recipe(path: Path, text: str) -> str:
    """Return a recipe's text with the line of its cost and result as the CSVs give it.

    One that only names a data set has it from datasets.csv, any other from training.csv. One
    without the line is left as it is.

    Raises
    ------
    UserError
        It has not been measured.
    """
    if not re.search(f"^{COST}", text, re.MULTILINE):
        return text
    sections = load(path.stem)
    dataset = sections.get("fetch", {}).get("dataset")
    if dataset and "train" not in sections:
        told = written(lambda: datasets.cost_and_result(read("datasets"), dataset), "datasets")
    else:
        told = written(lambda: training.cost_and_result(read("training"), path.stem), "training")
    return re.sub(f"^{COST}.*$", COST + told, text, count=1, flags=re.MULTILINE)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args(argv).check
    failed = False
    for pattern in (*DOCUMENTS, RECIPES):
        for path in sorted(Path().glob(pattern)):
            text = read_text(path)
            try:
                new = recipe(path, text) if pattern == RECIPES else document(text)
            except UserError as error:
                failed = True
                print(f"error: {path}: {error}", file=sys.stderr)
                continue
            if new != text and check:
                failed = True
                print(
                    f"error: {path}: is not what the CSVs give; run 'python -m benchmarks.tables'",
                    file=sys.stderr,
                )
            elif new != text:
                write_text(path, new)
                print(f"wrote {path}")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(run(main))
