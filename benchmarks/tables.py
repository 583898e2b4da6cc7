"""Write the tables in the documents from the CSVs that were measured.

    python -m benchmarks.tables [--check]

Replaces what stands between a line `<!-- table: NAME -->` and the next line `<!-- end -->` in the
README, in docs/, benchmarks/ and handwriting/, with the table of results/NAME.csv; and the line
`# Cost and result: ...` of a recipe. With --check it changes nothing, and names the files that
differ. Exit code 1 if one differs, or if a CSV is missing.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import cores, datasets, end_to_end, first_run, handwriting, own_pictures, training
from benchmarks.harness import Rows, bare_parser, path_of, read
from cnn.base.errors import UserError
from cnn.base.files import read_text, write_text
from cnn.base.program import run
from tools.recipe import load

# Each makes the table of results/NAME.csv from its rows.
TABLES: dict[str, Callable[[Rows], str]] = {
    "cores": cores.table,
    "datasets": datasets.table,
    "end_to_end": end_to_end.table,
    "first_run": first_run.table,
    "handwriting": handwriting.table,
    "own_pictures": own_pictures.table,
    "training": training.table,
}
DOCUMENTS = ("README.md", "docs/*.md", "benchmarks/README.md", "handwriting/README.md")
RECIPES = "recipes/*.yaml"
# A line of its own: in running text it only mentions the marker.
BEGIN = re.compile(r"^<!-- table: (.*) -->$")
END = "<!-- end -->"
COST = "# Cost and result: "


def made_from(name: str, make: Callable[[Rows], str]) -> str:
    """Return what `make` makes of the rows of results/NAME.csv, or refuse the file in one line."""
    try:
        return make(read(name))
    except (KeyError, ValueError, TypeError, ArithmeticError, IndexError) as error:
        raise UserError(
            f"{path_of(name)}: is not what 'python -m benchmarks.{name}' writes: "
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
            lines += [line, "", made_from(inside, TABLES[inside]), ""]
        elif line == END:
            inside = ""
        if not inside:
            lines.append(line)
    if inside:
        raise UserError(f"the table '{inside}' has no line '{END}' after it")
    return "\n".join(lines)


def recipe(path: Path, text: str) -> str:
    """Return a recipe's text with the line of its cost and result as the CSVs give it.

    One for another data set has it from datasets.csv, any other from training.csv. One without
    the line is left as it is.

    Raises
    ------
    UserError
        It has not been measured.
    """
    if not re.search(f"^{COST}", text, re.MULTILINE):
        return text
    sections = load(path.stem)
    dataset = sections.get("fetch", {}).get("dataset")
    if dataset:
        line = made_from("datasets", lambda rows: datasets.cost_and_result(rows, dataset))
    else:
        line = made_from("training", lambda rows: training.cost_and_result(rows, path.stem))
    return re.sub(f"^{COST}.*$", COST + line, text, count=1, flags=re.MULTILINE)


def main(argv: list[str] | None = None) -> int:
    parser = bare_parser(__doc__)
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
