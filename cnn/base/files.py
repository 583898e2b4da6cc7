"""Read files that must be there, and write files whole or not at all."""

import csv
import io
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from cnn.base.errors import UserError, reason

# What to do about a damaged file. DVC trusts the size and times that it remembers for a file, so
# it brings a damaged object of its cache back again and again until that is removed.
REPAIR = "run 'python -m tools.repair && dvc repro'"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path next to `path` to write to; put it in place when the block succeeds.

    It ends as `path` does. What killed processes left in the folder is removed.

    Raises
    ------
    OSError
        With `path` as its file name, where the system refuses.
    """
    path = Path(path)
    temporary = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_what_the_dead_left(path.parent)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None or str(error.filename).startswith(str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):  # it may be a folder in which nothing can be changed
            temporary.unlink(missing_ok=True)


def _remove_what_the_dead_left(folder: Path) -> None:
    for file in folder.glob(".partial-*"):
        process = file.name.split("-")[1]
        if process.isdecimal() and not is_alive(int(process)):
            file.unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    """Tell whether there is a process of this number."""
    try:
        os.kill(process, 0)  # sends nothing
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 with LF, the same bytes on every system."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: str | Path, document: object) -> None:
    """Write a JSON document, indented, its keys in their order."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def write_csv(path: str | Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write rows that have the keys of the first one as a CSV file with a header."""
    rows = list(rows)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, stream.getvalue())


def read_bytes(path: str | Path, most: int) -> bytes:
    """Return the bytes of a regular file, at most `most`, without waiting for a pipe or a device.

    Raises
    ------
    UserError
        It is missing (its cause is an OSError), no regular file, or larger; without its name.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):
                raise UserError("not a regular file")
            if status.st_size > most:
                raise UserError(f"{status.st_size:,} bytes; at most {most:,} are read")
            return file.read(status.st_size)  # not `most`: Python would get that much memory
    except (OSError, ValueError) as error:
        raise UserError(getattr(error, "strerror", None) or str(error)) from error


def read_text(path: str | Path) -> str:
    """Return the text of a UTF-8 file.

    Raises
    ------
    UserError
        It is missing, unreadable or no UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: is missing; run 'dvc repro'") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {reason(error)}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is no text; {REPAIR}") from None


def read_json(path: str | Path) -> dict:
    """Return the object in a JSON file; a UserError where it is something else."""
    try:
        document = json.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path}: is no JSON ({error}); {REPAIR}") from None
    if not isinstance(document, dict):
        raise UserError(f"{path}: is no JSON object; {REPAIR}")
    return document
