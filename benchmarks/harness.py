"""What the benchmarks share: candidates that run in turn, rows of a CSV, and numbers from them.

Each round runs every candidate once, in an order that moves on by one from round to round, so that
a machine that drifts drifts for all; ratios are taken round by round. results/NAME.csv has one row
per run and is written after each; a table is made from the rows alone, without measuring anything.
"""

import argparse
import csv
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cnn.base.errors import UserError
from cnn.base.files import read_text, write_csv

ROOT = Path(__file__).parent.parent
RESULTS = Path("benchmarks/results")
FIRST_SEED = 42  # the committed one, that of the first round

Rows = list[dict[str, str]]
# The columns that name it in the CSV; a function from the round's number, from 1 on, to the columns
# that it measured, or to None if it does not run in that round.
Candidate = tuple[dict[str, object], Callable[[int], dict[str, object] | None]]


def count(text: str) -> int:
    """Return a whole number of at least 1; argparse says what is wrong with anything else."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def bare_parser(about: str) -> argparse.ArgumentParser:
    """Return a parser without arguments, which shows a docstring as it is written."""
    raw = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=about, formatter_class=raw)


def parser(about: str, rounds: int = 5) -> argparse.ArgumentParser:
    """Return a parser that takes --rounds and --only."""
    made = bare_parser(about)
    made.add_argument("--rounds", type=count, default=rounds, metavar="N")
    made.add_argument("--only", default="", metavar="WORD", help="those whose name holds it")
    return made


def measure(name: str, candidates: Sequence[Candidate], rounds: int, only: str = "") -> Rows:
    """Run the candidates, each once per round; write and return the rows of results/NAME.csv.

    What is measured replaces the rows that the CSV has of it. With `only` the rows of the other
    candidates stay. Within a round the rows are in the order of the candidates.

    Raises
    ------
    UserError
        No candidate has `only` in its name.
    """
    labels = [", ".join(map(str, columns.values())) for columns, _ in candidates]
    chosen = [each for each, label in zip(candidates, labels, strict=True) if only in label]
    if not chosen:
        raise UserError(f"--only: no candidate has {only!r} in its name: {'; '.join(labels)}")

    def label_of(row: dict[str, str]) -> str:
        return ", ".join(row[key] for key in candidates[0][0])

    def place(row: dict[str, str]) -> tuple[int, int]:
        label = label_of(row)
        return int(row["round"]), labels.index(label) if label in labels else len(labels)

    before = read(name) if only and path_of(name).is_file() else []
    rows = [row for row in before if label_of(row) not in labels or only not in label_of(row)]
    for number in range(1, rounds + 1):
        turn = (number - 1) % len(chosen)
        for columns, run in chosen[turn:] + chosen[:turn]:
            if (measured := run(number)) is not None:
                append(name, rows, {"round": number, **columns, **measured}, place)
    return rows


def path_of(name: str) -> Path:
    """Return the path of a benchmark's CSV."""
    return RESULTS / f"{name}.csv"


def read(name: str) -> Rows:
    """Return the rows of results/NAME.csv; a UserError where it is missing, empty or no text."""
    path = path_of(name)
    rows = list(csv.DictReader(read_text(path).splitlines())) if path.is_file() else []
    if not rows:
        problem = "has no rows" if path.is_file() else "is missing"
        raise UserError(f"{path}: {problem}; run 'python -m benchmarks.{name}'")
    return rows


def append(name: str, rows: Rows, row: dict[str, object], place: Callable | None = None) -> None:
    """Add a row, print it on standard error, and write all rows to results/NAME.csv, by place."""
    rows.append({key: str(value) for key, value in row.items()})
    print(rows[-1], file=sys.stderr, flush=True)
    if place:
        rows.sort(key=place)
    write_csv(path_of(name), rows)


def names(rows: Rows, key: str = "candidate") -> list[str]:
    """Return the values of a column, each once, in their order."""
    return list(dict.fromkeys(row[key] for row in rows))


def of(rows: Rows, name: str, column: str, key: str = "candidate") -> list[float]:
    """Return a column's numbers in the rows whose `key` is `name`."""
    return [float(row[column]) for row in rows if row[key] == name]


def ratios(rows: Rows, name: str, base: str, column: str = "seconds") -> list[float]:
    """Return a column's numbers of `name` over those of `base`, for rounds that have both."""
    values = {(row["candidate"], row["round"]): float(row[column]) for row in rows}
    return [
        value / values[base, number]
        for (candidate, number), value in values.items()
        if candidate == name and (base, number) in values
    ]


def ranged(values: list[float]) -> str:
    """Return the median and the range, with two decimals; of a single value, itself."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def spread(shares: list[float]) -> str:
    """Return mean ± sample standard deviation in per cent; of a single share, itself."""
    values = [100 * share for share in shares]
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation} %"


def markdown(titles: list[str], lines: Iterable[list[object]]) -> str:
    """Return a Markdown table: the first column to the left, the others to the right."""
    rule = "| --- |" + " ---: |" * (len(titles) - 1)
    cells = [f"| {' | '.join(map(str, line))} |" for line in (titles, *lines)]
    return "\n".join([cells[0], rule, *cells[1:]])
