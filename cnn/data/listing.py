"""Read a table of file names and labels in the folder of the pictures.

    file,label,split,group       labels.csv of Kaggle: id,breed      metadata.csv of Hugging Face
    a/1.png,cat,train,tom        000bec180eb1,boston_bull            file_name,label

A table for each split, by its name or its folder's, is as good as the column. Columns have a name
that says what they are, or there are but two.
"""

import os
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnn.base.errors import UserError
from cnn.data import table
from cnn.data.folder import is_foreign
from cnn.data.gather import gather
from cnn.data.pictures import SUFFIXES
from cnn.data.raw import SPLITS, Options, Raw, Split, encode, some, split_of

LOOK = 5  # rows of a table in which names of files are looked for
MOST_COLUMNS = 64


class Row(NamedTuple):
    """A picture, named as the table names it, and what the table says of it."""

    file: str
    label: str
    split: str
    group: str


class Columns(NamedTuple):
    """Which column is what; None for what there is not."""

    file: int
    label: int | None
    split: int | None
    group: int | None
    has_header: bool


class Pictures:
    """The pictures below a folder, found by what a table may call them."""

    def __init__(self, root: Path):
        self.root = root
        self.files: list[str] = []
        self.linked: list[str] = []
        for place, folders, names in os.walk(root):
            folders[:] = sorted(name for name in folders if not is_foreign(name))
            self.linked += [f"{place}/{name}" for name in folders if Path(place, name).is_symlink()]
            self.files += [
                os.path.relpath(f"{place}/{name}", root)
                for name in names
                if not is_foreign(name) and Path(name).suffix.lower() in SUFFIXES
            ]
        self.known = set(self.files)
        # By the name alone, with or without what stands after the dot; None where there are two.
        self.by_name: dict[str, str | None] = {}
        for file in self.files:
            for name in {Path(file).name, Path(file).stem, file.rpartition(".")[0]}:
                self.by_name[name] = None if name in self.by_name else file

    def find(self, name: str, below: str) -> str | None:
        """Return a picture's path below the root; None if there is none, or no single one.

        `below` is the folder of the table, to which names are relative in the first place.
        """
        name = name.replace("\\", "/").removeprefix("./")
        near = os.path.normpath(os.path.join(below, name))
        here = next((each for each in (near, name) if each in self.known), None)
        return here or self.by_name.get(name) or self.by_name.get(name.rpartition("/")[2])


def recognizes(path: Path) -> bool:
    """Tell whether a folder has pictures and a table that names some."""
    files = table.tables_in(path) if path.is_dir() else []
    if not files:
        return False
    pictures = Pictures(path)
    return any(_columns(file, pictures, os.path.relpath(file.parent, path)) for file in files)


def read(path: Path, options: Options) -> Raw:
    """Return the pictures that tables name, in the tables' order.

    Raises
    ------
    UserError
        Names the table or the pictures, what is wrong and what to do.
    """
    pictures, notes = Pictures(path), []
    if pictures.linked:
        raise UserError(
            f"{some(pictures.linked)}: a link to a folder, which DVC leaves out; put the folder "
            "itself there ('cp -rL' copies what a link leads to)"
        )
    rows: dict[str, list[Row]] = {}
    used = []
    for file in table.tables_in(path):
        below = os.path.relpath(file.parent, path)
        columns = _columns(file, pictures, below)
        if columns is None or columns.label is None:
            notes.append(f"{file}: names no labels of pictures here; left out")
            continue
        used.append(file)
        default = split_of(os.path.relpath(file, path)) or "train"
        for row in _rows(file, columns, pictures, below):
            split = split_of(row.split) if row.split else default
            if split is None:
                raise UserError(f"{file}: the split '{row.split}' is none of {', '.join(SPLITS)}")
            rows.setdefault(split, []).append(row)
    if "train" not in rows:
        raise UserError(f"{some(used) or path}: names no pictures of training with their labels")
    rows = {split: rows[split] for split in SPLITS if split in rows}
    listed = Counter(row.file for each in rows.values() for row in each)
    if twice := sorted(file for file, n in listed.items() if n > 1):
        raise UserError(f"{some(used)}: name twice: {some(twice)}")
    if left := sorted(set(pictures.files) - set(listed)):
        notes.append(f"{len(left):,} pictures in no table, left out: {some(left)}")
    classes, labels = encode({split: [row.label for row in each] for split, each in rows.items()})
    files = {split: [str(path / row.file) for row in each] for split, each in rows.items()}
    sources = {split: ((name, Path(name)) for name in each) for split, each in files.items()}
    counts = {split: len(each) for split, each in files.items()}
    images = gather(str(path), sources, counts, options, notes)
    splits = {}
    for split, each in rows.items():
        groups = np.array([row.group for row in each], str)
        splits[split] = Split(
            images[split], labels[split], groups if groups.any() else None, files[split]
        )
    return Raw(splits, classes, notes, "a table of pictures")


def _columns(path: Path, pictures: Pictures, below: str) -> Columns | None:
    """Return which column is what; None where none names pictures.

    Raises
    ------
    UserError
        A column names pictures, and which one has the labels cannot be told.
    """
    line = table.first_line(path)
    separator = table.separator_of(line)
    first = table.fields(line, separator)
    if not 2 <= len(first) <= MOST_COLUMNS:
        return None
    with table.opened(path) as stream:
        lines = (line for line in stream if line.strip())
        head = [table.fields(each.rstrip("\r\n"), separator) for each in islice(lines, LOOK)]
    named = [
        column
        for column in range(len(first))
        if any(len(row) > column and pictures.find(row[column], below) for row in head)
    ]
    if not named:
        return None
    file = named[0]
    has_header = not pictures.find(first[file], below) and len(head) > 1
    roles: dict[str, int] = {}
    rest = []
    for column, name in enumerate(first):
        role = table.role_of(name) if has_header else ""
        if column in named or (has_header and table.is_index(name)):
            continue
        if role:
            roles.setdefault(role, column)
        else:
            rest.append(column)
    if "label" not in roles and len(rest) == 1:
        roles["label"] = rest[0]
    if "label" not in roles and rest:
        raise UserError(
            f"{path}: which of the columns {', '.join(first)} has the labels? Call it 'label'"
        )
    return Columns(file, roles.get("label"), roles.get("split"), roles.get("group"), has_header)


def _rows(path: Path, columns: Columns, pictures: Pictures, below: str) -> list[Row]:
    """Return the rows of a table, with paths below the folder; refuse all that name no picture."""
    separator = table.separator_of(table.first_line(path))
    found, missing = [], []
    with table.opened(path) as stream:
        lines = (line.rstrip("\r\n") for line in stream if line.strip())
        if columns.has_header:
            next(lines, None)
        for number, line in enumerate(lines, 1):
            row = table.fields(line, separator)
            if len(row) <= max(column or 0 for column in columns[:4]):
                raise UserError(f"{path}: row {number} has {len(row)} columns, too few")
            file = pictures.find(row[columns.file], below)
            if file is None:
                missing.append(row[columns.file])
                continue
            label = table.label(row[columns.label], f"{path}: row {number}")
            split, group = ("" if c is None else row[c] for c in (columns.split, columns.group))
            found.append(Row(file, label, split, group))
    if missing:
        raise UserError(
            f"{path}: names {len(missing):,} pictures that are not there, or more than once: "
            f"{some(missing)}"
        )
    return found
