"""Read tables of text, CSV or TSV, row by row: packed by gzip or not, with or without a header."""

import csv
import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from cnn.base.errors import UserError

SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz", ".data")
SEPARATORS = ",;\t "
LONGEST = 2**22  # characters of a line
# What columns are called, without what is no letter.
LABELS = {"label", "labels", "class", "classes", "classid", "classname", "category", "target", "y"}
LABELS |= {"emotion", "diagnosis", "dx", "digit", "letter", "species", "breed", "labelname"}
SPLIT = {"split", "usage", "subset", "set", "partition"}
GROUPS = {"group", "groups", "groupid", "writer", "writerid", "patient", "patientid", "subject"}
GROUPS |= {"subjectid", "lesionid", "objectid", "person", "personid", "userid", "signer", "session"}


def is_table(path: Path) -> bool:
    """Tell whether a file's name says that it is a table."""
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def tables_in(folder: Path) -> list[Path]:
    """Return the tables in a folder and in its folders, those that are text."""
    found = []
    for path in sorted([*folder.glob("*"), *folder.glob("*/*.[ct]sv")]):
        if is_table(path) and not path.name.startswith("."):
            try:
                first_line(path)
            except UserError:  # what is no text is no table; it is counted with the rest
                continue
            found.append(path)
    return found


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """Open a table as text, UTF-8 with or without a mark of the byte order.

    Raises
    ------
    UserError
        In the block or before it: the file is damaged or no text.
    """
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        text = gzip.open if packed else open
        with text(path, "rt", encoding="utf-8-sig", newline=None) as stream:
            yield stream
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no text in UTF-8; save it as such") from None
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def first_line(path: Path) -> str:
    """Return the first line that is not blank, "" if there is none."""
    with opened(path) as stream:
        while line := stream.readline(LONGEST):
            if line.strip():
                return line.rstrip("\r\n")
    return ""


def separator_of(line: str) -> str:
    """Return what stands between the fields of a line: what is most frequent outside of quotes."""
    bare = re.sub(r'"[^"]*"', "", line)
    return max(SEPARATORS[:3], key=bare.count) if re.search("[,;\t]", bare) else " "


def fields(line: str, separator: str) -> list[str]:
    """Return the fields of a line, without quotes and blanks around them."""
    if '"' not in line:
        return [
            field.strip() for field in (line.split() if separator == " " else line.split(separator))
        ]
    return [field.strip() for field in next(csv.reader([line], delimiter=separator))]


def is_number(field: str) -> bool:
    """Tell whether a field holds a number."""
    try:
        float(field)
    except ValueError:
        return False
    return True


def role_of(column: str) -> str:
    """Return what a column's name says of it: "label", "split", "group" or ""."""
    bare = re.sub(r"[\W_]+", "", column.lower())
    kinds = {"label": LABELS, "split": SPLIT, "group": GROUPS}
    return next((role for role, names in kinds.items() if bare in names), "")


def label(text: str, where: str) -> str:
    """Return a label as the name of a class: 5, "5" and 5.0 are the same."""
    text = text.strip().strip('"').strip()
    if not text:
        raise UserError(f"{where}: has no label")
    return text[:-2] if re.fullmatch(r"-?\d+\.0", text) else text


def is_index(column: str) -> bool:
    """Tell whether a column only numbers the rows, as pandas writes it."""
    return column.lower() in ("", "id", "index", "unnamed: 0", "level_0")
