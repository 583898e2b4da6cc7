"""Read the images that `prepare` is given, in whichever format of the table they come.

docs/own-data.md shows one of each. All readers hold some of the images in memory at a time.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnn.base.errors import UserError, brief
from cnn.base.files import REPAIR
from cnn.data import csv_pixels, folder, idx, listing, npz_file, parquet, table
from cnn.data.raw import Options, Raw
from cnn.data.sets import problem_of_classes, problem_of_shape

HELP = "docs/own-data.md says what is read"
ELSE = "three lines of Python make an npz of it: docs/own-data.md#anything-else"


AS_THEY_ARE = Options()


class Reader(NamedTuple):
    """How a format is recognized, and read."""

    name: str
    recognizes: Callable[[Path], bool]
    read: Callable[[Path, Options], Raw]


# The first that recognizes what there is reads it; any folder may be one of classes.
READERS = tuple(
    Reader(name, module.recognizes, module.read)
    for name, module in {
        "an npz": npz_file,
        "Parquet": parquet,
        "IDX files": idx,
        "a CSV of pixels": csv_pixels,
        "a CSV of file names in their folder": listing,
        "a folder of pictures": folder,
    }.items()
)


def read(path: Path, options: Options = AS_THEY_ARE) -> Raw:
    """Return the labelled images at a path, checked; mapped, whatever their size.

    Raises
    ------
    UserError
        Names the file, the folder or the array, what is wrong with it and what to do.
    """
    try:
        place = _only_file(path) or path
        raw = _reader(place).read(place, options)
    except UserError as error:
        message = str(error)
        named = message if message.startswith(str(path)) else f"{path}: {message}"
        more = "" if REPAIR in message or "docs/own-data.md" in message else f"; {HELP}"
        raise UserError(f"{named}{more}") from None
    if problem := problem_of_classes(raw.classes):
        raise UserError(f"{path}: {problem}")
    if problem := problem_of_shape(raw.splits["train"].images.shape[1:]):
        raise UserError(f"{path}: {problem}; prepare.image_size resizes, prepare.channels converts")
    shape = raw.splits["train"].images.shape[1:]
    for name, split in raw.splits.items():
        if split.images.shape[1:] != shape:
            raise UserError(
                f"{path}: {name} has images of {split.images.shape[1:]}, train of {shape}"
            )
        absent = np.setdiff1d(np.arange(len(raw.classes)), split.labels)
        if len(absent) and name != "validation":  # for which a class may be too rare
            names = ", ".join(raw.classes[label] for label in absent[:5])
            raise UserError(f"{path}: no {name} image of class {names}; each class needs one")
    return raw


def _only_file(path: Path) -> Path | None:
    """Return the file that a folder consists of, if there is one."""
    entries = (
        [entry for entry in path.iterdir() if not folder.is_foreign(entry.name)]
        if path.is_dir()
        else []
    )
    return entries[0] if len(entries) == 1 and entries[0].is_file() else None


def _reader(path: Path) -> Reader:
    if not path.exists():
        raise UserError("is not there; prepare.raw names a file or a folder")
    if not path.is_dir() and not path.is_file():
        raise UserError("is neither a file nor a folder")
    if path.is_file() and not path.stat().st_size:
        raise UserError("is empty")
    for reader in READERS:
        if reader.recognizes(path):
            return reader
    if idx.is_one(path):
        raise UserError(
            f"is one of four IDX files; name the folder of all: prepare.raw: {path.parent}"
        )
    if table.is_table(path):
        raise UserError(
            "is a table, and its rows are no labelled pixels; one of file names and labels lies in "
            "the folder of the pictures: name that folder"
        )
    kind = path.suffix.lower() or "no suffix"
    known = ", ".join(reader.name for reader in READERS)
    with open(path, "rb") as file:
        head = file.read(8)
    if any(
        head.startswith(magic) for magic in (b"PK\3\4", b"Rar!", b"7z\xbc\xaf")
    ) or path.name.endswith((".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".zip")):
        raise UserError(
            f"is an archive ({kind}); unpack it into a folder and name that. Read are: {known}"
        )
    raise UserError(
        f"is a file of another kind ({kind}, begins with {brief(head)}). Read are: {known}; {ELSE}"
    )
