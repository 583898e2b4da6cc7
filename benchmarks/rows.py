"""What the questions share: rows of a CSV, numbers taken from them, programs that are measured.

A question's CSV is benchmarks/results/NAME.csv, one row per run. Its table is written from the rows
alone, so it can be written again without measuring anything.
"""

import argparse
import csv
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from cnn.errors import UserError
from cnn.files import read_text, write_csv, write_json
from cnn.params import read_yaml

ROOT = Path(__file__).parent.parent
RESULTS = Path("benchmarks/results")
RAW = Path("data/raw/published.npz")
FIRST_SEED = 42  # the committed one

Rows = list[dict[str, str]]


def count(text: str) -> int:
    """Return a whole number of at least 1; argparse says what is wrong with anything else."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def parser(about: str) -> argparse.ArgumentParser:
    """Return a parser that takes --rounds."""
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--rounds", type=count, default=5, metavar="N")
    return made


def read(name: str, *, needed: bool = True) -> Rows:
    """Return the rows of results/NAME.csv; none where it is missing and not needed.

    Raises
    ------
    UserError
        It is missing and needed, or no text.
    """
    path = RESULTS / f"{name}.csv"
    if not path.is_file():
        if needed:
            raise UserError(f"{path}: is missing; run 'python -m benchmarks.{name}'")
        return []
    return list(csv.DictReader(read_text(path).splitlines()))


def append(name: str, rows: Rows, **row: object) -> None:
    """Add a row, print it on standard error, and write all rows so far to results/NAME.csv."""
    rows.append({key: str(value) for key, value in row.items()})
    print(rows[-1], file=sys.stderr, flush=True)
    write_csv(RESULTS / f"{name}.csv", rows)


def names(rows: Rows, key: str = "candidate") -> list[str]:
    """Return the values of a column, each once, in their order."""
    return list(dict.fromkeys(row[key] for row in rows))


def of(rows: Rows, name: str, column: str, key: str = "candidate") -> list[float]:
    """Return a column's numbers in the rows whose `key` is `name`."""
    return [float(row[column]) for row in rows if row[key] == name]


def pairs(
    rows: Rows, name: str, base: str, column: str, *, key: str = "candidate", by: str = "round"
) -> list[tuple[float, float]]:
    """Return a column's numbers of `name` and of `base`, round by round, where both were run."""
    values = {(row[key], row[by]): float(row[column]) for row in rows}
    return [
        (value, values[base, number])
        for (who, number), value in values.items()
        if who == name and (base, number) in values
    ]


def ratios(
    rows: Rows, name: str, base: str, *, key: str = "candidate", by: str = "round"
) -> list[float]:
    """Return the seconds of `name` over those of `base`, round by round."""
    return [a / b for a, b in pairs(rows, name, base, "seconds", key=key, by=by)]


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


def ours(**settings: object) -> list[object]:
    """Return the command that trains as the stage does, with parameters of section `train`."""
    words = [f"{key}={value}" for key, value in settings.items()]
    return [sys.executable, "-m", "benchmarks.our_training", *words]


def plain(folder: str, *flags: object) -> list[object]:
    """Return the command that runs the plain script, with `folder` for what it writes."""
    return [sys.executable, "-m", "benchmarks.plain_keras", RAW, folder, *flags]


def last_line(command: list[object]) -> dict[str, float]:
    """Run a program and return the JSON object on the last line that it prints.

    Raises
    ------
    UserError
        The program failed; with the last line that it said.
    """
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"'{shlex.join(words)}' failed: {said[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def write_params(path: Path, **sections: Mapping[str, object]) -> None:
    """Write params.yaml with other values in some sections, as JSON, which is YAML too."""
    params = read_yaml("params.yaml")
    write_json(path, params | {name: params[name] | dict(new) for name, new in sections.items()})


def stage_command(name: str, folder: Path, paths: Mapping[str, Path]) -> list[str]:
    """Return a stage's command in dvc.yaml, {flag: path} in `paths` put in place.

    `${section.key}` in it comes from the params.yaml in `folder`.

    Raises
    ------
    UserError
        The command has no such flag.
    """
    params = read_yaml(folder / "params.yaml")
    command = re.sub(
        r"\$\{(\w+)\.(\w+)\}",
        lambda match: str(params[match[1]][match[2]]),
        read_yaml(ROOT / "dvc.yaml")["stages"][name]["cmd"],
    )
    words = [sys.executable, *shlex.split(command)[1:]]
    for flag, path in paths.items():
        if flag not in words:
            raise UserError(f"dvc.yaml: the command of stage '{name}' has no {flag}")
        words[words.index(flag) + 1] = str(path.absolute())
    return words


def stage(
    name: str,
    folder: Path,
    paths: Mapping[str, Path] = {},
    variables: Mapping[str, str] = {},
) -> None:
    """Run a stage as dvc.yaml does, but in `folder`, with the params.yaml that lies there.

    dvc.yaml's paths are relative, so what the stage writes lies in `folder` too, whatever flags it
    has. `paths`, {flag: path}, names what it reads elsewhere; `variables` are added to the
    environment.

    Raises
    ------
    UserError
        The stage failed; it has said why.
    """
    done = subprocess.run(
        stage_command(name, folder, paths),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        stdout=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise UserError(f"stage '{name}' failed (exit code {done.returncode})")
