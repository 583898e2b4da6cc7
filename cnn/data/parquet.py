"""Read Parquet files of pictures, as Hugging Face's `datasets` writes and publishes them.

A column holds pictures as files hold them: a struct of bytes and path, or the bytes. Another one
holds the labels: whole numbers, whose names stand in the file's metadata, or texts. pyarrow, which
reads them, is no part of the environment but of requirements-parquet.txt.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from sys import intern
from typing import Any, NamedTuple

import numpy as np

from cnn.base.errors import UserError
from cnn.data.gather import gather
from cnn.data.parallel import Source
from cnn.data.raw import SPLITS, Options, Raw, Split, encode, some, split_of
from cnn.data.table import role_of

BATCH = 64  # rows that are in memory at a time
# Else pyarrow reads a group of rows at once, 100 MB as Hugging Face writes them.
STREAMED = {"buffer_size": 2**16, "pre_buffer": False}
INSTALL = "'.venv/bin/pip install --require-hashes -r requirements-parquet.txt' brings pyarrow"
UNLABELLED = "-1"  # Hugging Face's label where there is none


class Columns(NamedTuple):
    """The names of the columns, and of the classes; None for what there is not."""

    image: str
    label: str
    group: str | None
    classes: list[str] | None


def recognizes(path: Path) -> bool:
    """Tell whether a file is Parquet, or a folder has such files."""
    if path.is_dir():
        return any(_files(path))
    with open(path, "rb") as file:
        return file.read(4) == b"PAR1"


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    found = (file for pattern in ("*", "*/*", "*/*/*") for file in path.glob(f"{pattern}.parquet"))
    return sorted(file for file in found if not file.name.startswith("."))


def read(path: Path, options: Options) -> Raw:
    """Return the pictures in a Parquet file, or in those of a folder.

    Raises
    ------
    UserError
        Names the file, what is wrong and what to do; or pyarrow is missing.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"is Parquet; {INSTALL}") from None
    notes: list[str] = []
    files = _by_split(path, notes)
    try:
        first = next(iter(files["train"]))
        columns = _columns(first, parquet.read_schema(first))
        others = {}
        for split, each in files.items():
            others[split] = _others(each, columns, first, parquet)
        for split in SPLITS[1:]:
            if split in others and set(others[split]["label"]) == {UNLABELLED}:
                notes.append(
                    f"{split}: {len(others[split]['label']):,} pictures without a label; left out"
                )
                del others[split], files[split]
        classes, labels = encode({split: each["label"] for split, each in others.items()})
        if columns.classes is not None:
            classes = _names(columns.classes, classes)
        counts = {split: len(each["label"]) for split, each in others.items()}
        sources = {split: _pictures(each, columns, parquet) for split, each in files.items()}
        images = gather(str(path), sources, counts, options, notes)
    except pyarrow.ArrowException as error:
        raise UserError(f"is damaged or no Parquet: {' '.join(str(error).split())}") from None
    splits = {}
    for split, each in others.items():
        groups = np.array(each["group"], str) if columns.group else None
        splits[split] = Split(images[split], labels[split], groups)
    return Raw(splits, classes, notes, "Parquet")


def _by_split(path: Path, notes: list[str]) -> dict[str, list[Path]]:
    """Return the files of each split, by a word in their names or in those of their folders."""
    found: dict[str | None, list[Path]] = {}
    sets: set[str] = set()  # data sets: a folder each, where there are several
    for file in _files(path):
        below = [part for part in file.relative_to(path).parts[:-1] if not split_of(part)]
        sets.add("/".join(below))
        words = file.name if path.is_file() else str(file.relative_to(path))
        found.setdefault(split_of(words), []).append(file)
    if len(sets) > 1:
        raise UserError(f"has several data sets, {', '.join(sorted(sets))}; name one of them")
    unknown = found.pop(None, [])
    if not found or path.is_file():
        return {"train": unknown or [path]}
    if unknown:
        notes.append(
            f"{len(unknown):,} of no known split, left out: {some([f.name for f in unknown])}"
        )
    if "train" not in found:
        raise UserError("has no file whose name says train")
    return {split: found[split] for split in SPLITS if split in found}


def _columns(path: Path, schema: Any) -> Columns:
    """Return which columns of a file hold pictures, labels and groups."""
    written = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = written.get("info", {}).get("features", {})
    fields = {name: schema.field(name).type for name in schema.names}
    images = [name for name, kind in fields.items() if _holds_pictures(kind)]
    if len(images) != 1:
        raise UserError(
            f"{path}: {len(images)} columns of pictures among {', '.join(fields)}; expected one, "
            "a struct of bytes and path as Hugging Face has it, or binary"
        )
    labels = [name for name in fields if features.get(name, {}).get("_type") == "ClassLabel"]
    if len(labels) != 1:
        labels = [
            name for name in labels or fields if name not in images and role_of(name) == "label"
        ]
    rest = [name for name in fields if name not in images and not role_of(name)]
    labels = labels or (rest if len(rest) == 1 else [])
    if len(labels) != 1:
        raise UserError(
            f"{path}: which of the columns {', '.join(fields)} has the labels? Call it 'label', "
            "alone"
        )
    groups = [name for name in fields if role_of(name) == "group"]
    names = features.get(labels[0], {}).get("names")
    return Columns(images[0], labels[0], groups[0] if groups else None, names)


def _holds_pictures(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return types.is_binary(kind) or types.is_large_binary(kind)


def _others(files: list[Path], columns: Columns, first: Path, parquet: Any) -> dict[str, list[str]]:
    """Return the labels and the groups in some files, as texts."""
    found: dict[str, list[str]] = {"label": [], "group": []}
    named = {"label": columns.label, "group": columns.group}
    for file in files:
        with parquet.ParquetFile(file) as table:
            for kind, column in named.items():
                if column is None:
                    continue
                if column not in table.schema_arrow.names:
                    raise UserError(f"{file}: has no column '{column}', which {first} has")
                values = table.read([column]).column(0).to_pylist()
                if None in values:
                    raise UserError(f"{file}: row {values.index(None)} has no {kind}")
                found[kind] += [intern(str(value)) for value in values]
    return found


def _pictures(files: list[Path], columns: Columns, parquet: Any) -> Iterator[Source]:
    for file in files:
        row = 0
        with parquet.ParquetFile(file, **STREAMED) as table:
            for batch in table.iter_batches(BATCH, columns=[columns.image]):
                for value in batch.column(0).to_pylist():
                    content = value.get("bytes") if isinstance(value, dict) else value
                    if content is None:
                        raise UserError(
                            f"{file}: row {row} has no bytes; write the pictures themselves, not "
                            "their paths"
                        )
                    yield f"{file} row {row}", content
                    row += 1


def _names(names: list[str], labels: list[str]) -> list[str]:
    """Return the names of the classes that are labels, which are places in `names`."""
    beyond = [label for label in labels if not (label.isdecimal() and int(label) < len(names))]
    if beyond:
        raise UserError(f"has the label {some(beyond)}; its {len(names)} names count from 0")
    return [names[int(label)] for label in labels]
