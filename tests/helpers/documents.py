"""What the documents hold: blocks of commands, and figures and commands in their running text."""

import ast
import csv
import json
import re
import statistics
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from cnn.base.params import read_yaml
from tests.helpers.clones import ROOT

DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "handwriting/*.md")
    for path in ROOT.glob(pattern)
)
# A block of commands or code, and the comment before it, if there is one.
BLOCK = re.compile(
    r"(?:^<!-- (?P<word>\w+): (?P<reason>[^>]*?) -->\n\n)?"
    r"^```(?P<language>console|python)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# Generated tables and fenced blocks have tests of their own. A paragraph, and the remark before it.
OTHER = re.compile(r"^<!-- table: .*?^<!-- end -->$|^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
PARAGRAPH = re.compile(
    r"(?:^<!-- figures: (?P<source>[^>]+) -->\n+)?(?P<text>(?:^(?!<!-- )[^\n]+\n?)+)", re.MULTILINE
)
# What counts as measured: a number with a unit, or a share below 1.
UNITS = {
    "%": (1, 0.01),
    "kB": (1e3, 2**10),
    "MB": (1e6, 2**20),
    "GB": (1e9, 2**30),
    "megapixels": (1e6,),
    "min": (1, 60),
    "minutes": (1, 60),
    "hours": (1, 3600),
    "ms": (1, 0.001),
} | dict.fromkeys(("s", "seconds", "times", "points"), (1,))
NUMBER = r"[+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
PRINTED = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?")
FIGURE = re.compile(
    rf"(?<![\w.,])(\d+(?:,\d{{3}})*(?:\.\d+)?)\s?({'|'.join(UNITS)})(?!\w)"
    r"|(?<![\w.,])(0\.\d+)(?![\w]|\.\d)"
)


class Block(NamedTuple):
    path: str
    line: int
    language: str
    text: str
    shown: str | None  # why it does not run

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def blocks() -> list[Block]:
    """Return the blocks of all documents, in their order."""
    found = []
    for path in DOCUMENTS:
        text = read(path)
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start("language")) + 1
            shown = match["reason"] if match["word"] == "shown" else None
            found.append(Block(path, line, match["language"], match["text"], shown))
    return found


def alike(line: str) -> str:
    """Return a line without its numbers, and with single blanks."""
    return " ".join(PRINTED.sub("N", line).split())


def parts(text: str) -> list[tuple[str, list[str]]]:
    """Return each command of a console block with the lines that it should print."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def check_output(expected: list[str], printed: str, command: str) -> None:
    """Fail unless the expected lines stand in `printed`, in their order; "..." stands for any."""
    lines, place, gap = [alike(line) for line in printed.splitlines()], 0, False
    for line in expected:
        if line == "...":
            gap = True
            continue
        wanted = alike(line)
        places = range(place, len(lines)) if gap else range(place, min(place + 1, len(lines)))
        place = next((i + 1 for i in places if lines[i] == wanted), None)
        assert place is not None, f"{command}: does not print {line!r} here but:\n{printed}"
        gap = False


def paragraphs(text: str) -> list[tuple[str, str | None]]:
    """Return (text, source) of each paragraph, list or table that is not generated."""
    found = PARAGRAPH.finditer(OTHER.sub("", text))
    return [(match["text"], match["source"]) for match in found]


def prose(text: str) -> str:
    """Return a text without code and without the targets of its links."""
    return re.sub(r"`[^`]*`|\]\([^)]*\)", " ", text)


def figures(text: str) -> list[tuple[str, str]]:
    """Return the measured figures in a text: (number, unit or "")."""
    return [(found[1] or found[3], found[2] or "") for found in FIGURE.finditer(prose(text))]


def numbers_in(path: Path) -> set[float]:
    """Return the numbers that a file holds.

    Of a CSV also median and mean of its columns, over rows of the same kind; of Python code what
    constants alone amount to.
    """
    if path.suffix == ".csv":
        return numbers_of_rows(path)
    if path.suffix == ".json":
        return set(leaves(json.loads(path.read_text(encoding="utf-8"))))
    if path.suffix == ".py":
        return constants(path)
    assert path.suffix in (".yaml", ".lock"), f"{path}: no figure can come from such a file"
    return set(leaves(read_yaml(path)))


def leaves(document: object) -> Iterable[float]:
    """Yield the numbers in a document of objects and lists."""
    if isinstance(document, dict | list):
        for each in document.values() if isinstance(document, dict) else document:
            yield from leaves(each)
    elif isinstance(document, int | float) and not isinstance(document, bool):
        yield float(document)


def constants(path: Path) -> set[float]:
    """Return the numbers in Python code, and what operators make of them."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        inner = (ast.BinOp, ast.UnaryOp, ast.Constant, ast.operator, ast.unaryop)
        if isinstance(node, ast.expr) and all(isinstance(each, inner) for each in ast.walk(node)):
            value = eval(compile(ast.Expression(node), str(path), "eval"))
            found |= set(leaves(value))
    return found


def numbers_of_rows(path: Path) -> set[float]:
    """Return the numbers of a CSV, and those that sum up each kind of row.

    Rows are of a kind if they have the same values in the columns with few values, rounds and seeds
    left out. A line that begins with # is a remark.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    columns = [key for key in rows[0] if key not in ("round", "seed")]
    few = [key for key in columns if 3 * len({row[key] for row in rows}) <= len(rows)]

    def kind(row: dict[str, str]) -> list[str]:
        return [row[key] for key in few]

    found = set()
    for _, group in groupby(sorted(rows, key=kind), kind):
        group = list(group)
        for key in columns:
            values = [float(row[key]) for row in group if re.fullmatch(NUMBER, row[key])]
            found |= set(values)
            if values:
                found |= {statistics.median(values), statistics.mean(values)}
    return found


def is_among(number: str, unit: str, known: set[float]) -> bool:
    """Tell whether a figure is one of the numbers, rounded as it is."""
    decimals = len(number.partition(".")[2])
    value = float(number.replace(",", ""))
    factors = UNITS.get(unit, (1,))
    return any(round(each / factor, decimals) == value for each in known for factor in factors)


def unfounded(text: str) -> list[str]:
    """Return what is wrong with the figures of a document: no source, or not in its source.

    `<!-- figures: FILE, FILE -->` before a paragraph names the files whose numbers it gives.
    """
    wrong = []
    for paragraph, source in paragraphs(text):
        known: set[float] = set()
        for file in source.split(", ") if source else []:
            if (ROOT / file).is_file():
                known |= numbers_in(ROOT / file)
            else:
                wrong.append(f"{file}: is no file")
        for number, unit in figures(paragraph):
            if not is_among(number, unit, known):
                wrong.append(f"{number} {unit}".strip() + f" is not in {source or 'any source'}")
    return wrong


def inline_commands(text: str) -> list[str]:
    """Return the commands in running text: what starts with make, dvc or python -m."""
    spans = re.findall(r"`((?:make|dvc|python -m)\s[^`]+)`", text)
    return [" ".join(span.split()) for span in spans]
