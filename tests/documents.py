"""The measured figures and the commands that stand in a document's running text."""

import ast
import re
from pathlib import Path

# Generated tables and fenced blocks have tests of their own. A paragraph, and the remark before it.
OTHER = re.compile(r"^<!-- table: .*?^<!-- end -->$|^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
PARAGRAPH = re.compile(
    r"(?:^<!-- figures: (?P<source>[^>]+) -->\n+)?(?P<text>(?:^(?!<!-- )[^\n]+\n?)+)", re.MULTILINE
)
NUMBER = r"[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?"
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
} | dict.fromkeys(("ms", "s", "seconds", "times", "points"), (1,))
FIGURE = re.compile(
    rf"(?<![\w.,])(\d+(?:,\d{{3}})*(?:\.\d+)?)\s?({'|'.join(UNITS)})(?!\w)"
    r"|(?<![\w.,])(0\.\d+)(?![\w]|\.\d)"
)


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
    """Return the numbers that a file holds; of Python code also what constants alone amount to."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return {float(found.replace(",", "")) for found in re.findall(NUMBER, text)}
    found = set()
    for node in ast.walk(ast.parse(text)):
        inner = (ast.BinOp, ast.UnaryOp, ast.Constant, ast.operator, ast.unaryop)
        if isinstance(node, ast.expr) and all(isinstance(each, inner) for each in ast.walk(node)):
            value = eval(compile(ast.Expression(node), str(path), "eval"))
            if isinstance(value, (int, float)):
                found.add(float(value))
    return found


def is_among(number: str, unit: str, known: set[float]) -> bool:
    """Tell whether a figure is one of the numbers, rounded as it is."""
    decimals = len(number.partition(".")[2])
    value = float(number.replace(",", ""))
    factors = UNITS.get(unit, (1,))
    return any(round(each / factor, decimals) == value for each in known for factor in factors)


def inline_commands(text: str) -> list[str]:
    """Return the commands in running text: what starts with make, dvc or python -m."""
    spans = re.findall(r"`((?:make|dvc|python -m)\s[^`]+)`", text)
    return [" ".join(span.split()) for span in spans]
